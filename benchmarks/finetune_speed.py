"""Images per second of train_imagenet.py's loop against a bare loop, side by side.

    python benchmarks/finetune_speed.py [--save benchmarks/results/finetune_speed.md]

Both train the same network on the same batches of timm's loader, with the same optimiser, loss and
(in the second row) averaged weights. Passes alternate; the ratio is the median of their pairs, so
that a busy machine slows both.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import benchmark_parser, machine, publish, table
from PIL import Image

from cli.scripts import run_script
from train_imagenet import get_args_parser as recipe_parser

N_CLASSES = 10


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("--size", type=int, default=96, help="input resolution in pixels")
    p.add_argument("--batch_size", type=int, default=64, help="images of a step")
    p.add_argument("--steps", type=int, default=8, help="steps of a pass")
    p.add_argument("--rounds", type=int, default=7, help="passes of each kind")
    p.add_argument("--threads", type=int, default=1, help="CPU threads")
    p.add_argument("--save", default="benchmarks/results/finetune_speed.md",
                   help="file for the table")
    return p


def main(args: argparse.Namespace) -> None:
    """Measures, prints and writes a row without and one with averaged weights."""
    import torch

    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder), args.batch_size * args.steps)
        rows = [compare(args, Path(folder), ema) for ema in (False, True)]
    header = ("averaged weights", "bare loop, images/s", "train_imagenet.py, images/s", "ratio")
    text = table(header, rows)
    publish(f"Smallest subnet at {args.size} px, batch {args.batch_size}, median of "
            f"{args.rounds} passes, {args.threads} thread(s).\n{machine()}\n\n"
            f"{text}\n", args.save)


def make_images(folder: Path, n: int) -> None:
    """Writes `n` JPEG files of noise for training, one of each class for validation."""
    rng = np.random.default_rng(0)
    for i in range(n + N_CLASSES):
        split = "train" if i < n else "val"
        path = folder / split / f"class{i % N_CLASSES}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)


def compare(args: argparse.Namespace, folder: Path, ema: bool) -> tuple:
    """Returns a row of the table."""
    kinds = {"bare": bare_pass(args, folder, ema), "ours": our_pass(args, folder, ema)}
    speeds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for index in range(args.rounds + 1):
        for kind, one_pass in kinds.items():
            start = time.perf_counter()
            n_images = one_pass(index)
            speeds[kind].append(n_images / (time.perf_counter() - start))
    bare, ours = (values[1:] for values in speeds.values())  # the first pass warms up
    ratio = statistics.median(o / b for b, o in zip(bare, ours, strict=True))
    return ("yes" if ema else "no", f"{statistics.median(bare):.1f}",
            f"{statistics.median(ours):.1f}", f"{ratio:.3f}")


def recipe(args: argparse.Namespace, folder: Path, ema: bool) -> tuple[Any, Any, Any, Any]:
    """Returns the recipe's flags, a new network, the training loader and the process."""
    import torch

    from data_providers import DataProvider
    from data_providers.images import LabelledDataset
    from networks import build_supernet, cut_subnet
    from search_space import OFASearchSpace
    from training.sources import ImageSource
    from training.timm_loaders import make_loaders
    from training.world import World

    flags = recipe_parser().parse_args([
        str(folder), "-b", str(args.batch_size), "-j", "0", "--opt", "rmsproptf", "--lr", ".001",
        "--aa", "rand-m9-mstd0.5", "--reprob", "0.2", *(["--model-ema"] if ema else [])])
    world = World(torch.device("cpu"))
    net = cut_subnet(build_supernet(N_CLASSES), OFASearchSpace([args.size]).extremes()[0])
    provider = DataProvider("folder", folder, mean=(0.5,) * 3, std=(0.5,) * 3)
    source = ImageSource(LabelledDataset(provider.images("train")),
                         LabelledDataset(provider.images("valid")), provider.info)
    batches, _ = make_loaders(flags, source, args.size, world, N_CLASSES)
    return flags, net, batches, world


def our_pass(args: argparse.Namespace, folder: Path, ema: bool) -> Callable[[int], int]:
    """Returns a function that trains epoch `index` as train_imagenet.py does."""
    from functools import partial

    from training.loops import supervised
    from training.run import Run
    from training.run_files import Output

    flags, net, batches, world = recipe(args, folder, ema)
    run = Run(flags, net, world, len(batches))
    output = Output(run, None, lambda *_: None)

    def one_pass(index: int) -> int:
        run.train_one_epoch(index, batches, supervised(), partial(output.on_step, index))
        return len(batches) * args.batch_size

    return one_pass


def bare_pass(args: argparse.Namespace, folder: Path, ema: bool) -> Callable[[int], int]:
    """Returns a function that trains an epoch in the fewest lines."""
    import torch
    from timm.optim import create_optimizer_v2, optimizer_kwargs
    from timm.utils import ModelEmaV3
    from torch.nn.functional import cross_entropy

    flags, net, batches, _ = recipe(args, folder, ema)
    net = net.to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(net, **optimizer_kwargs(flags))
    average = ModelEmaV3(net) if ema else None

    def one_pass(_: int) -> int:
        net.train()
        for images, labels in batches:
            optimizer.zero_grad()
            cross_entropy(net(images.to(memory_format=torch.channels_last)), labels).backward()
            optimizer.step()
            if average:
                average.update(net)
        return len(batches) * args.batch_size

    return one_pass


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
