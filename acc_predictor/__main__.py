"""Exports the accuracy predictor of a search, with its cross-validated rank correlation."""

import argparse
import sys
from pathlib import Path
from typing import Any

import cli.startup  # noqa: F401  # before what takes time to import

import numpy as np

from acc_predictor import PREDICTORS
from acc_predictor.exported import MAX_POINTS, ExportedPredictor, cross_validated, encoded
from cli.scripts import Parser, run_script
from cli.types import checked_values
from networks.supernet_info import read_supernet_info
from search.archive import Stats, objectives, read_stats, stats_file
from search.run_folder import RunFolder
from search_space import DEFAULT, SEARCH_SPACES, SearchSpace, get_search_space, refuse_code
from search_space.backbones import width_from_name
from utils.errors import UserError
from utils.files import read_json
from utils.invocation import program

WITHOUT = "nngp"  # of a search whose strategy has no predictor


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = Parser(prog=program("acc_predictor/__main__.py"), description=__doc__)
    p.add_argument("run", help="folder of a search, or one of its iter_<i>.stats")
    asked = "which msunas.py --evaluator oracle --oracle_path FILE asks"
    p.add_argument("--save", required=True, help="file for the predictor (JSON), "
                   + asked.replace("msunas.py", program("msunas.py")))
    p.add_argument("--predictor", choices=sorted(PREDICTORS), help="what to fit (default: the "
                   f"predictor of the search; {WITHOUT} where it had none)")
    p.add_argument("--search_space", metavar="NAME", help="space of the search where its files do "
                   f"not say, or code of your own: {', '.join(sorted(SEARCH_SPACES))}, or "
                   f"module:Class (default: {DEFAULT})")
    p.add_argument("--table", help="table of the space, where it has moved")
    return p


def main(args: argparse.Namespace) -> None:
    """Fits, cross-validates, writes the file and says how good it is."""
    path = stats_file(args.run)
    settings = settings_beside(path)
    space = space_of_search(args, path, settings)
    stats = read_stats(path, check_arch=space.encode)
    n = len(stats.archive)
    if n > MAX_POINTS:
        raise UserError(f"{path}: {n} architectures, but an exported predictor holds at most "
                        f"{MAX_POINTS}; name an earlier iter_<i>.stats")
    name, seed = predictor_of(args, path, stats), settings.get("seed", 0)
    archs = [record.arch for record in stats.archive]
    X = encoded(space, archs)
    values = objectives(stats.archive)
    quality = cross_validated(name, space, X, values[:, 0], seed)
    exported = ExportedPredictor(name, seed, archs, values[:, 0].tolist(),
                                 reported_of(stats, values), meta_of(space, stats, settings),
                                 quality)
    exported.write(args.save)
    print(f"{args.save}: {name} of {n} architectures; cross-validated ({quality['folds']} folds): "
          f"Kendall's tau {quality['tau']:.3f} +- {quality['tau_std']:.3f}, RMSE "
          f"{quality['rmse']:.3f} %")


def settings_beside(path: Path) -> dict[str, Any]:
    """Returns the checked flags of the search that a stats file is of; {} where nothing says."""
    import msunas

    return checked_values(msunas.get_args_parser(), RunFolder(path.parent).read_settings(),
                          f"{path.parent}: settings")


def space_of_search(args: argparse.Namespace, path: Path, settings: dict[str, Any]) -> SearchSpace:
    """Returns the search space of a search.

    Raises:
        UserError: another one was typed, or the files name code that was not.
    """
    # A space of the user's own writes its short name; how it is imported stands in the settings.
    stored = settings.get("search_space") or read_json(path, "stats file", allow_nan=True).get(
        "search_space")
    if args.search_space is None:
        refuse_code(stored, str(path))
    elif stored not in (None, args.search_space):
        raise UserError(f"{path}: its search space is {stored}, not {args.search_space}; leave "
                        "--search_space out")
    named = args.search_space or stored or DEFAULT
    return get_search_space(named, **settings | ({"table": args.table} if args.table else {}))


def predictor_of(args: argparse.Namespace, path: Path, stats: Stats) -> str:
    """Returns which predictor to fit; raises UserError where the search's is code of the user's."""
    name = args.predictor or stats.surrogate.get("model") or WITHOUT
    if name not in PREDICTORS:
        raise UserError(f"{path}: its predictor {str(name)[:60]} is code of your own, which a file "
                        "that others read cannot name; take another with --predictor")
    return str(name)


def reported_of(stats: Stats, values: np.ndarray) -> dict[str, list[float]]:
    """Returns the columns of (n, m) values that the evaluator reported, by their name."""
    return {row["name"]: values[:, i].tolist() for i, row in enumerate(stats.objectives, 1)
            if row.get("source") == "reported"}


def meta_of(space: SearchSpace, stats: Stats, settings: dict[str, Any]) -> dict[str, Any]:
    """Returns what a search on the predictor takes over: space, resolutions, classes, width."""
    supernet = settings.get("supernet_path") or ""
    told = read_supernet_info(supernet)
    found = {"search_space": stats.search_space or settings.get("search_space"),
             "dataset": settings.get("dataset"), "n_classes": settings.get("n_classes"),
             "width": told.width or width_from_name(supernet),
             "resolutions": settings.get("resolutions") if "resolutions" in space.options else None}
    return {name: value for name, value in found.items() if value is not None}


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
