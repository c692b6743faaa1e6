"""The predictors on measured ImageNet accuracies: quality and speed, in one table.

    python benchmarks/predictors.py MEASURED [--train 100 340] [--seeds 5] [--save FILE]

MEASURED is a CSV with the columns `arch` (JSON) and `imagenet_top1` (percent). For each seed,
random rows are for training and all others for testing. `step` is the time to answer one search
step: 21 calls (the initial population and 20 generations) of 40 individuals. `z spread` is the
standard deviation of (measured - predicted) / predicted standard deviation: 1 where a model knows
how sure it may be.
"""

import argparse
import csv
import json
import sys
import time

import numpy as np
from common import benchmark_parser, machine, publish, table

from acc_predictor import PREDICTORS, get_acc_predictor
from cli.scripts import run_script
from search_space import OFASearchSpace
from utils.errors import UserError
from utils.files import read_text
from utils.metrics import get_correlation

CALLS, POPULATION = 21, 40
RESOLUTION = 224
COLUMNS = ("arch", "imagenet_top1")


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("measured", help="ofa_mbv3_w1.0_imagenet_measured.csv")
    p.add_argument("--train", type=int, nargs="+", default=[100, 340], help="rows for training")
    p.add_argument("--seeds", type=int, default=5, help="random splits")
    p.add_argument("--predictors", nargs="+", choices=sorted(PREDICTORS),
                   default=["nngp", "rbf", "gp", "carts", "mlp", "as"], help="which")
    p.add_argument("--n_jobs", type=int, help="threads; None means all cores")
    p.add_argument("--save", help="file for the table as well")
    return p


def read_measured(path: str, space: OFASearchSpace) -> tuple[np.ndarray, np.ndarray]:
    """Returns (n, 46) encoded architectures and their (n,) measured top-1 errors in percent.

    Raises:
        UserError: the file is missing or lacks a column.
    """
    rows = list(csv.DictReader(read_text(path, "CSV file of measurements").splitlines()))
    missing = [column for column in COLUMNS if not rows or column not in rows[0]]
    if missing:
        raise UserError(f"{path}: no column {', '.join(missing)}; expected {', '.join(COLUMNS)}")
    try:
        X = np.array([space.encode(json.loads(row["arch"])) for row in rows])
        return X, 100 - np.array([float(row["imagenet_top1"]) for row in rows])
    except ValueError as error:
        raise UserError(f"{path}: a row is damaged: {error}") from None


def measure(name: str, space: OFASearchSpace, X: np.ndarray, y: np.ndarray, train: int, seed: int,
            n_jobs: int | None) -> tuple[list[float], str]:
    """Returns (tau, rho, RMSE, z spread, fit s, step s) on one split, and who answered."""
    order = np.random.default_rng(seed).permutation(len(X))
    known, asked = order[:train], order[train:]
    start = time.perf_counter()
    model = get_acc_predictor(name, X[known], y[known], seed=seed, n_jobs=n_jobs, space=space)
    fitted = time.perf_counter()
    for call in range(CALLS):
        model.predict(X[np.roll(asked, POPULATION * call)[:POPULATION]])
    answered = time.perf_counter()
    error, rho, tau = get_correlation(model.predict(X[asked]), y[asked])
    spread = np.nan
    if model.gives_std:
        mean, std = model.predict(X[asked], return_std=True)
        spread = float(np.std((y[asked, None] - mean) / std))
    return [tau, rho, error, spread, fitted - start, answered - fitted], model.winner


def row_of(name: str, train: int, measured: list[tuple[list[float], str]]) -> tuple[object, ...]:
    """Returns the row of the table of one predictor and number of training rows."""
    values, winners = zip(*measured, strict=True)
    tau, rho, error, spread, fit, step = np.array(values).T
    return (train, name, f"{tau.mean():.4f}", f"{tau.min():.4f}", f"{rho.mean():.4f}",
            f"{error.mean():.3f}", "-" if np.isnan(spread).any() else f"{spread.mean():.2f}",
            f"{np.median(fit):.2f}", f"{np.median(step):.2f}", ", ".join(sorted(set(winners))))


def main(args: argparse.Namespace) -> None:
    """Prints the table."""
    space = OFASearchSpace(resolutions=[RESOLUTION])
    X, y = read_measured(args.measured, space)
    if not all(0 < train < len(X) - 1 for train in args.train):
        raise UserError(f"--train must leave some of the {len(X)} rows for testing")
    rows = []
    for train in args.train:
        for name in args.predictors:
            measure(name, space, X[:60], y[:60], 50, 0, args.n_jobs)  # imports are no part of it
            rows.append(row_of(name, train, [measure(name, space, X, y, train, seed, args.n_jobs)
                                             for seed in range(args.seeds)]))
            print(*rows[-1], flush=True)
    text = table(("rows to train", "predictor", "Kendall tau", "lowest tau", "Spearman rho",
                  "RMSE (%)", "z spread", "fit (s)", "step (s)", "answers"), rows)
    text = (f"{machine()}; the other of {len(X)} rows to test, mean of {args.seeds} splits; times "
            f"are medians\n\n{text}\n")
    publish(text, args.save)


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
