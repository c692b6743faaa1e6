"""Whether train_imagenet.py trains as timm's own script does: the losses of both, side by side.

    python benchmarks/timm_equality.py --timm-train PATH/train.py --cifar FOLDER

`train.py` is that of timm's repository (it is not in timm's package); the folder holds CIFAR-10 as
class folders in train/ and test/. A small network learns from 2,000 of its images for a few epochs
in three recipes, on one CPU process. timm's script runs as it is, in a process that registers the
network as a timm model and seeds the generators at the start of each epoch, as ours does.
"""

import argparse
import csv
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from common import ROOT, benchmark_parser, machine, publish, table

from cli.scripts import run_script
from utils.errors import UserError

SIZE, N_CLASSES, WIDTH = 32, 10, 0.35
# Both scripts' losses are printed with about as many digits as float32 has.
TOLERANCE = 2e-6
NAME = "searched_network"
# How the process of timm's script gets the paths.
CONFIG_VARIABLE, WEIGHTS_VARIABLE = "TIMM_EQUALITY_CONFIG", "TIMM_EQUALITY_WEIGHTS"
SHARED = ["--img-size", SIZE, "--num-classes", N_CLASSES, "-b", 100, "-vb", 100, "-j", 0, "--mean",
          .4914, .4822, .4465, "--std", .2470, .2435, .2616, "--crop-pct", .875, "--interpolation",
          "bilinear", "--device", "cpu", "--seed", 42]
RECIPES = {
    "published": ["--opt", "rmsproptf", "--opt-eps", .001, "--sched", "step", "--decay-epochs", 2.4,
                  "--decay-rate", .97, "--warmup-epochs", 1, "--warmup-lr", 1e-6, "--lr", .01,
                  "--weight-decay", 1e-5, "--drop", .2, "--drop-path", .2, "--model-ema",
                  "--model-ema-decay", .99, "--aa", "rand-m9-mstd0.5", "--reprob", .2, "--remode",
                  "pixel", "--smoothing", .1],
    "mixed": ["--opt", "sgd", "--sched", "cosine", "--warmup-epochs", 0, "--min-lr", 0, "--lr", .05,
              "--weight-decay", 1e-4, "--drop", 0, "--drop-path", 0, "--clip-grad", 5, "--mixup",
              .2, "--cutmix", 1, "--smoothing", .1, "--remode", "const"],
    "binary": ["--opt", "adamw", "--sched", "cosine", "--sched-on-updates", "--warmup-epochs", 1,
               "--warmup-lr", 1e-5, "--min-lr", 1e-6, "--lr", .002, "--weight-decay", .05, "--drop",
               .1, "--drop-path", .1, "--clip-grad", .02, "--clip-mode", "agc", "--bce-loss",
               "--smoothing", .1, "--grad-accum-steps", 2, "--remode", "const"],
}


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("--timm-train", required=True, metavar="FILE", help="train.py of timm")
    p.add_argument("--cifar", required=True, metavar="FOLDER", help="CIFAR-10 as class folders")
    p.add_argument("--images", type=int, default=2000, help="images to train on")
    p.add_argument("--epochs", type=int, default=3, help="epochs")
    p.add_argument("--recipes", nargs="+", choices=sorted(RECIPES), default=sorted(RECIPES),
                   help="which are compared")
    p.add_argument("--save", default="benchmarks/results/timm_equality.md",
                   help="file for the table")
    return p


def main(args: argparse.Namespace) -> None:
    """Trains with both scripts, prints and writes a row for each epoch of each recipe."""
    rows: list[tuple[object, ...]] = []
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        link_images(Path(args.cifar), folder / "data", args.images)
        make_network(folder)
        for recipe in args.recipes:
            flags = [*SHARED, "--epochs", args.epochs, *RECIPES[recipe]]
            ours = summary(folder / f"{recipe}-ours", *our_command(folder, recipe, flags))
            theirs = summary(folder / f"{recipe}-timm", *timm_command(args, folder, recipe, flags))
            for row, difference in compared(recipe, ours, theirs):
                rows.append(row)
                worst = max(worst, difference)
    text = table(("recipe", "epoch", "training loss, ours", "timm's", "evaluation loss, ours",
                  "timm's", "top-1, ours", "timm's"), rows)
    verdict = f"Largest relative difference of a loss: {worst:.1e}."
    publish(f"{args.images} images of CIFAR-10, {SIZE} px.\n{machine()}\n\n{text}\n\n{verdict}\n",
            args.save)
    if worst > TOLERANCE:
        raise UserError(f"the losses differ by {worst:.1e}, more than {TOLERANCE:.0e}")


def link_images(source: Path, target: Path, n_train: int) -> None:
    """Links the first images of each class into train/ and, a quarter as many, val/."""
    for split, other, n in (("train", "train", n_train), ("val", "test", n_train // 4)):
        classes = sorted(path for path in (source / other).iterdir() if path.is_dir())
        if len(classes) != N_CLASSES:
            raise UserError(f"{source / other}: {len(classes)} class folders, not {N_CLASSES}")
        for label in classes:
            (target / split / label.name).mkdir(parents=True)
            for path in sorted(label.iterdir())[:n // N_CLASSES]:
                (target / split / label.name / path.name).symlink_to(path.resolve())


def make_network(folder: Path) -> None:
    """Writes net.config and net.inherited of a small subnet with weights from a seed."""
    from networks import build_supernet, cut_subnet, save_weights, write_config
    from search_space import OFASearchSpace
    from utils.devices import seeded

    with seeded(0):
        supernet = build_supernet(N_CLASSES, WIDTH)
    net = cut_subnet(supernet, OFASearchSpace([SIZE]).extremes()[0])
    write_config(net, folder / "net.config", resolution=SIZE)
    save_weights(net, folder / "net.inherited")


def our_command(folder: Path, recipe: str, flags: list) -> tuple[list, dict[str, str]]:
    """Returns the command of train_imagenet.py, and no variables."""
    return ["train_imagenet.py", folder / "data", "--dataset", "folder", "--model-config",
            folder / "net.config", "--initial-checkpoint", folder / "net.inherited", "--output",
            folder / f"{recipe}-ours", "--threads", 1, *flags], {}


def timm_command(args: argparse.Namespace, folder: Path, recipe: str,
                 flags: list) -> tuple[list, dict[str, str]]:
    """Returns the command of timm's script, and the variables that name the network."""
    command = [__file__, args.timm_train, "--data-dir", folder / "data", "--model", NAME,
               "--train-split", "train", "--val-split", "val", "--channels-last", "--output",
               folder / f"{recipe}-timm", *flags]
    return command, {CONFIG_VARIABLE: str(folder / "net.config"),
                     WEIGHTS_VARIABLE: str(folder / "net.inherited")}


def summary(output: Path, command: list, variables: dict[str, str]) -> list[dict[str, str]]:
    """Runs a script on one thread; returns the rows of the summary.csv that it leaves."""
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True,
                          text=True, env={**os.environ, "OMP_NUM_THREADS": "1", **variables})
    if done.returncode:
        raise UserError(f"{Path(str(command[0])).name} ended with {done.returncode}: "
                        f"{done.stderr.strip().splitlines()[-1:]}")
    (path,) = output.glob("*/summary.csv")
    with path.open() as file:
        return list(csv.DictReader(file))


def compared(recipe: str, ours: list[dict[str, str]],
             theirs: list[dict[str, str]]) -> Iterator[tuple[tuple[object, ...], float]]:
    """Yields a row for each epoch, with the largest relative difference of a loss in it."""
    for mine, other in zip(ours, theirs, strict=True):
        losses = [(float(mine[key]), float(other[key])) for key in ("train_loss", "eval_loss")]
        (train, timm_train), (held_out, timm_held_out) = losses
        row = (recipe, mine["epoch"], f"{train:.7f}", f"{timm_train:.7f}", f"{held_out:.7f}",
               f"{timm_held_out:.7f}", f"{float(mine['eval_top1']):.2f}",
               f"{float(other['eval_top1']):.2f}")
        yield row, max(abs(a - b) / abs(b) for a, b in losses)


def run_timm(path: str) -> None:
    """Runs timm's script, whose flags are those of this process, on our network."""
    import torch
    from timm.models import register_model
    from timm.utils import random_seed

    torch.set_num_threads(1)
    register_model(searched_network)
    spec = importlib.util.spec_from_file_location("timm_train", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path}: no Python file")
    script: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.train_one_epoch = partial(seeded_epoch, script.train_one_epoch, random_seed)
    script.main()


def seeded_epoch(train_one_epoch: Any, random_seed: Any, epoch: int, *rest: Any,
                 **options: Any) -> Any:
    """Trains an epoch of timm's script after seeding as train_imagenet.py does."""
    from training.run import epoch_seed

    random_seed(epoch_seed(42, epoch), 0)
    return train_one_epoch(epoch, *rest, **options)


def searched_network(pretrained: bool = False, **options: Any) -> Any:
    """Returns the network of the comparison, as timm's `create_model` asks for it."""
    from networks import build_from_config, load_weights, read_config

    net: Any = build_from_config(read_config(os.environ[CONFIG_VARIABLE]),
                                 options.get("drop_path_rate") or 0.0, options.get("drop_rate"))
    load_weights(net, os.environ[WEIGHTS_VARIABLE])
    net.num_classes = N_CLASSES
    return net


if __name__ == "__main__":
    if os.environ.get(CONFIG_VARIABLE):
        run_timm(sys.argv.pop(1))
        sys.exit()
    sys.exit(run_script(main, get_args_parser()))
