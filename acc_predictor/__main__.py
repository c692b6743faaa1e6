"""Exports the accuracy predictor of a search, with its cross-validated rank correlation."""

import argparse
import sys
from typing import Any

import cli.startup  # noqa: F401  # before what takes time to import

from acc_predictor import PREDICTORS
from acc_predictor.exported import MAX_POINTS, ExportedPredictor, cross_validated
from cli.scripts import Parser, run_script
from networks.supernet_info import read_supernet_info
from search.finished import FinishedSearch, read_finished
from search_space import DEFAULT, NAMES, SearchSpace, refuse_code
from search_space.backbones import width_from_name
from utils.errors import UserError
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
                   f"not say, or code of your own: {NAMES} (default: {DEFAULT})")
    p.add_argument("--table", help="table of the space, where it has moved")
    return p


def main(args: argparse.Namespace) -> None:
    """Fits, cross-validates, writes the file and prints how well it predicts."""
    found = read_finished(args.run, args.search_space, table=args.table)
    if found.space is None:
        refuse_code(found.space_name, str(found.file))
        return
    n = len(found.archs)
    if n > MAX_POINTS:
        raise UserError(f"{found.file}: {n} architectures, but an exported predictor holds at most "
                        f"{MAX_POINTS}; name an earlier iter_<i>.stats")
    name, seed = predictor_of(args, found), found.settings.get("seed", 0)
    quality = cross_validated(name, found.space, found.vectors, found.F[:, 0], seed)
    exported = ExportedPredictor(name, seed, found.archs, found.F[:, 0].tolist(),
                                 reported_of(found), meta_of(found, found.space), quality)
    exported.write(args.save)
    print(f"{args.save}: {name} of {n} architectures; cross-validated ({quality['folds']} folds): "
          f"Kendall's tau {quality['tau']:.3f} +- {quality['tau_std']:.3f}, RMSE "
          f"{quality['rmse']:.3f} %")


def predictor_of(args: argparse.Namespace, found: FinishedSearch) -> str:
    """Returns which predictor to fit; raises UserError where the search's is code of the user's."""
    name = args.predictor or found.stats.surrogate.get("model") or WITHOUT
    if name not in PREDICTORS:
        raise UserError(f"{found.file}: its predictor {str(name)[:60]} is code of your own, which "
                        "a file for others cannot name; choose another with --predictor")
    return str(name)


def reported_of(found: FinishedSearch) -> dict[str, list[float]]:
    """Returns the n values of each objective that the evaluator reported, by its name."""
    return {row["name"]: found.F[:, i].tolist() for i, row in enumerate(found.stats.objectives, 1)
            if row.get("source") == "reported"}


def meta_of(found: FinishedSearch, space: SearchSpace) -> dict[str, Any]:
    """Returns what a search on the predictor takes over: space, resolutions, classes, width."""
    settings = found.settings
    supernet = settings.get("supernet_path") or ""
    told = read_supernet_info(supernet)
    known = {"search_space": found.space_name,
             "dataset": settings.get("dataset"), "n_classes": settings.get("n_classes"),
             "width": told.width or width_from_name(supernet),
             "resolutions": settings.get("resolutions") if "resolutions" in space.options else None}
    return {name: value for name, value in known.items() if value is not None}


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
