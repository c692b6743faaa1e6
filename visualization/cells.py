"""Cells and small networks as graphs: what drawings of tabular search spaces show."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

INPUT, OUTPUT = "input", "output"
NO_OPERATION = "none"
_EDGE = re.compile(r"(\w+)~(\d+)", re.ASCII)


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
    operations: list[str] = []
    for i in count(1):
        if f"op{i}" not in arch:
            break
        operations.append(str(arch[f"op{i}"]))
    reads = [int(link) for link in arch["links"]]
    last = len(operations) + 1
    edges = [(source, layer, "") for layer, source in enumerate(reads, 1)]
    edges += [(layer, last, "") for layer in range(1, last) if layer not in reads]
    return Graph((INPUT, *operations, OUTPUT), tuple(edges))
