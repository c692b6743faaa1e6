"""Accuracy predictors (surrogates): (encoding, top-1 error) -> predictor."""

from typing import TYPE_CHECKING, Any

import numpy as np

from utils.errors import UserError
from utils.registry import load_class

if TYPE_CHECKING:
    from acc_predictor.base import AccPredictor
    from search_space import SearchSpace

# name -> "module:class", an `AccPredictor`. Imported when it is built, as the libraries weigh much.
PREDICTORS = {
    "as": "acc_predictor.adaptive_switching:AdaptiveSwitching",
    "carts": "acc_predictor.carts:CARTs",
    "gp": "acc_predictor.gp:GP",
    "mlp": "acc_predictor.mlp:MLP",
    "nngp": "acc_predictor.nngp:NNGP",
    "rbf": "acc_predictor.rbf:RBF",
}


def predictor_class(name: str) -> "type[AccPredictor]":
    """Returns the class of the predictor called `name`, a row of `PREDICTORS` or `module:Class`.

    Raises:
        UserError: no such predictor; the message lists them.
    """
    from acc_predictor.base import AccPredictor

    return load_class(PREDICTORS, name, "predictor", AccPredictor)


def check_predictor(name: str) -> None:
    """Raises UserError where no predictor has that name; the libraries of a row stay unloaded."""
    if name not in PREDICTORS:
        predictor_class(name)


def require_std(name: str) -> None:
    """Raises UserError where that predictor gives no standard deviations."""
    if not predictor_class(name).gives_std:
        raise UserError(f"predictor {name!r} gives no standard deviation, which this strategy "
                        "needs; choose nngp or gp, or another strategy")


def require_points(name: str, n: int) -> None:
    """Raises UserError where that predictor cannot learn from `n` architectures."""
    least = predictor_class(name).min_points
    if n < least:
        raise UserError(f"predictor {name!r} learns from at least {least} architectures, but "
                        f"the initial sample has {n} (--n_doe); enlarge it, or choose another "
                        "predictor")


def get_acc_predictor(name: str, inputs: np.ndarray, targets: np.ndarray, *, seed: int = 0,
                      n_jobs: int | None = None, space: "SearchSpace | None" = None,
                      **options: Any) -> "AccPredictor":
    """Returns the predictor called `name`, fitted.

    Args:
        name: key in `PREDICTORS`, or `module:Class` for one of your own.
        inputs: (n, d) canonical integer vectors.
        targets: (n,) or (n, 1) top-1 errors in percent.
        seed: seeds the predictors that draw random numbers.
        n_jobs: threads to use, None for all cores; no result depends on it.
        space: what the vectors encode; gives the bounds and the meaning of the genes.
        options: further keywords of that predictor's constructor, such as `n_tree` of `carts`.

    Raises:
        UserError: no such predictor, or inputs and targets that it cannot learn from.
    """
    model = predictor_class(name)(seed=seed, n_jobs=n_jobs, space=space, **options)
    return model.fit(inputs, targets)
