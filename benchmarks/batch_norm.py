"""What batch norm costs an evaluation: whether folding changes a result, and how little calibrates.

    python benchmarks/batch_norm.py [--supernet data/ofa_digits_d234_e346_k357_w0.35]
        [--dataset digits] [--data FOLDER] [--vld_size N] [--subnets 300] [--calibrated 100]
        [--save FILE]

`folding`: the top-1 of subnets with batch norm and with batch norm folded into the convolutions.
`calibration`: the statistics from all calibration images in float32 are the reference; fewer
images, or bfloat16, are compared with it by Kendall's tau between the top-1 of the subnets, and by
the mean and the largest difference of a top-1. All are scored on the same validation images.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import add_supernet_flags, benchmark_parser, machine, publish, table
from torch import nn

from cli.scripts import run_script
from cli.types import count
from evaluator.accuracy import SupernetEvaluator
from evaluator.options import EvaluationOptions
from networks import cut_subnet, recalibrate_bn
from networks.folding import folded, speed_up
from networks.supernet_info import read_supernet_info
from search_space import Arch, get_search_space
from training.loops import evaluate
from utils.metrics import kendall

BATCH = 200
SIZES = (50, 200, 400, 1000)
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


class Bench:
    """A supernet with its calibration and validation images, each kept by resolution.

    Args:
        supernet: checkpoint.
        vld_size: validation images; None: as in the supernet's training.
        options: the data set and its folder.
    """

    def __init__(self, supernet: str, vld_size: int | None, options: dict[str, Any]) -> None:
        meta = read_supernet_info(supernet)
        self.evaluator = SupernetEvaluator(EvaluationOptions(
            supernet_path=supernet, vld_size=vld_size or meta.vld_size, threads=1, n_epochs=0,
            **options))
        sizes = meta.resolutions or list(self.evaluator.provider.info.resolutions)
        self.space = get_search_space(meta.search_space or "mbv3", resolutions=sizes)
        self._images: dict[int, torch.Tensor] = {}

    def images(self, resolution: int) -> torch.Tensor:
        """Returns the calibration images (n, 3, r, r), in an order drawn once."""
        if resolution not in self._images:
            batches = self.evaluator.provider.calibration_batches(
                resolution, batch_size=BATCH, device=self.evaluator.device)
            found = torch.cat([batch[0] if isinstance(batch, list | tuple) else batch
                               for batch in batches])
            order = np.random.default_rng(0).permutation(len(found))
            self._images[resolution] = found[torch.from_numpy(order)]
        return self._images[resolution]

    def calibrated(self, arch: Arch, n: int | None = None, precision: str = "float32") -> nn.Module:
        """Returns the subnet with statistics of n images (None: all) in eval mode."""
        net = cut_subnet(self.evaluator.supernet, arch)
        speed_up(net)
        images = self.images(arch["r"])[:n]
        dtype = PRECISIONS[precision]
        with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            recalibrate_bn(net, _batches(images))
        return net.eval()

    def top1(self, net: nn.Module, resolution: int) -> float:
        """Returns the top-1 accuracy in percent on the validation images."""
        return float(evaluate(net, self.evaluator.provider.eval_batches(
            self.evaluator.split, resolution, BATCH, device=self.evaluator.device))["top1"])


def _batches(images: torch.Tensor) -> Iterator[torch.Tensor]:
    yield from images.split(BATCH)


def folding(bench: Bench, archs: Sequence[Arch]) -> np.ndarray:
    """Returns the (n, 2) top-1 with batch norm and with it folded."""
    rows = []
    for i, arch in enumerate(archs, 1):
        net = bench.calibrated(arch)
        rows.append((bench.top1(net, arch["r"]), bench.top1(folded(net), arch["r"])))
        if i % 25 == 0:
            print(f"folding: {i}/{len(archs)} subnets", flush=True)
    return np.array(rows)


def calibration(bench: Bench, archs: Sequence[Arch],
                reference: np.ndarray) -> list[tuple[object, ...]]:
    """Returns the rows of the table: images, precision, tau, differences, seconds."""
    rows = []
    n_all = len(bench.images(archs[0]["r"]))
    kinds = [*((n, "float32") for n in SIZES if n < n_all), (n_all, "bfloat16")]
    for n, precision in kinds:
        spent, found = 0.0, []
        for arch in archs:
            start = time.perf_counter()
            net = bench.calibrated(arch, n, precision)
            spent += time.perf_counter() - start
            found.append(bench.top1(folded(net), arch["r"]))
        off = np.abs(np.array(found) - reference)
        rows.append((n, precision, f"{kendall(np.array(found), reference):.3f}",
                     f"{off.mean():.2f}", f"{off.max():.2f}", f"{spent / len(archs):.2f}"))
        print(*rows[-1], flush=True)
    return rows


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    add_supernet_flags(p)
    p.add_argument("--subnets", type=count(2), default=300, help="of the comparison of folding")
    p.add_argument("--calibrated", type=count(2), default=100, help="of that of calibration")
    p.add_argument("--test", action="store_true", help="score on the test images")
    p.add_argument("--seed", type=count(0), default=0, help="of the subnets")
    p.add_argument("--save", type=Path, help="file for the tables as well")
    return p


def main(args: argparse.Namespace) -> None:
    """Prints both tables."""
    bench = Bench(args.supernet, args.vld_size,
                  {"dataset": args.dataset, "data": args.data, "test": args.test})
    archs = bench.space.sample(args.subnets, rng=np.random.default_rng(args.seed))
    pairs = folding(bench, archs)
    differing = np.flatnonzero(pairs[:, 0] != pairs[:, 1])
    provider = bench.evaluator.provider
    split, n_images = (("test", provider.n_test) if args.test
                       else ("validation", provider.vld_size))
    text = (f"{machine()}, one thread; {args.supernet}, {args.dataset}, {n_images} {split} images"
            f"\n\n{len(archs)} subnets drawn uniformly: top-1 {pairs[:, 0].min():.2f} to "
            f"{pairs[:, 0].max():.2f} %; with and without folding equal for "
            f"{len(archs) - len(differing)} of {len(archs)}, largest difference "
            f"{np.abs(pairs[:, 0] - pairs[:, 1]).max():.2f} points\n\n")
    print(text, flush=True)
    chosen = archs[:args.calibrated]
    rows = calibration(bench, chosen, pairs[:len(chosen), 1])
    n_all = len(bench.images(chosen[0]["r"]))
    text += (f"Calibration of {len(chosen)} of them, against {n_all} images in float32\n\n"
             + table(("images", "precision", "Kendall tau", "mean difference (points)",
                      "largest (points)", "seconds"), rows) + "\n")
    publish(text, args.save)


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
