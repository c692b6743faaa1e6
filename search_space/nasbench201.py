"""NAS-Bench-201: cells of 4 nodes whose 6 edges have one of 5 operations each.

Source: Dong and Yang, "NAS-Bench-201" (ICLR 2020). 15,625 cells; cells that compute the same
count as different, as in the benchmark.
"""

import re
from itertools import pairwise, product
from typing import ClassVar

import numpy as np

from search_space.base import Arch, Gene
from search_space.layers import Layer, Slot
from search_space.table import TabularSpace, read_table
from search_space.values import check_keys
from utils.errors import UserError

# From the smallest to the largest.
OPERATIONS = ("none", "skip_connect", "avg_pool_3x3", "nor_conv_1x1", "nor_conv_3x3")
KERNELS = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}
# The operations into node 1, node 2, node 3, each with the node where it starts.
TEMPLATE = "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|"
EDGES = ("0 -> 1", "0 -> 2", "1 -> 2", "0 -> 3", "1 -> 3", "2 -> 3")
# Image size and classes of each data set, by the start of its columns in a table.
DATASETS = {"cifar10": (32, 10), "cifar100": (32, 100), "imagenet16_120": (16, 120)}
# The network around the cells: 3 stages of 5 cells, a residual block between two stages.
WIDTHS, N_CELLS = (16, 32, 64), 5
_TEXT = re.compile(re.escape(TEMPLATE).replace(r"\{\}", r"(\w+)"), re.ASCII)


class NASBench201Space(TabularSpace):
    """Architectures `{"arch": "|nor_conv_3x3~0|+|...|"}`, the benchmark's own text.

    The encoding has 6 integers, the operation of each edge in the order of the text.

    Args:
        table: a CSV file with the column `arch`; with one, only its cells are proposed.
        accuracy: its column with the top-1 accuracy in percent; what it starts with is the data
            set: `cifar10`, `cifar100` or `imagenet16_120`. It decides the network's size.

    Raises:
        UserError: a table that cannot be read or names other cells, or another data set.
    """

    name = "nasbench201"
    default_accuracy: ClassVar[str | None] = "cifar10_test_top1"
    sequential: ClassVar[bool] = False
    key_columns = ("arch",)

    def __init__(self, table: str | None = None, accuracy: str | None = None) -> None:
        super().__init__(table, accuracy)
        column = f"{self.accuracy}_".lower().replace("-", "_")  # `cifar10-valid_x-valid` of NATS
        dataset = next((name for name in DATASETS if column.startswith(f"{name}_")), None)
        if dataset is None:
            raise UserError(f"accuracy column {self.accuracy}: in NAS-Bench-201 its name starts "
                            f"with its data set: {', '.join(DATASETS)}")
        self.dataset = dataset
        self.lower = np.zeros(len(EDGES), dtype=int)
        self.upper = np.full(len(EDGES), len(OPERATIONS) - 1)
        self.rows = np.array(list(product(range(len(OPERATIONS)), repeat=len(EDGES)))
                             if table is None else
                             [_indices(text) for text in read_table(table).column("arch")])

    @property
    def genes(self) -> tuple[Gene, ...]:
        """What each integer stands for: the operation of an edge."""
        return tuple(Gene(f"edge {edge}", OPERATIONS, f"edge {edge}", ordered=False)
                     for edge in EDGES)

    def encode(self, arch: Arch) -> np.ndarray:
        """Returns the (6,) vector; raises UserError for an invalid arch."""
        check_keys(arch, ("arch",))
        return np.array(_indices(arch["arch"]))

    def decode(self, x: np.ndarray) -> Arch:
        """Returns the architecture of a (6,) vector; raises UserError for an invalid vector."""
        row = self.canonical(self.check(x)[None])[0]
        return {"arch": TEMPLATE.format(*(OPERATIONS[i] for i in row))}

    def key(self, arch: Arch) -> tuple[str, ...]:
        """Returns the text of the cell."""
        return (arch["arch"],)

    def describe(self, arch: Arch) -> str:
        """Returns the text of the cell."""
        return str(arch["arch"])

    def slots(self, n_classes: int = 1000, width_mult: float = 1.0) -> list[Slot]:
        """Returns what the benchmark counts: the network around the cells, then each edge.

        Its FLOPs are the multiply-accumulates of convolutions, and those of the classifier with its
        bias; poolings are free. The data set decides the classes and the size, not the arguments.
        """
        size, classes = DATASETS[self.dataset]
        return [Slot((), lambda: tuple(_surroundings(size, classes))),
                *(Slot((edge,), lambda operation: _edge(OPERATIONS[operation], size))
                  for edge in range(len(EDGES)))]


def _indices(text: object) -> list[int]:
    """Returns the operations of a cell's text by their position; raises UserError for others."""
    found = _TEXT.fullmatch(text) if isinstance(text, str) else None
    if not found or not set(found.groups()) <= set(OPERATIONS):
        raise UserError(f"no cell of NAS-Bench-201: {str(text)[:120]!r}; expected {TEMPLATE} with "
                        f"the operations {', '.join(OPERATIONS)}")
    return [OPERATIONS.index(operation) for operation in found.groups()]


def _edge(operation: str, size: int) -> tuple[Layer, ...]:
    """Returns the layers that one edge has in all 15 cells."""
    if operation not in KERNELS:
        return ()
    return tuple(Layer("conv", "cell_conv", size >> stage, width, width, KERNELS[operation])
                 for stage, width in enumerate(WIDTHS) for _ in range(N_CELLS))


def _surroundings(size: int, n_classes: int) -> list[Layer]:
    """Returns the stem, the residual blocks between stages, and the head."""
    layers = [Layer("conv", "stem", size, 3, WIDTHS[0], 3)]
    for stage, (before, after) in enumerate(pairwise(WIDTHS)):
        full, half = size >> stage, size >> (stage + 1)
        layers += [Layer("conv", "residual_conv", full, before, after, 3, 2),
                   Layer("conv", "residual_conv", half, after, after, 3),
                   Layer("conv", "shortcut", half, before, after, bn=False)]
    return [*layers, Layer("norm", "last_norm", size >> 2, WIDTHS[-1], WIDTHS[-1]),
            Layer("counted_bias", "classifier", 1, WIDTHS[-1], n_classes, bn=False, bias=True)]
