"""Accuracy under latency limits with a latency learned from few cells, against published figures.

    python benchmarks/latency_limits.py DATA [--seeds 5] [--save FILE]

DATA is a folder with nasbench201_200epochs.csv.gz, nasbench201_valid.csv.gz and
help_nasbench201_latency_ms.csv.gz. For each device, limit and seed of CIFAR-100: a latency is
learned from 40 cells, chosen as scripts/learn_latency.py does; `ehvi` with the error as its only
objective searches within the limit, and the cells with the best expected accuracy are measured,
best first, until one is within it. All measured cells together are at most 60, all accuracies
100. The search sees the test accuracy of the table, as other benchmarks on it do, or the
validation accuracy of a single training run. The last columns compare with the figures of HELP
(Lee et al., NeurIPS 2021) and with the best cell within the limit.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from common import benchmark_parser, machine, moment, processes, publish, table

from cli.scripts import run_script
from evaluator.latency_model import KIND, cross_validated, learn_latency, unsure_about
from search import Search
from search.archive import Record
from search.objectives import Objective, SpaceCosts
from search.strategies.ehvi import EHVI
from search_space import SearchSpace, get_search_space
from search_space.table import parse_number, read_table

TEST, VALID, LATENCY = (f"{name}.csv.gz" for name in (
    "nasbench201_200epochs", "nasbench201_valid", "help_nasbench201_latency_ms"))
# What a search can see: file and column.
SEEN = {"test": (TEST, "cifar100_test_top1"), "validation": (VALID, "cifar100_valid_top1_0")}
# ms -> what HELP found, in percent.
LIMITS: dict[str, dict[float, float]] = {
    "gold_6226": {8: 67.3, 11: 70.2, 14: 72.1}, "titan_rtx_256": {18: 69.7, 21: 71.5, 25: 71.8},
    "fpga": {4: 70.2, 5: 71.8, 6: 73.5}}
# The cells that the latency is learned from, and those that are measured at the end.
LEARNED, CHECKED, ROUND = 40, 20, 10
N_DOE, N_ITER, ITERATIONS = 28, 8, 9
# Cells far below the limit are no candidates: accuracy grows with latency.
LOWEST = 0.75
# Within the limit a cell is as good as its accuracy: the improvement is that of one objective.
ERROR_ALONE = Objective("none", "", "counted", "none", exact_values=lambda X: np.zeros(len(X)))


class Cells(NamedTuple):
    """What is known of all cells: by the text of an architecture."""

    test: Mapping[str, float]
    seen: Mapping[str, float]
    latency: Mapping[str, float]


class Found(NamedTuple):
    """The cell that a search chose: test accuracy (percent), ms, and how many cells it measured."""

    top1: float
    ms: float
    measured: int


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("data", help="folder of the tables")
    p.add_argument("--seen", choices=list(SEEN), nargs="+", default=list(SEEN),
                   help="images whose accuracy the search sees")
    p.add_argument("--seeds", type=int, default=5, help="searches of each limit")
    p.add_argument("--processes", type=int, default=1, help="searches at a time")
    p.add_argument("--save", help="file for the table as well")
    return p


def column(path: Path, name: str) -> dict[str, float]:
    """Returns a column of numbers by the cell."""
    found = read_table(str(path))
    return {arch: value for arch, text in zip(found.column("arch"), found.column(name), strict=True)
            if (value := parse_number(text)) is not None}


def read_cells(data: Path, device: str, seen: str) -> Cells:
    """Returns what is known of all cells, and what a search sees of them."""
    test, searched = (column(data / file, name) for file, name in (SEEN["test"], SEEN[seen]))
    return Cells(test, searched, column(data / LATENCY, device))


def learn(space: SearchSpace, latency: Mapping[str, float], seed: int, path: Path) -> list[str]:
    """Writes the file of a latency as `scripts/learn_latency.py` does; returns the cells."""
    rng = np.random.default_rng(seed)
    X = np.array([space.encode(arch) for arch in space.initialize(LEARNED // 2, rng=rng)])
    while len(X) < LEARNED:
        ms = np.array([latency[space.decode(x)["arch"]] for x in X])
        X = np.vstack([X, unsure_about(learn_latency(space, X, ms), X, ROUND, rng)])
    archs = [space.decode(x)["arch"] for x in X]
    path.write_text(json.dumps({
        "kind": KIND, "search_space": "nasbench201", "width_mult": 1.0, "n_classes": 1000,
        "key": "ms",
        "measured": [{"arch": {"arch": arch}, "ms": latency[arch]} for arch in archs]}))
    return archs


def best_within(data: str, device: str, limit: float, seed: int, seen: str) -> Found:
    """Searches within a limit, and measures the best until one is within it.

    The search's own limit is wider by the mean error of the learned latency: what is measured at
    the end decides.
    """
    space, cells = get_search_space("nasbench201"), read_cells(Path(data), device, seen)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "device.json"
        known = set(learn(space, cells.latency, seed, path))
        costs = SpaceCosts(space, luts={"it": str(path)})
        costs.latency("it")
        error = cross_validated(costs.learned_files()[0].model, seed)["mape"]
        search = Search(space, [ERROR_ALONE], EHVI(std_scale=1.0), n_doe=N_DOE, n_iter=N_ITER,
                        iterations=ITERATIONS, seed=seed, costs=costs,
                        constraints=f"cpu@it<={limit * (1 + error)},cpu@it>={LOWEST * limit}")
    while (batch := search.ask()) is not None:
        search.tell(batch, [Record(arch, 100 - cells.seen[arch["arch"]], 0.0)
                            for arch in batch.archs])
    ranked = [search.archive[i].arch["arch"] for i in np.argsort(denoised_error(search))]
    n_learned = len(known)
    for arch in ranked:
        known.add(arch)
        if cells.latency[arch] <= limit or len(known) == n_learned + CHECKED:
            break
    return Found(cells.test[arch], cells.latency[arch], len(known))


def denoised_error(search: Search) -> np.ndarray:
    """Returns the (a,) errors of the archive that a model of all of them expects."""
    from acc_predictor import get_acc_predictor

    model = get_acc_predictor("nngp", search.X, search.F[:, 0], seed=search.seed,
                              space=search.space)
    return model.predict(search.X)[:, 0]


def best_possible(cells: Cells, limit: float) -> float:
    """Returns the test accuracy of the best of all cells within a limit."""
    return max(top1 for arch, top1 in cells.test.items() if cells.latency[arch] <= limit)


def row_of(device: str, limit: float, published: float, best: float,
           found: list[Found]) -> list[str]:
    """Returns a row of the table."""
    top1 = np.array([each.top1 for each in found])
    return [device, f"{limit:g}", f"{published:.1f}", f"{top1.mean():.2f} ± {top1.std():.2f}",
            f"{best:.2f}", f"{best - top1.mean():.2f}",
            f"{np.mean([each.ms for each in found]):.2f}",
            f"{sum(each.ms <= limit for each in found)} of {len(found)}",
            f"{max(each.measured for each in found)}"]


def main(args: argparse.Namespace) -> None:
    """Prints the table."""
    rows = []
    with processes(args.processes) as pool:
        for seen, (device, limits) in product(args.seen, LIMITS.items()):
            cells = read_cells(Path(args.data), device, seen)
            for limit, published in limits.items():
                found = [each.result() for each in [
                    pool.submit(best_within, args.data, device, limit, seed, seen)
                    for seed in range(args.seeds)]]
                best = best_possible(cells, limit)
                rows.append([seen, *row_of(device, limit, published, best, found)])
                print(*rows[-1], flush=True)
    header = ["accuracy seen", "device", "limit (ms)", "HELP", "found (mean ± sd)",
              "best possible", "short of it", "measured ms", "within", "cells measured"]
    publish(f"{machine()}; {moment()}; NAS-Bench-201, CIFAR-100, test accuracy in percent; "
            f"{args.seeds} seeds, latency learned from {LEARNED} cells, "
            f"{N_DOE + N_ITER * ITERATIONS} accuracies\n\n{table(header, rows)}\n", args.save)


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
