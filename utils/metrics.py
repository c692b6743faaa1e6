"""How well predictions agree with measurements.

A rank correlation with a constant, which is not defined, counts as 0: a constant ranks nothing, and
JSON has no NaN.
"""

import numpy as np

from utils.errors import UserError


def rmse(pred: np.ndarray, target: np.ndarray) -> float:
    """Root mean squared error, in the unit of the values; both (n,) or (n, 1).

    DEVIATION rmse: the original subtracts (n,) from (n, 1) and averages the n x n differences.
    """
    pred, target = _pair(pred, target)
    return float(np.sqrt(np.mean((pred - target) ** 2)))


def spearman(pred: np.ndarray, target: np.ndarray) -> float:
    """Spearman's rank correlation rho; both (n,) or (n, 1). 0 where one side is constant."""
    from scipy.stats import spearmanr  # takes a second to import

    pred, target = _pair(pred, target)
    return float(spearmanr(pred, target).statistic) if _vary(pred, target) else 0.0


def kendall(pred: np.ndarray, target: np.ndarray) -> float:
    """Kendall's rank correlation tau-b; both (n,) or (n, 1). 0 where one side is constant."""
    from scipy.stats import kendalltau  # takes a second to import

    pred, target = _pair(pred, target)
    return float(kendalltau(pred, target).statistic) if _vary(pred, target) else 0.0


def get_correlation(pred: np.ndarray, target: np.ndarray) -> tuple[float, float, float]:
    """Returns RMSE, Spearman's rho and Kendall's tau of predictions; both (n,) or (n, 1).

    Raises:
        UserError: the lengths differ, nothing to compare, NaN or infinity.
    """
    return rmse(pred, target), spearman(pred, target), kendall(pred, target)


def _pair(pred: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns both as (n,) arrays: (n, 1) minus (n,) would broadcast to an n x n matrix."""
    columns = []
    for what, values in (("predictions", pred), ("targets", target)):
        array = np.asarray(values, dtype=float)
        if not array.size or array.shape not in ((array.size,), (array.size, 1)):
            raise UserError(f"{what}: expected n > 0 numbers, (n,) or (n, 1), not the shape "
                            f"{array.shape}")
        if not np.isfinite(array).all():
            raise UserError(f"{what}: NaN or infinity cannot be compared")
        columns.append(array.ravel())
    if len(columns[0]) != len(columns[1]):
        raise UserError(f"{len(columns[0])} predictions cannot be compared with "
                        f"{len(columns[1])} targets")
    return columns[0], columns[1]


def _vary(*columns: np.ndarray) -> bool:
    return all(np.ptp(column) > 0 for column in columns)
