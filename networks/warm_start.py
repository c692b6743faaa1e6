"""A supernet that begins with the weights of a trained network, or of another supernet."""

import os
from typing import Any

import torch
from torch import nn

from msunas_timm.chains import corner
from networks.checkpoints import load_weights
from networks.configs import check_config, config_family, read_config
from networks.supernets import build_from_config, build_supernet, plain_key, supernets_of
from search_space.base import Arch
from utils.errors import UserError


@torch.no_grad()
def fill_from_network(supernet: Any, config_path: str | os.PathLike,
                      weights: str | os.PathLike) -> Arch:
    """Gives a supernet the weights of a static network, which becomes the subnet of its shape.

    That subnet, cut out, computes what the network does; all else keeps its weights. A classifier
    for other classes is left out.

    Args:
        supernet: a new one: its kernel transforms must still be the identity.
        config_path: the network's `net.config`.
        weights: its weights.

    Returns:
        The subnet's architecture, without a resolution.

    Raises:
        UserError: unreadable files, or a network that is no subnet of the supernet.
    """
    config = read_config(config_path)
    if config_family(config).name != supernet.family:
        raise UserError(f"{config_path}: a network of the family {config_family(config).name}, but "
                        f"the supernet is of {supernet.family}")
    net = build_from_config(config)
    load_weights(net, weights)
    builder = supernets_of(supernet.family)
    try:
        arch = builder.arch(supernet, net.config)
        sources = builder.sources(supernet, arch)
        expected = check_config(builder.config(supernet, arch))
        if _without_classes(expected) != _without_classes(check_config(net.config)):
            raise ValueError("another network")
    except (ValueError, LookupError):
        raise UserError(f"{config_path}: no subnet of this supernet; its width must be that in "
                        "the name of --save, its kernels, expansions and depths among those of "
                        "the space") from None
    same_classes = net.classifier.out_features == supernet.classifier.out_features
    for name, module, _ in sources:
        if name != "classifier" or same_classes:
            _fill_corner(net.get_submodule(name), module)
    return arch


def with_classes(supernet: Any, n_classes: int) -> Any:
    """Returns the supernet with a new classifier of `n_classes`, drawn from torch's generator."""
    fresh = build_supernet(n_classes, supernet.width_mult, supernet.classifier.dropout_rate,
                           supernet.family)
    state = {key: tensor for key, tensor in supernet.state_dict().items()
             if not key.startswith("classifier.")}
    nn.Module.load_state_dict(fresh, state, strict=False)
    fresh.meta = supernet.meta
    return fresh


def _fill_corner(source: nn.Module, target: nn.Module) -> None:
    """Copies each tensor of a static module into the first channels of its elastic counterpart.

    A smaller kernel goes to the centre of the largest, from where it is cut.
    """
    given = source.state_dict()
    for key, tensor in target.state_dict().items():
        value = given.get(plain_key(key))
        if value is None:  # a kernel transform
            continue
        corner(tensor, value.shape).copy_(value)


def _without_classes(config: dict[str, Any]) -> dict[str, Any]:
    """Returns what two networks must share: all but batch norm's settings and the classifier."""
    return {key: value for key, value in config.items() if key not in ("bn", "classifier")}
