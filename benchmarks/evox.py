"""Our strategies on problems of EvoXBench, next to the published means at 10,000 evaluations.

    EVOX/bin/python benchmarks/evox.py [--problems in1kmop7 in1kmop2 c10mop1] [--seeds 0-9]
        [--strategies ehvi msunas] [--budgets 340 1000] [--save benchmarks/results/evoxbench.md]

EVOX is an environment with requirements.lock and the package evoxbench, which is set up with its
data as its README says. A hypervolume is that of the front of the archive, by noisy validation
accuracies as in the benchmark, measured with test accuracies by the package (its `hv`).
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from common import benchmark_parser, machine, processes, publish, table
from quality import BATCH, N_DOE, SMALL_DOE, seeds_of

from cli.scripts import run_script
from cli.types import count
from evaluator.evoxbench import EvoXBenchEvaluator
from evaluator.jobs import InProcess
from search import Progress, Search, SpaceCosts, get_strategy, make_objectives
from search.comparison import mean_and_error
from search.strategies import STRATEGIES
from utils.pareto import non_dominated
from utils.registry import EVOXBENCH

# Means at 10,000 evaluations: NSGA-II, and the best of the first and of the second competition.
PUBLISHED = {"in1kmop7": (0.8596, 0.8954, 0.9198), "in1kmop2": (0.8687, 0.8853, 0.8867),
             "c10mop1": (0.9156, 0.9434, 0.9439)}
HEADER = ("problem", "strategy", "seeds")
OTHERS = ("NSGA-II, 10,000", "best of the first competition", "best of the second")


def curve(problem: str, strategy: str, seed: int, budgets: list[int]) -> list[float]:
    """Returns the hypervolume after each budget of one search."""
    evaluator = EvoXBenchEvaluator(EVOXBENCH + problem, seed)
    costs = SpaceCosts(evaluator.space)
    n_doe = min(N_DOE.get(strategy, SMALL_DOE), budgets[0])
    objectives = make_objectives("+".join(evaluator.names), costs, reported=True)
    search = Search(evaluator.space, objectives, get_strategy(strategy), n_doe=n_doe, n_iter=BATCH,
                    iterations=-(-(budgets[-1] - n_doe) // BATCH), seed=seed, costs=costs,
                    engine=InProcess(evaluator), progress=Progress(0, quiet=True))
    search.run()
    return [evaluator.hypervolume(search.X[:budget][non_dominated(search.F[:budget])])
            for budget in budgets]


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("--problems", nargs="+", default=list(PUBLISHED), help="of EvoXBench")
    p.add_argument("--strategies", nargs="+", choices=sorted(STRATEGIES),
                   default=["ehvi", "msunas"], help="which")
    p.add_argument("--seeds", type=seeds_of, default="0-9", help="one seed, or first-last")
    p.add_argument("--budgets", type=count(2), nargs="+", default=[340, 1000],
                   help="evaluations, ascending")
    p.add_argument("--workers", type=count(1), default=2, help="searches at a time")
    p.add_argument("--save", type=Path, default=Path("benchmarks/results/evoxbench.md"),
                   help="file for the table")
    return p


def main(args: argparse.Namespace) -> None:
    """Runs all searches; prints and writes the table."""
    rows = []
    with processes(args.workers) as pool:
        jobs = {(problem, strategy): [pool.submit(curve, problem, strategy, seed, args.budgets)
                                      for seed in args.seeds]
                for problem in args.problems for strategy in args.strategies}
        for names, seeds in jobs.items():
            means, errors = mean_and_error(np.array([job.result() for job in seeds]))
            rows.append((*names, len(seeds), *(f"{mean:.4f} ± {error:.4f}" for mean, error in
                                               zip(means, errors, strict=True)),
                         *PUBLISHED.get(names[0], ("",) * len(OTHERS))))
    publish(f"{machine()}. Mean ± standard error of the hypervolume after so many evaluations.\n\n"
            + table((*HEADER, *args.budgets, *OTHERS), rows) + "\n", args.save)


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
