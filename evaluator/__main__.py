"""Evaluates one architecture (a subnet file and a supernet) or network (net.config and weights)."""

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cli.startup  # noqa: F401  # before what takes time to import

from cli.progress import add_threads_flag, share_processors
from cli.scripts import Parser, add_flags, run_script
from cli.types import count, number
from data_providers.table import get_dataset_info
from evaluator.options import EVALUATION_FLAGS, EvaluationOptions, with_dataset
from networks import choose_resolution, read_config, recorded_resolution
from networks.configs import DEFAULT_RESOLUTION
from search_space import NAMES, Arch, read_subnet
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
    p = Parser(prog="python -m evaluator", description=__doc__)
    g = p.add_argument_group("what to evaluate: --subnet, or --config with --init")
    g.add_argument("--subnet", help="net.subnet file: the architecture in JSON")
    add_flags(g, EVALUATION_FLAGS, "--supernet_path")
    g.add_argument("--search_space", metavar="NAME", help="space of --subnet (default: the one "
                   f"that the file names, else mbv3): {NAMES}")
    g.add_argument("--config", help="net.config file: the layers in JSON, either naming")
    g.add_argument("--init", help="weights that belong to --config")
    g.add_argument("--resolution", type=count(8, 4096), help="image size in pixels "
                   f"(default: the file's own, else {DEFAULT_RESOLUTION})")
    g.add_argument("--reset_running_statistics", action="store_true", help="recompute the "
                   "batch-norm statistics of --config too (a subnet's always are)")
    g = p.add_argument_group("data")
    add_flags(g, EVALUATION_FLAGS, "--data", "--download", "--dataset", "--n_classes", "--vld_size",
              "--max_damaged", "--test", "--n_workers", "--vld_batch_size", "--cache_dir",
              "--cache_gb")
    g = p.add_argument_group("fine-tuning")
    add_flags(g, EVALUATION_FLAGS, "--n_epochs", "--trn_batch_size")
    g.add_argument("--drop_rate", type=number(0, 1), default=EvaluationOptions.drop_rate,
                   help="dropout before the new classifier")
    g.add_argument("--drop_connect_rate", type=number(0, 1),
                   default=EvaluationOptions.drop_connect_rate,
                   help="drop path of the last block; it grows with depth")
    g.add_argument("--save_config", action="store_true", help="write the network as it was "
                   "measured to --log_dir: net.config and net.init")
    add_flags(g, EVALUATION_FLAGS, "--seed")
    g = p.add_argument_group("device and result")
    g.add_argument("--device", help="cpu or cuda:0, ... (default: a GPU where there is one)")
    add_threads_flag(g)
    add_flags(g, EVALUATION_FLAGS, "--amp")
    g.add_argument("--latency", help="latencies to measure in ms, as gpu64#cpu: device and "
                   "batch size (default: none)")
    add_flags(g, EVALUATION_FLAGS, "--runtime")
    g.add_argument("--save", help="file for the stats in JSON (default: net.stats in "
                   "--log_dir, where that is given)")
    g.add_argument("--log_dir", help="folder for net.stats, net.config and net.init (default: "
                   "none; .tmp with --save_config)")
    g.add_argument("--verbose", action="store_true",
                   help="show the progress of the validation on a terminal")
    p.add_aliases({"--valid_size": "--vld_size", "--num_workers": "--n_workers"})
    return p


def main(args: argparse.Namespace) -> None:
    """Evaluates, writes the stats to `--save`, and prints them as one line of JSON."""
    _check(args)
    args = with_dataset(args, args.config, args.supernet_path)
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
        from networks import save_weights, write_config

        folder = Path(args.log_dir or ".tmp")
        write_config(net, folder / "net.config", resolution=stats["resolution"],
                     **evaluator.provider.facts())
        save_weights(net, folder / "net.init")
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


def _check(args: argparse.Namespace) -> None:
    if bool(args.subnet) == bool(args.config):
        raise UserError("give either --subnet, with --supernet_path, or --config, with --init")
    if args.config and not args.init:
        raise UserError("--config needs --init, the weights of that network")
    refuse_idle(args.typed, {"with --config": ("--supernet_path", "--search_space")}
                if args.config else {"with --subnet": ("--init",)})
    folder = os.path.dirname(os.path.abspath(args.save)) if args.save else None
    if args.save and os.path.isdir(args.save):
        raise UserError(f"--save {args.save}: a folder; name the file for the stats")
    if folder and os.path.exists(folder) and not os.path.isdir(folder):
        raise UserError(f"--save {args.save}: {folder} is a file, not a folder")


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
