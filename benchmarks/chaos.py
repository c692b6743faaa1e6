"""Disturbs searches at random moments and compares what becomes of them with undisturbed runs.

    python benchmarks/chaos.py TABLE [--kills 100] [--worker_kills 50] [--digits_kills 5]
        [--asynchronous_kills 50]
        [--suspensions 50] [--renames 50] [--full_disks 30] [--copies 50] [--moves 30]
        [--changes 30]
        [--save benchmarks/results/chaos.md]

TABLE is NAS-Bench-201 (`nasbench201_200epochs.csv.gz`): a small search of msunas.py that it answers
takes seconds, and workers that need no torch. The search itself is killed (SIGKILL) and resumed, or
one of its workers is killed; the search is stopped (SIGSTOP) for longer than the timeout of an
evaluation; its folder is renamed; its disk is full after some files; a copy of it
(`--resume A --save B`) is killed and started again; it is killed and resumed from another folder
after its table was moved; the accuracies in its table change and a worker is killed, so that
another one reads the table; then kills with the embedded supernet of digits. The moments are
uniform over the whole life of an undisturbed run, start-up included; those that came after the end,
or before there was anything to disturb, are drawn again. Each run must end with files equal to the
last byte and leave no process behind.
"""

import argparse
import contextlib
import gzip
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil
from common import ROOT, benchmark_parser, machine, table

from cli.scripts import EXIT_BAD_INPUT, run_script
from search.run_folder import EVENTS, RETRIES, SETTINGS
from utils.errors import UserError
from utils.files import atomic_path, write_text
from visualization.report import REPORT

TABLE = ("--evaluator", "benchmarks.slow_table:SlowTable", "--search_space", "nasbench201",
         "--accuracy", "cifar10_test_top1", "--n_doe", "50", "--iterations", "3", "--n_iter", "8")
DIGITS = ("--dataset", "digits", "--n_doe", "50", "--iterations", "2", "--n_iter", "4")
# The digits as PNG files, read again and again by two loading processes: nothing fits in the cache.
STREAMED = ("--dataset", "folder", "--supernet_path", "data/ofa_digits_d234_e346_k357_w0.35",
            "--n_epochs", "0", "--resolutions", "32", "40", "48", "--n_workers", "2", "--cache_gb",
            "1e-6", "--vld_size", "200", "--n_doe", "10", "--iterations", "1", "--n_iter", "4",
            "--cpu_workers", "1")
LITTLE = ("unshare", "-rm", "bash", "-c",
          'mount -t tmpfs -o size=$0k tmpfs /dev/shm && exec "$@"')  # $0: KiB

TIMEOUT, SUSPENDED = 2.0, 3.0  # seconds
# Bytes of a disk: some files of a search fit, all do not.
DISK = (40_000, 400_000)
# Chooses what to kill of a running search.
Victim = Callable[[psutil.Process, random.Random], psutil.Process | None]
# Runs a search (flags, folder) to its end with a fault after so many seconds; returns whether there
# was something to disturb, and how many processes outlived the search by 10 s.
Fault = Callable[[list[str], Path, float, random.Random], tuple[bool, int]]


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("table", help="nasbench201_200epochs.csv.gz")
    p.add_argument("--kills", type=int, default=100, help="kills of a search")
    p.add_argument("--asynchronous_kills", type=int, default=50,
                   help="kills of an asynchronous search")
    p.add_argument("--worker_kills", type=int, default=50, help="kills of one of its workers")
    p.add_argument("--digits_kills", type=int, default=5, help="kills of a search on digits")
    p.add_argument("--suspensions", type=int, default=50, help="searches that are stopped a while")
    p.add_argument("--renames", type=int, default=50, help="folders renamed while in use")
    p.add_argument("--full_disks", type=int, default=30, help="searches whose disk is soon full")
    p.add_argument("--copies", type=int, default=50, help="kills of a copy of a search")
    p.add_argument("--moves", type=int, default=30, help="searches whose table is moved")
    p.add_argument("--changes", type=int, default=30, help="tables that change during a search")
    p.add_argument("--little_memory", type=int, default=10,
                   help="searches with a small /dev/shm (needs mount namespaces)")
    p.add_argument("--seed", type=int, default=0, help="of the moments")
    p.add_argument("--save", default="benchmarks/results/chaos.md", help="file for the table")
    return p


def start(flags: list[str], place: Path = ROOT, within: tuple[str, ...] = ()) -> subprocess.Popen:
    """Starts msunas.py in a folder; `within` is a command that runs another."""
    return subprocess.Popen([*within, sys.executable, str(ROOT / "msunas.py"), *flags], cwd=place,
                            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(flags: list[str], place: Path = ROOT) -> None:
    """Runs msunas.py to its end."""
    process = start(flags, place)
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


def resumed(flags: list[str], *more: str) -> list[str]:
    """The flags that resume a search; one that names code must be typed again."""
    named = ["--evaluator", flags[flags.index("--evaluator") + 1]] if "--evaluator" in flags else []
    return [*named, *more]


def outlived(family: list[psutil.Process]) -> int:
    """Returns how many processes are still there after 10 s."""
    return len(psutil.wait_procs(family, timeout=10)[1])


def check_ended(process: subprocess.Popen, output: str, *codes: int) -> None:
    """Raises UserError where a search ended with another code, or with a traceback."""
    if process.returncode not in codes or "Traceback" in output:
        raise UserError(f"the search ended with {process.returncode}: {output[-2000:]}")


def killed(victim: Victim, flags: list[str], folder: Path, moment: float,
           rng: random.Random) -> tuple[bool, int]:
    """Kills the victim; a search that was killed itself is resumed."""
    process = start([*flags, "--save", str(folder)])
    time.sleep(moment)
    family, target = [], None
    if process.poll() is None:
        search = psutil.Process(process.pid)
        family, target = search.children(recursive=True), victim(search, rng)
    if target is not None:
        target.kill()
    output, _ = process.communicate()
    orphans = outlived(family)
    check_ended(process, output, 0, -signal.SIGKILL)
    if process.returncode:
        started = (folder / SETTINGS).exists()
        finish(resumed(flags, "--resume", str(folder)) if started
               else [*flags, "--save", str(folder)])
    return target is not None, orphans


def suspended(flags: list[str], folder: Path, moment: float,
              rng: random.Random) -> tuple[bool, int]:
    """Stops the search for longer than an evaluation may take; its workers continue."""
    process = start([*flags, "--save", str(folder), "--timeout", str(TIMEOUT)])
    time.sleep(moment)
    in_time = process.poll() is None
    if in_time:
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGSTOP)
        time.sleep(SUSPENDED)
        process.send_signal(signal.SIGCONT)
    output, _ = process.communicate()
    check_ended(process, output, 0)
    return in_time, outlived(family) if in_time else 0


def renamed(flags: list[str], folder: Path, moment: float, rng: random.Random) -> tuple[bool, int]:
    """Renames the folder; the search must stop, and is resumed under the new name."""
    process = start([*flags, "--save", str(folder)])
    time.sleep(moment)
    in_time = process.poll() is None and folder.exists()
    moved = folder.with_name("moved")
    if in_time:
        family = psutil.Process(process.pid).children(recursive=True)
        folder.rename(moved)
    output, _ = process.communicate()
    check_ended(process, output, 0, EXIT_BAD_INPUT)
    if not in_time:
        return False, 0
    left = folder.exists()
    if process.returncode:
        started = (moved / SETTINGS).exists()
        finish(resumed(flags, "--resume", str(moved)) if started
               else [*flags, "--save", str(moved)])
    if left:  # whatever was written to the old name would be lost
        shutil.rmtree(moved)
        return True, outlived(family)
    moved.rename(folder)
    return True, outlived(family)


def full(flags: list[str], folder: Path, moment: float, rng: random.Random) -> tuple[bool, int]:
    """Runs on a disk that is soon full, and resumes elsewhere; needs root, to mount it."""
    small = folder.with_name("small")
    small.mkdir(exist_ok=True)
    size = rng.randrange(*DISK)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", small], check=True)
    try:
        process = start([*flags, "--save", str(small / "run")])
        output, _ = process.communicate()
        check_ended(process, output, 0, EXIT_BAD_INPUT)
        if process.returncode and "disk is full" not in output:
            raise UserError(f"the reason is not named: {output[-2000:]}")
        started = (small / "run" / SETTINGS).exists()
        finish(resumed(flags, "--resume", str(small / "run"), "--save", str(folder)) if started
               else [*flags, "--save", str(folder)])
    finally:
        subprocess.run(["umount", small], check=True)
    return process.returncode != 0, 0


def copied(flags: list[str], folder: Path, moment: float, rng: random.Random) -> tuple[bool, int]:
    """Kills `--resume A --save B`, and types it again, or what B then asks for."""
    source = folder.with_name("reference")
    command = resumed(flags, "--resume", str(source), "--save", str(folder))
    process = start(command)
    time.sleep(moment)
    in_time = process.poll() is None
    process.kill()
    process.communicate()
    complete = folder.exists() and any(folder.iterdir())
    finish(resumed(flags, "--resume", str(folder)) if complete else command)
    return in_time, len(list(folder.parent.glob(".*.copy")))


def with_own_table(flags: list[str], folder: Path) -> tuple[list[str], Path]:
    """Copies the table into a folder; returns flags that name it relative to that, and the copy."""
    i = flags.index("--table") + 1
    folder.mkdir(exist_ok=True)
    copy = Path(shutil.copy(flags[i], folder))
    return [*flags[:i], copy.name, *flags[i + 1:]], copy


def moved(flags: list[str], folder: Path, moment: float, rng: random.Random) -> tuple[bool, int]:
    """Kills the search, moves its table, and resumes from another folder, the table typed."""
    own, copy = with_own_table(flags, folder.with_name("first"))
    second = folder.with_name("second")
    second.mkdir(exist_ok=True)
    process = start([*own, "--save", str(folder)], copy.parent)
    time.sleep(moment)
    in_time = process.poll() is None
    family = psutil.Process(process.pid).children(recursive=True) if in_time else []
    process.kill()
    process.communicate()
    copy.rename(second / copy.name)
    started = (folder / SETTINGS).exists()
    finish(resumed(flags, "--resume", str(folder), "--table", copy.name) if started
           else [*own, "--save", str(folder)], second)
    finish(resumed(flags, "--resume", str(folder)))  # from anywhere: the new place is recorded
    return in_time, outlived(family)


def other_accuracies(content: bytes, column: str) -> bytes:
    """Returns a compressed CSV file with one number in all rows of a column."""
    head, *rows = gzip.decompress(content).decode().splitlines()
    i = head.split(",").index(column)
    cells = [row.split(",") for row in rows]
    lines = [head, *(",".join([*row[:i], "50", *row[i + 1:]]) for row in cells)]
    return gzip.compress("\n".join(lines).encode())


def changed(flags: list[str], folder: Path, moment: float, rng: random.Random) -> tuple[bool, int]:
    """Changes the table's accuracies and kills a worker: the next one must not be believed.

    The search stops, or had no need of another worker; with the old table it is resumed.
    """
    own, copy = with_own_table(flags, folder.with_name("first"))
    content = copy.read_bytes()
    other = other_accuracies(content, flags[flags.index("--accuracy") + 1])
    process = start([*own, "--save", str(folder)], copy.parent)
    time.sleep(moment)
    family, worker = [], None
    if process.poll() is None and (folder / "iter_0").exists():
        search = psutil.Process(process.pid)
        family, worker = search.children(recursive=True), a_worker(search, rng)
    if worker is not None:
        with atomic_path(copy) as half:
            half.write_bytes(other)
        with contextlib.suppress(psutil.NoSuchProcess):  # the search has just ended
            worker.kill()
    output, _ = process.communicate()
    check_ended(process, output, 0, EXIT_BAD_INPUT)
    copy.write_bytes(content)
    if process.returncode:
        if "changed since the search" not in output.replace("\n", " "):
            raise UserError(f"the reason is not named: {output[-2000:]}")
        finish(resumed(flags, "--resume", str(folder)))
    return worker is not None, outlived(family)


def cramped(flags: list[str], folder: Path, moment: float, rng: random.Random) -> tuple[bool, int]:
    """Runs a search whose /dev/shm has between 64 KiB, less than a batch, and 64 MiB."""
    process = start([*flags, "--save", str(folder)],
                    within=(*LITTLE, str(int(2 ** rng.uniform(6, 16)))))
    output, _ = process.communicate(timeout=600)
    check_ended(process, output, 0)
    return True, 0


class Found(NamedTuple):
    """What became of runs with a fault: how many were alike, had retries, left orphans."""

    done: int = 0
    identical: int = 0
    retried: int = 0
    orphans: int = 0


def trial(fault: Fault, flags: list[str], n: int, rng: random.Random) -> Iterator[Found]:
    """Gives what became of n runs with a fault, after each of them."""
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "reference"
        begin = time.monotonic()
        finish([*flags, "--save", str(reference)])
        length = time.monotonic() - begin
        expected, found = contents(reference), Found()
        while found.done < n:
            run = Path(folder) / "a run"
            in_time, left = fault(flags, run, rng.uniform(0, length), rng)
            same = contents(run) == expected
            if not (same or in_time):
                raise UserError("an undisturbed run differs from the first one")
            if in_time:
                found = Found(found.done + 1, found.identical + same,
                              found.retried + (run / RETRIES).exists(), found.orphans + left)
                yield found
            shutil.rmtree(run)


def main(args: argparse.Namespace) -> None:
    """Runs the trials and writes the table."""
    with tempfile.TemporaryDirectory() as folder:
        pictures = f"{folder}/pictures"
        subprocess.run([sys.executable, "scripts/digits_folder.py", pictures], cwd=ROOT, check=True)
        run_trials(args, pictures)


def run_trials(args: argparse.Namespace, pictures: str) -> None:
    """As `main`; `pictures` is the folder of the digits."""
    rng = random.Random(args.seed)
    searched = [*TABLE, "--table", str(Path(args.table).resolve())]
    trials: list[tuple[str, Fault, list[str], int]] = [
        ("SIGKILL of --resume A --save B, then again (table)", copied, searched, args.copies),
        ("SIGKILL of the search, its table moved, then --resume from elsewhere (table)", moved,
         searched, args.moves),
        ("the table changed, a worker killed, the table put back, then --resume (table)",
         changed, searched, args.changes),
        ("/dev/shm of 64 KiB to 64 MiB (pictures, two loading processes)", cramped,
         [*STREAMED, "--data", pictures], args.little_memory),
        ("the disk full, then --resume elsewhere (table)", full, searched, args.full_disks),
        ("the folder renamed, then --resume (table)", renamed, searched, args.renames),
        (f"SIGSTOP of the search for {SUSPENDED:g} s, evaluations limited to {TIMEOUT:g} s "
         "(table)", suspended, searched, args.suspensions),
        ("SIGKILL of a worker (table)", partial(killed, a_worker), searched, args.worker_kills),
        ("SIGKILL of the search, then --resume (digits)", partial(killed, the_search),
         list(DIGITS), args.digits_kills),
        ("SIGKILL of the search, then --resume (table)", partial(killed, the_search), searched,
         args.kills),
        ("SIGKILL of the search, then --resume (table, --asynchronous)",
         partial(killed, the_search), [*searched, "--asynchronous"], args.asynchronous_kills)]
    rows: dict[str, tuple[object, ...]] = {}
    text = ""
    begin = time.strftime("%Y-%m-%d %H:%M")
    for name, fault, flags, n in trials:
        for found in trial(fault, flags, n, rng) if n else ():
            rows[name] = (name, found.done, f"{found.identical} of {found.done}", found.retried,
                          found.orphans)
            print(f"{rows[name]} of {n}", flush=True)
            text = (f"{machine()}, load {os.getloadavg()[2]:.1f}; begun {begin}, seed {args.seed}"
                    "\n\n" + table(("fault", "faults", "byte-identical endings",
                                    "runs with a recorded retry", "orphans"), [*rows.values()]))
            write_text(args.save, text + "\n")  # what is known so far: all of it takes hours
    print(text)


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
