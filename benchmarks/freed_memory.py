"""Work in a process that keeps the memory it frees, against one that returns it.

    python benchmarks/freed_memory.py [--oracle FILE] [--save benchmarks/results/freed_memory.md]

Two processes take turns: one has called `utils.memory.keep_freed_memory`, as all scripts and their
workers do, one has not. The ratio is the median of their pairs, so that a busy machine slows both.
With `--oracle`, the accuracy predictor of the OFA authors, also the search steps of
`search_step.py`.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import cache, partial

from common import benchmark_parser, machine, moment, peak_mib, processes, publish, table
from search_step import step_of

from cli.scripts import run_script
from utils.memory import keep_freed_memory

# name -> training or not, width, pixels, images
PASSES = {"evaluation, width 1.0, 224 px, 32 images": (False, 1.0, 224, 32),
          "evaluation, width 0.5, 48 px, 200 images": (False, 0.5, 48, 200),
          "training, width 1.0, 64 px, 64 images": (True, 1.0, 64, 64),
          "training, width 0.5, 48 px, 128 images": (True, 0.5, 48, 128)}
STEPS = {"search step, msunas": "msunas", "search step, ehvi": "ehvi"}


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("--oracle", help="ofa_mbv3_acc_predictor.pth")
    p.add_argument("--rounds", type=int, default=7, help="passes of each kind")
    p.add_argument("--threads", type=int, default=1, help="CPU threads")
    p.add_argument("--save", default="benchmarks/results/freed_memory.md",
                   help="file for the table")
    return p


def main(args: argparse.Namespace) -> None:
    """Measures, prints and writes a row for each kind of work."""
    rows = [compare(name, args) for name in (*PASSES, *(STEPS if args.oracle else ()))]
    text = table(("work", "as glibc does, s", "kept, s", "ratio", "MiB", "MiB, kept"), rows)
    publish(f"Median of {args.rounds} passes, {args.threads} thread(s); memory is "
            f"the peak of the process.\n{machine()}, {moment()}\n\n{text}\n", args.save)


def compare(name: str, args: argparse.Namespace) -> tuple[object, ...]:
    """Returns a row of the table."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    pools = {kept: processes(1, start, kept, args.threads)
             for kept in seconds}
    for _ in range(args.rounds + 1):  # the first warms up
        for kept, pool in pools.items():
            seconds[kept].append(pool.submit(timed, name, args.oracle).result())
    peaks = [pool.submit(peak_mib).result() for pool in pools.values()]
    for pool in pools.values():
        pool.shutdown()
    before, after = (times[1:] for times in seconds.values())
    ratio = statistics.median(a / b for a, b in zip(before, after, strict=True))
    return (name, f"{statistics.median(before):.3f}", f"{statistics.median(after):.3f}",
            f"{ratio:.2f}", *(f"{peak:.0f}" for peak in peaks))


def start(kept: bool, threads: int) -> None:
    """Prepares a process."""
    import torch

    torch.set_num_threads(threads)
    if kept:
        keep_freed_memory()


def timed(name: str, oracle: str) -> float:
    """Returns the seconds of one pass in this process."""
    call = one_step(oracle, STEPS[name]) if name in STEPS else one_pass(name)
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@cache
def one_step(oracle: str, strategy: str) -> Callable[[], object]:
    """Returns a call of a step of a search."""
    return partial(step_of(oracle, strategy), 0)


@cache
def one_pass(name: str) -> Callable[[], object]:
    """Returns a call of the largest subnet: forward, and backward where it trains."""
    import torch
    from torch.nn.functional import cross_entropy

    from networks import build_supernet
    from networks.folding import folded, speed_up

    training, width, size, batch = PASSES[name]
    torch.manual_seed(0)
    net = build_supernet(10, width).to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,))
    if training:
        speed_up(net)
        return lambda: cross_entropy(net.train()(images), labels).backward()
    fast = folded(net)

    def evaluate() -> None:
        with torch.inference_mode():
            fast(images)

    return evaluate


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
