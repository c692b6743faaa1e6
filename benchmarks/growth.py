"""How a search grows with its archive: time and memory of a step, resuming, the report, the disk.

    python benchmarks/growth.py [--rows 340 1000 3000 10000] [--save FILE]

Each figure is that of a process of its own. A step fits the predictor to an archive of so many
random architectures of `mbv3`, whose errors are a formula with noise, and proposes eight.
"""

import argparse
import contextlib
import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import ROOT, benchmark_parser, machine, moment, peak_mib, publish, table

from acc_predictor import PREDICTORS
from cli.scripts import run_script
from search.algorithm import Search
from search.archive import Record
from search.objectives import SpaceCosts, make_objectives
from search_space import OFASearchSpace
from visualization.report import write_report

N_DOE, N_ITER, LIMIT = 100, 8, 600  # LIMIT: seconds after which a figure is given up
STEPS = [("resume", "resume:"), ("report", "report:"), ("`nsga2`", "nsga2:"),
         ("`ehvi`, `nngp`", "ehvi:nngp"),
         *((f"`msunas`, `{name}`", f"msunas:{name}") for name in sorted(PREDICTORS, reverse=True))]


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("--rows", type=int, nargs="+", default=[340, 1000, 3000, 10000])
    p.add_argument("--only", help="one figure, such as msunas:rbf or resume:")
    p.add_argument("--save", help="file for the table")
    p.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    return p


def main(args: argparse.Namespace) -> None:
    """Prints the table, or with `--measure` one of its figures."""
    if args.measure:
        print(measure(args.measure[0], int(args.measure[1])))
        return
    rows: list[list[str]] = []
    for label, what in STEPS:
        if args.only in (None, what):
            rows.append([label, *(figure(what, n) for n in args.rows)])
            publish(f"{machine()}; {moment()}\n\nSeconds of CPU (of the clock) and peak memory "
                    "of the process; one thread of BLAS.\n\n"
                    + table(["", *(f"{n} rows" for n in args.rows)], rows), args.save)


def figure(what: str, n: int) -> str:
    """Returns one cell, measured in a process of its own."""
    command = [sys.executable, __file__, "--measure", what, str(n)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return f"more than {LIMIT} s"
    text = done.stdout if done.returncode == 0 else done.stderr
    return text.strip().splitlines()[-1]


def measure(what: str, n: int) -> str:
    """Returns the time and the memory of a step, of resuming or of a report, with `n` rows."""
    kind, _, predictor = what.partition(":")
    note = ""
    with tempfile.TemporaryDirectory() as folder:
        if kind in ("resume", "report"):
            grown("nsga2", None, n, Path(folder))
            size = sum(path.stat().st_size for path in Path(folder).glob("iter_*.stats"))
            note = f", {size / 1e6:.0f} MB of stats"
        search = grown("nsga2" if note else kind, predictor or None, 0 if note else n,
                       Path(folder) if note else None)
        began, cpu = time.perf_counter(), time.process_time()
        if kind == "report":
            write_report(Path(folder) / "report.html", [folder])
        elif kind == "resume":
            search.restore()
        elif search.ask() is None:
            raise RuntimeError("nothing was proposed")
        seconds, clock = time.process_time() - cpu, time.perf_counter() - began
    return f"{seconds:.1f} s ({clock:.1f} s), {peak_mib() / 1024:.2f} GB{note}"


def grown(strategy: str, predictor: str | None, n: int, folder: Path | None) -> Search:
    """Returns a search with `n` architectures in its archive; in `folder` in iterations."""
    space = OFASearchSpace()
    objectives = make_objectives("flops", SpaceCosts(space))
    search = Search(space, objectives, strategy, predictor, folder=folder, n_doe=N_DOE,
                    iterations=2000, n_iter=N_ITER)
    rng = np.random.default_rng(0)
    X = space.draw(n, rng) if n else np.empty((0, space.n_var), dtype=int)
    errors = formula(X, rng)
    flops = objectives[0].values(X) if n else []
    records = [Record(space.decode(x), float(error), float(cost))
               for x, error, cost in zip(X, errors, flops, strict=True)]
    ends = [*range(N_DOE, n, N_ITER), n] if folder else [n]
    with contextlib.redirect_stdout(io.StringIO()):
        for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            if end > start:
                search.add(number, records[start:end], X[start:end])
    return search


def formula(X: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns smooth errors (n,) in percent of (n, n_var) vectors, with noise."""
    x = X / np.maximum(OFASearchSpace().upper, 1)
    weights = np.cos(np.arange(X.shape[1])) ** 2 + 0.2
    capacity = 1 - np.exp(-3 * (x @ weights) / weights.sum())
    return 40 - 30 * capacity - x[:, 5] * x[:, 20] + rng.normal(0, 0.05, len(X))


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
