"""What --warm_start saves: hypervolume against new evaluations, with and without it.

    python benchmarks/warm_start.py DATA [--seeds 10-14] [--save benchmarks/results/warm_start.md]

Each scenario has two searches by msunas: an earlier one of 340 evaluations, and a new one. The new
one starts cold (100 architectures as in the paper) or from the earlier one. Where the accuracies
are the same (another objective, a constraint) its rows cost nothing, and 240 evaluations follow;
where they are not (another data set) its 100 best architectures are evaluated in place of the
random sample. DATA is the folder of quality.py.
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from common import benchmark_parser, machine, publish, table
from quality import BENCHMARKS, Benchmark, seeds_of

from cli.scripts import run_script
from search import Search
from search.archive import stats_file
from search.constraints import Constraints
from search.run_folder import RunFolder
from search.warm_start import read_warm_start
from utils.pareto import normalized_hypervolume

BUDGETS = (16, 40, 100, 140, 180, 240, 340)
STRATEGY = "msunas"


@dataclass(frozen=True)
class Scenario:
    """Two searches, and whether the rows of the first are worth something in the second."""

    name: str
    before: Benchmark
    after: Benchmark
    reused: bool
    constraint: str | None = None

    def within(self, F: np.ndarray) -> np.ndarray:
        """Returns the rows of (n, 2) objectives within the constraint, as `flops<=300`."""
        if self.constraint is None:
            return F
        kept: np.ndarray = F[F[:, 1] <= float(self.constraint.partition("<=")[2])]
        return kept

    def search(self, data: Path, seed: int) -> Search:
        """Returns the second search, ready to run."""
        search = self.after.search(data, STRATEGY, seed)
        search.constraints = Constraints(self.constraint, search.objectives, search.costs)
        return search

    def curve(self, search: Search, free: int) -> list[float]:
        """Returns the hypervolume after each budget of new evaluations; the first rows are free."""
        return [normalized_hypervolume(self.within(search.F[:free + budget]), self.after.reference)
                for budget in BUDGETS]


MBV3 = BENCHMARKS["mbv3"]
SCENARIOS = (
    Scenario("MobileNetV3 oracle: FLOPs, then parameters", MBV3,
             replace(MBV3, objective="params", reference=(30.0, 10.0)), reused=True),
    Scenario("MobileNetV3 oracle: FLOPs, then FLOPs <= 250M", MBV3,
             replace(MBV3, reference=(30.0, 250.0)), reused=True, constraint="flops<=250"),
    Scenario("NAS-Bench-201: CIFAR-10, then ImageNet16-120", BENCHMARKS["nb201-cifar10"],
             BENCHMARKS["nb201-imagenet16"], reused=False),
    Scenario("NAS-Bench-Graph: Cora, then Computers", BENCHMARKS["graph-cora"],
             BENCHMARKS["graph-computers"], reused=False),
)


def curves(scenario: Scenario, data: Path, seed: int) -> tuple[list[float], list[float]]:
    """Returns the hypervolumes of one seed: cold, and from the earlier search."""
    cold = scenario.search(data, seed)
    cold.run()
    with tempfile.TemporaryDirectory() as folder:
        earlier = scenario.before.search(data, STRATEGY, 1000 + seed)
        earlier.folder = RunFolder(folder)
        earlier.run()
        warm = scenario.search(data, seed)
        start = read_warm_start(stats_file(folder), warm.space, warm.objectives, {}, {},
                                scenario.reused)
    start.apply(warm)
    free = len(warm.archive)
    warm.run()
    return scenario.curve(cold, 0), scenario.curve(warm, free)


def saved(cold: np.ndarray, warm: np.ndarray) -> str:
    """Returns after how many new evaluations the warm mean has the cold one's last value."""
    reached = np.flatnonzero(warm >= cold[-1])
    return str(BUDGETS[reached[0]]) if len(reached) else f"more than {BUDGETS[-1]}"


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("data", type=Path, help="folder of predictors and tables")
    p.add_argument("--seeds", type=seeds_of, default="10-14", help="one seed, or first-last")
    p.add_argument("--save", type=Path, help="file for the table as well")
    return p


def main(args: argparse.Namespace) -> None:
    """Runs all scenarios and prints the table."""
    rows: list[tuple[object, ...]] = []
    for scenario in SCENARIOS:
        found = np.array([curves(scenario, args.data, seed) for seed in args.seeds])
        cold, warm = mean = found.mean(axis=0)
        errors = found.std(axis=0, ddof=min(1, len(found) - 1)) / np.sqrt(len(found))
        for kind, values, error in zip(("cold", "warm"), mean, errors, strict=True):
            rows.append((scenario.name, kind, *(f"{v:.4f} ± {e:.4f}" for v, e in zip(
                values, error, strict=True)), saved(cold, warm) if kind == "warm" else ""))
            print(*rows[-1], sep=" | ", flush=True)
    text = (f"{machine()}; {STRATEGY}, {len(args.seeds)} seeds, mean ± standard error of the "
            "hypervolume after so many new evaluations\n\n"
            + table(("searches", "start", *BUDGETS, f"has cold's {BUDGETS[-1]} by"), rows) + "\n")
    publish(text, args.save)


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
