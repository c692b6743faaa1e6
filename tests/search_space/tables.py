"""Small tables with gaps, made from a seed, for tests of tabular spaces."""

import csv
import itertools
from pathlib import Path

import numpy as np

from search_space.nasbench201 import TEMPLATE

SHAPES = ("0000", "0001", "0011", "0012", "0013", "0111", "0112", "0122", "0123")


def write_csv(path: Path, header: list[str], rows: list[list]) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_table(folder: Path, share: float = 0.5) -> dict[str, str]:
    """A table of three ordered genes and a choice, with a part of its 300 combinations."""
    rng = np.random.default_rng(0)
    rows = []
    for depth, rate, width, op in itertools.product(range(5), (0.1, 0.5, 2.0), (8, 16, 32, 64),
                                                    ("conv", "pool", "skip", "0012", "x,y")):
        accuracy = 60 + 4 * depth + width / 8 + 3 * (op == "conv") - abs(rate - 0.5)
        rows.append([depth, rate, width, op, f"{accuracy:.4f}", f"{depth * width + 1:.1f}", "note"])
    kept = rng.permutation(len(rows))[:round(share * len(rows))]
    path = write_csv(folder / "table.csv",
                     ["depth", "rate", "width", "op", "valid top1", "latency_ms", "remark"],
                     [rows[i] for i in kept])
    return {"table": str(path), "genes": "depth,rate,width,op", "accuracy": "valid top1"}


def write_graphs(folder: Path) -> dict[str, str]:
    """Some networks of NAS-Bench-Graph: those of 3 operations and the skip, the first of a set."""
    from search_space.nasbenchgraph import NASBenchGraphSpace

    names = ["links", "op1", "op2", "op3", "op4"]
    rows = [list(row) for row in itertools.product(SHAPES, *[("fc", "gat", "gcn", "skip")] * 4)]
    everything = write_csv(folder / "all.csv", [*names, "valid_top1"], [[*r, 1] for r in rows])
    space = NASBenchGraphSpace(str(everything))
    first = {}
    for x, row in zip(space.rows, rows, strict=True):
        first.setdefault(space._class(x), row)
    kept = [row for key, row in first.items() if not key[1]]  # the input is in no output
    values = np.random.default_rng(1).uniform(50, 80, (len(kept), 2)).round(4)
    path = write_csv(folder / "graphs.csv", [*names, "valid_top1", "latency_ms"],
                     [[*row, *value] for row, value in zip(kept, values, strict=True)])
    return {"table": str(path), "accuracy": "valid_top1"}


def write_cells(folder: Path, n: int = 200) -> dict[str, str]:
    """Some cells of NAS-Bench-201 with made-up figures."""
    from search_space.nasbench201 import NASBench201Space

    space = NASBench201Space()
    X = space.rows[np.random.default_rng(2).permutation(len(space.rows))[:n]]
    rows = [[space.decode(x)["arch"], f"{70 + 2 * float((x == 4).sum()):.2f}", i]
            for i, x in enumerate(X)]
    assert rows[0][0].count("~") == TEMPLATE.count("~")
    path = write_csv(folder / "cells.csv", ["arch", "cifar100_test_top1", "seconds"], rows)
    return {"table": str(path), "accuracy": "cifar100_test_top1"}
