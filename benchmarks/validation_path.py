"""Images per second on the way to a GPU, at an older commit and now, in one run.

    git archive c789f6f | tar x -C OLD
    python benchmarks/validation_path.py DATA OLD [--save benchmarks/results/validation_path.md]

DATA is CIFAR-10 in class folders. No GPU is needed: what is measured is the work of the processor
until a batch lies where a GPU copies it from. There the bytes are copied once, as into page-locked
memory; the pretended GPU (torch's device `meta`) computes nothing. The older program normalised on
the processor. `cold` decodes and resizes, `cached` maps the bytes and normalises on the processor,
in both programs. They are measured in turns, each pass in a process of its own.
"""

import argparse
import inspect
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from common import ROOT, benchmark_parser, machine, moment, publish, table

from cli.scripts import run_script
from cli.types import count

PASSES = ("cold", "cached", "validation path")


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("data", help="CIFAR-10 in class folders of train/ and test/")
    p.add_argument("old", help="the files of an older commit")
    p.add_argument("--resolution", type=count(8), default=224, help="pixels")
    p.add_argument("--n_images", type=count(1), default=1000, help="validation images")
    p.add_argument("--rounds", type=count(1), default=5, help="measurements of each program")
    p.add_argument("--save", default="benchmarks/results/validation_path.md", help="for the table")
    return p


def main(args: argparse.Namespace) -> None:
    """Measures in turns, prints and writes a row for each pass."""
    with tempfile.TemporaryDirectory() as folder:
        speeds = [[measure(args, tree, f"{folder}/{i}") for i, tree in
                   enumerate((Path(args.old), ROOT))] for _ in range(args.rounds)]
    rows = []
    for name in PASSES:
        before, now = ([pair[i][name] for pair in speeds] for i in range(2))
        ratio = statistics.median(b / a for a, b in zip(before, now, strict=True))
        rows.append((name, f"{statistics.median(before):,.0f}", f"{statistics.median(now):,.0f}",
                     f"{ratio:.2f}"))
    text = table(("pass", "before, images/s", "now, images/s", "ratio"), rows)
    publish(f"CIFAR-10 at {args.resolution} px, {args.n_images} images, median of "
            f"{args.rounds} pairs, one thread. The validation path ends at a "
            f"pretended GPU that computes nothing.\n{machine()}. {moment()}\n\n"
            f"{text}\n", args.save)


def measure(args: argparse.Namespace, tree: Path, cache: str) -> dict[str, float]:
    """Returns images per second of each pass of the program in `tree`, in a process of its own."""
    values = (args.data, cache, args.resolution, args.n_images)
    code = "\n".join(("import json, time", "from collections.abc import Iterable",
                      *map(inspect.getsource, (images_per_s, measured)),
                      f"print(json.dumps(measured{values!r}))"))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"})
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(data: str, cache: str, resolution: int, n_images: int) -> dict[str, float]:
    """Returns images per second of each pass of the program that is found by `import`."""
    import torch

    from data_providers import DataProvider, provider

    torch.set_num_threads(1)
    streamed = DataProvider("cifar10", data, vld_size=n_images, cache_gb=0)
    cached = DataProvider("cifar10", data, vld_size=n_images, cache_dir=cache)
    sizes = resolution, 200
    list(cached.eval_batches("valid", *sizes))
    speeds = {"cold": images_per_s(streamed.eval_batches("valid", *sizes)),
              "cached": images_per_s(cached.eval_batches("valid", *sizes))}
    if not hasattr(provider, "_pinned"):  # the older program copies what the processor normalised
        batches = ((images.clone(), labels) for images, labels in
                   cached.eval_batches("valid", *sizes))
    else:
        provider.copies_alongside = lambda device: True
        torch.Tensor.pin_memory = torch.Tensor.clone
        batches = cached.eval_batches("valid", *sizes, device="meta")
    return speeds | {"validation path": images_per_s(batches)}


def images_per_s(batches: Iterable) -> float:
    """Returns the speed of a whole pass."""
    start = time.perf_counter()
    n = sum(len(images) for images, _ in batches)
    return n / (time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
