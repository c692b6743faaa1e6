"""The Once-for-All ResNet50 space: elastic depth, expansion and width of a ResNet50-D."""

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from search_space.backbones import make_divisible
from search_space.base import Arch, Gene, SearchSpace
from search_space.layers import POOL, Layer, Slot
from search_space.values import (
    check_keys,
    check_supernet,
    checked_resolutions,
    entries,
    position,
    without_wrapping,
)

# Those that the accuracy predictor of the OFA authors knows.
DEFAULT_RESOLUTIONS = (128, 144, 160, 176, 192, 224, 240, 256)
STEM_WIDTH = 64
STAGE_WIDTHS = (256, 512, 1024, 2048)
STRIDES = (1, 2, 2, 2)
BASE_DEPTHS = (2, 2, 4, 2)
STEM_DEPTHS = [0, 2]
# The resolution's gene stands behind those of the stem (-1) and of the stages.
STEM, END = -1, len(STAGE_WIDTHS)


@dataclass(frozen=True)
class Bottleneck:
    """A block of the largest subnet: its stage, its place there, and its number in the network."""

    stage: int
    place: int
    number: int


@dataclass(frozen=True)
class _Entry:
    """One number of an architecture dict: where it stands, and what it can be."""

    key: str
    index: int
    options: list[Any]
    part: int  # STEM, a stage, or END
    name: str
    group: str


class ResNetSearchSpace(SearchSpace):
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
    options: ClassVar[tuple[str, ...]] = ("resolutions",)
    family: ClassVar[str | None] = "resnet50"

    def __init__(self, resolutions: Sequence[int] = DEFAULT_RESOLUTIONS) -> None:
        self.depth = [0, 1, 2]
        self.exp_ratio = [0.2, 0.25, 0.35]
        self.width = [0.65, 0.8, 1.0]
        self.resolutions = checked_resolutions(resolutions)
        places = [(stage, place) for stage, base in enumerate(BASE_DEPTHS)
                  for place in range(base + max(self.depth))]
        self.blocks = [Bottleneck(*place, number) for number, place in enumerate(places)]
        self._entries = sorted(self._all_entries(), key=lambda entry: entry.part)  # is stable
        self._gene = {(entry.key, entry.index): i for i, entry in enumerate(self._entries)}
        self.upper = np.array([len(entry.options) - 1 for entry in self._entries])
        self.lower = np.zeros_like(self.upper)

    @property
    def genes(self) -> tuple[Gene, ...]:
        """What each integer stands for; the expansion of a block needs a stage of that depth."""
        needs = {self._gene["e", block.number]:
                 (self._gene["d", 1 + block.stage], bisect(self.depth, beyond))
                 for block in self.blocks
                 if (beyond := block.place - BASE_DEPTHS[block.stage]) >= 0}
        values = {"w": tuple(self.width)}
        return tuple(Gene(entry.name, values.get(entry.key, tuple(entry.options)), entry.group,
                          needs=needs.get(i)) for i, entry in enumerate(self._entries))

    def encode(self, arch: Arch) -> np.ndarray:
        """Returns the canonical (30,) integer vector; raises UserError for an invalid arch."""
        arch = without_wrapping(arch)
        check_keys(arch, ("d", "e", "w", "r"))
        values = {key: entries(arch, key, length)
                  for key, length in (("d", 1 + END), ("e", len(self.blocks)), ("w", 2 + END))}
        values["r"] = [arch["r"]]
        x = np.array([position(entry.key, values[entry.key][entry.index], entry.options)
                      for entry in self._entries])
        return self.canonical(x[None])[0]

    def decode(self, x: np.ndarray) -> Arch:
        """Returns the architecture of a (30,) vector; raises UserError for an invalid vector.

        Expansions that are not used are the smallest.
        """
        genes = self.canonical(self.check(x)[None])[0].tolist()
        arch: Arch = {"d": [], "e": [], "w": []}
        for (key, _), i in sorted(self._gene.items()):
            value = self._entries[i].options[genes[i]]
            if key == "r":
                arch["r"] = value
            else:
                arch[key].append(value)
        return arch

    def choices(self, X: np.ndarray) -> dict[str, np.ndarray]:
        """Returns what (n, 30) vectors choose, in the order of architecture dicts.

        Returns:
            Indices by key: `d` (n, 5), `w` (n, 6), `e` (n, 18); `used` (n, 18), whether each block
            is there.
        """
        X = np.asarray(X)
        genes = {key: [self._gene[key, i] for i in range(length)]
                 for key, length in (("d", 1 + END), ("w", 2 + END), ("e", len(self.blocks)))}
        found = {key: X[:, positions] for key, positions in genes.items()}
        return found | {"used": self.active(X)[:, genes["e"]]}

    def resolutions_of(self, X: np.ndarray) -> np.ndarray:
        """Returns the input resolutions (n,) in pixels of (n, 30) vectors."""
        return np.array(self.resolutions)[np.asarray(X)[:, self._gene["r", 0]]]

    def describe(self, arch: Arch) -> str:
        """Returns one line: the resolution, the stem, then width and expansions by stage."""
        widths = [f"w{self.width[index]:g}" for index in arch["w"]]
        stem = f"stem {widths[0]} {widths[1]}{'' if arch['d'][0] else ' skip'}"
        stages = [" ".join([width, *(f"e{arch['e'][block.number]:g}" for block in blocks)])
                  for width, blocks in zip(widths[2:], self._used(arch), strict=True)]
        return f"{arch['r']} px: {' | '.join([stem, *stages])}"

    def summary(self, arch: Arch) -> dict[str, int | float | str]:
        """Returns the resolution and the number of blocks."""
        return {"resolution": arch["r"], "layers": sum(map(len, self._used(arch)))}

    def _used(self, arch: Arch) -> list[list[Bottleneck]]:
        """Returns the blocks that an architecture uses, by stage."""
        return [[block for block in self.blocks if block.stage == stage
                 and block.place < base + arch["d"][1 + stage]]
                for stage, base in enumerate(BASE_DEPTHS)]

    def slots(self, n_classes: int = 1000, width_mult: float = 1.0) -> list[Slot]:
        """See `SearchSpace.slots`: the stem, 18 blocks, the head.

        DEVIATION resnet-width: the package has no further width multiplier; here it multiplies all
        widths.
        """
        check_supernet(n_classes, width_mult)
        gene = self._gene
        stem = Slot((gene["d", 0], gene["w", 0], gene["w", 1], gene["r", 0]),
                    lambda d, w0, w1, r: self._stem(d, w0, w1, r, width_mult))

        def head(width: int, resolution: int) -> tuple[Layer, ...]:
            channels = self._channels(END - 1, width, width_mult)
            return (Layer("pool", POOL, self._size(END, resolution), channels, channels),
                    Layer("linear", "classifier", 1, channels, n_classes, bn=False, bias=True))

        return [stem, *(self._slot(block, width_mult) for block in self.blocks),
                Slot((gene["w", 1 + END], gene["r", 0]), head)]

    def _stem(self, depth: int, first: int, last: int, resolution: int,
              width_mult: float) -> tuple[Layer, ...]:
        mid = make_divisible(self._channels(STEM, first, width_mult) // 2)
        out, pixels = self._channels(STEM, last, width_mult), self.resolutions[resolution]
        conv = Layer("conv", "first_conv", pixels, 3, mid, 3, 2, act="relu")
        middle = Layer("conv", "stem_residual", conv.out_size, mid, mid, 3, act="relu", skip=True)
        return (conv, *([middle] if STEM_DEPTHS[depth] else []),
                Layer("conv", "stem_conv", conv.out_size, mid, out, 3, act="relu"),
                Layer("max_pool", "max_pool", conv.out_size, out, out, 3, 2))

    def _slot(self, block: Bottleneck, width_mult: float) -> Slot:
        stage, first = block.stage, block.place == 0

        def build(depth: int, before: int, width: int, expand: int,
                  resolution: int) -> tuple[Layer, ...]:
            if block.place >= BASE_DEPTHS[stage] + self.depth[depth]:
                return ()
            outputs = self._channels(stage, width, width_mult)
            inputs = self._channels(stage - 1, before, width_mult) if first else outputs
            stride = STRIDES[stage] if first else 1
            size = self._size(stage if first else stage + 1, resolution)
            ratio = self.exp_ratio[expand]
            return (Layer("bottleneck", "Bottleneck", size, inputs, outputs, 3, stride, ratio,
                          make_divisible(round(outputs * ratio)), "relu",
                          skip=stride == 1 and inputs == outputs),)

        gene = self._gene
        width, rest = gene["w", 2 + stage], (gene["e", block.number], gene["r", 0])
        if first:
            return Slot((gene["w", 1 + stage], width, *rest), lambda *values: build(0, *values))
        if block.place < BASE_DEPTHS[stage]:
            return Slot((width, *rest), lambda *values: build(0, 0, *values))
        return Slot((gene["d", 1 + stage], width, *rest),
                    lambda depth, *values: build(depth, 0, *values))

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

    def _all_entries(self) -> list[_Entry]:
        """Returns the numbers of an architecture dict: depths, then widths, then expansions."""
        stages = [f"stage {stage + 1}" for stage in range(END)]
        widths = list(range(len(self.width)))
        return [
            _Entry("d", 0, STEM_DEPTHS, STEM, "stem: depth", "stem depth"),
            *(_Entry("d", 1 + i, self.depth, i, f"{name}: depth", f"{name} depth")
              for i, name in enumerate(stages)),
            _Entry("w", 0, widths, STEM, "stem: first width", "stem width"),
            _Entry("w", 1, widths, STEM, "stem: width", "stem width"),
            *(_Entry("w", 2 + i, widths, i, f"{name}: width", f"{name} width")
              for i, name in enumerate(stages)),
            *(_Entry("e", block.number, self.exp_ratio, block.stage,
                     f"{stages[block.stage]}, layer {block.place + 1}: expansion",
                     f"{stages[block.stage]} expansion") for block in self.blocks),
            _Entry("r", 0, self.resolutions, END, "resolution", "resolution"),
        ]
