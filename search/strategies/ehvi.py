"""Expected hypervolume improvement: each proposal is the one that improves the front most."""

from dataclasses import dataclass, replace
from typing import Self

import moocore
import numpy as np
from scipy.special import ndtr

from search.evolution import evolve, neighbours
from search.strategies.base import Strategy, Task
from search.surrogate import Surrogate
from search_space.base import rows_in
from utils.pareto import non_dominated

# The inner searches: on the mean, and on the mean less this many standard deviations.
POPULATION, GENERATIONS, OPTIMISM = 100, 40, (0.0, 2.0)
# Standard deviations are multiplied by it. The best of many candidates is often one whose standard
# deviation is too large: at full scale, few proposals improve the front.
STD_SCALE = 0.5
# Steps of the local search from the best candidate of the pool.
CLIMB = 10
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


class EHVI(Strategy):
    """Greedy batches of the largest expected hypervolume improvement.

    For each proposal in turn: candidates come from evolutionary searches on the surrogate's mean
    and on its lower confidence bound; a local search through one-gene neighbours
    starts from the best of them. The surrogate is then conditioned on its own prediction of what
    was chosen, so that the next proposal lies elsewhere (the Kriging believer of Ginsbourger et
    al., 2010).

    Source: Emmerich et al., "Single- and multiobjective evolutionary optimization assisted by
    Gaussian random field metamodels" (2006). `docs/strategies.md` has the formulas.

    Args:
        std_scale: all standard deviations are multiplied by it; 1 is the textbook's.
    """

    name = "ehvi"
    default_predictor = "nngp"
    objective_predictor = "nngp"
    needs_std = True

    def __init__(self, std_scale: float = STD_SCALE) -> None:
        self.std_scale = std_scale

    def propose(self, task: Task, k: int, rng: np.random.Generator) -> np.ndarray:
        """See `Strategy.propose`."""
        surrogate = task.surrogate
        if surrogate is None:
            raise RuntimeError("a strategy with a default_predictor has a surrogate")
        front = Front.of(denoised(surrogate, task.X, task.F))
        pool = candidates(task, surrogate, rng, self.std_scale)
        chosen = pool[:0]
        while len(chosen) < k and len(pool):
            ehvi = ExpectedHypervolumeImprovement(surrogate, front, int(rng.integers(2**31)),
                                                  self.std_scale)
            x = climb(task, ehvi, pool, chosen)
            chosen = np.vstack([chosen, x])
            pool = pool[~rows_in(pool, chosen)]
            surrogate = surrogate.condition_on(x)
            front = front.add(surrogate.predict(x))
        return task.top_up(chosen, k, rng)[:k]


def denoised(surrogate: Surrogate, X: np.ndarray, F: np.ndarray) -> np.ndarray:
    """Returns (a, m) objectives of the archive without the noise that the models have found."""
    return np.where(surrogate.exact, F, surrogate.predict(X))


def candidates(task: Task, surrogate: Surrogate, rng: np.random.Generator,
               std_scale: float) -> np.ndarray:
    """Returns fresh vectors that are good by the mean or by a lower confidence bound."""
    start, pools = task.X[non_dominated(task.F)], []
    for optimism in (std_scale * each for each in OPTIMISM):
        def bound(X: np.ndarray, optimism: float = optimism) -> np.ndarray:
            F = surrogate.predict(X) if not optimism else lower_bound(surrogate, X, optimism)
            return F if task.violation is None else penalised(F, task.violation(X))

        pools.append(evolve(task.space, bound, start, POPULATION, GENERATIONS, rng))
    return task.top_up(task.fresh(np.vstack(pools)), 1, rng)


def lower_bound(surrogate: Surrogate, X: np.ndarray, optimism: float) -> np.ndarray:
    """Returns the (n, m) predicted objectives less `optimism` standard deviations."""
    mean, std = surrogate.predict_std(X)
    return mean - optimism * std


def penalised(F: np.ndarray, violation: np.ndarray) -> np.ndarray:
    """Returns (n, m) objectives in which what violates constraints is worse than all that do not.

    Source: the constrained dominance of NSGA-II (Deb et al., 2002).
    """
    outside = violation > 0
    worst = F[~outside].max(axis=0) if (~outside).any() else F.max(axis=0)
    return np.where(outside[:, None], worst + 1 + violation[:, None], F)


def climb(task: Task, ehvi: ExpectedHypervolumeImprovement, pool: np.ndarray,
          chosen: np.ndarray) -> np.ndarray:
    """Returns the (1, n_var) best of the pool, or what its neighbours lead to."""
    pool = ehvi.shortlist(pool)
    values = ehvi(pool)
    best, value = pool[[values.argmax()]], values.max()
    for _ in range(CLIMB):
        near = task.fresh(neighbours(task.space, best[0]))
        near = ehvi.shortlist(near[~rows_in(near, chosen)])
        if not len(near):
            break
        values = ehvi(near)
        if values.max() <= value:
            break
        best, value = near[[values.argmax()]], values.max()
    return best
