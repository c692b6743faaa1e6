"""What a constraint is worth: a search within it against one without, on the accuracy oracle.

    python benchmarks/constraints.py ORACLE [--seeds 10] [--constraint 'flops<=200']
        [--iterations 10] [--save benchmarks/results]

ORACLE is the accuracy predictor of the OFA authors. Both searches make the same number of
evaluations with the paper's strategy; what counts is the hypervolume (reference: error 30 %, the
limit) and the least error within the limit.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from common import benchmark_parser, machine, processes, publish, table

from cli.scripts import run_script
from evaluator.jobs import InProcess
from evaluator.oracle import OracleEvaluator
from search import Constraints, Progress, Search, SpaceCosts, make_objectives
from search_space import OFASearchSpace
from utils.pareto import normalized_hypervolume

WORST_ERROR = 30.0


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("oracle", help="ofa_mbv3_acc_predictor.pth")
    p.add_argument("--seeds", type=int, default=10, help="searches of each kind")
    p.add_argument("--constraint", default="flops<=200", help="one limit on flops")
    p.add_argument("--iterations", type=int, default=10, help="after 100 initial evaluations")
    p.add_argument("--workers", type=int, default=2, help="searches at a time")
    p.add_argument("--save", default="benchmarks/results", help="folder for the table")
    return p


def within(args: argparse.Namespace, seed: int, constrained: bool) -> tuple[float, float, int]:
    """Returns hypervolume and least error within the limit, and how many evaluations lie there."""
    space = OFASearchSpace()
    costs = SpaceCosts(space)
    objectives = make_objectives("flops", costs)
    search = Search(space, objectives, engine=InProcess(OracleEvaluator(args.oracle)),
                    iterations=args.iterations, seed=seed, costs=costs,
                    constraints=args.constraint if constrained else None,
                    progress=Progress(0, quiet=True))
    search.run()
    (limit,) = Constraints(args.constraint, objectives, costs).limits
    F = search.F[limit.holds(search.F[:, 1])]
    return (normalized_hypervolume(F, [WORST_ERROR, limit.bound]), float(F[:, 0].min()), len(F))


def main(args: argparse.Namespace) -> None:
    """Runs all searches, prints the table and writes `constraints.md`."""
    with processes(args.workers) as pool:
        runs = {constrained: [pool.submit(within, args, seed, constrained)
                              for seed in range(args.seeds)] for constrained in (True, False)}
        found = {name: np.array([future.result() for future in futures])
                 for name, futures in runs.items()}
    error = {name: values.std(axis=0, ddof=1) / np.sqrt(len(values))
             for name, values in found.items()}
    rows = [("with" if name else "without", f"{values[:, 0].mean():.4f} ± {error[name][0]:.4f}",
             f"{values[:, 1].mean():.3f} ± {error[name][1]:.3f}", f"{values[:, 2].mean():.0f}")
            for name, values in found.items()]
    better = int((found[True][:, 0] > found[False][:, 0]).sum())
    text = (f"{machine()}; {args.seeds} seeds, {args.constraint}, "
            f"{100 + 8 * args.iterations} evaluations each\n\n" + table(
                ("constraint", "hypervolume within (mean ± standard error)", "least error (%)",
                 "evaluations within"), rows)
            + f"\n\nWith the constraint more is found in {better} of {args.seeds} seeds.\n")
    publish(text, Path(args.save) / "constraints.md")


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
