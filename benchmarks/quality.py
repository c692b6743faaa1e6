"""Search quality on the accuracy-predictor oracle: hypervolume against evaluations, over seeds.

    python benchmarks/quality.py ORACLE [--seeds 10] [--predictor rbf] [--save benchmarks/results]

ORACLE is the accuracy predictor of the OFA authors. Reference point: error 30 %, 600 MFLOPs; the
hypervolume is divided by its product. Random search makes as many evaluations, NSGA-II straight
on the oracle 80,000. The searches are those of msunas.py, answered in this process.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from common import machine, table
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.operators.crossover.pntx import TwoPointCrossover
from pymoo.optimize import minimize

from acc_predictor import PREDICTORS
from cli.scripts import run_script
from evaluator.jobs import Job, Result
from evaluator.oracle import OracleEvaluator
from search import Progress, Search, SpaceCosts, make_objectives
from search.operators import CanonicalRepair, IntegerPolynomialMutation
from search.strategies import STRATEGIES, Task
from search.strategies.msunas import SurrogateProblem
from search_space import OFASearchSpace
from utils.pareto import normalized_hypervolume

REFERENCE = np.array([30.0, 600.0])
BUDGETS = (140, 180, 220, 260, 300, 340)
# The original program on this task, mean of 5 seeds; the last has a standard deviation of 0.0024.
ORIGINAL = (0.347, 0.3535, 0.356, 0.358, 0.360, 0.3614)
DIRECT = (200, 400)  # population x generations = 80,000 evaluations


class Direct:
    """An engine that answers in this process, one job after the other."""

    def __init__(self, oracle: OracleEvaluator) -> None:
        self.oracle = oracle

    def run(self, jobs: Sequence[Job]) -> Iterator[Result]:
        """Yields the results in the order of the jobs."""
        for job in jobs:
            yield Result(job, "ok", stats=self.oracle.evaluate(job.arch))


def curve(args: argparse.Namespace, seed: int, iterations: int, n_doe: int) -> list[float]:
    """Returns the hypervolume after each budget of one search."""
    space = OFASearchSpace()
    costs = SpaceCosts(space)
    search = Search(space, make_objectives("flops", space, costs=costs), args.strategy,
                    args.predictor, Direct(OracleEvaluator(args.oracle)), n_doe=n_doe,
                    iterations=iterations, seed=seed, costs=costs, uniform_sample=iterations == 0,
                    progress=Progress(0, quiet=True))
    search.run()
    return [normalized_hypervolume(search.F[:budget], REFERENCE) for budget in BUDGETS]


def direct_hypervolume(args: argparse.Namespace) -> float:
    """Returns the hypervolume of NSGA-II straight on the oracle."""
    space, oracle = OFASearchSpace(), OracleEvaluator(args.oracle)
    (objective,) = make_objectives("flops", space)

    class Truth:
        def predict(self, X):
            X = np.asarray(X, dtype=int)
            errors = 100 - np.asarray(oracle.evaluate_many([space.decode(x) for x in X]))
            return np.column_stack([errors, objective.values(X)])

    nothing = space.draw(0, np.random.default_rng(0))
    algorithm = NSGA2(pop_size=DIRECT[0], sampling=space.draw(DIRECT[0], np.random.default_rng(0)),
                      crossover=TwoPointCrossover(prob=0.9), mutation=IntegerPolynomialMutation(),
                      repair=CanonicalRepair(space.canonical))
    problem = SurrogateProblem(Task(space, nothing, np.zeros((0, 2)), nothing, Truth()))
    result = minimize(problem, algorithm, ("n_gen", DIRECT[1]), seed=0)
    return normalized_hypervolume(result.F, REFERENCE)


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = argparse.ArgumentParser(prog="quality.py", description=__doc__.splitlines()[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("oracle", help="ofa_mbv3_acc_predictor.pth")
    p.add_argument("--seeds", type=int, default=10, help="searches of each kind")
    p.add_argument("--strategy", choices=sorted(STRATEGIES), default="msunas", help="strategy")
    p.add_argument("--predictor", choices=sorted(PREDICTORS),
                   help="surrogate; None: the strategy's own")
    p.add_argument("--workers", type=int, default=2, help="searches at a time")
    p.add_argument("--direct", action="store_true", help="also NSGA-II straight on the oracle")
    p.add_argument("--save", default="benchmarks/results", help="folder for table and picture")
    return p


def main(args: argparse.Namespace) -> None:
    """Runs all searches, prints the table, and writes `quality.md` and `quality.png`."""
    seeds = range(args.seeds)
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
        searches = [pool.submit(curve, args, seed, 30, 100) for seed in seeds]
        randoms = [pool.submit(curve, args, seed, 0, BUDGETS[-1]) for seed in seeds]
        ours = np.array([future.result() for future in searches])
        random = np.array([future.result() for future in randoms])
    error = ours.std(axis=0, ddof=1) / np.sqrt(len(ours))
    rows = [(budget, original, f"{mean:.4f} ± {e:.4f}", f"{r:.4f}",
             "yes" if mean >= original - e else "no")
            for budget, original, mean, e, r in zip(BUDGETS, ORIGINAL, ours.mean(axis=0), error,
                                                    random.mean(axis=0), strict=True)]
    text = f"{machine()}; {args.seeds} seeds, {args.strategy}\n\n" + table(
        ("evaluations", "original", "ours (mean ± standard error)", "random search",
         "not below the original"), rows) + "\n"
    if args.direct:
        text += (f"\nNSGA-II straight on the oracle, {DIRECT[0] * DIRECT[1]} evaluations: "
                 f"{direct_hypervolume(args):.4f}\n")
    print(text)
    folder = Path(args.save)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "quality.md").write_text(text)
    draw(folder / "quality.png", ours, random)


def draw(path: Path, ours: np.ndarray, random: np.ndarray) -> None:
    """Draws hypervolume against evaluations with bands of one standard error."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for name, values, colour in (("ours", ours, "C0"), ("random search", random, "C7")):
        mean, error = values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(len(values))
        axes.plot(BUDGETS, mean, "o-", color=colour, label=f"{name}, {len(values)} seeds")
        axes.fill_between(BUDGETS, mean - error, mean + error, color=colour, alpha=0.25)
    axes.plot(BUDGETS, ORIGINAL, "s--", color="C1", label="original program, 5 seeds")
    axes.set(xlabel="evaluations", ylabel="normalised hypervolume",
             title="Oracle: error against MFLOPs, reference (30 %, 600 M)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
