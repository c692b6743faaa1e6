"""Trains a Once-for-All supernet on any of the data sets, from nothing but its images.

First the full network, then progressive shrinking: kernel sizes, depths and expansion ratios become
elastic one after the other, each step trains the largest, the smallest and some random subnets.
The result serves `msunas.py --supernet_path`.
"""

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import cli.early  # noqa: F401  # before what takes time to import

from cli.scripts import Parser, run_script
from cli.types import DOWNLOAD, MAX_DAMAGED, amount, count, integers, number
from data_providers.table import DATASETS, get_dataset_info
from search_space.backbones import width_from_name
from utils.errors import UserError
from utils.locks import locked_beside

# The space whose supernets this script trains.
SPACE = "mbv3"


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the command-line parser."""
    p = Parser(prog="train_supernet.py", description=__doc__.split("\n\n")[0],
               formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--save", required=True, default=argparse.SUPPRESS,
                   help="checkpoint to write; its name ends with the width multiplier, as in "
                        "ofa_digits_d234_e346_k357_w0.35 (required)")
    p.add_argument("--resume", action="store_true",
                   help="go on from the state beside --save (<save>.state)")
    p.add_argument("--init", default=None, help="supernet checkpoint to start from, of the same "
                                                "width; its classifier is replaced where needed")
    g = p.add_argument_group("data")
    g.add_argument("--dataset", choices=sorted(DATASETS), default="digits", help="data set")
    g.add_argument("--data", default=None, help="its folder; digits needs none")
    g.add_argument("--download", action="store_true", help=DOWNLOAD)
    g.add_argument("--max_damaged", type=number(0, 1), default=0.01, help=MAX_DAMAGED)
    g.add_argument("--vld_size", type=count(1), default=None,
                   help="training images kept apart for validation; None: the data set's own")
    g.add_argument("--resolutions", **integers(8, 4096), default=None,
                   help="input resolutions, ascending, as 32 36 40 or 32:40:4; None: the data "
                        "set's own")
    g.add_argument("--n_workers", type=count(0), default=0, help="processes that load images")
    g = p.add_argument_group("training")
    g.add_argument("--epochs", type=count(0), nargs=4,
                   metavar=("FULL", "KERNEL", "DEPTH", "EXPAND"),
                   default=[60, 20, 20, 60], help="epochs of the four phases; 0 skips one")
    g.add_argument("--batch_size", type=count(1), default=128, help="images for each step")
    g.add_argument("--opt", default="adamw", help="optimiser, a name that timm knows")
    g.add_argument("--lr", type=amount, default=4e-3, help="learning rate of the first phase")
    g.add_argument("--shrink_lr", type=amount, default=2e-3,
                   help="learning rate of the later phases; it falls to 0 in each as a cosine")
    g.add_argument("--weight_decay", type=number(0), default=0.05, help="weight decay")
    g.add_argument("--clip_grad", type=amount, default=5.0, help="largest norm of the gradient")
    g.add_argument("--smoothing", type=number(0, 1), default=0.1, help="label smoothing")
    g.add_argument("--dropout", type=number(0, 1), default=0.1,
                   help="dropout before the classifier")
    g.add_argument("--n_random", type=count(0), default=2,
                   help="random subnets for each step, besides the largest and the smallest")
    g.add_argument("--kd_ratio", type=number(0), default=1.0,
                   help="weight of the largest subnet's output against the labels")
    g.add_argument("--amp", choices=("bfloat16", "float16"), default=None,
                   help="mixed precision")
    g.add_argument("--seed", type=count(0, 2**63), default=0,
                   help="of weights, images and subnets")
    g = p.add_argument_group("machine")
    g.add_argument("--device", default=None, help="cpu, cuda:0 ...; None: a GPU if there is one")
    g.add_argument("--threads", type=count(1, 1024), default=None,
                   help="CPU threads; None: torch's choice")
    g.add_argument("--eval_every", type=count(1), default=10,
                   help="epochs between two measurements of the largest and smallest subnet")
    return p


def main(args: argparse.Namespace) -> None:
    """Trains, measures, and writes the checkpoint after each epoch."""
    checkpoint = Path(args.save)
    state = checkpoint.with_name(checkpoint.name + ".state")
    _check(args, checkpoint, state)
    with locked_beside(checkpoint, f"{checkpoint}: the checkpoint"):
        _check(args, checkpoint, state)  # another process may have made it since
        train(args, checkpoint, state)


def train(args: argparse.Namespace, checkpoint: Path, state: Path) -> None:
    """Trains to the last epoch; nobody else may write the checkpoint meanwhile."""
    import torch

    from data_providers import DataProvider
    from networks import SupernetMeta, save_weights
    from training.shrinking import Recipe, SupernetTraining
    from utils.devices import checked_device

    device = checked_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    provider = DataProvider(args.dataset, args.data, vld_size=args.vld_size, seed=args.seed,
                            n_workers=args.n_workers, download=args.download,
                            max_damaged=args.max_damaged)
    resolutions = args.resolutions or list(get_dataset_info(args.dataset).resolutions)
    recipe = Recipe(resolutions=resolutions, **{
        field.name: getattr(args, field.name) for field in fields(Recipe)
        if field.name != "resolutions"})
    training = SupernetTraining(_network(args, provider.n_classes).to(device), provider, recipe,
                                dataset=args.dataset, vld_size=args.vld_size, init=args.init)
    if args.resume:
        training.resume(state)
    print(f"{provider.n_train} training images of {args.dataset}, resolutions {resolutions}",
          flush=True)
    meta = SupernetMeta(search_space=SPACE, dataset=args.dataset, resolutions=resolutions,
                        vld_size=provider.vld_size, n_classes=provider.n_classes,
                        **provider.facts()).to_json()
    while not training.finished:
        print(training.train_one_epoch(), flush=True)
        training.save_state(state)  # first: with the state alone, --resume makes the weights
        save_weights(training.net, checkpoint, meta=meta)
        if training.epoch % args.eval_every == 0 and provider.n_valid:
            print(f"  validation images: {_percent(training.score_extremes('valid'))}", flush=True)
    print(f"test images: {_percent(training.score_extremes('test'))}")
    print(f"wrote {checkpoint}")


def _network(args: argparse.Namespace, n_classes: int) -> Any:
    """Returns the supernet to train, new or from --init."""
    import torch

    from networks import build_supernet, load_supernet, replace_classifier
    from utils.devices import seeded

    generator = torch.Generator().manual_seed(args.seed)
    if args.init:
        net = load_supernet(args.init)
        if net.classifier.out_features != n_classes:
            replace_classifier(net, n_classes, generator)
    else:
        with seeded(args.seed):
            net = build_supernet(n_classes, width_from_name(args.save), args.dropout)
    return net


def _percent(top1: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f} %" for name, value in top1.items())


def _check(args: argparse.Namespace, checkpoint: Path, state: Path) -> None:
    if f"_w{width_from_name(checkpoint):g}" not in checkpoint.name:
        raise UserError(f"{checkpoint}: the name must end with the width multiplier, as in "
                        "ofa_digits_d234_e346_k357_w0.35")
    if checkpoint.exists() and not state.exists():
        raise UserError(f"{checkpoint}: holds weights, but there is no {state.name} to go on "
                        f"from; choose another --save, with --init {checkpoint} to begin with "
                        "these weights")
    if (checkpoint.exists() or state.exists()) and not args.resume:
        raise UserError(f"{checkpoint}: exists; choose another --save, or go on with --resume")
    if args.init and width_from_name(args.init) != width_from_name(checkpoint):
        raise UserError(f"--init {args.init}: of another width than --save {checkpoint.name}")
    if args.resume and not state.exists():
        raise UserError(f"{state}: no such state of a training; start it without --resume")
    if not sum(args.epochs):
        raise UserError("--epochs: four numbers, not all of them 0")
    resolutions = args.resolutions or [8]
    if sorted(set(resolutions)) != resolutions:
        raise UserError(f"--resolutions: different numbers in ascending order, not {resolutions}")



if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
