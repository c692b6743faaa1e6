"""Measures a latency table on this device: every distinct layer that a search space can contain."""

import argparse
import platform
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cli.startup  # noqa: F401  # before what takes time to import

from cli.scripts import Parser, add_flags, run_script
from cli.types import integers, number
from data_providers.table import get_dataset_info
from evaluator.latency import WIDTHS, LookUpTable, read_header
from evaluator.layers import read_config_layers, space_layers
from evaluator.options import EVALUATION_FLAGS
from evaluator.runtimes import (
    COMMAND,
    COMMAND_FLAG,
    ONNXRUNTIME,
    PRECISION,
    RUNTIME_FLAG,
    TORCH,
    Measure,
    choose_measure,
    described,
    measured_in_groups,
)
from evaluator.timing import CONDITION_FLAGS, Conditions, device_name
from networks.supernet_info import SupernetInfo, check_supernet_file, read_supernet_info
from search_space import DEFAULT, get_search_space, refuse_code
from search_space.backbones import width_from_name
from search_space.layers import Layer
from utils.errors import UserError
from utils.files import read_yaml, write_text
from utils.flags import refuse_idle
from utils.locks import Lock, locked_beside

# What a table of an older version was measured with.
OLDER = {"runtime": TORCH, "precision": PRECISION}
# Flags that choose the layers of a space.
OF_A_SPACE = ("--supernet_path", "--search_space", "--n_classes", "--width")


def read_supernet(args: argparse.Namespace) -> SupernetInfo:
    """Returns what the supernet of `--supernet_path` records, with its width; nothing without one.

    Raises:
        UserError: no such file, or it names code for its space, which must be typed.
    """
    if not args.supernet_path:
        return SupernetInfo()
    check_supernet_file(args.supernet_path)
    supernet = read_supernet_info(args.supernet_path)
    if "search_space" not in args.typed:
        refuse_code(supernet.search_space, str(args.supernet_path))
    return replace(supernet, width=supernet.width or width_from_name(args.supernet_path))


def wanted_layers(args: argparse.Namespace) -> list[Layer]:
    """Returns the layers to measure, one for each key: those of a space, or of net.config files."""
    refuse_idle(args.typed, {"with --config": OF_A_SPACE} if args.config else {})
    supernet = read_supernet(args)
    info = get_dataset_info(args.dataset if "dataset" in args.typed
                            else supernet.dataset or args.dataset)
    if args.config:
        layers = [layer for path in args.config for resolution in args.resolutions or [None]
                  for layer in read_config_layers(path, resolution)[0]]
    else:
        space = get_search_space(args.search_space if "search_space" in args.typed
                                 else supernet.search_space or args.search_space,
                                 resolutions=args.resolutions or supernet.resolutions
                                 or info.resolutions)
        n_classes = args.n_classes or supernet.n_outputs or supernet.n_classes or info.n_classes
        if n_classes is None:
            raise UserError(f"{info.name}: the number of classes is not known; give --n_classes")
        published = width_from_name(info.supernet) if space.name == DEFAULT \
            else space.default_width
        layers = space_layers(space, n_classes, args.width or supernet.width or published)
    return list({layer.key: layer for layer in layers if layer.key}.values())


def conditions(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the header: everything that two measurements must share to stand in one table."""
    if args.runtime == COMMAND:
        return {"unit": "ms", "runtime": COMMAND, "command": args.command}
    import torch

    cuda = args.runtime != ONNXRUNTIME and torch.device(args.device).type == "cuda"
    return {
        "unit": "ms, mean over repeated passes of a whole batch",
        "device": torch.device(args.device).type,
        "device_name": device_name(args.device),
        "threads": args.threads,
        "memory": "freed memory is kept by the process (mallopt), where the C library is glibc",
        "batch_size": args.batch_size,
        "rel_err": args.rel_err,
        "max_repeats": args.max_repeats,
        **described(args.runtime),
        "cuda": torch.version.cuda if cuda else None,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def read_entries(path: Path, header: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns what a table already holds, {} where there is no file.

    Raises:
        UserError: the file is damaged, or was measured under other conditions.
    """
    if not path.exists():
        return {}
    LookUpTable.read(path)
    found = OLDER | read_header(path)
    other = [f"{name} {found.get(name)!r}, not {value!r}" for name, value in header.items()
             if found.get(name) != value]
    if other:
        raise UserError(f"{path}: measured under other conditions ({'; '.join(other)}); name "
                        "another file with --out")
    return read_yaml(path, "latency table")


def write_entries(path: Path, header: dict[str, Any], entries: dict[str, Any]) -> None:
    """Writes the table with its header as comments, which other readers of the format skip."""
    comments = "".join(f"# {line}\n" for line in
                       yaml.safe_dump(header, sort_keys=False, width=1000).splitlines())
    write_text(path, comments + yaml.dump(entries, sort_keys=False, width=1000,
                                          Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)))


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the command line of this script."""
    p = Parser(description=__doc__)
    p.add_argument("--out", type=Path, required=True,
                   help="the table (YAML); what it already holds is kept, so that a run that was "
                        "stopped can resume")
    p.add_argument("--supernet_path", help="take the space, the sizes, the classes and the width "
                   "from this supernet, where no flag names them (default: none)")
    add_flags(p, EVALUATION_FLAGS, "--search_space", "--dataset")
    p.add_argument("--resolutions", **integers(8, 4096),
                   help="input resolutions in px, as 32 36 40 or 32:40:4 (default: those of the "
                        "data set)")
    add_flags(p, EVALUATION_FLAGS, "--n_classes")
    p.add_argument("--width", type=number(*WIDTHS),
                   help="width multiplier (default: that of the data set's supernet, 1.3 of "
                        "proxyless, 1.0 of resnet50)")
    p.add_argument("--config", nargs="+", metavar="FILE",
                   help="measure the layers of these net.config files instead of a space's")
    p.add_argument("--runtime", **RUNTIME_FLAG)
    p.add_argument("--command", **COMMAND_FLAG)
    add_flags(p, CONDITION_FLAGS, *(f"--{name}" for name in CONDITION_FLAGS))
    return p


def main(args: argparse.Namespace) -> None:
    """Measures what the table lacks, and writes the table after every group of layers."""
    layers = wanted_layers(args)
    under, measure = Conditions.of(args), choose_measure(args)
    with locked_beside(args.out, f"{args.out}: the table") as lock:
        fill_table(args, layers, measure, under, lock)


def fill_table(args: argparse.Namespace, layers: list[Layer], measure: Measure, under: Conditions,
               lock: Lock) -> None:
    """Measures what the table lacks of `layers`; no other process may write it meanwhile."""
    header = conditions(args)
    entries = read_entries(args.out, header)
    missing = [layer for layer in layers if layer.key not in entries]
    how = f"by {args.command}" if args.command else (
        f"on {header['device_name']} by {args.runtime}, threads {args.threads}, batch "
        f"{args.batch_size}")
    print(f"{len(layers)} distinct layers, {len(missing)} to measure {how}")
    write_entries(args.out, header, entries)
    try:
        left = iter(missing)
        for group in measured_in_groups([[layer] for layer in missing], measure, under):
            entries |= {next(left).key: {"mean": each.mean, "var": each.var, "count": each.count}
                        for each in group}
            lock.check()
            write_entries(args.out, header, entries)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{args.out} holds {len(entries)} layers; the same command "
                                "resumes from there") from None
    print(f"{args.out}: {len(entries)} layers")


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
