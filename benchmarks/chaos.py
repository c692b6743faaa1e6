"""Kills searches at random moments and compares what becomes of them with undisturbed runs.

    python benchmarks/chaos.py ORACLE [--kills 100] [--worker_kills 50] [--digits_kills 5]
        [--save benchmarks/results/chaos.md]

ORACLE is the accuracy predictor of the OFA authors: it answers quickly, so that a small search of
msunas.py takes seconds. `main`: SIGKILL of the search, then --resume. `worker`: SIGKILL of one of
its workers. `digits`: SIGKILL of a search with the embedded supernet. Each must end with files
equal to the last byte, and leave no process behind.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from common import ROOT, machine, table

from utils.errors import UserError, run_script

ORACLE = ("--n_doe", "60", "--iterations", "3", "--n_iter", "8")
DIGITS = ("--dataset", "digits", "--n_doe", "50", "--iterations", "2", "--n_iter", "4")


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = argparse.ArgumentParser(prog="chaos.py", description=__doc__.splitlines()[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("oracle", help="ofa_mbv3_acc_predictor.pth")
    p.add_argument("--kills", type=int, default=100, help="kills of a search")
    p.add_argument("--worker_kills", type=int, default=50, help="kills of a worker")
    p.add_argument("--digits_kills", type=int, default=5, help="kills of a search on digits")
    p.add_argument("--seed", type=int, default=0, help="of the moments")
    p.add_argument("--save", default="benchmarks/results/chaos.md", help="file for the table")
    return p


def start(flags: list[str]) -> subprocess.Popen:
    """Starts msunas.py."""
    return subprocess.Popen([sys.executable, "msunas.py", *flags], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(flags: list[str]) -> None:
    """Runs msunas.py to its end."""
    process = start(flags)
    output, _ = process.communicate()
    if process.returncode:
        raise UserError(f"msunas.py {' '.join(flags)} ended with {process.returncode}: "
                        f"{output[-2000:]}")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run but its settings, which name the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and path.name != "settings.json"}


def kill_search(flags: list[str], folder: Path, moment: float) -> tuple[bool, int]:
    """Kills the search after `moment` seconds and resumes it.

    Returns:
        Whether the kill came before its end, and how many processes outlived it by 10 s.
    """
    process = start([*flags, "--save", str(folder)])
    time.sleep(moment)
    in_time = process.poll() is None
    children = psutil.Process(process.pid).children(recursive=True) if in_time else []
    process.send_signal(signal.SIGKILL)
    process.wait()
    orphans = len(psutil.wait_procs(children, timeout=10)[1])
    if (folder / "settings.json").exists():
        finish(["--resume", str(folder)])
    else:
        finish([*flags, "--save", str(folder)])
    return in_time, orphans


def kill_worker(flags: list[str], folder: Path, moment: float) -> tuple[bool, int]:
    """Kills one worker after `moment` seconds; the search must end by itself; as `kill_search`."""
    process = start([*flags, "--save", str(folder)])
    time.sleep(moment)
    workers = psutil.Process(process.pid).children() if process.poll() is None else []
    for worker in workers[:1]:
        worker.kill()
    output, _ = process.communicate()
    if process.returncode:
        raise UserError(f"the search ended with {process.returncode}: {output[-2000:]}")
    return bool(workers), len(psutil.wait_procs(workers, timeout=10)[1])


def trial(kind, flags: list[str], n: int, rng: random.Random) -> tuple[int, int, int]:
    """Returns (kills that came in time, identical endings, orphans) of n disturbed runs."""
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "reference"
        begin = time.monotonic()
        finish([*flags, "--save", str(reference)])
        length = time.monotonic() - begin
        expected = contents(reference)
        in_time = identical = orphans = 0
        for i in range(n):
            run = Path(folder) / f"run {i}"
            killed, left = kind(flags, run, rng.uniform(0, length))
            in_time, orphans = in_time + killed, orphans + left
            identical += contents(run) == expected
            print(f"{kind.__name__} {i + 1}/{n}: {identical} identical, {orphans} orphans",
                  flush=True)
    return in_time, identical, orphans


def main(args: argparse.Namespace) -> None:
    """Runs the trials and writes the table."""
    rng = random.Random(args.seed)
    oracle = ["--evaluator", "oracle", "--oracle_path", args.oracle, *ORACLE]
    trials = [("SIGKILL of the search, then --resume (oracle)", kill_search, oracle, args.kills),
              ("SIGKILL of a worker (oracle)", kill_worker, oracle, args.worker_kills),
              ("SIGKILL of the search, then --resume (digits)", kill_search, list(DIGITS),
               args.digits_kills)]
    rows = []
    for name, kind, flags, n in trials:
        if n:
            in_time, identical, orphans = trial(kind, flags, n, rng)
            rows.append((name, n, in_time, f"{identical} of {n}", orphans))
    text = f"{machine()}; seed {args.seed}\n\n" + table(
        ("fault", "runs", "killed before the end", "byte-identical endings", "orphans"),
        rows) + "\n"
    print(text)
    path = Path(args.save)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
