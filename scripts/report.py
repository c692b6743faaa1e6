"""Writes one report.html about a search or several: it opens without a network or a server."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

# Run as a file, Python puts scripts/ on the path, not the project's root.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cli.startup  # noqa: F401  # before what takes time to import

from cli.scripts import Parser, run_script
from cli.types import count

POLL_SECONDS = 1.0


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = Parser(prog="report.py", description=__doc__)
    p.add_argument("runs", nargs="+", metavar="RUN", help="folder of a search (its --save), or one "
                   "of its iter_<i>.stats; several are compared")
    p.add_argument("--save", help="the HTML file (default: <RUN>/report.html of the first)")
    p.add_argument("--watch", type=count(1), nargs="?", const=5, metavar="SECONDS",
                   help="write the report again at every iteration until the searches end; an open "
                   "page loads itself again every so many seconds (5)")
    p.add_argument("--baseline", metavar="FILE", help="networks to compare the fronts with, drawn "
                   "as points of their own: what scripts/baseline.py writes (default: none)")
    p.add_argument("--search_space", help="search space where the files do not say, or code of "
                   "your own as module:Class (default: the search's)")
    return p


def main(args: argparse.Namespace) -> None:
    """Writes the report, with `--watch` until no search is running."""
    from search.baseline import read_baselines
    from visualization.report import REPORT, write_report

    first = Path(args.runs[0])
    path = Path(args.save or (first if first.is_dir() else first.parent) / REPORT)
    shown = {"search_space": args.search_space,
             "baselines": read_baselines(args.baseline) if args.baseline else ()}
    if args.watch:
        watch(path, args.runs, args.watch, shown)
    write_report(path, args.runs, **shown)
    print(f"{path}: {len(args.runs)} {'run' if len(args.runs) == 1 else 'runs'}, "
          f"{path.stat().st_size / 1e6:.1f} MB")


def watch(path: Path, runs: list[str], seconds: int, shown: dict[str, Any]) -> None:
    """Keeps the report up to date while one of the searches is running.

    Args:
        path: of the report.
        runs: folders of searches, or files in them.
        seconds: after which an open page loads itself again.
        shown: other arguments of `write_report`.
    """
    from search.archive import latest_stats
    from search.events import is_running
    from utils.errors import UserError
    from visualization.report import write_report

    folders = [Path(run) if Path(run).is_dir() else Path(run).parent for run in runs]
    written: list[Path] = []
    while any(is_running(folder) for folder in folders):
        try:
            found = [latest_stats(folder) for folder in folders]
        except UserError:  # a search that has not finished its initial sample
            found = []
        if found and found != written:
            write_report(path, runs, refresh=seconds, **shown)
            print(f"{path}: after {', '.join(file.stem for file in found)}", flush=True)
            written = found
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
