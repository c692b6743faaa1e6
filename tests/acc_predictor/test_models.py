"""Each model against a reference: another implementation, a derivative, measured accuracies."""

import numpy as np
import pytest
from scipy.interpolate import RBFInterpolator
from sklearn.tree import DecisionTreeRegressor

from acc_predictor import get_acc_predictor, mlp
from acc_predictor.carts import CARTs, _grow, _Splits
from utils.metrics import kendall


@pytest.fixture(scope="module")
def plane():
    """200 different points of two genes with 17 values, and noisy targets."""
    rng = np.random.default_rng(1)
    X = np.stack(np.divmod(rng.choice(17 * 17, 200, replace=False), 17), axis=1)
    return X, X @ [0.5, 0.2] + rng.normal(size=200)


@pytest.mark.parametrize("name", ["rbf", "gp"])
@pytest.mark.parametrize("n", [5, 200])
def test_interpolating_models_return_the_training_targets(name, n, plane):
    X, y = plane
    pred = get_acc_predictor(name, X[:n], y[:n]).predict(X[:n])[:, 0]
    assert np.allclose(pred, y[:n], atol=0.05)  # pySOT smooths by 1e-6


def test_rbf_is_the_cubic_interpolant_with_linear_tail_on_compressed_ranges():
    rng = np.random.default_rng(2)
    upper = np.array([16, 2])
    X = np.stack(np.divmod(np.arange(51), 3), axis=1)[rng.permutation(51)]
    y = 30 - 0.4 * X[:, 0] + 0.01 * X[:, 0] ** 2 - np.sin(X[:, 1])
    asked, scale = rng.uniform(0, upper, (50, 2)), np.cbrt(upper)
    reference = RBFInterpolator(X[:40] / scale, y[:40], kernel="cubic", degree=1,
                                smoothing=1e-6)(asked / scale)
    pred = get_acc_predictor("rbf", X[:40], y[:40], lower=np.zeros(2), upper=upper).predict(asked)
    assert np.allclose(pred[:, 0], reference, atol=1e-6)


def test_rbf_and_gp_follow_a_plane_beyond_their_points():
    X = np.stack(np.divmod(np.arange(25), 5), axis=1)
    asked = np.array([[8, 8], [0, 9]])
    for name in ("rbf", "gp"):
        pred = get_acc_predictor(name, X, 30 - X @ [1.0, 2.0]).predict(asked)
        assert np.allclose(pred[:, 0], 30 - asked @ [1.0, 2.0], atol=1e-3)


def test_trees_on_one_gene_equal_those_of_scikit_learn():
    rng = np.random.default_rng(3)
    X, y = np.sort(rng.choice(1000, 60, replace=False))[:, None], rng.normal(size=60)
    asked = np.arange(1000)[:, None]
    forest = _grow(_Splits.of(X.astype(float), y), np.ones((1, 1), dtype=bool), rng)
    reference = DecisionTreeRegressor(random_state=0).fit(X, y)
    assert np.allclose(forest.predict(asked), reference.predict(asked))
    assert len(forest.value) == reference.tree_.node_count


def test_the_upper_levels_of_a_tree_equal_those_of_scikit_learn(plane):
    X, y = plane
    asked = np.stack(np.divmod(np.arange(17 * 17), 17), axis=1)
    forest = _grow(_Splits.of(X.astype(float), y), np.ones((1, 2), dtype=bool),
                   np.random.default_rng(0))
    node = np.zeros(len(asked), dtype=int)
    for depth in range(1, 6):
        right = asked[np.arange(len(asked)), forest.feature[node]] > forest.threshold[node]
        node = forest.child[2 * node + right]
        reference = DecisionTreeRegressor(max_depth=depth, random_state=0).fit(X, y)
        assert np.allclose(forest.value[node], reference.predict(asked))


def test_a_tree_uses_only_its_genes_and_ends_in_pure_leaves(plane):
    X, y = plane
    genes = np.array([[True, False], [False, True], [True, True]])
    forest = _grow(_Splits.of(X.astype(float), y), genes, np.random.default_rng(0))
    inner = forest.child[::2] != np.arange(len(forest.value))
    for root, allowed in zip(forest.roots, genes, strict=True):
        reached, nodes = set(), [int(root)]
        while nodes:
            node = nodes.pop()
            if inner[node]:
                reached.add(int(forest.feature[node]))
                nodes += [int(i) for i in forest.child[2 * node:2 * node + 2]]
        assert reached == set(np.flatnonzero(allowed))
    alone = _grow(_Splits.of(X.astype(float), y), genes[2:], np.random.default_rng(0))
    assert np.allclose(alone.predict(X), y)


def test_adaptive_switching_answers_as_its_winner(plane, monkeypatch):
    monkeypatch.setitem(CARTs.__init__.__kwdefaults__, "n_tree", 200)
    X, y = plane[0][:60], plane[1][:60]
    model = get_acc_predictor("as", X, y, seed=2)
    assert set(model.scores) == {"rbf", "gp", "carts"}
    assert model.winner == max(model.scores, key=model.scores.get)
    winner = get_acc_predictor(model.winner, X, y, seed=2)
    assert np.array_equal(model.predict(X), winner.predict(X))


def test_mlp_gradient_is_the_derivative_of_its_loss():
    hidden = (30, 20, 10)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(12, 3)), rng.normal(size=(12, 1)) * 3
    shard = mlp._Shard(X, y, X, y, hidden, 0.0, rng)  # its validation loss is its training loss
    weights = mlp._initial_weights(3, hidden, rng).astype(float)
    weights += rng.normal(size=weights.shape) * 0.01
    direction, gradient = rng.normal(size=weights.shape), np.empty_like(weights)
    parts = mlp._layers(gradient, 3, hidden)
    after, before = (shard.gradient(mlp._layers(weights + sign * 1e-6 * direction, 3, hidden),
                                     parts)
                     for sign in (1, -1))
    shard.gradient(mlp._layers(weights, 3, hidden), parts)
    assert (after - before) / 2e-6 == pytest.approx(gradient @ direction, rel=1e-4)


@pytest.mark.parametrize(("name", "tau"), [
    ("rbf", 0.94), ("gp", 0.94), ("carts", 0.89), pytest.param("mlp", 0.91, marks=pytest.mark.slow),
])
def test_ranking_of_measured_imagenet_accuracies(name, tau, measured):
    X, y = measured
    assert X.shape == (1081, 46)
    for seed in (0, 1) if name in ("rbf", "gp") else (0,):
        order = np.random.default_rng(seed).permutation(len(X))
        train, test = order[:340], order[340:]
        model = get_acc_predictor(name, X[train], y[train], seed=seed)
        assert kendall(model.predict(X[test]), y[test]) >= tau


@pytest.mark.parametrize("name", ["rbf", "gp"])
def test_few_measured_points_rank_well(name, measured):
    X, y = measured
    order = np.random.default_rng(0).permutation(len(X))
    for n in (20, 47, 60):
        model = get_acc_predictor(name, X[order[:n]], y[order[:n]])
        assert kendall(model.predict(X[order[n:]]), y[order[n:]]) >= 0.75


def test_measured_file_without_its_columns_is_refused(tmp_path, fails_clearly):
    path = tmp_path / "measured.csv"
    path.write_text("arch,top1\n{},1\n")
    fails_clearly("benchmarks/predictors.py", path, match="imagenet_top1")
    fails_clearly("benchmarks/predictors.py", tmp_path / "none.csv", match="no such")
