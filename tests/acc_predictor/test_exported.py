"""Exported predictors: written, read back, answering searches, and no way to run code."""

import json
from functools import partial

import numpy as np
import pytest

import msunas
from acc_predictor import get_acc_predictor
from acc_predictor.__main__ import get_args_parser, main
from acc_predictor.exported import ExportedPredictor, cross_validated
from evaluator import build_evaluator
from search import Progress, Search, SpaceCosts, make_objectives
from search.runner import make_parts
from search_space import SEARCH_SPACES, get_search_space
from tests.search.engines import direct
from tests.search_space.tables import write_graphs, write_table
from utils.errors import UserError
from utils.metrics import kendall

SETTINGS = {"table": write_table, "nasbenchgraph": write_graphs}
N_ARCHS = 40


def stats_of(space, arch: dict) -> dict:
    """An accuracy that grows with every gene, and an energy."""
    share = np.asarray(space.encode(arch) - space.lower) / np.maximum(space.upper - space.lower, 1)
    return {"top1": 60 + 30 * share.mean(), "energy": 5 + share.sum()}


def searched(name: str, folder, sec_obj: str = "energy", **settings):
    """A finished search with its settings file, as msunas.py leaves it; returns space, folder."""
    space = get_search_space(name, **settings)
    search = Search(space, make_objectives(sec_obj, SpaceCosts(space), reported=True), "random",
                    engine=direct(partial(stats_of, space)), folder=folder / "run", n_doe=N_ARCHS,
                    iterations=0, progress=Progress(0, quiet=True))
    search.run()
    search.folder.write_settings({
        "search_space": name, "seed": 3, "sec_obj": sec_obj, "n_doe": N_ARCHS, "iterations": 0,
        "dataset": "digits", "n_classes": 10, "supernet_path": "ofa_w0.35", **settings})
    return space, folder / "run"


def export(run, file, *flags) -> ExportedPredictor:
    main(get_args_parser().parse_args([str(run), "--save", str(file), *flags]))
    return ExportedPredictor.read(file)


@pytest.mark.parametrize("name", sorted(SEARCH_SPACES))
def test_every_space_is_exported_and_answers(name, tmp_path):
    settings = SETTINGS.get(name, lambda folder: {})(tmp_path)
    space, run = searched(name, tmp_path, **settings)
    exported = export(run, tmp_path / "p.json")
    assert exported.predictor == "nngp", "random search has no predictor of its own"
    assert exported.meta["search_space"] == name and exported.meta["width"] == 0.35
    oracle = build_evaluator("oracle", {
        "oracle_path": str(tmp_path / "p.json"), "search_space": name, "space_options": settings,
        "dataset": "digits"})
    asked = [space.decode(x) for x in space.draw(60, np.random.default_rng(9))]
    answers = [oracle.evaluate(arch) for arch in asked]
    truth = [stats_of(space, arch) for arch in asked]
    for key in ("top1", "energy"):
        assert kendall(np.array([a[key] for a in answers]),
                       np.array([t[key] for t in truth])) > 0.6, key
    assert answers[0]["evaluator"] == "oracle"
    assert oracle.evaluate_many(asked).tolist() == [a["top1"] for a in answers]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return searched("nasbench201", tmp_path_factory.mktemp("exported"))[1]


@pytest.fixture
def file(run, tmp_path):
    export(run, tmp_path / "p.json")
    return tmp_path / "p.json"


def test_it_answers_as_the_predictor_that_was_fitted(run, file):
    exported = ExportedPredictor.read(file)
    space = get_search_space("nasbench201")
    X = space.encode_many(exported.archs)
    model = get_acc_predictor("nngp", X, np.array(exported.top1_err), seed=exported.seed,
                              space=space)
    oracle = build_evaluator("oracle", {"oracle_path": str(file), "search_space": "nasbench201"})
    asked = space.draw(30, np.random.default_rng(1))
    np.testing.assert_allclose(oracle.evaluate_many([space.decode(x) for x in asked]),
                               100 - model.predict(asked)[:, 0], atol=1e-9)


def test_equal_exports_are_equal_bytes_and_another_predictor_can_be_named(run, tmp_path):
    for name in ("a", "b"):
        export(run, tmp_path / name, "--predictor", "rbf")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert ExportedPredictor.read(tmp_path / "a").predictor == "rbf"


def test_the_quality_is_that_of_points_it_was_not_fitted_on(file):
    exported = ExportedPredictor.read(file)
    assert exported.quality["folds"] == 10 and exported.quality["tau"] > 0.6
    space = get_search_space("nasbench201")
    X = space.draw(60, np.random.default_rng(0))
    X = np.unique(X, axis=0)
    noise = np.random.default_rng(1).uniform(0, 100, len(X))
    assert abs(cross_validated("nngp", space, X, noise, 0)["tau"]) < 0.35
    with pytest.raises(UserError, match="too few"):
        cross_validated("nngp", space, X[:3], noise[:3], 0)


@pytest.mark.parametrize(("change", "match"), [
    ({"format": "other"}, "no exported predictor"), ({"version": 2}, "version 2"),
    ({"version": True}, "version True"),
    ({"predictor": "os:system"}, "'predictor' must be one of"), ({"predictor": []}, "'predictor'"),
    ({"seed": -1}, "'seed'"), ({"seed": 1.5}, "'seed'"), ({"archs": []}, "'archs'"),
    ({"archs": [1]}, "'archs'"), ({"top1_err": [1.0]}, "'top1_err'"),
    ({"top1_err": [101.0] * N_ARCHS}, "'top1_err'"), ({"top1_err": ["1"] * N_ARCHS}, "'top1_err'"),
    ({"reported": {"energy": [1]}}, "'reported'"), ({"reported": []}, "'reported'"),
    ({"archs": [{}] * N_ARCHS}, "p.json"), ({"meta": []}, "'meta'"),
    ({"meta": {"search_space": "mbv3"}}, "predicts the search space mbv3"),
    ({"meta": {"search_space": ["x"]}}, "p.json"), ({"meta": {"resolutions": "x"}}, None)])
def test_damaged_files_are_refused(file, change, match):
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    options = {"oracle_path": str(file), "search_space": "nasbench201"}
    if match is None:  # no option of this space, and of no use to it
        build_evaluator("oracle", options)
        return
    with pytest.raises(UserError, match=match):
        build_evaluator("oracle", options)


def test_cut_files_and_a_failed_write_leave_what_was_there(run, file, tmp_path, monkeypatch):
    content = file.read_bytes()
    file.write_bytes(content[:-40])
    with pytest.raises(UserError, match="not JSON, or truncated"):
        ExportedPredictor.read(file)
    file.write_bytes(content)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        export(run, file)
    assert file.read_bytes() == content and [*tmp_path.iterdir()] == [file]


def test_code_in_the_files_of_a_search_must_be_typed(run, tmp_path, monkeypatch):
    copy = tmp_path / "run"
    copy.mkdir()
    (copy / "iter_0.stats").write_bytes((run / "iter_0.stats").read_bytes())
    settings = json.loads((run / "settings.json").read_text())
    (copy / "settings.json").write_text(json.dumps({**settings, "search_space": "no_such:Space"}))
    with pytest.raises(UserError, match="names code"):
        export(copy, tmp_path / "p.json")
    stats = json.loads((copy / "iter_0.stats").read_text())
    (copy / "settings.json").write_text(json.dumps(settings))
    stats["surrogate"]["model"] = "mine:Predictor"
    (copy / "iter_0.stats").write_text(json.dumps(stats))
    with pytest.raises(UserError, match=r"code of your own.*--predictor"):
        export(copy, tmp_path / "p.json")
    assert not (tmp_path / "p.json").exists()


def test_a_search_on_it_takes_its_space_and_classes(file, tmp_path):
    def parts_of(sec_obj: str):
        _, _, settings = msunas.prepare(msunas.get_args_parser().parse_args(
            ["--evaluator", "oracle", "--oracle_path", str(file), "--sec_obj", sec_obj,
             "--save", str(tmp_path / "new")]))
        return settings, make_parts(settings)

    settings, parts = parts_of("flops+energy")
    assert (settings.search_space, settings.dataset, settings.n_classes) == (
        "nasbench201", "digits", 10)
    assert [objective.source for objective in parts.objectives] == ["counted", "reported"]
    assert parts.costs.width_mult == 0.35
    with pytest.raises(UserError, match="predicts energy besides the accuracy"):
        parts_of("sweetness")


def test_the_command_reports_bad_input_in_a_line(run, tmp_path, fails_clearly):
    fails_clearly("-m", "acc_predictor", tmp_path, "--save", tmp_path / "p", match="iter_<i>.stats")
