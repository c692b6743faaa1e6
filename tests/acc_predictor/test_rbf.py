"""pySOT's interpolant and its stand-in where pySOT cannot be imported are the same function."""

import numpy as np
import pytest

from acc_predictor import get_acc_predictor, rbf
from acc_predictor.rbf import KERNELS, TAILS, pysot_interpolant, scipy_interpolant
from search_space import OFASearchSpace

needs_pysot = pytest.mark.skipif(rbf.pysot is None, reason="pySOT cannot be imported here")


def make_points(n, seed, n_test=50):
    space = OFASearchSpace()
    rng = np.random.default_rng(seed)
    X = space.draw(n + n_test, rng).astype(float)
    y = 20 + X @ rng.normal(size=X.shape[1]) + rng.normal(size=len(X))
    return X[:n], y[:n], X[n:], np.asarray(space.lower, float), np.asarray(space.upper, float)


@needs_pysot
@pytest.mark.parametrize(("kernel", "tail", "eta"), [
    ("cubic", "linear", 1e-6), ("tps", "linear", 1e-6), ("linear", "linear", 1e-6),
    ("linear", "constant", 0.0)])
@pytest.mark.parametrize("seed", range(4))
def test_scipys_interpolant_equals_pysots(kernel, tail, eta, seed):
    X, y, X_test, lower, upper = make_points(120 + 70 * seed, seed)
    unit = lower + np.cbrt(upper - lower)
    ours, theirs = (make(X, y, lower, unit, KERNELS[kernel], TAILS[tail], eta)
                    for make in (pysot_interpolant, scipy_interpolant))
    for points in (X, X_test):
        assert np.abs(ours(points) - theirs(points)).max() < 1e-6


@needs_pysot
def test_the_predictor_is_the_same_without_pysot(monkeypatch):
    X, y, X_test, *_ = make_points(150, 7)
    expected = get_acc_predictor("rbf", X, y).predict(X_test)
    monkeypatch.setattr(rbf, "pysot", None)
    got = get_acc_predictor("rbf", X, y).predict(X_test)
    assert got.shape == expected.shape == (50, 1)
    assert np.abs(got - expected).max() < 1e-6


def test_the_stand_in_goes_through_its_points():
    X, y, _, lower, upper = make_points(100, 3)
    model = scipy_interpolant(X, y, lower, lower + np.cbrt(upper - lower), KERNELS["linear"],
                              TAILS["constant"], 0.0)
    assert np.abs(model(X)[:, 0] - y).max() < 1e-8
