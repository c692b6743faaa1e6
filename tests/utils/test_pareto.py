import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from utils import pareto
from utils.errors import UserError

FINITE = st.floats(0, 100, allow_nan=False).map(lambda v: round(v, 1))
POINTS = arrays(float, st.tuples(st.integers(1, 12), st.integers(2, 3)), elements=FINITE)
FRONT = np.array([[10.0, 300], [12, 200], [13, 120], [20, 100], [30, 90]])


def dominates(a, b):
    return bool((a <= b).all() and (a < b).any())


def test_hand_checked_front():
    F = [[1, 5], [2, 2], [2, 2], [3, 3], [5, 1], [1, 6]]
    assert pareto.non_dominated(F).tolist() == [True, True, False, False, True, False]


@settings(max_examples=200, deadline=None)
@given(POINTS)
def test_mask_equals_the_definition(F):
    mask = pareto.non_dominated(F)
    for i, point in enumerate(F):
        beaten = any(dominates(other, point) for other in F)
        repeated = any((F[j] == point).all() for j in range(i))
        assert mask[i] == (not beaten and not repeated)


def test_hypervolume_by_hand():
    F = [[1.0, 3], [2, 1], [3, 3]]
    assert pareto.hypervolume(F, [4, 4]) == pytest.approx(3 * 1 + 2 * 3 - 2 * 1 + 1 * 1 - 1)
    assert pareto.normalized_hypervolume(F, [4, 4]) == pytest.approx(7 / 16)
    assert pareto.hypervolume([[5.0, 0.5]], [4, 4]) == 0
    assert pareto.hypervolume(np.zeros((0, 2)), [4, 4]) == 0


@settings(max_examples=100, deadline=None)
@given(POINTS)
def test_hypervolume_of_the_front_is_that_of_all_and_grows(F):
    ref = pareto.reference_point(F) + 1
    total = pareto.hypervolume(F, ref)
    assert pareto.hypervolume(F[pareto.non_dominated(F)], ref) == pytest.approx(total)
    assert pareto.hypervolume(F[:-1], ref) <= total * (1 + 1e-12)
    assert 0 <= pareto.normalized_hypervolume(F, ref) <= 1 + 1e-12


def test_reference_point_is_a_hundredth_beyond_the_worst():
    np.testing.assert_allclose(pareto.reference_point(FRONT), [30.3, 303])


def test_asf_by_hand_and_as_pymoo():
    from pymoo.decomposition.asf import ASF

    weights = np.array([20.0, 150])
    np.testing.assert_allclose(pareto.asf(FRONT, weights), [2, 200 / 150, 0.8, 1, 1.5])
    np.testing.assert_allclose(pareto.asf(FRONT, weights), ASF().do(FRONT, weights).ravel())
    assert pareto.asf([[1.0, 1.0]], [0, 1])[0] == pytest.approx(1e10)


def test_tradeoff_by_hand():
    corner = [[0.0, 1.0], [0.1, 0.1], [1.0, 0.0]]
    np.testing.assert_allclose(pareto.tradeoff(corner), [1 / 9, 9, 1 / 9])
    assert pareto.high_tradeoff(corner, 1).tolist() == [1]


def test_tradeoff_equals_pymoos_metric():
    from pymoo.mcdm.high_tradeoff import NeighborFinder

    x = np.sort(np.random.default_rng(3).random(60))
    F = np.column_stack([x, (1 - x) ** 3])
    F = (F - F.min(axis=0)) / np.ptp(F, axis=0)
    finder = NeighborFinder(F, epsilon=0.125, n_min_neigbors="auto", consider_2d=False)
    for i, value in enumerate(pareto.tradeoff(F)):
        step = F[[j for j in finder.find(i) if j != i]] - F[i]
        expected = np.min(np.maximum(step, 0).sum(axis=1) / np.maximum(-step, 0).sum(axis=1))
        assert value == pytest.approx(expected)


@pytest.mark.parametrize("F", [[[1.0, 2.0]], [[1.0, 2], [2, 1]], [[1.0, 2], [1, 2]],
                               [[1.0, 2], [1, 2], [2, 1], [2, 1]], np.zeros((0, 2))])
def test_tradeoff_of_small_fronts_and_duplicates(F):
    chosen = pareto.high_tradeoff(F, 3)
    assert len(chosen) == min(3, len(F)) == len(set(chosen.tolist()))
    assert not np.isnan(pareto.tradeoff(F)).any()


@pytest.mark.parametrize("F", [[1.0, 2.0], [[1.0, np.nan]], [[np.inf, 1.0]], np.zeros((2, 0))])
@pytest.mark.parametrize("function", [pareto.non_dominated, pareto.reference_point,
                                      pareto.tradeoff])
def test_bad_points_are_refused(function, F):
    with pytest.raises(UserError, match="objectives must"):
        function(F)


def test_bad_reference_points_and_weights_are_refused():
    with pytest.raises(UserError, match="reference point must be 2 finite"):
        pareto.hypervolume(FRONT, [1, 2, 3])
    with pytest.raises(UserError, match="positive"):
        pareto.normalized_hypervolume(FRONT, [0, 1])
    with pytest.raises(UserError, match="at least one"):
        pareto.reference_point(np.zeros((0, 2)))
    with pytest.raises(UserError, match="preferences"):
        pareto.asf(FRONT, [-1, 2])


def test_networks_without_an_error_have_a_hypervolume():
    """All initial accuracies may be 100 %: the worst error is 0, the reference point is not."""
    F = np.array([[0.0, 90.0], [0.0, 1200.0]])
    ref = pareto.reference_point(F)
    assert (ref > 0).all()
    assert 0 < pareto.normalized_hypervolume(F, ref) <= 1
