import json
import os
import sys

import pytest

from evaluator.oracle import OracleEvaluator
from search import Progress, Record, Search, SpaceCosts, Stats, events, make_objectives
from search.run_folder import RunFolder
from search_space import OFASearchSpace
from tests.search.engines import direct
from tests.search.runs import command, contents
from utils.errors import UserError


def stats(n=1, hv=0.5, **scores):
    return Stats([Record({}, 30.0, 1.0)] * n, [], hv, scores)


def test_events_are_read_as_they_were_recorded(tmp_path, capsys):
    log = Progress(n_slots=2, folder=RunFolder(tmp_path))
    log.start(["python", "msunas.py"])
    log.evaluated(0, 3, seconds=1800.0, status="ok")
    log.evaluated(0, 4, seconds=1800.0, status="timeout")
    with log.phase("fit"):
        pass
    with log.phase("fit"):
        pass
    log.iteration(1, 2, stats())
    found = events.read(tmp_path)
    assert [record["event"] for record in found] == ["start", "evaluation", "evaluation",
                                                     "iteration"]
    assert "numpy" in found[0]["versions"]
    assert events.device_hours(found) == pytest.approx(1.0)
    assert list(events.phases(found)[1]) == ["fit"]
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("iteration 1/2: 1 evaluated")


@pytest.mark.parametrize(("changed", "warns"), [
    ({}, False), ({"interpreter": "Python 3.99 with pySOT"}, True),
    ({"interpreter": "another\nline"}, True), ({"interpreter": None}, False),
    ({"interpreter": None, "python": "3.99.1"}, True)])
def test_a_resume_on_another_python_is_one_warning(tmp_path, capsys, changed, warns):
    """The Python without pySOT, say: the predictor rbf is then equal to 1e-6 alone."""
    log = Progress(folder=RunFolder(tmp_path))
    log.start(["python", "msunas.py"])
    file = tmp_path / "events.jsonl"
    assert capsys.readouterr().err == ""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}) + "\n")
    log.start(["python", "msunas.py", "--resume"])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == warns
    if warns:
        here = "Python {}.{} with pySOT".format(*sys.version_info)
        assert lines[0].startswith("warning: the search has run on ") and here in lines[0]
    log.start(["python", "msunas.py", "--resume"])  # from then on it is the same
    assert capsys.readouterr().err == ""


def test_pysot_counts_as_a_part_of_the_interpreter(monkeypatch):
    monkeypatch.setattr(events, "find_spec", lambda name: None)
    assert events.interpreter().endswith(" without pySOT")


def test_an_iteration_that_was_run_again_counts_once(tmp_path):
    log = Progress(folder=RunFolder(tmp_path))
    for _ in range(2):
        with log.phase("fit"):
            pass
        log.iteration(1, 2, stats())
    assert list(events.phases(events.read(tmp_path))) == [1]


def test_a_line_that_was_cut_off_is_skipped(tmp_path):
    log = Progress(folder=RunFolder(tmp_path))
    log.event("a")
    log.event("b")
    path = tmp_path / "events.jsonl"
    path.write_bytes(path.read_bytes()[:-10] + b"\n[1]\n")
    assert [record["event"] for record in events.read(tmp_path)] == ["a"]
    assert events.read(tmp_path / "absent") == []


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Progress(tensorboard=True).iteration(0, 1, stats())
    assert not list(tmp_path.iterdir())


def test_scalars_are_those_of_the_iterations(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = Progress(folder=RunFolder(tmp_path), tensorboard=True)
    for i, tau in enumerate([None, 0.9]):
        with log.phase("fit"):
            pass
        log.iteration(i, 1, stats(10 + i, 0.5 + i / 10, tau=tau))
    found = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, round(e.value, 3)) for e in found.Scalars("search/hv")] == [
        (10, 0.5), (11, 0.6)]
    assert [e.step for e in found.Scalars("search/tau")] == [11]
    assert "seconds/fit" in found.Tags()["scalars"]


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/tensorboard").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="a link"):
        Progress(folder=RunFolder(tmp_path / "run"), tensorboard=True).iteration(0, 1, stats())
    assert not os.listdir(tmp_path / "elsewhere")


def test_a_lock_tells_whether_a_search_is_running(tmp_path):
    folder = RunFolder(tmp_path)
    assert not events.is_running(tmp_path)
    with folder.lock():
        assert events.is_running(tmp_path)
    assert not events.is_running(tmp_path)


def test_a_search_is_recorded_and_reported(finished):
    save, stdout = finished
    found = events.read(save)
    assert found[0]["command"][:2] == ["python", "msunas.py"]
    assert found[-1]["event"] == "end"
    assert set(events.phases(found)) == {0, 1, 2}
    assert set(events.phases(found)[2]) == {"fit", "propose", "evaluate"}
    assert sum(record["event"] == "evaluation" for record in found) == 60
    assert (save / "report.html").exists()
    assert f"report: {save / 'report.html'}" in stdout
    surrogate = json.loads((save / "iter_2.stats").read_text())["surrogate"]
    assert len(surrogate["predicted"]) == 4
    assert "predicted_std" not in surrogate  # the cubic rbf has none


def test_standard_deviations_are_written_where_the_predictor_has_them(shared_data, tmp_path):
    oracle = OracleEvaluator(oracle_path=str(shared_data / "ofa_mbv3_acc_predictor.pth"))
    space = OFASearchSpace()
    search = Search(space, make_objectives("flops", SpaceCosts(space)), "msunas", "gp",
                    direct(oracle.evaluate), tmp_path / "run", n_doe=60, iterations=1,
                    progress=Progress(0, quiet=True))
    search.run()
    surrogate = json.loads((tmp_path / "run/iter_1.stats").read_text())["surrogate"]
    assert len(surrogate["predicted_std"]) == len(surrogate["predicted"]) == 8
    assert all(std > 0 for std in surrogate["predicted_std"])


def test_machines_read_one_object_a_line(finished, tmp_path, run_command):
    save = tmp_path / "run"
    done = run_command(*command(save, "--log_format", "json", "--no_report", "--tensorboard"))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"start", "evaluation", "iteration", "end"} <= {line["event"] for line in lines}
    assert [line["n_evaluated"] for line in lines if line["event"] == "iteration"] == [52, 56, 60]
    assert not (save / "report.html").exists()
    assert list((save / "tensorboard").iterdir())
    assert {name: data for name, data in contents(save).items() if "tensorboard" not in name} == \
        contents(finished[0])


@pytest.mark.parametrize("line", [
    "[" * 100_000, '{"event": "start", "time": ' + "9" * 5000 + "}", '{"event": "iteration"}',
    '{"event": "iteration", "iteration": [1], "seconds": {}}', '{"event": "evaluation"}',
    '{"event": "iteration", "iteration": 1, "seconds": {"fit": NaN}}',
    '{"event": "evaluation", "seconds": 1e999}',
    '{"event": "evaluation", "seconds": 1' + "0" * 400 + "}",
    '{"event": "evaluation", "seconds": "x"}',
    '{"event": "start", "command": {}, "versions": [], "machine": 1}', "\0\0"])
def test_lines_that_no_search_writes_are_skipped(tmp_path, line):
    (tmp_path / "events.jsonl").write_text(line)
    Progress(folder=RunFolder(tmp_path)).evaluated(0, 0, 1.0, "ok")  # begins a line of its own
    found = events.read(tmp_path)
    assert [record["event"] for record in found] == ["evaluation"]
    assert events.device_hours(found) > 0 and events.phases(found) == {}


def test_pipes_and_links_are_not_read(tmp_path):
    """Neither waits for ever, nor shows a file from elsewhere."""
    os.mkfifo(tmp_path / "search.lock")
    assert not events.is_running(tmp_path)
    os.mkfifo(tmp_path / "events.jsonl")
    for act in (events.read, lambda folder: Progress(folder=RunFolder(folder)).event("a")):
        with pytest.raises(UserError, match="a device"):
            act(tmp_path)
    (tmp_path / "events.jsonl").unlink()
    (tmp_path / "events.jsonl").symlink_to("/etc/hostname")
    with pytest.raises(UserError, match="a link"):
        events.read(tmp_path)
