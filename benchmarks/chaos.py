"""Kills searches at random moments and compares what becomes of them with undisturbed runs.

    python benchmarks/chaos.py ORACLE [--kills 100] [--worker_kills 50] [--digits_kills 5]
        [--save benchmarks/results/chaos.md]

ORACLE is the accuracy predictor of the OFA authors: a small search of msunas.py that it answers
takes seconds. The search itself is killed (SIGKILL) and resumed, or one of its workers is killed;
then the same with the embedded supernet of digits. The moments are uniform over the whole life of
an undisturbed run, start-up included; those that came after the end, or before there was a worker,
are drawn again. Each run must end with files equal to the last byte and leave no process behind.
"""

import argparse
import contextlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from common import ROOT, machine, table

from cli.scripts import run_script
from search.run_folder import EVENTS, RETRIES, SETTINGS
from utils.errors import UserError
from utils.files import write_text
from visualization.report import REPORT

ORACLE = ("--evaluator", "benchmarks.slow_oracle:SlowOracle",
          "--n_doe", "50", "--iterations", "3", "--n_iter", "8")
DIGITS = ("--dataset", "digits", "--n_doe", "50", "--iterations", "2", "--n_iter", "4")

# Chooses what to kill of a running search.
Victim = Callable[[psutil.Process, random.Random], psutil.Process | None]


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = argparse.ArgumentParser(prog="chaos.py", description=__doc__.splitlines()[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("oracle", help="ofa_mbv3_acc_predictor.pth")
    p.add_argument("--kills", type=int, default=100, help="kills of a search")
    p.add_argument("--worker_kills", type=int, default=50, help="kills of one of its workers")
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
    """Every file of a run but those that name its folder, retries or times."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and path.name not in (SETTINGS, RETRIES, EVENTS, REPORT)}


def the_search(search: psutil.Process, rng: random.Random) -> psutil.Process:
    """The search itself is killed."""
    return search


def a_worker(search: psutil.Process, rng: random.Random) -> psutil.Process | None:
    """One of its workers is killed; None while there is none."""
    workers = []
    for child in search.children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended
            if "evaluator.jobs.worker" in " ".join(child.cmdline()):
                workers.append(child)
    return rng.choice(workers) if workers else None


def disturb(flags: list[str], folder: Path, moment: float, victim: Victim,
            rng: random.Random) -> tuple[bool, int]:
    """Runs a search to its end, with a kill after `moment` seconds, and --resume if it needs that.

    Returns:
        Whether there was something to kill, and how many processes outlived the kill by 10 s
        although the search had ended.
    """
    process = start([*flags, "--save", str(folder)])
    time.sleep(moment)
    family, target = [], None
    if process.poll() is None:
        search = psutil.Process(process.pid)
        family, target = search.children(recursive=True), victim(search, rng)
    if target is not None:
        target.kill()
    output, _ = process.communicate()
    orphans = len(psutil.wait_procs(family, timeout=10)[1])
    if process.returncode == -signal.SIGKILL:
        started = (folder / SETTINGS).exists()
        finish(["--resume", str(folder)] if started else [*flags, "--save", str(folder)])
    elif process.returncode:
        raise UserError(f"the search ended with {process.returncode}: {output[-2000:]}")
    return target is not None, orphans


def trial(victim: Victim, flags: list[str], n: int, rng: random.Random) -> tuple[int, int, int]:
    """Returns (identical endings, runs with recorded retries, orphans) of n runs with a kill."""
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "reference"
        begin = time.monotonic()
        finish([*flags, "--save", str(reference)])
        length = time.monotonic() - begin
        expected = contents(reference)
        kills = identical = retried = orphans = 0
        while kills < n:
            run = Path(folder) / "a run"
            in_time, left = disturb(flags, run, rng.uniform(0, length), victim, rng)
            same = contents(run) == expected
            if not (same or in_time):
                raise UserError("an undisturbed run differs from the first one")
            if in_time:
                kills, identical, orphans = kills + 1, identical + same, orphans + left
                retried += (run / RETRIES).exists()
                print(f"{victim.__name__} {kills}/{n}: {identical} identical, {retried} with "
                      f"retries, {orphans} orphans", flush=True)
            shutil.rmtree(run)
    return identical, retried, orphans


def main(args: argparse.Namespace) -> None:
    """Runs the trials and writes the table."""
    rng = random.Random(args.seed)
    oracle = [*ORACLE, "--oracle_path", str(Path(args.oracle).resolve())]
    trials = [("SIGKILL of the search, then --resume (oracle)", the_search, oracle, args.kills),
              ("SIGKILL of a worker (oracle)", a_worker, oracle, args.worker_kills),
              ("SIGKILL of the search, then --resume (digits)", the_search, list(DIGITS),
               args.digits_kills)]
    rows = []
    for name, victim, flags, n in trials:
        if n:
            identical, retried, orphans = trial(victim, flags, n, rng)
            rows.append((name, n, f"{identical} of {n}", retried, orphans))
    text = f"{machine()}; seed {args.seed}\n\n" + table(
        ("fault", "kills", "byte-identical endings", "runs with a recorded retry", "orphans"),
        rows) + "\n"
    print(text)
    write_text(args.save, text)


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
