"""A network as blocks in stages: what drawings of architectures show. Free of torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from search_space.layers import Layer

STEM, HEAD = "stem", "head"
NOT_DRAWN = ("pool", "mean", "max_pool", "norm")  # layers without channels of their own


@dataclass(frozen=True)
class Block:
    """One layer of a drawing.

    Attributes:
        stage: `stem`, `head`, or the number of the stage, "1" onwards.
        kind: of the layer, see `search_space.layers.Layer`.
        channels: the width inside the layer: the expanded one of an inverted residual.
        out_channels: of its output.
        kernel: kernel size.
        expand: expansion ratio; 0 where the layer has none.
        size: height and width of its output in pixels.
    """

    stage: str
    kind: str
    channels: int
    out_channels: int
    kernel: int
    expand: float
    size: int

    @property
    def label(self) -> str:
        """The expansion ratio as drawings show it: `6`, `0.25`; empty where there is none."""
        return f"{self.expand:g}" if self.expand else ""


def blocks_of(layers: Sequence[Layer]) -> list[Block]:
    """Returns the blocks of a network in the order of its layers; poolings are left out.

    A stage is a run of blocks with one output width and size. What comes before the first block
    that widens is the stem, what comes after the last block the head.
    """
    inner = [i for i, layer in enumerate(layers) if layer.mid and layer.expand != 1]
    first, last = (inner[0], inner[-1]) if inner else (len(layers), -1)
    found: list[Block] = []
    stage, previous = 0, (0, 0)
    for i, layer in enumerate(layers):
        if layer.kind in NOT_DRAWN:
            continue
        place = STEM if i < first else HEAD
        if first <= i <= last:
            stage += (layer.out_channels, layer.out_size) != previous
            previous = (layer.out_channels, layer.out_size)
            place = str(stage)
        expand = layer.expand if layer.mid else 0
        found.append(Block(place, layer.kind, layer.mid or layer.out_channels, layer.out_channels,
                           layer.kernel, expand, layer.out_size))
    return found
