"""Nine benchmarks: how much of the best front's hypervolume a search finds, over seeds.

    python benchmarks/nine.py DATA [--seeds 10] [--strategy msunas] [--save benchmarks/results]

DATA is the folder with the tables of NAS-Bench-201 (three data sets) and NAS-Bench-Graph (four),
whose true front is known, and the accuracy predictors of two OFA supernets, where the front of
NSGA-II straight on the predictor stands for it. Reference point: 1.01 x the worst of each objective
on that front. Random search draws as many architectures. The searches are those of msunas.py,
answered in this process.
"""

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from common import benchmark_parser, machine, processes, publish, table
from direct import nsga2_front

from cli.scripts import run_script
from evaluator.jobs import InProcess
from evaluator.oracle import OracleEvaluator
from evaluator.table import TableEvaluator
from search import Progress, Search, SpaceCosts, make_objectives
from search.strategies import STRATEGIES
from search.table_report import true_values
from search_space import SearchSpace, get_search_space
from utils.errors import UserError
from utils.pareto import hypervolume, non_dominated, reference_point

BUDGETS = (100, 200, 300)
N_DOE, N_ITER = 100, 8
DIRECT = (200, 200)  # population x generations straight on a predictor: 40,000 evaluations


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: a space, a file with the accuracies, and the objective besides the error."""

    name: str
    space: str
    file: str
    objective: str
    accuracy: str | None = None


CELLS, NETWORKS = "nasbench201_200epochs.csv.gz", "nasbenchgraph_{}.csv.gz"
BENCHMARKS = (
    Benchmark("OFA MobileNetV3, FLOPs", "mbv3", "ofa_mbv3_acc_predictor.pth", "flops"),
    Benchmark("OFA ResNet50, FLOPs", "resnet50", "ofa_resnet50_acc_predictor.pth", "flops"),
    *(Benchmark(f"NAS-Bench-201 {name}, FLOPs", "nasbench201", CELLS, "flops",
                f"{column}_test_top1")
      for name, column in (("CIFAR-10", "cifar10"), ("CIFAR-100", "cifar100"),
                           ("ImageNet16-120", "imagenet16_120"))),
    *(Benchmark(f"NAS-Bench-Graph {name}, latency", "nasbenchgraph", NETWORKS.format(name),
                "latency_ms", "valid_top1") for name in ("cora", "arxiv", "computers", "cs")),
)


@cache
def opened(benchmark: Benchmark, data: str) -> tuple[SearchSpace, Any, SpaceCosts, list]:
    """Returns the space, the evaluator, the costs and the objectives of a benchmark."""
    path = str(Path(data) / benchmark.file)
    options = {"table": path, "accuracy": benchmark.accuracy}
    space = get_search_space(benchmark.space, **options)
    evaluator = OracleEvaluator(path) if benchmark.accuracy is None \
        else TableEvaluator(benchmark.space, options)
    costs = SpaceCosts(space)
    objectives = make_objectives(benchmark.objective, costs, reported=True)
    return space, evaluator, costs, objectives


def oracle_values(benchmark: Benchmark, data: str, X: np.ndarray) -> np.ndarray:
    """Returns the error and the objective (n, 2) of (n, n_var) vectors by the predictor."""
    space, oracle, _, (objective,) = opened(benchmark, data)
    return np.column_stack([100 - oracle.predict(space, X), objective.values(X)])


def best_front(benchmark: Benchmark, data: str) -> np.ndarray:
    """Returns the true front (k, 2) of a table, or what NSGA-II finds on a predictor."""
    space, evaluator, _, objectives = opened(benchmark, data)
    if isinstance(evaluator, TableEvaluator):
        values = true_values(evaluator, objectives)
        return values[non_dominated(values)]

    return nsga2_front(space, lambda X: oracle_values(benchmark, data, X), *DIRECT)


def values_of(benchmark: Benchmark, data: str, strategy: str, seed: int,
              iterations: int) -> np.ndarray:
    """Returns the (n, 2) values of what one search evaluates, in its order."""
    space, evaluator, costs, objectives = opened(benchmark, data)
    n_doe = N_DOE if iterations else BUDGETS[-1]
    search = Search(space, objectives, strategy, None, InProcess(evaluator), n_doe=n_doe,
                    n_iter=N_ITER, iterations=iterations, seed=seed, costs=costs,
                    uniform_sample=not iterations, progress=Progress(0, quiet=True))
    search.run()
    return search.F


def shares(F: np.ndarray, front: np.ndarray) -> list[float]:
    """Returns the share of the front's hypervolume after each budget, in percent."""
    reference = reference_point(front)
    whole = hypervolume(front, reference)
    return [100 * hypervolume(F[:budget], reference) / whole for budget in BUDGETS]


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("data", help="folder of the tables and predictors")
    p.add_argument("--seeds", type=int, default=10, help="searches on each benchmark")
    p.add_argument("--strategy", choices=sorted(STRATEGIES), default="msunas", help="strategy")
    p.add_argument("--workers", type=int, default=2, help="searches at a time")
    p.add_argument("--save", default="benchmarks/results", help="folder for the table")
    return p


def start(pool: Executor, benchmark: Benchmark, data: str, strategy: str, seeds: int
          ) -> Callable[[], list[str]]:
    """Submits the searches on a benchmark; what is returned waits for them and gives their row."""
    iterations = (BUDGETS[-1] - N_DOE) // N_ITER
    front = pool.submit(best_front, benchmark, data)
    runs = {kind: [pool.submit(values_of, benchmark, data, strategy, seed, kind)
                   for seed in range(seeds)] for kind in (iterations, 0)}

    def finish() -> list[str]:
        best = front.result()
        found, random = ([run.result() for run in runs[kind]] for kind in (iterations, 0))
        return row(benchmark.name, np.array([shares(F, best) for F in found]),
                   np.array([shares(F, best) for F in random]),
                   np.array([F[:, 0].min() - best[:, 0].min() for F in found]))

    return finish


def row(name: str, found: np.ndarray, random: np.ndarray, regrets: np.ndarray) -> list[str]:
    """Returns a line of the table: means over seeds, with the standard error of the last."""
    error = found[:, -1].std(ddof=1) / np.sqrt(len(found)) if len(found) > 1 else 0.0
    means = [f"{value:.1f}" for value in found.mean(axis=0)]
    return [name, *means[:-1], f"{means[-1]} ± {error:.1f}", f"{random[:, -1].mean():.1f}",
            f"{regrets.mean():.2f}"]


def main(args: argparse.Namespace) -> None:
    """Runs all searches, prints the table and writes `nine_<strategy>.md`."""
    if not Path(args.data).is_dir():
        raise UserError(f"{args.data}: no folder")
    rows = []
    with processes(args.workers) as pool:
        for finish in [start(pool, each, args.data, args.strategy, args.seeds)
                       for each in BENCHMARKS]:
            rows.append(finish())
            print(*rows[-1], sep="\t", flush=True)
    text = (f"{machine()}; {args.seeds} seeds, {args.strategy}\n\n"
            "Share of the best front's hypervolume in percent, and regret of the accuracy.\n\n"
            + table(("benchmark", *(f"after {budget}" for budget in BUDGETS),
                     f"random search, {BUDGETS[-1]}", "regret (%)"), rows) + "\n")
    publish(text, Path(args.save) / f"nine_{args.strategy}.md")


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
