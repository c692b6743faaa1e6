"""train_cifar.py: the recipe's parts, its files, and going on after a kill."""

import csv
import json
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
import yaml

from data_providers import DataProvider
from data_providers.table import DATASETS
from networks import build_from_config, load_weights, read_config
from tests.conftest import ROOT, loads_folders
from tests.fine_tuning import (
    RUN_FILES,
    SIZE,
    assert_same_weights,
    kill_when_logged,
    make_networks,
    only_run,
)
from train_cifar import get_args_parser, main, transform_of
from training import tune
from training.checkpoints import plain_part
from training.loops import evaluate
from training.small_images import Enlarged, cutout, geometry


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("net")
    make_networks(folder, n_classes=10)
    return folder


@pytest.fixture
def command(files):
    return ["train_cifar.py", "--dataset", "digits", "--model", "NAME", "--model-config",
            files / "net.config", "--initial-checkpoint", files / "net.inherited", "--img-size",
            SIZE, "--drop", 0.2, "--drop-path", 0.2, "--cutout", "--autoaugment", "--threads", 1]


def test_the_recipe_is_the_default():
    args = get_args_parser().parse_args(["--save"])
    assert (args.epochs, args.lr, args.batch_size, args.clip_grad) == (150, 0.01, 96, 5.0)
    assert (args.momentum, args.weight_decay, args.sched) == (0.9, 4e-5, "cosine")
    assert args.save == "runs/train"


def test_cutout_blanks_one_square_of_each_image():
    images = torch.ones(200, 3, 32, 32)
    result = cutout(images, 16, torch.Generator().manual_seed(0), (-1.0, -2.0, -3.0))
    assert images.min() == 1, "the argument is left as it is"
    blank = (result < 0)
    assert torch.equal(blank[:, 0], blank[:, 2])
    assert [result[:, i].min().item() for i in range(3)] == [-1, -2, -3]
    rows, columns = blank[:, 0].any(2).sum(1), blank[:, 0].any(1).sum(1)
    assert torch.equal(blank[:, 0].sum((1, 2)), rows * columns), "a rectangle"
    assert rows.max() == columns.max() == 16
    assert rows.min() >= 8, "at least half of it lies in the image"
    assert len(rows.unique()) > 4, "it may reach over the edge"


def test_batches_are_enlarged_and_depend_on_seed_epoch_and_rank_alone():
    class Source(list):
        def set_epoch(self, epoch):
            pass

    def images(seed, epoch, rank):
        batches = Enlarged(source, 48, 16, seed, rank, (0.0, 0.0, 0.0))
        batches.set_epoch(epoch)
        return next(iter(batches))[0]

    source = Source([(torch.ones(8, 3, 32, 32), torch.zeros(8))])
    reference = images(1, 2, 0)
    assert reference.shape == (8, 3, 48, 48)
    assert torch.equal(reference, images(1, 2, 0))
    for other in ((0, 2, 0), (1, 1, 0), (1, 2, 1)):
        assert not torch.equal(reference, images(*other))


@pytest.mark.parametrize(("transform", "described"), [
    ("crop", "RandomCrop(size=(28, 28), padding=None)"),
    ("squash", "RandomCrop(size=(32, 32), padding=4)")])
def test_things_are_as_large_in_training_as_in_the_evaluation(transform, described):
    provider = SimpleNamespace(info=replace(DATASETS["cifar10"], eval_resize=transform))
    steps = geometry(get_args_parser().parse_args([]), provider, 32, 48)
    assert repr(steps.transforms[0]) == described


@pytest.mark.parametrize(("dataset", "words", "recorded", "expected", "line"), [
    ("cifar10", [], "crop", "squash", "records crop, the transform of the search"),
    ("cifar100", [], None, "squash", ""),
    ("cinic10", [], "squash", "squash", ""),
    ("cifar10", ["--transform", "crop"], "crop", "crop", ""),
    ("cifar10", ["--transform", "crop"], None, "crop", ""),
    ("cifar10", ["--transform", "squash"], "crop", "squash", "using --transform squash"),
    ("cifar10", ["--evaluate"], "crop", "crop", ""),
    ("cifar10", ["--evaluate"], None, "squash", "the paper's networks of cifar10"),
    ("folder", [], "crop", "crop", ""),
    ("digits", [], None, "squash", ""),
])
def test_small_images_are_tuned_by_the_recipe_of_the_paper(caplog, dataset, words, recorded,
                                                            expected, line):
    """Whatever a search has recorded: the published line trains as it did, after any archive."""
    args = get_args_parser().parse_args(["--dataset", dataset, *words])
    assert transform_of(args, {"transform": recorded}) == expected
    assert line in caplog.text
    assert bool(caplog.text) == bool(line)


@pytest.mark.parametrize("own", ["crop", "squash"])
def test_a_resumed_run_keeps_the_transform_that_it_began_with(files, tmp_path, own):
    config = read_config(files / "net.config")
    (tmp_path / "net.config").write_text(json.dumps(config | {"transform": own}))
    args = get_args_parser().parse_args(["--resume", str(tmp_path / "last.pth.tar")])
    assert transform_of(args, {"transform": "crop"}) == own


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--model-ema", "--model-ema-decay", 0.5]])
def test_the_last_line_belongs_to_the_network_that_is_saved(command, tmp_path, caplog,
                                                            monkeypatch, more):
    """The first epoch is made the best one: the network at hand at the end is another."""
    falling = iter((90.0, 10.0))
    judge = tune.evaluate_run
    monkeypatch.setattr(tune, "evaluate_run",
                        lambda *args: judge(*args) | {"top1": next(falling)})
    run_here(command, "--epochs", 2, "--lr", 0.05, "--save", tmp_path, "-j", 0, *more)
    run = only_run(tmp_path)
    (last,) = [line for line in caplog.messages if line.startswith("test images")]
    config = read_config(run / "net.config")
    net = build_from_config(config)
    load_weights(net, run / "net.init")
    provider = DataProvider("digits", transform=config["transform"])
    figures = evaluate(net, provider.eval_batches("test", config["resolution"]))
    assert f"top1 {figures['top1']:.4f}, " in last
    assert f"loss {figures['loss']:.5f} " in last
    load_weights(net, run / "last.pth.tar", ema=bool(more))
    other = evaluate(net, provider.eval_batches("test", config["resolution"]))
    assert other["loss"] != pytest.approx(figures["loss"], abs=1e-5)
    caplog.clear()
    run_here(command, "--epochs", 2, "--resume", run / "last.pth.tar", "-j", 0, *more)
    assert last in caplog.messages, "also where nothing is left to train"


def run_here(command: list, *more) -> None:
    """Runs the script in this process, which has loaded torch already."""
    main(get_args_parser().parse_args([str(word) for word in (*command[1:], *more)]))


@pytest.mark.slow
def test_the_command_that_ctrl_c_tells_goes_on(command, tmp_path):
    """Interrupted in epoch 1, pasted into a shell, it ends with both epochs."""
    root = tmp_path / "the runs"
    words = [sys.executable, *command, "--epochs", 2, "--log-interval", 1, "-j", 0, "--save",
             root]
    process = subprocess.Popen(list(map(str, words)), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        while "epoch 1 step 1/" not in (line := process.stderr.readline()):
            assert line, "it ended too early"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    start = "train_cifar.py: interrupted; resume with: "
    (told,) = [line.removeprefix(start) for line in errors.splitlines() if line.startswith(start)]
    assert told.startswith("python train_cifar.py -c ")
    pasted = told.replace("python", shlex.quote(sys.executable), 1)
    done = subprocess.run(["sh", "-c", pasted], cwd=ROOT, capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((only_run(root) / "summary.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1"]


@pytest.mark.slow
def test_killed_and_resumed_run_ends_like_an_uninterrupted_one(command, tmp_path, caplog):
    command += ["--epochs", 2, "--model-ema", "--log-interval", 1]
    run_here(command, "--save", tmp_path / "whole")
    whole = only_run(tmp_path / "whole")
    assert {path.name for path in whole.iterdir()} == RUN_FILES

    kill_when_logged([*command, "--save", tmp_path / "cut"], tmp_path / "cut", "epoch 1 step 1")
    cut = only_run(tmp_path / "cut")
    run_here(command, "--resume", cut / "last.pth.tar")
    assert_same_weights(whole / "last.pth.tar", cut / "last.pth.tar")
    assert {path.name for path in cut.iterdir()} == RUN_FILES
    rows = list(csv.DictReader((cut / "summary.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert yaml.safe_load((whole / "args.yaml").read_text())["drop_path"] == 0.2

    # --evaluate and validation.py's way agree on the pair, by the transform written beside it
    caplog.clear()
    run_here(["", "--dataset", "digits", "--evaluate", "--model-config", whole / "net.config",
              "--initial-checkpoint", whole / "net.init"])
    config = read_config(whole / "net.config")
    net = build_from_config(config)
    load_weights(net, whole / "net.init")
    provider = DataProvider("digits", transform=config["transform"])
    top1 = evaluate(net, provider.eval_batches("test", config["resolution"]))["top1"]
    assert f"test images: top1 {top1:.4f}" in caplog.text

    loads_folders()
    import msunas_timm  # noqa: F401

    hub = timm.create_model(f"local-dir:{whole / 'hub'}", pretrained=True).eval()
    images = torch.randn(2, 3, SIZE, SIZE)
    torch.testing.assert_close(hub(images), net.eval()(images), rtol=1e-4, atol=1e-5)
    card = (whole / "hub" / "README.md").read_text()
    assert f"| test images | 600 | {top1:.2f} % |" in card
    assert "python train_cifar.py --dataset digits" in card


@pytest.mark.parametrize(("flags", "match"), [
    (["--evaluate"], "--model-config"),
    (["--model-config", "absent.config"], "absent.config"),
    (["--model-config", "x", "--epochs", 0], "--epochs"),
    (["--model-config", "x", "--evaluate"], "--initial-checkpoint"),
    (["--sched", "magic"], "--sched"),
    (["-c", "absent.yaml"], "absent.yaml"),
])
def test_bad_input(fails_clearly, flags, match):
    fails_clearly("train_cifar.py", "--dataset", "digits", *flags, match=match)


def test_config_file_replaces_defaults_and_the_command_line_wins(tmp_path):
    path = tmp_path / "args.yaml"
    path.write_text("lr: 0.5\nepochs: 7\n")
    args = get_args_parser().parse_args(["-c", str(path), "--epochs", "9"])
    assert (args.lr, args.epochs) == (0.5, 9)


@pytest.mark.parametrize(("text", "match"), [
    ("learning: 0.5", "unknown flag 'learning'"),
    ("epochs: many", "epochs cannot be 'many'"),
    ("epochs: [1, 2]", "epochs cannot be"),
    ("sched: magic", "sched cannot be 'magic'"),
    ("amp: 3", "amp cannot be '3'"),
    ("lr: 0.5\n\tx", "not YAML"),
])
def test_what_is_wrong_in_a_config_file_is_named(tmp_path, fails_clearly, text, match):
    path = tmp_path / "args.yaml"
    path.write_text(text)
    fails_clearly("train_cifar.py", "-c", path, match=match)


def test_the_flags_that_a_run_wrote_can_be_read_again(tmp_path):
    words = ["--opt-betas", "0.9", "0.99", "--save", "--amp"]
    args = plain_part(vars(get_args_parser().parse_args(words)))
    path = tmp_path / "args.yaml"
    path.write_text(yaml.safe_dump(args))
    again = plain_part(vars(get_args_parser().parse_args(["-c", str(path)])))
    assert {**again, "config": None} == args


@pytest.mark.slow
def test_little_shared_memory_ends_no_training(command, tmp_path, with_shared_memory):
    done = with_shared_memory("1100k", *command, "--save", tmp_path, "--epochs", 1, "-j", 2,
                              "--batch-size", 512, "--img-size", 48)
    assert done.returncode == 0, done.stderr
    assert "--shm-size" in done.stderr and "Traceback" not in done.stderr
