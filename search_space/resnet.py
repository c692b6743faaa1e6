"""The Once-for-All ResNet50 space: elastic depth, expansion and width of a ResNet50-D."""

from collections.abc import Sequence
from typing import ClassVar

from search_space.backbones import make_divisible
from search_space.base import Arch
from search_space.choices import Choice, ChoiceSpace, Genes
from search_space.layers import POOL, Layer, Slot
from search_space.values import check_supernet

# Those that the accuracy predictor of the OFA authors knows.
DEFAULT_RESOLUTIONS = (128, 144, 160, 176, 192, 224, 240, 256)
STEM_WIDTH = 64
STAGE_WIDTHS = (256, 512, 1024, 2048)
STRIDES = (1, 2, 2, 2)
BASE_DEPTHS = (2, 2, 4, 2)
STEM_DEPTHS = (0, 2)
# The resolution's gene stands behind those of the stem (-1) and of the stages.
STEM, END = -1, len(STAGE_WIDTHS)


class ResNetSearchSpace(ChoiceSpace):
    """Architectures `{"d": [...], "e": [...], "w": [...], "r": int}`.

    `d`, `e`, `w` are those of `OFAResNets.sample_active_subnet` in the `ofa` package. `d` has the
    stem's depth (0 skips its middle layer, 2 keeps it), then how many blocks each of the 4 stages
    has beyond 2, 2, 4, 2. `e` has the expansion of each of the 18 blocks, also of those beyond a
    stage's depth, which have no influence. `w` has indices of the width multiplier: of the stem's
    two widths, and of the 4 stages.

    The encoding has 30 integers, all of them indices: depth and two widths of the stem; for each
    stage depth, width, expansions; the resolution.

    Args:
        resolutions: the input resolutions in pixels, ascending.
    """

    name = "resnet50"
    keys = ("d", "e", "w", "r")
    lists_unused = True
    family: ClassVar[str | None] = "resnet50"

    def __init__(self, resolutions: Sequence[int] = DEFAULT_RESOLUTIONS) -> None:
        self.depth = [0, 1, 2]
        self.exp_ratio = [0.2, 0.25, 0.35]
        self.width = [0.65, 0.8, 1.0]
        super().__init__(resolutions)

    def describe(self, arch: Arch) -> str:
        """Returns one line: the resolution, the stem, then width and expansions by stage."""
        widths = [f"w{self.width[index]:g}" for index in arch["w"]]
        stem = f"stem {widths[0]} {widths[1]}{'' if arch['d'][0] else ' skip'}"
        stages = [" ".join([width, *(f"e{ratio:g}" for ratio in ratios)])
                  for width, ratios in zip(widths[2:], self._used(arch), strict=True)]
        return f"{arch['r']} px: {' | '.join([stem, *stages])}"

    def summary(self, arch: Arch) -> dict[str, int | float | str]:
        """Returns the resolution and the number of blocks."""
        return {"resolution": arch["r"], "layers": sum(map(len, self._used(arch)))}

    def _used(self, arch: Arch) -> list[list[float]]:
        """Returns the expansions of the blocks that an architecture uses, by stage."""
        ratios = iter(arch["e"])
        stages = [[next(ratios) for _ in range(base + max(self.depth))] for base in BASE_DEPTHS]
        return [stage[:base + beyond] for stage, base, beyond in
                zip(stages, BASE_DEPTHS, arch["d"][1:], strict=True)]

    def slots(self, n_classes: int = 1000, width_mult: float = 1.0) -> list[Slot]:
        """See `SearchSpace.slots`: the stem, 18 blocks, the head.

        DEVIATION resnet-width: the package has no further width multiplier; here it multiplies all
        widths.
        """
        check_supernet(n_classes, width_mult)
        last = self.n_var - 1
        stem, widths = (self.by_key["d"][0], *self.by_key["w"][:2]), self.by_key["w"][1:]

        def head(genes: Genes) -> tuple[Layer, ...]:
            channels = self._channels(END - 1, widths[-1].pick(genes), width_mult)
            return (Layer("pool", POOL, self._size(END, genes[last]), channels, channels),
                    Layer("linear", "classifier", 1, channels, n_classes, bn=False, bias=True))

        return [self._slot(stem, lambda genes: self._stem(
                    genes[last], width_mult, *(choice.pick(genes) for choice in stem))),
                *(self._block_slot(block, widths, width_mult) for block in self.by_key["e"]),
                self._slot(widths[-1:], head)]

    def _stem(self, resolution: int, width_mult: float, depth: int, first: int,
              last: int) -> tuple[Layer, ...]:
        mid = make_divisible(self._channels(STEM, first, width_mult) // 2)
        out, pixels = self._channels(STEM, last, width_mult), self.resolutions[resolution]
        conv = Layer("conv", "first_conv", pixels, 3, mid, 3, 2, act="relu")
        middle = Layer("conv", "stem_residual", conv.out_size, mid, mid, 3, act="relu", skip=True)
        return (conv, *([middle] if depth else []),
                Layer("conv", "stem_conv", conv.out_size, mid, out, 3, act="relu"),
                Layer("max_pool", "max_pool", conv.out_size, out, out, 3, 2))

    def _block_slot(self, block: Choice, widths: Sequence[Choice], width_mult: float) -> Slot:
        """Returns the slot of a block; `widths` are those of the stem and the stages."""
        stage = block.stage
        first = block.place == -BASE_DEPTHS[stage]
        before, width = widths[stage if first else stage + 1], widths[stage + 1]

        def build(genes: Genes) -> tuple[Layer, ...]:
            outputs = self._channels(stage, width.pick(genes), width_mult)
            inputs = self._channels(stage - first, before.pick(genes), width_mult)
            stride = STRIDES[stage] if first else 1
            size = self._size(stage if first else stage + 1, genes[self.n_var - 1])
            ratio = block.pick(genes)
            return (Layer("bottleneck", "Bottleneck", size, inputs, outputs, 3, stride, ratio,
                          make_divisible(round(outputs * ratio)), "relu",
                          skip=stride == 1 and inputs == outputs),)

        return self._slot([*([before] if first else []), width, block], build, block.needs)

    def _channels(self, stage: int, index: int, width_mult: float) -> int:
        """Returns the output channels of the stem or a stage at one of the widths."""
        base = STEM_WIDTH if stage == STEM else STAGE_WIDTHS[stage]
        return make_divisible(base * (self.width[index] * width_mult))

    def _size(self, stage: int, resolution: int) -> int:
        """Returns the input size of a stage in pixels; at `END`, that of the head."""
        size = self.resolutions[resolution]
        for stride in (2, 2, *STRIDES[:stage]):
            size = -(-size // stride)
        return size

    def _all_choices(self) -> list[Choice]:
        """Returns depth and widths of the stem; for each stage depth, width, expansions.

        A block's place counts from those that every network has.
        """
        widths, meanings = tuple(range(len(self.width))), tuple(self.width)
        choices = [Choice("d", STEM, STEM_DEPTHS, "stem: depth", "stem depth"),
                   Choice("w", STEM, widths, "stem: first width", "stem width", values=meanings),
                   Choice("w", STEM, widths, "stem: width", "stem width", values=meanings)]
        for i, base in enumerate(BASE_DEPTHS):
            stage = f"stage {i + 1}"
            choices += [Choice("d", i, tuple(self.depth), f"{stage}: depth", f"{stage} depth"),
                        Choice("w", i, widths, f"{stage}: width", f"{stage} width",
                               values=meanings)]
            choices += [Choice("e", i, tuple(self.exp_ratio),
                               f"{stage}, layer {place + 1}: expansion", f"{stage} expansion",
                               place - base) for place in range(base + max(self.depth))]
        return choices
