"""Training a supernet phase by phase: its optimiser, its schedule, its state."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from networks.batch_norm import recalibrate_bn
from networks.checkpoints import load_state, load_training_state, save_training_state
from networks.folding import folded, speed_up
from networks.static import StaticNetwork
from networks.supernets import cut_subnet
from search_space import SearchSpace
from training import loops
from training.subnets import Phase, Rule, Subnets, Teaching, phases_of, rule_class
from training.world import World
from utils.devices import device_of, seeded, synchronize, to_device
from utils.errors import UserError

# Settings that may differ when a training is resumed.
CHANGEABLE = ("epochs",)
# Seeds of two steps lie further apart than there are processes.
RANKS = 100_003
TIMED_STEPS = 2


@dataclass(frozen=True)
class Recipe:
    """How a supernet is trained; `train_supernet.py --help` describes each value."""

    resolutions: list[int]
    epochs: list[int]
    batch_size: int
    opt: str
    lr: float
    shrink_lr: float
    weight_decay: float
    clip_grad: float
    smoothing: float
    n_random: int | None
    kd_ratio: float
    amp: str | None
    seed: int
    rule: str = "sandwich"
    crop_scale: float | None = None
    teacher_epochs: int | None = None
    patience: int | None = None


@dataclass(frozen=True)
class Step:
    """The progress of a training after a step.

    Attributes:
        phase: its name.
        epoch, epochs: the epoch within the phase, from 1, and their number.
        batch, batches: the step within the epoch, from 1, and their number.
        loss: mean over the step's subnets.
        images_per_s: training images a second since the epoch, or its rest, began.
    """

    phase: str
    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float
    images_per_s: float


class SupernetTraining:
    """A supernet in training: its optimiser, its phase and epoch.

    All randomness of a step comes from the seed and the numbers of its epoch and step, so that a
    training that was stopped anywhere and resumed gives the same weights as one that was not.

    Args:
        net: the supernet, on its device; trained in place, the same on all processes.
        provider: a `data_providers.DataProvider`.
        recipe: the settings.
        space: the search space, with the training's resolutions.
        world: the processes that share each step's images; None: this one alone.
        external: a teacher, images of the largest resolution -> logits on the supernet's device,
            next to the labels; rules that need a teacher use it instead of the full network.
        **identity: plain values that must be equal when a training is resumed (the data set's name
            and the like).

    Attributes:
        epoch: epochs done, over all phases.
        batch: batches done of the present epoch.
        n_epochs: epochs of all phases.
        best: the lowest mean loss on the validation images so far.
        stale: measurements since then.
        measured: the epoch of the last measurement.
        phases: those of the space.
        full: the full network after its phase, where it teaches.
    """

    def __init__(self, net: Any, provider: Any, recipe: Recipe, space: SearchSpace,
                 world: World | None = None, external: Teaching | None = None,
                 **identity: Any) -> None:
        speed_up(net)
        self.net, self.provider, self.recipe, self.space = net, provider, recipe, space
        self.world = world or World(device_of(net))
        self.phases = phases_of(space)
        if len(recipe.epochs) != len(self.phases):
            raise UserError(f"--epochs: {len(self.phases)} numbers, for the phases "
                            f"{', '.join(phase.name for phase in self.phases)}; not "
                            f"{len(recipe.epochs)}")
        self.settings = {**asdict(recipe), "search_space": space.name, **identity}
        self.epoch, self.batch, self.n_epochs = 0, 0, sum(recipe.epochs)
        self.best, self.stale, self.measured = float("inf"), 0, 0
        self.external = (None if external is None
                         else loops.KeptLogits(external, recipe.teacher_epochs))
        self.full: StaticNetwork | None = None
        self.step, self.optimizer = 0, self._new_optimizer()
        self.loader = provider.train_loader(
            max(recipe.resolutions), recipe.batch_size, seed=recipe.seed,
            drop_last=provider.n_train >= recipe.batch_size * self.world.size,
            rank=self.world.rank, world_size=self.world.size, device=self.world.device)
        self.scaler = torch.amp.GradScaler(device_of(net).type, enabled=recipe.amp == "float16")
        self._begin_schedule()

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or nothing improves any more."""
        patience = self.recipe.patience
        return self.epoch == self.n_epochs or (patience is not None and self.stale >= patience)

    def improves(self, scores: Mapping[str, Mapping[str, float]]) -> bool:
        """Notes a measurement of the first process; returns whether it is the best so far.

        Losses are compared: accuracies on few images are rough.
        """
        mean = sum(score["loss"] for score in scores.values()) / max(len(scores), 1)
        loss = self.world.sum(torch.tensor(mean if self.world.primary else 0.0)).item()
        better = loss < self.best
        self.best, self.stale = min(loss, self.best), 0 if better else self.stale + 1
        self.measured = self.epoch
        return better

    @property
    def phase(self) -> Phase:
        """The phase that the next step belongs to; at the end, that of the last one."""
        return self.phases[self._position()[0]]

    def train_one_epoch(self, on_step: Callable[[Step], None] | None = None) -> str:
        """Trains one epoch, or the rest of one, and returns a line about it.

        Args:
            on_step: called after each step; it may raise to end the epoch.

        Raises:
            UserError: the loss is not finite.
        """
        phase, done = self._position()
        if done == 0 and self.batch == 0:
            self._start_phase(phase)
        recipe, began, first = self.recipe, time.perf_counter(), self.batch
        name, total = self.phases[phase].name, recipe.epochs[phase]
        rule = self._rule(phase, done / total)
        n_images = 0

        def objective(net: Any, images: Tensor, labels: Tensor) -> Sequence[Callable[[], Tensor]]:
            rule.rng = np.random.default_rng([recipe.seed, self.epoch, self.batch])
            torch.manual_seed(recipe.seed + RANKS * (
                self.epoch * len(self.loader) + self.batch) + self.world.rank)
            nonlocal n_images
            n_images += len(images) * self.world.size
            if self.external:
                soft = self.external(images, self.epoch, self.batch)
                rule.teacher = lambda _: soft
            return rule(net, images, labels)

        def after_step(_: int, loss: Tensor) -> None:
            self.batch, self.step = self.batch + 1, self.step + 1
            self._set_lr()
            mean = self.world.sum(loss.cpu()).item() / self.world.size / rule.n_losses
            loops.check_loss(mean, f"{name} {done + 1}/{total}, step {self.batch}",
                             "choose smaller --lr and --shrink_lr; --init starts from what was "
                             "saved")
            if on_step:
                on_step(Step(name, done + 1, total, self.batch, len(self.loader), mean,
                             n_images / (time.perf_counter() - began)))

        self.loader.set_epoch(self.external.crops(self.epoch) if self.external else self.epoch)
        with seeded(recipe.seed):
            figures = loops.train_one_epoch(
                self.net, islice(self.loader, first, None), self.optimizer, objective=objective,
                amp=recipe.amp, scaler=self.scaler, on_step=after_step, clip_grad=partial(
                    nn.utils.clip_grad_norm_, [*self.net.parameters()], recipe.clip_grad),
                after_backward=self._share_gradients if self.world.size > 1 else None)
        self.epoch, self.batch = self.epoch + 1, 0
        return (f"{name} {done + 1}/{total}: loss "
                f"{figures['loss'] / rule.n_losses:.4f} a subnet, "
                f"{figures['images_per_s'] * self.world.size:.0f} images/s")

    @property
    def taught_steps(self) -> int:
        """The number of remaining steps that call the external teacher."""
        epochs = 0 if self.external is None else self.n_epochs - self.epoch
        return min(epochs, self.recipe.teacher_epochs or epochs) * len(self.loader)

    def seconds_of_a_step(self, phase: int) -> float:
        """Measures a step of a phase, with the loading of its images, on a copy of the supernet.

        An external teacher is not included.
        """
        net, rule = copy.deepcopy(self.net).train(), self._rule(phase, 1.0, copy_teacher=True)
        if self.external:
            rule.teacher = lambda images: images.new_zeros(len(images), self.provider.n_classes)
        net.to(memory_format=torch.channels_last)
        device, seconds = device_of(net), 0.0
        no_scaler = torch.amp.GradScaler(enabled=False)
        self.loader.set_epoch(0)
        batches = chain.from_iterable(repeat(self.loader))  # it may have fewer than the steps
        for i in range(1 + TIMED_STEPS):
            began = time.perf_counter()
            images, labels = next(batches)
            losses = rule(net, to_device(images, device), labels.to(device))
            loops.add_gradients(net, losses, no_scaler, self.recipe.amp)
            synchronize(device)
            seconds += (time.perf_counter() - began) * (i > 0)
        return seconds / TIMED_STEPS

    def seconds_of_the_teacher(self) -> float:
        """Measures the external teacher on one batch; 0 without one."""
        if self.external is None:
            return 0.0
        self.loader.set_epoch(0)
        images = to_device(next(iter(self.loader))[0], self.world.device)
        with torch.no_grad():
            for _ in range(2):  # the first one warms up
                began = time.perf_counter()
                self.external.teacher(images)
                synchronize(self.world.device)
        return time.perf_counter() - began

    def score_extremes(self, split: str) -> dict[str, dict[str, float]]:
        """Returns what `loops.evaluate` measures of the smallest and the largest subnet.

        They are cut, calibrated and validated as in a search. The smallest is that of the trained
        phases; without one, where only the full network was trained.
        """
        phase = self.phases[self._position(self.epoch - 1)[0] if self.epoch and not self.batch
                            else self._position()[0]]
        subnets, scores, device = Subnets(self.space, phase), {}, self.world.device
        archs = {"largest": subnets.largest}
        if phase.elastic:
            whole = phase == self.phases[-1]
            archs = {"smallest" if whole else f"smallest of the phase {phase.name}":
                     subnets.smallest, **archs}
        for name, arch in archs.items():
            net = cut_subnet(self.net, arch)
            speed_up(net)
            recalibrate_bn(net, self.provider.calibration_batches(arch["r"], device=device))
            images = self.provider.eval_batches(split, arch["r"], device=device)
            scores[name] = loops.evaluate(folded(net), images)
        return scores

    def save_state(self, path: str | Path, **extra: Any) -> None:
        """Writes what `resume` needs, and `extra` plain values."""
        teacher = {} if self.full is None else {"teacher": self.full.state_dict()}
        save_training_state(
            path, state_dict=self.net.state_dict(), epoch=self.epoch, batch=self.batch,
            step=self.step, optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(), settings=self.settings, best=self.best,
            stale=self.stale, measured=self.measured, **teacher, **extra)

    def resume(self, path: str | Path) -> None:
        """Continues from a state file. Epochs of phases that are not finished may differ.

        Raises:
            UserError: no state of a supernet training, or one of other settings.
        """
        state = load_training_state(path)
        stored = state.get("settings")
        if not isinstance(stored, dict):
            raise UserError(f"{path}: not the state of a supernet training")
        for key, value in self.settings.items():
            if key not in CHANGEABLE and key in stored and stored[key] != value:
                raise UserError(f"{path}: was trained with {key} {stored[key]!r}, not {value!r}; "
                                "resume with the flags that it was started with")
        self.epoch = self._epochs_done(state["epoch"], stored.get("epochs"), path)
        load_state(self.net, state["state_dict"], str(path))
        if self._position()[0] and "teacher" in state:
            self.full = self._full_network()
            load_state(self.full, state["teacher"], str(path))
        self._begin_schedule()
        try:
            self.step, self.batch = int(state["step"]), int(state.get("batch", 0))
            self.best, self.stale = float(state.get("best", "inf")), int(state.get("stale", 0))
            self.measured = int(state.get("measured", self.epoch))
            loops.load_optimizer(self.optimizer, state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: no complete state of a supernet training ({error}); start "
                            "again from its weights with --init") from None
        self._set_lr()

    def _epochs_done(self, done: int, planned: Any, path: str | Path) -> int:
        """Returns the epochs done in terms of the present plan, which may be longer."""
        now = self.recipe.epochs
        planned = now if planned is None else planned
        if not isinstance(planned, list) or len(planned) != len(now):
            raise UserError(f"{path}: was trained in other phases, with --epochs {planned}")
        phase, within = self._position(done, planned)
        if now[:phase] != planned[:phase] or now[phase] < within:
            raise UserError(f"{path}: {done} epochs of {planned} are done; --epochs {now} changes "
                            "phases that are finished; only later epochs can be added or left out")
        return sum(now[:phase]) + within

    def _rule(self, phase: int, progress: float, copy_teacher: bool = False) -> Rule:
        recipe, kind = self.recipe, rule_class(self.recipe.rule)
        teacher: Teaching | None = self.full
        if copy_teacher and kind.needs_teacher and self.external is None:
            teacher = self._full_network()
        return kind(self.phases[phase], self.space, recipe.resolutions, progress=progress,
                    n_random=recipe.n_random, kd_ratio=recipe.kd_ratio,
                    smoothing=recipe.smoothing, teacher=teacher)

    def _start_phase(self, phase: int) -> None:
        """Sorts channels where they become elastic; gives the phase an optimiser and a teacher."""
        needed = rule_class(self.recipe.rule).needs_teacher and self.external is None
        if needed and phase and self.full is None:
            self.full = self._full_network()
        if self.phases[phase].name == "expansion" and not self.settings.get("pretrained"):
            self.net.re_organize_middle_weights()  # the most important channels first
        self._begin_schedule()

    def _full_network(self) -> StaticNetwork:
        """Returns the full network as a teacher: by batch statistics, as in Once for All."""
        full = cut_subnet(self.net, Subnets(self.space, self.phases[0]).largest)
        full.set_dropout(0.0)
        return full.requires_grad_(False).train()

    def _begin_schedule(self) -> None:
        self.step, self.optimizer = 0, self._new_optimizer()
        self._set_lr()

    def _new_optimizer(self) -> torch.optim.Optimizer:
        recipe = self.recipe
        try:
            return create_optimizer_v2(self.net, recipe.opt, lr=recipe.lr,
                                       weight_decay=recipe.weight_decay)
        except (ValueError, TypeError) as error:
            raise UserError(f"--opt {recipe.opt}: {error}") from None

    def _set_lr(self) -> None:
        phase, _ = self._position()
        n_steps = self.recipe.epochs[phase] * len(self.loader)
        lr = self.recipe.shrink_lr if phase else self.recipe.lr
        warm_up = min(1.0, (self.step + 1) / (1 + len(self.loader)))
        for group in self.optimizer.param_groups:
            group["lr"] = lr * warm_up * loops.cosine(self.step, n_steps)

    def _share_gradients(self) -> None:
        """Gives all processes the mean of their gradients; they all trained the same subnets."""
        gradients = [p.grad for p in self.net.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(flat)
        flat /= self.world.size
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def _position(self, done: int | None = None,
                  epochs: Sequence[int] | None = None) -> tuple[int, int]:
        """Returns the phase that the next epoch belongs to, and the epochs done in it."""
        done = self.epoch if done is None else done
        epochs = self.recipe.epochs if epochs is None else epochs
        last = max((i for i, length in enumerate(epochs) if length), default=0)
        for phase, length in enumerate(epochs):
            if done < length:
                return phase, done
            done -= length
        return last, epochs[last]
