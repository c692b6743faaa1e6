"""Latency that is learned: what it bears, what it reads, and how well it does on real devices."""

import json

import numpy as np
import pytest

from acc_predictor import get_acc_predictor
from evaluator.costs import CostModel
from evaluator.latency_model import (
    KIND,
    LatencyFeatures,
    LearnedLatency,
    agreement,
    cross_validated,
    learn_latency,
    unsure_about,
)
from search_space import OFASearchSpace, get_search_space
from search_space.base import rows_in
from utils.errors import UserError
from utils.metrics import spearman

SPACE = OFASearchSpace(resolutions=[160, 192, 224])


def latencies(X, seed=0, outliers=0.0):
    """A device: a constant, a launch for each layer, work; a part of it in a slow state."""
    rng = np.random.default_rng(seed)
    used = SPACE.choices(X)["used"].sum(axis=1)
    ms = 1 + 0.2 * used + 4e-9 * CostModel(SPACE).evaluate(X)["flops"]
    ms = ms * np.exp(0.01 * rng.normal(size=len(X)))
    return np.where(rng.random(len(X)) < outliers, 1.3 * ms, ms)


@pytest.fixture(scope="module")
def networks():
    return SPACE.draw(400, np.random.default_rng(0))


def predicted(model, X):
    return np.exp(model.predict(X).ravel())


def test_counts_are_those_of_the_layers(networks):
    features = LatencyFeatures.of_space(SPACE, networks, None, None)
    chosen = SPACE.choices(networks)
    kernels, expansions, used = chosen["ks"], chosen["e"], chosen["used"]
    columns = features(networks)[:, len(features.genes.gene):]
    always = 2 * SPACE.num_blocks  # layers that every network has count nothing
    for counted in (used.sum(axis=1) - always, (used & (kernels > 0)).sum(axis=1),
                    (used & (kernels > 1)).sum(axis=1), (used & (expansions > 1)).sum(axis=1)):
        assert (columns == counted[:, None]).all(axis=0).any()
    assert len(features.group) == features(networks).shape[1]
    assert features.group.max() == columns.shape[1]  # one for all genes


def test_slow_states_and_values_near_zero_are_borne(networks):
    known, others = networks[:100], networks[100:]
    clean, measured = latencies(others, 1), latencies(known, 2, outliers=0.15)
    measured[:3] = 1e-3
    found = agreement(predicted(learn_latency(SPACE, known, measured), others), clean)
    assert found["spearman"] > 0.97 and found["mape"] < 0.03 and found["within10"] > 0.98
    plain = get_acc_predictor("nngp", known, np.log(measured), space=SPACE)
    assert spearman(plain.predict(others), clean) < found["spearman"] - 0.1


def test_the_standard_deviation_covers_the_truth(networks):
    model = learn_latency(SPACE, networks[:60], latencies(networks[:60]))
    mean, std = model.predict(networks[100:], return_std=True)
    off = (np.log(latencies(networks[100:], 1))[:, None] - mean) / np.hypot(std, 0.01)
    assert 0.4 < off.std() < 2


def test_another_device_needs_fewer_networks(networks):
    """Where each gene has a weight of its own, which ten networks cannot show."""
    ms = 5 + networks @ np.random.default_rng(3).uniform(0, 0.5, networks.shape[1])
    first = learn_latency(SPACE, networks[:150], ms[:150])
    known, others = slice(150, 165), slice(165, None)
    alone, helped = (agreement(predicted(learn_latency(
        SPACE, networks[known], 3 * ms[known] ** 1.2, prior=prior), networks[others]),
        3 * ms[others] ** 1.2)["mape"] for prior in (None, first))
    assert helped < 0.5 * alone


def test_what_the_model_is_unsure_about_is_new_and_far_from_what_it_knows(networks):
    known = networks[:40]
    model = learn_latency(SPACE, known, latencies(known))
    chosen = unsure_about(model, known, 8, np.random.default_rng(1))
    assert chosen.shape == (8, SPACE.n_var) and not rows_in(chosen, known).any()
    assert len(np.unique(chosen, axis=0)) == 8
    unsure = [model.predict(X, return_std=True)[1].mean() for X in (chosen, networks[40:])]
    assert unsure[0] > 1.2 * unsure[1]


def test_cross_validation_leaves_out_what_it_predicts(networks):
    model = learn_latency(SPACE, networks[:60], latencies(networks[:60]))
    own = agreement(predicted(model, networks[:60]), latencies(networks[:60]))
    found, new = cross_validated(model), agreement(predicted(model, networks[100:]),
                                                   latencies(networks[100:], 1))
    assert set(found) == {"spearman", "mape", "within5", "within10"}
    assert own["mape"] < found["mape"] < 2 * new["mape"]


@pytest.mark.parametrize("latency", [0.0, -1.0, np.nan, np.inf])
def test_a_latency_is_above_zero(networks, latency):
    with pytest.raises(UserError, match="above 0"):
        learn_latency(SPACE, networks[:10], np.append(np.ones(9), latency))


def write(path, X, ms, **changes):
    rows = [{"arch": SPACE.decode(x), "ms": float(value)} for x, value in zip(X, ms, strict=True)]
    path.write_text(json.dumps({"kind": KIND, "search_space": "mbv3", "width_mult": 1.0,
                                "n_classes": 1000, "key": "ms", "measured": rows} | changes))
    return path


def test_a_file_answers_for_a_space_with_other_resolutions(networks, tmp_path):
    path = write(tmp_path / "pi.json", networks[:80], latencies(networks[:80]))
    same = LearnedLatency.read(path, SPACE)
    assert agreement(same.values(networks[80:]), latencies(networks[80:]))["mape"] < 0.02
    assert (same.std(networks[80:]) > 0).all()
    large = OFASearchSpace(resolutions=[224])
    X = networks[networks[:, -1] == 2][:20]
    moved = np.array([large.encode(SPACE.decode(x)) for x in X])
    assert np.allclose(LearnedLatency.read(path, large).values(moved), same.values(X))
    new = OFASearchSpace(resolutions=[208])
    between = LearnedLatency.read(path, new).values(np.where(np.arange(46) < 45, X, 0))
    assert (between < same.values(X)).all()


@pytest.mark.parametrize(("changes", "match"), [
    ({"kind": "other"}, "learn_latency.py"), ({"search_space": "proxyless"}, "search_space"),
    ({"width_mult": 1.2}, "width_mult"), ({"measured": []}, "at least 5"),
    ({"measured": [{"arch": {}}]}, "not a whole file"), ({"key": "mj"}, "not a whole file"),
    ({"prior": {"kind": KIND}}, "not a whole file")])
def test_a_file_that_does_not_fit_is_refused(networks, tmp_path, changes, match):
    path = write(tmp_path / "pi.json", networks[:6], latencies(networks[:6]), **changes)
    with pytest.raises(UserError, match=match) as failure:
        LearnedLatency.read(path, SPACE)
    assert str(path) in str(failure.value) and "\n" not in str(failure.value)


@pytest.mark.parametrize(("file", "space", "device", "n", "least"), [
    ("ofa_mbv3", "mbv3", "titan_rtx_64", 100, 0.99), ("ofa_mbv3", "mbv3", "titan_rtx_1", 100, 0.86),
    ("ofa_mbv3", "mbv3", "2080ti_32", 100, 0.80), ("nasbench201", "nasbench201", "fpga", 50, 0.99),
    ("nasbench201", "nasbench201", "silver_4114", 50, 0.95)])
def test_published_devices_are_learned(shared_data, file, space, device, n, least):
    from evaluator.latency_campaign import read_measured, space_of_archs

    archs, ms = read_measured(str(shared_data / f"help_{file}_latency_ms.csv.gz"), device)
    found = space_of_archs(archs, None)
    assert type(found) is type(get_search_space(space))
    orders = [np.random.default_rng(draw).permutation(len(ms)) for draw in range(3)]
    used = {row for order in orders for row in order[:n + 1000]}
    X = {row: found.encode(archs[row]) for row in used}
    rho = []
    for order in orders:
        known, others = order[:n], order[n:n + 1000]
        model = learn_latency(found, np.array([X[i] for i in known]), ms[known])
        rho.append(spearman(model.predict(np.array([X[i] for i in others])), ms[others]))
    assert np.mean(rho) >= least
