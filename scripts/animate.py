"""Animates a search: the front growing by iteration, candidates as predicted and as measured."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cli.scripts import Parser, run_script


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = Parser(prog="animate.py", description=__doc__)
    p.add_argument("run", metavar="RUN", help="folder of a search (its --save)")
    p.add_argument("--save", help="the .gif (an .mp4 is written next to it where ffmpeg is "
                   "installed), or an .mp4 alone (default: <RUN>/search.gif)")
    p.add_argument("--search_space", help="search space where the files do not say, or code of "
                   "your own as module:Class (default: the search's)")
    return p


def main(args: argparse.Namespace) -> None:
    """Writes the animation."""
    from visualization.animation import write_animation
    from visualization.data import read_run

    run = read_run(args.run, args.search_space)
    for path in write_animation(args.save or run.folder / "search.gif", run):
        print(f"{path}: {len(run.history)} iterations, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
