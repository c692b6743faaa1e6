"""Fronts of minimised objectives: non-dominated points, hypervolume, and choices among them.

Every `F` is an (n, m) array: n points, m objectives, all minimised.
"""

import moocore
import numpy as np
from numpy.typing import ArrayLike

from utils.errors import UserError

REFERENCE_MARGIN = 1.01
TRADEOFF_RADIUS = 0.125


def non_dominated(F: ArrayLike) -> np.ndarray:
    """Returns the (n,) bool mask of the non-dominated points; of equal points only the first.

    Raises:
        UserError: `F` is not (n, m), or holds NaN or infinity.
    """
    F = _checked(F)
    if not len(F):
        return np.zeros(0, dtype=bool)
    return np.asarray(moocore.is_nondominated(F, keep_weakly=False), dtype=bool)


def reference_point(F: ArrayLike) -> np.ndarray:
    """Returns the (m,) reference point of the hypervolume: 1.01 x the worst of each objective.

    Of a negative worst value (a maximised objective enters negated) it is 0.99 x, so that the
    point is the worse one; where the worst value is 0 it is 1.

    Raises:
        UserError: `F` is empty, not (n, m), or holds NaN or infinity.
    """
    F = _checked(F)
    if not len(F):
        raise UserError("the reference point needs at least one evaluated architecture")
    worst = F.max(axis=0)
    beyond = np.where(worst > 0, REFERENCE_MARGIN * worst, (2 - REFERENCE_MARGIN) * worst)
    return np.where(worst == 0, 1.0, beyond)


def ideal_point(F: ArrayLike) -> np.ndarray:
    """Returns the (m,) ideal point that normalises the hypervolume of `F`.

    It is 0, or the best value of an objective that has values below 0 (a maximised one).

    Raises:
        UserError: `F` is not (n, m), or holds NaN or infinity.
    """
    return np.minimum(_checked(F).min(axis=0, initial=0.0), 0.0)


def hypervolume(F: ArrayLike, ref: ArrayLike) -> float:
    """Returns the volume that `F` dominates below `ref` (m,); points beyond `ref` add nothing.

    Raises:
        UserError: `F` is not (n, m), `ref` not (m,), or one of them holds NaN or infinity.
    """
    F, ref = _checked(F), np.asarray(ref, dtype=float)
    if ref.shape != F.shape[1:] or not np.isfinite(ref).all():
        raise UserError(f"the reference point must be {F.shape[1]} finite numbers, one per "
                        f"objective, not {ref.tolist()}")
    return float(moocore.hypervolume(F, ref=ref)) if len(F) else 0.0


def normalized_hypervolume(F: ArrayLike, ref: ArrayLike, ideal: ArrayLike = 0.0) -> float:
    """Returns `hypervolume(F, ref)` as a part of the box from `ideal` to `ref`.

    It is in 0..1 where no point is better than `ideal`, which is 0 unless it is given. Of a
    maximised objective, whose values are negative, 0 is worse than `ref`: without an `ideal` the
    result is in units of the reference and may exceed 1. See `ideal_point`.

    Args:
        F: (n, m) points.
        ref: (m,) reference point.
        ideal: (m,) the other corner of the box, or one number for all.

    Raises:
        UserError: as `hypervolume`, or the box is empty.
    """
    volume, box = hypervolume(F, ref), float(np.prod(np.abs(np.subtract(ref, ideal))))
    if not box > 0:
        raise UserError(f"the reference point must be positive, or negative for what is maximised, "
                        f"not {np.asarray(ref).tolist()}")
    return volume / box


def asf(F: ArrayLike, weights: ArrayLike) -> np.ndarray:
    """Returns the (n,) achievement scalarising values `max_j F[:, j] / weights[j]`.

    The smaller, the closer to the preferred point `weights` (m,), seen from the ideal point 0.
    Source: Wierzbicki (1980); a weight of 0 counts as 1e-10, as in pymoo's `ASF`.

    Raises:
        UserError: `F` is not (n, m), or `weights` are not m finite numbers >= 0.
    """
    F, weights = _checked(F), np.asarray(weights, dtype=float)
    if weights.shape != F.shape[1:] or not (np.isfinite(weights) & (weights >= 0)).all():
        raise UserError(f"preferences must be {F.shape[1]} finite numbers >= 0, one per objective, "
                        f"not {weights.tolist()}")
    return (F / np.where(weights == 0, 1e-10, weights)).max(axis=1)


def tradeoff(F: ArrayLike) -> np.ndarray:
    """Returns the (n,) trade-off of each point of a front: the higher, the more of a knee.

    Objectives are scaled to 0..1. The trade-off is the least loss per unit of gain in moving to a
    neighbour: one of the points within 0.125, or of the nearest 2 m where these are fewer. A point
    that no neighbour improves on has infinity.
    Source: Rachmawati and Srinivasan (2009), as the original selects with pymoo.

    Raises:
        UserError: `F` is not (n, m), or holds NaN or infinity.
    """
    points = _checked(F)
    if not len(points):
        return np.zeros(0)
    span = np.ptp(points, axis=0)
    points = (points - points.min(axis=0)) / np.where(span > 0, span, 1.0)
    step = points[None, :, :] - points[:, None, :]
    loss, gain = step.clip(min=0).sum(axis=-1), (-step).clip(min=0).sum(axis=-1)
    distance = np.linalg.norm(step, axis=-1)
    least = min(2 * points.shape[1], len(points) - 1)
    few = (distance <= TRADEOFF_RADIUS).sum(axis=1) < least
    nearest = np.sort(distance, axis=1)[:, least]
    radius = np.where(few, nearest, TRADEOFF_RADIUS)
    better = (distance <= radius[:, None]) & (gain > 0)
    ratio = np.divide(loss, gain, out=np.full_like(loss, np.inf), where=better)
    return ratio.min(axis=1)


def high_tradeoff(F: ArrayLike, n: int) -> np.ndarray:
    """Returns the indices of the `n` highest trade-offs of a front, the highest first.

    Fewer come back where the front is smaller; ties go to the smaller index.

    Raises:
        UserError: `F` is not (n, m), or holds NaN or infinity.
    """
    return np.argsort(-tradeoff(F), kind="stable")[:n]


def _checked(F: ArrayLike) -> np.ndarray:
    F = np.asarray(F, dtype=float)
    if F.ndim != 2 or F.shape[1] < 1:
        raise UserError(f"objectives must have the shape (points, objectives), not {F.shape}")
    if not np.isfinite(F).all():
        row = int(np.flatnonzero(~np.isfinite(F).all(axis=1))[0])
        raise UserError(f"objectives must be finite numbers, but point {row} has {F[row].tolist()}")
    return F
