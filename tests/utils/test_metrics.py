"""Metrics of predictions against values worked out by hand."""

import math

import numpy as np
import pytest

from utils.errors import UserError
from utils.metrics import get_correlation, kendall, rmse, spearman


def test_values_by_hand():
    pred, target = [1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 6.0]
    assert rmse(pred, target) == pytest.approx(math.sqrt((0 + 1 + 1 + 4) / 4))
    assert spearman(pred, target) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert kendall(pred, target) == pytest.approx((5 - 1) / 6)
    assert get_correlation(pred, target) == (rmse(pred, target), spearman(pred, target),
                                             kendall(pred, target))


def test_a_column_and_a_row_of_numbers_are_compared_one_by_one():
    pred, target = np.arange(5.0)[:, None], np.arange(5.0) + 1
    assert get_correlation(pred, target) == pytest.approx((1, 1, 1))
    assert get_correlation(target, pred) == pytest.approx((1, 1, 1))


def test_a_rank_correlation_with_a_constant_counts_as_0(recwarn):
    error, rho, tau = get_correlation([1.0, 1.0], [1.0, 3.0])
    assert error == pytest.approx(math.sqrt(2))
    assert (rho, tau) == (0, 0)
    assert kendall([1.0], [1.0]) == 0
    assert not recwarn.list


@pytest.mark.parametrize(("pred", "target"), [
    ([1.0, 2.0], [1.0]), ([], []), (np.ones((2, 2)), np.ones(4)), (np.ones((1, 3)), np.ones(3)),
    (1.0, 1.0), ([1.0, np.nan], [1.0, 2.0]), ([1.0, 2.0], [np.inf, 2.0]),
])
@pytest.mark.parametrize("metric", [rmse, spearman, kendall, get_correlation])
def test_what_cannot_be_compared_is_refused(metric, pred, target):
    with pytest.raises(UserError):
        metric(pred, target)
