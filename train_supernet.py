"""Trains a Once-for-All supernet of any family on any of the data sets, from its images alone.

First the full network, then progressive shrinking: kernel sizes, depths, expansion ratios (and
widths, where the family has them) become elastic one after the other. The result serves
`msunas.py --supernet_path`. Several processes: `SCRIPT=train_supernet.py sh
scripts/distributed_train.sh N --save FILE ...`.
"""

import argparse
import shlex
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

# With `python -P` or PYTHONSAFEPATH=1, Python does not put a script's folder on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent))

import cli.startup  # noqa: F401  # before what takes time to import

from cli.progress import announce
from cli.scripts import Parser, add_flags, run_script
from cli.types import amount, checked_values, count, integers, number
from data_providers.flags import DATA_FLAGS
from data_providers.table import DATASETS
from evaluator.options import EVALUATION_FLAGS
from search_space import family_of
from search_space.backbones import width_from_name
from training.defaults import RULES
from training.flags import (
    ADAPTATION,
    OF_A_SUPERNET_CALL,
    adapted,
    add_machine_flags,
    add_teacher_flags,
)
from utils.errors import UserError
from utils.flags import refuse_idle
from utils.invocation import calling
from utils.locks import locked_beside
from utils.registry import TIMM, code_in, refuse_untyped

if TYPE_CHECKING:
    from training.shrinking import SupernetTraining

# Flags that may name code, as module:Class: never taken from a state without being typed.
CODE_FLAGS = ("search_space", "rule")


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the command-line parser."""
    p = Parser(prog="train_supernet.py", description=(__doc__ or "").split("\n\n")[0])
    p.add_argument("--save", default=None,
                   help="checkpoint to write; its name ends with the width multiplier, as in "
                        "ofa_digits_d234_e346_k357_w0.35 (required, but for --resume FILE)")
    p.add_argument("--resume", nargs="?", const=True, default=None, metavar="FILE",
                   help="resume a training with the flags that it was started with: its "
                        "checkpoint, its state, or their folder; without a name, that of --save. "
                        "--epochs may grow")
    p.add_argument("--init", default=None, help="supernet checkpoint to start from, of the same "
                                                "width; its classifier is replaced where needed")
    p.add_argument("--from", nargs=2, default=None, dest="from_", metavar=("CONFIG", "WEIGHTS"),
                   help="trained network to start from, of the same width: its net.config and "
                        "weights become the subnet that they describe")
    p.add_argument("--pretrained", default=None, metavar="WEIGHTS",
                   help="weights of the network of --search_space timm:NAME to start from: a .pth, "
                        "a .safetensors, or a folder that timm loads; auto: an installed package "
                        "that has them, or timm's download. Changes defaults to "
                        f"{', '.join(f'--{name} {value}' for name, value in ADAPTATION.items())}; "
                        "only the last phase is trained")
    p.add_argument("--dry_run", action="store_true",
                   help="only measure a few steps and print the plan and how long it will take")
    g = p.add_argument_group("data")
    add_flags(g, DATA_FLAGS, "--dataset", "--data", "--download", "--max_damaged", "--vld_size",
              dataset="digits")
    add_flags(g, EVALUATION_FLAGS, "--n_workers", n_workers=0)
    g.add_argument("--resolutions", **integers(8, 4096), default=None,
                   help="input resolutions, ascending; None: the data set's own, for small "
                        "pictures from their own size to 1.5 times that, with --pretrained "
                        "multiples of 32 from 1.5 to 3 times that")
    _add_training_flags(p.add_argument_group("training"))
    _add_teacher_flags(p.add_argument_group("teacher"))
    g = p.add_argument_group("machine")
    add_machine_flags(g)
    g.add_argument("--eval_every", type=count(1), default=10,
                   help="epochs between two measurements of the largest and smallest subnet")
    g.add_argument("--patience", type=count(1), default=None, metavar="N",
                   help="end after N measurements without a lower mean loss of the two on "
                        "the validation images, and keep the best weights; None: train all epochs")
    g.add_argument("--save_minutes", type=amount, default=10.0,
                   help="minutes after which the state is saved within an epoch, too")
    return p


def _add_training_flags(g: Any) -> None:
    add_flags(g, EVALUATION_FLAGS, "--search_space")
    g.add_argument("--epochs", **integers(0), metavar="N", default=None,
                   help="epochs of each phase: full, kernel, depth, expansion; of resnet50 full, "
                        "depth, expansion, width. 0 skips one; None: by the number of images")
    g.add_argument("--rule", metavar="NAME", default="sandwich",
                   help=f"{', '.join(RULES)}, or module:Class. sandwich: the largest, the smallest "
                        "and random subnets in each step, the largest teaches (BigNAS); own_sizes: "
                        "the same, each at its own resolution instead of one for all; ofa: "
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
                   help="call the teacher in N epochs and keep its output; later epochs repeat "
                        "their random crops in turn. None: call it in all")
    g.add_argument("--teacher_amp", choices=("bfloat16", "float16"), default=None,
                   help="precision of the teacher; None: that of --amp")


def main(args: argparse.Namespace) -> None:
    """Trains, measures, and writes the checkpoint after each epoch."""
    if args.resume:
        args = resumed_flags(args)
    elif not args.save:
        raise UserError("--save is needed: the checkpoint to write, as in runs/ofa_digits_w0.35")
    elif args.pretrained:
        args = adapted(args)
    run(argparse.Namespace(**{**vars(args), "dataset": chosen_dataset(args)}))


def run(args: argparse.Namespace) -> "SupernetTraining | None":
    """Does a training whose defaults are decided; returns it, or None where it only checks.

    Raises:
        UserError: see `training.supernet.train`.
        KeyboardInterrupt: likewise.
    """
    checkpoint, state = Path(args.save), state_of(Path(args.save))
    _check(args, checkpoint, state)
    if args.check:
        from training.world import check_devices

        check_devices(args.check, args.device)
        return None
    announce("loading the images; a few steps of each phase are measured for the plan")
    from training.supernet import train
    from training.world import processes

    with processes(args.device, args.threads) as world, \
            locked_beside(checkpoint, f"{checkpoint}: the checkpoint") \
            if world.primary and not args.dry_run else nullcontext() as lock:
        _check(args, checkpoint, state)  # another process may have written it since
        return train(args, checkpoint, state, world, lock, resume_command(args, checkpoint))


def chosen_dataset(args: argparse.Namespace) -> str:
    """Returns the data set: `folder` for a folder that is typed, as the default one has none.

    Raises:
        UserError: a folder for a data set without one.
    """
    dataset: str = args.dataset
    if "data" in args.typed:
        if not (args.resume or "dataset" in args.typed):
            return "folder"
        DATASETS[dataset].refuse_folder(f"--data {args.data}")
    return dataset


def state_of(checkpoint: Path) -> Path:
    """Returns the state of a training, next to its checkpoint."""
    return checkpoint.with_name(checkpoint.name + ".state")


def check_state(checkpoint: Path) -> None:
    """Raises UserError for a checkpoint that cannot be resumed."""
    if checkpoint.exists() and not state_of(checkpoint).exists():
        raise UserError(f"{checkpoint}: holds weights, but there is no {state_of(checkpoint).name} "
                        f"to resume; choose another --save, with --init {checkpoint} to begin with "
                        "these weights")


def resumed_flags(args: argparse.Namespace) -> argparse.Namespace:
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
    state = state_of(checkpoint)
    check_state(checkpoint)
    if not state.exists():
        raise UserError(f"{state}: no such state of a training; start it without --resume")
    from networks import load_training_state

    stored = load_training_state(state).get("flags")
    known = vars(args).keys() - {*OF_A_SUPERNET_CALL} - args.typed
    values = {name: value for name, value in stored.items() if name in known} \
        if isinstance(stored, dict) else {}
    checked = checked_values(get_args_parser(), values, str(state))
    refuse_untyped(state, trusted(checked), args.typed)
    return argparse.Namespace(**{**vars(args), **checked, "save": str(checkpoint)})


def trusted(flags: Mapping[str, Any]) -> dict[str, str]:
    """Returns the flags that must be typed in every call: code, and a teacher that is fetched."""
    teacher = flags.get("teacher")
    fetched = teacher and not flags.get("teacher_checkpoint") and not Path(str(teacher)).is_file()
    return code_in(flags, CODE_FLAGS) | ({"teacher": str(teacher)} if fetched else {})


def resume_command(args: argparse.Namespace, checkpoint: Path) -> str:
    """Returns the command that resumes a training, with the flags that must be typed again."""
    again = [part for name, value in trusted(vars(args)).items() for part in (f"--{name}", value)]
    return shlex.join([*calling("train_supernet.py"), "--resume", str(checkpoint), *again])


def _check(args: argparse.Namespace, checkpoint: Path, state: Path) -> None:
    family_of(args.search_space)
    of_timm = args.search_space.startswith(TIMM)
    if f"_w{width_from_name(checkpoint):g}" not in checkpoint.name and not of_timm:
        raise UserError(f"{checkpoint}: the name must end with the width multiplier, as in "
                        "ofa_digits_d234_e346_k357_w0.35")
    check_state(checkpoint)
    if state.exists() and not args.resume:
        raise UserError(f"{checkpoint}: exists; choose another --save, or resume it with --resume")
    if len([start for start in (args.init, args.from_, args.pretrained) if start]) > 1:
        raise UserError("--init, --from and --pretrained: a training starts from one of them")
    if args.pretrained and not of_timm:
        raise UserError(f"--pretrained: weights of a network of timm; name it, as in "
                        f"--search_space {TIMM}tf_efficientnet_lite0")
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
