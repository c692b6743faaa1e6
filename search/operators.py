"""Evolutionary operators on integers and subset masks: pure functions, and thin pymoo classes."""

from collections.abc import Callable
from typing import Any

import numpy as np
from pymoo.core.mutation import Mutation
from pymoo.core.problem import Problem
from pymoo.core.repair import Repair
from pymoo.operators.mutation.pm import mut_pm

# ------------------------------------------------------------------------------ integer vectors


def mutate_integers(X: np.ndarray, lower: np.ndarray, upper: np.ndarray, eta: float,
                    prob: float, rng: np.random.Generator) -> np.ndarray:
    """Polynomial mutation of (n, d) integer vectors, each gene with probability `prob`.

    The bounds are widened by half a step on both sides and the result is rounded, so that the
    edge values of a gene are reached as often as the ones between: the `int_pm` of the pymoo
    version that the paper used. Genes without a choice stay as they are.
    """
    half = np.where(upper > lower, 0.5 - 1e-9, 0.0)
    mutated = mut_pm(X.astype(float), lower - half, upper + half, np.full(len(X), float(eta)),
                     np.full(len(X), prob), False, random_state=rng)
    return np.clip(np.rint(mutated), lower, upper).astype(int)


class IntegerPolynomialMutation(Mutation):
    """See `mutate_integers`; every individual is offered it, each gene with probability 1/d."""

    def __init__(self, eta: float = 1.0) -> None:
        super().__init__(prob=1.0)
        self.eta = eta

    def _do(self, problem: Problem, X: np.ndarray, *args: Any, random_state: Any = None,
            **kwargs: Any) -> np.ndarray:
        return mutate_integers(X, problem.xl, problem.xu, self.eta, 1 / problem.n_var,
                               random_state)


class CanonicalRepair(Repair):
    """Sets the unused genes of offspring to 0, so that equal architectures are duplicates."""

    def __init__(self, canonical: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__()
        self.canonical = canonical

    def _do(self, problem: Problem, X: np.ndarray, **kwargs: Any) -> np.ndarray:
        return self.canonical(X)


# ----------------------------------------------------------------------------------- subset masks


def random_subsets(n: int, size: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """Returns (n, size) bool masks with exactly `k` ones each, uniformly drawn."""
    return _top_k(rng.random((n, size)), k)


def cross_subsets(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns (n, size) masks: what both parents chose, filled up from what one of them chose.

    `a` and `b` are (n, size) bool masks with the same number of ones in every row.
    """
    score = (a & b) + 1.0 * (a | b) + rng.random(a.shape)
    return _top_k(score, int(a[0].sum()))


def swap_one(masks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns (n, size) masks in which one chosen and one unchosen element changed places."""
    out = masks.copy()
    rows = np.flatnonzero((masks.sum(axis=1) > 0) & (masks.sum(axis=1) < masks.shape[1]))
    keys = rng.random(masks.shape)
    out[rows, np.where(masks, keys, -1).argmax(axis=1)[rows]] = False
    out[rows, np.where(masks, -1, keys).argmax(axis=1)[rows]] = True
    return out


def gap_deviation(masks: np.ndarray, candidates: np.ndarray, front: np.ndarray) -> np.ndarray:
    """Returns (n,): the standard deviation of the gaps between front and chosen candidates.

    With several objectives it is the sum of theirs, each in units of the front's range.

    Args:
        masks: (n, m) bool, the same number of ones in every row.
        candidates: (m,) or (m, q) objectives of the candidates without the error.
        front: (f,) or (f, q) those of the archive's front.
    """
    columns = list(zip(_columns(candidates), _columns(front), strict=True))
    if len(columns) == 1:
        return _gap_deviation(masks, *columns[0])
    return np.sum([_gap_deviation(masks, column, ends) / (np.ptp(ends) or 1.0)
                   for column, ends in columns], axis=0)


def _columns(values: np.ndarray) -> list[np.ndarray]:
    return list(values.T) if values.ndim == 2 else [values]


def _gap_deviation(masks: np.ndarray, candidates: np.ndarray, front: np.ndarray) -> np.ndarray:
    chosen = np.broadcast_to(candidates, masks.shape)[masks].reshape(len(masks), -1)
    fixed = np.broadcast_to(front, (len(masks), len(front)))
    return np.diff(np.sort(np.hstack([fixed, chosen]), axis=1), axis=1).std(axis=1)


def evolve_subsets(candidates: np.ndarray, front: np.ndarray, k: int, population: int,
                   generations: int, rng: np.random.Generator) -> np.ndarray:
    """Returns the (m,) mask of `k` candidates with the smallest gap deviation that was found.

    A genetic algorithm: binary tournaments, crossover, one swap in every child, the best of
    parents and children survive, no duplicates.

    DEVIATION subset-search: it runs on whole arrays, not in pymoo, where each of the 6,000 masks is
    an object: that took most of a search step.
    """
    masks = np.unique(random_subsets(population, len(candidates), k, rng), axis=0)
    fitness = gap_deviation(masks, candidates, front)
    for _ in range(generations - 1):
        rivals = rng.integers(len(masks), size=(2, population, 2))
        parents = np.take_along_axis(rivals, fitness[rivals].argmin(axis=2)[..., None], 2)[..., 0]
        mothers, fathers = masks[parents]
        children = swap_one(cross_subsets(mothers, fathers, rng), rng)
        masks = np.unique(np.vstack([masks, children]), axis=0)
        fitness = gap_deviation(masks, candidates, front)
        best = np.argsort(fitness, kind="stable")[:population]
        masks, fitness = masks[best], fitness[best]
    return masks[fitness.argmin()]


def _top_k(score: np.ndarray, k: int) -> np.ndarray:
    masks = np.zeros(score.shape, dtype=bool)
    np.put_along_axis(masks, np.argpartition(-score, k - 1, axis=1)[:, :k], True, axis=1)
    return masks
