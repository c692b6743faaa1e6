"""Adaptive switching against the plain procedure of the paper: same winner, and how much faster.

    python benchmarks/switching.py MEASURED [--train 340] [--seeds 3] [--save FILE]

MEASURED is the file that predictors.py reads. The plain procedure, on the same folds: pySOT's cubic
interpolant with a linear tail, pydacefit's Kriging with a linear trend, 5,000 trees of scikit-learn
on random genes, one after the other; the winner has the highest mean minus standard deviation of
Kendall's tau. Both in one run, on the same cores.
"""

import argparse
import sys
import time

import numpy as np
from common import benchmark_parser, machine, publish, table
from predictors import RESOLUTION, read_measured
from pydacefit.corr import corr_gauss
from pydacefit.dace import DACE
from pydacefit.regr import regr_linear
from pySOT.surrogate import CubicKernel, LinearTail, RBFInterpolant
from scipy.stats import kendalltau
from sklearn.tree import DecisionTreeRegressor

from acc_predictor import get_acc_predictor
from acc_predictor.adaptive_switching import cross_validation_folds
from cli.scripts import run_script
from search_space import OFASearchSpace

N_TREES = 5000


def plain_rbf(X: np.ndarray, y: np.ndarray, asked: np.ndarray, seed: int) -> np.ndarray:
    """Interpolates (n, d) genes as they are."""
    dim = X.shape[1]
    model = RBFInterpolant(dim, np.zeros(dim), np.ones(dim), kernel=CubicKernel(),
                           tail=LinearTail(dim))
    model.add_points(X, y[:, None])
    return model.predict(asked)


def plain_gp(X: np.ndarray, y: np.ndarray, asked: np.ndarray, seed: int) -> np.ndarray:
    """Kriging with one width, searched from 0.1 within 1e-5..100."""
    model = DACE(regr=regr_linear, corr=corr_gauss, theta=np.array([0.1]),
                 thetaL=np.array([1e-5]), thetaU=np.array([100.0]))
    model.fit(X, y)
    return model.predict(asked)


def plain_carts(X: np.ndarray, y: np.ndarray, asked: np.ndarray, seed: int) -> np.ndarray:
    """The mean of trees, each on a random subset, of random size, of the genes."""
    rng = np.random.default_rng(seed)
    total = np.zeros(len(asked))
    for _ in range(N_TREES):
        genes = rng.permutation(X.shape[1])[:rng.integers(1, X.shape[1] + 1)]
        tree = DecisionTreeRegressor(random_state=int(rng.integers(2**31)))
        total += tree.fit(X[:, genes], y).predict(asked[:, genes])
    return total / N_TREES


PLAIN = {"rbf": plain_rbf, "gp": plain_gp, "carts": plain_carts}


def plain_scores(X: np.ndarray, y: np.ndarray, seed: int) -> dict[str, float]:
    """Returns the mean minus standard deviation of tau of each predictor, by name."""
    taus = {name: [] for name in PLAIN}
    for fold in cross_validation_folds(len(X), seed):
        rest = np.setdiff1d(np.arange(len(X)), fold)
        for name, predict in PLAIN.items():
            answer = np.ravel(predict(X[rest], y[rest], X[fold], seed))
            taus[name].append(kendalltau(answer, y[fold])[0])
    return {name: float(np.mean(values) - np.std(values)) for name, values in taus.items()}


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("measured", help="ofa_mbv3_w1.0_imagenet_measured.csv")
    p.add_argument("--train", type=int, default=340, help="rows for training")
    p.add_argument("--seeds", type=int, default=3, help="random choices of them")
    p.add_argument("--save", help="file for the table as well")
    return p


def main(args: argparse.Namespace) -> None:
    """Prints the table."""
    X, y = read_measured(args.measured, OFASearchSpace(resolutions=[RESOLUTION]))
    used = np.ptp(X, axis=0) > 0
    get_acc_predictor("as", X[:60], y[:60])  # the imports are no part of the fit
    rows = []
    for seed in range(args.seeds):
        known = np.random.default_rng(seed).permutation(len(X))[:args.train]
        known = known[np.lexsort(X[known].T[::-1])]  # in the order that predictors put them in
        start = time.perf_counter()
        ours = get_acc_predictor("as", X[known], y[known], seed=seed)
        fitted = time.perf_counter()
        plain = plain_scores(X[known][:, used].astype(float), y[known], seed)
        seconds, plain_seconds = fitted - start, time.perf_counter() - fitted
        rows.append((seed, *(f"{ours.scores[name]:.4f} / {plain[name]:.4f}" for name in PLAIN),
                     f"{ours.winner} / {max(plain, key=plain.get)}",
                     f"{seconds:.1f} / {plain_seconds:.1f}", f"{plain_seconds / seconds:.1f} x"))
        print(*rows[-1], flush=True)
    text = f"{machine()}; {args.train} measured architectures; ours / plain\n\n" + table(
        ("seed", *PLAIN, "winner", "fit (s)", "faster"), rows) + "\n"
    publish(text, args.save)


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
