"""The closed form against sampling, against the definition, and its limits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.strategies.ehvi import (
    SHORTLIST,
    ExpectedHypervolumeImprovement,
    Front,
    ehvi_2d,
    expected_improvement,
    improvements,
    staircase,
)
from utils.pareto import hypervolume

EHVI = ExpectedHypervolumeImprovement


def points(rng, n, m):
    return rng.random((n, m)) * 10


def added(F, front):
    """By the definition: the hypervolume with the point less that without it."""
    before = hypervolume(front.F, front.reference)
    return np.array([hypervolume(np.vstack([front.F, f]), front.reference) - before for f in F])


def test_expected_improvement_is_the_mean_of_samples_and_has_its_limit():
    draws = 3 + 2 * np.random.default_rng(0).standard_normal(400_000)
    sampled = np.maximum(4 - draws, 0).mean()
    assert expected_improvement(np.array(3.0), np.array(2.0), np.array(4.0)) \
        == pytest.approx(sampled, rel=0.01)
    limits = expected_improvement(np.array([1.0, 5.0]), np.zeros(2), np.array(4.0))
    assert limits.tolist() == [3.0, 0.0]
    assert expected_improvement(np.array(0.0), np.array(1.0), np.array(-1e6)) < 1e-99


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 12))
def test_without_uncertainty_it_is_the_added_hypervolume(seed, n):
    rng = np.random.default_rng(seed)
    front = Front.of(points(rng, n, 2))
    F = points(rng, 20, 2) * 1.2
    assert np.allclose(ehvi_2d(F, np.zeros((20, 2)), front), added(F, front), atol=1e-9)


@pytest.mark.parametrize("exact", [True, False])
def test_with_uncertainty_it_is_the_mean_of_added_hypervolumes(exact):
    rng = np.random.default_rng(1)
    front = Front.of(points(rng, 8, 2))
    mean, std = points(rng, 4, 2), rng.random((4, 2)) + 0.5
    if exact:
        std[:, 1] = 0
    draws = mean + std * rng.standard_normal((4000, 4, 2))
    sampled = [added(draws[:, i], front) for i in range(4)]
    noise = 4 * np.std(sampled, axis=1) / np.sqrt(4000)
    assert (abs(ehvi_2d(mean, std, front) - np.mean(sampled, axis=1)) < noise + 1e-9).all()


@pytest.mark.parametrize("m", [2, 3, 4])
def test_improvements_are_differences_of_hypervolumes(m):
    rng = np.random.default_rng(m)
    front = Front.of(points(rng, 15, m))
    F = points(rng, 30, m) * 1.2
    assert np.allclose(improvements(F, front), added(F, front), atol=1e-8)


def test_a_staircase_ends_at_the_reference_point():
    front = Front(np.array([[3.0, 1.0], [1.0, 2.0]]), np.array([5.0, 6.0]))
    levels, edges = staircase(front)
    assert levels.tolist() == [5, 3, 1]
    assert edges.tolist() == [1, 2, 6]


def test_a_front_grows_and_keeps_its_reference_point():
    front = Front.of(np.array([[1.0, 2.0], [2.0, 1.0], [3.0, 3.0]]))
    assert len(front.F) == 2
    assert (front.reference > 3).all()
    larger = front.add(np.array([[0.5, 0.5], [9.0, 9.0]]))
    assert larger.F.tolist() == [[0.5, 0.5]]
    assert (larger.reference == front.reference).all()


class Normal:
    """A surrogate whose means are the vectors themselves."""

    def predict_std(self, X):
        return X.astype(float), np.full(X.shape, 0.3)


def test_more_objectives_are_sampled_the_same_way_each_time():
    rng = np.random.default_rng(2)
    front = Front.of(points(rng, 20, 3))
    X = points(rng, 3 * SHORTLIST, 3)
    gain = EHVI(Normal(), front, seed=0)
    short = gain.shortlist(X)
    assert len(short) == SHORTLIST
    values = gain(X)
    np.testing.assert_array_equal(values, EHVI(Normal(), front, seed=0)(X))
    assert (values >= -1e-9).all()
    assert any((x == X[values.argmax()]).all() for x in short), "the best one is on the list"
    assert np.corrcoef(values, added(X, front))[0, 1] > 0.8


def test_standard_deviations_are_scaled():
    rng = np.random.default_rng(3)
    front, X = Front.of(points(rng, 15, 2)), points(rng, 30, 2)
    std = np.full(X.shape, 0.3)
    assert np.array_equal(EHVI(Normal(), front, 0)(X), ehvi_2d(X, std, front))
    assert np.array_equal(EHVI(Normal(), front, 0, 0.5)(X), ehvi_2d(X, 0.5 * std, front))
    assert np.allclose(EHVI(Normal(), front, 0, 0.0)(X), added(X, front), atol=1e-9)
