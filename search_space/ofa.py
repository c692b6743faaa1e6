"""The Once-for-All MobileNetV3 space: 5 stages of 2-4 layers, kernel, expansion, resolution.

Other spaces of inverted residuals differ in their backbone alone: see `search_space.proxyless`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from search_space.backbones import MOBILENET_V3, Backbone
from search_space.base import Arch
from search_space.choices import Choice, ChoiceSpace, Genes
from search_space.layers import POOL, Layer, Slot
from search_space.values import check_supernet, chosen
from utils.errors import UserError

DEFAULT_RESOLUTIONS = tuple(range(192, 257, 4))


@dataclass(frozen=True)
class SupernetLayers:
    """The layers that the subnets of one supernet can have.

    Attributes:
        backbone: the fixed part of the supernet.
        n_classes: outputs of the classifier.
        width_mult: the multiplier of all widths.
    """

    backbone: Backbone
    n_classes: int = 1000
    width_mult: float = 1.0

    def __post_init__(self) -> None:
        check_supernet(self.n_classes, self.width_mult)

    def body(self, resolution: int) -> tuple[Layer, ...]:
        """Returns the two fixed layers before the first stage at an input of `resolution` px."""
        b, width = self.backbone, self._width
        stem = Layer("conv", "first_conv", resolution, 3, width(b.stem_width), 3, 2,
                     act=b.stem_act)
        channels = width(b.first.width)
        first = Layer("mbconv", "MBConv", stem.out_size, stem.out_channels, channels, 3,
                      b.first.stride, 1, stem.out_channels, b.first.act, b.first.se,
                      skip=b.first.stride == 1 and stem.out_channels == channels)
        return stem, first

    def block(self, stage: int, position: int, kernel: int, expand: int, size: int) -> Layer:
        """Returns an elastic layer: number `position` of `stage`, its input `size` px wide."""
        stages = self.backbone.blocks
        row, first = stages[stage], position == 0
        previous = stages[stage - 1] if stage else self.backbone.first
        out_channels = self._width(row.width)
        in_channels = self._width(previous.width) if first else out_channels
        stride = row.stride if first else 1
        return Layer("mbconv", "MBConv", size, in_channels, out_channels, kernel, stride, expand,
                     in_channels * expand, row.act, row.se,
                     skip=stride == 1 and in_channels == out_channels)

    def head(self, size: int) -> tuple[Layer, ...]:
        """Returns the fixed layers after the last stage, which gives maps of `size` px."""
        b, width = self.backbone, self._width
        last, mixed = width(b.blocks[-1].width), width(b.feature_mix)
        classifier = Layer("linear", "classifier", 1, mixed, self.n_classes, bn=False, bias=True)
        if b.final_expand is None:
            return (Layer("conv", "feature_mix_layer", size, last, mixed, act=b.head_act),
                    Layer("pool", POOL, size, mixed, mixed), classifier)
        expanded = width(b.final_expand)
        return (Layer("conv", "final_expand_layer", size, last, expanded, act=b.head_act),
                Layer("pool", POOL, size, expanded, expanded),
                Layer("conv", "feature_mix_layer", 1, expanded, mixed, act=b.head_act, bn=False),
                classifier)

    def stage_sizes(self, resolution: int) -> list[int]:
        """Returns the input size of each stage, then that of the head, in pixels."""
        sizes = [self.body(resolution)[-1].out_size]
        for stage in self.backbone.blocks:
            sizes.append(-(-sizes[-1] // stage.stride))
        return sizes

    def _width(self, base: int) -> int:
        return self.backbone.width(base, self.width_mult)


class OFASearchSpace(ChoiceSpace):
    """Architectures `{"ks": [...], "e": [...], "d": [d1..d5], "r": int}`.

    `ks` (kernel sizes) and `e` (expansion ratios) hold one entry for each of the `sum(d)` layers.
    The encoding (NSGANetV2, Section 3.1) has, for each stage, `[depth index, 4 kernel indices,
    4 expansion indices]`, then the resolution index: 46 integers.

    Args:
        resolutions: the input resolutions in pixels, ascending.
        seed: seeds the generator that `sample` and `initialize` use where none is passed.
    """

    name = "mbv3"
    keys = ("ks", "e", "d", "r")
    family: ClassVar[str | None] = "mbv3"
    backbone: ClassVar[Backbone] = MOBILENET_V3

    def __init__(self, resolutions: Sequence[int] = DEFAULT_RESOLUTIONS, seed: int = 0) -> None:
        self.num_blocks = len(self.backbone.stages)
        self.kernel_size = [3, 5, 7]
        self.exp_ratio = [3, 4, 6]
        self.depth = [2, 3, 4]
        self._rng = np.random.default_rng(seed)
        super().__init__(resolutions)

    def sample(self, n_samples: int = 1, nb: int | None = None, ks: Sequence[int] | None = None,
               e: Sequence[int] | None = None, d: Sequence[int] | None = None,
               r: Sequence[int] | None = None, *,
               rng: np.random.Generator | None = None) -> list[Arch]:
        """Draws architectures uniformly: depths, then kernels, expansions, resolution.

        Args:
            n_samples: how many; duplicates can occur.
            nb: the number of stages; kept for the original's signature, only 5 is possible.
            ks, e, d, r: the kernel sizes, expansions, depths and resolutions to choose from.
            rng: the generator; without one the space's own is used.

        Raises:
            UserError: a choice that the space does not have.
        """
        if nb not in (None, self.num_blocks):
            raise UserError(f"the space {self.name} has {self.num_blocks} stages, not {nb}")
        rng = self._rng if rng is None else rng
        extra = len(self.backbone.blocks) - self.num_blocks
        depths = chosen("depth", self.depth, d)
        kernels = chosen("kernel size", self.kernel_size, ks)
        expansions = chosen("expansion ratio", self.exp_ratio, e)
        resolutions = chosen("resolution", self.resolutions, r)
        archs = []
        for _ in range(n_samples):
            depth = rng.choice(depths, self.num_blocks).tolist()
            archs.append({"ks": rng.choice(kernels, sum(depth) + extra).tolist(),
                          "e": rng.choice(expansions, sum(depth) + extra).tolist(),
                          "d": depth, "r": int(rng.choice(resolutions))})
        return archs

    def initialize(self, n_doe: int, *, rng: np.random.Generator | None = None) -> list[Arch]:
        """See `SearchSpace.initialize`; without `rng` the space's own generator is used."""
        return super().initialize(n_doe, rng=self._rng if rng is None else rng)

    def describe(self, arch: Arch) -> str:
        """Returns one line: the resolution, then kernel and expansion of the layers by stage."""
        choices = iter(zip(arch["ks"], arch["e"], strict=True))
        stages = [" ".join("k{}e{}".format(*next(choices)) for _ in range(depth))
                  for depth in [*arch["d"], *([1] if self.backbone.single else [])]]
        return f"{arch['r']} px: {' | '.join(stages)}"

    def summary(self, arch: Arch) -> dict[str, int | float | str]:
        """Returns the resolution and the number of elastic layers."""
        return {"resolution": arch["r"], "layers": len(arch["ks"])}

    def slots(self, n_classes: int = 1000, width_mult: float = 1.0) -> list[Slot]:
        """See `SearchSpace.slots`: the stem and first layer, 20 elastic layers, the head."""
        net = SupernetLayers(self.backbone, n_classes, width_mult)
        sizes = [net.stage_sizes(r) for r in self.resolutions]
        last = self.n_var - 1
        return [self._slot((), lambda genes: net.body(self.resolutions[genes[last]])),
                *(self._layer_slot(net, *layer, sizes) for layer in zip(
                    self.by_key["ks"], self.by_key["e"], strict=True)),
                self._slot((), lambda genes: net.head(sizes[genes[last]][-1]))]

    def _layer_slot(self, net: SupernetLayers, kernel: Choice, expansion: Choice,
                    sizes: list[list[int]]) -> Slot:
        """Returns the slot of one elastic layer; `sizes` are the stages' inputs by resolution."""
        stage = kernel.stage + (kernel.place > 0)  # later layers see the stage's output size

        def build(genes: Genes) -> tuple[Layer, ...]:
            return (net.block(kernel.stage, kernel.place, kernel.pick(genes),
                              expansion.pick(genes), sizes[genes[self.n_var - 1]][stage]),)

        return self._slot((kernel, expansion), build, kernel.needs)

    def _all_choices(self) -> list[Choice]:
        """Returns, for each stage, its depth, its kernels, its expansions."""
        choices = []
        for i in range(len(self.backbone.blocks)):
            stage, single = f"stage {i + 1}", i == self.num_blocks
            if not single:
                choices.append(Choice("d", i, tuple(self.depth), f"{stage}: depth",
                                      f"{stage} depth"))
            choices += [Choice(key, i, tuple(options), f"{stage}, layer {place + 1}: {kind}",
                               f"{stage} {kind}", place)
                        for key, kind, options in (("ks", "kernel", self.kernel_size),
                                                   ("e", "expansion", self.exp_ratio))
                        for place in range(1 if single else max(self.depth))]
        return choices
