"""Measures the accuracy of a network on a data set: a net.config with weights, or a subnet."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

# With `python -P` or PYTHONSAFEPATH=1, Python does not put a script's folder on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent))

import cli.startup  # noqa: F401  # before what takes time to import

from cli.progress import add_threads_flag, announce, progress_bar, share_processors
from cli.scripts import Parser, add_flags, run_script
from cli.types import count
from data_providers.flags import DATA_FLAGS
from data_providers.table import DATASETS, DatasetInfo
from evaluator.costs import millions, network_costs
from evaluator.layers import config_layers
from evaluator.options import with_dataset
from networks import choose_resolution, read_config, recorded_resolution
from networks.configs import DEFAULT_RESOLUTION, TRANSFORMS, choose_transform
from networks.supernet_info import TUNE_FIRST, SupernetInfo, check_classes
from search_space import NAMES, family_of, read_subnet
from utils.errors import UserError, warn
from utils.flags import refuse_idle

if TYPE_CHECKING:
    from torch import nn

SPLITS = ("test", "valid")
# What has no meaning with --predict: flags of a measurement, and those of the data set, which
# only a --subnet needs there, for its calibration.
OF_A_MEASUREMENT = ("--split", "--amp", "--print-freq")
OF_THE_SPLIT = ("--vld_size", "--seed")
OF_THE_IMAGES = ("--data", "--download", "--max_damaged", *OF_THE_SPLIT, "--workers")
PICTURES = 32  # in a batch of --predict


def open_data(args: argparse.Namespace, transform: str | None, facts: SupernetInfo) -> Any:
    """Returns the data provider that the flags describe; raises UserError where it is missing.

    Images are normalised by the network's file, else by the data set's row.
    """
    from data_providers import DataProvider

    return DataProvider.of(args, args.workers, transform=transform, mean=facts.mean,
                           std=facts.std)


def load_static(args: argparse.Namespace) -> tuple["nn.Module", Any, int]:
    """Returns (network, data provider, resolution) of a `net.config` with its weights.

    With --predict there is what `described` returns in place of the provider.
    """
    config = read_config(args.model)
    facts = SupernetInfo.of_config(config, args.model)
    resolution = choose_resolution(args.img_size, recorded_resolution(config), args.model)
    transform = choose_transform(args.transform, config, args.dataset, args.model)
    from networks import build_from_config, load_weights  # the first that imports torch

    net = build_from_config(config)
    load_weights(net, args.pretrained, args.use_ema, report=warn)
    data = open_data(args, transform, facts) if args.predict is None \
        else described(args, config, facts, transform)
    return net, data, resolution


def described(args: argparse.Namespace, config: dict[str, Any], facts: SupernetInfo,
              transform: str | None) -> tuple[DatasetInfo, list[str]]:
    """Returns how pictures are prepared, and the names of the classes, by the network's file.

    Raises:
        UserError: neither the file nor --dataset has the mean and std of the images,
            or that data set has another number of classes.
    """
    row = DATASETS[args.dataset]
    n_classes = config["classifier"]["out_features"]
    if "dataset" in args.typed:
        check_classes(args.model, n_classes, row.n_classes, f"--dataset {args.dataset} is not the "
                      "data set that it was trained on")
    mean, std = facts.mean or row.mean, facts.std or row.std
    if mean is None or std is None:
        raise UserError(f"{args.model}: has no mean and std of its images; name the --dataset "
                        "that the network was trained on")
    names = facts.class_names or [f"class {label}" for label in range(n_classes)]
    if len(names) != n_classes:
        raise UserError(f"{args.model}: {len(names)} class names for {n_classes} classes; fix "
                        "'class_names', or take it out")
    return replace(row, mean=tuple(mean), std=tuple(std),
                   eval_resize=transform or row.eval_resize), names


def load_subnet(args: argparse.Namespace) -> tuple["nn.Module", Any, int]:
    """Returns (network, data provider, resolution) of a subnet cut from a supernet."""
    arch, space = read_subnet(args.subnet, args.search_space)
    resolution = choose_resolution(args.img_size, arch["r"], args.subnet)
    from networks import cut_subnet, load_supernet

    net = cut_subnet(load_supernet(args.supernet_path, family=family_of(space)), arch)
    return net, open_data(args, args.transform, SupernetInfo()), resolution


def say(line: str) -> None:
    """Prints a line without disturbing the bar."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stdout)


def check_sources(args: argparse.Namespace) -> Callable:
    """Returns the loader for what was given: `--model` with weights, or `--subnet`.

    Raises:
        UserError: neither pair is complete, or both are there.
    """
    static, cut = (args.model, args.pretrained), (args.subnet, args.supernet_path)
    if all(static) and not any(cut):
        return load_static
    if all(cut) and not any(static):
        return load_subnet
    raise UserError("give either --model with --pretrained, or --subnet with --supernet_path")


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser; flags of the original keep their names."""
    p = Parser(prog="validation.py", description=__doc__)
    add_flags(p, DATA_FLAGS, "--dataset", "--data", "--download", "--max_damaged", "--vld_size",
              "--seed", dataset="imagenet")
    p.add_argument("--predict", metavar="PATH", help="a picture, or a folder of pictures: print "
                   "its predictions for each, one line of JSON (default: none)")
    p.add_argument("--split", choices=SPLITS, default="test", help="the test images, or the "
                   "validation images of a search (default: %(default)s)")
    p.add_argument("-m", "--model", help="net.config of the network (default: none)")
    p.add_argument("--pretrained", help="its weights: net.init, net.inherited, or a checkpoint "
                   "(default: none)")
    p.add_argument("--use-ema", action="store_true", help="take the averaged weights of a "
                   "checkpoint (default: the last ones)")
    p.add_argument("--subnet", help="instead of --model: net.subnet, to be cut out and calibrated "
                   "(default: none)")
    p.add_argument("--supernet_path", help="the supernet for --subnet (default: none)")
    p.add_argument("--search_space", metavar="NAME", help="space of --subnet (default: the one that"
                   f" the file names, else mbv3): {NAMES}")
    p.add_argument("--img-size", type=count(8, 4096),
                   help=f"input resolution (default: the file's, else {DEFAULT_RESOLUTION})")
    p.add_argument("--transform", choices=TRANSFORMS, help="evaluation transform (default: the "
                   "file's, else squash for the small images of CIFAR and CINIC-10, as published "
                   "networks have it, else the data set's)")
    p.add_argument("-j", "--workers", type=count(0, 1024), default=4,
                   help="data-loading processes (default: %(default)s)")
    p.add_argument("-b", "--batch-size", type=count(1), default=200,
                   help=f"images in a batch (default: %(default)s; {PICTURES} with --predict)")
    p.add_argument("--device", help="cpu, or cuda:0, ... (default: a GPU where there is one, else "
                   "cpu)")
    add_threads_flag(p)
    p.add_argument("--amp", action=argparse.BooleanOptionalAction,
                   help="mixed precision (default: on a GPU with bfloat16)")
    p.add_argument("--print-freq", type=count(1), default=10,
                   help="batches from one line to the next (default: %(default)s)")
    return p


def check_split(args: argparse.Namespace) -> None:
    """Raises UserError for a split without a size."""
    if args.split == "valid" and not (args.vld_size or DATASETS[args.dataset].vld_size):
        raise UserError("--split valid needs --vld_size, the number of validation images that the "
                        "search split off")


def idle_flags(args: argparse.Namespace) -> dict[str, tuple[str, ...]]:
    """Returns the flags that this call does not read, by the reason."""
    if args.subnet:
        return {"with --subnet": ("--use-ema",)} | (
            {} if args.predict is None else {"with --predict": OF_A_MEASUREMENT})
    idle: dict[str, tuple[str, ...]] = {"without --subnet": ("--search_space",)}
    if args.predict is not None:
        idle["with --predict"] = OF_A_MEASUREMENT + OF_THE_IMAGES
    elif args.split != "valid":
        idle["without --subnet or --split valid"] = OF_THE_SPLIT
    return idle


def main(args: argparse.Namespace) -> None:
    """Validates one network and prints the result as a last line of JSON, or predicts pictures."""
    refuse_idle(args.typed, idle_flags(args))
    load = check_sources(args)
    args = with_dataset(args, args.model, args.supernet_path)
    check_split(args)
    share_processors(args.threads)
    announce(f"loading {args.model or args.subnet} and the images")
    net, provider, resolution = load(args)
    if args.subnet or args.predict is None:
        check_classes(args.pretrained or args.supernet_path, net.classifier.out_features,
                      provider.n_classes, TUNE_FIRST)
    if args.predict is not None:
        print_predictions(net, provider, resolution, args)
        return
    costs = network_costs(config_layers(net.config, resolution))
    measured = validate(net, provider, resolution, args)
    say(f" * Acc@1 {measured['top1']:.3f} Acc@5 {measured['top5']:.3f}")
    say(json.dumps({
        "top1": measured["top1"], "top1_err": 100 - measured["top1"],
        "top5": measured["top5"], "top5_err": 100 - measured["top5"],
        "n_images": measured["n_images"], "params": millions(costs.params),
        "flops": millions(costs.flops), "resolution": resolution,
        "transform": provider.info.eval_resize}))


def print_predictions(net: "nn.Module", data: Any, resolution: int,
                      args: argparse.Namespace) -> None:
    """Prints one line of JSON for each picture of --predict.

    Args:
        net: the classifier.
        data: a provider, or what `described` returns.
        resolution: that the network takes.
        args: the flags.

    Raises:
        UserError: no picture, or none that can be read.
    """
    from evaluator.accuracy import evaluation_device
    from evaluator.predictions import picture_files, predict
    from networks import recalibrate_bn

    files = picture_files(args.predict)
    device = evaluation_device(args.device)
    net.to(device)
    if args.subnet:
        recalibrate_bn(net, data.calibration_batches(resolution, device=device))
        data = data.info, data.facts()["class_names"]
    done = 0
    batch_size = args.batch_size if "batch_size" in args.typed else PICTURES
    predicted = predict(net.eval(), files, *data, resolution, device, batch_size)
    for found in progress_bar(predicted, "picture"):
        say(json.dumps({"path": found.path, "class": found.classes[0],
                        "probability": round(found.probabilities[0], 4),
                        "top5": {name: round(value, 4) for name, value in
                                 zip(found.classes, found.probabilities, strict=True)}},
                       ensure_ascii=False))
        done += 1
    if not done:
        raise UserError(f"{args.predict}: none of {len(files)} pictures can be read")


def validate(net: "nn.Module", provider: Any, resolution: int,
             args: argparse.Namespace) -> dict[str, float]:
    """Runs the network over the chosen split; see `training.loops.evaluate`.

    A subnet's BN statistics are recomputed first, as in an evaluation of a search.
    """
    from evaluator.accuracy import evaluation_device
    from networks import recalibrate_bn
    from networks.folding import folded, speed_up
    from training.batch_log import BatchLog
    from training.loops import evaluate
    from utils.devices import evaluation_precision

    device = evaluation_device(args.device)
    net.to(device)
    if args.subnet:
        speed_up(net)
        recalibrate_bn(net, provider.calibration_batches(resolution, device=device))
    net = folded(net)
    batches = provider.eval_batches(args.split, resolution, args.batch_size, device=device)
    return evaluate(net, batches, amp=evaluation_precision(args.amp, device), progress=progress_bar,
                    on_batch=BatchLog(len(batches), args.print_freq, say))


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
