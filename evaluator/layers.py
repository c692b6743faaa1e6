"""The layers of a whole space, and those of a `net.config` file."""

import os
from typing import Any

from networks.configs import check_config, mid_channels, read_config
from search_space import SearchSpace
from search_space.layers import POOL, Layer

# The layers between the blocks and the classifier, for each `name` a net.config can have.
HEADS = {
    "MobileNetV3": ("final_expand_layer", POOL, "feature_mix_layer"),
    "ProxylessNASNets": ("feature_mix_layer", POOL),
}
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


def read_config_layers(path: str | os.PathLike, resolution: int) -> tuple[list[Layer], int]:
    """Reads a `net.config` file; returns its layers and the resolution used.

    The file's own `img_size` or `resolution` goes before the argument.

    Raises:
        UserError: the file is missing or damaged, or describes no valid network.
    """
    config = read_config(path)
    used: int = config.get("img_size") or config.get("resolution") or resolution
    return config_layers(config, used), used


def config_layers(config: dict[str, Any], resolution: int) -> list[Layer]:
    """Returns the layers of a `net.config` dict, of either naming, at an input of `resolution` px.

    Raises:
        UserError: the dict describes no valid network.
    """
    config = check_config(config)
    layers = [_conv_layer("first_conv", config["first_conv"], resolution)]
    for block in config["blocks"]:
        layers.append(_block_layer(block, layers[-1].out_size))
    for part in HEADS[config["name"]]:
        size, channels = layers[-1].out_size, layers[-1].out_channels
        if part == POOL:
            layers.append(Layer("pool", POOL, size, channels, channels))
        elif config[part] is not None:  # ProxylessNASNets may lack the feature mix
            layers.append(_conv_layer(part, config[part], size))
    linear = config["classifier"]
    layers.append(Layer("linear", "classifier", 1, linear["in_features"], linear["out_features"],
                        bn=False, bias=linear["bias"]))
    return layers


def _conv_layer(name: str, conv: dict[str, Any], size: int) -> Layer:
    return Layer("conv", name, size, conv["in_channels"], conv["out_channels"],
                 conv["kernel_size"], conv["stride"], act=conv["act_func"], se=conv["use_se"],
                 bn=conv["use_bn"], bias=conv["bias"])


def _block_layer(block: dict[str, Any], size: int) -> Layer:
    conv = block["conv"]
    return Layer("mbconv", "MBConv", size, conv["in_channels"], conv["out_channels"],
                 conv["kernel_size"], conv["stride"], conv["expand_ratio"], mid_channels(conv),
                 conv["act_func"], conv["use_se"], skip=block["shortcut"] is not None)
