import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from utils.intervals import compare_paired, holm, matched_interval, mcnemar, wilson


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (10, 10), (585, 600), (1, 3), (7600, 10_000)])
def test_wilson_is_scipys(hits, n):
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits, n) == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-9)


@given(n=st.integers(1, 500), share=st.floats(0, 1))
def test_wilson_holds_the_proportion_and_stays_in_range(n, share):
    hits = round(n * share)
    low, high = wilson(hits, n)
    assert 0 <= low <= 100 * hits / n + 1e-9
    assert 100 * hits / n - 1e-9 <= high <= 100


@pytest.mark.parametrize(("hits", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_proportion(hits, n):
    with pytest.raises(ValueError, match="no proportion"):
        wilson(hits, n)


def test_wilson_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [wilson(int(hits), 300) for hits in rng.binomial(300, 0.95, size=2000)]
    covered = np.mean([low <= 95 <= high for low, high in found])
    assert 0.93 <= covered <= 0.97


def test_mcnemar_by_hand():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(0, 6) == pytest.approx(2 / 2**6)
    assert mcnemar(6, 0) == mcnemar(0, 6)


def test_mcnemar_rejects_equal_classifiers_rarely():
    rng = np.random.default_rng(1)
    p_values = [mcnemar(int(b), 30 - int(b)) for b in rng.binomial(30, 0.5, size=1000)]
    assert np.mean(np.array(p_values) < 0.05) <= 0.06


def test_a_paired_comparison_is_sharper_than_two_intervals():
    rng = np.random.default_rng(2)
    first = rng.random(2000) < 0.8
    second = first.copy()
    second[np.flatnonzero(~first)[:40]] = True  # two points better, nowhere worse
    found = compare_paired(first, second)
    assert found.points == pytest.approx(2.0)
    assert found.interval.low > 1
    assert found.p_value < 1e-6
    alone = [wilson(int(each.sum()), 2000) for each in (first, second)]
    assert alone[0].high > alone[1].low  # the two intervals overlap


def test_a_paired_comparison_turns_round():
    rng = np.random.default_rng(3)
    first, second = rng.random((2, 500)) < 0.9
    forth, back = compare_paired(first, second), compare_paired(second, first)
    assert (back.points, back.p_value) == (-forth.points, forth.p_value)
    assert back.interval == pytest.approx((-forth.interval.high, -forth.interval.low))
    with pytest.raises(ValueError, match="same images"):
        compare_paired(first, second[:-1])


def test_the_interval_of_a_difference_by_hand():
    """5 and 12 of 600 images: centre 7 / 602, variance (18 - 49 / 602) / 602**2."""
    margin = 1.959964 * (18 - 49 / 602) ** 0.5 / 602
    assert matched_interval(5, 12, 600) == pytest.approx(
        (100 * (7 / 602 - margin), 100 * (7 / 602 + margin)))


@given(n=st.integers(1, 300), shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_the_interval_of_a_difference_holds_it_and_stays_in_range(n, shares):
    lost = round(n * shares[0])
    won = round((n - lost) * shares[1])
    low, high = matched_interval(lost, won, n)
    assert -100 <= low <= 100 * (won - lost) / n + 1e-9
    assert 100 * (won - lost) / n - 1e-9 <= high <= 100
    assert low < high, "the answers to a few images are never certain"


@pytest.mark.parametrize("n", [20, 400])
def test_the_interval_covers_the_true_difference(n):
    rng = np.random.default_rng(4)
    covered = []
    for _ in range(1000):
        draw = rng.random(n)
        first, second = draw < 0.85, (draw > 0.05) & (draw < 0.92)  # truth: 0.02 better
        low, high = compare_paired(first, second).interval
        covered.append(low <= 2.0 <= high)
    assert np.mean(covered) >= 0.93


@pytest.mark.parametrize(("p_values", "expected"), [
    ([], []), ([0.04], [0.04]), ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
    ([0.9, 0.5], [1.0, 1.0]), ([0.02, 0.02], [0.04, 0.04])])
def test_holm_by_hand(p_values, expected):
    assert holm(p_values) == pytest.approx(expected)
