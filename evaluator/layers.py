"""A network as a list of `Layer` rows: what costs, latency tables and their builder share."""

import os
from dataclasses import dataclass
from typing import Any

from networks.configs import check_config, mid_channels, read_config
from search_space import Arch, SearchSpace
from search_space.backbones import Backbone
from utils.errors import UserError

POOL = "global_avg_pool"
# The layers between the blocks and the classifier, for each `name` a net.config can have.
HEADS = {
    "MobileNetV3": ("final_expand_layer", POOL, "feature_mix_layer"),
    "ProxylessNASNets": ("feature_mix_layer", POOL),
}
WIDTH_MULTIPLIERS = (0.1, 10.0)
MAX_RESOLUTION, MAX_CLASSES = 4096, 100_000


@dataclass(frozen=True)
class Layer:
    """One layer of a network at a fixed input size.

    Attributes:
        kind: `conv`, `mbconv` (inverted residual), `pool` (global average) or `linear`.
        name: its place in the network, as latency tables call it: `first_conv`, `MBConv`,
            `final_expand_layer`, `feature_mix_layer`, `classifier`, `global_avg_pool`.
        size: height and width of its input in pixels.
        in_channels, out_channels: channels (features, where `kind` is `linear`).
        expand, mid: of an `mbconv`, the nominal expansion and the channels that it makes.
        skip: whether the input is added to the output.
        bn, bias: whether a `conv` or `linear` has batch normalisation, a bias.
    """

    kind: str
    name: str
    size: int
    in_channels: int
    out_channels: int
    kernel: int = 1
    stride: int = 1
    expand: float = 1
    mid: int = 0
    act: str | None = None
    se: bool = False
    skip: bool = False
    bn: bool = True
    bias: bool = False

    @property
    def out_size(self) -> int:
        """Height and width of the output: the padding is "same", so the quotient rounds up."""
        return 1 if self.kind in ("pool", "linear") else -(-self.size // self.stride)

    @property
    def key(self) -> str | None:
        """The layer's entry in a latency table, None for the pooling, which has no entry."""
        return _KEYS[self.kind](self)


def _conv_key(layer: Layer) -> str:
    return (f"{layer.name}-input:{layer.size}x{layer.size}x{layer.in_channels}"
            f"-output:{layer.out_size}x{layer.out_size}x{layer.out_channels}")


_KEYS = {
    "conv": _conv_key,
    "mbconv": lambda x: (f"{_conv_key(x)}-expand:{x.expand:g}-kernel:{x.kernel}-stride:{x.stride}"
                         f"-idskip:{x.skip:d}-se:{x.se:d}"),
    "pool": lambda x: None,
    "linear": lambda x: f"{x.name}-input:{x.in_channels}-output:{x.out_channels}",
}


@dataclass(frozen=True)
class Supernet:
    """The layers of every subnet of one supernet.

    Attributes:
        backbone: the fixed part of the supernet.
        n_classes: outputs of the classifier.
        width_mult: the multiplier of all widths.
    """

    backbone: Backbone
    n_classes: int = 1000
    width_mult: float = 1.0

    def __post_init__(self) -> None:
        low, high = WIDTH_MULTIPLIERS
        if not low <= self.width_mult <= high:
            raise UserError(f"a width multiplier lies in {low}..{high}, not {self.width_mult}")
        if not 1 <= self.n_classes <= MAX_CLASSES:
            raise UserError(f"n_classes must be 1..{MAX_CLASSES}, not {self.n_classes}")

    def body(self, resolution: int) -> list[Layer]:
        """Returns the two fixed layers before the first stage at an input of `resolution` px."""
        b, width = self.backbone, self._width
        stem = Layer("conv", "first_conv", resolution, 3, width(b.stem_width), 3, 2,
                     act=b.stem_act)
        channels = width(b.first.width)
        first = Layer("mbconv", "MBConv", stem.out_size, stem.out_channels, channels, 3,
                      b.first.stride, 1, stem.out_channels, b.first.act, b.first.se,
                      skip=b.first.stride == 1 and stem.out_channels == channels)
        return [stem, first]

    def block(self, stage: int, position: int, kernel: int, expand: int, size: int) -> Layer:
        """Returns an elastic layer: number `position` of `stage`, its input `size` px wide."""
        stages = self.backbone.stages
        row, first = stages[stage], position == 0
        previous = stages[stage - 1] if stage else self.backbone.first
        out_channels = self._width(row.width)
        in_channels = self._width(previous.width) if first else out_channels
        stride = row.stride if first else 1
        return Layer("mbconv", "MBConv", size, in_channels, out_channels, kernel, stride, expand,
                     in_channels * expand, row.act, row.se,
                     skip=stride == 1 and in_channels == out_channels)

    def head(self, size: int) -> list[Layer]:
        """Returns the fixed layers after the last stage, which gives maps of `size` px."""
        b, width = self.backbone, self._width
        last, expanded = width(b.stages[-1].width), width(b.final_expand)
        mixed = width(b.feature_mix)
        return [
            Layer("conv", "final_expand_layer", size, last, expanded, act=b.head_act),
            Layer("pool", POOL, size, expanded, expanded),
            Layer("conv", "feature_mix_layer", 1, expanded, mixed, act=b.head_act, bn=False),
            Layer("linear", "classifier", 1, mixed, self.n_classes, bn=False, bias=True),
        ]

    def stage_sizes(self, resolution: int) -> list[int]:
        """Returns the input size of each stage, then that of the head, in pixels."""
        sizes = [self.body(resolution)[-1].out_size]
        for stage in self.backbone.stages:
            sizes.append(-(-sizes[-1] // stage.stride))
        return sizes

    def _width(self, base: int) -> int:
        return self.backbone.width(base, self.width_mult)


def supernet_of(space: SearchSpace, n_classes: int = 1000, width_mult: float = 1.0) -> Supernet:
    """Returns the layers of a space's supernet; raises UserError where the space has none."""
    backbone = getattr(space, "backbone", None)
    if backbone is None:
        raise UserError(f"the search space {space.name} has no supernet, so its costs are unknown")
    return Supernet(backbone, n_classes, width_mult)


def arch_layers(space: SearchSpace, arch: Arch, n_classes: int = 1000,
                width_mult: float = 1.0) -> list[Layer]:
    """Returns the layers of one subnet, from the input to the classifier.

    Raises:
        UserError: `arch` does not belong to `space`, or the space has no supernet.
    """
    supernet = supernet_of(space, n_classes, width_mult)
    space.encode(arch)
    choices = iter(zip(arch["ks"], arch["e"], strict=True))
    layers = supernet.body(arch["r"])
    for stage, depth in enumerate(arch["d"]):
        for position in range(depth):
            layers.append(supernet.block(stage, position, *next(choices), layers[-1].out_size))
    return layers + supernet.head(layers[-1].out_size)


def space_layers(space: SearchSpace, n_classes: int = 1000,
                 width_mult: float = 1.0) -> list[Layer]:
    """Returns every distinct layer that the subnets of a space can contain."""
    supernet = supernet_of(space, n_classes, width_mult)
    found: dict[Layer, None] = {}
    for resolution in space.resolution:
        *sizes, head_size = supernet.stage_sizes(resolution)
        found.update(dict.fromkeys(supernet.body(resolution)))
        for stage, size in enumerate(sizes):
            for kernel in space.kernel_size:
                for expand in space.exp_ratio:
                    first = supernet.block(stage, 0, kernel, expand, size)
                    found[first] = None
                    found[supernet.block(stage, 1, kernel, expand, first.out_size)] = None
        found.update(dict.fromkeys(supernet.head(head_size)))
    return list(found)


def read_config_layers(path: str | os.PathLike, resolution: int) -> tuple[list[Layer], int]:
    """Reads a `net.config` file; returns its layers and the resolution used.

    The file's own `img_size` or `resolution` goes before the argument.

    Raises:
        UserError: the file is missing or damaged, or describes no valid network.
    """
    config = read_config(path)
    resolution = config.get("img_size", config.get("resolution", resolution))
    return config_layers(config, resolution), resolution


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
