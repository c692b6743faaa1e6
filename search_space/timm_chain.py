"""The spaces `timm:NAME`: a network of timm and all smaller ones within it.

Any network of timm that is a chain of convolutions and inverted residuals is a space (which ones
are, is found by looking at their blocks: `msunas_timm.chains`). Its subnets have fewer blocks in a
stage, from the end; smaller kernels; and fewer hidden channels in a block.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from math import prod
from typing import TYPE_CHECKING

from search_space.backbones import make_divisible
from search_space.base import Arch
from search_space.choices import Choice, ChoiceSpace, Genes, Needs, is_there
from search_space.layers import Layer, Slot
from search_space.values import check_supernet
from utils.errors import UserError
from utils.registry import TIMM

if TYPE_CHECKING:
    from msunas_timm.chains import Block, Chain, Conv, Size

DEFAULT_RESOLUTIONS = tuple(range(128, 257, 32))
# Percent of a block's hidden channels, and the part that this stands for.
PARTS = {50: 1 / 2, 67: 2 / 3, 100: 1.0}

ORDINALS = ("first ", "second ", "third ")


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
class Place:
    """A block of the whole network.

    Attributes:
        number: in the network.
        block: what stands there.
        choices: about it: a kernel for each one above 1 x 1, then the part of its hidden channels.
        needs: the depth of its stage, see `Gene.needs`.
        stride: of all that comes before it.
    """

    number: int
    block: "Block"
    choices: tuple[Choice, ...]
    needs: Needs
    stride: int

    def size(self, genes: Genes) -> tuple[list[int], int]:
        """Returns the kernels of all its convolutions, and its hidden channels."""
        chosen = iter([choice.pick(genes) for choice in self.choices])
        kernels = [next(chosen) if conv.kernel > 1 else 1 for conv in self.block.convs]
        return kernels, part_of(self.block.mid, next(chosen)) if self.block.mid else 0


class TimmSearchSpace(ChoiceSpace):
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

    keys = ("d", "ks", "e", "r")

    def __init__(self, resolutions: Sequence[int] = DEFAULT_RESOLUTIONS) -> None:
        self.chain = chain_of(self.name)
        super().__init__(resolutions)
        if self.resolutions[0] < self._stride:
            raise UserError(f"{self.name} reduces images {self._stride} times: a resolution of "
                            f"{self.resolutions[0]} is too small, take {self._stride} or more")
        self.places = self._all_places()

    @property
    def model(self) -> str:
        """The name of the network in timm."""
        return self.name.removeprefix(TIMM)

    def sizes(self, arch: Arch) -> "list[Size]":
        """Returns the blocks of an architecture, whose resolution does not matter.

        Raises:
            UserError: it is no architecture of the space.
        """
        from msunas_timm.chains import Size

        genes = self.encode({**arch, "r": self.resolutions[0]}).tolist()
        return [Size(place.number, *place.size(genes)) for place in self.places
                if is_there(place.needs, genes)]

    def describe(self, arch: Arch) -> str:
        """Returns one line: the resolution, then kernels and percent of the blocks by stage."""
        genes = self.encode(arch).tolist()
        stages: list[list[str]] = [[] for _ in arch["d"]]
        for place in self.places:
            if is_there(place.needs, genes):
                kernels, parts = ([str(choice.pick(genes)) for choice in place.choices
                                   if choice.key == key] for key in ("ks", "e"))
                stages[place.block.stage].append("e".join(["k" + ("+".join(kernels) or "1"),
                                                           *parts]))
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

        def head(genes: Genes) -> tuple[Layer, ...]:
            size, classifier = self._pixels(genes[r], self._stride), Layer(
                "linear", "classifier", 1, chain.features, n_classes, bn=False, bias=True)
            before = [_layer("conv_head", size, [chain.head])] if chain.head else []
            channels = (before[-1] if before else last).out_channels
            behind = [_layer("conv_head", 1, [chain.pooled_head])] if chain.pooled_head else []
            return (*before, Layer("mean", "global_avg_pool", size, channels, channels), *behind,
                    classifier)

        last = chain.blocks[-1].convs[-1]
        return [self._slot((), lambda genes: (
                    _layer("conv_stem", self.resolutions[genes[r]], [stem]),)),
                *(self._slot(place.choices, partial(self._block, place), place.needs)
                  for place in self.places), self._slot((), head)]

    def _block(self, place: Place, genes: Genes) -> tuple[Layer, ...]:
        kernels, mid = place.size(genes)
        return (_layer(place.block.kind, self._pixels(genes[self.n_var - 1], place.stride),
                       resized(place.block, kernels, mid), mid, place.block.skip),)

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
            choices.append(_choice("d", stage, tuple(range(needed + 1, len(blocks) + 1)),
                                   f"{name}: depth"))
            for place, block in enumerate(blocks):
                layer = f"{name}, layer {place + 1}"
                spatial = [conv.kernel for conv in block.convs if conv.kernel > 1]
                choices += [_choice("ks", stage, tuple(range(3, kernel + 1, 2)),
                                    f"{layer}: {ORDINALS[i] if len(spatial) > 1 else ''}kernel",
                                    place) for i, kernel in enumerate(spatial)]
                if block.mid:
                    choices.append(_choice("e", stage, _percents(block.mid),
                                           f"{layer}: expansion", place))
        return choices

    def _all_places(self) -> list[Place]:
        places: list[Place] = []
        stride = self.chain.stem.stride
        for stage, blocks in enumerate(self._stages()):
            own = [choice for key in ("ks", "e") for choice in self.by_key[key]
                   if choice.stage == stage]
            for i, block in enumerate(blocks):
                places.append(Place(
                    len(places), block, tuple(choice for choice in own if choice.place == i),
                    self.by_key["d"][stage].needed(i), stride))
                stride *= prod(conv.stride for conv in block.convs)
        return places

    def _stages(self) -> "list[list[Block]]":
        blocks = self.chain.blocks
        return [[block for block in blocks if block.stage == stage]
                for stage in range(blocks[-1].stage + 1)]


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


def _choice(key: str, stage: int, options: tuple[int, ...], name: str, place: int = -1) -> Choice:
    """Returns a choice; genes of one group have the same values."""
    values, kind = "/".join(map(str, options)), name.split()[-1]
    return Choice(key, stage, options, name, f"stage {stage + 1}, {values}: {kind}", place)
