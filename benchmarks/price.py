"""What the original's front costs: device-time to its final hypervolume, its way against ours.

    python benchmarks/price.py benchmarks/results/quality.json --seconds ORIGINAL OURS [--save FILE]

The price of a front is (evaluations until the hypervolume is reached) x (seconds of one). The first
factor comes from the curves of `quality.py` on the oracle `mbv3`; the second is what
`evaluation_speed.py` measured for one evaluation the original's way and ours.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from common import benchmark_parser, publish, table
from quality import BUDGETS, ORIGINAL, TEXTBOOK, curves_of

from cli.scripts import run_script
from cli.types import amount
from search.comparison import evaluations_to
from utils.errors import UserError
from utils.files import read_json

BENCHMARK = "mbv3"


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("curves", type=Path, help="quality.json")
    p.add_argument("--seconds", type=amount, nargs=2, metavar=("ORIGINAL", "OURS"), required=True,
                   help="of one evaluation, the original's way and ours")
    p.add_argument("--save", type=Path, help="file for the table as well")
    return p


def main(args: argparse.Namespace) -> None:
    """Prints the table."""
    curves = curves_of(read_json(args.curves, "curves"), BENCHMARK)
    if not curves:
        raise UserError(f"{args.curves}: no curves of {BENCHMARK}; run benchmarks/quality.py first")
    budget, target = max(ORIGINAL.items())
    theirs, ours = args.seconds
    rows: list[tuple[object, ...]] = [("original program", 5, budget, 1.0, theirs, 1.0,
                                       f"{budget * theirs:.0f}", 1.0)]
    for strategy, values in curves.items():
        needed = evaluations_to(target, BUDGETS, values.mean(axis=0))
        if needed is None:
            most = BUDGETS[np.flatnonzero(~np.isnan(values).any(axis=0))[-1]]
            rows.append((strategy, len(values), f"more than {most}", "-", ours, "-", "-", "-"))
        else:
            rows.append((strategy, len(values), f"{needed:.0f}", f"{budget / needed:.2f}", ours,
                         f"{theirs / ours:.2f}", f"{needed * ours:.0f}",
                         f"{budget * theirs / (needed * ours):.2f}"))
    text = (f"Device-seconds to the original's hypervolume on {BENCHMARK}, {target}\n\n"
            + table(("strategy", "seeds", "evaluations", "factor", "seconds of one", "factor",
                     "device-seconds", "factor of both"), rows)
            + "\n\nSeconds: one evaluation on one CPU thread at 64 px with 2,000 + 10,000 images, "
            f"plain and folded (`evaluation_speed.md`).\n`{TEXTBOOK}` counts all of a standard "
            "deviation.\n")
    publish(text, args.save)


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
