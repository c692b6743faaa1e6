"""Folders that timm loads: a static network in the form of timm's own classes.

`hub/` holds `model.safetensors`, `config.json` and a `README.md`. With the package `msunas_timm`
imported, `timm.create_model("local-dir:hub", pretrained=True)` gives the same logits.
"""

import copy
import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from networks.configs import Config, check_config, config_family, config_space, mid_channels
from networks.preprocessing import Preprocessing
from utils.errors import UserError
from utils.files import atomic_path, own_folder, write_json, write_text
from utils.invocation import program

HUB = "hub"
CROP_RATIO = 0.875
# Of the largest logit: two libraries add in another order.
TOLERANCE = 1e-4

_ACTIVATIONS = {"relu": "nre", "relu6": "nr6", "h_swish": "nhs"}
_MODEL_ACTIVATIONS = {"relu": "relu", "relu6": "relu6", "h_swish": "hard_swish"}
# Why timm cannot build the networks of a family.
_NOT_IN_TIMM = {"ResNets": "its ResNet has one inner width for all blocks of a stage, and no "
                           "residual layer in the stem"}
_ARCHITECTURES = {"MobileNetV3": "nsganetv2", "ProxylessNASNets": "nsganetv2_proxyless"}


class TimmModel(NamedTuple):
    """A timm model: the name that `msunas_timm` registers, and the arguments that describe it."""

    architecture: str
    args: dict[str, Any]


def timm_model(config: Config) -> TimmModel:
    """Returns the timm model of a network config.

    Raises:
        UserError: timm's blocks cannot express the network.
    """
    config = check_config(config)
    if config_family(config).of_timm:
        space: Any = config_space(config)
        blocks = [list(size) for size in space.sizes(config["arch"])]
        return TimmModel("nsganetv2_chain", {
            "model": config["model"], "blocks": blocks,
            "bn_eps": config["bn"]["eps"], "bn_momentum": config["bn"]["momentum"]})
    if config["name"] not in _ARCHITECTURES:
        reason = _NOT_IN_TIMM.get(config["name"], "it has no such blocks")
        raise UserError(f"timm cannot build a {config['name']}: {reason}; hubconf.py loads it, and "
                        f"{program('scripts/export.py')} writes it for other runtimes")
    stem, head = config["first_conv"], config["feature_mix_layer"]
    stages = _stages(config)
    if config["name"] == "MobileNetV3":
        conv = config["final_expand_layer"]
        stages.append([f"cn_r1_k{conv['kernel_size']}_s{conv['stride']}_c{conv['out_channels']}_"
                       f"{_named(_ACTIVATIONS, conv['act_func'])}"])
    args = {"arch_def": stages, "stem_size": stem["out_channels"],
            "num_features": head["out_channels"] if head else 0,
            "act_layer": _named(_MODEL_ACTIVATIONS, stem["act_func"]),
            "bn_eps": config["bn"]["eps"], "bn_momentum": config["bn"]["momentum"]}
    return TimmModel(_ARCHITECTURES[config["name"]], args)


def to_timm(net: Any) -> nn.Module:
    """Returns the network as a timm model with the same weights, in eval mode, on the CPU.

    Raises:
        UserError: timm's blocks cannot express the network.
    """
    import timm

    import msunas_timm  # noqa: F401  registers the models

    model = timm_model(net.config)
    converted = timm.create_model(model.architecture, **model.args,
                                  num_classes=net.classifier.out_features).eval()
    converted.load_state_dict(_timm_state(net.state_dict(), converted.state_dict()))
    _check_equal(net, converted)
    return converted


def write_hub(net: Any, folder: str | os.PathLike, images: Preprocessing,
              card: str) -> None:
    """Writes `model.safetensors`, `config.json` and `README.md` into the folder, each atomically.

    The card and the config of older weights are removed first: whenever it is stopped, no card is
    next to other weights than its own, and timm finds no model.

    Args:
        net: a static network.
        folder: the folder, made where it is missing.
        images: what the network was tuned with.
        card: the text of the README.

    Raises:
        UserError: timm's blocks cannot express the network, or the folder is a link.
    """
    from safetensors.torch import save

    converted, folder = to_timm(net), own_folder(folder)
    state = {key: tensor.contiguous() for key, tensor in converted.state_dict().items()}
    withdraw(folder)
    with atomic_path(folder / "model.safetensors") as temporary:
        temporary.write_bytes(save(state, metadata={"format": "pt"}))
    write_text(folder / "README.md", card)
    write_json(folder / "config.json", hub_config(net, images), indent=2)


def withdraw(folder: str | os.PathLike) -> None:
    """Removes the card and the config of older weights, so that timm finds no model there.

    Raises:
        UserError: the folder is a link.
    """
    folder = own_folder(folder)
    for name in ("config.json", "README.md"):
        (folder / name).unlink(missing_ok=True)


def hub_config(net: Any, images: Preprocessing) -> dict[str, Any]:
    """Returns what timm reads from `config.json`."""
    model, n_classes = timm_model(net.config), net.classifier.out_features
    names = list(images.class_names)
    return {"architecture": model.architecture, "num_classes": n_classes,
            "num_features": net.classifier.in_features, "global_pool": "avg",
            "model_args": model.args, **({"label_names": names} if len(names) == n_classes else {}),
            "pretrained_cfg": {"num_classes": n_classes, **timm_preprocessing(images),
                               "pool_size": None, "first_conv": "conv_stem",
                               "classifier": "classifier", "license": "apache-2.0"}}


def timm_preprocessing(images: Preprocessing) -> dict[str, Any]:
    """Returns the transform in timm's words; its evaluation transform gives the same pixels.

    Raises:
        UserError: no such transform.
    """
    r = images.resolution
    shared = {"input_size": [3, r, r], "mean": list(images.mean or ()),
              "std": list(images.std or ())}
    if images.transform == "squash":
        return shared | {"crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bicubic"}
    if images.transform == "crop":
        # timm rounds down; half a pixel more keeps the division off the border between two sizes
        return shared | {"crop_pct": r / (math.ceil(r / CROP_RATIO) + 0.5), "crop_mode": "center",
                         "interpolation": "bilinear"}
    raise UserError(f"unknown evaluation transform {images.transform!r}; choose from crop, squash")


def _stages(config: Config) -> list[list[str]]:
    """Returns the block strings; a stage begins where the width or the resolution changes."""
    stages: list[list[str]] = []
    width = None
    for block in config["blocks"]:
        conv = block["conv"]
        if conv["stride"] > 1 or conv["out_channels"] != width:
            stages.append([])
        width = conv["out_channels"]
        stages[-1].append(_block_string(conv, block["shortcut"] is not None))
    return stages


def _block_string(conv: Config, skip: bool) -> str:
    """Returns an inverted residual layer as `ir_r1_k5_s2_e4_c40_se0.25_nre`."""
    kind = "ds" if conv["expand_ratio"] == 1 else "ir"
    expansion = mid_channels(conv) / conv["in_channels"]
    parts = [kind, "r1", f"k{conv['kernel_size']}", f"s{conv['stride']}", f"e{expansion:.6g}",
             f"c{conv['out_channels']}", *(["se0.25"] if conv["use_se"] else []),
             _named(_ACTIVATIONS, conv["act_func"])]
    could_skip = conv["stride"] == 1 and conv["in_channels"] == conv["out_channels"]
    return "_".join([*parts, *(["noskip"] if could_skip and not skip else [])])


def _named(names: Mapping[str, str], activation: str) -> str:
    if activation not in names:
        raise UserError(f"timm's blocks have no activation {activation!r}; known are "
                        f"{', '.join(names)}")
    return names[activation]


def _timm_state(state: Mapping[str, torch.Tensor],
                target: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the weights under timm's names: both libraries list them in the order of the layers.

    Raises:
        UserError: the shapes show that timm built another network.
    """
    if [t.shape for t in state.values()] != [t.shape for t in target.values()]:
        raise UserError("timm's blocks cannot express this network: a kernel, a width that is no "
                        "multiple of 8, or a part of the head differs")
    return {key: tensor.detach().cpu() for key, tensor in zip(target, state.values(), strict=True)}


def _check_equal(net: nn.Module, converted: nn.Module) -> None:
    """Raises UserError where the two networks differ in what has no weights: strides, shortcuts ...

    Such a folder must never be published. Batch norm uses the statistics of these images, so that
    untrained weights cannot hide a difference.
    """
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected, got = (_logits_of_copy(each, images) for each in (net, converted))
    difference = (got - expected).abs().max().item()
    if not difference <= TOLERANCE * max(1.0, expected.abs().max().item()):
        raise UserError(f"timm's blocks cannot express this network: its logits differ by "
                        f"{difference:.2g}")


@torch.no_grad()
def _logits_of_copy(net: nn.Module, images: torch.Tensor) -> torch.Tensor:
    copied = copy.deepcopy(net).cpu().eval()
    for module in copied.modules():
        if isinstance(module, _BatchNorm):
            module.train()
    return copied(images)
