"""NSGA-II straight on what a benchmark's answers are computed from: the front to compare with."""

from collections.abc import Callable

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.operators.crossover.pntx import TwoPointCrossover
from pymoo.optimize import minimize

from search.strategies import Task
from search.strategies.msunas import (
    CROSSOVER_PROB,
    CanonicalRepair,
    IntegerPolynomialMutation,
    SurrogateProblem,
)
from search_space import SearchSpace


class Truth:
    """Stands where a surrogate would: answers with the truth."""

    def __init__(self, values: Callable[[np.ndarray], np.ndarray]) -> None:
        self.values = values

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Returns the (n, m) minimised objectives of (n, n_var) vectors."""
        return self.values(np.asarray(X, dtype=int))


def nsga2_front(space: SearchSpace, values: Callable[[np.ndarray], np.ndarray], population: int,
                generations: int) -> np.ndarray:
    """Returns the (k, 2) front that NSGA-II finds.

    Args:
        space: the search space.
        values: (n, n_var) vectors -> (n, 2) minimised objectives.
        population, generations: of NSGA-II, whose product is the number of evaluations.
    """
    start = space.draw(population, np.random.default_rng(0))
    algorithm = NSGA2(pop_size=population, sampling=start,
                      crossover=TwoPointCrossover(prob=CROSSOVER_PROB),
                      mutation=IntegerPolynomialMutation(),
                      repair=CanonicalRepair(space.canonical))
    task = Task(space, start[:0], np.zeros((0, 2)), start[:0], Truth(values))
    result = minimize(SurrogateProblem(task), algorithm, ("n_gen", generations), seed=0)
    return np.asarray(result.F)
