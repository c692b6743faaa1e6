"""`rbf`: interpolation with radial basis functions, after pySOT."""

import numpy as np
from pySOT.surrogate import (
    ConstantTail,
    CubicKernel,
    LinearKernel,
    LinearTail,
    RBFInterpolant,
)

from acc_predictor.base import AccPredictor, affords_linear_part


class RBF(AccPredictor):
    """Cubic kernel and linear tail on inputs scaled to the unit box (NSGANetV2, Section 3.2).

    Where the points do not afford a linear part (see `affords_linear_part`): linear kernel and
    constant tail, which interpolate any set of distinct points.
    """

    name = "rbf"

    def _fit(self, X: np.ndarray, y: np.ndarray) -> None:
        linear_part = affords_linear_part(X)
        kernel, tail = (CubicKernel, LinearTail) if linear_part else (LinearKernel, ConstantTail)
        dim, (lower, upper) = X.shape[1], self._bounds(X)
        eta = 1e-6 if linear_part else 0.0  # pySOT's default; a linear kernel needs none
        self._model = RBFInterpolant(dim, lower, upper, kernel=kernel(), tail=tail(dim), eta=eta)
        self._model.add_points(X, y[:, None])
        self._model.predict(X[:1])  # pySOT solves the system at the first prediction

    def _predict(self, X: np.ndarray) -> np.ndarray:
        return self._model.predict(X)
