"""Compares strategies: the same search with each of them and several seeds, in one report."""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Run as a file, Python puts scripts/ on the path, not the project's root.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cli.startup  # noqa: F401  # before what takes time to import

import numpy as np

from cli.scripts import Parser, run_script
from cli.types import amount, count
from search import comparison
from utils.errors import UserError
from utils.files import write_text
from utils.locks import locked

ROOT = Path(__file__).resolve().parents[1]
# Flags of msunas.py that are decided here, or belong to one run.
NO_REPORT = "no_report"
OURS = ("strategy", "seed", "save", "resume", "dry_run", NO_REPORT, "log_format", "warm_start",
        "retry_failed", "accept_changed_inputs")


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = Parser(prog="compare.py", description=__doc__)
    p.add_argument("--strategies", default="msunas,ehvi,random",
                   help="strategies, joined by commas; your own as module:Class")
    p.add_argument("--seeds", type=count(1), default=5, help="how many seeds; the first is 0")
    p.add_argument("--save", required=True, help="folder of the comparison; each run has a folder "
                   "in it, and a run that was stopped is resumed")
    p.add_argument("--workers", type=count(1), help="runs at a time (default: one per core)")
    p.add_argument("--level", type=amount, help="hypervolume to reach (default: the lowest that a "
                   "strategy ends with)")
    p.add_argument("flags", nargs="+", metavar="FLAG", help="after --: flags of msunas.py")
    return p


def main(args: argparse.Namespace) -> None:
    """Makes the runs that are missing; writes tables, a picture, and the report of all runs."""
    import msunas
    from search.strategies import get_strategy

    strategies = list(dict.fromkeys(args.strategies.split(",")))
    for strategy in strategies:
        get_strategy(strategy)  # an unknown one is refused before anything runs
    flags = msunas.get_args_parser().parse_args(args.flags)
    if idle := sorted(flags.typed & {*OURS}):
        raise UserError(f"--{idle[0]}: is set for each run; leave it out after --")
    save = Path(args.save)
    folders = {(strategy, seed): save / f"{strategy.replace(':', '.')}-{seed}"
               for strategy in strategies for seed in range(args.seeds)}
    with locked(save / ".compare.lock", f"{save}: the comparison", "choose another --save"):
        commands = {folder: command(args.flags, strategy, seed, folder)
                    for (strategy, seed), folder in folders.items()}
        run_all(commands, args.workers or os.cpu_count() or 1)
        publish(save, folders, flags.search_space if "search_space" in flags.typed else None,
                args.level)


def command(flags: Sequence[str], strategy: str, seed: int, folder: Path) -> list[str]:
    """Returns the command of one run, which resumes it where the folder holds its settings."""
    place = "resume" if (folder / "settings.json").exists() else "save"
    values = {"strategy": strategy, "seed": str(seed), place: str(folder)}
    return [sys.executable, str(ROOT / "msunas.py"), *flags, f"--{NO_REPORT}",
            *(word for name, value in values.items() for word in (f"--{name}", value))]


def run_all(commands: dict[Path, list[str]], workers: int) -> None:
    """Runs the commands, `workers` at a time; when this process is stopped, so are they.

    Raises:
        UserError: a run failed; the message is its last line. Runs that have started end first.
    """
    running: set[subprocess.Popen] = set()
    environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers)), **os.environ}

    def run(folder: Path) -> None:
        process = subprocess.Popen(commands[folder], env=environment, text=True,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        running.add(process)
        errors = process.communicate()[1].strip().splitlines()
        running.discard(process)
        if process.returncode:
            raise UserError(f"{folder}: {errors[-1] if errors else 'the run was stopped'}")

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    pool = ThreadPoolExecutor(workers)
    try:
        for folder, _ in zip(commands, pool.map(run, commands), strict=True):
            print(f"{folder}: done", flush=True)
    except KeyboardInterrupt:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in [*running]:
            process.terminate()
        raise KeyboardInterrupt("the same command resumes the runs") from None
    finally:
        pool.shutdown(cancel_futures=True)


def publish(save: Path, folders: Mapping[tuple[str, int], Path], search_space: str | None,
            level: float | None) -> None:
    """Writes and prints the tables; writes `comparison.png` and `report.html`."""
    from visualization.data import read_run
    from visualization.plots import plot_curves
    from visualization.report import REPORT, page, payload

    runs = {key: read_run(folder, search_space) for key, folder in folders.items()}
    n_initial = [run.n_initial for run in runs.values()]
    box = comparison.Box.around([run.minimised for run in runs.values()], n_initial)
    counts = comparison.spread(1, min(len(run.F) for run in runs.values()))
    curves: dict[str, dict[int, list[float]]] = {}
    for (strategy, seed), run in runs.items():
        curves.setdefault(strategy, {})[seed] = box.curve(run.minimised, counts)
    arrays = {strategy: np.array([*rows.values()]) for strategy, rows in curves.items()}
    text = (f"Reference point {box.reference.round(4).tolist()}\n\n"
            f"{comparison.tables(counts, min(n_initial), curves, arrays, level)}")
    write_text(save / "comparison.md", text)
    plot_curves(save / "comparison.png", counts, arrays)
    write_text(save / REPORT, page(payload([*runs.values()])))
    print(f"{text}\n{save}: comparison.md, comparison.png, {REPORT}")


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
