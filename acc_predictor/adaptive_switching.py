"""`as`: adaptive switching between predictors, by cross-validation."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from acc_predictor.base import AccPredictor, drawn_part
from acc_predictor.carts import CARTs
from acc_predictor.gp import GP
from acc_predictor.rbf import RBF
from utils.errors import UserError
from utils.metrics import kendall

N_FOLDS = 10
MAX_COMPARED = 400  # points, since `gp` takes much memory and its folds run at the same time
CANDIDATES: tuple[type[AccPredictor], ...] = (RBF, GP, CARTs)


class AdaptiveSwitching(AccPredictor):
    """The one of rbf, gp and carts that ranks unseen points best (NSGANetV2, Section 3.2).

    Best is the highest mean minus standard deviation of Kendall's tau over 10 folds, of at most 400
    points, drawn from the seed; the winner is fitted on all points (see its `max_points`). A fold
    whose predictions are all equal scores 0.

    The folds run on threads: nearly all of their time is spent in numpy, which lets others run.

    Args:
        n_fold: how many folds.
        options: see `AccPredictor`.

    Attributes:
        scores: after `fit`, the mean minus standard deviation of each candidate, by name.
    """

    name = "adaptive switching"  # what the original writes into its stats files
    min_points = 2 * N_FOLDS  # a rank correlation needs two points in each fold

    def __init__(self, *, n_fold: int = N_FOLDS, **options: Any) -> None:
        super().__init__(**options)
        if n_fold < 2:
            raise UserError(f"n_fold must be 2 or more, not {n_fold}")
        self.n_fold, self.min_points = n_fold, max(self.min_points, 2 * n_fold)

    @property
    def winner(self) -> str:
        """Name of the predictor that answers."""
        return self._model.winner

    def _fit(self, X: np.ndarray, y: np.ndarray) -> None:
        part = drawn_part(X, y, MAX_COMPARED, self.seed)
        folds = cross_validation_folds(len(part[0]), self.seed, self.n_fold)
        with ThreadPoolExecutor(self.n_jobs) as pool:
            taus = np.array(list(pool.map(lambda fold: self._taus(*part, fold), folds)))
        scores = taus.mean(axis=0) - taus.std(axis=0)
        self.scores = {c.name: float(s) for c, s in zip(CANDIDATES, scores, strict=True)}
        self._model = self._build(CANDIDATES[scores.argmax()], X, self.n_jobs).fit(X, y)

    def _taus(self, X: np.ndarray, y: np.ndarray, fold: np.ndarray) -> list[float]:
        """Returns Kendall's tau on the fold of each candidate fitted on all other points."""
        rest = np.setdiff1d(np.arange(len(X)), fold)
        models = [self._build(c, X, n_jobs=1).fit(X[rest], y[rest]) for c in CANDIDATES]
        return [kendall(model.predict(X[fold]), y[fold]) for model in models]

    def _build(self, candidate: type[AccPredictor], X: np.ndarray, n_jobs: int) -> AccPredictor:
        lower, upper = self._bounds(X)
        return candidate(seed=self.seed, lower=lower, upper=upper, n_jobs=n_jobs)

    def _predict(self, X: np.ndarray) -> np.ndarray:
        return self._model.predict(X)


def cross_validation_folds(n: int, seed: int, n_fold: int = N_FOLDS) -> list[np.ndarray]:
    """Returns the indices of the points of each fold, drawn from the seed."""
    return np.array_split(np.random.default_rng(seed).permutation(n), n_fold)
