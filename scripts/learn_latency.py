"""Learns the latency of all networks of a space on a device, from a hundred that it has run.

    python scripts/learn_latency.py --command 'python scripts/bench_onnx.py {model}' --out here.json
    python scripts/learn_latency.py --command './on_pi.sh {model}' --prior here.json --n 20 \\
        --out pi.json
    python scripts/learn_latency.py --measured latencies.csv.gz --column pi --n 100
    python scripts/learn_latency.py --add runs/pi/device_pi.json --out pi.json
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cli.startup  # noqa: F401  # before what takes time to import

from cli.scripts import Parser, run_script
from cli.types import amount, count, integers, number
from evaluator.device_command import KEY, RETRIES, TIMEOUT_S
from evaluator.latency import WIDTHS
from evaluator.latency_campaign import Campaign, add_measured, learn_from_table
from evaluator.latency_model import MIN_NETWORKS
from networks.export import FORMATS
from search_space import DEFAULT, NAMES
from utils.errors import UserError
from utils.flags import refuse_idle
from utils.invocation import program
from utils.locks import locked_beside

OF_A_COMMAND = ("--resolutions", "--format", "--key", "--timeout", "--retries")
OF_NEW_NETWORKS = ("--n", "--prior", "--n_classes", "--width")


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the command line of this script."""
    p = Parser(
        prog="scripts/learn_latency.py",
        description=(__doc__ or "").replace("python scripts/learn_latency.py",
                                    program("scripts/learn_latency.py")),
        formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--search_space", metavar="NAME",
                   help=f"of the networks: {NAMES} (default: {DEFAULT}; with --measured the "
                        "one that the file is of)")
    p.add_argument("--n", type=count(2 * MIN_NETWORKS), default=100,
                   help="networks to learn from (default: %(default)s)")
    p.add_argument("--seed", type=count(0, 2**63), default=0,
                   help="of the choice of networks (default: %(default)s)")
    p.add_argument("--out", type=Path, metavar="FILE",
                   help="what msunas.py takes as --lut NAME=FILE; a run that was stopped resumes "
                        "from it")
    p.add_argument("--prior", metavar="FILE",
                   help="what was learned on another device; a new one needs fewer networks then")
    p.add_argument("--n_classes", type=count(1), default=1000,
                   help="classes of the networks (default: %(default)s)")
    p.add_argument("--width", type=number(*WIDTHS),
                   help="width multiplier (default: that of the space)")
    g = p.add_argument_group("networks that are measured now")
    g.add_argument("--command", metavar="TEXT",
                   help="prints the latency in ms as its last number, or JSON with ms; {model} is "
                        "the file of a network, {arch} its architecture in JSON, {r} its "
                        "resolution; it runs without a shell")
    g.add_argument("--resolutions", **integers(8, 4096),
                   help="input resolutions in px (default: those of the space)")
    g.add_argument("--format", default="onnx", metavar="NAME",
                   help=f"of {{model}}: {', '.join(FORMATS)}, or module:Class of your own; "
                        "also as {model:NAME} (default: %(default)s)")
    g.add_argument("--key", default=KEY,
                   help="figure in the JSON that is learned, such as mj (default: %(default)s)")
    g.add_argument("--timeout", type=amount, default=TIMEOUT_S,
                   help="seconds for one network (default: %(default)g)")
    g.add_argument("--retries", type=count(0, 100), default=RETRIES,
                   help="further attempts where the command fails (default: %(default)s)")
    g = p.add_argument_group("networks that were measured before")
    g.add_argument("--measured", metavar="FILE",
                   help="table (.csv, .csv.gz) with the column arch: learns from --n random rows, "
                        "tests on the others, and prints one line of JSON")
    g.add_argument("--column", metavar="NAME", help="its column of latencies")
    g.add_argument("--add", nargs="+", metavar="FILE",
                   help="files of networks that searches have measured, device_<name>.json in "
                        "their folders: --out is learned again with them")
    return p


def main(args: argparse.Namespace) -> None:
    """Learns from a command, from a table, or again from more networks."""
    if [args.command, args.measured, args.add].count(None) != 2:
        raise UserError("name either a --command that measures a network, or a table --measured, "
                        "or files to --add")
    if args.measured:
        if args.column is None:
            raise UserError("--measured needs --column, the name of the latencies in the table")
        refuse_idle(args.typed, {"with --measured": OF_A_COMMAND})
        return learn_from_table(args)
    flag = "--add" if args.add else "--command"
    refuse_idle(args.typed, {"without --measured": ("--column",)})
    if args.out is None:
        raise UserError(f"{flag} needs --out, the file of what is measured and learned")
    if args.add:
        refuse_idle(args.typed, {"with --add": (*OF_A_COMMAND, *OF_NEW_NETWORKS)})
    with locked_beside(args.out, f"{args.out}: the measurements") as lock:
        if args.add:
            return add_measured(args)
        return Campaign(args, lock).run()


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
