"""The oracle: the same answers as the OFA authors' own code gives, interpolated, repeatable."""

import json
from dataclasses import replace

import numpy as np
import pytest

from acc_predictor.exported import ExportedPredictor
from evaluator import build_evaluator
from evaluator.costs import CostModel, millions
from evaluator.oracle import OracleEvaluator, PredictorEvaluator
from search_space import OFASearchSpace, get_search_space
from tests.conftest import ROOT
from utils.errors import UserError

WEIGHTS = "ofa_mbv3_acc_predictor.pth"
RESNET_WEIGHTS = "ofa_resnet50_acc_predictor.pth"


@pytest.fixture(scope="module")
def oracle(shared_data):
    return OracleEvaluator(shared_data / WEIGHTS)


@pytest.fixture
def archs():
    space = OFASearchSpace(resolutions=range(112, 257, 4))
    return [*space.extremes(), *space.sample(200, rng=np.random.default_rng(0))]


def test_answers_of_the_library(oracle, shared_data):
    torch = pytest.importorskip("torch")
    from ofa.nas.accuracy_predictor import MobileNetArchEncoder

    listed = list(range(112, 225, 16))
    space = OFASearchSpace(resolutions=listed)
    archs = [*space.extremes(), *space.sample(100, rng=np.random.default_rng(1))]
    encoder = MobileNetArchEncoder(image_size_list=listed)
    features = np.array([encoder.arch2feature(padded(arch)) for arch in archs])
    features = np.hstack([features[:, len(listed):], features[:, :len(listed)]])
    mlp = torch.nn.Sequential(*[layer for sizes in ((128, 400), (400, 400), (400, 400))
                                for layer in (torch.nn.Linear(*sizes), torch.nn.ReLU())],
                              torch.nn.Linear(400, 1))
    mlp.load_state_dict(torch.load(shared_data / WEIGHTS, map_location="cpu", weights_only=True))
    with torch.inference_mode():
        expected = 100 * mlp(torch.tensor(features, dtype=torch.float32))[:, 0].numpy()
    np.testing.assert_allclose(oracle.evaluate_many(archs), expected, atol=1e-4)


def test_answers_of_the_library_for_resnet50(shared_data):
    torch = pytest.importorskip("torch")
    from ofa.nas.accuracy_predictor import AccuracyPredictor, ResNetArchEncoder

    oracle = OracleEvaluator(shared_data / RESNET_WEIGHTS)
    listed = oracle.encoding.resolutions.tolist()
    space = get_search_space("resnet50", resolutions=listed)
    X = space.draw(200, np.random.default_rng(1))
    archs = [*space.extremes(), *map(space.decode, X)]
    encoder = ResNetArchEncoder(image_size_list=listed)
    expected = np.array([encoder.arch2feature({**arch, "image_size": arch["r"]})
                         for arch in archs])
    encoded = np.array([space.encode(arch) for arch in archs])
    indices = np.array([listed.index(arch["r"]) for arch in archs])
    np.testing.assert_array_equal(oracle.encoding.features(space, encoded, indices), expected)
    mlp = AccuracyPredictor(encoder, device="cpu",
                            checkpoint_path=str(shared_data / RESNET_WEIGHTS))
    with torch.inference_mode():
        top1 = 100 * mlp(torch.tensor(expected, dtype=torch.float32)).numpy()
    answers = oracle.evaluate_many(archs)
    np.testing.assert_allclose(answers, top1, atol=1e-4)
    assert 70 < answers.min() and answers.max() < 84


def test_resnet50_costs_and_resolutions(shared_data):
    oracle = OracleEvaluator(shared_data / RESNET_WEIGHTS)
    arch = get_search_space("resnet50").extremes()[1]
    stats = oracle.evaluate({**arch, "r": 208})
    costs = CostModel(get_search_space("resnet50", resolutions=[208])).of_arch({**arch, "r": 208})
    assert (stats["params"], stats["resolution"]) == (millions(costs["params"]), 208)
    ends = [oracle.evaluate({**arch, "r": r})["top1"] for r in (192, 224)]
    assert stats["top1"] == pytest.approx(np.mean(ends), abs=1e-6)
    with pytest.raises(UserError, match="128"):
        oracle.evaluate({**arch, "r": 112})
    with pytest.raises(UserError, match="lacks"):
        oracle.evaluate(OFASearchSpace().extremes()[0])


def padded(arch: dict) -> dict:
    """The library's form of an architecture: four entries for every stage."""
    full = {"ks": [], "e": [], "d": arch["d"], "image_size": arch["r"]}
    for key in ("ks", "e"):
        values = iter(arch[key])
        for depth in arch["d"]:
            full[key] += [next(values) for _ in range(depth)] + [3] * (4 - depth)
    return full


def test_between_and_above_the_listed_resolutions(oracle):
    arch = OFASearchSpace().extremes()[1]
    at = {r: oracle.evaluate({**arch, "r": r})["top1"] for r in (192, 196, 208, 224, 228, 256)}
    assert at[196] == pytest.approx(0.75 * at[192] + 0.25 * at[208], abs=1e-6)
    assert at[192] < at[208] < at[224] == at[228] == at[256]


def test_one_by_one_and_in_bulk_are_the_same(oracle, archs):
    assert oracle.evaluate_many(archs).tolist() == [oracle.evaluate(a)["top1"] for a in archs]
    assert oracle.evaluate_many([]).shape == (0,)


def test_stats_are_plain_complete_and_say_that_it_is_the_oracle(oracle, archs):
    space = OFASearchSpace(resolutions=range(112, 257, 4))
    stats = oracle.evaluate(archs[5], batch_scale=0.5)
    assert json.loads(json.dumps(stats, allow_nan=False)) == stats
    costs = CostModel(space).of_arch(archs[5])
    assert (stats["params"], stats["flops"]) == (millions(costs["params"]),
                                                 millions(costs["flops"]))
    assert stats["evaluator"] == "oracle"
    assert 60 < stats["top1"] < 90


def test_it_ranks_measured_accuracies(oracle, shared_data):
    import csv

    from scipy.stats import kendalltau

    path = shared_data / "ofa_mbv3_w1.0_imagenet_measured.csv"
    rows = list(csv.DictReader(path.read_text().splitlines()))
    answers = oracle.evaluate_many([json.loads(row["arch"]) for row in rows])
    assert kendalltau(answers, [float(row["imagenet_top1"]) for row in rows]).statistic > 0.85


def test_other_options_are_ignored(shared_data):
    path = str(shared_data / WEIGHTS)
    assert build_evaluator("oracle", {"oracle_path": path, "dataset": "imagenet"}).weights


@pytest.mark.parametrize(("change", "match"), [
    ({"r": 64}, "112"), ({"r": "224"}, "112"), ({"r": None}, "112"), ({"d": [2]}, "'d'"),
    ({"ks": [9] * 10}, "'ks'")])
def test_bad_architectures_are_refused(oracle, change, match):
    with pytest.raises(UserError, match=match):
        oracle.evaluate({**OFASearchSpace().extremes()[0], **change})


@pytest.mark.parametrize("name", ["other.pth", "README.md", "nothing.pth"])
def test_other_files_are_refused(shared_data, tmp_path, name):
    torch = pytest.importorskip("torch")
    torch.save({"0.weight": torch.zeros(400, 128)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=name):
        OracleEvaluator((tmp_path if name == "other.pth" else shared_data) / name)


def test_the_weights_must_be_named():
    with pytest.raises(UserError, match="--oracle_path"):
        OracleEvaluator()


def test_a_worker_tells_which_predictor_it_has_read(oracle, shared_data):
    assert oracle.fingerprint() == OracleEvaluator(shared_data / WEIGHTS).fingerprint() != ""
    assert OracleEvaluator(shared_data / RESNET_WEIGHTS).fingerprint() != oracle.fingerprint()


def test_a_worker_tells_which_exported_predictor_it_has_read(tmp_path):
    exported = ExportedPredictor.read(ROOT / "data/digits_predictor.json")
    found = []
    for name, error in (("same", 0.0), ("other", 0.25)):
        errors = [*exported.top1_err[:-1], exported.top1_err[-1] + error]
        replace(exported, top1_err=errors).write(tmp_path / name)
        found.append(PredictorEvaluator(str(tmp_path / name)).fingerprint())
    assert PredictorEvaluator(str(ROOT / "data/digits_predictor.json")).fingerprint() == found[0]
    assert found[0] != found[1]
