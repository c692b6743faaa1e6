"""Expected hypervolume improvement of a front by a candidate."""

from dataclasses import dataclass, replace
from typing import Self

import moocore
import numpy as np
from scipy.special import ndtr

from search.surrogate import Surrogate
from utils.pareto import non_dominated

# The reference point lies beyond the worst of each objective by this part of its range.
MARGIN = 0.01
# Samples of the posterior, and candidates that are sampled, with three and more objectives.
SAMPLES, SHORTLIST = 16, 60


@dataclass(frozen=True)
class Front:
    """A non-dominated set, (f, m), and the reference point, (m,), that bounds what it dominates."""

    F: np.ndarray
    reference: np.ndarray

    @classmethod
    def of(cls, F: np.ndarray) -> Self:
        """Returns the front of (a, m) objectives, all minimised."""
        span = np.ptp(F, axis=0)
        return cls(F[non_dominated(F)], F.max(axis=0) + MARGIN * np.where(span > 0, span, 1.0))

    def add(self, F: np.ndarray) -> Self:
        """Returns the front with the (n, m) points as well."""
        F = np.vstack([self.F, F])
        return replace(self, F=F[non_dominated(F)])


class ExpectedHypervolumeImprovement:
    """The acquisition function: (n, n_var) vectors -> (n,) expected hypervolume improvements.

    Two objectives: in closed form. More: the mean over samples of the objectives that are not
    exact, the same standard normal numbers for all candidates.

    Args:
        surrogate: gives mean and standard deviation of each objective; they count as independent.
        front: what is evaluated, or predicted of earlier proposals of the batch.
        seed: of the samples.
        std_scale: standard deviations are multiplied by it; below 1, what is likely to be good
            counts more against what may be.
    """

    def __init__(self, surrogate: Surrogate, front: Front, seed: int,
                 std_scale: float = 1.0) -> None:
        self.surrogate, self.front, self.std_scale = surrogate, front, std_scale
        self.samples = np.random.default_rng(seed).standard_normal(
            (SAMPLES, len(front.reference)))

    @property
    def closed_form(self) -> bool:
        """Whether no samples are needed."""
        return len(self.front.reference) == 2

    def __call__(self, X: np.ndarray) -> np.ndarray:
        """Returns the (n,) expected improvements of (n, n_var) vectors, in units of volume."""
        mean, std = self._predict(X)
        if self.closed_form:
            return ehvi_2d(mean, std, self.front)
        return np.mean([improvements(mean + draw * std, self.front) for draw in self.samples],
                       axis=0)

    def shortlist(self, X: np.ndarray) -> np.ndarray:
        """Returns the vectors worth the full computation: all, or those best on their own means.

        Sampling costs a hypervolume for each sample and candidate, so it is kept for those with
        the largest improvement one standard deviation below the mean.
        """
        if self.closed_form or len(X) <= SHORTLIST:
            return X
        mean, std = self._predict(X)
        optimistic = improvements(mean - std, self.front)
        return X[np.argsort(-optimistic, kind="stable")[:SHORTLIST]]

    def _predict(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, std = self.surrogate.predict_std(X)
        return mean, self.std_scale * std


def expected_improvement(mean: np.ndarray, std: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Returns E[max(level - y, 0)] for y ~ N(mean, std**2); its limit where std is 0.

    Source: Jones et al. (1998). The arguments broadcast.
    """
    mean, std, level = np.broadcast_arrays(mean, std, level)
    u = (level - mean) / np.where(std > 0, std, 1.0)
    density = np.exp(-0.5 * np.minimum(u * u, 1e3)) / np.sqrt(2 * np.pi)
    return np.where(std > 0, std * (u * ndtr(u) + density), np.maximum(level - mean, 0.0))


def ehvi_2d(mean: np.ndarray, std: np.ndarray, front: Front) -> np.ndarray:
    """Returns the (n,) expected hypervolume improvement of two independent normal objectives.

    A front by ascending second objective is a staircase. Over the step from c_j to c_(j+1), with
    the level e_j, a point (e, c) adds (width of the step right of c) x (e_j - e) where positive.
    Both factors are independent, and their expectations are differences of, or an, expected
    improvement; with a standard deviation of 0 they are exact.

    Args:
        mean, std: (n, 2).
        front: of two objectives.
    """
    levels, edges = staircase(front)
    below = expected_improvement(mean[:, :1], std[:, :1], levels)
    within = expected_improvement(mean[:, 1:], std[:, 1:], edges)
    width = np.diff(within, axis=1, prepend=0.0)
    return (width * below).sum(axis=1)


def staircase(front: Front) -> tuple[np.ndarray, np.ndarray]:
    """Returns the (f + 1,) level of each step, and the (f + 1,) second objective where it ends."""
    F = front.F[np.argsort(front.F[:, 1], kind="stable")]
    e, c = front.reference
    return np.minimum(np.append(e, F[:, 0]), e), np.minimum(np.append(F[:, 1], c), c)


def improvements(F: np.ndarray, front: Front) -> np.ndarray:
    """Returns the (n,) hypervolume that each of the (n, m) points adds to the front by itself.

    That is its own box up to the reference point, less the part that the front dominates: the
    hypervolume of the front's points, moved into the box.
    """
    boxes = np.prod(np.maximum(front.reference - F, 0.0), axis=1)
    shared = [moocore.hypervolume(np.maximum(front.F, point), ref=front.reference) if box > 0
              else 0.0 for point, box in zip(F, boxes, strict=True)]
    return boxes - np.array(shared)
