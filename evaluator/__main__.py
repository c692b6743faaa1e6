"""Evaluates one architecture (a subnet file and a supernet) or network (net.config and weights)."""

import argparse
import json
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cli.startup  # noqa: F401  # before what takes time to import

from cli.progress import add_threads_flag, share_processors
from cli.scripts import TypedFlagsParser, run_script
from cli.types import DOWNLOAD, MAX_DAMAGED, amount, count, number
from data_providers.table import DATASETS, get_dataset_info
from evaluator.options import EvaluationOptions
from networks import choose_resolution, read_config, recorded_resolution
from networks.configs import DEFAULT_RESOLUTION
from search_space import SEARCH_SPACES, Arch, read_subnet
from utils.errors import UserError
from utils.files import write_json
from utils.flags import refuse_idle

if TYPE_CHECKING:
    from evaluator.accuracy import NetEvaluator
    from networks import StaticNetwork

    # evaluator, network as measured, its stats, network to time
    Evaluated = tuple[NetEvaluator, StaticNetwork, dict[str, Any], StaticNetwork]

def get_args_parser() -> argparse.ArgumentParser:
    """Returns the command-line parser; the original's flags keep their names."""
    p = TypedFlagsParser(prog="python -m evaluator", description=__doc__)
    net = p.add_argument_group("what to evaluate: --subnet, or --config with --init")
    net.add_argument("--subnet", help="net.subnet file: the architecture in JSON")
    net.add_argument("--supernet_path", help="checkpoint that --subnet takes its weights from "
                     "(default: the data set's, ./data/ofa_mbv3_d234_e346_k357_w1.0 for imagenet)")
    net.add_argument("--search_space", metavar="NAME", help="space of --subnet (default: the one "
                     f"that the file names, else mbv3): {', '.join(sorted(SEARCH_SPACES))}, or "
                     "module:Class")
    net.add_argument("--config", help="net.config file: the layers in JSON, either naming")
    net.add_argument("--init", help="weights that belong to --config")
    net.add_argument("--resolution", type=count(8, 4096), help="image size in pixels "
                     f"(default: the file's own, else {DEFAULT_RESOLUTION})")
    net.add_argument("--reset_running_statistics", action="store_true", help="recompute the "
                     "batch-norm statistics of --config too (a subnet's always are)")
    data = p.add_argument_group("data")
    data.add_argument("--data", help="folder of the data set (digits needs none)")
    data.add_argument("--download", action="store_true", help=f"{DOWNLOAD} (default: no)")
    data.add_argument("--dataset", choices=sorted(DATASETS), default="imagenet",
                      help="data set (default: imagenet)")
    data.add_argument("--n_classes", type=count(1), help="classes (default: the data set's)")
    data.add_argument("--vld_size", "--valid_size", type=count(1),
                      help="validation images split off the training set "
                      "(default: 300 for digits, else none: the test images are used)")
    data.add_argument("--max_damaged", type=number(0, 1), default=0.01,
                   help=f"{MAX_DAMAGED} (default: 0.01)")
    data.add_argument("--test", action="store_true", help="score on the test images")
    data.add_argument("--n_workers", "--num_workers", type=count(0), default=4,
                      help="data-loading processes (default: 4)")
    data.add_argument("--vld_batch_size", type=count(1), default=200,
                      help="batch size of validation (default: 200)")
    data.add_argument("--cache_dir", help="folder for decoded images (default: $MSUNAS_CACHE or "
                      "~/.cache/msunas)")
    data.add_argument("--cache_gb", type=amount, default=32.0,
                      help="its greatest size in GiB (default: 32)")
    tune = p.add_argument_group("fine-tuning")
    tune.add_argument("--n_epochs", type=count(0),
                      help="epochs with a new classifier; 0 evaluates as "
                      "it is (default: the data set's, 0 for imagenet and digits, else 5)")
    tune.add_argument("--trn_batch_size", type=count(1),
                      help="its batch size (default: the data set's)")
    tune.add_argument("--drop_rate", type=number(0, 1), default=0.2,
                      help="dropout before the new classifier (default: 0.2)")
    tune.add_argument("--drop_connect_rate", type=number(0, 1), default=0.0,
                      help="drop path of the last block; it grows with depth (default: 0)")
    tune.add_argument("--save_config", action="store_true", help="write the network as it was "
                      "measured to --log_dir: net.config and net.init")
    tune.add_argument("--seed", type=count(0, 2**63), default=0,
                      help="seed of every random draw (default: 0)")
    device = p.add_argument_group("device and result")
    device.add_argument("--device", help="cpu or cuda:0, ... (default: a GPU where there is one)")
    add_threads_flag(device)
    device.add_argument("--amp", action=argparse.BooleanOptionalAction,
                        help="mixed precision (default: in validation, on a GPU with bfloat16)")
    device.add_argument("--latency", help="latencies to measure in ms, as gpu64#cpu: device and "
                        "batch size (default: none)")
    device.add_argument("--save", help="file for the stats in JSON (default: net.stats in "
                        "--log_dir, where that is given)")
    device.add_argument("--log_dir", help="folder for net.stats, net.config and net.init (default: "
                        "none; .tmp with --save_config)")
    device.add_argument("--verbose", action="store_true",
                        help="show the progress of the validation on a terminal")
    return p


def main(args: argparse.Namespace) -> None:
    """Evaluates, writes the stats to `--save`, and prints them as one line of JSON."""
    _check(args)
    share_processors(args.threads)
    stats = evaluate(args)
    path = args.save or (args.log_dir and os.path.join(args.log_dir, "net.stats"))
    if path:
        write_json(path, stats)
    print(json.dumps(stats))


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the stats of what the arguments name; reads the small files before it loads torch.

    Raises:
        UserError: a file or an option is wrong.
    """
    arch, space = read_subnet(args.subnet, args.search_space) if args.subnet else (None, "mbv3")
    config = read_config(args.config) if args.config else None
    from evaluator.accuracy import parse_latency

    latency = parse_latency(args.latency)  # DEVIATION measured-cpu: there `cpu` is looked up
    options = EvaluationOptions.of({**vars(args), "search_space": space})
    evaluator, net, stats, untuned = _subnet(args, options, arch) if arch is not None \
        else _static(args, options, config)
    if args.save_config:
        _write_pair(args.log_dir or ".tmp", net, stats, evaluator.provider.facts())
    return stats | evaluator.latencies(untuned, stats["resolution"], latency)


def _subnet(args: argparse.Namespace, options: EvaluationOptions, arch: Arch) -> "Evaluated":
    """Evaluates a subnet of a supernet."""
    from evaluator.accuracy import SupernetEvaluator
    from networks import cut_subnet

    path = args.supernet_path or get_dataset_info(args.dataset).supernet
    evaluator = SupernetEvaluator(replace(options, supernet_path=path))
    arch["r"] = choose_resolution(args.resolution, arch["r"], args.subnet, "--resolution")
    net, stats = evaluator.evaluated(arch)
    return evaluator, net, stats, cut_subnet(evaluator.supernet, arch)


def _static(args: argparse.Namespace, options: EvaluationOptions, config: Any) -> "Evaluated":
    """Evaluates a network of a net.config with its weights."""
    from evaluator.accuracy import NetEvaluator
    from networks import build_from_config, load_weights

    net = build_from_config(config)
    load_weights(net, args.init)
    resolution = choose_resolution(args.resolution, recorded_resolution(config), args.config,
                                   "--resolution")
    evaluator = NetEvaluator(options)
    stats = evaluator.evaluate_net(net.eval(), resolution, args.reset_running_statistics)
    return evaluator, net, stats, net


def _write_pair(folder: str, net: "StaticNetwork", stats: dict[str, Any],
                facts: dict[str, Any]) -> None:
    """Writes net.config and net.init of a network as it was measured."""
    from networks import save_weights, write_config

    write_config(net, os.path.join(folder, "net.config"), resolution=stats["resolution"],
                 **facts)
    save_weights(net, os.path.join(folder, "net.init"))


def _check(args: argparse.Namespace) -> None:
    if bool(args.subnet) == bool(args.config):
        raise UserError("give either --subnet, with --supernet_path, or --config, with --init")
    if args.config and not args.init:
        raise UserError("--config needs --init, the weights of that network")
    refuse_idle(args.typed, {"beside --config": ("--supernet_path", "--search_space")}
                if args.config else {"beside --subnet": ("--init",)})
    folder = os.path.dirname(os.path.abspath(args.save)) if args.save else None
    if args.save and os.path.isdir(args.save):
        raise UserError(f"--save {args.save}: a folder; name the file for the stats")
    if folder and os.path.exists(folder) and not os.path.isdir(folder):
        raise UserError(f"--save {args.save}: {folder} is a file, not a folder")


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
