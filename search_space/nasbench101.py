"""NAS-Bench-101: graphs of up to 7 vertices and 9 edges with one of 3 operations at each vertex.

Source: Ying et al., "NAS-Bench-101" (ICML 2019). Isomorphic graphs are one architecture; there are
423,624. The benchmark identifies them by a hash of the graph, which is computed here, too.
"""

import hashlib
import zlib
from collections.abc import Sequence
from functools import cache
from itertools import compress, permutations
from typing import Any, ClassVar

import numpy as np

from search_space.base import Arch, Gene
from search_space.table import TabularSpace, read_table
from search_space.values import check_keys
from utils.errors import UserError
from utils.invocation import program

N_VERTICES, MAX_EDGES = 7, 9
INPUT, OUTPUT = "input", "output"
# From the smallest to the largest; the hash numbers them the other way round.
OPERATIONS = ("maxpool3x3", "conv1x1-bn-relu", "conv3x3-bn-relu")
HASHED = tuple(reversed(OPERATIONS))
# (from, to) of the edges that a vector can have, row by row of the matrix above its diagonal.
EDGES = [(i, j) for i in range(N_VERTICES) for j in range(i + 1, N_VERTICES)]
_ROWS, _COLUMNS = (np.array(index) for index in zip(*EDGES, strict=True))
_INSIDE = N_VERTICES - 2


def graph_hash(matrix: np.ndarray, operations: Sequence[str]) -> str:
    """Returns the benchmark's hash of a graph that has no vertex to prune.

    Each vertex starts with the MD5 of its out-degree, in-degree and label. As many times as there
    are vertices, it takes that of its in-neighbours' hashes, sorted, "|", its out-neighbours', "|",
    and its own. The graph's hash is that of all of them, sorted.

    Args:
        matrix: (v, v) of 0 and 1, edges from row to column.
        operations: v names, `input` first and `output` last.
    """
    labels = [-1, *(HASHED.index(name) for name in operations[1:-1]), -2]
    edges = np.asarray(matrix, dtype=bool)
    degrees = zip(edges.sum(axis=1).tolist(), edges.sum(axis=0).tolist(), labels, strict=True)
    hashes = [_md5(str(vertex)) for vertex in degrees]
    for _ in labels:
        hashes = ["|".join(("".join(sorted(compress(hashes, edges[:, v]))),
                            "".join(sorted(compress(hashes, edges[v]))), hashes[v]))
                  for v in range(len(labels))]
        hashes = [_md5(text) for text in hashes]
    return _md5(str(sorted(hashes)))


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


class NASBench101Space(TabularSpace):
    """Architectures `{"matrix": [[0, 1], [0, 0]], "ops": ["input", "output"]}`, as the benchmark's.

    The encoding has 26 integers: the 21 edges above the diagonal of a 7 x 7 matrix, then the
    operations of the 5 vertices between input and output. What input or output do not reach is
    pruned; of isomorphic graphs the smallest vector is the canonical one. A vector without a path
    from input to output gets the edge between them; one with more than 9 edges loses some, which
    its own bytes choose.

    Args:
        table: a CSV file of `scripts/convert_nasbench.py`, with the columns `hash` and `encoding`;
            with one, only its graphs are proposed.
        accuracy: its column with the top-1 accuracy in percent.
    """

    name = "nasbench101"
    default_accuracy: ClassVar[str | None] = "e108_valid_top1"
    key_columns = ("hash",)

    def __init__(self, table: str | None = None, accuracy: str | None = None) -> None:
        super().__init__(table, accuracy)
        self.upper = np.array([1] * len(EDGES) + [len(OPERATIONS) - 1] * _INSIDE)
        self.lower = np.zeros_like(self.upper)
        self._normal: dict[bytes, np.ndarray] = {}
        self.rows = np.zeros((0, self.n_var), dtype=np.int64) if table is None else np.array(
            [self._encoded(table, text) for text in read_table(table).column("encoding")])

    @property
    def genes(self) -> tuple[Gene, ...]:
        """What each integer stands for: an edge, or the operation of a vertex."""
        edges = [Gene(f"edge {i} -> {j}", (0, 1), f"edge {i} -> {j}") for i, j in EDGES]
        return (*edges, *(Gene(f"vertex {i + 1}: operation", OPERATIONS, f"vertex {i + 1}",
                               ordered=False) for i in range(_INSIDE)))

    def normal(self, X: np.ndarray) -> np.ndarray:
        """Returns the canonical vectors (n, 26) of the graphs of (n, 26) vectors."""
        X = np.array(X, dtype=np.int64)
        for x in X:
            key = x.tobytes()
            if key not in self._normal:
                self._normal[key] = _smallest(*_valid(*_graph(x), zlib.crc32(key)))
            x[:] = self._normal[key]
        return X

    def contains(self, X: np.ndarray) -> np.ndarray:
        """Returns an (n,) bool array: which vectors are graphs of the benchmark, and of the table.

        Such a graph has a path from input to output, and at most 9 edges.
        """
        n_edges = np.array([_pruned(*_graph(np.asarray(x)))[0].sum() for x in X], dtype=int)
        is_valid = (n_edges > 0) & (n_edges <= MAX_EDGES)
        return is_valid if self.table is None else is_valid & super().contains(X)

    def encode(self, arch: Arch) -> np.ndarray:
        """Returns the canonical (26,) vector; raises UserError for what the benchmark lacks."""
        matrix, operations = _checked(arch)
        inside = range(1, len(matrix) - 1)
        places = [0, *inside, N_VERTICES - 1]
        edges = np.zeros((N_VERTICES, N_VERTICES), dtype=np.int64)
        edges[np.ix_(places, places)] = matrix
        labels = np.zeros(_INSIDE, dtype=np.int64)
        labels[:len(inside)] = [OPERATIONS.index(operations[i]) for i in inside]
        x = np.concatenate([edges[_ROWS, _COLUMNS], labels])
        if not self.contains(x[None])[0]:
            raise UserError(f"no graph of NAS-Bench-101{f' in {self.table}' if self.table else ''}:"
                            f" {self.describe(arch)[:120]}; at most {MAX_EDGES} edges lead from "
                            "input to output")
        return self.canonical(x[None])[0]

    def decode(self, x: np.ndarray) -> Arch:
        """Returns the architecture of a vector, without what is pruned."""
        matrix, labels = _pruned(*_graph(self.canonical(self.check(x)[None])[0]))
        return {"matrix": matrix.astype(int).tolist(),
                "ops": [INPUT, *(OPERATIONS[label] for label in labels), OUTPUT]}

    def key(self, arch: Arch) -> tuple[str, ...]:
        """Returns the benchmark's hash of the graph."""
        return (graph_hash(np.array(arch["matrix"]), arch["ops"]),)

    def describe(self, arch: Arch) -> str:
        """Returns each vertex with the vertices that it leads to."""
        vertices = [f"{i} {name} -> {' '.join(str(j) for j, edge in enumerate(row) if edge)}"
                    for i, (name, row) in enumerate(zip(arch["ops"], arch["matrix"], strict=True))]
        return ", ".join(vertices[:-1])

    def summary(self, arch: Arch) -> dict[str, int | float | str]:
        """Returns the numbers of vertices and edges."""
        return {"vertices": len(arch["ops"]), "edges": sum(map(sum, arch["matrix"]))}

    def _encoded(self, table: str, text: str) -> list[int]:
        """Returns the vector that a cell of the column `encoding` holds, a digit for each gene."""
        if len(text) != self.n_var or not set(text) <= set("012"):
            raise UserError(f"{table}: the column encoding holds {text[:40]!r}, not {self.n_var} "
                            "digits; convert the benchmark's file with "
                            f"{program('scripts/convert_nasbench.py')}")
        return [int(digit) for digit in text]


def _graph(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the (7, 7) bool matrix of a vector, and the labels of the vertices inside (5,)."""
    matrix = np.zeros((N_VERTICES, N_VERTICES), dtype=bool)
    matrix[_ROWS, _COLUMNS] = x[:len(EDGES)]
    return matrix, x[len(EDGES):]


def _pruned(matrix: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns a graph without the vertices that are on no path from input to output."""
    reach = np.eye(len(matrix), dtype=bool) | matrix
    for _ in range(3):  # paths of up to 8 edges
        reach = (reach.astype(int) @ reach.astype(int)) > 0
    kept = reach[0] & reach[:, -1]
    kept[[0, -1]] = True
    return matrix[np.ix_(kept, kept)], labels[kept[1:-1]]


def _valid(matrix: np.ndarray, labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the graph pruned, with as few changes as make it one of the benchmark."""
    pruned, left = _pruned(matrix, labels)
    if not pruned.any():
        pruned[0, -1] = True
    rng = np.random.default_rng(seed)
    while pruned.sum() > MAX_EDGES:
        fewer = pruned.copy()
        fewer[tuple(rng.permutation(np.argwhere(pruned))[0])] = False
        shorter, rest = _pruned(fewer, left)
        if shorter.any():
            pruned, left = shorter, rest
    return pruned, left


@cache
def _orders(n: int) -> np.ndarray:
    """Returns all orders (n!, n) of n vertices."""
    return np.array(list(permutations(range(n))), dtype=int)


def _smallest(matrix: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the smallest vector (26,) of the graphs that are isomorphic to a pruned one."""
    inside = len(labels)
    orders = _orders(inside)
    ends = np.zeros((len(orders), 1), dtype=int)
    vertices = np.hstack([ends, orders + 1, ends + inside + 1])
    ordered = matrix[vertices[:, :, None], vertices[:, None, :]]
    forward = ~np.tril(ordered).any(axis=(1, 2))
    places = [*range(inside + 1), N_VERTICES - 1]
    full = np.zeros((int(forward.sum()), N_VERTICES, N_VERTICES), dtype=np.int64)
    full[:, np.array(places)[:, None], places] = ordered[forward]
    names = np.zeros((len(full), _INSIDE), dtype=np.int64)
    names[:, :inside] = labels[orders[forward]]
    X = np.hstack([full[:, _ROWS, _COLUMNS], names])
    return X[np.lexsort(X.T[::-1])[0]]


def _checked(arch: Any) -> tuple[np.ndarray, list[str]]:
    """Returns the matrix (v, v) and the operations of an architecture.

    Raises:
        UserError: they describe no graph of up to 7 vertices.
    """
    check_keys(arch, ("matrix", "ops"))
    matrix, operations = arch["matrix"], arch["ops"]
    if not isinstance(operations, list) or not 2 <= len(operations) <= N_VERTICES \
            or operations[0] != INPUT or operations[-1] != OUTPUT \
            or any(name not in OPERATIONS for name in operations[1:-1]):
        raise UserError(f"'ops' of the architecture must be a list of {INPUT}, up to {_INSIDE} of "
                        f"{', '.join(OPERATIONS)}, and {OUTPUT}, not {str(operations)[:60]}")
    size = len(operations)
    is_square = isinstance(matrix, list) and len(matrix) == size and all(
        isinstance(row, list) and len(row) == size and all(type(edge) is int and edge in (0, 1)
                                                           for edge in row) for row in matrix)
    if not is_square or np.tril(matrix).any():
        raise UserError(f"'matrix' of the architecture must be {size} lists of {size} numbers, 0 "
                        "or 1, and 0 on and below the diagonal")
    return np.array(matrix, dtype=np.int64), operations
