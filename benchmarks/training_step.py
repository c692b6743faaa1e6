"""Forward and backward pass of a supernet on a CPU, with and without `networks.depthwise`.

    python benchmarks/training_step.py [--save benchmarks/results/training_step.md]

The largest subnet of a width 0.5 MobileNetV3 supernet, as `train_supernet.py` trains it. Passes
alternate; the ratio is the median of their pairs, so that a busy machine slows both.
"""

import argparse
import statistics
import sys
import time
from contextlib import nullcontext
from typing import Any

from common import benchmark_parser, machine, moment, publish, table

from cli.scripts import run_script


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("--sizes", type=int, nargs="+", default=[32, 40, 48, 64, 96, 128],
                   help="resolutions in pixels")
    p.add_argument("--batch_size", type=int, default=128, help="images of a step")
    p.add_argument("--rounds", type=int, default=5, help="passes of each kind")
    p.add_argument("--threads", type=int, default=1, help="CPU threads")
    p.add_argument("--save", default="benchmarks/results/training_step.md",
                   help="file for the table")
    return p


def main(args: argparse.Namespace) -> None:
    """Measures, prints and writes a row for each resolution."""
    import torch

    torch.set_num_threads(args.threads)
    rows = [compare(size, args) for size in args.sizes]
    text = table(("pixels", "torch, s", "here, s", "ratio"), rows)
    publish(f"Largest subnet of width 0.5, batch {args.batch_size}, median of "
            f"{args.rounds} passes, {args.threads} thread(s).\n{machine()}, "
            f"{moment()}\n\n{text}\n", args.save)


def compare(size: int, args: argparse.Namespace) -> tuple:
    """Returns a row of the table."""
    import torch

    from networks import build_supernet
    from networks.depthwise import NarrowDepthwise
    from networks.folding import speed_up

    torch.manual_seed(0)
    nets = {"torch": build_supernet(10, 0.5), "here": build_supernet(10, 0.5)}
    speed_up(nets["here"])
    images = torch.randn(args.batch_size, 3, size, size).to(memory_format=torch.channels_last)
    seconds: dict[str, list[float]] = {kind: [] for kind in nets}
    for _ in range(args.rounds + 1):
        for kind, net in nets.items():
            net.train().to(memory_format=torch.channels_last)
            seconds[kind].append(step(net, images, NarrowDepthwise() if kind == "here"
                                      else nullcontext()))
    theirs, ours = (values[1:] for values in seconds.values())  # the first pass warms up
    ratio = statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
    return (size, f"{statistics.median(theirs):.2f}", f"{statistics.median(ours):.2f}",
            f"{ratio:.2f}")


def step(net: Any, images: Any, mode: Any) -> float:
    """Returns the seconds of one forward and backward pass."""
    began = time.perf_counter()
    with mode:
        loss = net(images).square().mean()
    loss.backward()
    net.zero_grad()
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
