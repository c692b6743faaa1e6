"""Tables with gaps: is a search as good if combinations are missing?

    python benchmarks/gaps.py DATA [--seeds 10] [--save benchmarks/results]

Rows of NAS-Bench-201 and NAS-Bench-Graph are left out at random; each search is compared with the
true front of the rows that it had. Columns as in nine.py.
"""

import argparse
import csv
import gzip
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from common import benchmark_parser, machine, processes, publish, table
from nine import BENCHMARKS, BUDGETS, Benchmark, start

from cli.scripts import run_script

KEPT = (1.0, 0.5, 0.2)  # share of the rows
NAMES = ("NAS-Bench-201 CIFAR-10, FLOPs", "NAS-Bench-Graph arxiv, latency")


def with_gaps(benchmark: Benchmark, data: Path, kept: float, folder: Path) -> Benchmark:
    """Returns the benchmark on a table in `folder` with a random share of the rows."""
    with gzip.open(data / benchmark.file, "rt", newline="") as file:
        head, *rows = csv.reader(file)
    chosen = np.random.default_rng(0).permutation(len(rows))[:round(kept * len(rows))]
    name = f"{benchmark.name}, {len(chosen)} of {len(rows)} rows"
    path = folder / f"{kept}_{benchmark.file}"
    with gzip.open(path, "wt", newline="") as file:
        csv.writer(file).writerows([head, *(rows[i] for i in np.sort(chosen))])
    return replace(benchmark, name=name, file=str(path))


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("data", type=Path, help="folder of the tables")
    p.add_argument("--seeds", type=int, default=10, help="searches on each table")
    p.add_argument("--workers", type=int, default=2, help="searches at a time")
    p.add_argument("--save", type=Path, default="benchmarks/results", help="folder for the table")
    return p


def main(args: argparse.Namespace) -> None:
    """Runs all searches, prints the table and writes `gaps.md`."""
    rows = []
    with TemporaryDirectory() as folder, processes(args.workers) as pool:
        for finish in [start(pool, with_gaps(each, args.data, kept, Path(folder)), "", "msunas",
                             args.seeds)
                       for each in BENCHMARKS if each.name in NAMES for kept in KEPT]:
            rows.append(finish())
            print(*rows[-1], sep="\t", flush=True)
    text = (f"{machine()}; {args.seeds} seeds, msunas\n\n"
            "Share of the hypervolume of the true front of the rows that are there, in percent, "
            "and regret of the accuracy.\n\n"
            + table(("table", *(f"after {budget}" for budget in BUDGETS),
                     f"random search, {BUDGETS[-1]}", "regret (%)"), rows) + "\n")
    publish(text, args.save / "gaps.md")


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
