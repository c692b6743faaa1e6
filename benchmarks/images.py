"""How noisy an accuracy is: by the images that it is counted on, and by those that calibrate.

    python benchmarks/images.py [--supernet data/ofa_digits_d234_e346_k357_w0.35]
        [--dataset digits] [--data FOLDER] [--vld_size N] [--subnets 16] [--draws 4] [--save FILE]

A search compares subnets on the same images, after a calibration on the same images. So two
standard deviations count: that of one accuracy, and that of the difference of two subnets.

`validation`: which images a subnet gets right is known for all validation and test images, so the
standard deviations of smaller and larger samples follow from the sample variances. `calibration`:
subsets of the calibration images are drawn several times, the same for all subnets; the truth is
the mean of as many further draws of the largest size.
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from batch_norm import BATCH, Bench
from common import add_supernet_flags, benchmark_parser, machine, publish, table

from cli.scripts import run_script
from cli.types import count
from networks import cut_subnet, recalibrate_bn
from networks.folding import folded
from search_space import Arch
from utils.metrics import kendall

SPLITS = ("valid", "test")
VALIDATION = (300, 500, 1000, 2000, 5000, 10000)
CALIBRATION = (50, 200, 400, 1000)
CLOSE = 1.0  # points: pairs of subnets that a search near its front compares


def hits(bench: Bench, arch: Arch, chosen: np.ndarray) -> np.ndarray:
    """Returns (images,) 1.0 where a subnet that the chosen images calibrate is right, else 0.0."""
    net, r = cut_subnet(bench.evaluator.supernet, arch), arch["r"]
    recalibrate_bn(net, iter(bench.images(r)[torch.from_numpy(chosen)].split(BATCH)))
    net, provider = folded(net.eval()), bench.evaluator.provider
    with torch.inference_mode():
        return np.concatenate([
            (net(images).argmax(1) == labels).numpy() for split in SPLITS
            for images, labels in provider.eval_batches(split, r, BATCH)]).astype(float)


def drawn(bench: Bench, archs: Sequence[Arch], size: int, draws: int,
          rng: np.random.Generator) -> np.ndarray:
    """Returns the hits, (draws, subnets, images), after calibrations on `size` images."""
    n_all = len(bench.images(archs[0]["r"]))
    found = [[hits(bench, arch, subset) for arch in archs]
             for subset in (rng.permutation(n_all)[:size] for _ in range(draws))]
    print(f"calibrations on {size} images: done", flush=True)
    return np.array(found)


def pairs(top1: np.ndarray) -> np.ndarray:
    """Returns the (p, 2) pairs of subnets whose accuracies differ by at most `CLOSE`."""
    found = [pair for pair in combinations(range(len(top1)), 2)
             if abs(top1[pair[0]] - top1[pair[1]]) <= CLOSE]
    return np.array(found)


def validation_rows(right: np.ndarray, close: np.ndarray) -> list[tuple[object, ...]]:
    """Returns a row for each number of images.

    Args:
        right: (subnets, images) hits.
        close: (p, 2) pairs.
    """
    alone = np.sqrt(right.var(axis=1, ddof=1).mean())
    together = np.sqrt((right[close[:, 0]] - right[close[:, 1]]).var(axis=1, ddof=1).mean())
    return [(n, *(f"{100 * value / np.sqrt(n):.2f}"
                  for value in (alone, together, together / np.sqrt(2)))) for n in VALIDATION]


def calibration_rows(found: dict[int, np.ndarray], truth: np.ndarray,
                     close: np.ndarray) -> list[tuple[object, ...]]:
    """Returns a row for each number of images: deviations over the draws, bias, Kendall's tau."""
    rows: list[tuple[object, ...]] = []
    for size, right in found.items():
        top1 = 100 * right.mean(axis=2)
        differences = top1[:, close[:, 0]] - top1[:, close[:, 1]]
        spread = [f"{np.sqrt(values.var(axis=0, ddof=1).mean()):.2f}" if len(values) > 1 else "-"
                  for values in (top1, differences)]
        tau = np.mean([kendall(each, truth) for each in top1])
        rows.append((size, len(top1), *spread, f"{(top1 - truth).mean():+.2f}", f"{tau:.3f}"))
    return rows


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    add_supernet_flags(p)
    p.add_argument("--subnets", type=count(2), default=16, help="how many, drawn uniformly")
    p.add_argument("--draws", type=count(2), default=4, help="of calibration images, of each size")
    p.add_argument("--sizes", type=count(1), nargs="+", default=CALIBRATION,
                   help="of the calibration")
    p.add_argument("--save", type=Path, help="file for the tables as well")
    return p


def main(args: argparse.Namespace) -> None:
    """Prints both tables."""
    bench = Bench(args.supernet, args.vld_size, {"dataset": args.dataset, "data": args.data})
    archs = bench.space.sample(args.subnets, rng=np.random.default_rng(0))
    n_all, rng = len(bench.images(archs[0]["r"])), np.random.default_rng(0)
    sizes = sorted(size for size in args.sizes if size < n_all)
    found = {size: drawn(bench, archs, size, args.draws, rng) for size in sizes}
    found[n_all] = drawn(bench, archs, n_all, 1, rng)
    truth = 100 * drawn(bench, archs, sizes[-1], args.draws, rng).mean(axis=(0, 2))
    close, right = pairs(truth), found[n_all][0]
    publish(
        f"{machine()}, one thread; {args.supernet}, {args.dataset}: {len(archs)} subnets drawn "
        f"uniformly, {right.shape[1]} validation and test images, top-1 {truth.min():.2f} to "
        f"{truth.max():.2f} %; {len(close)} pairs within {CLOSE:g} point\n\n"
        "Standard deviations in points; by validation images (from the sample variances)\n\n"
        + table(("validation images", "of an accuracy", "of a difference",
                 "of a difference / sqrt(2)"), validation_rows(right, close))
        + "\n\nBy calibration images (over the draws); the truth: the mean of "
        f"{args.draws} further draws of {sizes[-1]}\n\n"
        + table(("calibration images", "draws", "of an accuracy", "of a difference",
                 "mean difference to the truth", "Kendall tau with the truth"),
                calibration_rows(found, truth, close)) + "\n", args.save)


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
