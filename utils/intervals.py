"""How far an accuracy can be trusted: intervals, and paired comparisons on the same images."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEVEL = 0.95


class Interval(NamedTuple):
    """The bounds of a confidence interval."""

    low: float
    high: float


class Difference(NamedTuple):
    """The second of two classifiers against the first, on the same images.

    Attributes:
        points: its top-1 accuracy minus the first one's, in percentage points.
        interval: 95 % interval of that.
        p_value: of the exact McNemar test that both are right equally often.
    """

    points: float
    interval: Interval
    p_value: float


def wilson(hits: int, n: int) -> Interval:
    """Returns the 95 % confidence interval of a proportion, in percent.

    It stays within 0..100 and is right for few images and for accuracies near 100 %, where the
    usual plus-minus of the normal distribution is not. Source: Wilson (1927); Brown, Cai and
    DasGupta (2001) recommend it.

    Args:
        hits: successes, 0..n.
        n: trials, 1 or more.

    Raises:
        ValueError: no trials, or more successes than trials.
    """
    if n < 1 or not 0 <= hits <= n:
        raise ValueError(f"{hits} of {n} is no proportion")
    z2 = _normal_quantile() ** 2
    share = hits / n
    centre = share + z2 / (2 * n)
    margin = (z2 * (share * (1 - share) / n + z2 / (4 * n * n))) ** 0.5
    low, high = ((centre + sign * margin) / (1 + z2 / n) for sign in (-1, 1))
    return Interval(100 * max(0.0, low), 100 * min(1.0, high))


def mcnemar(only_first: int, only_second: int) -> float:
    """Returns the two-sided p-value that two classifiers are right equally often.

    Args:
        only_first: images that only the first one has right.
        only_second: images that only the second one has right.

    Source: McNemar (1947), in its exact form: under the hypothesis the images on which the two
    differ fall to either with probability 1/2.
    """
    from scipy.stats import binomtest  # takes a second to import

    n = only_first + only_second
    return float(binomtest(only_first, n).pvalue) if n else 1.0


def compare_paired(first: np.ndarray, second: np.ndarray) -> Difference:
    """Returns the difference of two classifiers that saw the same images.

    Args:
        first, second: (n,) bool, which images each has right.

    Raises:
        ValueError: the lengths differ, or there is no image.
    """
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"the answers of two classifiers to the same images are needed, not "
                         f"{first.shape} and {second.shape}")
    n = len(first)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    return Difference(100 * (only_second - only_first) / n,
                      matched_interval(only_first, only_second, n),
                      mcnemar(only_first, only_second))


def matched_interval(only_first: int, only_second: int, n: int) -> Interval:
    """Returns the 95 % interval of the second accuracy minus the first one, in points.

    Args:
        only_first, only_second: see `mcnemar`.
        n: images.

    Source: Agresti and Min (2005): half an image is added to each of the four cells, which is right
    for few images, and where the two never differ, as the plain formula is not.
    """
    lost, won, total = only_first + 0.5, only_second + 0.5, n + 2
    centre = (won - lost) / total
    margin = _normal_quantile() * (won + lost - total * centre**2) ** 0.5 / total
    return Interval(100 * max(-1.0, centre - margin), 100 * min(1.0, centre + margin))


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns the p-values of several tests, corrected for their number, in the same order.

    Source: Holm (1979): with the smallest first, the k-th of m is multiplied by m - k + 1, and
    none becomes smaller than the one before it.
    """
    order = np.argsort(p_values, kind="stable")
    products = np.arange(len(order), 0, -1) * np.asarray(p_values)[order]
    corrected = np.empty(len(order))
    corrected[order] = np.maximum.accumulate(np.minimum(products, 1.0))
    return corrected.tolist()


def _normal_quantile() -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf((1 + LEVEL) / 2)
