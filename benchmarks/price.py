"""What the original's front costs: device-time to its final hypervolume, its way against ours.

    python benchmarks/price.py benchmarks/results/quality.json --seconds ORIGINAL OURS
        [--noise benchmarks/results/noise.json] [--save FILE]

The price of a front is (evaluations until the hypervolume is reached) x (seconds of one). The first
factor comes from the curves of `quality.py` on the oracle `mbv3`; the second is what
`evaluation_speed.py` measured for one evaluation the original's way and ours.

`--noise` adds the same under noise (`noise.py`): what counts is the true hypervolume of what is
delivered. The paper's strategy with its front of measured accuracies stands for the original; each
part is shown alone, and then all together.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from common import benchmark_parser, publish, table
from noise import FRONTS, by_column
from quality import BUDGETS, ORIGINAL, TEXTBOOK, curves_of

from cli.scripts import run_script
from cli.types import amount
from search.comparison import evaluations_to
from utils.errors import UserError
from utils.files import read_json

BENCHMARK = "mbv3"
CALIBRATION = 2000  # images
# Validation images that have this sampling error at 80 %, by problem of `noise.py`.
IMAGES = {"mbv3@0.4": 10_000, "mbv3@0.57": 5_000, "mbv3@0.8": 2_500}
# Problem, strategy, what the front is delivered by, and whether evaluations are folded: the
# original, each part alone, all together.
ORIGINAL_PART = ("mbv3@0.4", "msunas", "measured", False)
PARTS = (ORIGINAL_PART, ("mbv3@0.4", "ehvi", "measured", False),
         ("mbv3@0.4", "msunas", "model", False), ("mbv3@0.8", "msunas", "measured", False),
         ("mbv3@0.4", "msunas", "measured", True), ("mbv3@0.4", "ehvi", "model", False),
         ("mbv3@0.4", "ehvi", "model", True), ("mbv3@0.57", "ehvi", "model", True),
         ("mbv3@0.8", "ehvi", "model", True))


def noise_table(known: dict[str, list[float]], speed_up: float) -> str:
    """Returns the prices under noise, in Markdown: strategy, delivery and folding, one by one.

    Args:
        known: of `noise.json`.
        speed_up: seconds of one evaluation the original's way divided by ours.
    """
    columns = by_column(known)

    def curve_of(problem: str, strategy: str, front: str) -> dict[int, float]:
        return {budget: float(values[:, FRONTS.index(front)].mean())
                for (*key, budget), values in columns.items() if key == [problem, strategy]}

    most, rows = BUDGETS[-1], list[tuple[object, ...]]()
    target = curve_of(*ORIGINAL_PART[:3])[most]
    for problem, strategy, front, folding in PARTS:
        curve = curve_of(problem, strategy, front)
        unbounded = (problem, strategy, front) != ORIGINAL_PART[:3]
        if not curve:
            continue
        needed = evaluations_to(target, [*curve], np.array([*curve.values()]))
        cheaper = (IMAGES[ORIGINAL_PART[0]] + CALIBRATION) / (IMAGES[problem] + CALIBRATION)
        factor = cheaper * (speed_up if folding else 1.0)
        rows.append((strategy, front, IMAGES[problem], "yes" if folding else "no",
                     f"more than {max(curve)}" if needed is None else
                     f"{'at most ' if unbounded and needed == min(curve) else ''}{needed:.0f}",
                     "-" if needed is None else f"{most / needed * factor:.2f}"))
    return ("\nUnder noise: device-seconds until what is delivered has the true hypervolume that "
            f"the paper's strategy delivers by measured accuracies after {most} evaluations on "
            f"10,000 images, {target:.4f} (`noise.py`, noise 0.4; 0.57 with 5,000 images, 0.8 with "
            f"2,500, and {CALIBRATION:,} of calibration in all)\n\n"
            + table(("strategy", "delivered by", "images", "folded", "evaluations", "factor"),
                    rows) + "\n")


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("curves", type=Path, help="quality.json")
    p.add_argument("--seconds", type=amount, nargs=2, metavar=("ORIGINAL", "OURS"), required=True,
                   help="of one evaluation, the original's way and ours")
    p.add_argument("--noise", type=Path, help="noise.json, for the price under noise as well")
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
    if args.noise:
        text += noise_table(read_json(args.noise, "results"), theirs / ours)
    publish(text, args.save)


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
