"""Times a whole search on the accuracy-predictor oracle, imports included, and its peak memory.

    python benchmarks/whole_search.py ORACLE [--runs 3] [--save benchmarks/results/whole_search.md]

The command is `python msunas.py --evaluator oracle --oracle_path ORACLE` with its defaults: 340
evaluations, rbf. Memory is the peak resident set that the kernel reports for each process.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from common import ROOT, benchmark_parser, machine, publish, table

from cli.scripts import run_script
from utils.errors import UserError


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("oracle", help="ofa_mbv3_acc_predictor.pth")
    p.add_argument("--runs", type=int, default=3, help="searches, each from the start")
    p.add_argument("--save", default="benchmarks/results/whole_search.md", help="file of the table")
    return p


def peak_mib(pid: int) -> float:
    """Returns the peak resident memory of a running process in MiB; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return max((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")),
               default=0.0)


def search(oracle: str, folder: str) -> tuple[float, float, float]:
    """Runs one search; returns its seconds, and the peak MiB of the main process and a worker."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "msunas.py", "--evaluator", "oracle", "--oracle_path", oracle, "--save",
         folder], cwd=ROOT, stdout=subprocess.DEVNULL)
    main = worker = 0.0
    while process.poll() is None:
        main = max(main, peak_mib(process.pid))
        try:
            children = psutil.Process(process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            children = []
        worker = max([worker, *(peak_mib(child.pid) for child in children)])
        time.sleep(0.1)
    if process.returncode:
        raise UserError(f"the search ended with exit code {process.returncode}")
    return time.perf_counter() - start, main, worker


def main(args: argparse.Namespace) -> None:
    """Prints and writes the table."""
    with tempfile.TemporaryDirectory() as folder:
        runs = np.array([search(args.oracle, f"{folder}/{i}") for i in range(args.runs)])
    seconds, main_mib, worker_mib = runs.T
    rows = [("whole search, 340 evaluations", "7 h", "30 s", f"{np.median(seconds):.1f} s"),
            ("peak memory of the main process", "-", "300 MiB", f"{main_mib.max():.0f} MiB"),
            ("peak memory of a worker", "-", "900 MiB", f"{worker_mib.max():.0f} MiB")]
    text = f"{machine()}; median of {args.runs} runs, greatest memory\n\n" + table(
        ("what", "original", "target", "ours"), rows) + "\n"
    publish(text, args.save)


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
