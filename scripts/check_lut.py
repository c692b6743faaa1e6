"""Compares a latency table with reality: sums of its entries against whole random subnets."""

import argparse
import json
import re
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cli.startup  # noqa: F401  # before what takes time to import

from cli.progress import announce
from cli.scripts import Parser, add_flags, run_script
from cli.types import count, integers, number
from evaluator.latency import WIDTHS, LookUpTable
from evaluator.layers import space_layers
from evaluator.options import EVALUATION_FLAGS
from evaluator.runtimes import (
    COMMAND,
    COMMAND_FLAG,
    RUNTIME_FLAG,
    TORCH,
    choose_measure,
    measured_in_groups,
)
from evaluator.timing import CONDITION_FLAGS, Conditions
from search_space import get_search_space
from search_space.ofa import DEFAULT_RESOLUTIONS
from utils.errors import UserError, one_line
from utils.files import atomic_path
from utils.invocation import program
from utils.metrics import kendall, spearman

# What is taken from the table where no flag names it.
OF_THE_TABLE = ("device", "threads", "batch_size")
# The keys of the layers from which a table's conditions are read: input size; features and classes.
STEM = re.compile(r"^first_conv-input:(\d{1,6})x", re.ASCII)
LAST = re.compile(r"^classifier-input:(\d{1,6})-output:(\d{1,6})$", re.ASCII)
# A table serves a search from this Kendall's tau on, and limits in ms up to this mean error in %.
GOOD_TAU, GOOD_BIAS = 0.8, 25
MAX_SUBNETS = 10_000


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the command line of this script."""
    p = Parser(description=__doc__)
    p.add_argument("lut", help="the table (YAML)")
    p.add_argument("--n", type=count(3, MAX_SUBNETS), default=40, help="random subnets")
    p.add_argument("--out", type=Path, default=Path("check_lut.png"), help="scatter plot (PNG)")
    add_flags(p, EVALUATION_FLAGS, "--search_space", "--seed")
    p.add_argument("--resolutions", **integers(8, 4096),
                   help="input resolutions in px (default: those of the table)")
    p.add_argument("--n_classes", type=count(1),
                   help="classes (default: the first that the table holds)")
    p.add_argument("--width", type=number(*WIDTHS),
                   help="width multiplier (default: the first that the table holds)")
    p.add_argument("--runtime", **{**RUNTIME_FLAG, "help": "what runs the whole networks "
                                   "(default: the table's)"})
    p.add_argument("--command", **COMMAND_FLAG)
    for name, options in CONDITION_FLAGS.items():
        changed = {"default": None, "help": f"{options['help']} (default: the table's, or "
                   f"{options['default']})"} if name in OF_THE_TABLE else {}
        p.add_argument(f"--{name}", **{**options, **changed})
    return p


def take_conditions(args: argparse.Namespace, lut: LookUpTable) -> argparse.Namespace:
    """Returns the arguments with what was left open taken from the table's header."""
    defaults = {"runtime": TORCH} | {name: CONDITION_FLAGS[name]["default"]
                                     for name in OF_THE_TABLE}
    filled = {name: lut.header.get(name, value) for name, value in defaults.items()
              if getattr(args, name) is None}
    return argparse.Namespace(**{**vars(args), **filled})


def take_networks(args: argparse.Namespace, lut: LookUpTable) -> argparse.Namespace:
    """Returns the arguments with open resolutions, classes and width taken from the table.

    They are the first, in the order of the table, all of whose layers it holds.
    """
    sizes = args.resolutions or sorted({int(size) for key in lut.entries
                                        for size in STEM.findall(key)})
    space = get_search_space(args.search_space, resolutions=sizes or DEFAULT_RESOLUTIONS)
    smallest = space.extremes()[0]
    for features, outputs in (found for key in lut.entries if "r" in smallest
                              for found in LAST.findall(key)):
        n_classes = args.n_classes or int(outputs)
        unscaled = space.layers(smallest, n_classes, 1.0)[-1].in_channels
        width = args.width or round(int(features) / unscaled, 3)
        held = [r for r in sizes
                if space.layers({**smallest, "r": r}, n_classes, width)[0].key in lut.entries]
        if held and not lut.missing(space_layers(get_search_space(
                args.search_space, resolutions=held), n_classes, width)):
            return argparse.Namespace(**{**vars(args), "resolutions": held,
                                         "n_classes": n_classes, "width": width})
    return argparse.Namespace(**{
        **vars(args), "resolutions": args.resolutions or list(DEFAULT_RESOLUTIONS),
        "n_classes": args.n_classes or 1000})


def verdict(tau: float, bias: float) -> str:
    """Returns what the figures mean for a search.

    Args:
        tau: Kendall's tau of sums and measurements.
        bias: mean of (sum - measured) / measured in percent.
    """
    size = f"its sums are {abs(bias):.0f} % too {'high' if bias > 0 else 'low'} on average"
    if tau >= GOOD_TAU and abs(bias) <= GOOD_BIAS:
        return f"good: the table orders networks as they are measured; {size}"
    if tau >= GOOD_TAU:
        return (f"biased: the table orders networks as they are measured, but {size} (more than "
                f"{GOOD_BIAS} %): compare networks by it, but set no limit in ms; a table that was "
                f"measured here ({program('scripts/build_lut.py')}) has true ones, or learn the "
                f"latency of whole networks: {program('scripts/learn_latency.py')}")
    return f"poor: the table does not order networks as they are measured (Kendall's tau below " \
           f"{GOOD_TAU}); {size}; measure it again on a quiet machine, or learn the latency of " \
           f"whole networks: {program('scripts/learn_latency.py')}"


def statistics(looked_up: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """Returns how well sums (n,) predict measured latencies (n,), both in ms."""
    from scipy.stats import pearsonr

    off = (looked_up - measured) / measured
    return {"pearson": float(pearsonr(looked_up, measured).statistic),
            "kendall_tau": kendall(looked_up, measured),
            "spearman": spearman(looked_up, measured),
            "mean_error_ms": float(np.mean(looked_up - measured)),
            "mean_error_percent": float(100 * np.mean(off)),
            "mean_absolute_error_percent": float(100 * np.mean(np.abs(off)))}


def plot(path: Path, looked_up: np.ndarray, measured: np.ndarray, title: str) -> None:
    """Writes a scatter plot of sums against measurements, both (n,) in ms."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.scatter(measured, looked_up, s=14)
    ends = [min(looked_up.min(), measured.min()), max(looked_up.max(), measured.max())]
    axes.plot(ends, ends, color="grey", linewidth=0.8, label="equal")
    axes.set(xlabel="measured end to end (ms)", ylabel="sum of the table (ms)", title=title)
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def main(args: argparse.Namespace) -> None:
    """Draws subnets, measures each, and prints one JSON line."""
    lut = LookUpTable.read(args.lut)
    args = take_conditions(args, lut)
    under = Conditions.of(args)
    args = take_networks(args, lut)
    if lut.runtime == COMMAND and args.command is None:
        raise UserError(f"{args.lut}: measured by a command; name it with --command, so that it "
                        "measures whole networks: "
                        f"{one_line(lut.header.get('command', 'unknown'))[:200]}")
    measure = choose_measure(args)
    space = get_search_space(args.search_space, resolutions=args.resolutions)
    width = space.default_width if args.width is None else args.width
    lut.require_space(space, args.n_classes, width)
    archs = space.sample(args.n, rng=np.random.default_rng(args.seed))
    networks = [space.layers(arch, args.n_classes, width) for arch in archs]
    looked_up = np.array([lut.latency(layers) for layers in networks])
    announce(f"measuring {len(networks)} networks by {args.command or args.runtime}: about a "
             "second for each")
    measured = np.array([each.mean for group in measured_in_groups(networks, measure, under)
                         for each in group])
    result = statistics(looked_up, measured)
    plot(args.out, looked_up, measured,
         f"{args.n} random subnets, Kendall tau {result['kendall_tau']:.3f}")
    how = {"command": args.command} if args.command else {
        name: getattr(args, name) for name in OF_THE_TABLE}
    print(json.dumps({"table": str(args.lut), "n": args.n, "runtime": args.runtime, **how,
                      "width": width, "n_classes": args.n_classes,
                      "resolutions": args.resolutions, **result, "plot": str(args.out),
                      "verdict": verdict(result["kendall_tau"], result["mean_error_percent"])}))


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
