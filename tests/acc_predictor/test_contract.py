"""What every accuracy predictor must do; a new one is one more row of `PREDICTORS`."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acc_predictor import PREDICTORS, get_acc_predictor, predictor_class, require_std
from acc_predictor.adaptive_switching import AdaptiveSwitching
from acc_predictor.base import drawn_part
from acc_predictor.carts import CARTs
from acc_predictor.mlp import MLP
from search_space import OFASearchSpace
from utils.errors import UserError
from utils.metrics import kendall

NAMES = sorted(PREDICTORS)


@pytest.fixture(autouse=True)
def small_budgets(monkeypatch):
    """Fewer trees, epochs and folds: the contract does not depend on them."""
    for constructor, option, value in ((CARTs, "n_tree", 200), (MLP, "epochs", 60),
                                       (AdaptiveSwitching, "n_fold", 3)):
        monkeypatch.setitem(constructor.__init__.__kwdefaults__, option, value)


@pytest.fixture(scope="module")
def points():
    """120 architectures of a 46-gene space with an error that falls with every gene."""
    rng = np.random.default_rng(0)
    X = OFASearchSpace().draw(120, rng)
    weights = rng.uniform(0.1, 0.3, X.shape[1])
    return X, 40 - X @ weights + rng.normal(0, 0.1, len(X))


@pytest.mark.parametrize("name", NAMES)
def test_learns_and_returns_one_finite_column(name, points):
    X, y = points
    model = get_acc_predictor(name, X[:90], y[:90])
    pred = model.predict(X[90:])
    assert pred.shape == (30, 1)
    assert np.isfinite(pred).all()
    assert kendall(pred, y[90:]) > 0.3
    assert model.name == ("adaptive switching" if name == "as" else name)
    assert model.winner in ([name] if name != "as" else ["rbf", "gp", "carts"])


@pytest.mark.parametrize("name", NAMES)
def test_same_bits_for_any_threads_order_and_target_shape(name, points):
    X, y = points
    first = get_acc_predictor(name, X, y, seed=3, n_jobs=1).predict(X)
    other = get_acc_predictor(name, X[::-1], y[::-1, None], seed=3, n_jobs=4).predict(X)
    assert np.array_equal(first, other)


@pytest.mark.parametrize("name", ["carts", "mlp"])
def test_another_seed_draws_otherwise(name, points):
    X, y = points
    a, b = (get_acc_predictor(name, X, y, seed=seed).predict(X) for seed in (0, 1))
    assert not np.array_equal(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_many_rows_get_the_answers_of_single_rows(name, points):
    X, y = points
    model = get_acc_predictor(name, X, y)
    singly = np.vstack([model.predict(row[None]) for row in X[:20]])
    assert np.allclose(model.predict(X)[:20], singly, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_constant_columns_change_nothing(name, points):
    X, y = points
    wide = np.insert(X, 7, 1, axis=1)
    asked = np.insert(X, 7, 2, axis=1)
    assert np.array_equal(get_acc_predictor(name, wide, y).predict(asked),
                          get_acc_predictor(name, X, y).predict(X))


@pytest.mark.parametrize("name", NAMES)
def test_duplicates_count_once_with_their_mean(name, points):
    X, y = points
    twice = get_acc_predictor(name, np.vstack([X, X[:5]]), np.concatenate([y, y[:5] + 2]))
    once = get_acc_predictor(name, X, np.concatenate([y[:5] + 1, y[5:]]))
    assert np.allclose(twice.predict(X), once.predict(X), atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_constant_targets_are_predicted(name, points):
    X, _ = points
    model = get_acc_predictor(name, X[:60], np.full(60, 25.5))
    assert np.array_equal(model.predict(X[60:]), np.full((60, 1), 25.5))


@pytest.mark.parametrize("name", NAMES)
def test_a_standard_deviation_is_given_or_refused(name, points):
    X, y = points
    model = get_acc_predictor(name, X[:90], y[:90])
    if not model.gives_std:
        with pytest.raises(UserError, match=f"{model.name!r} gives no standard deviation"):
            model.predict(X[90:], return_std=True)
        with pytest.raises(UserError, match="which this strategy needs"):
            require_std(name)
        return
    mean, std = model.predict(X[90:], return_std=True)
    assert np.allclose(mean, model.predict(X[90:]), atol=1e-8)
    assert std.shape == (30, 1)
    assert np.isfinite(std).all()
    assert (std > 0).all()
    known = model.predict(X[:90], return_std=True)[1]
    assert known.mean() < std.mean(), "it is surer of what it has seen"
    scores = (y[90:, None] - mean) / np.hypot(std, 0.1)  # 0.1 is the noise of the points
    assert 0.5 < scores.std() < 2
    constant = get_acc_predictor(name, X[:60], np.full(60, 25.5))
    assert not constant.predict(X[60:], return_std=True)[1].any()


@pytest.mark.parametrize("name", NAMES)
def test_believing_a_prediction_moves_none_and_makes_it_surer(name, points):
    X, y = points
    model = get_acc_predictor(name, X[:90], y[:90])
    conditioned = model.condition_on(X[90:95])
    assert np.allclose(conditioned.predict(X), model.predict(X), atol=1e-8)
    if conditioned is not model:
        before, after = (m.predict(X, return_std=True)[1] for m in (model, conditioned))
        assert (after[90:95] < before[90:95]).all()
        assert (after <= before + 1e-9).all()


@pytest.mark.parametrize("name", NAMES)
def test_too_few_points_are_refused_and_just_enough_are_not(name, points):
    X, y = points
    need = 20 if name == "as" else 5
    with pytest.raises(UserError, match=f"needs at least {need} different.*--retry_failed"):
        get_acc_predictor(name, np.repeat(X[:need - 1], 3, axis=0), np.repeat(y[:need - 1], 3))
    model = get_acc_predictor(name, X[:need], y[:need])
    assert np.isfinite(model.predict(X)).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(name, bad, points):
    X, y = points
    broken_y, broken_X = y.copy(), X.astype(float)
    broken_y[3] = broken_X[3, 4] = bad
    with pytest.raises(UserError, match="targets: row 3 holds NaN or infinity"):
        get_acc_predictor(name, X, broken_y)
    with pytest.raises(UserError, match="inputs: row 3 holds NaN or infinity"):
        get_acc_predictor(name, broken_X, y)
    with pytest.raises(UserError, match="predict: row 3 holds NaN or infinity"):
        get_acc_predictor(name, X[:30], np.ones(30)).predict(broken_X)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_shapes_are_refused(name, points):
    X, y = points
    for inputs, targets in ((X, y[:-1]), (X, np.column_stack([y, y])), (X[0], y[:1]),
                            (X[:, :0], y), (X.astype(str), y), (X, y.astype(str))):
        with pytest.raises(UserError, match="expected"):
            get_acc_predictor(name, inputs, targets)
    model = get_acc_predictor(name, X[:30], y[:30])
    with pytest.raises(UserError, match="fitted on 46 genes, but is asked about vectors of 45"):
        model.predict(X[:, 1:])


def test_an_unknown_name_is_refused_with_the_list(points):
    with pytest.raises(UserError, match="unknown predictor 'xgb'; choose from as, carts, gp, mlp"):
        get_acc_predictor("xgb", *points)


@pytest.mark.parametrize(("name", "options"), [
    ("gp", {"regr": "constant", "corr": "exp"}), ("gp", {"corr": "spherical"}),
    ("rbf", {"kernel": "tps"}), ("rbf", {"kernel": "linear", "tail": "constant"}),
    ("carts", {"n_tree": 30}), ("as", {"n_fold": 4}), ("nngp", {"n_layers": 1}),
    ("mlp", {"n_layers": 1, "n_hidden": 20, "drop": 0.0, "epochs": 200})])
def test_options_of_the_constructor_are_obeyed(name, options, points):
    X, y = points
    changed = get_acc_predictor(name, X, y, **options).predict(X)
    assert kendall(changed, y) > 0.5
    default = get_acc_predictor(name, X, y)
    if name == "as":  # the winner may stay the same, its score does not
        assert get_acc_predictor(name, X, y, **options).scores != default.scores
    else:
        assert not np.array_equal(changed, default.predict(X))


@pytest.mark.parametrize(("name", "options"), [
    ("gp", {"regr": "cubic"}), ("gp", {"corr": "matern"}), ("rbf", {"kernel": "gauss"}),
    ("rbf", {"tail": "constant"}), ("carts", {"n_tree": 0}), ("as", {"n_fold": 1}),
    ("mlp", {"drop": 1.0})])
def test_options_that_no_predictor_has_are_refused(name, options, points):
    with pytest.raises(UserError):
        get_acc_predictor(name, *points, **options)


def test_bounds_of_another_length_are_refused(points):
    with pytest.raises(UserError, match=r"lower bound has the shape \(45,\)"):
        get_acc_predictor("rbf", *points, lower=np.zeros(45))


@pytest.mark.parametrize("name", ["rbf", "gp", "carts", "nngp"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_degenerate_designs_never_break_the_algebra(name, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    n, d, rank = (data.draw(st.integers(*limits)) for limits in ((5, 80), (1, 12), (1, 12)))
    top = data.draw(st.sampled_from([1, 2, 16, 1000]))
    columns = rng.integers(0, top + 1, (n, rank))
    X = columns[:, rng.integers(0, rank, d)] * rng.integers(-1, 3, d)  # copies, multiples, zeros
    y = data.draw(st.sampled_from([X.sum(axis=1), rng.integers(0, 3, n), rng.normal(25, 3, n)]))
    try:
        pred = get_acc_predictor(name, X, y).predict(rng.integers(0, top + 1, (10, d)))
    except UserError as error:
        assert "needs at least 5 different" in str(error)
        assert len(np.unique(X, axis=0)) < 5
    else:
        assert pred.shape == (10, 1)
        assert np.isfinite(pred).all()


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"as", "mlp"}))
def test_of_many_points_as_many_are_drawn_as_a_fit_affords(name, points, monkeypatch):
    X, y = points
    assert predictor_class(name).max_points <= 4000
    few = drawn_part(*map(np.asarray, zip(*sorted(zip(X.tolist(), y, strict=True)), strict=True)),
                     100, seed=4)
    expected = get_acc_predictor(name, *few, seed=4).predict(X)
    monkeypatch.setattr(predictor_class(name), "max_points", 100)
    model = get_acc_predictor(name, X, y, seed=4)
    assert len(few[0]) == 100 and np.array_equal(model.predict(X), expected)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["msunas:as", "msunas:gp", "msunas:carts"])
def test_a_step_at_3000_points_takes_less_than_2_gb(what, run_command):
    done = run_command("benchmarks/growth.py", "--measure", what, 3000, timeout=600)
    seconds, gigabytes = re.fullmatch(r"([\d.]+) s \(.*\), ([\d.]+) GB\n", done.stdout).groups()
    assert float(gigabytes) < 2 and float(seconds) < 120, "of CPU time, on any machine"
