"""The spaces `timm:NAME`: a network of timm and all smaller ones within it.

Any network of timm that is a chain of convolutions and inverted residuals is a space (which ones
are, is found by looking at their blocks: `msunas_timm.chains`). Its subnets have fewer blocks in a
stage, from the end; smaller kernels; and fewer hidden channels in a block.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from search_space.backbones import make_divisible
from search_space.base import Arch, Gene, SearchSpace
from search_space.layers import Layer, Slot
from search_space.values import (
    check_keys,
    check_supernet,
    checked_resolutions,
    entries,
    position,
)
from utils.errors import UserError
from utils.registry import TIMM

if TYPE_CHECKING:
    from msunas_timm.chains import Block, Chain, Conv, Size

DEFAULT_RESOLUTIONS = tuple(range(128, 257, 32))
# Percent of a block's hidden channels, and the part that this stands for.
PARTS = {50: 1 / 2, 67: 2 / 3, 100: 1.0}

ORDINALS = ("first ", "second ", "third ")

Genes = Mapping[int, int] | Sequence[int]


@cache
def chain_of(name: str) -> "Chain":
    """Returns what the network of `timm:NAME` consists of; loads timm, and so torch.

    Raises:
        UserError: timm knows no such model, or it is no chain of known blocks.
    """
    model = name.removeprefix(TIMM)
    if not re.fullmatch(r"\w+", model):
        raise UserError(f"{name}: the name of a model of timm has letters, digits and _ alone")
    import timm

    from msunas_timm.chains import NotAChainError, read_chain

    if not timm.is_model(model):
        raise UserError(f"{name}: timm {timm.__version__} knows no model {model}; try "
                        f"{TIMM}tf_efficientnet_lite0, {TIMM}mobilenetv3_large_100")
    try:
        return read_chain(model)
    except NotAChainError as error:
        raise UserError(f"{name}: no chain of inverted residuals: {error}") from None


@cache
def timm_space(name: str) -> "type[TimmSearchSpace]":
    """Returns the class of the space `timm:NAME`; what timm knows is asked by its instances."""
    return type("TimmSearchSpace", (TimmSearchSpace,), {
        "__doc__": TimmSearchSpace.__doc__, "name": name, "family": name})


@dataclass(frozen=True)
class Choice:
    """One number of an architecture: of a stage (`d`), or of a block (`ks`, `e`), or `r`.

    Attributes:
        key: of the architecture that it stands under.
        stage, place: its stage, and the place of its block in it.
        options: the possible values, ascending; with one alone there is no gene.
        name: for people.
        gene: its position in the vector, or None.
    """

    key: str
    stage: int
    place: int
    options: tuple[int, ...]
    name: str
    gene: int | None = None

    def pick(self, genes: Genes) -> int:
        """Returns the value that positions, by gene, choose."""
        return self.options[0 if self.gene is None else genes[self.gene]]


@dataclass(frozen=True)
class Place:
    """A block of the whole network.

    Attributes:
        number: in the network.
        place: in its stage.
        block: what stands there.
        depth, kernels, part: the choices about it; `part` is None without hidden channels.
        stride: of all that comes before it.
    """

    number: int
    place: int
    block: "Block"
    depth: Choice
    kernels: tuple[Choice, ...]
    part: Choice | None
    stride: int

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Those about the block itself."""
        return (*self.kernels, *([self.part] if self.part else []))

    def used(self, genes: Genes) -> bool:
        """Whether the block is within the depth of its stage."""
        return self.place < self.depth.pick(genes)

    def size(self, genes: Genes) -> tuple[list[int], int]:
        """Returns the kernels of all its convolutions, and its hidden channels."""
        chosen = iter([choice.pick(genes) for choice in self.kernels])
        kernels = [next(chosen) if conv.kernel > 1 else 1 for conv in self.block.convs]
        return kernels, part_of(self.block.mid, self.part.pick(genes)) if self.part else 0


class TimmSearchSpace(SearchSpace):
    """Architectures `{"d": [...], "ks": [...], "e": [...], "r": int}` of a network of timm.

    `d` has the number of blocks of each stage. Of the blocks that are used, `ks` has the size of
    each kernel above 1 x 1, and `e`, for those with hidden channels, how many percent of them: 100,
    67 (two thirds) or 50, rounded as timm rounds channels. A stage can lose blocks from its end
    that keep width and size; a kernel is the network's or a smaller odd one, 3 or more.

    The encoding has a gene for each number with a choice: depth, then kernels and expansion of each
    block, stage by stage; then the resolution.

    Args:
        resolutions: the input resolutions in pixels, ascending.
    """

    options: ClassVar[tuple[str, ...]] = ("resolutions",)

    def __init__(self, resolutions: Sequence[int] = DEFAULT_RESOLUTIONS) -> None:
        self.resolutions = checked_resolutions(resolutions)
        self.chain = chain_of(self.name)
        if self.resolutions[0] < self._stride:
            raise UserError(f"{self.name} reduces images {self._stride} times: a resolution of "
                            f"{self.resolutions[0]} is too small, take {self._stride} or more")
        self._choices = _numbered(self._all_choices())
        self.places = self._all_places()
        self._genes = self._all_genes()
        self.upper = np.array([len(gene.values) - 1 for gene in self._genes])
        self.lower = np.zeros_like(self.upper)

    @property
    def model(self) -> str:
        """The name of the network in timm."""
        return self.name.removeprefix(TIMM)

    @property
    def genes(self) -> tuple[Gene, ...]:
        """What each integer stands for."""
        return self._genes

    def encode(self, arch: Arch) -> np.ndarray:
        """Returns the canonical vector; raises UserError for an invalid arch."""
        check_keys(arch, ("d", "ks", "e", "r"))
        x = np.zeros(self.n_var, dtype=int)
        depths = [choice for choice in self._choices if choice.key == "d"]
        values = entries(arch, "d", len(depths))
        for choice, value in zip(depths, values, strict=True):
            _set(x, choice, value)
        for key in ("ks", "e"):
            used = [choice for choice in self._choices
                    if choice.key == key and choice.place < values[choice.stage]]
            for choice, value in zip(used, entries(arch, key, len(used)), strict=True):
                _set(x, choice, value)
        _set(x, self._choices[-1], arch["r"])
        return x

    def decode(self, x: np.ndarray) -> Arch:
        """Returns the architecture of a vector; raises UserError for an invalid vector."""
        genes = self.check(x).tolist()
        arch: Arch = {"d": [], "ks": [], "e": []}
        for choice in self._choices:
            value = choice.pick(genes)
            if choice.key == "r":
                arch["r"] = value
            elif choice.key == "d" or choice.place < arch["d"][choice.stage]:
                arch[choice.key].append(value)
        return arch

    def sizes(self, arch: Arch) -> "list[Size]":
        """Returns the blocks of an architecture, whose resolution does not matter.

        Raises:
            UserError: it is no architecture of the space.
        """
        from msunas_timm.chains import Size

        genes = self.encode({**arch, "r": self.resolutions[0]}).tolist()
        return [Size(place.number, *place.size(genes)) for place in self.places
                if place.used(genes)]

    def describe(self, arch: Arch) -> str:
        """Returns one line: the resolution, then kernels and percent of the blocks by stage."""
        genes = self.encode(arch).tolist()
        stages: list[list[str]] = [[] for _ in arch["d"]]
        for place in self.places:
            if place.used(genes):
                kernels = "+".join(str(choice.pick(genes)) for choice in place.kernels) or "1"
                part = f"e{place.part.pick(genes)}" if place.part else ""
                stages[place.block.stage].append(f"k{kernels}{part}")
        return f"{arch['r']} px: {' | '.join(map(' '.join, stages))}"

    def summary(self, arch: Arch) -> dict[str, int | float | str]:
        """Returns the resolution and the number of blocks."""
        return {"resolution": arch["r"], "layers": sum(arch["d"])}

    # ------------------------------------------------------------------------------- layers

    def slots(self, n_classes: int = 1000, width_mult: float = 1.0) -> list[Slot]:
        """See `SearchSpace.slots`: the stem, the blocks, the head."""
        check_supernet(n_classes, width_mult)
        if width_mult != 1:
            raise UserError(f"{self.name} has the widths of its network: at a width multiplier of "
                            f"{width_mult} its costs are unknown")
        chain, r, stem = self.chain, self.n_var - 1, self.chain.stem

        def head(resolution: int) -> tuple[Layer, ...]:
            size, classifier = self._pixels(resolution, self._stride), Layer(
                "linear", "classifier", 1, chain.features, n_classes, bn=False, bias=True)
            before = [_layer("conv_head", size, [chain.head])] if chain.head else []
            channels = (before[-1] if before else last).out_channels
            behind = [_layer("conv_head", 1, [chain.pooled_head])] if chain.pooled_head else []
            return (*before, Layer("mean", "global_avg_pool", size, channels, channels), *behind,
                    classifier)

        last = chain.blocks[-1].convs[-1]
        return [Slot((r,), lambda index: (_layer("conv_stem", self.resolutions[index], [stem]),)),
                *(self._slot(place) for place in self.places), Slot((r,), head)]

    def _slot(self, place: Place) -> Slot:
        deciding = [] if place.place < place.depth.options[0] else [place.depth]
        genes = [choice.gene for choice in (*deciding, *place.choices, self._choices[-1])
                 if choice.gene is not None]

        def build(*values: int) -> tuple[Layer, ...]:
            chosen = dict(zip(genes, values, strict=True))
            if deciding and not place.used(chosen):
                return ()
            kernels, mid = place.size(chosen)
            return (_layer(place.block.kind, self._pixels(values[-1], place.stride),
                           resized(place.block, kernels, mid), mid, place.block.skip),)

        return Slot(tuple(genes), build)

    def _pixels(self, resolution: int, stride: int) -> int:
        """Returns the size of a map behind strides of 2; the quotients round up, and so do both."""
        return -(-self.resolutions[resolution] // stride)

    @property
    def _stride(self) -> int:
        """How many times the network makes an image smaller."""
        return self.chain.stem.stride * prod(
            conv.stride for block in self.chain.blocks for conv in block.convs)

    # ------------------------------------------------------------------------------ encoding

    def _all_choices(self) -> list[Choice]:
        choices = []
        for stage, blocks in enumerate(self._stages()):
            name = f"stage {stage + 1}"
            needed = max((i for i, block in enumerate(blocks) if not _optional(block)), default=0)
            choices.append(Choice("d", stage, 0, tuple(range(needed + 1, len(blocks) + 1)),
                                  f"{name}: depth"))
            for place, block in enumerate(blocks):
                layer = f"{name}, layer {place + 1}"
                spatial = [conv.kernel for conv in block.convs if conv.kernel > 1]
                choices += [Choice("ks", stage, place, tuple(range(3, kernel + 1, 2)),
                                   f"{layer}: {ORDINALS[i] if len(spatial) > 1 else ''}kernel")
                            for i, kernel in enumerate(spatial)]
                if block.mid:
                    choices.append(Choice("e", stage, place, _percents(block.mid),
                                          f"{layer}: expansion"))
        return [*choices, Choice("r", len(self._stages()), 0, tuple(self.resolutions),
                                 "resolution")]

    def _all_places(self) -> list[Place]:
        places: list[Place] = []
        stride = self.chain.stem.stride
        for stage, blocks in enumerate(self._stages()):
            own = [choice for choice in self._choices if choice.stage == stage]
            for i, block in enumerate(blocks):
                about = [choice for choice in own if choice.place == i and choice.key != "d"]
                places.append(Place(len(places), i, block, own[0],
                                    tuple(c for c in about if c.key == "ks"),
                                    next((c for c in about if c.key == "e"), None), stride))
                stride *= prod(conv.stride for conv in block.convs)
        return places

    def _stages(self) -> "list[list[Block]]":
        blocks = self.chain.blocks
        return [[block for block in blocks if block.stage == stage]
                for stage in range(blocks[-1].stage + 1)]

    def _all_genes(self) -> tuple[Gene, ...]:
        """Returns the genes; those about a block that a stage can lose need a stage that has it."""
        needs = {choice.gene: (place.depth.gene, place.place + 1 - place.depth.options[0])
                 for place in self.places for choice in place.choices
                 if place.depth.gene is not None and place.place >= place.depth.options[0]}
        return tuple(_gene(choice, needs.get(choice.gene)) for choice in self._choices
                     if choice.gene is not None)


def part_of(mid: int, percent: int) -> int:
    """Returns so many percent of hidden channels, rounded as timm rounds channels."""
    return mid if percent == 100 else make_divisible(mid * PARTS[percent])


def resized(block: "Block", kernels: Sequence[int], mid: int) -> "list[Conv]":
    """Returns the convolutions of a block with other kernels and hidden channels."""
    first, last = block.full
    found = []
    for i, (conv, kernel) in enumerate(zip(block.convs, kernels, strict=True)):
        inputs = mid if first < i <= last else conv.in_channels
        outputs = mid if first <= i < last else conv.out_channels
        found.append(conv._replace(in_channels=inputs, out_channels=outputs, kernel=kernel,
                                   groups=inputs if conv.groups > 1 else 1))
    return found


def _percents(mid: int) -> tuple[int, ...]:
    """Returns the percents that give different numbers of hidden channels, ascending."""
    found = {part_of(mid, percent): percent for percent in sorted(PARTS, reverse=True)
             if part_of(mid, percent) <= mid}
    return tuple(sorted(found.values()))


def _optional(block: "Block") -> bool:
    """Whether the network still fits together without the block."""
    ends = block.convs[0].in_channels, block.convs[-1].out_channels
    return ends[0] == ends[1] and all(conv.stride == 1 for conv in block.convs)


def _layer(name: str, size: int, convs: "Sequence[Conv]", mid: int = 0,
           skip: bool = False) -> Layer:
    """Returns a run of convolutions as one layer, its input `size` px wide."""
    parts: list[Layer] = []
    for conv in convs:
        at = parts[-1].out_size if parts else size
        parts.append(Layer("conv", name, at, se=conv.squeeze > 0, **conv._asdict()))
    first, last = parts[0], parts[-1]
    return Layer("block", name, size, first.in_channels, last.out_channels,
                 max(part.kernel for part in parts), prod(part.stride for part in parts),
                 round(mid / first.in_channels, 3) if mid else 1, mid,
                 next((part.act for part in parts if part.act), None),
                 any(part.se for part in parts), skip, bn=first.bn, bias=first.bias,
                 parts=tuple(parts))


def _set(x: np.ndarray, choice: Choice, value: Any) -> None:
    """Writes the position of a value; raises UserError where it is none of the options."""
    index = position(choice.key, value, choice.options)
    if choice.gene is not None:
        x[choice.gene] = index


def _numbered(choices: Sequence[Choice]) -> list[Choice]:
    """Gives genes to the choices that have more than one option, and to the resolution."""
    free = [choice for choice in choices if len(choice.options) > 1 or choice.key == "r"]
    genes = {id(choice): i for i, choice in enumerate(free)}
    return [Choice(c.key, c.stage, c.place, c.options, c.name, genes.get(id(c)))
            for c in choices]


def _gene(choice: Choice, needs: tuple[int, int] | None) -> Gene:
    """Returns the gene of a choice; genes of one group have the same values."""
    values, kind = "/".join(map(str, choice.options)), choice.name.split()[-1]
    group = choice.name if choice.key == "r" else f"stage {choice.stage + 1}, {values}: {kind}"
    return Gene(choice.name, choice.options, group, needs=needs)
