"""A search in folders that are not its own, that come from elsewhere, move, or have changed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from search.archive import read_stats
from search.fingerprints import check_inputs, fingerprints
from search.run_folder import RunFolder
from search.runner import run_search
from search.settings import Settings
from tests.conftest import ROOT
from tests.search.runs import EVALUATOR, TRUSTED, command, contents
from utils.errors import UserError

MODULE = EVALUATOR.split(":")[0]


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """Every file and link below a folder."""
    return {str(path.relative_to(folder)): os.readlink(path) if path.is_symlink()
            else path.read_bytes() for path in folder.rglob("*")
            if path.is_symlink() or path.is_file()}


def start(*flags: object, **environment: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, *map(str, flags)], cwd=ROOT, text=True,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                            env={**os.environ, **environment})


def wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, path
        time.sleep(0.005)


# --------------------------------------------------------------------------- 1: foreign folders


@pytest.mark.parametrize("foreign", [
    {".chapter.tmp": "one", "notes.txt": "two"}, {"settings.json": '{"editor.tabSize": 4}'},
    {"iter_0/.net_0.stats.ab12cd34.tmp": "half"}, {}])
def test_a_folder_that_is_no_search_is_left_alone(tmp_path, fails_clearly, foreign):
    for name, text in foreign.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    before = snapshot(tmp_path)
    fails_clearly("msunas.py", *TRUSTED, "--resume", tmp_path, match="search")
    assert snapshot(tmp_path) == before


def test_resume_without_a_name_is_refused(tmp_path, fails_clearly):
    fails_clearly("msunas.py", *TRUSTED, "--resume", "", match="names no folder")


def test_only_leftovers_of_the_search_itself_are_removed(finished, tmp_path, run_command):
    save = tmp_path / "run"
    shutil.copytree(finished[0], save)
    foreign = [".chapter.tmp", "train/.last.pth.tar.ab12cd34.tmp", "iter_0/.mine.tmp"]
    own = [".iter_1.stats.ab12cd34.tmp", "iter_0/.net_3.stats.ab12cd34.tmp"]
    for name in foreign + own:
        (save / name).parent.mkdir(exist_ok=True)
        (save / name).write_text("half")
    assert run_command("msunas.py", *TRUSTED, "--resume", save).returncode == 0
    assert all((save / name).exists() for name in foreign)
    assert not any((save / name).exists() for name in own)


def test_proposals_that_no_search_made_are_kept(tmp_path, fails_clearly):
    (tmp_path / "iter_0").mkdir()
    (tmp_path / "iter_0" / "net_best.subnet").write_text("mine")
    fails_clearly(*command(tmp_path), match="not empty")
    assert (tmp_path / "iter_0" / "net_best.subnet").read_text() == "mine"


def test_what_a_kill_before_the_first_result_leaves_is_no_dead_end(tmp_path):
    for name in ("settings.json", "iter_0/net_3.subnet"):
        half = tmp_path / name
        half.parent.mkdir(exist_ok=True)
        half.with_name(f".{half.name}.ab12cd34.tmp").write_text("half")
        RunFolder(tmp_path).check_unused()
    (tmp_path / ".chapter.tmp").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        RunFolder(tmp_path).check_unused()


def test_a_search_that_began_and_ended_meanwhile_is_not_written_over(finished, tmp_path):
    """Between the look at an empty folder and its lock lie imports and fingerprints: seconds."""
    settings = RunFolder(finished[0]).read_settings()
    shutil.copytree(finished[0], tmp_path / "run")
    before = snapshot(tmp_path)
    known = {name: value for name, value in settings.items() if name in Settings.names()}
    with pytest.raises(UserError, match="not empty"):
        run_search(Settings(**known | {"seed": 7}), RunFolder(tmp_path / "run"))
    assert snapshot(tmp_path) == before


def test_settings_of_something_else_are_not_overwritten(tmp_path, fails_clearly):
    (tmp_path / "settings.json").write_text('{"editor.tabSize": 4}')
    fails_clearly(*command(tmp_path), match="not empty")
    assert (tmp_path / "settings.json").read_text() == '{"editor.tabSize": 4}'


# ------------------------------------------------------------------------------------- 4: links


@pytest.mark.parametrize("name", ["search.lock", "settings.json", "iter_0", "failed", "retries.log",
                                  "iter_2.stats"])
def test_a_link_in_a_received_folder_leads_nowhere(finished, tmp_path, fails_clearly, name):
    save, target = tmp_path / "run", tmp_path / "precious"
    shutil.copytree(finished[0], save)
    if (save / name).exists():
        (save / name).rename(target)
    else:
        target.write_text("kept")
    before = snapshot(tmp_path)
    (save / name).symlink_to(target)
    fails_clearly("msunas.py", *TRUSTED, "--resume", save, match="a link")
    assert {key: value for key, value in snapshot(tmp_path).items() if key != f"run/{name}"} == \
        before


# ------------------------------------------------------------------------- 6, 20, 38: the copy


def test_a_killed_copy_leaves_no_half_of_a_search(finished, tmp_path, run_command):
    """Killed at many moments; afterwards it can be made, and the search goes on in it."""
    for delay in (0.0, 0.002, 0.01, 0.03):
        save = tmp_path / f"copy {delay}"
        code = ("import sys, time; from pathlib import Path; from search.run_folder import "
                "RunFolder; print(flush=True); "
                "RunFolder(sys.argv[1]).import_from(RunFolder(sys.argv[2]))")
        process = subprocess.Popen([sys.executable, "-c", code, save, finished[0]], cwd=ROOT,
                                   stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(delay)
        process.kill()
        process.wait()
        if not (save.exists() and any(save.iterdir())):
            RunFolder(save).import_from(RunFolder(finished[0]))
        assert contents(save) == contents(finished[0])
        assert not (tmp_path / f".copy {delay}.copy").exists()
    done = run_command("msunas.py", *TRUSTED, "--resume", save, "--no_report")
    assert done.returncode == 0, done.stderr
    assert contents(save) == contents(finished[0])


def test_a_copy_takes_the_files_of_the_search_alone(finished, tmp_path, run_command):
    source, save = tmp_path / "a", tmp_path / "b"
    shutil.copytree(finished[0], source)
    (source / "dangling").symlink_to("nowhere")
    os.mkfifo(source / "pipe")
    os.mkfifo(source / "iter_0" / "net_99.stats")
    (source / "selected").mkdir()
    done = run_command("msunas.py", *TRUSTED, "--resume", source, "--save", save, timeout=60)
    assert done.returncode == 0, done.stderr
    assert contents(save) == contents(finished[0])


def test_a_full_disk_during_the_copy_is_one_line_and_leaves_nothing(finished, small_disk,
                                                                    fails_clearly):
    fails_clearly("msunas.py", *TRUSTED, "--resume", finished[0], "--save", small_disk / "b",
                  match="disk is full")
    assert [path for path in small_disk.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("place", ["run/sub", "run/iter_0/sub"])
def test_a_copy_into_itself_is_refused(finished, tmp_path, fails_clearly, place):
    shutil.copytree(finished[0], tmp_path / "run")
    before = snapshot(tmp_path)
    fails_clearly("msunas.py", *TRUSTED, "--resume", tmp_path / "run", "--save", tmp_path / place,
                  match="lies in")
    assert snapshot(tmp_path) == before


def test_a_copy_to_a_folder_in_use_is_refused(finished, tmp_path):
    target = RunFolder(tmp_path / "b")
    with target.lock(), pytest.raises(UserError, match="in use"):
        RunFolder(tmp_path / "b").import_from(RunFolder(finished[0]))
    target.path.mkdir(exist_ok=True)
    (target.path / "mine").write_text("kept")
    with pytest.raises(UserError, match="not empty"):
        target.import_from(RunFolder(finished[0]))
    assert snapshot(tmp_path) == {"b/mine": b"kept"}


# ----------------------------------------------------------------------- 7, 8: what has changed


def test_an_archive_of_another_objective_is_refused(finished, tmp_path, fails_clearly):
    save = tmp_path / "run"
    shutil.copytree(finished[0], save)
    (save / "settings.json").unlink()
    flags = ["--n_doe", 52, "--iterations", 3, "--n_iter", 4]
    before = contents(save)
    fails_clearly("msunas.py", *TRUSTED, "--resume", save, *flags, "--sec_obj", "params",
                  match="second objective is flops, not params")
    assert contents(save) == before


CODE = """from evaluator import Evaluator
class Mine(Evaluator):
    def __init__(self, **options): pass
    def evaluate(self, arch, **options): return {"top1": 50.0 + arch["d"][0]}
"""


def inputs(folder: Path) -> dict[str, Any]:
    """The settings of a search with an input of each kind, in a folder."""
    (folder / "data").mkdir()
    for name, text in {"data/old.jpg": "old", "net_w1.0": "these", "lut.yaml": "a: 1",
                       "table.csv": "a,b", "mine.py": CODE}.items():
        (folder / name).write_text(text)
    return {**Settings().to_json(), "evaluator": "mine:Mine", "data": str(folder / "data"),
            "supernet_path": str(folder / "net_w1.0"), "table": str(folder / "table.csv"),
            "lut": [str(folder / "lut.yaml")]}


@pytest.mark.parametrize(("flag", "name", "content"), [
    ("data", "data/new.jpg", "x"), ("data", "data/old.jpg", "longer"), ("lut", "lut.yaml", "a: 2"),
    ("supernet_path", "net_w1.0", "other"), ("table", "table.csv", "a,c"),
    ("evaluator", "mine.py", f"{CODE} # other")])
def test_a_change_of_each_kind_of_input_is_seen(tmp_path, monkeypatch, flag, name, content):
    monkeypatch.syspath_prepend(tmp_path)
    settings = inputs(tmp_path)
    luts = {"": settings["lut"][0]}
    before = fingerprints(settings, luts)
    check_inputs("here", before, fingerprints(settings, luts))
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=f"here: what --{flag} names has changed"):
        check_inputs("here", before, fingerprints(settings, luts))


def test_what_a_download_leaves_is_no_change(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    settings = inputs(tmp_path)
    before, fetching = (fingerprints(each, {})
                        for each in (settings, {**settings, "download": True}))
    (tmp_path / "data" / ".download.lock").touch()
    check_inputs("here", before, fingerprints(settings, {}))
    (tmp_path / "data" / "fetched.jpg").touch()
    check_inputs("here", fetching, fingerprints(settings, {}))


def test_inputs_that_changed_are_noticed(finished, tmp_path, run_command, fails_clearly):
    save = tmp_path / "run"
    shutil.copytree(finished[0], save)
    stored = json.loads((save / "settings.json").read_text())
    (save / "settings.json").write_text(json.dumps(
        {**stored, "inputs": {**stored["inputs"], "evaluator": "0" * 32}}))
    before = snapshot(save)
    fails_clearly("msunas.py", *TRUSTED, "--resume", save, match="what --evaluator names has")
    assert snapshot(save) == before
    done = run_command("msunas.py", *TRUSTED, "--resume", save, "--accept_changed_inputs",
                       "--no_report")
    assert done.returncode == 0, done.stderr
    assert json.loads((save / "settings.json").read_text())["inputs"] == stored["inputs"]


# ------------------------------------------------------------------------------ 12: a renamed run


def test_a_search_whose_folder_is_renamed_stops_and_says_where_it_is(finished, tmp_path,
                                                                     run_command):
    save, moved = tmp_path / "run", tmp_path / "moved"
    process = start(*command(save), MSUNAS_TEST_SLEEP="0.1")
    wait_for(save / "iter_0/net_3.stats", process)
    save.rename(moved)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2 and "Traceback" not in error
    assert f"--resume {moved}" in error.splitlines()[-1]
    assert not save.exists()
    done = run_command("msunas.py", *TRUSTED, "--resume", moved)
    assert done.returncode == 0, done.stderr
    assert contents(moved) == contents(finished[0])


# ------------------------------------------------------------------------------ 16: code by name


def test_code_that_a_received_folder_names_is_not_run(finished, tmp_path, run_command):
    save = tmp_path / "run"
    shutil.copytree(finished[0], save)
    stored = json.loads((save / "settings.json").read_text())
    (tmp_path / "stranger.py").write_text("from pathlib import Path\n"
                                          f"Path({str(tmp_path / 'ran')!r}).touch()\n"
                                          "class Evil: pass\n")
    for flag in ("evaluator", "search_space"):
        (save / "settings.json").write_text(json.dumps(
            {**stored, "evaluator": "ofa", flag: "stranger:Evil", "iterations": 3}))
        done = run_command("msunas.py", "--resume", save, env={
            **os.environ, "PYTHONPATH": str(tmp_path)})
        assert done.returncode == 2 and "stranger:Evil" in done.stderr, done.stderr
        assert not (tmp_path / "ran").exists()


def test_the_hint_of_how_to_go_on_has_the_flags_that_must_be_typed(tmp_path):
    process = start(*command(tmp_path / "run"), MSUNAS_TEST_SLEEP="0.2")
    wait_for(tmp_path / "run/iter_0/net_0.stats", process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=20)
    assert f"--resume {tmp_path / 'run'} --evaluator {EVALUATOR}" in error


# ------------------------------------------------------------------------------- 34: --retry_failed


def test_retry_failed_is_meant_for_one_call(finished, tmp_path, run_command):
    save = tmp_path / "run"
    arch = json.loads((finished[0] / "iter_0/net_3.subnet").read_text())
    faults = json.dumps({json.dumps(arch, sort_keys=True): "raise"})
    environment = {**os.environ, "MSUNAS_TEST_FAULTS": faults}
    assert run_command(*command(save), "--iterations", 0, env=environment).returncode == 0
    go_on = ("msunas.py", *TRUSTED, "--resume", save)
    assert run_command(*go_on, "--retry_failed", "--iterations", 0,
                       env=environment).returncode == 0
    assert not json.loads((save / "settings.json").read_text()).get("retry_failed")
    stored = json.loads((save / "settings.json").read_text())
    (save / "settings.json").write_text(json.dumps({**stored, "retry_failed": True}))  # as before
    assert run_command(*go_on, "--iterations", 2, env=environment).returncode == 0
    assert arch not in [record.arch for record in read_stats(save / "iter_2.stats").archive]


# ------------------------------------------------------------- a cache that cannot hold it all


def test_a_plan_says_when_the_cache_cannot_hold_its_images(tmp_path, run_command):
    """50,000 test images in 17 resolutions are 134 GB; 10,000 of the training set fit."""
    flags = ["msunas.py", "--dry_run", "--data", tmp_path / "elsewhere", "--supernet_path",
             ROOT / "data/ofa_digits_d234_e346_k357_w0.35", "--n_epochs", 1]
    whole = run_command(*flags, "--test").stdout
    assert "the images in 17 resolutions need 134 GB, but --cache_gb is 32" in whole
    assert "--cache_gb is" not in run_command(*flags, "--vld_size", 10_000).stdout
    (tmp_path / "elsewhere").mkdir()  # a folder that is here is counted
    done = run_command(*flags, "--test")
    assert done.returncode == 2 and not done.stdout and "--dataset folder" in done.stderr


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A module that leaves a trace when it is imported."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "stranger.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\nclass Evil: pass\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    yield tmp_path
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("script", [("validation.py", "--dataset", "digits"),
                                    ("-m", "evaluator", "--dataset", "digits")])
def test_code_that_an_architecture_names_is_not_run(stranger, fails_clearly, script):
    (stranger / "net.subnet").write_text(json.dumps({"search_space": "stranger:Evil", "r": 32}))
    fails_clearly(*script, "--subnet", stranger / "net.subnet", "--supernet_path",
                  ROOT / "data/ofa_digits_d234_e346_k357_w0.35", match="stranger:Evil")


def test_code_that_a_supernet_names_is_not_run(stranger, fails_clearly):
    import torch

    content = torch.load(ROOT / "data/ofa_digits_d234_e346_k357_w0.35", weights_only=True)
    content["meta"] = {"search_space": "stranger:Evil", "resolutions": [32, 36],
                       "dataset": "digits", "n_classes": 10}
    torch.save(content, stranger / "net_w0.35")
    fails_clearly("msunas.py", "--dataset", "digits", "--supernet_path", stranger / "net_w0.35",
                  "--save", stranger / "run", match="stranger:Evil")


def test_a_ray_cluster_that_a_received_folder_names_is_not_joined(finished, tmp_path,
                                                                  fails_clearly):
    """What a cluster answers can run code."""
    save = tmp_path / "run"
    shutil.copytree(finished[0], save)
    stored = json.loads((save / "settings.json").read_text())
    (save / "settings.json").write_text(json.dumps(
        {**stored, "backend": "ray", "ray_address": "192.0.2.1:6379", "iterations": 3}))
    before = snapshot(save)
    fails_clearly("msunas.py", *TRUSTED, "--resume", save, match="--ray_address 192.0.2.1:6379")
    assert snapshot(save) == before


@pytest.mark.parametrize("save", ["fresh", "run"])
def test_events_are_not_written_through_a_link(finished, tmp_path, fails_clearly, save):
    """A new search accepts a folder with nothing but events, and those may be a link."""
    if save == "run":
        shutil.copytree(finished[0], tmp_path / save)
        (tmp_path / save / "events.jsonl").unlink()
    (tmp_path / save).mkdir(exist_ok=True)
    (tmp_path / "precious").write_text("kept")
    (tmp_path / save / "events.jsonl").symlink_to(tmp_path / "precious")
    flags = command(tmp_path / save) if save == "fresh" else [
        "msunas.py", *TRUSTED, "--resume", tmp_path / save]
    fails_clearly(*flags, match="a link")
    assert (tmp_path / "precious").read_text() == "kept"


@pytest.mark.parametrize("kind", ["link", "files", "files in a folder"])
def test_what_lies_where_a_copy_is_made_is_kept(finished, tmp_path, kind):
    """The folder `.b.copy` may be anybody's, or lead to anybody's."""
    precious, beside = tmp_path / "precious", tmp_path / ".b.copy"
    shutil.copytree(finished[0], precious)
    (precious / ("iter_0" if kind == "files in a folder" else ".") / "thesis.txt").write_text("x")
    before = snapshot(precious)
    if kind == "link":
        beside.symlink_to(precious)
    else:
        precious.rename(beside)
    with pytest.raises(UserError, match="a link" if kind == "link" else "move it away"):
        RunFolder(tmp_path / "b").import_from(RunFolder(finished[0]))
    assert snapshot(precious if kind == "link" else beside) == before
    assert not (tmp_path / "b").exists()
