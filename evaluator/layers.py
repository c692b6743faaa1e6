"""Layers: of a whole space, of a `net.config` file, and as modules of torch."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from networks import configs
from networks.families import Part
from search_space import SearchSpace
from search_space.layers import POOL, Layer

if TYPE_CHECKING:
    from torch import nn

MAX_RESOLUTION = 4096


def space_layers(space: SearchSpace, n_classes: int = 1000,
                 width_mult: float = 1.0) -> list[Layer]:
    """Returns every distinct layer that the networks of a space can contain.

    Raises:
        UserError: the space does not list the layers of its networks.
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
    config = configs.read_config(path)
    used = configs.choose_resolution(resolution, configs.recorded_resolution(config), str(path))
    return config_layers(config, used), used


def config_layers(config: dict[str, Any], resolution: int) -> list[Layer]:
    """Returns the layers of a `net.config` dict, of either naming, at an input of `resolution` px.

    Raises:
        UserError: the dict describes no valid network.
    """
    config = configs.check_config(config)
    if configs.config_family(config).of_timm:
        return configs.config_space(config, resolution).layers(
            {**config["arch"], "r": resolution}, config["classifier"]["out_features"])
    layers: list[Layer] = []
    for part in configs.config_family(config).parts:
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
        name = part.key  # what latency tables call it
        if part.many:
            name = "first_conv" if index == 0 else "stem_residual" if skip else "stem_conv"
        return Layer("conv", name, size, conv["in_channels"], conv["out_channels"],
                     conv["kernel_size"], conv["stride"], act=conv["act_func"], se=conv["use_se"],
                     skip=skip, bn=conv["use_bn"], bias=conv["bias"])
    ends = conv["in_channels"], conv["out_channels"]
    if conv["name"] == "ResNetBottleneckBlock":
        return Layer("bottleneck", "Bottleneck", size, *ends, conv["kernel_size"], conv["stride"],
                     conv["expand_ratio"], configs.mid_channels(conv), conv["act_func"],
                     skip=conv["stride"] == 1 and ends[0] == ends[1])
    return Layer("mbconv", "MBConv", size, *ends, conv["kernel_size"], conv["stride"],
                 conv["expand_ratio"], configs.mid_channels(conv), conv["act_func"],
                 conv["use_se"], skip)


def build_module(layer: Layer) -> "nn.Module":
    """Returns a layer with random weights, made of the layers of the `ofa` package."""
    from ofa.utils import MyGlobalAvgPool2d
    from ofa.utils import layers as ofa
    from torch import nn

    x = layer

    def residual(module: nn.Module) -> nn.Module:
        shortcut = ofa.IdentityLayer(x.in_channels, x.out_channels) if x.skip else None
        return ofa.ResidualBlock(module, shortcut)

    def conv() -> nn.Module:
        module = ofa.ConvLayer(x.in_channels, x.out_channels, x.kernel, x.stride, bias=x.bias,
                               use_se=x.se, use_bn=x.bn, act_func=x.act)
        return residual(module) if x.skip else module

    builders = {
        "conv": conv,
        "mbconv": lambda: residual(ofa.MBConvLayer(
            x.in_channels, x.out_channels, x.kernel, x.stride, x.expand, x.mid, x.act, x.se)),
        "bottleneck": lambda: ofa.ResNetBottleneckBlock(
            x.in_channels, x.out_channels, x.kernel, x.stride, x.expand, x.mid, x.act),
        "block": lambda: _build_block(x),
        "max_pool": lambda: nn.MaxPool2d(x.kernel, x.stride, padding=x.kernel // 2),
        "pool": lambda: MyGlobalAvgPool2d(keep_dim=True),
        "mean": lambda: nn.AdaptiveAvgPool2d(1),
        "linear": lambda: ofa.LinearLayer(x.in_channels, x.out_channels, x.bias, x.bn, x.act),
    }
    return builders[x.kind]()


def _build_block(layer: Layer) -> "nn.Module":
    """Returns a run of convolutions, made of the layers of timm."""
    from ofa.utils.layers import IdentityLayer, ResidualBlock
    from timm.layers import BatchNormAct2d, create_act_layer, create_conv2d
    from timm.models._efficientnet_blocks import SqueezeExcite
    from torch import nn

    modules: list[nn.Module] = []
    for x in layer.parts:
        act = x.act or "identity"
        modules.append(create_conv2d(x.in_channels, x.out_channels, x.kernel, stride=x.stride,
                                     padding="same" if x.same else "", groups=x.groups,
                                     bias=x.bias))
        modules.append(BatchNormAct2d(x.out_channels, act_layer=act) if x.bn
                       else create_act_layer(act))
        if x.se:
            modules.append(SqueezeExcite(x.out_channels, rd_channels=x.squeeze))
    shortcut = IdentityLayer(layer.in_channels, layer.out_channels) if layer.skip else None
    return ResidualBlock(nn.Sequential(*modules), shortcut)


def build_network(layers: Sequence[Layer]) -> "nn.Module":
    """Returns the network of all `layers` with random weights; its last layer is linear."""
    from torch import nn

    modules = [build_module(layer) for layer in layers]
    return nn.Sequential(*modules[:-1], nn.Flatten(), modules[-1])


def input_shape(layer: Layer, batch_size: int = 1) -> tuple[int, ...]:
    """Returns the shape of what a layer takes."""
    image = () if layer.kind == "linear" else (layer.size, layer.size)
    return (batch_size, layer.in_channels, *image)
