"""Checkpoints of a run: which are kept, what a file may name, and what a kill leaves."""

import os
from pathlib import Path

import pytest
import torch

from networks import load_training_state
from training import checkpoints
from training.checkpoints import Checkpoints, copy_file, read_history
from utils.errors import UserError

METRICS = [10.0, 30.0, 20.0, 30.0, 5.0]


def state(epoch: int) -> dict:
    return {"state_dict": {"w": torch.full((2,), float(epoch))}, "optimizer": {}}


def filled(folder: Path, metrics=METRICS, keep: int = 2, decreasing: bool = False) -> Checkpoints:
    files = Checkpoints(folder, keep, decreasing)
    for epoch, metric in enumerate(metrics):
        files.save(state(epoch), epoch, metric)
    return files


def weights(path: Path) -> float:
    return load_training_state(path)["state_dict"]["w"][0].item()


@pytest.mark.parametrize(("decreasing", "kept", "best"), [(False, {1, 3}, 1), (True, {0, 4}, 4)])
def test_the_best_are_kept(tmp_path, decreasing, kept, best):
    files = filled(tmp_path, decreasing=decreasing)
    assert {path.name for path in tmp_path.iterdir()} == {
        "last.pth.tar", "model_best.pth.tar", *(f"checkpoint-{i}.pth.tar" for i in kept)}
    assert weights(tmp_path / "model_best.pth.tar") == best == files.best.epoch
    assert weights(tmp_path / "last.pth.tar") == 4
    for epoch in kept:
        assert weights(tmp_path / f"checkpoint-{epoch}.pth.tar") == epoch


def test_an_epoch_without_evaluation_only_becomes_the_last(tmp_path):
    files = filled(tmp_path, METRICS[:2])
    assert not files.save(state(2), 2)
    assert weights(tmp_path / "last.pth.tar") == 2
    assert files.best.epoch == 1
    history = read_history(load_training_state(tmp_path / "last.pth.tar")["saver"], "last")
    assert history.own is None
    assert not Checkpoints(tmp_path, 2, False).restore(history, tmp_path / "last.pth.tar")


def test_two_recoveries_stay(tmp_path):
    files = Checkpoints(tmp_path, 2, False)
    for step in (1, 2, 3):
        files.save_recovery(state(0), 4, step)
    assert {path.name for path in tmp_path.iterdir()} == {
        "recovery-4-2.pth.tar", "recovery-4-3.pth.tar"}
    assert load_training_state(tmp_path / "recovery-4-3.pth.tar")["epoch"] == 3


@pytest.mark.parametrize("without_links", [False, True])
def test_a_resumed_run_ranks_on(tmp_path, monkeypatch, without_links):
    if without_links:
        monkeypatch.setattr(os, "link", no_links)
    filled(tmp_path, METRICS[:3])
    history = read_history(load_training_state(tmp_path / "last.pth.tar")["saver"], "last")
    files = Checkpoints(tmp_path, 2, False)
    assert not files.restore(history, tmp_path / "last.pth.tar")
    for epoch in (3, 4):
        files.save(state(epoch), epoch, METRICS[epoch])
    assert [row.epoch for row in files.ranked] == [1, 3]
    assert weights(tmp_path / "model_best.pth.tar") == 1


def no_links(*_args, **_options):
    raise PermissionError("the file system has no hard links")


def test_file_systems_without_hard_links_get_copies(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", no_links)
    filled(tmp_path)
    assert weights(tmp_path / "model_best.pth.tar") == 1
    assert not (tmp_path / "model_best.pth.tar").samefile(tmp_path / "checkpoint-1.pth.tar")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("stop", ["checkpoint-1.pth.tar", "model_best.pth.tar"])
def test_what_a_kill_left_undone_is_completed(tmp_path, monkeypatch, stop):
    class Kill(BaseException):
        pass

    def copy_until(source, target):
        if target.name == stop:
            raise Kill
        copy_file(source, target)

    filled(tmp_path, METRICS[:1])
    first = read_history(load_training_state(tmp_path / "last.pth.tar")["saver"], "last")
    files = Checkpoints(tmp_path, 2, False)
    files.restore(first, tmp_path / "last.pth.tar")
    with monkeypatch.context() as patch, pytest.raises(Kill):
        patch.setattr(checkpoints, "copy_file", copy_until)
        files.save(state(1), 1, METRICS[1])
    assert weights(tmp_path / "model_best.pth.tar") == 0, "stale"

    history = read_history(load_training_state(tmp_path / "last.pth.tar")["saver"], "last")
    files = Checkpoints(tmp_path, 2, False)
    assert files.restore(history, tmp_path / "last.pth.tar"), "the best: its pair is written again"
    assert weights(tmp_path / "model_best.pth.tar") == 1
    assert weights(tmp_path / "checkpoint-1.pth.tar") == 1
    assert files.best.epoch == 1


def test_links_of_strangers_are_replaced_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("last.pth.tar", "model_best.pth.tar", "checkpoint-0.pth.tar"):
        (folder / name).symlink_to(victim)
    filled(folder, METRICS[:1])
    assert victim.read_text() == "precious"


def test_a_checkpoint_that_is_a_link_is_copied_not_linked(tmp_path):
    """Else the best would change with what the link leads to."""
    filled(tmp_path / "old", METRICS[:1])
    (tmp_path / "run").mkdir()
    last = tmp_path / "run" / "last.pth.tar"
    last.symlink_to("../old/last.pth.tar")
    history = read_history(load_training_state(last)["saver"], "last")
    assert Checkpoints(tmp_path / "run", 2, False).restore(history, last)
    filled(tmp_path / "old", [*METRICS[:1], 99.0])
    best = tmp_path / "run" / "model_best.pth.tar"
    assert not best.is_symlink() and weights(best) == 0


VALID = {"checkpoint_files": [("checkpoint-0.pth.tar", 10.0)], "best_epoch": 0,
         "best_metric": 10.0, "pending": (1, 5.0)}


@pytest.mark.parametrize("damage", [
    {"checkpoint_files": [("../precious", 1.0)]}, {"checkpoint_files": [("/etc/passwd", 1.0)]},
    {"checkpoint_files": [("checkpoint-0.pth.tar/../../x", 1.0)]},
    {"checkpoint_files": [("summary.csv", 1.0)]}, {"checkpoint_files": ["checkpoint-0.pth.tar"]},
    {"checkpoint_files": 5}, {"checkpoint_files": [("checkpoint-0.pth.tar", "high")]},
    {"checkpoint_files": [("checkpoint-0.pth.tar", float("nan"))]},
    {"checkpoint_files": [(b"checkpoint-0.pth.tar", 1.0)]},
    {"best_epoch": "x"}, {"best_metric": [1]}, {"best_epoch": -1}, {"pending": 5},
    {"pending": (1,)}, {"pending": ("1", 5.0)}, {"pending": (True, 5.0)}])
def test_a_record_that_no_training_writes_is_refused(tmp_path, damage):
    read_history(VALID, "last.pth.tar")
    with pytest.raises(UserError, match=r"last.pth.tar: its record of the best checkpoints"):
        read_history(VALID | damage, "last.pth.tar")


@pytest.mark.parametrize("record", [5, "x", [1], ()])
def test_records_of_another_type_are_refused(record):
    with pytest.raises(UserError, match="its record of the best"):
        read_history(record, "last.pth.tar")


def test_no_record_is_an_empty_one():
    assert read_history(None, "last.pth.tar").ranked == ()
