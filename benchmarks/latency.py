"""Latency learned from a few measured networks, on published measurements of 17 devices.

    python benchmarks/latency.py DATA [--train 20 50 100 300] [--draws 5] [--save FILE]

DATA is a folder with help_ofa_mbv3_latency_ms.csv.gz and help_nasbench201_latency_ms.csv.gz, the
measurements of HELP (Lee et al., NeurIPS 2021). For each draw, random networks are learned from
and all others predicted. `many rows` is what gradient boosting or a ridge regression, whichever is
better, reaches with four fifths of the table: what noise leaves to be known. `neighbours` is the
correlation of its residuals of networks that were measured one after another: 0 where they are no
state of the device. The second table starts from another device.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np
from common import machine, table
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from acc_predictor import get_acc_predictor
from cli.scripts import run_script
from evaluator.costs import CostModel
from evaluator.latency_campaign import read_measured, space_of_archs
from evaluator.latency_model import LatencyFeatures, LatencyModel, agreement, learn_latency
from search_space import SearchSpace
from search_space.table import read_table
from utils.files import write_text
from utils.metrics import spearman

FILES = ("help_ofa_mbv3_latency_ms.csv.gz", "help_nasbench201_latency_ms.csv.gz")
PAIRS = {FILES[0]: (("titan_rtx_1", "2080ti_1"), ("titan_rtx_32", "2080ti_32"),
                    ("titan_rtx_64", "titan_rtx_1")),
         FILES[1]: (("titan_rtx_1", "2080ti_1"), ("gold_6226", "silver_4114"),
                    ("gold_6226", "pixel2"), ("eyeriss", "fpga"))}
FEW, OF_PRIOR = (10, 20, 50), 100
MANY = 0.8
Figures = dict[str, float]


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = argparse.ArgumentParser(prog="latency.py", description=__doc__.splitlines()[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("data", help="folder of the measurements")
    p.add_argument("--train", type=int, nargs="+", default=[20, 50, 100, 300],
                   help="networks to learn from")
    p.add_argument("--draws", type=int, default=5, help="random splits")
    p.add_argument("--save", help="file for the tables as well")
    return p


def split(n: int, train: int, draw: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows to learn from and all others."""
    order = np.random.default_rng(draw).permutation(n)
    return order[:train], order[train:]


def learned(space: SearchSpace, X: np.ndarray, y: np.ndarray, train: int, draw: int,
            prior: LatencyModel | None = None) -> Figures:
    """Returns the agreement of the learned latency with the others."""
    known, others = split(len(X), train, draw)
    model = learn_latency(space, X[known], y[known], prior=prior)
    return agreement(np.exp(model.predict(X[others]).ravel()), y[others])


def plain(space: SearchSpace, X: np.ndarray, y: np.ndarray, train: int, draw: int) -> Figures:
    """Returns the agreement of the accuracy predictor `nngp` with the others."""
    known, others = split(len(X), train, draw)
    model = get_acc_predictor("nngp", X[known], y[known], space=space)
    return agreement(model.predict(X[others]).ravel(), y[others])


def mean(figures: list[Figures]) -> str:
    """Returns Spearman's rho and MAPE, means over the draws."""
    rho, error = (np.mean([each[name] for each in figures]) for name in ("spearman", "mape"))
    return f"{rho:.3f} / {error:.1%}"


def left_by_noise(space: SearchSpace, X: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Returns Spearman's rho of a fit of most rows on the others, and of neighbours' residuals."""
    known, others = split(len(X), int(MANY * len(X)), 0)
    columns, target = LatencyFeatures.of_space(space, X, CostModel(space), None)(X), np.log(y)
    fits = [make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 13))),
            HistGradientBoostingRegressor(random_state=0)]
    best = max((fit.fit(columns[known], target[known]) for fit in fits),
               key=lambda fit: spearman(fit.predict(columns[others]), target[others]))
    left = target - best.predict(columns)
    return (spearman(best.predict(columns[others]), target[others]),
            float(np.corrcoef(left[1:], left[:-1])[0, 1]))


def row_of(space: SearchSpace, X: np.ndarray, y: np.ndarray, args: argparse.Namespace) -> list[str]:
    """Returns the cells of a device behind its name."""
    flops = spearman(CostModel(space).values(X, "flops"), y)
    cells = [mean([method(space, X, y, train, draw) for draw in range(args.draws)])
             for train in args.train for method in (plain, learned)]
    return [f"{flops:.3f}", *cells, *(f"{value:.3f}" for value in left_by_noise(space, X, y))]


def with_prior(space: SearchSpace, X: np.ndarray, first: np.ndarray, second: np.ndarray,
               draws: int) -> list[str]:
    """Returns what a second device needs, without and with what the first has taught."""
    cells = []
    for train in FEW:
        priors = [learn_latency(space, X[rows], first[rows]) for rows, _ in
                  (split(len(X), OF_PRIOR, draws + draw) for draw in range(draws))]
        cells += [mean([learned(space, X, second, train, draw) for draw in range(draws)]),
                  mean([learned(space, X, second, train, draw, priors[draw])
                        for draw in range(draws)])]
    return cells


def main(args: argparse.Namespace) -> None:
    """Prints the tables."""
    rows, second_rows = [], []
    for name in FILES:
        path = str(Path(args.data) / name)
        devices = [column for column in read_table(path).columns if column != "arch"]
        archs = read_measured(path, devices[0])[0]
        space = space_of_archs(archs, None)
        X = np.array([space.encode(arch) for arch in archs])
        of_device = partial(_latencies, path)
        for device in devices:
            rows.append([space.name, device, *row_of(space, X, of_device(device), args)])
            print(*rows[-1], flush=True)
        for first, second in PAIRS[name]:
            second_rows.append([space.name, f"{first} -> {second}", *with_prior(
                space, X, of_device(first), of_device(second), args.draws)])
            print(*second_rows[-1], flush=True)
    header = ["space", "device", "FLOPs", *(f"{method}, {train}" for train in args.train
                                            for method in ("nngp", "learned")),
              "many rows", "neighbours"]
    second_header = ["space", "devices", *(f"{what}, {train}" for train in FEW
                                           for what in ("alone", "with prior"))]
    text = (f"{machine()}; Spearman's rho / mean absolute error relative to the measurement, on "
            f"all other networks, mean of {args.draws} draws\n\n{table(header, rows)}\n\nA second "
            f"device, the first learned from {OF_PRIOR} networks\n\n"
            f"{table(second_header, second_rows)}\n")
    print(text)
    if args.save:
        write_text(Path(args.save), text)


def _latencies(path: str, device: str) -> np.ndarray:
    return read_measured(path, device)[1]


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
