"""Flags: their types, their values from files, and those that the fine-tuning scripts share."""

import argparse
import math
import os
from collections.abc import Callable
from typing import Any

from utils.errors import Parser, UserError
from utils.files import read_yaml


def count(least: int, most: int = 10**6) -> Callable[[str], int]:
    """Returns an argparse type: an integer in `least`..`most`."""

    def convert(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            bound = f"{least} or more" if value < least else f"{most} or less"
            raise argparse.ArgumentTypeError(f"must be {bound}, not {text[:20]}")
        return value

    convert.__name__ = "integer"
    return convert


def number(least: float, most: float = math.inf) -> Callable[[str], float]:
    """Returns an argparse type: a finite number in `least`..`most`."""

    def convert(text: str) -> float:
        value = float(text)
        if not (least <= value <= most and math.isfinite(value)):
            bound = f"in {least}..{most}" if math.isfinite(most) else f"{least} or more"
            raise argparse.ArgumentTypeError(f"must be {bound}, not {text[:20]}")
        return value

    convert.__name__ = "number"
    return convert


def amount(text: str) -> float:
    """An argparse type: a finite number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text[:20]}")
    return value


def checked_values(parser: argparse.ArgumentParser, values: dict[str, Any],
                   source: str) -> dict[str, Any]:
    """Returns values for flags that were read from a file, converted as argparse would.

    Args:
        parser: whose flags they are; values of other names are left out.
        values: by the flag's name in the parsed arguments.
        source: the file, for messages.

    Raises:
        UserError: a value that its flag cannot have.
    """
    actions = [action for action in parser._actions if action.dest in values]
    return {action.dest: _checked_value(action, values[action.dest], source) for action in actions}


def _checked_value(action: argparse.Action, value: Any, source: str) -> Any:
    if value is None and action.default is None:
        return None
    if action.nargs == 0 and isinstance(value, bool):
        return value
    several = action.nargs == "+" or (isinstance(action.nargs, int) and action.nargs > 0)
    items = value if several and isinstance(value, list) else [value]
    try:
        if action.nargs == 0 or (several and len(items) != action.nargs != "+") or not items:
            raise ValueError
        converted = [_converted(action, item) for item in items]
    except (ValueError, TypeError, OverflowError, argparse.ArgumentTypeError):
        raise UserError(f"{source}: {action.dest} cannot be {str(value)[:60]!r}; see --help") \
            from None
    return converted if several else converted[0]


def _converted(action: argparse.Action, item: Any) -> Any:
    """Returns one value of a flag; a text may stand for a number, nothing else for another type."""
    if b"\0" in os.fsencode(str(item)):  # which itself raises for what no path can hold
        raise ValueError
    converted = (action.type or str)(str(item))
    if not isinstance(item, str) and (isinstance(item, bool) or converted != item):
        raise ValueError
    if action.choices and converted not in action.choices:
        raise ValueError
    return converted


class ConfigParser(Parser):
    """A parser whose defaults a YAML file can replace: `-c config.yaml`, such as an args.yaml."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.ArgumentDefaultsHelpFormatter,
                         allow_abbrev=False, **options)
        self.add_argument("-c", "--config", metavar="YAML", help="file of defaults for all flags")

    def parse_args(self, args: Any = None, namespace: Any = None) -> argparse.Namespace:
        """Parses as usual; what stands on the command line wins over the file."""
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        finder.add_argument("-c", "--config")
        path = finder.parse_known_args(args)[0].config
        if path:
            try:
                self._set_from_file(path)
            except UserError as error:
                self.error(str(error))
        return super().parse_args(args, namespace)

    def _set_from_file(self, path: str) -> None:
        values, known = read_yaml(path, "YAML file of flags"), {a.dest for a in self._actions}
        unknown = [key for key in values if key not in known]
        if unknown:
            raise UserError(f"{path}: unknown flag {unknown[0]!r}; known are those of --help")
        self.set_defaults(**checked_values(self, values, path))


def add_network_flags(p: argparse.ArgumentParser) -> None:
    """Adds what says which network is trained, from where, and who teaches it.

    All names of the fine-tuning scripts are those of timm's training script.
    """
    g = p.add_argument_group("network")
    g.add_argument("--model", default="nsganetv2", metavar="NAME", help="a label for the run")
    g.add_argument("--model-config", metavar="FILE",
                   help="net.config that describes the network (required)")
    g.add_argument("--initial-checkpoint", metavar="FILE", default=None,
                   help="weights to start from, such as net.inherited; None: from scratch")
    g.add_argument("--num-classes", type=count(1), default=None,
                   help="classes; None: those of the data. Another count than the network's "
                        "replaces its classifier")
    g.add_argument("--img-size", type=count(1, 4096), default=None, metavar="R",
                   help="input resolution; None: the config's own")
    g.add_argument("--drop", type=number(0, 1), default=0.0, help="dropout before the classifier")
    g.add_argument("--drop-path", type=number(0, 1), default=0.0,
                   help="drop path of the last block; it grows linearly with depth")
    g.add_argument("--teacher", default=None, metavar="WHO",
                   help="distil from: a supernet's checkpoint (at its full size), a net.config, "
                        "or the name of a timm model")
    g.add_argument("--teacher-checkpoint", default=None, metavar="FILE",
                   help="weights of a teacher that is a net.config or a timm model; "
                        "None: timm's pretrained ones")
    g.add_argument("--kd-ratio", type=number(0), default=1.0,
                   help="weight of the teacher's output, against 1 for the labels")


def add_optimisation_flags(p: argparse.ArgumentParser) -> None:
    """Adds optimiser, schedule, precision and averaging."""
    g = p.add_argument_group("optimiser")
    g.add_argument("--opt", default="momentum", help="optimiser, a name that timm knows")
    g.add_argument("--opt-eps", type=number(0), default=None, help="its epsilon; None: its own")
    g.add_argument("--opt-betas", type=number(0, 1), nargs="+", default=None,
                   help="its betas; None: its own")
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
    g.add_argument("--channels-last", action="store_true",
                   help="accepted for timm's sake: the memory format is always channels_last")
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
    g.add_argument("--decay-rate", type=number(0), default=0.1, help="factor of a decay")
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
    """Adds what says where a run lies, how it goes on, and on what it runs."""
    g = p.add_argument_group("run")
    g.add_argument("--resume", metavar="FILE", default=None,
                   help="last.pth.tar (or another checkpoint) of a run to go on with; its folder "
                        "is the output again")
    g.add_argument("--no-resume-opt", action="store_true",
                   help="take only the weights and the epoch from --resume")
    g.add_argument("--seed", type=count(0, 2**31 - 1), default=42,
                   help="of weights, images and everything else")
    g.add_argument("--log-interval", type=count(1), default=50, help="steps between two log lines")
    g.add_argument("--recovery-interval", type=count(0), default=0,
                   help="steps between two recovery checkpoints; 0: none")
    g.add_argument("--checkpoint-hist", type=count(1), default=10, help="best checkpoints to keep")
    g.add_argument("--eval-metric", choices=("top1", "top5", "loss"), default="top1",
                   help="what the best is judged by")
    g.add_argument("--device", default=None, help="cpu or cuda; None: a GPU if there is one")
    g.add_argument("--threads", type=count(1, 1024), default=None,
                   help="CPU threads of each process; None: torch's choice")
    g.add_argument("--dist-bn", choices=("reduce", "broadcast", ""), default="reduce",
                   help="how processes agree on BN statistics after each epoch; '': not at all")
    g.add_argument("--sync-bn", action="store_true",
                   help="BN statistics over the images of all GPUs in training")
    g.add_argument("--no-ddp-bb", action="store_true",
                   help="do not broadcast buffers before each step")
    g.add_argument("--check", type=count(1), metavar="N", default=None,
                   help="only check flags and files, and that N processes find their devices")
