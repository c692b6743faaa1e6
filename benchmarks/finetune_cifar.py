"""What fine-tuning gains: on the digits from a selected network, on CIFAR-10 against scratch.

    python benchmarks/finetune_cifar.py [--nets runs/demo/selected] [--cifar FOLDER]

Digits: each network of the folder is fine-tuned by train_cifar.py; its test accuracy before and
after. CIFAR-10 (a folder with train/ and test/, real images): one epoch at 32 pixels of the
smallest subnet, with the weights of the digits' supernet and from scratch.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from common import ROOT, benchmark_parser, machine, publish, table

from cli.scripts import run_script
from utils.errors import UserError

SUPERNET = "data/ofa_digits_d234_e346_k357_w0.35"
SIZE = 32


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("--nets", default="runs/demo/selected",
                   help="folder of post_search.py: net-*/net.config and net.inherited")
    p.add_argument("--cifar", default=None, help="folder of CIFAR-10; None: leave it out")
    p.add_argument("--epochs", type=int, default=20, help="epochs on the digits")
    p.add_argument("--lr", type=float, default=0.03, help="learning rate on the digits")
    p.add_argument("--threads", type=int, default=1, help="CPU threads")
    p.add_argument("--save", default="benchmarks/results/finetune_cifar.md",
                   help="file for the table")
    return p


def main(args: argparse.Namespace) -> None:
    """Trains, prints and writes a row for each network."""
    rows = digits(args) + (cifar(args) if args.cifar else [])
    text = table(("data", "network", "before / from scratch", "after / from the supernet",
                  "gain, points"), rows)
    publish(f"Top-1 on the test images in percent; digits: {args.epochs} epochs, "
            f"CIFAR-10: 1 epoch at {SIZE} px.\n{machine()}\n\n{text}\n", args.save)


def digits(args: argparse.Namespace) -> list[tuple]:
    """Returns the rows of the selected networks."""
    configs = sorted(Path(args.nets).glob("net-*/net.config"))
    if not configs:
        raise UserError(f"{args.nets}: no net-*/net.config; run scripts/demo.sh first")
    rows = []
    for config in configs:
        start = ["--dataset", "digits", "--model-config", config, "--initial-checkpoint",
                 config.with_name("net.inherited")]
        before = test_accuracy(args, *start, "--evaluate")
        after = test_accuracy(args, *start, "--epochs", args.epochs, "--lr", args.lr,
                              "--smoothing", 0.1)
        rows.append(("digits", config.parent.name, *figures(before, after)))
    return rows


def cifar(args: argparse.Namespace) -> list[tuple]:
    """Returns the row of one epoch on CIFAR-10."""
    from networks import cut_subnet, load_supernet, save_weights, write_config
    from search_space import OFASearchSpace

    smallest = OFASearchSpace([SIZE]).extremes()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        net = cut_subnet(load_supernet(ROOT / SUPERNET), smallest)
        write_config(net, folder / "net.config", resolution=SIZE)
        save_weights(net, folder / "net.inherited")
        command = ["--dataset", "cifar10", "--data", Path(args.cifar).resolve(), "--model-config",
                   folder / "net.config", "--epochs", 1]
        scratch = test_accuracy(args, *command)
        warm = test_accuracy(args, *command, "--initial-checkpoint", folder / "net.inherited")
    return [("CIFAR-10", "smallest subnet", *figures(scratch, warm))]


def test_accuracy(args: argparse.Namespace, *flags: object) -> float:
    """Runs train_cifar.py and returns the test accuracy in its last line, in percent."""
    done = subprocess.run(
        [sys.executable, "train_cifar.py", *map(str, flags), "--threads", str(args.threads)],
        cwd=ROOT, capture_output=True, text=True)
    found = re.findall(r"test images: top1 ([\d.]+)", done.stderr)
    if done.returncode or not found:
        raise UserError(f"train_cifar.py failed: {done.stderr.strip().splitlines()[-1]}")
    return float(found[-1])


def figures(before: float, after: float) -> tuple[str, str, str]:
    """Returns both accuracies and their difference for a table."""
    return f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}"


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
