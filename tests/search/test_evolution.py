"""NSGA-II on arrays: survival, offspring, neighbours, and whether it finds a known front."""

from dataclasses import replace

import numpy as np
import pytest

from search.evolution import (
    FEW_VALUES,
    NEAR,
    cross,
    crowding,
    evolve,
    mutate,
    neighbours,
    offspring,
    survivors,
)
from search_space import OFASearchSpace
from search_space.base import unique_rows
from utils.pareto import non_dominated

SPACE = OFASearchSpace()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_the_non_dominated_survive_first_and_then_the_least_crowded():
    line = np.array([[0.0, 10.0], [1.0, 9.0], [1.1, 8.9], [5.0, 5.0], [10.0, 0.0]])
    F = np.vstack([line + 20, line])
    assert sorted(survivors(F, 5)) == [5, 6, 7, 8, 9]
    assert sorted(survivors(F, 3)) == [5, 8, 9]
    assert {5, 6, 7, 8, 9} < set(survivors(F, 7))
    assert survivors(F, 50).tolist() == list(range(10))


def test_crowding_is_the_scaled_distance_of_both_neighbours():
    F = np.array([[0.0, 4.0], [1.0, 3.0], [4.0, 0.0]])
    assert crowding(F).tolist() == [np.inf, 2.0, np.inf]
    for n in (1, 2):
        assert crowding(F[:n]).tolist() == [np.inf] * n


def test_children_take_every_gene_from_a_parent(rng):
    a, b = SPACE.draw(200, rng), SPACE.draw(200, rng)
    children = cross(a, b, rng)
    assert ((children == a) | (children == b)).all()
    share = np.mean((children == b)[a != b])
    assert 0.3 < share < 0.7


def test_mutation_changes_genes_within_bounds(rng):
    X = SPACE.draw(2000, rng)
    one = mutate(SPACE, X, rng, rate=0.0)
    assert ((one != X).sum(axis=1) <= 1).all()
    assert (one != X).any(axis=0).all(), "every gene is reached"
    more = mutate(SPACE, X, rng)
    assert (more >= SPACE.lower).all() and (more <= SPACE.upper).all()
    assert (more != X).sum() > (one != X).sum()


def test_a_gene_without_order_is_drawn_anew(rng):
    class Cells(OFASearchSpace):
        @property
        def genes(self):
            return tuple(replace(gene, ordered=False) for gene in super().genes)

    X = np.full((4000, 46), 8)
    ordered, drawn = (mutate(space, X, rng, rate=1.0)[:, -1] for space in (SPACE, Cells()))
    assert np.mean(abs(ordered - 8) == 1) > 0.5
    assert np.mean(abs(drawn - 8) == 1) < 0.2


def test_neighbours_differ_in_one_gene(rng):
    x = SPACE.draw(1, rng)[0]
    X = neighbours(SPACE, x)
    assert len(unique_rows(X)) == len(X)
    np.testing.assert_array_equal(SPACE.canonical(X), X)
    assert not (X == x).all(axis=1).any()
    steps = abs(X[:, -1] - x[-1])
    assert SPACE.upper[-1] + 1 > FEW_VALUES and steps.max() == NEAR
    depth_kept = (X[:, ::9] == x[::9]).all(axis=1)
    assert ((X != x).sum(axis=1)[depth_kept] == 1).all()
    assert len(X) > 40


def test_offspring_are_canonical(rng):
    X = offspring(SPACE, SPACE.draw(10, rng), 30, rng)
    assert X.shape == (30, 46)
    np.testing.assert_array_equal(SPACE.canonical(X), X)


def test_a_known_front_is_found(rng):
    """Error falls and cost rises with every gene, some at a better rate."""
    price = rng.permutation(np.linspace(1, 20, 46))

    def objectives(X):
        return np.column_stack([(X < SPACE.upper).sum(axis=1), (X > 0) @ price])

    start = np.array([SPACE.encode(arch) for arch in SPACE.extremes()])
    X = evolve(SPACE, objectives, start, 60, 120, rng)
    assert len(X) <= 60
    F = objectives(X)
    assert non_dominated(F).sum() > 20
    random = objectives(SPACE.draw(5000, rng))
    dominated = [(F <= f).all(axis=1).any() for f in random]
    assert np.mean(dominated) > 0.95
