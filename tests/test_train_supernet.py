"""train_supernet.py: the phases, what is trained in a step, and going on after a stop."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import msunas
import networks
import train_supernet
from cli.progress import duration
from data_providers import DataProvider
from networks import build_supernet, cut_subnet, load_supernet
from search_space import get_search_space
from tests.conftest import ROOT
from tests.data_providers import layouts
from training.defaults import default_epochs, default_resolutions, picture_size
from training.flags import adapted
from training.progress import TimeLeft
from training.shrinking import Recipe, SupernetTraining
from training.subnets import Phase, Subnets, phases_of, rule_class
from training.supernet import search_command
from utils.devices import seeded
from utils.errors import UserError

SIZES = [16, 24]
RECIPE = Recipe(resolutions=SIZES, epochs=[1, 1, 1, 1], batch_size=16, opt="adamw", lr=1e-3,
                shrink_lr=1e-3, weight_decay=0.01, clip_grad=5.0, smoothing=0.1, n_random=1,
                kd_ratio=1.0, amp=None, seed=0)
FAMILIES = ("mbv3", "proxyless", "resnet50")
TINY = ("--resolutions", 16, "--batch_size", 300, "--n_random", 1, "--threads", 1)


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
                           calibration_batches=lambda r, device: [images[:, :, :r, :r]],
                           eval_batches=lambda split, r, device: [(images[:, :, :r, :r], labels)])


def new_training(provider, family="mbv3", external=None, **changes) -> SupernetTraining:
    with seeded(0):
        net = build_supernet(4, 0.1, family=family)
    recipe = Recipe(**{**RECIPE.__dict__, **changes})
    return SupernetTraining(net, provider, recipe, get_search_space(family, resolutions=SIZES),
                            external=external, dataset="made up")


# ------------------------------------------------------------------ phases and their steps


def test_the_phases_are_those_of_the_space():
    names = {family: [phase.name for phase in phases_of(get_search_space(family))]
             for family in FAMILIES}
    assert names["mbv3"] == names["proxyless"] == ["full", "kernel", "depth", "expansion"]
    assert names["resnet50"] == ["full", "depth", "expansion", "width"]


def test_what_is_not_elastic_yet_stays_at_its_largest():
    space = get_search_space("mbv3", resolutions=SIZES)
    smallest, largest = space.extremes()
    full, kernel, depth, last = (Subnets(space, phase) for phase in phases_of(space))
    assert {**full.smallest, "r": 24} == full.largest == largest
    assert kernel.smallest == {**largest, "ks": [3] * 20, "r": 16}
    assert (depth.smallest["d"], set(depth.smallest["e"])) == ([2] * 5, {6})
    assert last.smallest == smallest
    rng = np.random.default_rng(0)
    for subnets, free in ((kernel, {"ks", "r"}), (depth, {"ks", "d", "r"})):
        drawn = [subnets.draw(rng) for _ in range(20)]
        assert {k for arch in drawn for k in arch["ks"]} == {3, 5, 7}
        assert all(set(arch["e"]) == {6} for arch in drawn)
        assert ("d" in free) == (len({d for arch in drawn for d in arch["d"]}) == 3)
    two = Subnets(space, Phase("expansion", ("kernel", "depth", "expansion")), options=2)
    assert {e for _ in range(20) for e in two.draw(rng)["e"]} == {4, 6}


def record(monkeypatch):
    """Lets a network that is none keep what is activated in it, and the images' sizes."""
    active, sizes = [], []
    monkeypatch.setattr("training.subnets.activate", lambda net, arch: active.append(arch))

    def net(images):
        sizes.append(images.shape[-1])
        return torch.randn(len(images), 4, requires_grad=True)

    return net, active, sizes


@pytest.mark.parametrize("rule", ["sandwich", "ofa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_trains_the_subnets_of_its_rule(monkeypatch, rule, family):
    space = get_search_space(family, resolutions=SIZES)
    for phase in phases_of(space):
        net, active, sizes = record(monkeypatch)
        made = rule_class(rule)(phase, space, SIZES, n_random=2, progress=1.0,
                                teacher=torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2),
                                                            torch.nn.Flatten(),
                                                            torch.nn.Linear(12, 4)))
        losses = made(net, torch.randn(5, 3, 24, 24), torch.tensor([0, 1, 2, 3, 0]))
        assert torch.isfinite(sum(loss() for loss in losses))
        assert len(set(sizes)) == 1, "one resolution for each step"
        subnets = Subnets(space, phase)
        if phase.name == "full":
            assert active == [subnets.largest]
        elif rule == "sandwich":
            assert active[:2] == [subnets.largest, subnets.smallest]
            assert len(active) == 4
        else:
            assert len(active) == 2
            assert subnets.largest not in active
        assert made.n_losses == len(active)


def test_the_numbers_of_subnets_are_the_published_ones():
    space = get_search_space("mbv3", resolutions=SIZES)
    numbers = [rule_class("ofa")(phase, space, SIZES).n_random for phase in phases_of(space)[1:]]
    assert numbers == [1, 2, 4]
    early, late = (rule_class("ofa")(phases_of(space)[2], space, SIZES, progress=share).subnets
                   for share in (0.1, 0.5))
    assert (early.smallest["d"], late.smallest["d"]) == ([3] * 5, [2] * 5)
    with pytest.raises(UserError, match="unknown rule of training 'none'; choose from ofa, own_"):
        rule_class("none")


def test_resolutions_are_drawn_for_each_step(monkeypatch):
    net, _, sizes = record(monkeypatch)
    space = get_search_space("mbv3", resolutions=[16, 20, 24])
    rule = rule_class("sandwich")(phases_of(space)[0], space, [16, 20, 24])
    for _ in range(20):
        for loss in rule(net, torch.randn(2, 3, 24, 24), torch.tensor([0, 1])):
            loss()
    assert set(sizes) == {16, 20, 24}


def test_each_subnet_sees_its_own_resolution(monkeypatch):
    net, active, sizes = record(monkeypatch)
    space = get_search_space("mbv3", resolutions=[16, 20, 24])
    whole, *_, last = phases_of(space)
    for phase in (whole, last):
        rule = rule_class("own_sizes")(phase, space, [16, 20, 24], n_random=5)
        losses = rule(net, torch.randn(2, 3, 24, 24), torch.tensor([0, 1]))
        assert torch.isfinite(sum(loss() for loss in losses))
        assert active[0] == rule.subnets.largest and sizes[0] == 24
        assert sizes == [arch["r"] for arch in active]
        if phase == last:
            assert active[1] == rule.subnets.smallest and sizes[1] == 16
            assert len(set(sizes)) == 3
        active.clear(), sizes.clear()


# ---------------------------------------------------------------------------------------- resuming


class StoppedError(Exception):
    """A step that does not come back."""


def stop_after(steps: int):
    left = [steps]

    def on_step(step):
        assert 0 < step.loss < 10, "of a subnet, not a sum"
        left[0] -= 1
        if not left[0]:
            raise StoppedError

    return on_step


def always(label):
    """A teacher that knows one answer."""
    return lambda images: torch.eye(4)[[label] * len(images)] * 20


@pytest.mark.parametrize("rule", ["sandwich", "ofa"])
def test_a_teacher_from_elsewhere_is_learnt_from(provider, rule):
    training = new_training(provider, rule=rule, epochs=[3, 0, 0, 3], kd_ratio=100.0, lr=0.02,
                            shrink_lr=0.02, external=always(2))
    while not training.finished:
        training.train_one_epoch()
    assert training.full is None, "it stands in for the full network"
    net = cut_subnet(training.net, Subnets(training.space, training.phase).largest)
    with torch.no_grad():
        logits = torch.cat([net.train()(images) for images, _ in provider.train_loader()])
    assert (logits.argmax(dim=1) == 2).all()


def test_a_teacher_is_asked_once_for_crops_that_repeat(provider, tmp_path):
    """Epochs 2 and 3 repeat those of 0 and 1; a resumed training asks again and hears the same."""
    whole_images, asked = provider.train_loader(), []

    class Crops(Loader):
        def __iter__(self):
            return ((images.roll(self.epoch, 3), labels) for images, labels in whole_images)

    provider.train_loader = lambda *_, **__: Crops(whole_images)

    def teacher(images):
        asked.append(images)
        return images.mean(dim=(2, 3))[:, [0, 1, 2, 0]] * 3

    def train(training, on_step=None):
        while not training.finished:
            training.train_one_epoch(on_step)
        return training.net.state_dict()

    kept = {"epochs": [2, 0, 0, 2], "teacher_epochs": 2, "external": teacher}
    whole = train(new_training(provider, **kept))
    n_batches = len(new_training(provider).loader)
    assert len(asked) == 2 * n_batches and {len(set(images.shape[2:])) for images in asked} == {1}
    assert {images.shape[-1] for images in asked} == {24}, "the largest size, whatever the step's"
    assert torch.equal(asked[0].roll(1, 3), asked[n_batches])
    cut = new_training(provider, **kept)
    with pytest.raises(StoppedError):
        train(cut, stop_after(3 * n_batches + 1))
    cut.save_state(tmp_path / "state")
    again = new_training(provider, **kept)
    again.resume(tmp_path / "state")
    for name, value in train(again).items():
        assert torch.equal(value, whole[name]), name
    with pytest.raises(UserError, match="teacher_epochs 2, not None"):
        new_training(provider, epochs=[2, 0, 0, 2]).resume(tmp_path / "state")


@pytest.mark.parametrize(("rule", "stop"), [("sandwich", 2), ("sandwich", 5), ("ofa", 3)])
def test_a_training_stopped_at_any_step_ends_like_one_that_went_through(
        provider, tmp_path, rule, stop):
    whole = new_training(provider, rule=rule)
    while not whole.finished:
        whole.train_one_epoch()
    first = new_training(provider, rule=rule)
    on_step = stop_after(stop)
    with pytest.raises(StoppedError):
        while not first.finished:
            first.train_one_epoch(on_step)
    first.save_state(tmp_path / "state")
    second = new_training(provider, rule=rule)
    second.resume(tmp_path / "state")
    assert (second.epoch, second.batch) == (first.epoch, first.batch)
    while not second.finished:
        second.train_one_epoch()
    for key, tensor in whole.net.state_dict().items():
        assert torch.equal(tensor, second.net.state_dict()[key]), key


def test_epochs_can_be_extended_but_not_rewritten(provider, tmp_path):
    training = new_training(provider, epochs=[1, 2, 0, 0])
    while not training.finished:
        training.train_one_epoch()
    training.save_state(tmp_path / "state")
    longer = new_training(provider, epochs=[1, 3, 1, 0])
    longer.resume(tmp_path / "state")
    assert (longer.epoch, longer.n_epochs, longer.phase.name) == (3, 5, "kernel")
    assert longer.train_one_epoch().startswith("kernel 3/3: loss")
    assert longer.train_one_epoch().startswith("depth 1/1: loss")
    for epochs in ([2, 2, 0, 0], [1, 1, 0, 0]):
        with pytest.raises(UserError, match="only later epochs can be added"):
            new_training(provider, epochs=epochs).resume(tmp_path / "state")


def test_resuming_with_other_settings_is_refused(provider, tmp_path):
    new_training(provider).save_state(tmp_path / "state")
    with pytest.raises(UserError, match=r"was trained with lr 0\.001, not 0\.5"):
        new_training(provider, lr=0.5).resume(tmp_path / "state")
    with pytest.raises(UserError, match="with search_space 'mbv3', not 'proxyless'"):
        new_training(provider, "proxyless").resume(tmp_path / "state")
    with pytest.raises(UserError, match="4 numbers, for the phases full, depth, expansion, width"):
        new_training(provider, "resnet50", epochs=[1, 1])


def test_crops_are_as_large_as_asked_for(tmp_path):
    for split in ("train", "test"):
        layouts.class_folders(tmp_path / split, 2, 4)
    crops = {scale: next(iter(new_training(DataProvider(
        "folder", str(tmp_path), crop_scale=scale)).loader))[0] for scale in (None, 0.08, 1.0)}
    assert torch.equal(crops[None], crops[0.08])
    assert not torch.equal(crops[None], crops[1.0])


def test_the_smallest_is_shown_where_it_is_trained(provider):
    training = new_training(provider)
    names = []
    while not training.finished:
        training.train_one_epoch()
        scores = training.score_extremes("test")
        assert all(0 <= score["top1"] <= 100 for score in scores.values())
        names.append(list(scores))
    assert names == [["largest"], ["smallest of the phase kernel", "largest"],
                     ["smallest of the phase depth", "largest"], ["smallest", "largest"]]


# ------------------------------------------------------------------ starts, defaults, estimate


@pytest.mark.parametrize("family", FAMILIES)
def test_a_supernet_starts_from_a_trained_network(family, tmp_path):
    space = get_search_space(family, resolutions=[32])
    torch.manual_seed(1)
    old = build_supernet(4, 0.5, family=family)  # at 0.35, two stages of proxyless look alike
    for i, arch in enumerate([*space.extremes(), *space.sample(3, rng=np.random.default_rng(0))]):
        net = cut_subnet(old, arch)
        networks.write_config(net, tmp_path / "net.config")
        networks.save_weights(net, tmp_path / "net.init")
        new = build_supernet(4, 0.5, family=family)
        found = networks.fill_from_network(new, tmp_path / "net.config", tmp_path / "net.init")
        assert networks.subnet_config(new, found) == networks.subnet_config(old, arch)
        images = torch.randn(2, 3, 32, 32)
        with torch.inference_mode():
            torch.testing.assert_close(cut_subnet(new, arch)(images), net(images), atol=1e-5,
                                       rtol=1e-4)
        with pytest.raises(UserError, match="no subnet of this supernet"):
            networks.fill_from_network(build_supernet(4, 0.75 + i / 4, family=family),
                                       tmp_path / "net.config", tmp_path / "net.init")
    other = "mbv3" if family != "mbv3" else "proxyless"
    with pytest.raises(UserError, match=f"of the family {family}, but the supernet is of {other}"):
        networks.fill_from_network(build_supernet(4, 0.5, family=other), tmp_path / "net.config",
                                   tmp_path / "net.init")


@pytest.mark.parametrize("family", FAMILIES)
def test_other_classes_get_a_new_classifier_alone(family):
    old = build_supernet(4, 0.1, family=family)
    new = networks.with_classes(old, 7)
    assert new.classifier.out_features == 7
    for key, tensor in old.state_dict().items():
        assert key.startswith("classifier.") or torch.equal(tensor, new.state_dict()[key])


def test_defaults_follow_the_pictures():
    digits = DataProvider("digits", vld_size=300)
    assert picture_size(digits) == 8
    assert default_resolutions(8, [1]) == default_resolutions(32, [1]) == [32, 36, 40, 44, 48]
    assert default_resolutions(64, [1]) == [64, 72, 80, 88, 96]
    assert default_resolutions(300, range(192, 257, 4)) == list(range(192, 257, 4))
    assert default_epochs(4, 1197, 8) == default_epochs(4, 10**6, 300) == [60, 20, 20, 60]
    assert default_epochs(4, 45_000, 32) == [5, 2, 2, 5]
    assert default_epochs(4, 10**7, 32) == [1, 1, 1, 1]


def test_defaults_of_pretrained_weights_follow_the_pictures():
    assert default_resolutions(32, [1], pretrained=True) == [64, 96]
    assert default_resolutions(64, [1], pretrained=True) == [96, 128, 160]
    assert default_resolutions(120, [1], pretrained=True) == [128, 160]
    assert default_resolutions(300, [192, 224], pretrained=True) == [192, 224]
    epochs = [default_epochs(4, n, 32, pretrained=True) for n in (100, 500, 10**6)]
    assert epochs == [[0, 0, 0, 40], [0, 0, 0, 20], [0, 0, 0, 6]]


def test_typed_flags_stay_with_pretrained_weights():
    parser = train_supernet.get_args_parser()
    args = adapted(parser.parse_args(["--pretrained", "auto", "--batch_size", "128"]))
    assert (args.batch_size, args.shrink_lr, args.patience) == (128, 1e-3, 4)
    assert parser.parse_args([]).patience is None


def test_a_training_ends_when_nothing_improves(provider, tmp_path):
    training = new_training(provider, epochs=[9, 0, 0, 0], patience=2)
    scores = [{"smallest": {"loss": 3.0}, "largest": {"loss": 1.0}},
              {"smallest": {"loss": 1.0}, "largest": {"loss": 2.0}},
              {"largest": {"loss": 1.5}}, {"largest": {"loss": 1.6}}]
    assert [training.improves(score) for score in scores[:3]] == [True, True, False]
    assert (training.best, training.stale, training.finished) == (1.5, 1, False)
    training.save_state(tmp_path / "state")
    again = new_training(provider, epochs=[9, 0, 0, 0], patience=2)
    again.resume(tmp_path / "state")
    assert not again.improves(scores[3])
    assert again.finished
    assert not new_training(provider, epochs=[9, 0, 0, 0]).finished


def test_the_best_weights_are_kept(monkeypatch, tmp_path, capsys):
    losses = iter([3.0, 1.0, 2.0, 2.0])
    monkeypatch.setattr(SupernetTraining, "score_extremes", lambda _, split: {
        "largest": {"loss": next(losses) if split == "valid" else 1.0, "top1": 10.0}})
    flags = ("--save", tmp_path / "net_w0.1", "--dataset", "digits", "--vld_size", 1000, *TINY,
             "--epochs", "9,0,0,0", "--eval_every", 1, "--patience", 2)
    train_supernet.main(train_supernet.get_args_parser().parse_args([str(word) for word in flags]))
    assert "full 4/9" in capsys.readouterr().out
    assert load_supernet(tmp_path / "net_w0.1").meta["epochs_done"] == 2


def test_time_left_knows_that_later_phases_are_slower():
    times = TimeLeft([1.0, 3.0], [2, 2], batches=10)
    assert times.total() == 20 + 60
    assert times.total(1, 5) == 5 + 60
    assert times.total(3, 0) == 30
    assert times.total(4) == 0
    taught = TimeLeft([1.0, 3.0], [2, 2], batches=10, teacher=0.5, taught=10, first=5)
    assert taught.total() == 80 + 7.5
    assert taught.total(1, 5) == 5 + 60
    assert duration(3725) == "1:02:05"


# ------------------------------------------------------------------------------------- the command


def run(tmp_path, run_command, *flags):
    return run_command("train_supernet.py", *flags, cwd=ROOT)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_learns_the_digits(tmp_path, capsys, family):
    """From images to a supernet that a search can take, its accuracies far above chance."""
    path = tmp_path / "ofa_digits_w0.25"
    flags = ("--save", path, "--search_space", family, *TINY[:2], "--batch_size", 64, "--n_random",
             1, "--threads", 1, "--epochs", "4,0,0,3", "--lr", 3e-3)

    def train(*more) -> str:
        parser = train_supernet.get_args_parser()
        train_supernet.main(parser.parse_args([str(word) for word in (*flags, *more)]))
        return capsys.readouterr().out

    planned = train("--dry_run")
    assert "estimate: 0:" in planned
    assert 0.1 < float(re.search(r"memory +([\d.]+) GB of RAM", planned)[1]) < 100
    assert not list(tmp_path.iterdir()), "a dry run writes nothing"
    lines = train().splitlines()
    last = next(line for line in lines if line.startswith("test images:"))
    assert lines[-1].startswith(f"next, a search: python msunas.py --supernet_path {path} --save ")
    smallest, largest = (float(part.split()[-2]) for part in last.split(","))
    print(f"{family}: {last}")
    assert largest > 40
    assert smallest > 15
    supernet = load_supernet(path, family=family)
    assert supernet.meta["search_space"] == family
    assert supernet.meta["resolutions"] == [16]
    assert supernet.meta["dataset"] == "digits"
    assert (supernet.meta["width"], supernet.width_mult) == (0.25, 0.25)
    assert len(supernet.meta["mean"]) == 3
    json.dumps(supernet.meta)


@pytest.mark.slow
def test_command_is_interrupted_and_goes_on_by_itself(run_command, tmp_path):
    path = tmp_path / "ofa_digits_w0.1"
    process = subprocess.Popen(
        [sys.executable, "train_supernet.py", "--save", str(path), "--epochs", "1", "0", "0",
         "40", *map(str, TINY)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True)
    try:
        while "expansion 1/40" not in (line := process.stdout.readline()):
            assert line, process.stderr.read()
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert f"resume with: python train_supernet.py --resume {path}" in errors
    assert load_supernet(path).classifier.out_features == 10
    done = run_command("train_supernet.py", "--resume", tmp_path, "--epochs", "1,0,0,4")
    if done.returncode:  # more than 4 epochs were done before the signal came
        assert "only later epochs" in done.stderr
        return
    assert "test images: smallest" in done.stdout
    assert "full 1/1" not in done.stdout
    written = path.read_bytes()
    done = run_command("train_supernet.py", "--resume", path)
    assert done.returncode == 0, done.stderr
    assert "expansion 1" not in done.stdout, "nothing is left to train"
    assert load_supernet(path).meta["epochs"] == [1, 0, 0, 4]
    assert len(path.read_bytes()) == len(written)


@pytest.mark.slow
def test_two_processes_train_one_supernet(run_command, tmp_path):
    path = tmp_path / "ofa_digits_w0.1"
    done = run_command("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2,
                       "train_supernet.py", "--save", path, "--epochs", "1,0,0,1", "--device",
                       "cpu", *TINY, "--teacher", "data/ofa_digits_d234_e346_k357_w0.35",
                       "--teacher_size", 24, "--teacher_amp", "bfloat16")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test images: smallest") == 1
    assert "2 x cpu" in done.stdout
    assert load_supernet(path).meta["epochs_done"] == 2


@pytest.mark.slow
def test_a_training_on_nan_stops_and_keeps_the_last_finite_state(tmp_path, capsys):
    """Pictures of one colour can do it; weights as large as these surely do, in the second step."""
    for split in ("train", "val"):
        for name in ("one", "two"):
            (tmp_path / "pictures" / split / name).mkdir(parents=True)
            for i in range(8):
                Image.new("RGB", (32, 32), (120, 80, 40)).save(
                    tmp_path / "pictures" / split / name / f"{i}.png")
    path = tmp_path / "ofa_one_colour_w0.1"
    flags = ["--dataset", "folder", "--data", str(tmp_path / "pictures"), "--threads", "1",
             "--lr", "1e9", "--epochs", "3,0,0,0"]

    def train(*more) -> None:
        train_supernet.main(train_supernet.get_args_parser().parse_args([*more, *flags]))

    with pytest.raises(UserError, match=r"not finite in full [23]/3|not written, .* became NaN"):
        train("--save", str(path))
    state = path.with_name(path.name + ".state")
    written = path.read_bytes(), state.read_bytes()
    assert load_supernet(path).meta["epochs_done"] in (1, 2), "a good checkpoint, which loads"
    assert "next, a search" not in capsys.readouterr().out
    with pytest.raises(UserError, match=r"not finite in full|not written"):
        train("--resume", str(path))
    assert written == (path.read_bytes(), state.read_bytes())


def test_a_loss_that_is_not_finite_ends_the_step(provider, tmp_path):
    """Before anything is saved: the steps before it are."""
    training = new_training(provider)
    bad = iter((1.0, float("nan")))
    steps = []

    def rule(net, images, labels):
        factor = next(bad)
        rule.n_losses = 1
        return [lambda: factor * sum(p.sum() for p in net.classifier.parameters())]

    training._rule = lambda *_: rule
    with pytest.raises(UserError, match="not finite in full 1/1, step 2"):
        training.train_one_epoch(steps.append)
    assert len(steps) == 1
    with pytest.raises(UserError, match="not written"):
        training.save_state(tmp_path / "x.state")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("space", ["mbv3", "mine:Space"])
def test_the_next_command_is_one_that_msunas_takes(space):
    args = train_supernet.get_args_parser().parse_args(
        ["--save", "runs/a net_w0.1", "--dataset", "folder", "--data", "my pictures"])
    args.search_space = space
    command = shlex.split(search_command(args, Path("runs/a net_w0.1")))
    assert command[:2] == ["python", "msunas.py"]
    read = msunas.get_args_parser().parse_args(command[2:])
    assert (read.supernet_path, read.data) == ("runs/a net_w0.1", "my pictures")
    assert ("search_space" in read.typed) == (space != "mbv3"), "code is typed in every call"
    assert read.save == "runs/a net_w0.1-flops"


@pytest.mark.parametrize(("flags", "match"), [
    ((), "--save is needed"),
    (("--save", "supernet"), "width multiplier"),
    (("--save", "x_w0.1", "--resume"), "no such state"),
    (("--resume", "x_w0.1"), "no such state"),
    (("--resume", "tests"), "0 states of trainings in this folder"),
    (("--save", "x_w0.1", "--epochs", 0, 0, 0, 0), "--epochs"),
    (("--save", "x_w0.1", "--resolutions", 48, 32), "ascending"),
    (("--save", "x_w0.1", "--init", "y_w0.2"), "another width"),
    (("--save", "x_w0.1", "--init", "y_w0.1", "--from", "a", "b"), "starts from one of them"),
    (("--save", "x_w0.1", "--teacher_size", 32), "without --teacher"),
    (("--save", "x_w0.1", "--teacher_epochs", 3), "without --teacher"),
    (("--save", "x_w0.1", "--teacher", "no_such_model", "--dataset", "folder", "--data", "absent",
      "--dry_run"), "a model that timm knows"),  # before the images are looked for
    (("--save", "x_w0.1", "--crop_scale", 0.5), "no random part is cut out"),  # of the digits
    (("--save", "x_w0.1", "--search_space", "mbv4"), "unknown search space 'mbv4'"),
])
def test_bad_input(fails_clearly, flags, match):
    fails_clearly("train_supernet.py", *flags, match=match)


@pytest.mark.parametrize(("flags", "dataset"), [
    ((), "digits"), (("--data", "D"), "folder"), (("--data", "D", "--dataset", "dtd"), "dtd"),
    (("--data", "D", "--dataset", "digits"), None), (("--data", "D", "--resume"), None)])
def test_a_folder_that_is_typed_is_used_or_refused(flags, dataset):
    args = train_supernet.get_args_parser().parse_args(["--save", "f_w0.1", *flags])
    if dataset:
        assert train_supernet.chosen_dataset(args) == dataset
        return
    with pytest.raises(UserError, match=r"--data D: would not be read.*--dataset folder"):
        train_supernet.chosen_dataset(args)


@pytest.mark.slow
def test_pictures_of_ones_own_train_a_supernet(run_command, tmp_path):
    for part in ("train", "val"):
        layouts.class_folders(tmp_path / "pictures" / part, 3, 4)
    done = run_command("train_supernet.py", "--save", tmp_path / "own_w0.1", "--data",
                       tmp_path / "pictures", "--epochs", 1, 0, 0, 0, "--resolutions", 16,
                       "--batch_size", 4)
    assert done.returncode == 0 and "12 training images of folder (3 classes" in done.stdout, \
        done.stdout + done.stderr
    assert networks.supernet_info.read_supernet_info(tmp_path / "own_w0.1").dataset == "folder"


def test_patience_needs_validation_images(fails_clearly, tmp_path):
    for split in ("train", "test"):
        layouts.class_folders(tmp_path / "pictures" / split, 2, 4)
    fails_clearly("train_supernet.py", "--save", tmp_path / "x_w0.1", "--data",
                  tmp_path / "pictures", "--patience", 3, match="there are no validation images")


def test_an_existing_checkpoint_is_left_alone(fails_clearly, tmp_path):
    path = tmp_path / "x_w0.1"
    path.write_bytes(b"precious")
    fails_clearly("train_supernet.py", "--save", path, match="holds weights, but there is no")
    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize("flags", [("--save",), ("--resume", "--save"), ("--resume",)])
def test_weights_without_a_state_lead_somewhere(fails_clearly, tmp_path, flags):
    """A full disk may leave them: neither way of starting may point to the other one."""
    path = tmp_path / "x_w0.1"
    path.write_bytes(b"precious")
    fails_clearly("train_supernet.py", *flags, path, match=f"with --init {path}")
    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize(("flag", "value"), [
    ("search_space", "evil:Space"), ("rule", "evil:Rule"), ("teacher", "resnet18")])
def test_what_a_received_state_names_is_neither_run_nor_fetched(tmp_path, monkeypatch, flag, value):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    networks.save_training_state(tmp_path / "x_w0.1.state", epoch=0, optimizer={}, state_dict={},
                                 flags={flag: value, "download": True, "lr": 0.5})
    parse = train_supernet.get_args_parser().parse_args
    with pytest.raises(UserError, match=f"type again: --{flag} {value}$"):
        train_supernet.main(parse(["--resume", str(tmp_path)]))
    taken = train_supernet.resumed_flags(parse(["--resume", str(tmp_path), f"--{flag}", value]))
    assert taken.lr == 0.5 and not taken.download, "which is typed in every call"
    assert not (tmp_path / "ran").exists()
    assert f"--{flag} {value}" in train_supernet.resume_command(taken, tmp_path / "x_w0.1")


def test_the_parser_names_rules_and_spaces(capsys):
    with pytest.raises(SystemExit):
        train_supernet.get_args_parser().parse_args(["--help"])
    text = capsys.readouterr().out
    assert "proxyless" in text
    assert all(f" {name}:" in " ".join(text.split()) for name in ("sandwich", "own_sizes", "ofa"))
