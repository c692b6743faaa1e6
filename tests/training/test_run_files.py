"""The files of a run: what a full disk, a crash, a neighbour and odd names do to them."""

import csv
import logging
import os
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from networks import load_checkpoint, save_weights
from tests.training.test_run import small_run
from training import flags, resume, run_files
from training.flags import launcher
from training.resume import resume_flags, resume_hint, resume_run, resuming
from training.run_files import Output, Summary, output_folder
from training.world import World
from utils.errors import UserError

TRAIN = {"loss": 1.0, "images_per_s": 10.0}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def keep(net: nn.Module, folder: Path) -> None:
    save_weights(net, folder / "net.init")


def epochs(folder: Path, tops: list[float]) -> Output:
    """Writes epochs of these accuracies."""
    with Output(small_run(), folder, keep) as out:
        for epoch, top1 in enumerate(tops):
            out.on_epoch(epoch, TRAIN, {"top1": top1, "loss": 1.0}, 0.1)
    return out


def rows(folder: Path) -> list[dict]:
    return list(csv.DictReader((folder / "summary.csv").open()))


def test_epochs_without_evaluation_have_empty_columns(tmp_path):
    with Output(small_run(), tmp_path / "run", keep) as out:
        out.on_epoch(0, TRAIN, {}, 0.1)
        out.on_epoch(1, TRAIN, {"top1": 50.0}, 0.1)
    assert [row["eval_top1"] for row in rows(tmp_path / "run")] == ["", "50.0"]
    assert [row["epoch"] for row in rows(tmp_path / "run")] == ["0", "1"]


def test_scalars_can_be_read_by_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    epochs(tmp_path / "run", [10.0, 20.0])
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    assert [event.value for event in board.Scalars("eval/top1")] == [10.0, 20.0]
    assert [event.step for event in board.Scalars("train/loss")] == [0, 1]
    assert board.Scalars("lr")[0].value == pytest.approx(0.1)


def test_a_summary_with_nuls_or_half_a_row_goes_on(tmp_path):
    path = tmp_path / "summary.csv"
    path.write_bytes(b"epoch,train_loss,lr\n0,1.0,0.1\n1,1.0,0.1\n2,1." + b"\0" * 300)
    Summary(path, 2).add({"epoch": 2, "train_loss": 3.0, "lr": 0.1})
    assert [row["epoch"] for row in rows(tmp_path)] == ["0", "1", "2"]
    assert b"\0" not in path.read_bytes()


@pytest.mark.parametrize("row", [f"{'9' * 5000},1.0", f"1,{'9' * 200_000}", "2\r1,1.0"])
def test_a_summary_that_no_run_writes_goes_on(tmp_path, row):
    (tmp_path / "summary.csv").write_text(f"epoch,lr\n0,0.5\n{row}\n")
    Summary(tmp_path / "summary.csv", 7).add({"epoch": 7, "lr": 0.1})
    assert rows(tmp_path)[-1]["epoch"] == "7"


@pytest.mark.parametrize("content", [b"\0" * 50, b"\xff\xfe", b"", b"no,columns\n1,2,3,4\n"])
def test_no_summary_at_all_is_a_new_one(tmp_path, content):
    (tmp_path / "summary.csv").write_bytes(content)
    Summary(tmp_path / "summary.csv", 5).add({"epoch": 5, "lr": 0.1})
    assert [row["epoch"] for row in rows(tmp_path)] == ["5"]


def test_two_runs_in_one_folder_are_refused(tmp_path):
    with Output(small_run(), tmp_path, keep):
        with pytest.raises(UserError, match="the folder of a training is in use by another"):
            Output(small_run(), tmp_path, keep)
    with Output(small_run(), tmp_path, keep):
        pass
    assert not (tmp_path / "train.lock").exists()


class Closed:
    def write(self, text):
        raise BrokenPipeError

    def flush(self):
        raise ValueError("I/O operation on closed file")


@pytest.mark.parametrize("stream", [None, Closed()])
def test_a_closed_terminal_ends_no_training(tmp_path, monkeypatch, stream):
    monkeypatch.setattr("sys.stderr", stream)
    record = logging.LogRecord("train", logging.INFO, "x", 1, "a line", (), None)
    run_files.BesideBar().emit(record)
    assert list(World(torch.device("cpu")).progress([1, 2])) == [1, 2]


def test_only_own_leftovers_are_removed(tmp_path):
    own = [".last.pth.tar.x1.tmp", ".checkpoint-3.pth.tar.x.tmp", ".net.init.x.tmp",
           ".summary.csv.x.tmp"]
    strange = [".chapter.tmp", ".thesis.x.tmp", "last.pth.tar.tmp"]
    for name in own + strange:
        (tmp_path / name).touch()
    with Output(small_run(), tmp_path, keep):
        pass
    left = {path.name for path in tmp_path.iterdir()}
    assert not left & set(own)
    assert left >= set(strange)


def test_runs_of_one_second_have_folders_of_their_own(tmp_path, monkeypatch):
    class Now(run_files.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(run_files, "datetime", Now)
    args = small_run().args
    names = []
    for _ in range(3):
        folder = output_folder(args, str(tmp_path), "x")
        folder.mkdir()
        names.append(folder.name)
    assert names == ["20260102-030405-x", "20260102-030405-x-2", "20260102-030405-x-3"]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own, of the given size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a file system")

    def mount(size: str) -> Path:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder],
                          capture_output=True).returncode:
            pytest.skip("this machine does not let the test mount a file system")
        return folder

    yield mount
    subprocess.run(["umount", folder], check=False)


@pytest.mark.parametrize("size", ["4k", "8k", "12k", "16k", "24k", "32k", "40k"])
def test_a_full_disk_is_an_error_of_the_system_and_leaves_whole_files(small_disk, size, capfd):
    folder = small_disk(size) / "run"
    with pytest.raises(OSError, match="No space left"):
        epochs(folder, [10.0 * epoch for epoch in range(40)])
    assert "Traceback" not in capfd.readouterr().err
    for path in folder.glob("*.tar"):
        assert load_checkpoint(path)
    assert not list(folder.glob(".*.tmp"))


def test_a_pair_that_a_kill_left_stale_is_written_again(tmp_path):
    class Kill(BaseException):
        pass

    def killed(net, folder):
        raise Kill

    def pair(folder: Path) -> float:
        return load_checkpoint(folder / "net.init")["weight"][0, 0].item()

    run, folder = small_run(), tmp_path / "run"
    with pytest.raises(Kill), Output(run, folder, keep) as out:
        out.on_epoch(0, TRAIN, {"top1": 10.0}, 0.1)
        nn.init.constant_(run.net.weight, 7.0)
        out.on_best = killed
        out.on_epoch(1, TRAIN, {"top1": 20.0}, 0.1)
    assert pair(folder) != 7
    last, again = folder / "last.pth.tar", small_run()
    history = resume_run(again, str(last))
    with Output(again, folder, keep) as out:
        out.resume(history, str(last))
    assert pair(folder) == 7


@pytest.mark.parametrize("write", [
    lambda out: out.on_epoch(1, TRAIN, {"top1": 2.0}, 0.1),
    lambda out: out.on_recovery(1, 5)])
def test_a_run_whose_folder_is_renamed_stops(tmp_path, write):
    with pytest.raises(UserError, match="it is now in"), \
            Output(small_run(), tmp_path / "run", keep) as out:
        out.on_epoch(0, TRAIN, {"top1": 1.0}, 0.1)
        (tmp_path / "run").rename(tmp_path / "moved")
        write(out)
    assert not (tmp_path / "run").exists() and len(rows(tmp_path / "moved")) == 1


def test_odd_names_are_only_names(tmp_path, caplog):
    caplog.set_level("INFO", "train")
    folder = tmp_path / os.fsdecode(b"od\xff\n\"d")
    run = small_run()
    run.args.model_config = str(folder / "net.config")
    with Output(run, folder, keep) as out:
        out.on_epoch(0, TRAIN, {"top1": 1.0}, 0.1)
    assert load_checkpoint(folder / "last.pth.tar")
    assert "od" in (folder / "train.log").read_text()
    assert (folder / "args.yaml").read_text()


@pytest.mark.parametrize("name", ["train.log", "tensorboard"])
def test_nothing_is_written_through_a_link_in_a_received_folder(tmp_path, name):
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir() if name == "tensorboard" else elsewhere.write_text("kept")
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(UserError, match="a link"), Output(small_run(), folder, keep):
        pass
    assert not list(elsewhere.iterdir()) if elsewhere.is_dir() else elsewhere.read_text() == "kept"
    assert not (folder / "train.lock").exists()


def interrupted(folder: Path, n_epochs: int, rank: int = 0, data: str | None = None) -> str:
    """Returns what Ctrl-C says after some epochs of one of rank + 1 processes."""
    run = small_run("--start-epoch", 1, "--no-resume-opt", size=rank + 1)
    run.world = World(torch.device("cpu"), rank, rank + 1)
    with pytest.raises(KeyboardInterrupt) as stop, Output(run, folder, keep) as out, \
            resuming(out, "train_imagenet.py", data):
        for epoch in range(n_epochs):
            out.on_epoch(epoch, TRAIN, {"top1": 1.0, "loss": 1.0}, 0.1)
        raise KeyboardInterrupt
    return str(stop.value)


def test_ctrl_c_tells_how_a_run_goes_on(tmp_path):
    folder = tmp_path / "a run"
    assert interrupted(folder, 0) == "", "nothing is there to go on from"
    args = yaml.safe_load((folder / "args.yaml").read_text())
    assert not {"start_epoch", "no_resume_opt"} & args.keys(), "of that call alone"
    text = interrupted(folder, 1, data="the data")
    assert shlex.split(text.removeprefix("resume with: ")) == [
        "python", "train_imagenet.py", "the data", "-c", f"{folder}/args.yaml", "--resume",
        f"{folder}/last.pth.tar"]
    assert interrupted(folder, 1, rank=1) == "", "the first process tells it"


def test_what_a_resumed_call_has_not_begun_is_repeated(tmp_path):
    source = tmp_path / "checkpoint-3.pth.tar"
    for path in (source, tmp_path / "last.pth.tar"):
        path.touch()
    args = small_run("--resume", source, "--start-epoch", 2, "--no-resume-opt").args
    config = ["-c", f"{tmp_path}/args.yaml"]
    assert resume_flags(args, tmp_path, saved=False) == [
        *config, "--resume", f"{source}", "--start-epoch", "2", "--no-resume-opt"]
    assert resume_flags(args, tmp_path, saved=True) == [
        *config, "--resume", f"{tmp_path}/last.pth.tar"]


def test_several_processes_go_on_as_they_were_started(monkeypatch):
    world, words = World(torch.device("cpu"), 0, 2), ["--resume", "a b"]
    for name, value in {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    assert resume_hint("train_cifar.py", words, world) == (
        "resume with: SCRIPT=train_cifar.py sh scripts/distributed_train.sh 2 --resume 'a b'")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert resume_hint("train_cifar.py", words, world) == (
        "start it on each machine as before, with: --resume 'a b'")
    for module in (resume, flags):
        monkeypatch.setattr(module, "calling", lambda file: ["msunas-tune"])
    assert resume_hint("train_cifar.py", words, world._replace(size=1)) == (
        "resume with: msunas-tune --resume 'a b'")
    assert launcher("train_cifar.py", 2)[-2:] == ["--no-python", "msunas-tune"]
