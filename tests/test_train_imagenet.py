"""train_imagenet.py: the published command on two processes, and the parts of its recipe."""

import copy
import csv
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from data_providers import DataProvider
from networks import build_from_config, build_supernet, load_weights, read_config, save_weights
from tests.conftest import ROOT
from tests.fine_tuning import (
    RUN_FILES,
    SIZE,
    assert_same_weights,
    kill_when_logged,
    make_images,
    make_networks,
    only_run,
)
from tests.published import published_command
from train_imagenet import get_args_parser, main, open_data
from training.loops import evaluate, train_one_epoch
from training.run import Run, with_lr
from training.tune import load_all
from training.world import World, check_devices
from utils.devices import seeded
from utils.errors import UserError

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2]
CPU = World(torch.device("cpu"))


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("imagenet")
    make_images(folder / "data")
    make_networks(folder)
    return folder


@pytest.fixture
def published(files) -> list:
    """The published command after `sh scripts/distributed_train.sh 8`, for few small images."""
    _, _, *words = published_command(
        "scripts/distributed_train.sh", model_config=files / "net.config",
        initial_checkpoint=files / "net.inherited", teacher=files / "ofa_w0.1", img_size=SIZE, b=4,
        epochs=2, j=1)
    return [files / "data", *words, "--log-interval", 1]


def parsed(command: list, *more) -> Namespace:
    return get_args_parser().parse_args([str(word) for word in (*command, *more)])


@pytest.mark.slow
def test_published_command_survives_a_kill(published, tmp_path):
    done = subprocess.run(
        ["sh", "scripts/distributed_train.sh", "2", *map(str, published), "--output",
         tmp_path / "whole"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    whole = only_run(tmp_path / "whole")
    assert {path.name for path in whole.iterdir()} == RUN_FILES

    command = [*TORCHRUN, "train_imagenet.py", *published]
    kill_when_logged([*command, "--output", tmp_path / "cut"], tmp_path / "cut", "epoch 1 step 1")
    cut = only_run(tmp_path / "cut")
    done = subprocess.run([ROOT / ".venv/bin/python", *map(str, command), "--resume",
                           cut / "last.pth.tar"], cwd=ROOT, capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, done.stderr
    assert_same_weights(whole / "last.pth.tar", cut / "last.pth.tar")
    rows = list(csv.DictReader((cut / "summary.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1"]

    # the pair is that of the best epoch: its accuracy over both processes is the recorded one
    config = read_config(cut / "net.config")
    net = build_from_config(config)
    load_weights(net, cut / "net.init")
    provider = DataProvider("folder", published[0], transform=config["transform"])
    figures = evaluate(net, provider.eval_batches("valid", config["resolution"]))
    assert figures["top1"] == pytest.approx(max(float(row["eval_top1"]) for row in rows), abs=1e-3)


def test_step_schedule_decays_by_fractions_of_epochs(published):
    args = parsed(published, "--epochs", 30)
    run = Run(args, nn.Linear(2, 2), CPU, 10)
    rates = []
    for epoch in range(run.n_epochs):
        rates.append(run.optimizer.param_groups[0]["lr"])
        run.scheduler.step(epoch + 1)
    assert rates[:3] == pytest.approx([1e-6, 1e-6 + 0.024 / 3, 1e-6 + 0.048 / 3], rel=1e-3)
    assert rates[3:] == pytest.approx([0.024 * 0.97 ** int(e / 2.4) for e in range(3, 30)])


@pytest.mark.parametrize(("processes", "expected"), [(1, 0.003), (8, 0.024)])
def test_rule_of_thumb_for_the_learning_rate(published, processes, expected, caplog):
    args = parsed(published)
    assert with_lr(args, CPU).lr == 0.024
    args.lr, args.batch_size = None, 128
    with caplog.at_level("INFO"):
        assert with_lr(args, World(CPU.device, 0, processes)).lr == pytest.approx(expected)
    assert "rule of thumb" in caplog.text


def one_step(rank: int, n_processes: int, folder: str) -> None:
    """Takes one optimiser step of rate 1 and writes the weights: their change is the gradient."""
    torch.set_num_threads(1)
    with seeded(0):
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                            nn.Linear(8, 10))
    trained: nn.Module = net
    if n_processes > 1:
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting",
                                             rank=rank, world_size=n_processes)
        trained = DistributedDataParallel(net)
    batches = DataProvider("digits", seed=3).train_loader(
        16, 64 // n_processes, rank=rank, world_size=n_processes)
    first = next(iter(batches))
    assert len(first[0]) == 64 // n_processes
    train_one_epoch(trained, [first], torch.optim.SGD(net.parameters(), 1.0))
    if rank == 0:
        save_weights(net, f"{folder}/after-{n_processes}")
    if n_processes > 1:
        torch.distributed.destroy_process_group()


def test_n_processes_step_like_one_with_n_times_the_batch(tmp_path):
    one_step(0, 1, str(tmp_path))
    torch.multiprocessing.spawn(one_step, (2, str(tmp_path)), nprocs=2)
    one, two = (torch.load(tmp_path / f"after-{n}")["state_dict"] for n in (1, 2))
    for key in one:
        torch.testing.assert_close(one[key], two[key], atol=1e-5, rtol=0)


def test_more_processes_than_gpus_are_refused(monkeypatch, pretend_accelerator):
    pretend_accelerator("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_devices(2, None)
    with pytest.raises(UserError, match="3 processes for 2 GPUs"):
        check_devices(3, None)
    check_devices(3, "cpu")


def test_missing_data_is_one_line_under_sh(published):
    done = subprocess.run(["dash" if Path("/bin/dash").exists() else "sh",
                           "scripts/distributed_train.sh", "2", "absent", *map(str, published[1:])],
                          cwd=ROOT, capture_output=True, text=True, timeout=100,
                          env={**os.environ, "PYTHON": sys.executable})
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "absent: no such folder" in done.stderr


@pytest.mark.parametrize(("flags", "match"), [
    (["-b", 500], "more than the 36 training images"),
    (["--opt", "magic"], "--opt magic"),
    (["--sync-bn", "--device", "cpu"], "--sync-bn works on GPUs only"),
    (["--resume", "absent/last.pth.tar"], "absent/last.pth.tar"),
])
def test_check_finds_what_would_stop_all_processes(published, flags, match):
    with pytest.raises(UserError, match=match):
        main(parsed(published, "--check", 2, *flags))


@pytest.mark.parametrize("arguments", [[], ["data"], ["0", "data"], ["2x", "data"]])
def test_number_of_processes_is_checked(arguments):
    done = subprocess.run(["sh", "scripts/distributed_train.sh", *arguments], cwd=ROOT,
                          capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert "error: the first argument is the number of processes" in done.stderr


@pytest.mark.parametrize(("flag", "file", "match"), [
    ("--model-config", "ofa_w0.1", "not a text file"),
    ("--model-config", "absent", "no such network config"),
    ("--initial-checkpoint", "ofa_w0.1", "not the weights of this network"),
    ("--initial-checkpoint", "net.config", "no checkpoint"),
    ("--teacher", "net.config", "--teacher-checkpoint"),
    ("--teacher", "absent", "neither a file nor a model"),
    ("--teacher", "ofa_other_w0.1", "a network for 5 classes"),
])
def test_wrong_files_are_named(published, files, flag, file, match):
    if file.startswith("ofa_other"):
        save_weights(build_supernet(5, 0.1), files / file)
    with pytest.raises(UserError, match=match):
        load_all(parsed(published, flag, files / file if file != "absent" else file), open_data)


def test_wrong_config_on_the_command_line(fails_clearly, published, files):
    fails_clearly("train_imagenet.py", *published, "--model-config", files / "ofa_w0.1",
                  match="ofa_w0.1")


def test_resuming_another_network_is_refused(published, files, tmp_path):
    run = Run(parsed(published), nn.Linear(2, 2), CPU, 10)
    state = {**run.state(), "epoch": 0}

    other = Run(parsed(published), nn.Linear(3, 3), CPU, 10)
    with pytest.raises(UserError, match="not the weights"):
        other.resume(state, "last.pth.tar")
    other = Run(parsed(published, "--opt", "adamw"), nn.Linear(2, 2), CPU, 10)
    state = {**other.state(), "epoch": 0}
    state["optimizer"]["param_groups"] = state["optimizer"]["param_groups"][:1]
    with pytest.raises(UserError, match="--no-resume-opt"):
        run.resume(state, "last.pth.tar")


def other_shape(state):
    state["optimizer"]["state"][0]["square_avg"] = torch.zeros(7)


def no_tensor(state):
    state["optimizer"]["state"][0]["momentum_buffer"] = "x"


def no_number(state):
    state["optimizer"]["param_groups"][0]["weight_decay"] = "x"


def other_schedule(state):
    state["lr_scheduler"]["base_values"] = "x"


def no_schedule(state):
    state["lr_scheduler"] = 5


@pytest.mark.parametrize("damage", [other_shape, no_tensor, no_number, other_schedule, no_schedule])
def test_a_damaged_state_is_refused_before_any_step(published, damage):
    args = parsed(published, "--sched", "step")
    run = Run(args, nn.Linear(2, 2), CPU, 10)
    run.net(torch.ones(1, 2)).sum().backward()
    run.optimizer.step()
    state = copy.deepcopy({**run.state(), "epoch": 0})
    Run(args, nn.Linear(2, 2), CPU, 10).resume(state, "last.pth.tar")
    damage(state)
    with pytest.raises(UserError, match="--no-resume-opt"):
        Run(args, nn.Linear(2, 2), CPU, 10).resume(state, "last.pth.tar")


@pytest.mark.parametrize("kind", ["net.config", "timm"])
def test_other_teachers(published, files, kind, tmp_path):
    if kind == "timm":
        import timm

        teacher = timm.create_model("test_efficientnet", num_classes=3)
        who, weights = "test_efficientnet", tmp_path / "teacher.pth"
        save_weights(teacher, weights)
    else:
        who, weights = files / "net.config", files / "net.inherited"
    _, networks = load_all(parsed(published, "--teacher", who, "--teacher-checkpoint", weights),
                           open_data)
    assert not networks.teacher.calibrate
    with torch.no_grad():
        assert networks.teacher.net(torch.zeros(2, 3, SIZE, SIZE)).shape == (2, 3)
