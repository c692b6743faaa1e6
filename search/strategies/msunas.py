"""The paper's strategy: NSGA-II on the surrogate, then a subset that is spread evenly."""

import math
from itertools import combinations
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem
from pymoo.operators.crossover.pntx import TwoPointCrossover
from pymoo.optimize import minimize

from search.operators import (
    CanonicalRepair,
    IntegerPolynomialMutation,
    evolve_subsets,
    gap_deviation,
)
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
