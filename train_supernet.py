"""Trains a Once-for-All supernet of any family on any of the data sets, from its images alone.

First the full network, then progressive shrinking: kernel sizes, depths, expansion ratios (and
widths, where the family has them) become elastic one after the other. The result serves
`msunas.py --supernet_path`. Several processes: `SCRIPT=train_supernet.py sh
scripts/distributed_train.sh N --save FILE ...`.
"""

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cli.startup  # noqa: F401  # before what takes time to import

from cli.scripts import Parser, add_flags, run_script
from cli.types import amount, checked_values, count, integers, number
from data_providers.flags import DATA_FLAGS
from data_providers.table import get_dataset_info
from evaluator.options import EVALUATION_FLAGS
from search_space import family_of, get_search_space
from search_space.backbones import width_from_name
from training.flags import add_teacher_flags
from training.rules import RULES
from utils.errors import UserError
from utils.flags import refuse_idle
from utils.invocation import calling
from utils.locks import Lock, locked_beside
from utils.registry import code_in, refuse_untyped

if TYPE_CHECKING:
    from training.shrinking import Step, SupernetTraining
    from training.world import World

# Flags of this call alone: never taken from the state of a training.
OF_THE_CALL = {"resume", "dry_run", "check", "typed", "save", "download"}
# Flags that may name code, as module:Class: never taken from a state without being typed.
CODE_FLAGS = ("search_space", "rule")
# Flags beside the recipe that a resumed training must share.
IDENTITY = ("dataset", "vld_size", "init", "from_", "teacher", "teacher_checkpoint",
            "teacher_size", "teacher_amp")


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the command-line parser."""
    p = Parser(prog="train_supernet.py", description=__doc__.split("\n\n")[0])
    p.add_argument("--save", default=None,
                   help="checkpoint to write; its name ends with the width multiplier, as in "
                        "ofa_digits_d234_e346_k357_w0.35 (required, but for --resume FILE)")
    p.add_argument("--resume", nargs="?", const=True, default=None, metavar="FILE",
                   help="go on with a training, with the flags that it was started with: its "
                        "checkpoint, the state beside it, or their folder; without a name, that "
                        "of --save. --epochs may grow")
    p.add_argument("--init", default=None, help="supernet checkpoint to start from, of the same "
                                                "width; its classifier is replaced where needed")
    p.add_argument("--from", nargs=2, default=None, dest="from_", metavar=("CONFIG", "WEIGHTS"),
                   help="trained network to start from, of the same width: its net.config and "
                        "weights become the subnet that they describe")
    p.add_argument("--dry_run", action="store_true",
                   help="only measure a few steps and print the plan and how long it will take")
    g = p.add_argument_group("data")
    add_flags(g, DATA_FLAGS, "--dataset", "--data", "--download", "--max_damaged", "--vld_size",
              dataset="digits")
    add_flags(g, EVALUATION_FLAGS, "--n_workers", n_workers=0)
    g.add_argument("--resolutions", **integers(8, 4096), default=None,
                   help="input resolutions, ascending; None: the data set's own, for small "
                        "pictures from their own size to 1.5 times that")
    _add_training_flags(p.add_argument_group("training"))
    _add_teacher_flags(p.add_argument_group("teacher"))
    g = p.add_argument_group("machine")
    g.add_argument("--device", default=None, help="cpu, cuda:0 ...; None: a GPU if there is one")
    g.add_argument("--threads", type=count(1, 1024), default=None,
                   help="CPU threads of each process; None: torch's choice")
    g.add_argument("--eval_every", type=count(1), default=10,
                   help="epochs between two measurements of the largest and smallest subnet")
    g.add_argument("--save_minutes", type=amount, default=10.0,
                   help="minutes after which the state is saved within an epoch, too")
    g.add_argument("--check", type=count(1), metavar="N", default=None,
                   help="only check flags and files, and that N processes find their devices")
    return p


def _add_training_flags(g: Any) -> None:
    add_flags(g, EVALUATION_FLAGS, "--search_space")
    g.add_argument("--epochs", **integers(0), metavar="N", default=None,
                   help="epochs of each phase: full, kernel, depth, expansion; of resnet50 full, "
                        "depth, expansion, width. 0 skips one; None: by the number of images")
    g.add_argument("--rule", metavar="NAME", default="sandwich",
                   help=f"{', '.join(RULES)}, or module:Class. sandwich: the largest, the smallest "
                        "and random subnets in each step, the largest teaches (BigNAS); ofa: "
                        "random ones, taught by the finished full network (Once for All)")
    g.add_argument("--batch_size", type=count(1), default=128,
                   help="images for each step and process")
    g.add_argument("--opt", default="adamw", help="optimiser, a name that timm knows")
    g.add_argument("--lr", type=amount, default=4e-3, help="learning rate of the first phase")
    g.add_argument("--shrink_lr", type=amount, default=2e-3,
                   help="learning rate of the later phases; it falls to 0 in each as a cosine")
    g.add_argument("--weight_decay", type=number(0), default=0.05, help="weight decay")
    g.add_argument("--clip_grad", type=amount, default=5.0, help="largest norm of the gradient")
    g.add_argument("--smoothing", type=number(0, 1), default=0.1, help="label smoothing")
    g.add_argument("--dropout", type=number(0, 1), default=0.1,
                   help="dropout before the classifier")
    g.add_argument("--crop_scale", type=number(0, 1), default=None, metavar="PART",
                   help="smallest part of an image that a random crop holds; None: 0.08, the data "
                        "sets' own. Larger ones suit short trainings")
    g.add_argument("--n_random", type=count(0), default=None,
                   help="random subnets for each step; None: 2 of sandwich (besides the largest "
                        "and the smallest), 1, 2, 4, 4 of ofa by phase")
    g.add_argument("--amp", choices=("bfloat16", "float16"), default=None,
                   help="mixed precision")
    add_flags(g, DATA_FLAGS, "--seed")


def _add_teacher_flags(g: Any) -> None:
    add_teacher_flags(g)
    g.add_argument("--kd_ratio", type=number(0), default=1.0,
                   help="weight of the teacher's output against the labels")
    g.add_argument("--teacher_size", type=count(8), default=None, metavar="PX",
                   help="size to which the teacher's images are brought; None: the largest of "
                        "--resolutions")
    g.add_argument("--teacher_epochs", type=count(1), default=None, metavar="N",
                   help="ask the teacher in N epochs and keep what it says; later epochs repeat "
                        "their random crops in turn. None: ask it in all")
    g.add_argument("--teacher_amp", choices=("bfloat16", "float16"), default=None,
                   help="precision of the teacher; None: that of --amp")


def main(args: argparse.Namespace) -> None:
    """Trains, measures, and writes the checkpoint after each epoch."""
    if args.resume:
        args = take_up(args)
    elif not args.save:
        raise UserError("--save is needed: the checkpoint to write, as in runs/ofa_digits_w0.35")
    checkpoint, state = Path(args.save), state_of(Path(args.save))
    _check(args, checkpoint, state)
    if args.check:
        from training.world import check_devices

        check_devices(args.check, args.device)
        return
    from training.world import processes

    with processes(args.device, args.threads) as world, \
            locked_beside(checkpoint, f"{checkpoint}: the checkpoint") \
            if world.primary and not args.dry_run else nullcontext() as lock:
        _check(args, checkpoint, state)  # another process may have made it since
        train(args, checkpoint, state, world, lock)


def state_of(checkpoint: Path) -> Path:
    """Returns the state of a training, beside its checkpoint."""
    return checkpoint.with_name(checkpoint.name + ".state")


def take_up(args: argparse.Namespace) -> argparse.Namespace:
    """Returns the flags of a training that is resumed: those that were typed, else the stored.

    Raises:
        UserError: no such state.
    """
    if args.resume is True and not args.save:
        raise UserError("--resume: name the checkpoint of the training, or give --save")
    path = Path(args.save if args.resume is True else args.resume)
    if path.is_dir():
        states = sorted(path.glob("*.state"))
        if len(states) != 1:
            raise UserError(f"--resume {path}: {len(states)} states of trainings in this folder; "
                            "name the checkpoint")
        path = states[0]
    checkpoint = path.with_name(path.name.removesuffix(".state"))
    if checkpoint.exists() and not state_of(checkpoint).exists():
        raise UserError(f"{checkpoint}: holds weights, but there is no state to go on from; begin "
                        f"with these weights in another --save, with --init {checkpoint}")
    if not state_of(checkpoint).exists():
        raise UserError(f"{state_of(checkpoint)}: no such state of a training; start it without "
                        "--resume")
    from networks import load_training_state

    stored = load_training_state(state_of(checkpoint)).get("flags")
    known = vars(args).keys() - OF_THE_CALL - args.typed
    values = {name: value for name, value in stored.items() if name in known} \
        if isinstance(stored, dict) else {}
    checked = checked_values(get_args_parser(), values, str(state_of(checkpoint)))
    refuse_untyped(state_of(checkpoint), trusted(checked), args.typed)
    return argparse.Namespace(**{**vars(args), **checked, "save": str(checkpoint)})


def trusted(flags: Mapping[str, Any]) -> dict[str, str]:
    """Returns the flags that must be typed in every call: code, and a teacher that is fetched."""
    teacher = flags.get("teacher")
    fetched = teacher and not flags.get("teacher_checkpoint") and not Path(str(teacher)).is_file()
    return code_in(flags, CODE_FLAGS) | ({"teacher": str(teacher)} if fetched else {})


def resume_command(args: argparse.Namespace, checkpoint: Path) -> str:
    """Returns the command that goes on with a training, with the flags that must be typed again."""
    again = [part for name, value in trusted(vars(args)).items() for part in (f"--{name}", value)]
    return shlex.join([*calling("train_supernet.py"), "--resume", str(checkpoint), *again])


def train(args: argparse.Namespace, checkpoint: Path, state: Path, world: "World",
          lock: Lock | None) -> None:
    """Trains to the last epoch; nobody else may write the checkpoint meanwhile."""
    from networks import save_weights
    from training.progress import Report, TimeLeft
    from utils.devices import warn_if_slow

    training = prepare(args, world)
    for precision in {args.amp, args.teacher_amp} if world.primary else ():
        warn_if_slow(precision, world.device)
    if args.resume:
        training.resume(state)
    times = TimeLeft([training.seconds_of_a_step(i) if epochs else 0.0
                      for i, epochs in enumerate(training.recipe.epochs)],
                     training.recipe.epochs, len(training.loader),
                     training.seconds_of_the_teacher(), training.asks,
                     training.epoch * len(training.loader) + training.batch)
    say(world, plan(args, training, times))
    if args.dry_run:
        return
    flags = {name: value for name, value in vars(args).items() if name not in OF_THE_CALL}
    flags |= {"epochs": training.recipe.epochs, "resolutions": training.recipe.resolutions}
    report, saved = Report(), time.monotonic()

    def save_state() -> None:
        nonlocal saved
        if lock:
            lock.check()
        training.save_state(state, flags=flags)
        saved = time.monotonic()

    def on_step(step: "Step") -> None:
        left = times.after(training.phases.index(training.phase), training.epoch, training.batch)
        if world.primary:
            report.step(step, left)
            if stop or time.monotonic() - saved > 60 * args.save_minutes:
                save_state()
        if stop:
            report.close()
            raise KeyboardInterrupt(f"saved; go on with: {resume_command(args, checkpoint)}")

    with stopping(world) as stop:
        while not training.finished:
            line = training.train_one_epoch(on_step)
            report.close()
            say(world, line)
            if world.primary:
                save_state()  # first: --resume makes the weights of it
                save_weights(training.net, checkpoint, meta=meta(args, training))
            if training.epoch % args.eval_every == 0 and training.provider.n_valid \
                    and world.primary:
                say(world, f"  validation images: {_percent(training.score_extremes('valid'))}")
    if world.primary:
        save_weights(training.net, checkpoint, meta=meta(args, training))
        say(world, f"test images: {_percent(training.score_extremes('test'))}")
        say(world, f"wrote {checkpoint}")


def prepare(args: argparse.Namespace, world: "World") -> "SupernetTraining":
    """Returns the training that the flags describe, at its beginning."""
    from data_providers import DataProvider
    from data_providers.transforms import CROP_STEP
    from training.defaults import default_epochs, default_resolutions, picture_size
    from training.shrinking import Recipe, SupernetTraining
    from training.students import check_teacher
    from training.subnets import phases_of

    if args.teacher is not None:
        check_teacher(args.teacher, args.teacher_checkpoint)
    provider = DataProvider(args.dataset, args.data, vld_size=args.vld_size, seed=args.seed,
                            n_workers=args.n_workers, download=args.download,
                            max_damaged=args.max_damaged)
    if args.crop_scale is not None and CROP_STEP not in provider.info.train_aug:
        raise UserError(f"--crop_scale: no random part is cut out of the training images of "
                        f"{args.dataset}; leave it out")
    size = picture_size(provider)
    resolutions = args.resolutions or default_resolutions(
        size, get_dataset_info(args.dataset).resolutions)
    space = get_search_space(args.search_space, resolutions=resolutions)
    epochs = args.epochs or default_epochs(len(phases_of(space)), provider.n_train, size)
    flags = {**vars(args), "resolutions": resolutions, "epochs": epochs}
    recipe = Recipe(**{field.name: flags[field.name] for field in fields(Recipe)})
    net = _network(args, provider.n_classes).to(world.device)
    return SupernetTraining(net, provider, recipe, space, world,
                            _teacher(args, provider, world, max(resolutions)),
                            **{name: getattr(args, name) for name in IDENTITY})


def plan(args: argparse.Namespace, training: "SupernetTraining", times: Any) -> str:
    """Returns what will be trained, and how long that will take by a few measured steps."""
    from training.progress import clock

    provider, recipe, n_batches = training.provider, training.recipe, len(training.loader)
    lines = [f"{provider.n_train} training images of {args.dataset} ({provider.n_classes} "
             f"classes), resolutions {' '.join(map(str, recipe.resolutions))}; {args.search_space},"
             f" rule {recipe.rule}; {n_batches} steps an epoch of {recipe.batch_size} images on "
             f"{training.world.size} x {training.world.device.type}"]
    lines += [f"  {phase.name:<10} {epochs:>4} epochs, {seconds:.2f} s a step: "
              f"{clock(seconds * epochs * n_batches)}" for phase, epochs, seconds in
              zip(training.phases, recipe.epochs, times.seconds, strict=True) if epochs]
    if times.teacher:
        lines.append(f"  teacher    {training.asks} steps, {times.teacher:.2f} s a step: "
                     f"{clock(times.teacher * training.asks)}")
    done = f" ({training.epoch} of {training.n_epochs} epochs are done)" if training.epoch else ""
    left = clock(times.total(training.epoch, training.batch))
    return "\n".join([*lines, f"estimate: {left} to train{done}, without measurements; into "
                              f"{args.save}, saved after each epoch and every "
                              f"{args.save_minutes:g} minutes"])


def meta(args: argparse.Namespace, training: "SupernetTraining") -> dict[str, Any]:
    """Returns what the checkpoint says of its training, in plain Python."""
    from networks import SupernetMeta

    provider, recipe = training.provider, training.recipe
    facts = SupernetMeta(
        search_space=args.search_space, dataset=args.dataset, resolutions=recipe.resolutions,
        vld_size=provider.vld_size, n_classes=provider.n_classes, **provider.facts())
    trained = [phase.name for phase, epochs in zip(training.phases, recipe.epochs, strict=True)
               if epochs]
    return {**facts.to_json(), "family": training.net.family, "width": training.net.width_mult,
            "phases": trained, "epochs": recipe.epochs, "epochs_done": training.epoch}


@contextmanager
def stopping(world: "World") -> Iterator[list[int]]:
    """Inside, Ctrl-C and SIGTERM add to the list that is returned; a second Ctrl-C ends at once.

    Of several processes, torchrun ends all as soon as one ends: there the signals act as ever.
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


def say(world: "World", text: str) -> None:
    """Prints, in the first process alone."""
    if world.primary:
        print(text, flush=True)


def _network(args: argparse.Namespace, n_classes: int) -> Any:
    """Returns the supernet to train: new, from --init, or from --from."""
    from networks import build_supernet, load_supernet
    from networks.warm_start import fill_from_network, with_classes
    from utils.devices import seeded

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
    return net


def _teacher(args: argparse.Namespace, provider: Any, world: "World", largest: int) -> Any:
    """Returns what --teacher names as images -> logits, or None."""
    if args.teacher is None:
        return None
    from torch import nn
    from torchvision.transforms.v2 import Resize

    from training.students import load_teacher, ready_to_teach
    from utils.devices import InPrecision

    size = args.teacher_size
    teacher = load_teacher(args.teacher, args.teacher_checkpoint, provider.n_classes)
    net = ready_to_teach(teacher, lambda: provider.calibration_batches(
        size or largest, device=world.device), world.device)
    if size is not None:
        net = nn.Sequential(Resize((size, size)), net)
    return InPrecision(net, args.teacher_amp or args.amp)


def _percent(top1: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f} %" for name, value in top1.items())


def _check(args: argparse.Namespace, checkpoint: Path, state: Path) -> None:
    family_of(args.search_space)
    if f"_w{width_from_name(checkpoint):g}" not in checkpoint.name:
        raise UserError(f"{checkpoint}: the name must end with the width multiplier, as in "
                        "ofa_digits_d234_e346_k357_w0.35")
    if checkpoint.exists() and not state.exists():
        raise UserError(f"{checkpoint}: holds weights, but there is no {state.name} to go on "
                        f"from; choose another --save, with --init {checkpoint} to begin with "
                        "these weights")
    if (checkpoint.exists() or state.exists()) and not args.resume:
        raise UserError(f"{checkpoint}: exists; choose another --save, or go on with --resume")
    if args.init and args.from_:
        raise UserError("--init and --from: a training starts from one of them")
    if args.init and width_from_name(args.init) != width_from_name(checkpoint):
        raise UserError(f"--init {args.init}: of another width than --save {checkpoint.name}")
    if args.teacher is None:
        refuse_idle(args.typed, {"without --teacher": (
            "--teacher-checkpoint", "--teacher_size", "--teacher_amp", "--teacher_epochs")})
    if args.epochs is not None and not sum(args.epochs):
        raise UserError("--epochs: one number for each phase, not all of them 0")
    resolutions = args.resolutions or [8]
    if sorted(set(resolutions)) != resolutions:
        raise UserError(f"--resolutions: different numbers in ascending order, not {resolutions}")


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
