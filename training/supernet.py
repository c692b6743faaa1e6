"""A supernet's training from the flags to the checkpoint, for train_supernet.py."""

import argparse
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import nn
from torchvision.transforms.v2 import Resize

from cli.progress import duration
from data_providers import DataProvider
from data_providers.table import get_dataset_info
from data_providers.transforms import CROP_STEP
from networks.checkpoints import load_weights, save_weights
from networks.pretrained import fill_pretrained, fit_to_pictures, statistics_of
from networks.supernet_info import SupernetInfo
from networks.supernets import build_supernet, load_supernet
from networks.warm_start import fill_from_network, with_classes
from search_space import family_of, get_search_space
from search_space.backbones import width_from_name
from training.defaults import default_epochs, default_resolutions, picture_size
from training.flags import OF_A_SUPERNET_CALL
from training.progress import Report, TimeLeft
from training.shrinking import Recipe, Step, SupernetTraining
from training.students import check_teacher, load_teacher, ready_to_teach
from training.subnets import phases_of
from training.world import World
from utils.devices import InPrecision, peak_memory, seeded, warn_if_slow
from utils.errors import UserError
from utils.invocation import calling
from utils.locks import Lock
from utils.registry import code_in

# Flags next to the recipe that a resumed training must share.
IDENTITY = ("dataset", "vld_size", "init", "from_", "pretrained", "teacher", "teacher_checkpoint",
            "teacher_size", "teacher_amp")


def train(args: argparse.Namespace, checkpoint: Path, state: Path, world: World,
          lock: Lock | None, resume: str) -> SupernetTraining:
    """Trains to the last epoch; nobody else may write the checkpoint meanwhile.

    Args:
        args: the flags, checked.
        checkpoint: the weights, written after each epoch.
        state: what a resumed training needs.
        world: the processes.
        lock: of the checkpoint; None in a process that writes nothing.
        resume: the command that resumes the training, printed where it is interrupted.

    Returns:
        The training, with the weights that were kept; of a dry run, at its beginning.

    Raises:
        UserError: whatever is wrong with flags and files.
        KeyboardInterrupt: after a signal, once the state is saved.
    """
    training = prepare(args, world)
    for precision in {args.amp, args.teacher_amp} if world.primary else ():
        warn_if_slow(precision, world.device)
    if args.resume:
        training.resume(state)
    times = _measured_times(training)
    say(world, plan(args, training, times))
    if args.dry_run:
        return training
    flags = {name: value for name, value in vars(args).items() if name not in OF_A_SUPERNET_CALL}
    flags |= {"epochs": training.recipe.epochs, "resolutions": training.recipe.resolutions}
    report, saved, patience = Report(), time.monotonic(), training.recipe.patience

    def save_state() -> None:
        nonlocal saved
        if lock:
            lock.check()
        training.save_state(state, flags=flags)
        saved = time.monotonic()

    def on_step(step: Step) -> None:
        left = times.after(training.phases.index(training.phase), training.epoch, training.batch)
        if world.primary:
            report.step(step, left)
            if stop or time.monotonic() - saved > 60 * args.save_minutes:
                save_state()
        if stop:
            report.close()
            raise KeyboardInterrupt(f"saved; resume with: {resume}")

    def measure() -> None:
        """Scores the validation images, where it is time; with patience, keeps the best weights."""
        due = training.epoch % args.eval_every == 0 or (patience and training.finished)
        if not (due and training.provider.n_valid and training.measured < training.epoch):
            return
        scores = training.score_extremes("valid") if world.primary else {}
        say(world, f"  validation images: {_percent(scores)}")
        if training.improves(scores) and patience and world.primary:
            save_weights(training.net, checkpoint, meta=meta(args, training))
        if patience and world.primary:
            save_state()

    with stopping(world) as stop:
        measure()  # after the epoch of a state that was stopped there
        while not training.finished:
            line = training.train_one_epoch(on_step)
            report.close()
            say(world, line)
            if world.primary:
                save_state()  # first: --resume makes the weights of it
                if not patience:
                    save_weights(training.net, checkpoint, meta=meta(args, training))
            measure()
    if world.primary:
        if patience:
            load_weights(training.net, checkpoint)
        else:
            save_weights(training.net, checkpoint, meta=meta(args, training))
        say(world, f"test images: {_percent(training.score_extremes('test'))}\n"
                   f"wrote {checkpoint}\nnext, a search: {search_command(args, checkpoint)}")
    return training


def _measured_times(training: SupernetTraining) -> TimeLeft:
    """Returns what estimates the time of a training, from a few steps that are measured now."""
    return TimeLeft([training.seconds_of_a_step(i) if epochs else 0.0
                     for i, epochs in enumerate(training.recipe.epochs)],
                    training.recipe.epochs, len(training.loader),
                    training.seconds_of_the_teacher(), training.taught_steps,
                    training.epoch * len(training.loader) + training.batch)


def search_command(args: argparse.Namespace, checkpoint: Path) -> str:
    """Returns the command that searches in a trained supernet, whose file says the rest."""
    words = ["--supernet_path", str(checkpoint), *(["--data", args.data] if args.data else [])]
    if code_in(vars(args), ("search_space",)):
        words += ["--search_space", args.search_space]
    return shlex.join([*calling("msunas.py"), *words, "--save", f"runs/{checkpoint.name}-flops"])


def prepare(args: argparse.Namespace, world: World) -> SupernetTraining:
    """Returns the training that the flags describe, at its beginning."""
    if args.teacher is not None:
        check_teacher(args.teacher, args.teacher_checkpoint)
    provider = DataProvider.of(args, args.n_workers, crop_scale=args.crop_scale, **(
        statistics_of(args.search_space) if args.pretrained else {}))
    if "crop_scale" in args.typed and CROP_STEP not in provider.info.train_aug:
        raise UserError(f"--crop_scale: no random part is cut out of the training images of "
                        f"{args.dataset}; leave it out")
    size = picture_size(provider)
    resolutions = args.resolutions or default_resolutions(
        size, get_dataset_info(args.dataset).resolutions, bool(args.pretrained))
    space = get_search_space(args.search_space, resolutions=resolutions)
    epochs = args.epochs or default_epochs(len(phases_of(space)), provider.n_train, size,
                                           bool(args.pretrained))
    patience = args.patience if provider.holds_out_validation else None
    if "patience" in args.typed and patience is None:
        raise UserError("--patience: there are no validation images to measure; give --vld_size N")
    flags = {**vars(args), "resolutions": resolutions, "epochs": epochs, "patience": patience}
    recipe = Recipe(**{field.name: flags[field.name] for field in fields(Recipe)})
    net = _network(args, provider.n_classes).to(world.device)
    if args.pretrained and not args.resume:
        fit_to_pictures(net, provider.calibration_batches(max(resolutions), device=world.device))
    return SupernetTraining(net, provider, recipe, space, world,
                            _teacher(args, provider, world, max(resolutions)),
                            **{name: getattr(args, name) for name in IDENTITY})


def plan(args: argparse.Namespace, training: SupernetTraining, times: Any) -> str:
    """Returns the plan of a training, with its time and memory by a few steps that were measured.

    The steps are measured on a copy of the weights; a training has no copy, but an optimiser, which
    keeps about two numbers for each weight.
    """
    provider, recipe, n_batches = training.provider, training.recipe, len(training.loader)
    lines = [f"{provider.n_train} training images of {args.dataset} ({provider.n_classes} "
             f"classes), resolutions {' '.join(map(str, recipe.resolutions))}; {args.search_space},"
             f" rule {recipe.rule}; {n_batches} steps an epoch of {recipe.batch_size} images on "
             f"{training.world.size} x {training.world.device.type}"]
    if "pretrained" in training.net.meta:
        lines.append(f"  weights    {training.net.meta['pretrained']}")
    lines += [f"  {phase.name:<10} {epochs:>4} epochs, {seconds:.2f} s a step: "
              f"{duration(seconds * epochs * n_batches)}" for phase, epochs, seconds in
              zip(training.phases, recipe.epochs, times.seconds, strict=True) if epochs]
    if times.teacher:
        lines.append(f"  teacher    {training.taught_steps} steps, {times.teacher:.2f} s a step: "
                     f"{duration(times.teacher * training.taught_steps)}")
    if peak := peak_memory(training.world.device):
        peak += sum(p.numel() * p.element_size() for p in training.net.parameters())
        lines.append(f"  memory     {peak / 1e9:.1f} GB of "
                     f"{'RAM' if training.world.device.type == 'cpu' else 'the device'} in each "
                     "process, data-loading processes not included")
    done = f" ({training.epoch} of {training.n_epochs} epochs are done)" if training.epoch else ""
    left = duration(times.total(training.epoch, training.batch))
    return "\n".join([*lines, f"estimate: {left} to train{done}, without measurements; into "
                              f"{args.save}, saved after each epoch and every "
                              f"{args.save_minutes:g} minutes"])


def meta(args: argparse.Namespace, training: SupernetTraining) -> dict[str, Any]:
    """Returns what the checkpoint records of its training, in plain Python."""
    provider, recipe = training.provider, training.recipe
    facts = SupernetInfo(
        search_space=args.search_space, resolutions=recipe.resolutions,
        vld_size=provider.vld_size, n_classes=provider.n_classes, crop_scale=recipe.crop_scale,
        pretrained=training.net.meta.get("pretrained", args.pretrained),  # a resumed one reads none
        **provider.facts())
    trained = [phase.name for phase, epochs in zip(training.phases, recipe.epochs, strict=True)
               if epochs]
    return {**facts.to_json(), "family": training.net.family, "width": training.net.width_mult,
            "phases": trained, "epochs": recipe.epochs, "epochs_done": training.epoch}


@contextmanager
def stopping(world: World) -> Iterator[list[int]]:
    """Inside, Ctrl-C and SIGTERM add to the list that is returned; a second Ctrl-C ends at once.

    Several processes keep their handlers: torchrun ends all as soon as one ends.
    """
    stop: list[int] = []

    def note(number: int, _: Any) -> None:
        if stop:
            raise KeyboardInterrupt
        stop.append(number)

    if world.size > 1:
        yield stop
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say(world: World, text: str) -> None:
    """Prints, in the first process alone."""
    if world.primary:
        print(text, flush=True)


def _network(args: argparse.Namespace, n_classes: int) -> Any:
    """Returns the supernet to train: new, from --init, or from --from."""
    family = family_of(args.search_space)
    if args.init:
        net = load_supernet(args.init, family=family)
        with seeded(args.seed):
            same = net.classifier.out_features == n_classes
            return net if same else with_classes(net, n_classes)
    with seeded(args.seed):
        net = build_supernet(n_classes, width_from_name(args.save), args.dropout, family)
    if args.from_:
        fill_from_network(net, *args.from_)
    if args.pretrained and not args.resume:
        net.meta["pretrained"] = fill_pretrained(net, args.pretrained)
    return net


def _teacher(args: argparse.Namespace, provider: Any, world: World, largest: int) -> Any:
    """Returns what --teacher names as images -> logits, or None."""
    if args.teacher is None:
        return None
    size = args.teacher_size
    teacher = load_teacher(args.teacher, args.teacher_checkpoint, provider.n_classes)
    net = ready_to_teach(teacher, lambda: provider.calibration_batches(
        size or largest, device=world.device), world.device)
    if size is not None:
        net = nn.Sequential(Resize((size, size)), net)
    return InPrecision(net, args.teacher_amp or args.amp)


def _percent(scores: dict[str, dict[str, float]]) -> str:
    return ", ".join(f"{name} {score['top1']:.2f} %" for name, score in scores.items())
