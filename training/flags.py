"""The flags that the fine-tuning scripts share."""

import argparse
import logging
import os
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cli.types import amount, count, number
from data_providers.table import DATASETS
from utils.errors import UserError
from utils.files import read_yaml
from utils.flags import choose, refuse_idle
from utils.invocation import calling
from utils.packages import require

log = logging.getLogger("train")

# Packages that timm's readers import, by the prefix of the data set's name.
PACKAGES = {"hfds": "datasets", "wds": "webdataset"}
TAR = "tar"
KD_DEFAULT = 1.0
# Learning rate of train_imagenet.py where none is given: this for each 256 images of a step.
LR_BASE, LR_BATCH = 0.006, 256
# Flags of one call, which are not those of the run.
OF_THE_CALL = ("start_epoch", "no_resume_opt")
OF_A_SUPERNET_CALL = ("resume", "dry_run", "check", "typed", "save", "download")
# What --pretrained changes in the defaults of train_supernet.py: it suits hundreds of pictures.
ADAPTATION = {"rule": "own_sizes", "batch_size": 32, "lr": 1e-3, "shrink_lr": 1e-3, "n_random": 1,
              "crop_scale": 0.6, "eval_every": 4, "patience": 4}
# Flags that have no meaning without another flag (or one of several), or without a schedule.
PARTNERS = {
    "--teacher": ("--teacher-checkpoint", "--kd-ratio", "--kd-temperature"),
    "--amp": ("--amp-dtype",),
    "--torchcompile": ("--torchcompile-mode",),
    "--clip-grad": ("--clip-mode",),
    "--layer-decay": ("--layer-decay-min-scale", "--layer-decay-no-opt-scale"),
    "--lr-noise": ("--lr-noise-pct", "--lr-noise-std"),
    "--model-ema": ("--model-ema-decay", "--model-ema-warmup", "--model-ema-force-cpu"),
    "--bce-loss": ("--bce-sum", "--bce-target-thresh", "--bce-pos-weight"),
    "--mixup or --cutmix or --cutmix-minmax": (
        "--mixup-prob", "--mixup-switch-prob", "--mixup-mode", "--mixup-off-epoch"),
    "--cutout": ("--cutout-length",),
    "--reprob": ("--remode", "--recount", "--resplit"),
    "--log-wandb": ("--wandb-project", "--wandb-tags", "--wandb-resume-id"),
    "--resume": ("--no-resume-opt", "--wandb-resume-id"),
}
SCHEDULES = {
    ("step",): ("--decay-epochs",),
    ("multistep",): ("--decay-milestones",),
    ("plateau",): ("--patience-epochs",),
    ("cosine", "poly"): ("--lr-k-decay",),
    ("cosine", "tanh", "poly"): ("--lr-cycle-mul", "--lr-cycle-decay", "--lr-cycle-limit"),
    ("cosine", "tanh", "poly", "plateau"): ("--min-lr",),
    ("step", "multistep", "poly", "plateau"): ("--decay-rate",),
}


def add_network_flags(p: argparse.ArgumentParser) -> None:
    """Adds the flags of the network that is trained: its config, its weights, its teacher.

    All flags of the fine-tuning scripts have the names of timm's training script.
    """
    g = p.add_argument_group("network")
    g.add_argument("--model", default="nsganetv2", metavar="NAME", help="a label for the run")
    g.add_argument("--model-config", metavar="FILE",
                   help="net.config that describes the network (required); None: the one next to "
                        "--resume")
    g.add_argument("--initial-checkpoint", metavar="FILE", default=None,
                   help="weights to start from; None: net.inherited next to the config, if there "
                        "is one; 'none': from scratch")
    g.add_argument("--num-classes", type=count(1), default=None,
                   help="classes; None: those of the data. Another count than the network's "
                        "replaces its classifier")
    g.add_argument("--reset-classifier", action="store_true",
                   help="use a new classifier even where the class count is the same")
    g.add_argument("--img-size", type=count(1, 4096), default=None, metavar="R",
                   help="input resolution; None: the config's own")
    g.add_argument("--mean", type=number(0, 1), nargs=3, default=None, metavar=("R", "G", "B"),
                   help="of the pixels in [0, 1]; None: the config's, else the data set's")
    g.add_argument("--std", type=amount, nargs=3, default=None, metavar=("R", "G", "B"),
                   help="standard deviation likewise")
    g.add_argument("--bn-momentum", type=number(0, 1), default=None,
                   help="momentum of batch normalisation; None: the config's")
    g.add_argument("--bn-eps", type=amount, default=None, help="its epsilon; None: the config's")
    g.add_argument("--drop", type=number(0, 1), default=0.0, help="dropout before the classifier")
    g.add_argument("--drop-path", "--drop-connect", type=number(0, 1), default=0.0,
                   help="drop path of the last block; it grows linearly with depth")
    add_teacher_flags(g)
    g.add_argument("--kd-ratio", type=number(0), default=KD_DEFAULT,
                   help="weight of the teacher's output, against 1 for the labels")
    g.add_argument("--kd-temperature", type=amount, default=KD_DEFAULT,
                   help="temperature of the teacher's and the network's output")


def add_teacher_flags(group: Any) -> None:
    """Adds the flags of `training.students.load_teacher` to a group."""
    group.add_argument("--teacher", default=None, metavar="NETWORK",
                       help="learn from a trained network too: a supernet's checkpoint (at its "
                            "full size), a net.config, or the name of a timm model")
    group.add_argument("--teacher-checkpoint", default=None, metavar="FILE",
                       help="weights of a teacher that is a net.config or a timm model; "
                            "None: timm's pretrained ones")


def add_optimisation_flags(p: argparse.ArgumentParser) -> None:
    """Adds optimiser, schedule, precision and averaging."""
    g = p.add_argument_group("optimiser")
    g.add_argument("--opt", default="momentum", help="optimiser, a name that timm knows")
    g.add_argument("--opt-eps", type=number(0), default=None, help="its epsilon; None: its own")
    g.add_argument("--opt-betas", type=number(0, 1), nargs="+", default=None,
                   help="its betas; None: its own")
    g.add_argument("--opt-kwargs", nargs="+", default=None, metavar="KEY=VALUE",
                   help="more of its options, such as nesterov=True")
    g.add_argument("--layer-decay", type=amount, default=None,
                   help="factor of the learning rate from a layer to the one before it; None: off")
    g.add_argument("--layer-decay-min-scale", type=number(0, 1), default=0.0,
                   help="lower bound of that factor's powers")
    g.add_argument("--layer-decay-no-opt-scale", type=number(0, 1), default=None,
                   help="layers below this power are not trained at all; None: all are")
    g.add_argument("--momentum", type=number(0, 1), default=0.9, help="momentum")
    g.add_argument("--weight-decay", type=number(0), default=1e-5, help="weight decay")
    g.add_argument("--clip-grad", type=amount, default=None, help="gradient clipping; None: off")
    g.add_argument("--clip-mode", choices=("norm", "value", "agc"), default="norm",
                   help="what is clipped")
    g.add_argument("--grad-accum-steps", type=count(1), default=1, help="batches for each step")
    g.add_argument("--amp", action="store_true", help="mixed precision")
    g.add_argument("--amp-dtype", choices=("float16", "bfloat16"), default=None,
                   help="precision of --amp; None: float16 on GPUs, bfloat16 on CPUs")
    g.add_argument("--torchcompile", nargs="?", const="inductor", default=None, metavar="BACKEND",
                   help="compile the network; BACKEND defaults to inductor")
    g.add_argument("--torchcompile-mode", default=None, metavar="MODE",
                   choices=("default", "reduce-overhead", "max-autotune",
                            "max-autotune-no-cudagraphs"), help="its mode; None: the default one")
    g.add_argument("--channels-last", action="store_true",
                   help="accepted as by timm's script: the memory format is always channels_last")
    g = p.add_argument_group("schedule")
    g.add_argument("--epochs", type=count(1), default=300, help="epochs")
    g.add_argument("--sched", default="cosine",
                   choices=("cosine", "tanh", "step", "multistep", "poly", "plateau", "constant"),
                   help="schedule of the learning rate")
    g.add_argument("--sched-on-updates", action="store_true",
                   help="follow it by steps and not by epochs")
    g.add_argument("--decay-epochs", type=amount, default=30, help="epochs between two decays")
    g.add_argument("--decay-milestones", type=count(0), nargs="+", default=[90, 180, 270],
                   help="epochs of decay (multistep)")
    g.add_argument("--decay-rate", "--dr", type=number(0), default=0.1, help="factor of a decay")
    g.add_argument("--warmup-lr", type=number(0), default=1e-6, help="learning rate of the start")
    g.add_argument("--warmup-epochs", type=count(0), default=0, help="epochs of linear warm-up")
    g.add_argument("--warmup-prefix", action="store_true", help="warm-up before the schedule")
    g.add_argument("--cooldown-epochs", type=count(0), default=0,
                   help="epochs at the end at --min-lr")
    g.add_argument("--patience-epochs", type=count(0), default=10,
                   help="epochs without gain before a decay (plateau)")
    g.add_argument("--min-lr", type=number(0), default=0.0,
                   help="lower bound (cosine, plateau ...)")
    g.add_argument("--lr-noise", type=number(0), nargs="+", default=None,
                   help="parts of the schedule between which the rate is noisy")
    g.add_argument("--lr-noise-pct", type=number(0), default=0.67, help="limit of the noise")
    g.add_argument("--lr-noise-std", type=number(0), default=1.0, help="deviation of the noise")
    g.add_argument("--lr-cycle-mul", type=amount, default=1.0, help="growth of cycles")
    g.add_argument("--lr-cycle-decay", type=number(0), default=0.1, help="decay of cycles")
    g.add_argument("--lr-cycle-limit", type=count(1), default=1, help="number of cycles")
    g.add_argument("--lr-k-decay", type=amount, default=1.0, help="k-decay (cosine, poly)")
    g = p.add_argument_group("averaged weights")
    g.add_argument("--model-ema", action="store_true", help="keep a moving average of the weights")
    g.add_argument("--model-ema-decay", type=number(0, 1), default=0.9999, help="its decay")
    g.add_argument("--model-ema-warmup", action="store_true", help="let its decay grow at first")
    g.add_argument("--model-ema-force-cpu", action="store_true", help="keep it on the CPU")


def add_run_flags(p: argparse.ArgumentParser) -> None:
    """Adds the flags of a run: its folder, how it is resumed, its devices."""
    g = p.add_argument_group("run")
    g.add_argument("--resume", metavar="FILE", default=None,
                   help="last.pth.tar (or another checkpoint) of a run to resume; its folder "
                        "is the output again")
    g.add_argument("--no-resume-opt", action="store_true",
                   help="take only the weights and the epoch from --resume")
    g.add_argument("--start-epoch", type=count(0), default=None, metavar="N",
                   help="first epoch, counted from 0; None: 0, or the one after --resume's")
    g.add_argument("--val-interval", type=count(1), default=1, metavar="N",
                   help="epochs between two evaluations; the last epoch always has one")
    g.add_argument("--seed", type=count(0, 2**31 - 1), default=42,
                   help="of weights, images and everything else")
    g.add_argument("--log-interval", type=count(1), default=50, help="steps between two log lines")
    g.add_argument("--recovery-interval", type=count(0), default=0,
                   help="steps between two recovery checkpoints; 0: none")
    g.add_argument("--checkpoint-hist", type=count(1), default=10, help="best checkpoints to keep")
    g.add_argument("--eval-metric", choices=("top1", "top5", "loss"), default="top1",
                   help="metric that ranks checkpoints")
    add_machine_flags(g)
    g.add_argument("--num-gpu", type=count(1), default=None, metavar="N",
                   help="accepted as by the original: the number of processes, which "
                        "scripts/distributed_train.sh starts")
    g.add_argument("--local-rank", type=count(0), default=None,
                   help=argparse.SUPPRESS)  # from torch's old launcher, which also sets LOCAL_RANK
    g.add_argument("--log-wandb", action="store_true",
                   help="send the figures of each epoch to Weights & Biases too")
    g.add_argument("--wandb-project", default=None, metavar="NAME", help="its project")
    g.add_argument("--wandb-tags", nargs="+", default=None, metavar="TAG", help="its tags")
    g.add_argument("--wandb-resume-id", default=None, metavar="ID",
                   help="the run there that --resume continues")
    g.add_argument("--dist-bn", choices=("reduce", "broadcast", ""), default="reduce",
                   help="how processes agree on BN statistics after each epoch; '': not at all")
    g.add_argument("--sync-bn", action="store_true",
                   help="BN statistics over the images of all GPUs in training")
    g.add_argument("--no-ddp-bb", action="store_true",
                   help="do not broadcast buffers before each step")


def adapted(args: argparse.Namespace) -> argparse.Namespace:
    """Returns the flags of a training from pretrained weights; those that were typed stay."""
    changed = {name: value for name, value in ADAPTATION.items() if name not in args.typed}
    return argparse.Namespace(**{**vars(args), **changed})


def add_machine_flags(group: Any) -> None:
    """Adds the flags of `training.world.processes` and `check_devices` to a group."""
    group.add_argument("--device", default=None,
                       help="cpu, cuda, cuda:0, xpu or mps; None: a GPU if there is one")
    group.add_argument("--threads", type=count(1, 1024), default=None,
                       help="CPU threads of each process; None: half of the cores, or "
                            "OMP_NUM_THREADS")
    group.add_argument("--check", type=count(1), metavar="N", default=None,
                       help="only check flags and files, and that N processes find their devices")


def checked(args: argparse.Namespace, root: str) -> argparse.Namespace:
    """Returns the flags of a fine-tuning, completed by `with_config`, or raises UserError.

    Args:
        args: the flags, with `typed`.
        root: the flag that names the place of a new run: `save` or `output`.
    """
    args = with_config(args)
    check_flags(args)
    check_resumed(args, root)
    return args


def flag_or_config(args: argparse.Namespace, name: str, config: Mapping[str, Any]) -> Any:
    """Returns a flag's value, or where it was not typed the one that the network's config has."""
    return choose(f"--{name}", getattr(args, name), config.get(name), args.model_config,
                  log.warning)


def with_config(args: argparse.Namespace) -> argparse.Namespace:
    """Returns the flags, with the net.config next to --resume where no --model-config is named."""
    if args.model_config or not args.resume:
        return args
    beside = Path(args.resume).with_name("net.config")
    return argparse.Namespace(**vars(args) | {"model_config": str(beside)}) if beside.is_file() \
        else args


def check_flags(args: argparse.Namespace) -> None:
    """Raises UserError for flags of both scripts that are missing or contradict each other."""
    if not args.model_config:
        raise UserError("--model-config: name the net.config of the network to train")
    refuse_idle(args.typed, {
        f"without {partner}": flags for partner, flags in PARTNERS.items()
        if not any(getattr(args, flag[2:].replace("-", "_"), None)
                   for flag in partner.split(" or "))})
    refuse_idle(args.typed, {
        f"without --sched {' or '.join(names)}": flags for names, flags in SCHEDULES.items()
        if args.sched not in names})
    if args.log_wandb:
        require("--log-wandb", "wandb")


def check_resumed(args: argparse.Namespace, root: str) -> None:
    """Checks that no flag typed with --resume names another folder or other weights.

    The command that started the run can be repeated with --resume.

    Args:
        args: the flags, with `typed`.
        root: which flag names the place of a new run: `save` or `output`.

    Raises:
        UserError: such a flag, which would be ignored.
    """
    if not args.resume or not os.path.isfile(args.resume):
        return
    folder, place = Path(args.resume).parent, getattr(args, root)
    real = Path(os.path.realpath(folder))
    if root in args.typed and Path(os.path.realpath(place)) not in (real, real.parent):
        raise UserError(f"--{root} {place}: with --resume the run stays in its own folder, "
                        f"{folder}; leave --{root} out")
    if "initial_checkpoint" in args.typed and not _began_with(folder, args.initial_checkpoint):
        raise UserError(f"--initial-checkpoint {args.initial_checkpoint}: with --resume the run "
                        f"continues from {args.resume}; leave --initial-checkpoint out")


def _began_with(folder: Path, weights: str) -> bool:
    """Whether the args.yaml of a run has these weights."""
    with suppress(UserError, OSError):
        recorded = read_yaml(folder / "args.yaml").get("initial_checkpoint")
        return isinstance(recorded, str) and os.path.realpath(recorded) == os.path.realpath(weights)
    return False


def mixes_labels(args: argparse.Namespace) -> bool:
    """Whether the labels of a batch are mixed."""
    return args.mixup > 0 or args.cutmix > 0 or args.cutmix_minmax is not None


def check_loss(args: argparse.Namespace) -> None:
    """Raises UserError for flags of the loss and its augmentation that contradict each other."""
    if args.aug_splits == 1:
        raise UserError("--aug-splits 1: two copies of each image at least are needed; give 2 or "
                        "more, or 0 for none")
    if args.jsd and not args.aug_splits:
        raise UserError("--jsd: needs --aug-splits 2 or more, the images that it compares")
    if args.aug_splits and mixes_labels(args):
        raise UserError("--aug-splits: cannot be used with --mixup or --cutmix")
    if (args.aug_splits or args.aug_repeats) and (args.dataset or "").lower().startswith("wds/"):
        raise UserError("--aug-splits, --aug-repeats: not with --dataset wds/..., whose images "
                        "come in a stream and cannot be read twice")
    if args.jsd and args.bce_loss:
        raise UserError("--jsd and --bce-loss: choose one")


def check_processes(args: argparse.Namespace, n: int, script: str) -> None:
    """Raises UserError where n processes of a script are not as many as --num-gpu asks for."""
    if args.num_gpu not in (None, n):
        raise UserError(f"--num-gpu {args.num_gpu}: there {'is' if n == 1 else 'are'} {n}; one "
                        f"process works on one GPU: {shlex.join(launcher(script, args.num_gpu))} "
                        "...")


def launcher(script: str, n: int) -> list[str]:
    """Returns the words that start `n` processes of a script on this machine."""
    words = calling(script)
    if words[0] != "python":  # an installed package has no scripts/
        return ["python", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n),
                "--no-python", *words]
    return [f"SCRIPT={script}", "sh", "scripts/distributed_train.sh", str(n)]


def check_name(text: str) -> str:
    """An argparse type: a data set of the table, or a name that timm's readers know."""
    prefix, slash, _ = text.partition("/")
    known = text in DATASETS or text == TAR or (slash and prefix.lower() in PACKAGES)
    if not known:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is none of {', '.join(sorted(DATASETS))}, tar, hfds/NAME, wds/NAME")
    return text
