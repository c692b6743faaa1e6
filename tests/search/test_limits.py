"""What a search refuses before it pays for it, and what it does where nothing seems possible."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluator.jobs import InProcess
from evaluator.table import TableEvaluator
from search import Search, SpaceCosts, make_objectives, runner
from search.objectives import LARGEST
from search.progress import Progress
from search.run_folder import RunFolder
from search.settings import check_typed, contradictions, resolve
from search.strategies.base import Strategy
from search_space import get_search_space
from tests.search_space.tables import write_table
from utils.errors import UserError


def table_search(folder, **options) -> Search:
    """A search of 8 + 2 x 3 rows of a table, in this process."""
    settings = write_table(folder)
    space = get_search_space("table", **settings)
    objectives = make_objectives("latency_ms", SpaceCosts(space), reported=True)
    evaluator = TableEvaluator("table", settings)
    return Search(space, objectives, engine=InProcess(evaluator), n_doe=8, iterations=2, n_iter=3,
                  progress=Progress(0, quiet=True), **options)


@pytest.mark.parametrize("limit", ["top1>=100", "latency_ms<=0", "latency_ms<=1,latency_ms>=2"])
def test_where_nothing_is_predicted_within_limits_the_nearest_is_evaluated(tmp_path, limit):
    search = table_search(tmp_path, constraints=limit)
    search.run()
    assert len(search.archive) == len(np.unique(search.X, axis=0)) == 14
    if limit == "top1>=100":  # it has climbed
        assert search.F[8:, 0].mean() < search.F[:8, 0].mean()


@pytest.mark.parametrize("value", [1e301, -1e30, 1.7976931348623157e308, float("inf")])
def test_values_beyond_all_measure_are_a_failed_evaluation(tmp_path, value):
    (objective,) = table_search(tmp_path).objectives
    assert objective.read({"latency_ms": LARGEST / 2}) == LARGEST / 2
    with pytest.raises(UserError, match="the objective 'latency_ms'"):
        objective.read({"latency_ms": value})


class Proposes(Strategy):
    """Proposes what it was given."""

    name, default_predictor = "proposes", None

    def __init__(self, proposals) -> None:
        self.proposals = proposals

    def propose(self, task, k, rng):
        return self.proposals(task, k)


def test_proposals_that_are_known_or_too_many_are_dropped(tmp_path):
    search = table_search(tmp_path, strategy=Proposes(lambda task, k: np.vstack(
        [task.X, np.repeat(task.fresh(task.space.rows), 2, axis=0)])))
    search.run()
    assert len(search.archive) == len(np.unique(search.X, axis=0)) == 14


@pytest.mark.parametrize("proposals", [
    lambda task, k: task.X[:k], lambda task, k: None, lambda task, k: task.X[0],
    lambda task, k: task.X[:k] + 0.5])
def test_a_strategy_that_proposes_nothing_new_is_named(tmp_path, proposals):
    with pytest.raises(UserError, match="the strategy proposes proposed"):
        table_search(tmp_path, strategy=Proposes(proposals)).run()


def table_flags(folder) -> list[str]:
    return ["--search_space", "table", *(f"--{name}={value}"
                                         for name, value in write_table(folder).items()),
            "--n_doe", "8", "--iterations", "1", "--n_iter", "3", "--save", str(folder / "run")]


@pytest.mark.parametrize(("flags", "match"), [
    (("--sec_obj", "nope"), "--sec_obj nope: "), (("--sec_obj", "depth"), "latency_ms"),
    (("--sec_obj", "latency_ms", "--n_doe", 3), "at least 5 architectures"),
    (("--sec_obj", "latency_ms", "--predictor", "as"), "at least 20 architectures"),
    (("--sec_obj", "latency_ms", "--oracle_path", "x"), "without --evaluator oracle"),
    (("--sec_obj", "latency_ms", "--retry_failed"), "without --resume"),
    (("--sec_obj", "latency_ms", "--ray_address", "x"), "without --backend ray"),
    (("--sec_obj", "latency_ms", "--lut", "measure"), "--lut measure"),
    (("--sec_obj", "cpu", "--lut", "measure"), "--lut measure")])
def test_what_cannot_work_is_refused_before_anything_is_evaluated(
        fails_clearly, tmp_path, flags, match):
    fails_clearly("msunas.py", *table_flags(tmp_path), *flags, match=match)
    assert not (tmp_path / "run").exists()


def test_a_table_that_changed_before_a_worker_read_it_is_noticed(tmp_path, monkeypatch):
    options = {"search_space": "table", **write_table(tmp_path), "sec_obj": "latency_ms",
               "n_doe": 8, "iterations": 1, "n_iter": 3, "n_gpus": 0, "cpu_workers": 1,
               "save": str(tmp_path / "run")}
    table = Path(options["table"])
    content, get_engine = table.read_bytes(), runner.get_engine

    def get_engine_later(*args, **kwargs):
        table.write_bytes(content.replace(b"\r\n", b"1\n").replace(b"1\n", b"\n", 1))
        return get_engine(*args, **kwargs)

    monkeypatch.setattr(runner, "get_engine", get_engine_later)
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(UserError, match="what --table names has changed since the search"):
        runner.run_search(resolve(options), folder)
    assert not [*tmp_path.glob("run/iter_*.stats")]
    monkeypatch.undo()
    table.write_bytes(content)
    ended = runner.run_search(resolve(options), folder, resumed=True)
    assert ended.last.name == "iter_1.stats"


def typing(settings, *flags):
    return replace(settings, typed=frozenset(flags))


def test_flags_that_change_nothing_are_named(tmp_path):
    settings = resolve({"search_space": "table", **write_table(tmp_path), "sec_obj": "latency_ms"})
    (line,) = check_typed(typing(settings, "amp", "data", "save", "n_doe"), resumed=False)
    assert line.endswith("--amp, --data")
    oracle = resolve({"evaluator": "oracle", "oracle_path": "p"})
    assert check_typed(typing(oracle, "oracle_path", "dataset", "n_doe"), resumed=False) == []
    assert check_typed(typing(resolve({}), "amp", "data", "retry_failed"), resumed=True) == []


def test_more_validation_images_than_the_supernet_spared_are_said(tmp_path):
    import torch

    path = tmp_path / "own_w0.35"
    torch.save({"state_dict": {}, "meta": {"resolutions": [32], "dataset": "digits",
                                           "vld_size": 20}}, path)
    typed = {"supernet_path": str(path), "dataset": "digits"}
    (line,) = contradictions(resolve({**typed, "vld_size": 30}))
    assert "--vld_size 30" in line
    for other in ({"vld_size": 20}, {"vld_size": 10}, {"vld_size": 30, "test": True}):
        assert contradictions(resolve({**typed, **other})) == []


def test_a_mistyped_supernet_is_no_wrong_data_set(fails_clearly, tmp_path):
    (tmp_path / "data" / "train" / "a").mkdir(parents=True)
    fails_clearly("msunas.py", "--supernet_path", tmp_path / "no", "--data", tmp_path / "data",
                  "--save", tmp_path / "run", match="no such checkpoint of a supernet")


def test_an_accuracy_predictor_of_another_space_is_refused(fails_clearly, tmp_path, shared_data):
    fails_clearly("msunas.py", "--evaluator", "oracle", "--oracle_path",
                  shared_data / "ofa_resnet50_acc_predictor.pth", "--save", tmp_path / "run",
                  "--n_doe", 8, "--n_gpus", 0, match="--search_space resnet50")


def test_the_hint_for_a_folder_in_use_can_be_pasted(fails_clearly, tmp_path):
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps({}))
    (folder / "other").write_text("")
    line = fails_clearly("msunas.py", "--save", folder, "--dataset", "digits")
    assert f"--resume '{folder}'" in line
