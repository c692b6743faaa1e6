"""Costs of a population in closed form, compared with profiling a real network.

    python benchmarks/costs.py [--lut TABLE] [--n 1000] [--profiled 3]

The profile is the way of the original program: cut the subnet out of the supernet, and count its
operations with torchprofile in a pass through the network.
"""

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
from common import benchmark_parser, machine, publish, table

from cli.scripts import run_script
from evaluator.costs import CostModel
from evaluator.latency import LookUpTable
from search_space import OFASearchSpace

REPEATS = 50


def median_ms(call: Callable[[], object], repeats: int = REPEATS) -> float:
    """Returns the median duration of a call in ms."""
    durations = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        durations.append(1000 * (time.perf_counter() - start))
    return statistics.median(durations)


def profile_ms(space: OFASearchSpace, n: int) -> float:
    """Returns the median time in ms to cut and profile one of `n` random subnets."""
    import torch
    from torchprofile import profile_macs

    from networks import build_supernet, cut_subnet

    supernet = build_supernet(1000).eval()
    archs = iter(space.sample(n, rng=np.random.default_rng(1)))

    def profile() -> None:
        arch = next(archs)
        profile_macs(cut_subnet(supernet, arch), torch.zeros(1, 3, arch["r"], arch["r"]))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchprofile names each operation that it does not count
        return median_ms(profile, n)


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("--lut", default="data/cpu_lut_mbv3.yaml", help="latency table (YAML)")
    p.add_argument("--n", type=int, default=1000, help="subnets in the population")
    p.add_argument("--profiled", type=int, default=3, help="subnets that are profiled, too")
    return p


def main(args: argparse.Namespace) -> None:
    """Prints the table."""
    space = OFASearchSpace()
    X = space.draw(args.n, np.random.default_rng(0))
    build = median_ms(lambda: CostModel(space), 5)
    read = median_ms(lambda: LookUpTable.read(args.lut), 5)
    counted, with_table = CostModel(space), CostModel(space, lut=LookUpTable.read(args.lut))
    counts, latencies = (median_ms(lambda m=model: m.evaluate(X))
                         for model in (counted, with_table))
    profiled = profile_ms(space, args.profiled)
    publish(f"{machine()}\n\n" + table(("what", "original", "target", "ours"), [
        (f"params + FLOPs + MACs of {args.n} subnets", "1.08 s each", "2 ms", f"{counts:.2f} ms"),
        ("the same with the latency table", "3.34 s each", "10 ms", f"{latencies:.2f} ms"),
        ("once: build the cost tables", "", "", f"{build:.0f} ms"),
        ("once: read the latency table", "", "", f"{read:.0f} ms"),
        ("one subnet by cutting and profiling it, here", "", "", f"{profiled:.0f} ms"),
        ("profile / closed form, per subnet", "", "", f"{profiled * args.n / counts:,.0f} x"),
    ]))


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
