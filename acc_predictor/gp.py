"""`gp`: Kriging, after pydacefit (DACE)."""

from collections.abc import Callable
from typing import Any

import numpy as np
from pydacefit import corr as correlations
from pydacefit.dace import DACE
from pydacefit.regr import regr_constant, regr_linear
from scipy.stats import zscore

from acc_predictor.base import AccPredictor, affords_linear_part
from utils.registry import get_row

TRENDS = {"constant": regr_constant, "linear": regr_linear}
CORRELATIONS = {"gauss": correlations.corr_gauss, "exp": correlations.corr_exp,
                "cubic": correlations.corr_cubic, "spline": correlations.corr_spline,
                "spherical": correlations.corr_spherical, "lin": correlations.corr_lin}

# The width of the correlation, shared by the standardised genes, is searched within these bounds.
THETA_START, THETA_LOWER, THETA_UPPER = 0.1, 1e-5, 100.0


class GP(AccPredictor):
    """Linear trend and Gaussian correlation with one width (NSGANetV2, Section 3.2).

    Where the points do not afford a linear part (see `affords_linear_part`) the trend is constant.

    Args:
        regr: the trend, a key of `TRENDS`.
        corr: the correlation, a key of `CORRELATIONS`.
        options: see `AccPredictor`.

    Raises:
        UserError: no such trend or correlation.
    """

    name = "gp"
    max_points = 600  # pydacefit holds several arrays of n x n x genes
    gives_std = True

    def __init__(self, *, regr: str = "linear", corr: str = "gauss", **options: Any) -> None:
        super().__init__(**options)
        self._trend = get_row(TRENDS, regr, "trend")
        self._correlation = get_row(CORRELATIONS, corr, "correlation")

    def _fit(self, X: np.ndarray, y: np.ndarray) -> None:
        theta = _first_feasible_theta(zscore(X, axis=0, ddof=1), self._correlation)
        self._model = DACE(regr=self._trend if affords_linear_part(X) else regr_constant,
                           corr=self._correlation, theta=np.array([theta]),
                           thetaL=np.array([THETA_LOWER]),
                           thetaU=np.array([max(theta, THETA_UPPER)]))
        self._model.fit(X, y)
        self._model.itpar = None  # every model tried on the way, each with matrices of n x n

    def _predict(self, X: np.ndarray) -> np.ndarray:
        return self._model.predict(X)

    def _predict_std(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, variance = self._model.predict(X, return_mse=True)
        return mean, np.sqrt(np.maximum(variance, 0.0))


def _first_feasible_theta(Z: np.ndarray, correlation: Callable[..., np.ndarray]) -> float:
    """Returns the first of 0.1, 1, 10, ... with a numerically positive definite correlation.

    The correlation of distinct (n, d) points tends to the identity, so there is one.
    """
    theta = THETA_START
    while not _is_positive_definite(correlations.calc_kernel_matrix(Z, Z, correlation, theta)):
        theta *= 10
    return theta


def _is_positive_definite(R: np.ndarray) -> bool:
    try:
        np.linalg.cholesky(R)
    except np.linalg.LinAlgError:
        return False
    return True
