"""Evolutionary operators on integers and subset masks: pure functions, then thin pymoo classes."""

import numpy as np
from pymoo.core.crossover import Crossover
from pymoo.core.mutation import Mutation
from pymoo.core.repair import Repair
from pymoo.core.sampling import Sampling
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

    def _do(self, problem, X, *args, random_state=None, **kwargs):
        return mutate_integers(X, problem.xl, problem.xu, self.eta, 1 / problem.n_var,
                               random_state)


class CanonicalRepair(Repair):
    """Sets the unused genes of offspring to 0, so that equal architectures are duplicates."""

    def __init__(self, canonical) -> None:
        super().__init__()
        self.canonical = canonical

    def _do(self, problem, X, **kwargs):
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

    Args:
        masks: (n, m) bool, the same number of ones in every row.
        candidates: (m,) second objective of the candidates.
        front: (f,) second objective of the archive's front.
    """
    chosen = np.broadcast_to(candidates, masks.shape)[masks].reshape(len(masks), -1)
    fixed = np.broadcast_to(front, (len(masks), len(front)))
    return np.diff(np.sort(np.hstack([fixed, chosen]), axis=1), axis=1).std(axis=1)


def _top_k(score: np.ndarray, k: int) -> np.ndarray:
    masks = np.zeros(score.shape, dtype=bool)
    np.put_along_axis(masks, np.argpartition(-score, k - 1, axis=1)[:, :k], True, axis=1)
    return masks


def fitter_parents(pop, P, **kwargs):
    """Returns (n, 1) winners of the binary tournaments `P` (n, 2) between single objectives.

    pymoo's own comparison is a Python loop over the tournaments, the slowest part of a search step.
    """
    F = pop.get("F")[:, 0]
    return np.take_along_axis(P, F[P].argmin(axis=1)[:, None], axis=1)


class SubsetSampling(Sampling):
    """Random masks with exactly `problem.n_max` ones."""

    def _do(self, problem, n_samples, *args, random_state=None, **kwargs):
        return random_subsets(n_samples, problem.n_var, problem.n_max, random_state)


class SubsetCrossover(Crossover):
    """See `cross_subsets`: two parents, one child."""

    def __init__(self) -> None:
        super().__init__(n_parents=2, n_offsprings=1)

    def _do(self, problem, X, *args, random_state=None, **kwargs):
        return cross_subsets(*X.astype(bool), random_state)[None]


class SubsetMutation(Mutation):
    """See `swap_one`: every child."""

    def _do(self, problem, X, *args, random_state=None, **kwargs):
        return swap_one(X.astype(bool), random_state)
