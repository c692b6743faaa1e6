"""The predictors on measured ImageNet accuracies: quality and speed, in one table.

    python benchmarks/predictors.py MEASURED [--train 340] [--seeds 5] [--save FILE]

MEASURED is a CSV with the columns `arch` (JSON) and `imagenet_top1` (percent). For each seed,
random rows are for training and all others for testing. `step` is the time to answer one search
step: 21 calls (the initial population and 20 generations) of 40 individuals.
"""

import argparse
import csv
import json
import sys
import time
from pathlib import Path

import numpy as np
from common import machine, table

from acc_predictor import PREDICTORS, get_acc_predictor
from cli.scripts import run_script
from search_space import OFASearchSpace
from utils.errors import UserError
from utils.files import read_text, write_text
from utils.metrics import get_correlation

CALLS, POPULATION = 21, 40
COLUMNS = ("arch", "imagenet_top1")


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = argparse.ArgumentParser(prog="predictors.py", description=__doc__.splitlines()[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("measured", help="ofa_mbv3_w1.0_imagenet_measured.csv")
    p.add_argument("--train", type=int, default=340, help="rows for training")
    p.add_argument("--seeds", type=int, default=5, help="random splits")
    p.add_argument("--predictors", nargs="+", choices=sorted(PREDICTORS),
                   default=["rbf", "gp", "carts", "mlp", "as"], help="which")
    p.add_argument("--n_jobs", type=int, help="threads; None means all cores")
    p.add_argument("--save", help="file for the table as well")
    return p


def read_measured(path: str, resolution: int = 224) -> tuple[np.ndarray, np.ndarray]:
    """Returns (n, 46) encoded architectures and their (n,) measured top-1 errors in percent.

    Raises:
        UserError: the file is missing or lacks a column.
    """
    rows = list(csv.DictReader(read_text(path, "CSV file of measurements").splitlines()))
    missing = [column for column in COLUMNS if not rows or column not in rows[0]]
    if missing:
        raise UserError(f"{path}: no column {', '.join(missing)}; expected {', '.join(COLUMNS)}")
    space = OFASearchSpace(resolutions=[resolution])
    try:
        X = np.array([space.encode(json.loads(row["arch"])) for row in rows])
        return X, 100 - np.array([float(row["imagenet_top1"]) for row in rows])
    except ValueError as error:
        raise UserError(f"{path}: a row is damaged: {error}") from None


def measure(name: str, X: np.ndarray, y: np.ndarray, train: int, seed: int,
            n_jobs: int | None) -> tuple[list[float], str]:
    """Returns (tau, rho, RMSE, fit seconds, step seconds) on one split, and who answered."""
    order = np.random.default_rng(seed).permutation(len(X))
    known, asked = order[:train], order[train:]
    start = time.perf_counter()
    model = get_acc_predictor(name, X[known], y[known], seed=seed, n_jobs=n_jobs)
    fitted = time.perf_counter()
    for call in range(CALLS):
        model.predict(X[np.roll(asked, POPULATION * call)[:POPULATION]])
    answered = time.perf_counter()
    error, rho, tau = get_correlation(model.predict(X[asked]), y[asked])
    return [tau, rho, error, fitted - start, answered - fitted], model.winner


def main(args: argparse.Namespace) -> None:
    """Prints the table."""
    X, y = read_measured(args.measured)
    if not 0 < args.train < len(X) - 1:
        raise UserError(f"--train must leave some of the {len(X)} rows for testing")
    rows = []
    for name in args.predictors:
        measure(name, X[:60], y[:60], 50, 0, args.n_jobs)  # the imports are no part of the fit
        values, winners = zip(*(measure(name, X, y, args.train, seed, args.n_jobs)
                                for seed in range(args.seeds)), strict=True)
        tau, rho, error, fit, step = np.array(values).T
        rows.append((name, f"{tau.mean():.4f}", f"{tau.min():.4f}", f"{rho.mean():.4f}",
                     f"{error.mean():.3f}", f"{np.median(fit):.2f}", f"{np.median(step):.2f}",
                     ", ".join(sorted(set(winners)))))
        print(name, *rows[-1][1:], flush=True)
    text = table(("predictor", "Kendall tau", "lowest tau", "Spearman rho", "RMSE (%)",
                  "fit (s)", "step (s)", "answers"), rows)
    text = (f"{machine()}; {args.train} rows to train, {len(X) - args.train} to test, mean of "
            f"{args.seeds} splits; times are medians\n\n{text}\n")
    print(text)
    if args.save:
        write_text(Path(args.save), text)


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
