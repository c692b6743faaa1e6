"""NSGA-II on whole arrays of integer vectors: no object for each individual, many generations.

Source: Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II" (2002).
"""

from collections.abc import Callable

import moocore
import numpy as np

from search_space import SearchSpace
from search_space.base import rows_in, unique_rows

# A gene with more values than this has its nearest ones as neighbours, not all.
FEW_VALUES = 10
NEAR = 2


def evolve(space: SearchSpace, objectives: Callable[[np.ndarray], np.ndarray], start: np.ndarray,
           population: int, generations: int, rng: np.random.Generator) -> np.ndarray:
    """Returns the (<= population, n_var) canonical vectors that survive.

    Args:
        space: the search space.
        objectives: (n, n_var) vectors -> (n, m) minimised objectives.
        start: (s, n_var) the first parents, s > 0.
        population: how many survive each generation.
        generations: how often as many children are born.
        rng: the generator.
    """
    X = unique_rows(start)
    F = objectives(X)
    for _ in range(generations):
        children = unique_rows(offspring(space, X, population, rng))
        children = children[~rows_in(children, X)]
        if not len(children):
            continue
        X, F = np.vstack([X, children]), np.vstack([F, objectives(children)])
        kept = survivors(F, population)
        X, F = X[kept], F[kept]
    return X


def offspring(space: SearchSpace, X: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Returns (n, n_var) canonical children of random pairs of the rows of `X`."""
    mother, father = X[rng.integers(len(X), size=(2, n))]
    return space.canonical(mutate(space, cross(mother, father, rng), rng))


def cross(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns (n, d) children: uniform crossover of a random share, or two-point, half each."""
    n, d = a.shape
    share = rng.random((n, d)) < rng.random((n, 1))
    first, last = np.sort(rng.integers(0, d + 1, size=(n, 2)), axis=1).T[..., None]
    segment = (np.arange(d) >= first) & (np.arange(d) < last)
    return np.where(np.where(rng.random((n, 1)) < 0.5, share, segment), b, a)


def mutate(space: SearchSpace, X: np.ndarray, rng: np.random.Generator,
           rate: float | None = None) -> np.ndarray:
    """Returns (n, d) vectors with one gene changed, and each other with probability `rate`.

    A gene moves by one step or is drawn anew, half each; one without order is drawn anew.

    Args:
        space: the search space.
        X: (n, d) vectors.
        rng: the generator.
        rate: of further mutations; by default 1 / d.
    """
    n, d = X.shape
    chosen = rng.random((n, d)) < (1 / d if rate is None else rate)
    chosen[np.arange(n), rng.integers(d, size=n)] = True
    drawn = rng.integers(space.lower, space.upper, size=(n, d), endpoint=True)
    step = np.clip(X + rng.choice([-1, 1], size=(n, d)), space.lower, space.upper)
    ordered = np.array([gene.ordered for gene in space.genes])
    moved = np.where((rng.random((n, d)) < 0.5) & ordered, step, drawn)
    return np.where(chosen, moved, X)


def survivors(F: np.ndarray, n: int) -> np.ndarray:
    """Returns the indices of the `n` best of (p, m) objectives: by rank, then by crowding."""
    if len(F) <= n:
        return np.arange(len(F))
    rank = moocore.pareto_rank(F)
    last = np.sort(rank, kind="stable")[n - 1]
    better, tied = np.flatnonzero(rank < last), np.flatnonzero(rank == last)
    order = np.argsort(-crowding(F[tied]), kind="stable")
    return np.concatenate([better, tied[order[:n - len(better)]]])


def crowding(F: np.ndarray) -> np.ndarray:
    """Returns the (p,) crowding distances of (p, m) objectives of one rank; inf at the ends."""
    distance = np.zeros(len(F))
    for column in F.T:
        order = np.argsort(column, kind="stable")
        gaps = (column[order][2:] - column[order][:-2]) / (np.ptp(column) or 1.0)
        distance[order] += np.concatenate([[np.inf], gaps, [np.inf]])[:len(F)]
    return distance


def neighbours(space: SearchSpace, x: np.ndarray) -> np.ndarray:
    """Returns the (n, n_var) architectures that differ from `x` (n_var,) in one gene.

    Of an ordered gene with many values only the nearest ones.
    """
    rows = []
    for i, gene in enumerate(space.genes):
        values = np.arange(space.lower[i], space.upper[i] + 1)
        if gene.ordered and len(values) > FEW_VALUES:
            values = values[np.abs(values - x[i]) <= NEAR]
        changed = np.repeat(x[None], len(values), axis=0)
        changed[:, i] = values
        rows.append(changed)
    X = unique_rows(space.canonical(np.vstack(rows)))
    return X[~rows_in(X, space.canonical(x[None]))]
