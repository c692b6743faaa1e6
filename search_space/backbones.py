"""The fixed part of each supernet (widths, strides, activations), read by spaces and costs."""

import os
import re
from dataclasses import dataclass

CHANNEL_DIVISOR = 8
SE_REDUCTION = 4


def make_divisible(value: float, divisor: int = CHANNEL_DIVISOR) -> int:
    """Returns the multiple of `divisor` nearest to `value` that is at least 90 % of it.

    Source: the rounding rule of MobileNetV3 (Howard et al., 2019), which OFA uses for every width.
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def squeeze_width(channels: int) -> int:
    """Returns the channels inside the squeeze-and-excite module of a map of `channels`."""
    return make_divisible(channels // SE_REDUCTION)


@dataclass(frozen=True)
class Stage:
    """A run of inverted-residual layers with one output width; the first layer has the stride."""

    width: int
    stride: int
    act: str
    se: bool


@dataclass(frozen=True)
class Backbone:
    """What all subnets of one supernet share. Widths are those at width multiplier 1.0.

    `first` is the fixed first layer (expansion 1, kernel 3); `stages` are those of elastic depth;
    `single` is one more elastic layer, where there is one. `final_expand` and `feature_mix` are the
    widths of the 1x1 convolutions before and after the pooling; without a `final_expand` the
    feature mix comes before the pooling.
    """

    name: str
    stem_width: int
    stem_act: str
    first: Stage
    stages: tuple[Stage, ...]
    final_expand: int | None
    feature_mix: int
    head_act: str
    single: Stage | None = None

    @property
    def blocks(self) -> tuple[Stage, ...]:
        """The stages, then the single layer."""
        return (*self.stages, *([self.single] if self.single else []))

    def width(self, base: int, multiplier: float) -> int:
        """Returns the channels of a layer of `base` channels under the width multiplier."""
        return make_divisible(base * multiplier)


# Cai et al., "Once for All" (ICLR 2020): MobileNetV3-Large with elastic stages.
MOBILENET_V3 = Backbone(
    name="MobileNetV3",
    stem_width=16,
    stem_act="h_swish",
    first=Stage(16, 1, "relu", se=False),
    stages=(
        Stage(24, 2, "relu", se=False),
        Stage(40, 2, "relu", se=True),
        Stage(80, 2, "h_swish", se=False),
        Stage(112, 1, "h_swish", se=True),
        Stage(160, 2, "h_swish", se=True),
    ),
    final_expand=960,
    feature_mix=1280,
    head_act="h_swish",
)

# Cai et al., "ProxylessNAS" (ICLR 2019), made elastic in "Once for All"; published at width 1.3.
PROXYLESS_NAS = Backbone(
    name="ProxylessNASNets",
    stem_width=32,
    stem_act="relu6",
    first=Stage(16, 1, "relu6", se=False),
    stages=(
        Stage(24, 2, "relu6", se=False),
        Stage(40, 2, "relu6", se=False),
        Stage(80, 2, "relu6", se=False),
        Stage(96, 1, "relu6", se=False),
        Stage(192, 2, "relu6", se=False),
    ),
    single=Stage(320, 1, "relu6", se=False),
    final_expand=None,
    feature_mix=1280,
    head_act="relu6",
)


def width_from_name(path: str | os.PathLike) -> float:
    """Returns the width multiplier in a checkpoint's name (`..._w1.2` -> 1.2); 1.0 without one."""
    found = re.findall(r"_w(\d+(?:\.\d+)?)(?=[._]|$)", os.path.basename(os.fspath(path)))
    return float(found[-1]) if found else 1.0
