"""Searches under noise: the true hypervolume of what a search delivers, by strategy and noise.

    python benchmarks/noise.py DATA [--problems mbv3@0.4 nb201-cifar100] [--strategies ehvi]
        [--seeds 10-19] [--budgets 340] [--save benchmarks/results]

DATA is the folder of `quality.py`. On `mbv3@S` each architecture's accuracy has a normal error of S
points, always the same for the same architecture and seed, as in a search on one set of images. On
the others the noise is real: a search of NAS-Bench-201 sees one validation run of each cell, one of
NAS-Bench-Graph the validation accuracy, and the truth is the (mean) test accuracy. Three fronts are
compared by their true accuracies: all that was evaluated, and what `post_search.py` delivers with
`--trust measured` and with `--trust model`. Where all architectures are known, so is the simple
regret: how much less accurate than the best one the most accurate of a front is. Every run is kept
in `noise.json`, so a benchmark can be stopped and continued.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from common import benchmark_parser, machine, processes, publish, table
from quality import BATCH, BENCHMARKS, BUDGETS, Benchmark, seeds_of

from cli.scripts import run_script
from evaluator import build_evaluator
from evaluator.base import Evaluator
from evaluator.jobs import InProcess
from search import Search
from search.archive import Record
from search.comparison import mean_and_error
from search.selection import front_within, most_accurate, trusted
from search.strategies import STRATEGIES
from search_space import Arch
from utils.files import read_json, write_json
from utils.pareto import normalized_hypervolume

FRONTS = ("evaluated", "measured", "model")
# Strategies, and one with another predictor than its own.
COLUMNS = (*sorted(STRATEGIES), "msunas+nngp")


@dataclass(frozen=True)
class Problem:
    """A benchmark of `quality.py` whose answers are noisy.

    Attributes:
        benchmark: what the search asks.
        sigma: standard deviation of the noise that is added, in points of accuracy.
        truth: file and column of the true accuracies; None takes what the search asks, without the
            noise.
    """

    benchmark: Benchmark
    sigma: float = 0.0
    truth: tuple[str, str] | None = None

    def run(self, data: Path, strategy: str, seed: int,
            budgets: Sequence[int]) -> dict[int, list[float]]:
        """Returns the true hypervolume of each of the `FRONTS` after each budget of one search.

        Where the space can be enumerated, the simple regret of each follows, in points. The
        strategy is one of `COLUMNS`.
        """
        name, _, predictor = strategy.partition("+")
        search = self.benchmark.search(data, name, seed)
        search.predictor = predictor or search.predictor
        search.iterations = max(0, -(-(max(budgets) - search.n_doe) // BATCH))
        exact = search.engine.evaluator
        search.engine = InProcess(Noisy(exact, self.sigma, seed))
        search.run()
        truth = self.true_evaluator(data, exact)
        errors = dict(zip(map(str, search.archs), 100 - truth.evaluate_many(search.archs),
                          strict=True))
        every = search.space.enumerate()
        least = None if every is None else float(np.min(
            100 - truth.evaluate_many([search.space.decode(x) for x in every])))
        ends = {budget: search.n_doe + BATCH * max(0, -(-(budget - search.n_doe) // BATCH))
                for budget in budgets}
        return {budget: self.judge(fronts(search, end, seed), errors, least)
                for budget, end in ends.items()}

    def judge(self, believed: Sequence[Sequence[Record]], errors: Mapping[str, float],
              least: float | None) -> list[float]:
        """Returns the true hypervolume of each of the `FRONTS`, and the regrets where they exist.

        Args:
            believed: the fronts; the errors of their records are those that they are chosen by.
            errors: true, in percent, by architecture.
            least: true error of the best of all architectures; None where it is not known.
        """
        true = [np.array([(errors[str(record.arch)], record.sec_obj) for record in front])
                for front in believed]
        volumes = [normalized_hypervolume(F, self.benchmark.reference) for F in true]
        if least is None:
            return volumes
        best = [int(true[0][:, 0].argmin()), *map(most_accurate, believed[1:])]
        return volumes + [float(F[i, 0]) - least for F, i in zip(true, best, strict=True)]

    def true_evaluator(self, data: Path, exact: Evaluator) -> Evaluator:
        """Returns what answers with the true accuracies."""
        if self.truth is None:
            return exact
        file, column = self.truth
        return build_evaluator("table", {
            "search_space": self.benchmark.space,
            "space_options": {"table": str(data / file), "accuracy": column}})


def fronts(search: Search, n: int, seed: int) -> list[list[Record]]:
    """Returns the `FRONTS` of the first n evaluations of a search."""
    records, names = search.archive[:n], search.sec_obj
    believed, _ = trusted(records, search.X[:n], search.space, seed)
    return [records, front_within(records, [], names), front_within(believed, [], names)]


class Noisy(Evaluator):
    """Answers as `exact` does, with a normal error that the seed and the architecture decide."""

    def __init__(self, exact: Evaluator, sigma: float, seed: int) -> None:
        self.exact, self.sigma, self.seed = exact, sigma, seed

    def evaluate(self, arch: Arch, *, batch_scale: float = 1.0) -> dict[str, Any]:
        """See `Evaluator.evaluate`."""
        text = f"{self.seed} {json.dumps(arch, sort_keys=True)}"
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        error = np.random.default_rng(int.from_bytes(digest, "little")).standard_normal()
        stats = self.exact.evaluate(arch)
        return stats | {"top1": stats["top1"] + self.sigma * float(error)}


def _cells(name: str) -> Problem:
    asked = replace(BENCHMARKS[f"nb201-{name}"], file="nasbench201_valid.csv.gz")
    column = "imagenet16_120" if name == "imagenet16" else name
    asked = replace(asked, settings={"accuracy": f"{column}_valid_top1_0"})
    return Problem(asked, truth=("nasbench201_200epochs.csv.gz", f"{column}_test_top1"))


def _graph(name: str) -> Problem:
    asked = BENCHMARKS[f"graph-{name}"]
    return Problem(asked, truth=(asked.file, "test_top1"))


PROBLEMS = {**{f"mbv3@{sigma}": Problem(BENCHMARKS["mbv3"], sigma)
               for sigma in (0.0, 0.1, 0.25, 0.4, 0.57, 0.8, 1.0)},
            **{f"nb201-{name}": _cells(name) for name in ("cifar10", "cifar100", "imagenet16")},
            **{f"graph-{name}": _graph(name) for name in ("arxiv", "cora", "computers", "cs")}}


def one(data: str, problem: str, strategy: str, seed: int,
        budgets: Sequence[int]) -> dict[int, list[float]]:
    """Returns what `Problem.run` returns; for a process of its own."""
    return PROBLEMS[problem].run(Path(data), strategy, seed, budgets)


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("data", type=Path, help="folder of predictors and tables")
    p.add_argument("--problems", nargs="+", choices=PROBLEMS, default=["mbv3@0.25", "mbv3@0.4"],
                   help="which")
    p.add_argument("--strategies", nargs="+", choices=COLUMNS,
                   default=["ehvi", "msunas", "random"], help="which")
    p.add_argument("--seeds", type=seeds_of, default="10-19", help="one seed, or first-last")
    p.add_argument("--budgets", type=int, nargs="+", default=[BUDGETS[-1]],
                   help="evaluations after which the fronts are compared")
    p.add_argument("--workers", type=int, default=2, help="searches at a time")
    p.add_argument("--save", default="benchmarks/results", type=Path, help="folder for the results")
    return p


def main(args: argparse.Namespace) -> None:
    """Runs the searches that are missing, and writes `noise.json` and `noise.md`."""
    file = args.save / "noise.json"
    known: dict[str, list[float]] = read_json(file, "results") if file.exists() else {}
    with processes(args.workers) as pool:
        jobs = {pool.submit(one, str(args.data), *job, args.budgets): "/".join(map(str, job))
                for job in product(args.problems, args.strategies, args.seeds)
                if any(f"{'/'.join(map(str, job))}/{budget}" not in known
                       for budget in args.budgets)}
        for done in as_completed(jobs):
            for budget, values in done.result().items():
                known[f"{jobs[done]}/{budget}"] = [round(value, 6) for value in values]
                print(jobs[done], budget, *values, flush=True)
            write_json(file, known)
    publish(report(known), args.save / "noise.md")


def report(known: dict[str, list[float]]) -> str:
    """Returns the table of all problems and strategies that have results, in Markdown."""
    columns = by_column(known)
    rows = [(*key, len(found), *shown(found[:, :len(FRONTS)], 4)) for key, found in columns.items()]
    regrets = [(*key, len(found), *shown(found[:, len(FRONTS):], 2))
               for key, found in columns.items() if found.shape[1] > len(FRONTS)]
    head = ("problem", "strategy", "evaluations", "seeds", *FRONTS)
    return (f"{machine()}. True hypervolume (mean ± standard error) after so many evaluations in "
            f"batches of {BATCH}: of all that was evaluated, and of what `post_search.py` delivers "
            "by `--trust measured` and `--trust model`.\n\n" + table(head, rows)
            + "\n\nSimple regret in points: the true accuracy of the best architecture of all less "
            "that of the best that was evaluated, and of the most accurate that is delivered.\n\n"
            + table(head, regrets) + "\n")


def shown(values: np.ndarray, digits: int) -> list[str]:
    """Returns mean ± standard error of each column of (seeds, n) values."""
    return [f"{mean:.{digits}f} ± {error:.{digits}f}"
            for mean, error in zip(*mean_and_error(values), strict=True)]


def by_column(known: dict[str, list[float]]) -> dict[tuple[str, str, int], np.ndarray]:
    """Returns (seeds, 3) hypervolumes, and as many regrets, by problem, strategy and budget."""
    found: dict[tuple[str, str, int], list[list[float]]] = {}
    for key, values in known.items():
        problem, strategy, _, budget = key.split("/")
        found.setdefault((problem, strategy, int(budget)), []).append(values)
    order = [*PROBLEMS]
    return {key: np.array([values[:min(map(len, found[key]))] for values in found[key]])
            for key in sorted(found, key=lambda key: (order.index(key[0]), *key[1:]))}


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
