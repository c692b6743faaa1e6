"""Accuracy predictors (surrogates): (encoding, top-1 error) -> predictor."""

import importlib
from typing import TYPE_CHECKING

import numpy as np

from utils.errors import UserError

if TYPE_CHECKING:
    from acc_predictor.base import AccPredictor

# name -> "module:class", an `AccPredictor`. Imported when it is built, as the libraries weigh much.
PREDICTORS = {
    "as": "acc_predictor.adaptive_switching:AdaptiveSwitching",
    "carts": "acc_predictor.carts:CARTs",
    "gp": "acc_predictor.gp:GP",
    "mlp": "acc_predictor.mlp:MLP",
    "rbf": "acc_predictor.rbf:RBF",
}


def get_acc_predictor(name: str, inputs: np.ndarray, targets: np.ndarray, *, seed: int = 0,
                      lower: np.ndarray | None = None, upper: np.ndarray | None = None,
                      n_jobs: int | None = None) -> "AccPredictor":
    """Returns the predictor called `name`, fitted.

    Args:
        name: key in `PREDICTORS`.
        inputs: (n, d) canonical integer vectors.
        targets: (n,) or (n, 1) top-1 errors in percent.
        seed: seeds the predictors that draw random numbers.
        lower, upper: (d,) bounds of the genes; by default those of the data.
        n_jobs: threads to use, None for all cores; no result depends on it.

    Raises:
        UserError: no such predictor, or inputs and targets that it cannot learn from.
    """
    if name not in PREDICTORS:
        raise UserError(f"unknown predictor {name!r}; choose from {', '.join(sorted(PREDICTORS))}")
    module, attribute = PREDICTORS[name].split(":")
    predictor = getattr(importlib.import_module(module), attribute)
    return predictor(seed=seed, lower=lower, upper=upper, n_jobs=n_jobs).fit(inputs, targets)
