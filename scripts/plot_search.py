"""Draws what happened in a search: the front after each iteration, and its quality over time."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cli.startup  # noqa: F401  # before what takes time to import

from cli.scripts import Parser, run_script
from search.archive import latest_stats, objectives, read_stats, stats_path
from utils.errors import UserError
from utils.files import own_folder
from utils.pareto import non_dominated
from visualization.plots import plot_front, plot_history


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = Parser(prog="plot_search.py", description=__doc__)
    p.add_argument("folder", help="folder of a search (its --save)")
    p.add_argument("--save", help="folder for the pictures (default: <folder>/plots)")
    p.add_argument("--sec_obj", default="flops",
                   help="name of the second objective where the files do not say (default: flops)")
    return p


def main(args: argparse.Namespace) -> None:
    """Writes `front_<i>.png` for each iteration, and `history.png`."""
    last = int(latest_stats(args.folder).stem.removeprefix("iter_"))
    target = Path(args.save) if args.save else own_folder(Path(args.folder) / "plots")
    history = []
    for iteration in range(last + 1):
        path = stats_path(args.folder, iteration)
        if not path.exists():
            continue
        stats = read_stats(path)
        F = objectives(stats.archive)
        name = stats.sec_obj or args.sec_obj
        plot_front(target / f"front_{iteration:02d}.png", F, F[non_dominated(F * stats.signs)],
                   objectives(stats.candidates), sec_obj=name,
                   title=f"iteration {iteration}: {len(F)} evaluated, hypervolume {stats.hv:.4f}")
        history.append((len(F), stats.hv, stats.surrogate.get("tau")))
    if not history:
        raise UserError(f"{args.folder}: nothing to draw")
    plot_history(target / "history.png", *zip(*history, strict=True))
    print(f"{len(history)} fronts and history.png in {target}")


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
