"""NAS-Bench-Graph: graph neural networks of 4 layers in one of 9 shapes, with 9 operations.

Source: Qin et al., "NAS-Bench-Graph" (NeurIPS 2022). Each layer reads the input or an earlier
layer; the network's output joins all layers that no other one reads. The benchmark has one of each
set of isomorphic networks: 26,206 of the 59,049 combinations.
"""

import re
from collections import Counter
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from search_space.base import Gene
from search_space.table import TableSearchSpace
from utils.errors import UserError

N_LAYERS = 4
INPUT = 0
SKIP = "skip"
_LINKS = re.compile("".join(f"[0-{layer}]" for layer in range(N_LAYERS)))


class NASBenchGraphSpace(TableSearchSpace):
    """Architectures `{"links": "0012", "op1": "gat", ..., "op4": "gcn"}`.

    `links` is what each layer reads: 0 the input, i the layer i. The encoding has 5 integers.
    A combination that is isomorphic to a row stands for that row; networks whose output joins the
    input itself are in no table.

    Args:
        table: a CSV file with the columns `links`, `op1` to `op4`, and figures of one data set.
        accuracy: its column with the top-1 accuracy in percent.

    Raises:
        UserError: as the base class, or `links` holds something else.
    """

    name = "nasbenchgraph"
    options: ClassVar[tuple[str, ...]] = ("table", "accuracy")
    default_accuracy: ClassVar[str | None] = "valid_top1"

    def __init__(self, table: str | None = None, accuracy: str | None = None) -> None:
        super().__init__(table, ["links", *(f"op{i + 1}" for i in range(N_LAYERS))], accuracy)
        for links in self.genes[0].values:
            if not _LINKS.fullmatch(str(links)):
                raise UserError(f"{table}: the column links holds {str(links)[:40]!r}, not "
                                f"{N_LAYERS} digits: what each layer reads, 0 the input, i the "
                                "layer i before it")
        self._classes = [self._class(row) for row in self.rows]
        self._by_class = {found: i for i, found in enumerate(self._classes)}
        self._row_of: dict[bytes, np.ndarray] = {row.tobytes(): row for row in self.rows}

    def normal(self, X: np.ndarray) -> np.ndarray:
        """Returns the isomorphic row of each of (n, 5) vectors; those without one as they are."""
        X = np.array(X, dtype=np.int64)
        for x in X:
            key = x.tobytes()
            if key not in self._row_of:
                row = self._by_class.get(self._class(x), -1)
                self._row_of[key] = x.copy() if row < 0 else self.rows[row]
            x[:] = self._row_of[key]
        return X

    def describe(self, arch: dict[str, Any]) -> str:
        """Returns the operations, each with what it reads."""
        return ", ".join(f"{i}: {arch[f'op{i}']} of {link}"
                         for i, link in enumerate(arch["links"], 1))

    @property
    def features(self) -> tuple[Gene, ...]:
        """What isomorphic networks share: how many layers of each operation, and where."""
        return self._seen[0]

    def featurize(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See the base class; what has no row has none of the features."""
        _, values, numbers = self._seen
        asked = self._number(np.asarray(X, dtype=int))
        row = np.minimum(np.searchsorted(numbers, asked), len(numbers) - 1)
        found = np.where((numbers[row] == asked)[:, None], values[row], 0)
        return found, np.ones(found.shape, dtype=bool)

    @cached_property
    def _seen(self) -> tuple[tuple[Gene, ...], np.ndarray, np.ndarray]:
        """The features, their values by row, and the numbers of the rows, which ascend."""
        counts = [_counts(tree) for tree in self._classes]
        names = sorted(set().union(*counts))
        numbers = self._number(self.rows)
        order = np.argsort(numbers)
        values = np.array([[count[name] for name in names] for count in counts])[order]
        features = tuple(Gene(f"{group}: {name}", tuple(range(most + 1)), group)
                       for (group, name), most in zip(names, values.max(axis=0).tolist(),
                                                      strict=True))
        return features, values, numbers[order]

    def _number(self, X: np.ndarray) -> np.ndarray:
        """Returns the (n,) numbers of (n, 5) vectors among all combinations."""
        return X @ np.cumprod([1, *(len(gene.values) for gene in self.genes[:-1])])

    def _class(self, x: np.ndarray) -> tuple:
        """Returns what isomorphic networks share: the tree of their layers.

        A skip layer is the layer that it reads; where no layer reads the skip, it is one more copy
        of that layer in the output.
        """
        links, *operations = (gene.values[i] for gene, i in zip(self.genes, x, strict=True))
        reads = [INPUT, *map(int, links)]
        real = [INPUT]
        for layer, operation in enumerate(operations, 1):
            real.append(real[reads[layer]] if operation == SKIP else layer)
        outputs = Counter(real[layer] for layer in range(1, N_LAYERS + 1)
                          if layer not in reads[1:])

        def tree(layer: int) -> tuple:
            readers = [tree(other) for other in range(1, N_LAYERS + 1)
                       if real[other] == other and real[reads[other]] == layer]
            operation = operations[layer - 1] if layer else ""
            return operation, outputs[layer], tuple(sorted(readers))

        return tree(INPUT)


def _counts(tree: tuple) -> Counter[tuple[str, str]]:
    """Returns the features of a tree of layers, by group and name."""
    found: Counter[tuple[str, str]] = Counter()

    def visit(node: tuple, depth: int) -> None:
        operation, copies, readers = node
        found["shape", "joined"] += copies
        found["shape", "outputs"] += copies > 0
        if depth:
            found["shape", "layers"] += 1
            found["shape", "longest path"] = max(depth, found["shape", "longest path"])
            found["operations", operation] += 1
            found["operations of outputs", operation] += copies > 0
            found[f"operations at depth {depth}", operation] += 1
        for reader in readers:
            visit(reader, depth + 1)

    visit(tree, 0)
    return found
