"""The network's kernel, its hyperparameters, and what the genes of a space are to it."""

from dataclasses import replace

import numpy as np
import pytest

from acc_predictor import get_acc_predictor
from acc_predictor.features import MAX_STEPS, GeneFeatures
from acc_predictor.nngp import JITTER, _Evidence, relu_kernel, relu_kernel_gradient
from search_space import OFASearchSpace
from utils.metrics import kendall


def test_the_kernel_is_the_covariance_of_a_wide_random_network():
    rng = np.random.default_rng(0)
    X, width = rng.normal(size=(4, 3)), 400_000
    hidden = np.maximum(X @ rng.normal(size=(3, width)), 0)
    sampled = 2 * hidden @ hidden.T / width  # 2 keeps the size of the inputs
    sizes = (X ** 2).sum(axis=1)
    assert np.allclose(relu_kernel(X @ X.T, sizes, sizes, 1), sampled, rtol=0.03, atol=0.03)
    assert np.allclose(np.diag(relu_kernel(X @ X.T, sizes, sizes, 3)), sizes)


def test_derivatives_of_the_kernel_are_those_of_differences():
    rng = np.random.default_rng(1)
    A, B, step = rng.normal(size=(3, 4)), rng.normal(size=(2, 4)), 1e-6
    u, v, dot = (A ** 2).sum(axis=1), (B ** 2).sum(axis=1), A @ B.T
    network = relu_kernel_gradient(dot, u, v, 3)
    assert np.array_equal(network.kernel, relu_kernel(dot, u, v, 3))
    by_dot = (relu_kernel(dot + step, u, v, 3) - relu_kernel(dot - step, u, v, 3)) / (2 * step)
    by_size = (relu_kernel(dot, u + step, v, 3) - relu_kernel(dot, u - step, v, 3)) / (2 * step)
    assert np.allclose(network.by_dot, by_dot, atol=1e-6)
    assert np.allclose(network.by_size, by_size, atol=1e-6)


@pytest.mark.parametrize("noisiness", [1.0, np.linspace(0.5, 4, 30)], ids=["alike", "each"])
def test_the_gradient_of_the_evidence_is_that_of_differences(noisiness):
    rng = np.random.default_rng(2)
    evidence = _Evidence(rng.normal(size=(30, 7)), np.array([0, 0, 1, 1, 2, 2, 2]),
                         rng.normal(size=30), 3, noisiness)
    theta = evidence.likely + 0.2 * rng.normal(size=6)
    differences = [(evidence.loss(theta + d)[0] - evidence.loss(theta - d)[0]) / 2e-5
                   for d in 1e-5 * np.eye(6)]
    assert np.allclose(evidence.loss(theta)[1], differences, rtol=1e-4, atol=1e-4)


def test_the_posterior_is_the_textbook_one():
    rng = np.random.default_rng(3)
    X = OFASearchSpace().draw(40, rng)
    model = get_acc_predictor("nngp", X, 30 - X @ rng.uniform(0.1, 0.3, 46))
    process, Z = model._posterior, model._inputs(X[:, model._columns].astype(float))[:5]
    K = process.covariance(process.Z, process.Z)
    across = process.covariance(Z, process.Z)
    noisy = K + (process.h.noise + JITTER) * np.eye(len(K))
    variance = process.covariance(Z, Z) - across @ np.linalg.solve(noisy, across.T)
    assert np.allclose(process.mean_std(Z)[1] ** 2, np.diag(variance), atol=1e-6)


def test_believing_is_conditioning_on_the_predictions():
    rng = np.random.default_rng(4)
    X = OFASearchSpace().draw(60, rng)
    model = get_acc_predictor("nngp", X[:40], 30 - X[:40] @ rng.uniform(0.1, 0.3, 46))
    one_by_one = model.condition_on(X[40:41]).condition_on(X[41:43])
    at_once = model.condition_on(X[40:43])
    for a, b in zip(one_by_one.predict(X, return_std=True), at_once.predict(X, return_std=True),
                    strict=True):
        assert np.allclose(a, b, atol=1e-6)


def test_believing_in_what_is_known_or_twice_the_same_breaks_nothing():
    rng = np.random.default_rng(7)
    X = OFASearchSpace().draw(50, rng)
    model = get_acc_predictor("nngp", X, 30 - X @ rng.uniform(0.1, 0.3, 46))
    conditioned = model
    for _ in range(5):
        conditioned = conditioned.condition_on(np.vstack([X[:3], X[:3]]))
    mean, std = conditioned.predict(X, return_std=True)
    assert np.allclose(mean, model.predict(X), atol=1e-6)
    assert np.isfinite(std).all()


def test_many_points_teach_the_hyperparameters_in_part_and_the_predictions_in_full(monkeypatch):
    monkeypatch.setattr("acc_predictor.nngp.MAX_POINTS", 60)
    rng = np.random.default_rng(8)
    X = OFASearchSpace().draw(300, rng)
    y = 30 - X @ rng.uniform(0.1, 0.3, 46)
    model = get_acc_predictor("nngp", X[:200], y[:200], seed=1, space=OFASearchSpace())
    assert len(model._posterior.alpha) == 200
    few = get_acc_predictor("nngp", X[:60], y[:60], space=OFASearchSpace())
    error, error_of_few = (np.abs(m.predict(X[200:])[:, 0] - y[200:]).mean() for m in (model, few))
    assert error < error_of_few / 2
    again = get_acc_predictor("nngp", X[:200], y[:200], seed=1, space=OFASearchSpace())
    assert np.array_equal(model.predict(X), again.predict(X))


def test_noise_is_learnt():
    rng = np.random.default_rng(5)
    X = OFASearchSpace().draw(300, rng)
    truth = 30 - X @ rng.uniform(0.1, 0.3, 46)
    noisy = truth + rng.normal(0, 0.5, len(X))
    model = get_acc_predictor("nngp", X, noisy, space=OFASearchSpace())
    learnt = np.sqrt(model._posterior.h.noise) * model._std
    assert 0.3 < learnt < 0.7
    assert np.std(model.predict(X)[:, 0] - truth) < 0.35, "nearer to the truth than the data"


def test_features_are_steps_that_unused_genes_lack():
    space = OFASearchSpace(resolutions=[192, 224])
    X = space.draw(200, np.random.default_rng(6))
    features = GeneFeatures.of_space(space, X)
    columns = features(X)
    used = space.active(X)
    for gene in (0, 1, 4, 8, 45):
        mine = columns[:, features.gene == gene]
        optional = not used[:, gene].all()
        assert mine.shape[1] == space.upper[gene] + optional
        assert np.array_equal(mine.sum(axis=1), np.where(used[:, gene], X[:, gene] + optional, 0))
    assert len(set(features.group.tolist())) == 16, "5 x (depth, kernel, expansion), resolution"


def test_a_gene_of_very_many_values_is_one_scaled_column():
    X = np.arange(0, 2 * (MAX_STEPS + 1), 2)[:, None]
    assert np.allclose(GeneFeatures.of_data(X)(X)[:, 0], np.linspace(0, 1, MAX_STEPS + 1))
    assert GeneFeatures.of_data(X[:5])(X[:5]).shape == (5, 4)


def test_a_gene_without_order_has_a_column_for_each_value():
    class Cells(OFASearchSpace):
        @property
        def genes(self):
            return tuple(replace(gene, ordered=False) for gene in super().genes)

    space = Cells(resolutions=[224])
    X = space.upper[None]
    features = GeneFeatures.of_space(space, X)
    assert features(X).sum() == 46, "one value of each gene"
    assert features(X).shape == (1, 45 * 3 + 1)


@pytest.mark.parametrize(("n", "tau"), [(100, 0.92), (340, 0.955)])
def test_goals_on_measured_imagenet_accuracies(n, tau, measured):
    X, y = measured
    space, taus, spreads = OFASearchSpace(resolutions=[224]), [], []
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(len(X))
        known, asked = order[:n], order[n:]
        model = get_acc_predictor("nngp", X[known], y[known], space=space)
        mean, std = model.predict(X[asked], return_std=True)
        taus.append(kendall(mean, y[asked]))
        spreads.append(np.std((y[asked, None] - mean) / std))
    assert np.mean(taus) >= tau
    assert 0.8 < np.mean(spreads) < 1.25
