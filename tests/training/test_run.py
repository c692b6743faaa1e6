"""A run and what it goes on with: schedules, optimisers, averaged weights."""

import copy
from argparse import Namespace

import pytest
import torch
from torch import nn

from train_imagenet import get_args_parser
from training.run import Run, fast_at_a_fixed_size
from training.run_files import Output
from training.tune import evaluate_run, fit
from training.world import World
from utils.errors import UserError

CPU = World(torch.device("cpu"))
N_IMAGES, BATCH = 48, 4
SCHEDULES = [["--sched", "cosine"], ["--sched", "step", "--decay-epochs", 1.3, "--decay-rate", .5],
             ["--sched", "cosine", "--sched-on-updates"], ["--sched", "poly"],
             ["--sched", "multistep", "--decay-milestones", 2, 3], ["--sched", "constant"]]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def flags(*more) -> Namespace:
    words = ["data", "--lr", 0.1, "--warmup-epochs", 0, "--opt", "sgd", "--device", "cpu", *more]
    return get_args_parser().parse_args([str(word) for word in words])


def small_run(*more, size: int = 1) -> Run:
    """A run of one of `size` processes."""
    return Run(flags(*more), nn.Linear(2, 2), World(CPU.device, 0, size), N_IMAGES // BATCH // size)


def curve(run: Run, to: int | None = None) -> list[float]:
    """Goes through a run's epochs; returns the learning rate at each one's first and last step."""
    rates = []
    for epoch in range(run.start_epoch, run.n_epochs if to is None else to):
        rates.append(run.optimizer.param_groups[0]["lr"])
        for step in range(1, run.updates_per_epoch + 1):
            last = run.optimizer.param_groups[0]["lr"]
            run.optimizer.step()
            run.scheduler.step_update(epoch * run.updates_per_epoch + step)
        rates.append(last)
        run.scheduler.step(epoch + 1)
    return rates


def stopped(run: Run, epoch: int) -> dict:
    """Returns the state of a run after an epoch, as a file would hold it."""
    curve(run, epoch + 1)
    return copy.deepcopy({**run.state(), "epoch": epoch})


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: "-".join(map(str, s[1:])))
def test_a_run_can_be_extended(schedule):
    state = stopped(small_run(*schedule, "--epochs", 2), 1)
    longer = small_run(*schedule, "--epochs", 4)
    expected = curve(small_run(*schedule, "--epochs", 4))
    longer.resume(state, "last.pth.tar")
    assert longer.start_epoch == 2
    assert curve(longer) == pytest.approx(expected[4:])
    assert expected[4] > 0


@pytest.mark.parametrize("schedule", SCHEDULES[:3], ids=lambda s: "-".join(map(str, s[1:])))
@pytest.mark.parametrize(("before", "after"), [(a, b) for a in (1, 2, 4) for b in (1, 2, 4)])
def test_other_numbers_of_processes_follow_the_same_curve(schedule, before, after):
    state = stopped(small_run(*schedule, "--epochs", 4, size=before), 1)
    run = small_run(*schedule, "--epochs", 4, size=after)
    run.resume(state, "last.pth.tar")
    firsts = curve(run)[::2]
    assert firsts == pytest.approx(curve(small_run(*schedule, "--epochs", 4))[4::2])


def test_flags_of_the_resumed_run_are_obeyed():
    state = stopped(small_run("--weight-decay", 0.5, "--epochs", 4, "--sched", "constant"), 1)
    run = small_run("--weight-decay", 0.25, "--lr", 0.02, "--epochs", 4, "--sched", "constant")
    run.resume(state, "last.pth.tar")
    assert {group["lr"] for group in run.optimizer.param_groups} == {0.02}
    assert max(group["weight_decay"] for group in run.optimizer.param_groups) == 0.25


def test_plateau_goes_on_with_what_it_has_learnt():
    words = ("--sched", "plateau", "--patience-epochs", 1, "--decay-rate", 0.5, "--epochs", 9)
    metrics = [50.0, 49.0, 48.0, 47.0, 46.0, 45.0]
    whole, cut = small_run(*words), small_run(*words)
    rates = []
    for epoch, metric in enumerate(metrics):
        whole.scheduler.step(epoch + 1, metric)
        rates.append(whole.optimizer.param_groups[0]["lr"])
    assert rates[-1] < rates[0]
    for epoch, metric in enumerate(metrics[:3]):
        cut.scheduler.step(epoch + 1, metric)
    resumed = small_run(*words)
    resumed.resume(copy.deepcopy({**cut.state(), "epoch": 2}), "last.pth.tar")
    for epoch, metric in enumerate(metrics[3:], 3):
        resumed.scheduler.step(epoch + 1, metric)
        assert resumed.optimizer.param_groups[0]["lr"] == pytest.approx(rates[epoch])


def test_start_epoch_is_obeyed_with_and_without_a_checkpoint():
    expected = curve(small_run("--epochs", 4))
    assert curve(small_run("--epochs", 4, "--start-epoch", 2)) == pytest.approx(expected[4:])
    state = stopped(small_run("--epochs", 4), 2)
    run = small_run("--epochs", 4, "--start-epoch", 1)
    run.resume(state, "last.pth.tar")
    assert curve(run) == pytest.approx(expected[2:])


class Head(nn.Module):
    """A body and a head, as every network here has them."""

    def __init__(self):
        super().__init__()
        self.body, self.classifier = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 2))

    def forward(self, x):
        return self.classifier(self.body(x))


@pytest.mark.parametrize(("mode", "clipped"), [("agc", False), ("norm", True)])
def test_agc_leaves_the_classifier_alone(mode, clipped):
    run = Run(flags("--clip-grad", 1e-3, "--clip-mode", mode), Head(), CPU, 4)
    (run.net(torch.ones(3, 4)).sum() * 100).backward()
    before = {name: p.grad.clone() for name, p in run.net.named_parameters()}
    run._clip()()
    changed = {name for name, p in run.net.named_parameters()
               if not torch.equal(p.grad, before[name])}
    assert ("classifier.0.weight" in changed) == clipped
    assert "body.weight" in changed


def test_averaged_weights_kept_on_the_cpu_are_evaluated_on_the_device():
    devices = []

    def evaluate(net):
        devices.append(next(net.parameters()).device.type)
        return {"top1": 50.0}

    run = small_run("--model-ema", "--model-ema-force-cpu")
    run.net.to("meta")  # stands for a GPU
    evaluate_run(run, evaluate)
    assert devices == ["meta", "meta"]
    assert next(run.best.parameters()).device.type == "cpu"


def test_options_of_the_optimiser():
    run = small_run("--opt-kwargs", "nesterov=False", "dampening=0.5", "--momentum", 0.8)
    group = run.optimizer.param_groups[0]
    assert (group["nesterov"], group["dampening"], group["momentum"]) == (False, 0.5, 0.8)
    for wrong in ("nesterov", "1=2"):
        with pytest.raises(UserError, match="write key=value"):
            small_run("--opt-kwargs", wrong)
    with pytest.raises(UserError, match="--opt sgd"):
        small_run("--opt-kwargs", "magic=1")


def test_layer_decay_lowers_the_rate_towards_the_input():
    net = nn.ModuleDict({"first_conv": nn.Linear(2, 2), "classifier": nn.Linear(2, 2),
                         "blocks": nn.ModuleList(nn.Linear(2, 2) for _ in range(2))})
    run = Run(flags("--layer-decay", 0.5, "--sched", "constant"), net, CPU, 4)
    run.scheduler.step(1)
    rates = {id(p): group["lr"] for group in run.optimizer.param_groups for p in group["params"]}
    layers = [net["first_conv"], *net["blocks"], net["classifier"]]
    assert [rates[id(layer.weight)] for layer in layers] == \
        pytest.approx([0.0125, 0.025, 0.05, 0.1])


def test_a_gpu_trains_with_its_fastest_convolutions():
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    try:
        cudnn.benchmark = matmul.allow_tf32 = False
        fast_at_a_fixed_size(torch.device("cpu"))
        assert (cudnn.benchmark, matmul.allow_tf32) == (False, False)
        fast_at_a_fixed_size(torch.device("cuda"))
        assert (cudnn.benchmark, matmul.allow_tf32) == (True, True)
    finally:
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


def test_evaluations_come_at_their_interval_and_at_the_end():
    run, epochs = small_run("--epochs", 5, "--val-interval", 2), []
    batches = [(torch.ones(4, 2), torch.zeros(4, dtype=torch.int64))]
    now = []

    def evaluate(net):
        epochs.append(now[-1])
        return {"top1": 1.0, "top5": 1.0, "loss": 1.0, "n_images": 4}

    def objective(net, images, targets):
        return [lambda: nn.functional.cross_entropy(net(images.flatten(1)[:, :2]), targets)]

    images = torch.ones(4, 2, 1, 1)
    class Epochs(list):
        def set_epoch(self, epoch):
            now.append(epoch)

    fit(run, Epochs([(images, batches[0][1])]), objective, evaluate,
        Output(run, None, lambda *_: None))
    assert epochs == [1, 3, 4]
