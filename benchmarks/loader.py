"""Images per second of the provider against a bare PIL + DataLoader loop, side by side.

    python benchmarks/loader.py cifar10_jpeg.tar.xz [--save benchmarks/results/loader.md]

Both read the same files, apply the same transforms, and give normalised float batches; the loop is
what one writes without this project. Passes alternate; the ratio is the median of
their pairs, so that a busy machine slows both.
"""

import argparse
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common import benchmark_parser, machine, publish, table

from cli.scripts import run_script
from utils.errors import UserError


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("data", help="cifar10_jpeg.tar.xz, or its folder with train/ and test/")
    p.add_argument("--resolution", type=int, default=64, help="pixels")
    p.add_argument("--n_images", type=int, default=5000, help="images of each pass")
    p.add_argument("--batch_size", type=int, default=200, help="images in a batch")
    p.add_argument("--n_workers", type=int, nargs="+", default=[0, 2], help="loading processes")
    p.add_argument("--rounds", type=int, default=5, help="passes of each kind")
    p.add_argument("--save", default="benchmarks/results/loader.md", help="file for the table")
    return p


def main(args: argparse.Namespace) -> None:
    """Measures, prints and writes one row for each number of processes and kind of pass."""
    import torch

    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(args.data)
        if data.is_file():
            data = unpack(data, Path(folder) / "data")
        for n_workers in args.n_workers:
            rows += compare(args, data, Path(folder) / f"cache{n_workers}", n_workers)
    text = table(("pass", "processes", "bare loop, images/s", "provider, images/s", "ratio"), rows)
    publish(f"Real CIFAR-10 at {args.resolution} px, {args.n_images} images, median "
            f"of {args.rounds} passes, one thread.\n{machine()}\n\n{text}\n", args.save)


def unpack(archive: Path, folder: Path) -> Path:
    """Unpacks the images into `folder` and returns it."""
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    except tarfile.TarError as error:
        raise UserError(f"{archive}: not a tar archive ({error}); name a folder or "
                        "cifar10_jpeg.tar.xz") from None
    return folder


def compare(args: argparse.Namespace, data: Path, cache: Path, n_workers: int) -> list[tuple]:
    """Returns the rows of training and of evaluation, each on `n_images` training images."""
    from data_providers import DataProvider

    def provider(vld_size: int, **options: Any) -> DataProvider:
        return DataProvider("cifar10", data, vld_size=vld_size, n_workers=n_workers, **options)

    n_others = len(provider(1).images("train")) + 1 - args.n_images
    kept, streamed = {"cache_dir": cache}, {"cache_gb": 0}
    sizes = args.resolution, args.batch_size
    bare_train = bare_loop(provider(n_others), "train", args, n_workers)
    bare_eval = bare_loop(provider(args.n_images), "valid", args, n_workers)
    passes = {
        "training": (bare_train, provider(n_others, **streamed).train_loader(*sizes)),
        "training, decoded files kept": (
            bare_train, provider(n_others, **kept).train_loader(*sizes)),
        "evaluation, not cached": (
            bare_eval, provider(args.n_images, **streamed).eval_batches("valid", *sizes)),
        "evaluation, cached": (
            bare_eval, provider(args.n_images, **kept).eval_batches("valid", *sizes)),
    }
    return [measure(name, n_workers, *pair, args) for name, pair in passes.items()]


def bare_loop(provider: Any, split: str, args: argparse.Namespace, n_workers: int) -> Any:
    """Returns the DataLoader that one writes by hand, over the provider's files."""
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    from tests.data_providers.references import eval_transform, train_transform

    images = provider.images(split)
    transform = {"train": train_transform, "valid": eval_transform}[split](
        provider.info, args.resolution)

    class Files(Dataset):
        """Opens, transforms, and labels a file."""

        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            with Image.open(images.items[index]) as image:
                return transform(image.convert("RGB")), int(images.targets[index])

    return DataLoader(Files(), args.batch_size, shuffle=split == "train", num_workers=n_workers,
                      persistent_workers=n_workers > 0)


def measure(name: str, n_workers: int, bare: Iterable, ours: Iterable,
            args: argparse.Namespace) -> tuple:
    """Returns a row of the table: images per second of both, the medians of alternating passes."""
    speeds: dict[str, list[float]] = {"bare": [], "ours": []}
    for _ in range(args.rounds + 1):
        for key, loader in (("bare", bare), ("ours", ours)):
            speeds[key].append(images_per_s(loader))
    bare_speeds, our_speeds = (speeds[key][1:] for key in ("bare", "ours"))  # the first warms up
    ratio = statistics.median(o / b for o, b in zip(our_speeds, bare_speeds, strict=True))
    return (name, n_workers, f"{statistics.median(bare_speeds):.0f}",
            f"{statistics.median(our_speeds):.0f}", f"{ratio:.2f}")


def images_per_s(loader: Iterable) -> float:
    """Returns the speed of a whole pass."""
    start = time.perf_counter()
    n = sum(len(images) for images, _ in loader)
    return n / (time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
