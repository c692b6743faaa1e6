"""Times one step of the search (Algorithm 1, line 2) on an archive of 340 architectures.

    python benchmarks/search_step.py ORACLE [--lut LUT] [--predictor rbf] [--profile FILE]

ORACLE is the accuracy predictor of the OFA authors, which gives the archive real-looking errors.
A step is: fit the predictor, NSGA-II (population 40, 20 generations), subset selection.
"""

import argparse
import cProfile
import io
import pstats
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import benchmark_parser, machine, publish, table

from acc_predictor import PREDICTORS
from cli.scripts import run_script
from evaluator.oracle import OracleEvaluator
from search.objectives import SpaceCosts, make_objectives
from search.strategies import STRATEGIES, Task, get_strategy
from search.surrogate import Surrogate
from search_space import OFASearchSpace

ARCHIVE, K, REPEATS = 340, 8, 5
ORIGINAL = {"flops": "14 min", "cpu": "43 min"}


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("oracle", help="ofa_mbv3_acc_predictor.pth")
    p.add_argument("--lut", help="latency table; adds the step with --sec_obj cpu")
    p.add_argument("--predictor", choices=sorted(PREDICTORS), help="None: the strategy's")
    p.add_argument("--strategy", choices=sorted(STRATEGIES), default="msunas", help="strategy")
    p.add_argument("--profile", help="file for a profile of the step (flops)")
    return p


def main(args: argparse.Namespace) -> None:
    """Prints the table; the median of five steps each."""
    predictor = args.predictor or str(get_strategy(args.strategy).default_predictor)
    steps = {name: step_of(args.oracle, args.strategy, predictor, name, lut)
             for name, lut in {"flops": None, "cpu": args.lut}.items() if name == "flops" or lut}
    rows = []
    for name, step in steps.items():
        step(0)
        seconds = []
        for seed in range(REPEATS):
            start = time.perf_counter()
            step(seed)
            seconds.append(time.perf_counter() - start)
        rows.append((name, predictor, ORIGINAL[name], f"{np.median(seconds):.2f} s",
                     f"{min(seconds):.2f}..{max(seconds):.2f} s"))
    publish(f"{machine()}\n\n" + table(
        ("objective", "predictor", "original", "ours (median)", "range"), rows))
    if args.profile:
        write_profile(lambda: steps["flops"](1), args.profile)


def step_of(oracle: str, name: str, predictor: str | None = None, sec_obj: str = "flops",
            lut: str | None = None) -> Callable[[int], None]:
    """Returns a call that makes one step of the strategy `name` with a seed."""
    space = OFASearchSpace()
    X = np.array([space.encode(a) for a in space.initialize(ARCHIVE, rng=np.random.default_rng(0))])
    errors = 100 - np.asarray(OracleEvaluator(oracle).evaluate_many([space.decode(x) for x in X]))
    (objective,) = make_objectives(sec_obj, SpaceCosts(space, luts={"": lut} if lut else {}))
    strategy = get_strategy(name)
    model = predictor or str(strategy.default_predictor)

    def step(seed: int) -> None:
        F = np.column_stack([errors, objective.values(X)])
        surrogate = Surrogate(space, [objective], model, X, F, seed)
        chosen = strategy.propose(Task(space, X, F, X, surrogate), K, np.random.default_rng(seed))
        if chosen.shape != (K, space.n_var):
            raise RuntimeError(f"the step proposed {chosen.shape} instead of {K} architectures")

    return step


def write_profile(call, path: str) -> None:
    """Writes where `call` spends its time, by own time, as a text table."""
    profile = cProfile.Profile()
    profile.runcall(call)
    text = io.StringIO()
    stats = pstats.Stats(profile, stream=text).strip_dirs()
    stats.sort_stats("tottime").print_stats(25)
    lines = [line.rstrip() for line in text.getvalue().splitlines() if line.strip()]
    Path(path).write_text("\n".join([machine(), *lines]) + "\n")


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
