"""train_supernet.py: the phases, what is trained in a step, and going on after a stop."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from networks import build_supernet, load_supernet
from training.shrinking import PHASES, Recipe, Sandwich, SupernetTraining
from utils.devices import seeded
from utils.errors import UserError

RECIPE = Recipe(resolutions=[16, 24], epochs=[1, 1, 1, 1], batch_size=16, opt="adamw", lr=1e-3,
                shrink_lr=1e-3, weight_decay=0.01, clip_grad=5.0, smoothing=0.1, n_random=1,
                kd_ratio=1.0, amp=None, seed=0)
TINY = ("--epochs", 1, 0, 0, 1, "--resolutions", 16, "--batch_size", 300, "--n_random", 1,
        "--threads", 1)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


class Loader(list):
    def set_epoch(self, epoch):
        self.epoch = epoch


@pytest.fixture
def provider():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(32, 3, 24, 24, generator=generator)
    labels = torch.randint(4, (32,), generator=generator)
    batches = Loader(zip(images.split(16), labels.split(16), strict=True))
    return SimpleNamespace(n_train=32, train_loader=lambda *_, **__: batches,
                           calibration_batches=lambda r: [images[:, :, :r, :r]],
                           eval_batches=lambda split, r: [(images[:, :, :r, :r], labels)])


def new_training(provider, **changes) -> SupernetTraining:
    with seeded(0):
        net = build_supernet(4, 0.1)
    recipe = Recipe(**{**RECIPE.__dict__, **changes})
    return SupernetTraining(net, provider, recipe, dataset="made up")


class Recorder(torch.nn.Module):
    """Stands for a supernet: keeps what is activated in it."""

    def __init__(self):
        super().__init__()
        self.layer, self.active, self.sizes = torch.nn.Linear(3, 4), [], []

    def set_max_net(self):
        self.active.append("largest")

    def set_active_subnet(self, ks, e, d):
        self.active.append({"ks": ks, "e": e, "d": d})

    def forward(self, images):
        self.sizes.append(images.shape[-1])
        return self.layer(images.mean((2, 3)))


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
def test_a_step_trains_largest_smallest_and_random_subnets(phase):
    net = Recorder()
    sandwich = Sandwich(phase, [16, 24], np.random.default_rng(0), n_random=2)
    losses = sandwich(net, torch.randn(5, 3, 24, 24), torch.tensor([0, 1, 2, 3, 0]))
    total = sum(loss() for loss in losses)
    assert torch.isfinite(total)
    assert net.active[0] == "largest"
    assert len(set(net.sizes)) == 1, "one resolution for each step"
    if phase.name == "full":
        assert len(net.active) == 1
        return
    _, smallest, *others = net.active
    assert len(others) == 2
    assert smallest == {"ks": [min(phase.ks)] * 20, "e": [min(phase.e)] * 20,
                        "d": [min(phase.d)] * 5}
    for subnet in others:
        for key, options in (("ks", phase.ks), ("e", phase.e), ("d", phase.d)):
            assert set(subnet[key]) <= set(options)


def test_resolutions_are_drawn_for_each_step():
    net = Recorder()
    sandwich = Sandwich(PHASES[0], [16, 20, 24], np.random.default_rng(0))
    for _ in range(20):
        for loss in sandwich(net, torch.randn(2, 3, 24, 24), torch.tensor([0, 1])):
            loss()
    assert set(net.sizes) == {16, 20, 24}


@pytest.mark.parametrize("stop", [1, 3])
def test_a_resumed_training_ends_like_one_that_went_through(provider, tmp_path, stop):
    whole = new_training(provider)
    while not whole.finished:
        whole.train_one_epoch()
    first = new_training(provider)
    for _ in range(stop):
        first.train_one_epoch()
    first.save_state(tmp_path / "state")
    second = new_training(provider)
    second.resume(tmp_path / "state")
    while not second.finished:
        second.train_one_epoch()
    for key, tensor in whole.net.state_dict().items():
        assert torch.equal(tensor, second.net.state_dict()[key]), key


def test_resuming_with_other_settings_is_refused(provider, tmp_path):
    new_training(provider).save_state(tmp_path / "state")
    with pytest.raises(UserError, match=r"was trained with lr 0\.001, not 0\.5"):
        new_training(provider, lr=0.5).resume(tmp_path / "state")


def test_measures_both_extremes(provider):
    top1 = new_training(provider).score_extremes("test")
    assert set(top1) == {"smallest", "largest"}
    assert all(0 <= value <= 100 for value in top1.values())


@pytest.mark.slow
def test_command_writes_a_supernet_and_goes_on(run_command, tmp_path):
    path = tmp_path / "ofa_digits_w0.1"
    done = run_command("train_supernet.py", "--save", path, *TINY)
    assert done.returncode == 0, done.stderr
    assert "test images: smallest" in done.stdout
    assert load_supernet(path).classifier.out_features == 10
    written = path.read_bytes()
    done = run_command("train_supernet.py", "--save", path, *TINY, "--resume")
    assert done.returncode == 0, done.stderr
    assert "expand" not in done.stdout, "nothing is left to train"
    assert path.read_bytes() == written


@pytest.mark.parametrize(("flags", "match"), [
    (("--save", "supernet"), "width multiplier"),
    (("--save", "x_w0.1", "--resume"), "no such state"),
    (("--save", "x_w0.1", "--epochs", 0, 0, 0, 0), "--epochs"),
    (("--save", "x_w0.1", "--resolutions", 48, 32), "ascending"),
    (("--save", "x_w0.1", "--init", "y_w0.2"), "another width"),
])
def test_bad_input(fails_clearly, flags, match):
    fails_clearly("train_supernet.py", *flags, match=match)


def test_an_existing_checkpoint_is_left_alone(fails_clearly, tmp_path):
    path = tmp_path / "x_w0.1"
    path.write_bytes(b"precious")
    path.with_name("x_w0.1.state").write_bytes(b"precious")
    fails_clearly("train_supernet.py", "--save", path, match="go on with --resume")
    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize("flags", [(), ("--resume",)])
def test_weights_without_a_state_lead_somewhere(fails_clearly, tmp_path, flags):
    """A full disk may leave them: neither way of starting may point to the other one."""
    path = tmp_path / "x_w0.1"
    path.write_bytes(b"precious")
    fails_clearly("train_supernet.py", "--save", path, *flags, match=f"with --init {path}")
    assert path.read_bytes() == b"precious"
