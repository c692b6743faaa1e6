"""The paper's strategy: NSGA-II on the surrogate, then a subset that is spread evenly."""

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.mutation import Mutation
from pymoo.core.problem import Problem
from pymoo.core.repair import Repair
from pymoo.operators.crossover.pntx import TwoPointCrossover
from pymoo.operators.mutation.pm import mut_pm
from pymoo.optimize import minimize

from search.strategies.base import Strategy, Task
from utils.pareto import non_dominated

# The inner search (NSGANetV2, Section 3.3, and its published code).
POPULATION, GENERATIONS, CROSSOVER_PROB, MUTATION_ETA = 40, 20, 0.9, 1.0
# The subset selection.
SUBSET_POPULATION, SUBSET_GENERATIONS = 100, 60


class SurrogateProblem(Problem):
    """Minimises the predicted objectives over encoded architectures, within the constraints."""

    def __init__(self, task: Task) -> None:
        space = task.space
        self.task = task
        super().__init__(n_var=space.n_var, n_obj=task.F.shape[1], xl=space.lower, xu=space.upper,
                         n_ieq_constr=int(task.violation is not None), vtype=int)

    def _evaluate(self, x: np.ndarray, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        out["F"] = self.task.predict(x)
        if self.task.violation is not None:
            out["G"] = self.task.violation(x)


class MSuNAS(Strategy):
    """Step 2 of Algorithm 1 (NSGANetV2, Section 3).

    NSGA-II on the surrogate starts from the archive's front; of its final population those are
    taken that, together with the front, are spread most evenly along the objectives other than
    the error (in the paper: the second one).

    DEVIATION listed-space: where the space can list its architectures, as a table can, the best by
    prediction of all that were not evaluated take the place of NSGA-II's final population, which
    would consist of evaluated ones for the most part.
    """

    name = "msunas"
    default_predictor = "rbf"

    def propose(self, task: Task, k: int, rng: np.random.Generator) -> np.ndarray:
        """See `Strategy.propose`."""
        seeds = rng.integers(2**31, size=2).tolist()
        front = non_dominated(task.F)
        everything = task.space.enumerate()
        fresh = task.fresh(inner_search(task, task.X[front], seeds[0])) if everything is None \
            else best_predicted(task, task.fresh(everything))
        if len(fresh) <= k:
            return task.top_up(fresh, k, rng)[:k]
        costs = task.predict(fresh)[:, 1:]
        return fresh[select_subset(costs, task.F[front, 1:], k, seeds[1])]


def inner_search(task: Task, start: np.ndarray, seed: int) -> np.ndarray:
    """Runs NSGA-II from the vectors `start` and returns the final population, (n, n_var) ints."""
    algorithm = NSGA2(pop_size=POPULATION, sampling=start,
                      crossover=TwoPointCrossover(prob=CROSSOVER_PROB),
                      mutation=IntegerPolynomialMutation(MUTATION_ETA),
                      repair=CanonicalRepair(task.space.canonical), eliminate_duplicates=True)
    result = minimize(SurrogateProblem(task), algorithm, ("n_gen", GENERATIONS), seed=seed)
    return np.asarray(result.pop.get("X"), dtype=int)


def best_predicted(task: Task, X: np.ndarray) -> np.ndarray:
    """Returns the first fronts by prediction of (n, n_var) vectors, at least a population's."""
    F = task.predict(X) if len(X) else np.zeros((0, task.F.shape[1]))
    chosen, left = np.zeros(0, dtype=int), np.arange(len(X))
    while len(chosen) < POPULATION and len(left):
        front = non_dominated(F[left])
        chosen, left = np.append(chosen, left[front]), left[~front]
    return X[chosen]


def select_subset(candidates: np.ndarray, front: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Returns the indices (k,) of the candidates that spread best along the objectives.

    Where there are no more subsets than the genetic algorithm would try, all are compared.

    Args:
        candidates: (m, q) objectives without the error, or (m,) for one; m >= k.
        front: (f, q) or (f,) those of the archive's front.
        k: how many to choose.
        seed: of the genetic algorithm.
    """
    if len(candidates) <= k:
        return np.arange(len(candidates))
    if math.comb(len(candidates), k) <= SUBSET_POPULATION * SUBSET_GENERATIONS:
        chosen = np.array(list(combinations(range(len(candidates)), k)))
        masks = np.zeros((len(chosen), len(candidates)), dtype=bool)
        np.put_along_axis(masks, chosen, True, axis=1)
        return chosen[gap_deviation(masks, candidates, front).argmin()]
    return np.flatnonzero(evolve_subsets(candidates, front, k, SUBSET_POPULATION,
                                         SUBSET_GENERATIONS, np.random.default_rng(seed)))


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
    columns = list(zip(np.atleast_2d(candidates.T), np.atleast_2d(front.T), strict=True))
    if len(columns) == 1:
        return _gap_deviation(masks, *columns[0])
    return np.sum([_gap_deviation(masks, column, ends) / (np.ptp(ends) or 1.0)
                   for column, ends in columns], axis=0)


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
