"""`rbf`: interpolation with radial basis functions, after pySOT."""

from typing import Any

import numpy as np
from pySOT.surrogate import (
    ConstantTail,
    CubicKernel,
    LinearKernel,
    LinearTail,
    RBFInterpolant,
    TPSKernel,
)

from acc_predictor.base import AccPredictor, affords_linear_part, choose
from utils.errors import UserError

KERNELS = {"cubic": CubicKernel, "tps": TPSKernel, "linear": LinearKernel}
TAILS = {"linear": LinearTail, "constant": ConstantTail}


class RBF(AccPredictor):
    """Cubic kernel and linear tail (NSGANetV2, Section 3.2).

    DEVIATION: a gene spans the distance (its range) ** (2/3), where the original took integers as
    they are. The resolution, with its 17 values, then weighs 4 times as much as a gene with 3, not
    8 times (nor as much, as in the unit box): Kendall tau on the accuracy-predictor oracle 0.774
    from 100 random points and 0.824 from 340, against 0.778 and 0.821 as they are, 0.725 and 0.777
    in the unit box. A search finds more with it (`benchmarks/quality.py`).

    Where the points do not afford a linear part (see `affords_linear_part`): linear kernel and
    constant tail, which interpolate any set of distinct points.

    Args:
        kernel: a key of `KERNELS`.
        tail: a key of `TAILS`.
        options: see `AccPredictor`.

    Raises:
        UserError: no such kernel or tail, or a kernel that has no interpolant with that tail.
    """

    name = "rbf"

    def __init__(self, *, kernel: str = "cubic", tail: str = "linear", **options: Any) -> None:
        super().__init__(**options)
        self._parts = choose("kernel", kernel, KERNELS), choose("tail", tail, TAILS)
        if tail == "constant" and kernel != "linear":
            raise UserError(f"the {kernel} kernel needs a linear tail")

    def _fit(self, X: np.ndarray, y: np.ndarray) -> None:
        linear_part = affords_linear_part(X)
        kernel, tail = self._parts if linear_part else (LinearKernel, ConstantTail)
        dim, (lower, upper) = X.shape[1], self._bounds(X)
        eta = 1e-6 if linear_part else 0.0  # pySOT's default; a linear kernel needs none
        unit = lower + np.cbrt(upper - lower)  # what pySOT maps to 1
        self._model = RBFInterpolant(dim, lower, unit, kernel=kernel(), tail=tail(dim), eta=eta)
        self._model.add_points(X, y[:, None])
        self._model.predict(X[:1])  # pySOT solves the system at the first prediction

    def _predict(self, X: np.ndarray) -> np.ndarray:
        return self._model.predict(X)
