"""A checkpoint that would run code, given to every option of every command that takes one."""

import argparse
import importlib
import json
import logging
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from cli.scripts import run_script
from data_providers import DataProvider
from networks import build_supernet, cut_subnet, save_weights, write_config
from search_space import OFASearchSpace
from tests.conftest import ROOT
from utils.errors import UserError

SIZE = 32
SMALL = OFASearchSpace([SIZE]).extremes()[0]
# command -> for each option that takes a checkpoint, the flags to reach its reading; {evil} is the
# checkpoint, {created} what it would create, the other names are files of `files`.
TRAIN = ["--model-config", "{config}", "--device", "cpu", "--epochs", "1"]
FOLDER = ["{data}", "-j", "0", "-b", "4", "--output", "{folder}/runs", *TRAIN]
DIGITS = ["--dataset", "digits", *TRAIN]
SEARCH = ["--save", "{folder}/{option}", "--n_doe", "2", "--iterations", "0", "--n_gpus", "0",
          "--cpu_workers", "1", "--dataset", "digits"]
EVALUATION = ["--dataset", "digits", "--n_workers", "0"]
COMMANDS = {
    "msunas": {
        "supernet_path": [*SEARCH, "--supernet_path", "{evil}"],
        "oracle_path": [*SEARCH, "--evaluator", "oracle", "--oracle_path", "{evil}"]},
    "post_search": {
        "supernet_path": ["--expr", "{stats}", "--save", "{folder}/out", "--supernet_path",
                          "{evil}"]},
    "validation": {
        "pretrained": ["--dataset", "digits", "--model", "{config}", "--pretrained", "{evil}"],
        "supernet_path": ["--dataset", "digits", "--subnet", "{subnet}", "--supernet_path",
                          "{evil}"]},
    "evaluator.__main__": {
        "supernet_path": [*EVALUATION, "--subnet", "{subnet}", "--supernet_path", "{evil}"],
        "init": [*EVALUATION, "--config", "{config}", "--init", "{evil}"]},
    "train_cifar": {
        "initial_checkpoint": [*DIGITS, "--initial-checkpoint", "{evil}"],
        "teacher": [*DIGITS, "--teacher", "{evil}"],
        "teacher_checkpoint": [*DIGITS, "--teacher", "resnet18", "--teacher-checkpoint", "{evil}"],
        "resume": [*DIGITS, "--resume", "{evil}"]},
    "train_imagenet": {
        "initial_checkpoint": [*FOLDER, "--initial-checkpoint", "{evil}"],
        "teacher": [*FOLDER, "--teacher", "{evil}"],
        "teacher_checkpoint": [*FOLDER, "--teacher", "{config}", "--teacher-checkpoint", "{evil}"],
        "resume": [*FOLDER, "--output", "{folder}", "--resume", "{evil}"]},
    "train_supernet": {
        "init": ["--save", "{folder}/new_w0.1", "--init", "{evil}"],
        "teacher": ["--save", "{folder}/new_w0.1", "--teacher", "{evil}"],
        "teacher_checkpoint": ["--save", "{folder}/new_w0.1", "--teacher", "{config}",
                               "--teacher_checkpoint", "{evil}"],
        "from_": ["--save", "{folder}/new_w0.1", "--from", "{config}", "{evil}"],
        "pretrained": ["--save", "{folder}/new", "--search_space", "timm:mobilenetv3_small_050",
                       "--pretrained", "{evil}"],
        "resume": ["--save", "{evil}", "--resume"]},
}
CASES = [(command, option) for command, options in COMMANDS.items() for option in options]
TAKES_CHECKPOINT = {option for _, option in CASES}
FOLDERS = {("msunas", "resume")}


class Attack:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> argparse.Namespace:
    """A tiny network's files, a finished search, images, and the checkpoint with code."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("hostile")
    net = cut_subnet(build_supernet(10, 0.1), SMALL)
    found = argparse.Namespace(
        folder=folder, config=folder / "net.config", subnet=folder / "net.subnet",
        stats=folder / "iter_0.stats", data=folder / "data", evil=folder / "evil_w0.1",
        created=folder / "created")
    write_config(net, found.config, resolution=SIZE)
    save_weights(net, folder / "net.init")
    found.subnet.write_text(json.dumps(SMALL))
    archive = [[SMALL, 30.0, 100.0]]
    found.stats.write_text(json.dumps({"archive": archive, "candidates": archive, "hv": 0.5,
                                       "surrogate": {}}))
    _images(found.data)
    attack = Attack(found.created)
    torch.save({"state_dict": attack, "epoch": 1, "optimizer": attack}, found.evil)
    shutil.copy(found.evil, folder / "evil_w0.1.state")
    return found


@pytest.fixture(autouse=True)
def own_logging():
    """The scripts log to the stderr of their time; no other test may find their handlers."""
    before = logging.root.handlers[:]
    yield
    logging.root.handlers[:] = before


def _images(folder: Path) -> None:
    from PIL import Image

    for split in ("train", "val"):
        for label in range(10):
            (folder / split / f"class{label}").mkdir(parents=True)
            Image.new("RGB", (SIZE, SIZE)).save(folder / split / f"class{label}" / "0.jpg")


def flags_of(command: str, option: str, files: argparse.Namespace) -> list[str]:
    return [flag.format(option=option, **vars(files)) for flag in COMMANDS[command][option]]


@pytest.mark.parametrize(("command", "option"), CASES)
def test_code_is_refused_by_name_and_never_run(files, capfd, command, option):
    script = importlib.import_module(command)
    code = run_script(script.main, script.get_args_parser(), flags_of(command, option, files))
    output = capfd.readouterr().err
    assert code == 2, output
    errors = [line for line in output.splitlines() if "error:" in line]
    assert len(errors) == 1 and "carries code (it would run posix.mkdir)" in errors[0], output
    assert files.evil.name in errors[0] and "Traceback" not in output
    assert not files.created.exists()


@pytest.mark.parametrize(("script", "command", "option"), [
    (["validation.py"], "validation", "pretrained"),
    (["-m", "evaluator"], "evaluator.__main__", "init")])
def test_so_do_the_commands_themselves(files, fails_clearly, script, command, option):
    fails_clearly(*script, *flags_of(command, option, files), match="carries code")
    assert not files.created.exists()


def test_pickles_in_a_data_set_are_only_read_where_they_are_the_published_ones(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]:
        (folder / name).write_bytes(pickle.dumps(Attack(tmp_path / "created")))
    with pytest.raises(UserError, match="corrupted"):
        DataProvider("cifar10", tmp_path).images("train")
    assert not (tmp_path / "created").exists()


def test_no_option_for_a_checkpoint_is_left_out():
    names = [path.stem for path in ROOT.glob("*.py") if "def get_args_parser" in path.read_text()]
    assert "msunas" in names
    names.append("evaluator.__main__")
    for name in names:
        options = {action.dest for action in
                   importlib.import_module(name).get_args_parser()._actions}
        tested = set(COMMANDS.get(name, {}))
        untested = {option for option in options & TAKES_CHECKPOINT - tested
                    if (name, option) not in FOLDERS}
        assert not untested, f"{name}: {untested}"


@pytest.mark.parametrize("device", ["meta", "cuda:77"])
@pytest.mark.parametrize("command", [
    ("train_cifar.py", "--dataset", "digits", "--model-config", "none"),
    ("train_supernet.py", "--dataset", "digits", "--save", "none_w0.35"),
    ("scripts/build_lut.py", "--out", "none.yaml")], ids=lambda command: command[0])
def test_a_device_that_is_not_there_is_named(fails_clearly, command, device):
    fails_clearly(*command, "--device", device, match=f"the device {device!r} cannot be used")
