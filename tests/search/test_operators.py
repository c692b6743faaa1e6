"""The pure functions behind the evolutionary operators."""

import numpy as np
import pytest

from search.strategies.msunas import (
    cross_subsets,
    gap_deviation,
    mutate_integers,
    random_subsets,
    swap_one,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_mutation_stays_in_bounds_and_reaches_the_edges(rng):
    lower, upper = np.array([0, 0, 0]), np.array([2, 16, 0])
    X = np.tile([1, 8, 0], (4000, 1))
    out = mutate_integers(X, lower, upper, eta=1.0, prob=1.0, rng=rng)
    assert out.dtype.kind == "i"
    assert set(out[:, 0]) == {0, 1, 2} and set(out[:, 1]) == set(range(17))
    assert (out[:, 2] == 0).all(), "a gene without a choice stays"


def test_mutation_touches_about_one_gene_in_d(rng):
    X = np.full((2000, 20), 8)
    out = mutate_integers(X, np.zeros(20), np.full(20, 16), eta=1.0, prob=1 / 20, rng=rng)
    changed = (out != X).sum(axis=1).mean()
    assert 0.7 < changed < 1.0, "one in expectation, less those that round back"


def test_an_edge_value_moves_as_easily_as_it_is_reached(rng):
    X = np.zeros((4000, 1))
    out = mutate_integers(X, np.array([0]), np.array([2]), eta=1.0, prob=1.0, rng=rng)
    stays = (out == 0).mean()
    assert 0.4 < stays < 0.8, "half of the draws point outward and stay; the rest mostly move"


def test_random_subsets_have_exactly_k_and_cover_all(rng):
    masks = random_subsets(500, 9, 4, rng)
    assert (masks.sum(axis=1) == 4).all()
    assert abs(masks.mean(axis=0) - 4 / 9).max() < 0.08


def test_children_keep_what_both_parents_chose_and_nothing_foreign(rng):
    a, b = random_subsets(200, 12, 5, rng), random_subsets(200, 12, 5, rng)
    child = cross_subsets(a, b, rng)
    assert (child.sum(axis=1) == 5).all()
    assert (child[a & b]).all()
    assert not child[~(a | b)].any()


def test_swap_changes_exactly_two_places(rng):
    masks = random_subsets(200, 12, 5, rng)
    out = swap_one(masks, rng)
    assert (out.sum(axis=1) == 5).all()
    assert ((out != masks).sum(axis=1) == 2).all()
    full = np.ones((3, 4), dtype=bool)
    np.testing.assert_array_equal(swap_one(full, rng), full)


def test_gap_deviation_is_that_of_the_sorted_union():
    front, candidates = np.array([0.0, 10.0]), np.array([2.0, 5.0, 8.0])
    masks = np.array([[False, True, False], [True, False, False]])
    np.testing.assert_allclose(gap_deviation(masks, candidates, front), [0.0, 3.0])


def test_gap_deviation_agrees_with_a_loop(rng):
    front, candidates = rng.random(7), rng.random(10)
    masks = random_subsets(50, 10, 4, rng)
    expected = [np.std(np.diff(np.sort(np.concatenate([front, candidates[m]])))) for m in masks]
    np.testing.assert_allclose(gap_deviation(masks, candidates, front), expected)


