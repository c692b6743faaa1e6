"""What drawings of architectures show: blocks in stages, and graphs of cells. Free of torch."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Any

from search_space.layers import Layer

STEM, HEAD = "stem", "head"
NOT_DRAWN = ("pool", "mean", "max_pool", "norm")  # layers without channels of their own
INPUT, OUTPUT = "input", "output"
NO_OPERATION = "none"
_EDGE = re.compile(r"(\w+)~(\d+)", re.ASCII)


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


@dataclass(frozen=True)
class Graph:
    """A directed acyclic graph, its nodes in topological order.

    Attributes:
        nodes: labels.
        edges: (from, to, label), nodes by their position; the label may be empty.
    """

    nodes: tuple[str, ...]
    edges: tuple[tuple[int, int, str], ...]

    @property
    def has_named_edges(self) -> bool:
        """Whether the operations are on the edges, not in the nodes."""
        return any(label for _, _, label in self.edges)

    def positions(self) -> list[tuple[float, float]]:
        """Returns where each node is drawn: x in steps from the input, y around 0.

        Nodes with operations on their edges lie on a line. Others lie as far right as the longest
        path to them, those of equal distance below each other.
        """
        if self.has_named_edges:
            return [(float(i), 0.0) for i in range(len(self.nodes))]
        depth = [0] * len(self.nodes)
        for start, end, _ in sorted(self.edges, key=lambda edge: edge[1]):
            depth[end] = max(depth[end], depth[start] + 1)
        depth[-1] = max(depth)
        columns = {d: [i for i in range(len(depth)) if depth[i] == d] for d in set(depth)}
        return [(float(d), (len(columns[d]) - 1) / 2 - columns[d].index(i))
                for i, d in enumerate(depth)]

    def bend(self, start: int, end: int) -> float:
        """Returns how far the middle of an edge lies off its straight line; 0 for a straight one.

        Edges of a line of nodes that pass over others bend away: by turns to either side.
        """
        span = end - start
        if not self.has_named_edges or span < 2:
            return 0.0
        return (-1) ** start * 0.42 * span


def graph_of(arch: Mapping[str, Any]) -> Graph | None:
    """Returns the graph of an architecture dict that describes one; None for any other.

    Known are `{"arch": "|op~0|+|op~0|op~1|+..."}` (NAS-Bench-201: operations on the edges) and
    `{"links": "0012", "op1": ..., ...}` (NAS-Bench-Graph: operations in the nodes).
    """
    if isinstance(arch.get("arch"), str) and _EDGE.search(arch["arch"]):
        return _cell(arch["arch"])
    if isinstance(arch.get("links"), str) and "op1" in arch:
        return _chain(arch)
    return None


def _cell(text: str) -> Graph:
    groups = text.split("+")
    edges = [(int(source), node, operation) for node, group in enumerate(groups, 1)
             for operation, source in _EDGE.findall(group) if operation != NO_OPERATION]
    inner = [str(i) for i in range(1, len(groups))]
    return Graph((INPUT, *inner, OUTPUT), tuple(edges))


def _chain(arch: Mapping[str, Any]) -> Graph:
    names = takewhile(arch.__contains__, (f"op{i}" for i in count(1)))
    operations = [str(arch[name]) for name in names]
    reads = [int(link) for link in arch["links"]]
    last = len(operations) + 1
    edges = [(source, layer, "") for layer, source in enumerate(reads, 1)]
    edges += [(layer, last, "") for layer in range(1, last) if layer not in reads]
    return Graph((INPUT, *operations, OUTPUT), tuple(edges))
