"""What every accuracy predictor offers and checks: the contract of the family."""

import functools
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal, Self, overload

import numpy as np
import scipy.linalg  # noqa: F401  loads scipy's own BLAS before `_blas` lists the libraries
from joblib import cpu_count
from threadpoolctl import ThreadpoolController

from utils.errors import UserError, worded

if TYPE_CHECKING:
    from search_space import SearchSpace


class AccPredictor(ABC):
    """A regression model from encoded architectures to top-1 error.

    Policy, the same for the whole family:

    - Points that stand in the training set more than once count once, with their mean target, and
      the order of the points does not matter.
    - Columns that are constant in the training set are dropped, here and in
      `predict`. Constant targets give that constant.
    - NaN, infinity, wrong shapes and fewer than `min_points` different points raise UserError.
    - A model with `gives_std` gives the standard deviation of a prediction: of the error
      itself, without the noise of one measurement.
    - Randomness comes from `seed` alone. BLAS runs on one thread, so that the predictions are the
      same to the last bit whatever the number of cores or `n_jobs`.

    Args:
        seed: seeds the generators of the predictors that draw.
        lower, upper: (d,) bounds of the genes, to scale inputs; by default those of the space, or
            of the data.
        n_jobs: threads to use; None means every core that this process may use.
        space: what the vectors encode, for predictors that use the meaning of the genes.

    Attributes:
        name: key in `acc_predictor.PREDICTORS`.
        min_points: the fewest different training points that it accepts.
        max_points: the most that it learns from, for the time and the memory of a fit; of more,
            as many are drawn from the seed. None learns from all.
        gives_std: whether it gives standard deviations.
    """

    name: ClassVar[str]
    min_points: int = 5
    max_points: ClassVar[int | None] = None
    gives_std: ClassVar[bool] = False

    def __init__(self, *, seed: int = 0, lower: np.ndarray | None = None,
                 upper: np.ndarray | None = None, n_jobs: int | None = None,
                 space: "SearchSpace | None" = None) -> None:
        self.seed = seed
        self.space = space
        self.lower = lower if space is None or lower is not None else space.lower
        self.upper = upper if space is None or upper is not None else space.upper
        self.n_jobs = n_jobs or cpu_count()

    @property
    def winner(self) -> str:
        """Name of the model that answers; differs from `name` for adaptive switching."""
        return self.name

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Fits the model.

        Args:
            X: (n, d) canonical integer vectors.
            y: (n,) or (n, 1) top-1 errors in percent.

        Raises:
            UserError: wrong shapes, NaN or infinity, or too few different points.
        """
        X = _finite_matrix("training inputs", X)
        X, y = _merge_duplicates(X, _finite_column("training targets", y, len(X)))
        if len(X) < self.min_points:
            raise UserError(f"predictor {self.name!r} needs at least {self.min_points} different "
                            f"architectures to learn from, not {len(X)}; evaluate again what "
                            f"failed ({worded('--resume with --retry_failed', 'retry_failed=True')}"
                            "), or start a new search with a larger initial sample (--n_doe)")
        X, y = drawn_part(X, y, self.max_points, self.seed)
        self._n_genes = X.shape[1]
        self._columns = np.flatnonzero(np.ptp(X, axis=0))
        self._first = X[0]
        self._constant = float(y[0]) if np.ptp(y) == 0 else None
        if self._constant is None:
            with _blas().limit(limits=1, user_api="blas"):
                self._fit(X[:, self._columns], y)
        return self

    @overload
    def predict(self, X: np.ndarray, return_std: Literal[False] = False) -> np.ndarray: ...

    @overload
    def predict(self, X: np.ndarray,
                return_std: Literal[True]) -> tuple[np.ndarray, np.ndarray]: ...

    def predict(self, X: np.ndarray,
                return_std: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Returns the (n, 1) predicted top-1 errors in percent of (n, d) vectors.

        Args:
            X: (n, d) canonical integer vectors.
            return_std: also return their (n, 1) standard deviations in percent, as scikit-learn's
                regressors do.

        Raises:
            UserError: another number of columns than in training, NaN or infinity, or a model
                without standard deviations is asked for them.
        """
        X = _finite_matrix("inputs to predict", X)
        if X.shape[1] != self._n_genes:
            raise UserError(f"predictor {self.name!r} was fitted on {self._n_genes} genes, but is "
                            f"asked about vectors of {X.shape[1]}")
        if return_std and not self.gives_std:
            raise UserError(f"predictor {self.name!r} gives no standard deviation; take one that "
                            "does, such as nngp or gp")
        n, rows = len(X), X[:, self._columns]
        mean, std = np.full(n, self._constant or 0.0), np.zeros(n)
        if self._constant is None:
            with _blas().limit(limits=1, user_api="blas"):
                mean, std = self._predict_std(rows) if return_std else (self._predict(rows), std)
        mean, std = np.reshape(mean, (n, 1)), np.reshape(std, (n, 1))
        return (mean, std) if return_std else mean

    def condition_on(self, X: np.ndarray, y: np.ndarray | None = None) -> Self:
        """Returns the model conditioned on (n, d) vectors, without learning hyperparameters again.

        A model that cannot do so without a new fit returns itself.

        Args:
            X: (n, d) canonical vectors.
            y: (n,) their top-1 errors in percent; None takes the model's own predictions, which
                then stay while the standard deviations near `X` shrink.
        """
        if self._constant is not None or not len(X):
            return self
        with _blas().limit(limits=1, user_api="blas"):
            return self._condition_on(np.asarray(X, dtype=float)[:, self._columns], y)

    @abstractmethod
    def _fit(self, X: np.ndarray, y: np.ndarray) -> None:
        """Learns from distinct (n, k) rows without constant columns and varying (n,) targets."""

    @abstractmethod
    def _predict(self, X: np.ndarray) -> np.ndarray:
        """Returns n predictions for (n, k) rows."""

    def _predict_std(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns n predictions and n standard deviations for (n, k) rows; see `gives_std`."""
        raise NotImplementedError(f"{type(self).__name__} sets gives_std, but has no _predict_std")

    def _condition_on(self, X: np.ndarray, y: np.ndarray | None) -> Self:
        """See `condition_on`; (n, k) rows of the columns in use."""
        return self

    def _whole(self, X: np.ndarray) -> np.ndarray:
        """Returns (n, d) vectors of (n, k) rows: what is constant in training as it was there."""
        whole = np.tile(self._first, (len(X), 1))
        whole[:, self._columns] = X
        return whole

    def _bounds(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the (k,) lower and upper bounds of the columns in use: `X` holds those alone."""
        lower = X.min(axis=0) if self.lower is None else self._in_use("lower", self.lower)
        upper = X.max(axis=0) if self.upper is None else self._in_use("upper", self.upper)
        return lower, upper

    def _in_use(self, what: str, bound: np.ndarray) -> np.ndarray:
        bound = np.asarray(bound, dtype=float)
        if bound.shape != (self._n_genes,):
            raise UserError(f"the {what} bound has the shape {bound.shape}, but the vectors have "
                            f"{self._n_genes} genes")
        return bound[self._columns]


def affords_linear_part(X: np.ndarray) -> bool:
    """Returns whether (n, d) points determine a linear trend well: 2 (d + 1) independent ones.

    DEVIATION linear-trend: the original always fits a linear trend. With little more than d + 1
    points that trend interpolates noise (Kendall tau on measured ImageNet accuracies, 46 genes:
    0.51 from 47 points, 0.82 from 60, against 0.89 and 0.90 without it), and with fewer it does
    not exist.
    From 2 (d + 1) points on, the model is the original's.
    """
    n, d = X.shape
    return n >= 2 * (d + 1) and np.linalg.matrix_rank(X - X.mean(axis=0)) == d


def drawn_part(X: np.ndarray, y: np.ndarray, most: int | None,
               seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns `most` of the (n, d) points and their (n,) targets, drawn; all where `most` is None.

    They keep their order.
    """
    if most is None or len(X) <= most:
        return X, y
    part = np.sort(np.random.default_rng(seed).choice(len(X), most, replace=False))
    return X[part], y[part]


@functools.cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def _finite_matrix(what: str, values: np.ndarray) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 2 or array.dtype.kind not in "biuf" or not array.shape[1]:
        raise UserError(f"{what}: expected a matrix of numbers, one row for each architecture, "
                        f"not {array.dtype} of the shape {array.shape}")
    if not np.isfinite(array).all():
        row = np.flatnonzero(~np.isfinite(array).all(axis=1))[0]
        raise UserError(f"{what}: row {row} holds NaN or infinity; leave it out")
    return array.astype(float)


def _finite_column(what: str, values: np.ndarray, n: int) -> np.ndarray:
    array = np.asarray(values)
    if array.shape not in ((n,), (n, 1)):
        raise UserError(f"{what}: expected one number for each of the {n} architectures, not the "
                        f"shape {array.shape}")
    return _finite_matrix(what, array.reshape(n, 1))[:, 0]


def _merge_duplicates(X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, inverse, counts = np.unique(X, axis=0, return_inverse=True, return_counts=True)
    return rows, np.bincount(inverse.ravel(), weights=y, minlength=len(rows)) / counts
