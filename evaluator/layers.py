"""A network as a list of `Layer` rows: what costs, latency tables and their builder share."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from search_space import Arch, SearchSpace
from search_space.backbones import Backbone
from utils.errors import UserError
from utils.files import read_json

ACTIVATIONS = ("relu", "relu6", "h_swish", "h_sigmoid", "sigmoid", "tanh", None)
POOL = "global_avg_pool"
# The layers after the blocks, for each `name` a net.config can have.
HEADS = {
    "MobileNetV3": ("final_expand_layer", POOL, "feature_mix_layer", "classifier"),
    "NSGANetV2": ("final_expand_layer", POOL, "feature_mix_layer", "classifier"),
    "ProxylessNASNets": ("feature_mix_layer", POOL, "classifier"),
}
SUBNET_WIDTHS = (0.1, 10.0)
MAX_CHANNELS, MAX_KERNEL, MAX_STRIDE, MAX_RESOLUTION, MAX_EXPAND = 65536, 31, 8, 4096, 64
MAX_CLASSES = 1_000_000


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
        groups: of a `conv`; an `mbconv` is depthwise in the middle.
    """

    kind: str
    name: str
    size: int
    in_channels: int
    out_channels: int
    kernel: int = 1
    stride: int = 1
    expand: int = 1
    mid: int = 0
    act: str | None = None
    se: bool = False
    skip: bool = False
    bn: bool = True
    bias: bool = False
    groups: int = 1

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
    "mbconv": lambda x: (f"{_conv_key(x)}-expand:{x.expand}-kernel:{x.kernel}-stride:{x.stride}"
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
        low, high = SUBNET_WIDTHS
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
        UserError: the file is missing or damaged, or describes no network that we can count.
    """
    config = read_json(path, "net.config file")
    try:
        for name in ("img_size", "resolution"):
            if config.get(name) is not None:
                resolution = _integer(config, name, "the config", 8, MAX_RESOLUTION)
                break
        return config_layers(config, resolution), resolution
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def config_layers(config: dict[str, Any], resolution: int) -> list[Layer]:
    """Returns the layers of a `net.config` dict at an input of `resolution` px.

    Old and new names of the blocks are read.

    Raises:
        UserError: a missing key, a wrong type or range, channels that do not fit together.
    """
    name = config.get("name")
    if not isinstance(name, str) or name not in HEADS:
        raise UserError(f"'name' of a net.config is one of {', '.join(HEADS)}, "
                        f"not {str(name)[:60]!r}")
    blocks = config.get("blocks")
    if not isinstance(blocks, list) or not 1 <= len(blocks) <= 1000:
        raise UserError("'blocks' of a net.config must be a list of 1 to 1000 blocks")
    layers = [_conv_layer(config, "first_conv", resolution)]
    if layers[0].in_channels != 3:
        raise UserError(f"first_conv: an image has 3 channels, not {layers[0].in_channels}")
    for index, block in enumerate(blocks):
        layers += _block_layers(block, f"blocks.{index}", layers[-1])
    for part in HEADS[name]:
        layers += _head_layers(config, part, layers[-1])
    return layers


def _head_layers(config: dict, part: str, before: Layer) -> Iterator[Layer]:
    if part == POOL:
        yield Layer("pool", POOL, before.out_size, before.out_channels, before.out_channels)
    elif part == "classifier":
        yield _follows(_linear_layer(config, part), before)
    elif part in config and config[part] is None:  # ProxylessNASNets allow for its absence
        return
    else:
        yield _follows(_conv_layer(config, part, before.out_size), before)


def _block_layers(block: Any, place: str, before: Layer) -> Iterator[Layer]:
    if not isinstance(block, dict):
        raise UserError(f"{place} must be a dict, not {type(block).__name__}")
    key = "mobile_inverted_conv" if "mobile_inverted_conv" in block else "conv"
    conv = block.get(key)
    if key in block and (conv is None or isinstance(conv, dict) and conv.get("name") ==
                         "ZeroLayer"):
        return
    shortcut = block.get("shortcut")
    if shortcut is not None and not isinstance(shortcut, dict):
        raise UserError(f"{place}.shortcut must be a dict or null")
    skip = shortcut is not None and shortcut.get("name") != "ZeroLayer"
    yield _follows(_mbconv_layer(block, key, place, before.out_size, skip), before)


def _mbconv_layer(block: dict, key: str, place: str, size: int, skip: bool) -> Layer:
    conv, place = _section(block, key, place), f"{place}.{key}"
    inputs, outputs = (_integer(conv, k, place, 1, MAX_CHANNELS)
                       for k in ("in_channels", "out_channels"))
    expand = _number(conv, "expand_ratio", place, 1, MAX_EXPAND)
    mid = inputs if conv.get("mid_channels") is None and expand == 1 else round(inputs * expand)
    if conv.get("mid_channels") is not None:
        mid = _integer(conv, "mid_channels", place, 1, MAX_CHANNELS)
    if expand == 1 and mid != inputs:
        raise UserError(f"{place}: with expand_ratio 1 mid_channels is in_channels, not {mid}")
    if conv.get("groups") not in (None, mid):
        raise UserError(f"{place}: only depthwise convolutions are counted, groups must be null")
    stride = _integer(conv, "stride", place, 1, MAX_STRIDE)
    if skip and (stride != 1 or inputs != outputs):
        raise UserError(f"{place}: a shortcut needs stride 1 and as many outputs as inputs")
    return Layer("mbconv", "MBConv", size, inputs, outputs, _kernel(conv, place), stride,
                 int(expand) if expand == int(expand) else expand, mid, _act(conv, place),
                 _flag(conv, "use_se", place, False), skip)


def _conv_layer(config: dict, part: str, size: int) -> Layer:
    conv = _section(config, part, "the config")
    inputs, outputs = (_integer(conv, k, part, 1, MAX_CHANNELS)
                       for k in ("in_channels", "out_channels"))
    groups = math.gcd(inputs, _integer(conv, "groups", part, 1, MAX_CHANNELS, 1))
    if _integer(conv, "dilation", part, 1, MAX_KERNEL, 1) != 1 or outputs % groups:
        raise UserError(f"{part}: dilated or unevenly grouped convolutions are not counted")
    return Layer("conv", part, size, inputs, outputs, _kernel(conv, part),
                 _integer(conv, "stride", part, 1, MAX_STRIDE, 1), act=_act(conv, part),
                 se=_flag(conv, "use_se", part, False), bn=_flag(conv, "use_bn", part, True),
                 bias=_flag(conv, "bias", part, False), groups=groups)


def _linear_layer(config: dict, part: str) -> Layer:
    linear = _section(config, part, "the config")
    return Layer("linear", part, 1, _integer(linear, "in_features", part, 1, MAX_CHANNELS),
                 _integer(linear, "out_features", part, 1, MAX_CLASSES), act=_act(linear, part),
                 bn=_flag(linear, "use_bn", part, False), bias=_flag(linear, "bias", part, True))


def _follows(layer: Layer, before: Layer) -> Layer:
    if layer.in_channels != before.out_channels:
        raise UserError(f"a {layer.name} takes {layer.in_channels} channels, but the "
                        f"{before.name} before it gives {before.out_channels}")
    return layer


def _section(config: dict, key: str, place: str) -> dict:
    if not isinstance(config.get(key), dict):
        raise UserError(f"{place} must have a dict {key!r}")
    return config[key]


def _number(config: dict, key: str, place: str, low: int, high: int,
            default: int | None = None) -> int | float:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UserError(f"{place}: {key!r} must be {low}..{high}, not {str(value)[:60]!r}")
    return value


def _integer(config: dict, key: str, place: str, low: int, high: int,
             default: int | None = None) -> int:
    value = _number(config, key, place, low, high, default)
    if value != int(value):
        raise UserError(f"{place}: {key!r} must be a whole number, not {value}")
    return int(value)


def _kernel(config: dict, place: str) -> int:
    kernel = _integer(config, "kernel_size", place, 1, MAX_KERNEL)
    if kernel % 2 == 0:
        raise UserError(f"{place}: 'kernel_size' must be odd, not {kernel}")
    return kernel


def _act(config: dict, place: str) -> str | None:
    act = config.get("act_func")
    act = None if act == "none" else act
    if act is not None and (not isinstance(act, str) or act not in ACTIVATIONS):
        known = ", ".join(name for name in ACTIVATIONS if name)
        raise UserError(f"{place}: 'act_func' is one of {known}, none, not {str(act)[:60]!r}")
    return act


def _flag(config: dict, key: str, place: str, default: bool) -> bool:
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise UserError(f"{place}: {key!r} must be true or false, not {str(value)[:60]!r}")
    return value
