"""The layers of a whole space, and those of a `net.config` file."""

import os
from typing import Any

from networks.configs import (
    check_config,
    choose_resolution,
    config_family,
    mid_channels,
    read_config,
    recorded_resolution,
)
from networks.families import Part
from search_space import SearchSpace
from search_space.layers import POOL, Layer

MAX_RESOLUTION = 4096


def space_layers(space: SearchSpace, n_classes: int = 1000,
                 width_mult: float = 1.0) -> list[Layer]:
    """Returns every distinct layer that the networks of a space can contain.

    Raises:
        UserError: the space does not say which layers its networks have.
    """
    return list(dict.fromkeys(layer for slot in space.slots(n_classes, width_mult)
                              for option in slot.options(space.lower, space.upper)
                              for layer in option))


def read_config_layers(path: str | os.PathLike,
                       resolution: int | None) -> tuple[list[Layer], int]:
    """Reads a `net.config` file; returns its layers and the resolution used.

    Args:
        path: the file.
        resolution: in pixels; None takes the file's own.

    Raises:
        UserError: the file is missing or damaged, or describes no valid network.
    """
    config = read_config(path)
    used = choose_resolution(resolution, recorded_resolution(config), str(path))
    return config_layers(config, used), used


def config_layers(config: dict[str, Any], resolution: int) -> list[Layer]:
    """Returns the layers of a `net.config` dict, of either naming, at an input of `resolution` px.

    Raises:
        UserError: the dict describes no valid network.
    """
    config = check_config(config)
    layers: list[Layer] = []
    for part in config_family(config).parts:
        value: Any = config.get(part.key)
        for index, block in enumerate(value if part.many else [value]):
            if block is not None or not part.layers:
                size, channels = (layers[-1].out_size, layers[-1].out_channels) if layers \
                    else (resolution, 3)
                layers.append(_layer(part, index, block, size, channels))
    return layers


def _layer(part: Part, index: int, block: Any, size: int, channels: int) -> Layer:
    """Returns one layer; `size` and `channels` are those of its input, `block` its config."""
    if not part.layers:
        return Layer("pool", POOL, size, channels, channels) if part.key == POOL \
            else Layer("max_pool", "max_pool", size, channels, channels, 3, 2)
    if block["name"] == "LinearLayer":
        return Layer("linear", part.key, 1, block["in_features"], block["out_features"], bn=False,
                     bias=block["bias"])
    conv = block["conv"] if block["name"] == "ResidualBlock" else block
    skip = block is not conv and block["shortcut"] is not None
    if conv["name"] == "ConvLayer":
        return _conv_layer(_stem_name(index, skip) if part.many else part.key, conv, size, skip)
    ends = conv["in_channels"], conv["out_channels"]
    if conv["name"] == "ResNetBottleneckBlock":
        return Layer("bottleneck", "Bottleneck", size, *ends, conv["kernel_size"], conv["stride"],
                     conv["expand_ratio"], mid_channels(conv), conv["act_func"],
                     skip=conv["stride"] == 1 and ends[0] == ends[1])
    return Layer("mbconv", "MBConv", size, *ends, conv["kernel_size"], conv["stride"],
                 conv["expand_ratio"], mid_channels(conv), conv["act_func"], conv["use_se"], skip)


def _stem_name(index: int, skip: bool) -> str:
    """Returns what latency tables call a convolution in a stem of several."""
    if index == 0:
        return "first_conv"
    return "stem_residual" if skip else "stem_conv"


def _conv_layer(name: str, conv: dict[str, Any], size: int, skip: bool) -> Layer:
    return Layer("conv", name, size, conv["in_channels"], conv["out_channels"],
                 conv["kernel_size"], conv["stride"], act=conv["act_func"], se=conv["use_se"],
                 skip=skip, bn=conv["use_bn"], bias=conv["bias"])
