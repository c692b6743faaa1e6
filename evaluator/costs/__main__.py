"""Prints the exact costs of networks: `python -m evaluator.costs FILE`."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from cli.scripts import Parser, run_script
from cli.types import amount, count
from evaluator import costs
from evaluator.costs.memory import network_memory
from evaluator.latency import LookUpTable, build_command, space_command
from evaluator.layers import MAX_RESOLUTION, read_config_layers
from search_space import NAMES, SPACE_KEY, Arch, SearchSpace, check_arch, space_of
from search_space.layers import Layer
from utils.errors import UserError
from utils.files import read_json


def file_costs(path: str, args: argparse.Namespace,
               lut: LookUpTable | None = None) -> tuple[dict[str, object], list[Layer]]:
    """Returns what is printed for one `net.subnet` or `net.config` file, and its layers.

    Raises:
        UserError: the file is damaged or neither of the two, or `lut` lacks some of its layers.
    """
    resolution: int | None
    sequential = True
    content = read_json(path, "net.subnet or net.config file")
    if "blocks" in content or "classifier" in content:
        layers, resolution = read_config_layers(path, args.img_size)
        command = build_command([resolution], config=path)
    elif "ks" in content or args.search_space or SPACE_KEY in content:
        space, arch, layers, command = _subnet_layers(path, content, args)
        resolution, sequential = space.resolution(arch), space.sequential
    else:
        raise UserError(f"{path}: neither a net.subnet (key 'ks', or name the space of the "
                        "architecture with --search_space) nor a net.config (key 'classifier')")
    total = costs.network_costs(layers)
    row: dict[str, object] = {"file": str(path), "resolution": resolution,
           "params_count": total.params, "flops_count": total.flops, "macs_count": total.macs,
           "params": costs.millions(total.params), "flops": costs.millions(total.flops),
           **(_memory_row(layers, total.params) if sequential else {}),
           "flops_convention": costs.FLOPS_CONVENTION, "macs_convention": costs.MACS_CONVENTION}
    if lut is not None:
        lut.require(layers, command)
        row["cpu"] = lut.latency(layers)
    return row, layers


def _memory_row(layers: Sequence[Layer], params: int) -> dict[str, float]:
    """Returns what a network writes, in millions, and what it holds, in MB."""
    memory = network_memory(layers)
    counts = {"activations": memory.written, "peak": memory.peak, "params": params}
    return {name: counts[measure] * factor / 1e6 for name in costs.COUNTED
            if name not in costs.Costs._fields
            for measure, factor in [costs.BYTES.get(name, (name, 1))]}


def _subnet_layers(path: str, arch: Any, args: argparse.Namespace) -> \
        tuple[SearchSpace, Arch, list[Layer], str]:
    """Returns an architecture's space, its checked form, its layers, and how to measure them."""
    try:
        space = space_of(arch, args.search_space)
        arch = check_arch(arch, space)
        width = space.default_width if args.width is None else args.width
        return (space, arch, space.layers(arch, args.n_classes, width),
                space_command(space, args.n_classes, width))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def layer_table(layers: Sequence[Layer], lut: LookUpTable | None = None) -> str:
    """Returns a table with one line per layer, in text."""
    lines = [f"{'layer':<20}{'input':>14}{'output':>14}{'k':>3}{'s':>3}{'e':>4}{'se':>3}"
             f"{'act':>9}{'params':>10}{'flops':>12}{'macs':>12}{'ms' if lut else '':>9}"]
    for x in layers:
        cost = costs.layer_costs(x)
        shapes = (f"{x.size}x{x.size}x{x.in_channels}",
                  f"{x.out_size}x{x.out_size}x{x.out_channels}")
        lines.append(f"{x.name:<20}{shapes[0]:>14}{shapes[1]:>14}{x.kernel:>3}{x.stride:>3}"
                     f"{x.expand:>4g}{x.se:>3d}{x.act or '-':>9}{cost.params:>10}"
                     f"{cost.flops:>12}{cost.macs:>12}"
                     + (f"{lut.latency([x]):>9.4f}" if lut else ""))
    return "\n".join(lines)


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the command line of `python -m evaluator.costs`."""
    p = Parser(
        prog="python -m evaluator.costs",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="Prints the exact costs of networks, one JSON line per file. "
        f"flops: {costs.FLOPS_CONVENTION}. macs: {costs.MACS_CONVENTION}.")
    p.add_argument("files", nargs="+", metavar="FILE", help="net.subnet or net.config files")
    p.add_argument("--search_space", metavar="NAME",
                   help=f"space of a net.subnet that does not name its own: {NAMES}")
    p.add_argument("--lut", help="latency table (YAML), which adds cpu, in ms")
    p.add_argument("--n_classes", type=count(1), default=1000, help="classes, for a net.subnet")
    p.add_argument("--width", type=amount,
                   help="width multiplier of the supernet, for a net.subnet; None: 1.0, of "
                        "proxyless 1.3")
    p.add_argument("--img-size", type=count(8, MAX_RESOLUTION),
                   help="input resolution of a net.config; None: its own, else 224")
    p.add_argument("--layers", action="store_true", help="print a table of the layers, too")
    return p


def main(args: argparse.Namespace) -> None:
    """Prints the costs of every file; nothing is printed when one of them is bad."""
    lut = LookUpTable.read(args.lut) if args.lut else None
    for row, layers in [file_costs(path, args, lut) for path in args.files]:
        print(json.dumps(row))
        if args.layers:
            print(layer_table(layers, lut))


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
