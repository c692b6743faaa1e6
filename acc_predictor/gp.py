"""`gp`: Kriging, after pydacefit (DACE)."""

import numpy as np
from pydacefit.corr import calc_kernel_matrix, corr_gauss
from pydacefit.dace import DACE
from pydacefit.regr import regr_constant, regr_linear
from scipy.stats import zscore

from acc_predictor.base import AccPredictor, affords_linear_part

# The width of the correlation, shared by the standardised genes, is searched within these bounds.
THETA_START, THETA_LOWER, THETA_UPPER = 0.1, 1e-5, 100.0


class GP(AccPredictor):
    """Linear trend and Gaussian correlation with one width (NSGANetV2, Section 3.2).

    Where the points do not afford a linear part (see `affords_linear_part`) the trend is constant.
    """

    name = "gp"
    gives_std = True

    def _fit(self, X: np.ndarray, y: np.ndarray) -> None:
        theta = _first_feasible_theta(zscore(X, axis=0, ddof=1))
        self._model = DACE(regr=regr_linear if affords_linear_part(X) else regr_constant,
                           corr=corr_gauss, theta=np.array([theta]),
                           thetaL=np.array([THETA_LOWER]),
                           thetaU=np.array([max(theta, THETA_UPPER)]))
        self._model.fit(X, y)
        self._model.itpar = None  # every model tried on the way, each with matrices of n x n

    def _predict(self, X: np.ndarray) -> np.ndarray:
        return self._model.predict(X)

    def _predict_std(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, variance = self._model.predict(X, return_mse=True)
        return mean, np.sqrt(np.maximum(variance, 0.0))


def _first_feasible_theta(Z: np.ndarray) -> float:
    """Returns the first of 0.1, 1, 10, ... with a numerically positive definite correlation.

    The correlation of distinct (n, d) points tends to the identity, so there is one.
    """
    theta = THETA_START
    while not _is_positive_definite(calc_kernel_matrix(Z, Z, corr_gauss, theta)):
        theta *= 10
    return theta


def _is_positive_definite(R: np.ndarray) -> bool:
    try:
        np.linalg.cholesky(R)
    except np.linalg.LinAlgError:
        return False
    return True
