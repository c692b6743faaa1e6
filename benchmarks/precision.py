"""Top-1 in mixed precision against float32: the same subnets, calibration and images.

    python benchmarks/precision.py SUPERNET --dataset cifar10 --data DATA [--save precision.md]

The precision is that of --amp on this device: on a CPU bfloat16, of 8 bits, where float16 of a GPU
has 11.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from common import benchmark_parser, machine, moment, publish, table

from cli.scripts import run_script
from cli.types import count


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("supernet", help="checkpoint")
    p.add_argument("--dataset", default="digits", help="data set")
    p.add_argument("--data", default=None, help="its folder")
    p.add_argument("--vld_size", type=count(1), default=300, help="validation images")
    p.add_argument("--test", action="store_true", help="score on the test images")
    p.add_argument("--resolutions", type=int, nargs="+", default=[32, 40, 48], help="in px")
    p.add_argument("--n", type=count(2), default=30, help="random subnets")
    p.add_argument("--seed", type=int, default=0, help="of the subnets")
    p.add_argument("--save", default=None, help="file for the table; None prints only")
    return p


def main(args: argparse.Namespace) -> None:
    """Evaluates each subnet twice and prints how far the two accuracies lie apart."""
    import torch
    from scipy.stats import kendalltau

    from evaluator.accuracy import SupernetEvaluator
    from evaluator.options import EvaluationOptions
    from search_space import get_search_space

    torch.set_num_threads(1)
    full, mixed = (SupernetEvaluator(EvaluationOptions(
        dataset=args.dataset, data=args.data, supernet_path=args.supernet, device=None,
        vld_size=args.vld_size, test=args.test, amp=amp, n_epochs=0))
        for amp in (False, True))
    archs = get_search_space("mbv3", resolutions=args.resolutions).sample(
        args.n, rng=np.random.default_rng(args.seed))
    top1 = np.array([[evaluator.evaluate(arch)["top1"] for evaluator in (full, mixed)]
                     for arch in archs])
    n_images = full.provider.n_test if args.test else args.vld_size
    change = top1[:, 1] - top1[:, 0]
    mean = top1[:, 0].mean()
    one = np.sqrt(mean * (100 - mean) / n_images)
    text = table(
        ("data set", "images", "subnets", "precision", "top-1 in float32, %", "change, points",
         "largest change", "standard error of one top-1", "Kendall tau of the two"),
        [(args.dataset, n_images, args.n, mixed.amp,
          f"{top1[:, 0].min():.2f} to {top1[:, 0].max():.2f}",
          f"{change.mean():+.3f} +- {change.std(ddof=1) / np.sqrt(args.n):.3f}",
          f"{np.abs(change).max():.2f}", f"{one:.2f}",
          f"{kendalltau(top1[:, 0], top1[:, 1]).statistic:.3f}")])
    publish(f"Mixed precision against float32. {machine()}. {moment()}, "
            f"{Path(args.supernet).name}\n\n{text}\n", args.save)


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
