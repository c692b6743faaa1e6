"""Once-for-All supernets of every family: build, load, and cut subnets out of them."""

import os
from functools import cache
from typing import Any

import torch
from torch import nn

from msunas_timm.chains import corner
from networks.base import Supernets
from networks.checkpoints import Checkpoint, load_state, read_checkpoint
from networks.configs import ORIGINAL_SPACE, Config, check_config, config_family
from networks.families import FAMILIES, family_of_state, get_family
from networks.static import StaticNetwork, WithoutInit
from networks.supernet_info import SupernetInfo, check_supernet_exists
from search_space.base import Arch
from utils.errors import UserError
from utils.registry import TIMM, load_class


@cache
def supernets_of(family: str) -> Supernets:
    """Returns what builds and cuts the supernets of a family; see `networks.families`.

    Raises:
        UserError: no such family.
    """
    builder: type[Supernets] = load_class({}, get_family(family).supernets, "supernets", Supernets)
    return builder.named(family)


def build_supernet(n_classes: int, width_mult: float = 1.0, dropout: float = 0.1,
                   family: str = "mbv3") -> Any:
    """Returns a supernet with random weights, in train mode, its largest subnet active.

    Its choices are those of the family's search space. Source: Once for All (Cai et al., 2020).

    Args:
        n_classes: outputs of the classifier.
        width_mult: multiplier of all widths.
        dropout: rate in front of the classifier.
        family: a row of `networks.families.FAMILIES`.

    Returns:
        A supernet of the `ofa` package, with `family` and `width_mult`, and `meta`, what its
        checkpoint records of its training: empty here.

    Raises:
        UserError: no such family.
    """
    supernet = supernets_of(family).build(n_classes, width_mult, dropout)
    supernet.family, supernet.width_mult, supernet.meta = family, width_mult, {}
    return supernet


def load_supernet(path: str | os.PathLike, n_classes: int | None = None,
                  family: str | None = None) -> Any:
    """Loads a supernet checkpoint of either key naming; returns it in eval mode, on the CPU.

    The width multiplier is the one in the checkpoint, else the `w1.2` of the file's name,
    1.0 where it has none.

    Args:
        path: the checkpoint.
        n_classes: what the classifier must have; None takes what it has.
        family: the one that it must be of, a row of `networks.families.FAMILIES`; None takes the
            one of the tensors' names.

    Returns:
        As `build_supernet`; `meta` is what `train_supernet.py` wrote of the training.

    Raises:
        UserError: no safe, complete supernet checkpoint, or of another width, class count or
            family.
    """
    check_supernet_exists(path)
    checkpoint = read_checkpoint(path)
    family = _family_of(checkpoint, family, path)
    classes, width = supernets_of(family).shape(
        checkpoint.state, path, SupernetInfo.of(checkpoint.meta).width)
    if n_classes not in (None, classes):
        raise UserError(f"{path}: the classifier has {classes} classes, not {n_classes}; pass the "
                        "class count that the supernet was trained with")
    with WithoutInit():
        supernet = build_supernet(classes, width, 0.0, family)
    load_state(supernet, checkpoint.state, str(path))
    supernet.meta = checkpoint.meta
    return supernet.eval()


def build_from_config(config: Config, drop_path_rate: float = 0.0,
                      dropout_rate: float | None = None) -> StaticNetwork:
    """Returns the static network of the family that `config["name"]` names.

    Arguments and errors are those of `StaticNetwork.build_from_config`.
    """
    network = supernets_of(config_family(check_config(config)).name).network
    return network.build_from_config(config, drop_path_rate, dropout_rate)


def _family_of(checkpoint: Checkpoint, wanted: str | None, path: str | os.PathLike) -> str:
    """Returns the family of a supernet, which must be the one that is wanted."""
    found = family_of_state(checkpoint.state) or checkpoint.family
    known = wanted in FAMILIES or (wanted or "").startswith(TIMM)
    if known and found not in (None, wanted):
        raise UserError(f"{path}: a supernet of the family {found}, not {wanted}; give "
                        f"--search_space {found}, or another supernet")
    return wanted or found or ORIGINAL_SPACE


def subnet_config(supernet: Any, arch: Arch) -> Config:
    """Returns the network config of the subnet `arch`, checked; changes nothing."""
    return check_config(supernets_of(supernet.family).config(supernet, arch))


def activate(supernet: Any, arch: Arch) -> None:
    """Makes `arch` the subnet that a forward pass of the supernet, in training, runs."""
    supernets_of(supernet.family).activate(supernet, arch)


@torch.no_grad()
def cut_subnet(supernet: Any, arch: Arch) -> StaticNetwork:
    """Returns the subnet `arch` as a static network of its own, with the supernet's weights.

    The supernet is only read: neither its active subnet nor its mode counts or changes, so several
    threads may cut at once. The result is in eval mode, on the supernet's device, and shares no
    memory with it. Its BN statistics are the supernet's and belong to other channels: recompute
    them with `recalibrate_bn` before measuring accuracy.
    """
    builder = supernets_of(supernet.family)
    with WithoutInit():
        subnet = builder.network.build_from_config(builder.config(supernet, arch))
    subnet.to(next(supernet.parameters()).device)
    for name, module, kernel in builder.sources(supernet, arch):
        target: Any = subnet.get_submodule(name)
        _copy_corner(module, target)
        if kernel is not None:  # the depthwise ones, transformed to a smaller size
            weight = target.depth_conv.conv.weight
            weight.copy_(module.depth_conv.conv.get_active_filter(len(weight), kernel))
    return subnet.eval()


def plain_key(key: str) -> str:
    """Returns the name in a static module of a tensor in its elastic counterpart.

    Elastic modules wrap the plain ones: `conv.conv.weight` there is `conv.weight` here.
    """
    for part in ("conv", "bn", "linear"):
        key = f".{key}".replace(f".{part}.{part}.", f".{part}.")[1:]
    return key


def _copy_corner(source: nn.Module, target: nn.Module) -> None:
    """Copies to each tensor of `target` its part of its elastic counterpart."""
    full = {plain_key(key): tensor for key, tensor in source.state_dict().items()}
    for key, tensor in target.state_dict().items():
        tensor.copy_(corner(full[key], tensor.shape))
