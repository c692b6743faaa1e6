"""Training a supernet: progressive shrinking with the sandwich rule and distillation in place."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from networks.batch_norm import recalibrate_bn
from networks.checkpoints import load_state, load_training_state, save_training_state
from networks.supernets import cut_subnet
from search_space import OFASearchSpace
from training.loops import cosine, evaluate, load_optimizer, soft_cross_entropy, train_one_epoch
from utils.devices import device_of, seeded
from utils.errors import UserError

N_LAYERS, N_STAGES = 20, 5


class Phase(NamedTuple):
    """What is elastic in one part of the training: kernel sizes, depths, expansions."""

    name: str
    ks: tuple[int, ...] = (7,)
    d: tuple[int, ...] = (4,)
    e: tuple[int, ...] = (6,)


# Once for All (Cai et al., ICLR 2020), Section 3.3: each phase makes one more dimension elastic.
PHASES = (
    Phase("full"),
    Phase("kernel", ks=(3, 5, 7)),
    Phase("depth", ks=(3, 5, 7), d=(2, 3, 4)),
    Phase("expand", ks=(3, 5, 7), d=(2, 3, 4), e=(3, 4, 6)),
)


class Sandwich:
    """The objective of a supernet: the largest, the smallest and some random subnets in each step.

    The largest learns from the labels, its output teaches the others in the same step (sandwich
    rule and in-place distillation: Yu et al., BigNAS, ECCV 2020). Each step draws one resolution,
    to which the images are reduced on the device.

    Args:
        phase: what is elastic.
        resolutions: to draw from; images come in the largest.
        rng: draws subnets and resolutions.
        n_random: subnets besides the largest and the smallest.
        kd_ratio: weight of the teacher's output against the labels for all but the largest:
            (labels + kd_ratio * teacher) / (1 + kd_ratio).
        smoothing: label smoothing.
    """

    def __init__(self, phase: Phase, resolutions: Sequence[int], rng: np.random.Generator,
                 n_random: int = 2, kd_ratio: float = 1.0, smoothing: float = 0.0) -> None:
        self.phase, self.resolutions, self.rng = phase, list(resolutions), rng
        self.n_random, self.kd_ratio, self.smoothing = n_random, kd_ratio, smoothing

    def __call__(self, net: Any, images: Tensor, labels: Tensor) -> list[Callable]:
        """Returns the losses of one step, one for each subnet; see `training.loops`."""
        images = self._resized(images)
        soft: list[Tensor] = []

        def largest() -> Tensor:
            net.set_max_net()
            logits = net(images)
            soft.append(logits.detach())
            return F.cross_entropy(logits, labels, label_smoothing=self.smoothing)

        def student(subnet: dict[str, Sequence[int]]) -> Tensor:
            net.set_active_subnet(**subnet)
            logits = net(images)
            hard = F.cross_entropy(logits, labels, label_smoothing=self.smoothing)
            return (hard + self.kd_ratio * soft_cross_entropy(logits, soft[0])) \
                / (1 + self.kd_ratio)

        return [largest, *(lambda subnet=subnet: student(subnet) for subnet in self._students())]

    def _students(self) -> list[dict[str, Sequence[int]]]:
        elastic = {key: options for key, options in self.phase._asdict().items()
                   if key != "name"}
        if all(len(options) == 1 for options in elastic.values()):
            return []
        smallest = {key: _repeat(key, [min(options)]) for key, options in elastic.items()}
        return [smallest, *({key: self.rng.choice(options, len(smallest[key])).tolist()
                             for key, options in elastic.items()} for _ in range(self.n_random))]

    def _resized(self, images: Tensor) -> Tensor:
        size = int(self.rng.choice(self.resolutions))
        if images.shape[-1] == size:
            return images
        return F.interpolate(images, size=size, mode="bilinear", antialias=True)


def _repeat(key: str, value: list[int]) -> list[int]:
    return value * (N_STAGES if key == "d" else N_LAYERS)


@dataclass(frozen=True)
class Recipe:
    """How a supernet is trained; `train_supernet.py --help` says what each value means."""

    resolutions: list[int]
    epochs: list[int]
    batch_size: int
    opt: str
    lr: float
    shrink_lr: float
    weight_decay: float
    clip_grad: float
    smoothing: float
    n_random: int
    kd_ratio: float
    amp: str | None
    seed: int


class SupernetTraining:
    """A supernet on its way through the phases, its optimiser, and how far they are.

    All randomness of an epoch comes from the seed and the epoch's number, so that a training that
    was stopped and resumed ends like one that was not.

    Args:
        net: the supernet, on its device; trained in place.
        provider: a `data_providers.DataProvider`.
        recipe: the settings.
        **identity: plain values that must be equal when a training is resumed (the data set's name
            and the like).

    Attributes:
        epoch: epochs done, over all phases.
        n_epochs: epochs of all phases.
    """

    def __init__(self, net: Any, provider: Any, recipe: Recipe, **identity: Any) -> None:
        self.net, self.provider, self.recipe = net, provider, recipe
        self.settings = {**asdict(recipe), **identity}
        self.epoch, self.n_epochs = 0, sum(recipe.epochs)
        self.loader = provider.train_loader(
            max(recipe.resolutions), recipe.batch_size, seed=recipe.seed,
            drop_last=provider.n_train >= recipe.batch_size)
        self.scaler = torch.amp.GradScaler(device_of(net).type, enabled=recipe.amp == "float16")
        self._start_phase()

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch == self.n_epochs

    def train_one_epoch(self) -> str:
        """Trains one epoch and returns a line about it."""
        recipe, (phase, done) = self.recipe, self._position()
        if done == 0 and self.epoch > 0:
            if phase == len(PHASES) - 1:
                self.net.re_organize_middle_weights()
            self._start_phase()
        objective = Sandwich(PHASES[phase], recipe.resolutions,
                             np.random.default_rng([recipe.seed, self.epoch]), recipe.n_random,
                             recipe.kd_ratio, recipe.smoothing)
        self.loader.set_epoch(self.epoch)
        with seeded(recipe.seed + self.epoch):
            figures = train_one_epoch(
                self.net, self.loader, self.optimizer, objective=objective, amp=recipe.amp,
                scaler=self.scaler, clip_grad=self._clip, on_step=self._on_step)
        self.epoch += 1
        left = time.strftime("%H:%M:%S", time.gmtime(
            figures["seconds"] * (self.n_epochs - self.epoch)))
        return (f"{PHASES[phase].name} {done + 1}/{recipe.epochs[phase]}: loss "
                f"{figures['loss']:.4f}, {figures['images_per_s']:.0f} images/s, {left} left")

    def score_extremes(self, split: str) -> dict[str, float]:
        """Returns the top-1 accuracy in percent of the smallest and the largest subnet.

        Cut, calibrated and validated as an evaluation of a search is.
        """
        archs = OFASearchSpace(self.recipe.resolutions).extremes()
        top1 = {}
        for name, arch in zip(("smallest", "largest"), archs, strict=True):
            net = cut_subnet(self.net, arch)
            recalibrate_bn(net, self.provider.calibration_batches(arch["r"]))
            top1[name] = evaluate(net, self.provider.eval_batches(split, arch["r"]))["top1"]
        return top1

    def save_state(self, path: str | os.PathLike) -> None:
        """Writes what `resume` needs."""
        save_training_state(
            path, state_dict=self.net.state_dict(), epoch=self.epoch, step=self.step,
            optimizer=self.optimizer.state_dict(), scaler=self.scaler.state_dict(),
            settings=self.settings)

    def resume(self, path: str | os.PathLike) -> None:
        """Goes on from a state file.

        Raises:
            UserError: no state of a supernet training, or one of other settings.
        """
        state = load_training_state(path)
        stored = state.get("settings")
        if not isinstance(stored, dict):
            raise UserError(f"{path}: not the state of a supernet training")
        for key, value in self.settings.items():
            if stored.get(key) != value:
                raise UserError(f"{path}: was trained with {key} {stored.get(key)!r}, not "
                                f"{value!r}; resume with the flags that it was started with")
        load_state(self.net, state["state_dict"], str(path))
        self.epoch = state["epoch"]
        self._start_phase()
        try:
            self.step = int(state["step"])
            load_optimizer(self.optimizer, state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: no complete state of a supernet training ({error}); start "
                            "again from its weights with --init") from None

    def _start_phase(self) -> None:
        """Makes the optimiser and the schedule of the current phase anew."""
        recipe, self.step = self.recipe, 0
        self.optimizer = create_optimizer_v2(self.net, recipe.opt, lr=recipe.lr,
                                             weight_decay=recipe.weight_decay)
        self._set_lr()

    def _on_step(self, *_: Any) -> None:
        self.step += 1
        self._set_lr()

    def _set_lr(self) -> None:
        phase, _ = self._position()
        n_steps = self.recipe.epochs[phase] * len(self.loader)
        lr = self.recipe.shrink_lr if phase else self.recipe.lr
        warm_up = min(1.0, (self.step + 1) / (1 + len(self.loader)))
        for group in self.optimizer.param_groups:
            group["lr"] = lr * warm_up * cosine(self.step, n_steps)

    def _clip(self) -> None:
        nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.clip_grad)

    def _position(self) -> tuple[int, int]:
        """Returns the phase that the next epoch belongs to, and the epochs done in it."""
        done = self.epoch
        for phase, length in enumerate(self.recipe.epochs):
            if done < length:
                return phase, done
            done -= length
        return len(PHASES) - 1, self.recipe.epochs[-1]
