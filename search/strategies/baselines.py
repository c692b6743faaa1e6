"""Strategies without a surrogate: baselines for those that have one."""

import numpy as np

from search.evolution import mutate, offspring, survivors
from search.strategies.base import ROUNDS, Strategy, Task
from utils.pareto import non_dominated

# Regularised evolution: how many of the youngest live, and how many compete to be a parent.
ALIVE, RIVALS = 50, 10
# NSGA-II: how many are parents.
PARENTS = 40


class RandomSearch(Strategy):
    """Proposes architectures drawn uniformly, gene by gene: what every other one must beat."""

    name = "random"
    default_predictor = None

    def propose(self, task: Task, k: int, rng: np.random.Generator) -> np.ndarray:
        """See `Strategy.propose`."""
        return task.top_up(task.known[:0], k, rng)[:k]


class RegularisedEvolution(Strategy):
    """The youngest live; a parent is on the front of a few drawn at random; one gene mutates.

    Source: Real et al., "Regularized evolution for image classifier architecture search" (2019),
    with non-dominance in place of the highest accuracy.
    """

    name = "evolution"
    default_predictor = None

    def propose(self, task: Task, k: int, rng: np.random.Generator) -> np.ndarray:
        """See `Strategy.propose`."""
        X, F = task.X[-ALIVE:], task.F[-ALIVE:]

        def child() -> np.ndarray:
            rivals = rng.choice(len(X), min(RIVALS, len(X)), replace=False)
            parent = rng.choice(rivals[non_dominated(F[rivals])])
            return task.space.canonical(mutate(task.space, X[[parent]], rng, rate=0.0))

        return task.top_up(task.collect(X[:0], child, k, ROUNDS * k), k, rng)[:k]


class NSGA2(Strategy):
    """The parents are those of all evaluated architectures that survive by rank and crowding.

    Source: Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II" (2002).
    """

    name = "nsga2"
    default_predictor = None

    def propose(self, task: Task, k: int, rng: np.random.Generator) -> np.ndarray:
        """See `Strategy.propose`."""
        parents = task.X[survivors(task.F, PARENTS)]
        children = task.collect(parents[:0], lambda: offspring(task.space, parents, k, rng), k)
        return task.top_up(children, k, rng)[:k]
