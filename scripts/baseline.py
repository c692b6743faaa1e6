"""Trains the whole network alone, at each resolution of a supernet: what its front must beat.

It has the supernet's pictures, start, recipe and number of epochs. The result is a file that
`report.py` and `post_search.py` show next to a front.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

# Run as a file, Python puts scripts/ on the path, not the project's root.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cli.startup  # noqa: F401  # before what takes time to import

import train_supernet
from cli.scripts import Parser, run_script
from cli.types import count, integers
from search.baseline import TEST, VALIDATION, Baseline, read_baselines, write_baselines
from search_space import get_search_space
from search_space.backbones import width_from_name

BASELINE = "baseline.json"
COSTS = ("flops", "params", "cpu", "gpu")
# What a network is evaluated with, of the flags of its training.
FLAGS_OF_IMAGES = ("search_space", "dataset", "data", "vld_size", "max_damaged", "n_workers",
                   "seed", "device", "threads")


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = Parser(prog="baseline.py", description=(__doc__ or "").split("\n\n")[0])
    p.add_argument("supernet", help="checkpoint of train_supernet.py, next to its .state, which "
                   "has the flags that it was trained with")
    p.add_argument("--save", required=True, help=f"folder for {BASELINE} and the weights; networks "
                   "that are there already are not trained again")
    p.add_argument("--resolutions", **integers(8, 4096), default=None,
                   help="of the network, ascending; None: those of the supernet")
    p.add_argument("--device", default=None,
                   help="cpu, cuda, cuda:0, xpu or mps; None: that of the supernet's training")
    p.add_argument("--threads", type=count(1, 1024), default=None,
                   help="CPU threads; None: as many as the supernet's training had")
    return p


def main(args: argparse.Namespace) -> None:
    """Trains and scores the network at each resolution that is not done yet."""
    flags = supernet_flags(args)
    file = Path(args.save) / BASELINE
    done = read_baselines(file) if file.exists() else []
    for resolution in args.resolutions or flags.resolutions:
        if name_at(flags, resolution) not in [network.name for network in done]:
            done.append(tuned(flags, resolution, Path(args.save)))
            write_baselines(file, done)
    print("\n".join([*(network.line() for network in done), f"wrote {file}"]))


def supernet_flags(args: argparse.Namespace) -> argparse.Namespace:
    """Returns the flags of the supernet's training, as its state has them, and those of this call.

    Raises:
        UserError: no such state, or one whose space is code.
    """
    call = vars(train_supernet.get_args_parser().parse_args([])) | {"resume": args.supernet}
    own = {name: value for name in ("device", "threads") if (value := getattr(args, name))}
    stored = train_supernet.resumed_flags(argparse.Namespace(**call))
    return argparse.Namespace(**vars(stored) | own)


def name_at(flags: argparse.Namespace, resolution: int) -> str:
    """Returns the name of the network at a resolution."""
    return f"{flags.search_space} alone, {resolution} px"


def tuned(flags: argparse.Namespace, resolution: int, folder: Path) -> Baseline:
    """Trains the whole network at one resolution, or the rest of it; returns its scores."""
    from evaluator.accuracy import SupernetEvaluator  # with torch

    width = width_from_name(flags.save)
    checkpoint = folder / f"{resolution}px_w{width:g}"
    begun = train_supernet.state_of(checkpoint).exists()
    epochs = [sum(flags.epochs), *[0] * (len(flags.epochs) - 1)]
    training = train_supernet.run(argparse.Namespace(**{
        **vars(flags), "save": str(checkpoint), "resume": str(checkpoint) if begun else None,
        "resolutions": [resolution], "epochs": epochs}))
    splits = {VALIDATION: False, TEST: True} if training.provider.holds_out_validation else \
        {TEST: True}
    arch = get_search_space(flags.search_space, resolutions=[resolution]).extremes()[1]
    stats: dict[str, Any] = {}
    for images, test in splits.items():
        evaluator = SupernetEvaluator.from_options({
            "supernet_path": str(checkpoint), "n_epochs": 0, "test": test, **{
                name: getattr(flags, name) for name in FLAGS_OF_IMAGES}})
        stats[images] = evaluator.evaluate(arch)
    stats[TEST] |= evaluator.latency(arch)
    return Baseline(
        name_at(flags, resolution),
        {name: round(stats[TEST][name], 4) for name in COSTS
         if stats[TEST].get(name) is not None},
        {images: round(found["top1"], 4) for images, found in stats.items()},
        {images: len(training.provider.images(split)) for images, split in (
            (VALIDATION, "valid"), (TEST, "test")) if images in stats})


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
