"""Runs the checks that need a machine with GPUs: one line for each."""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cli.startup  # noqa: F401  # before what takes time to import

from cli.scripts import Parser, run_script
from utils.errors import UserError, one_line

EXIT_FAILED = 1
ROOT = Path(__file__).resolve().parents[1]
SUPERNET = ROOT / "data" / "ofa_digits_d234_e346_k357_w0.35"
TIMEOUT = 300  # seconds for one command
# Points of top-1 on the 300 validation images, of which each is a third of a point; logits are
# about 10, and TF32 has 10 bits.
SAME_TOP1, SAME_LOGITS = 1.01, 0.1
SMALLEST = {"ks": [3] * 10, "e": [3] * 10, "d": [2] * 5, "r": 32}
LARGEST = {"ks": [7] * 20, "e": [6] * 20, "d": [4] * 5, "r": 48}


class Skipped(Exception):  # noqa: N818  # it is no error
    """A check that this machine cannot run, with the reason."""


@dataclass(frozen=True)
class Machine:
    """What is checked.

    Attributes:
        device: `cuda`, `xpu`, `mps`, or `cpu` to test the checks themselves.
        count: how many of them there are.
        folder: an empty one, for what the checks write.
    """

    device: str
    count: int
    folder: Path

    def options(self, device: str | None = None, **others: Any) -> dict[str, Any]:
        """Returns the options of an evaluation on the digits."""
        return {"dataset": "digits", "supernet_path": str(SUPERNET), "vld_size": 300,
                "device": device or self.device, "cache_dir": str(self.folder / "cache"), **others}

    def run(self, command: str, **values: Any) -> str:
        """Runs a command of this project in the folder and returns its output.

        Args:
            command: with the script at its start, and names in braces.
            **values: of these names; the machine's own are known.

        Raises:
            RuntimeError: it fails.
        """
        known = {"device": self.device, "count": self.count, "supernet": SUPERNET, **values}
        script, *flags = (word.format(**known) for word in command.split())
        program = "sh" if script.endswith(".sh") else sys.executable
        done = subprocess.run([program, ROOT / script, *flags], cwd=self.folder, timeout=TIMEOUT,
                              capture_output=True, text=True, check=False,
                              env={**os.environ, "MSUNAS_CACHE": str(self.folder / "cache"),
                                   "PYTHON": sys.executable, "SCRIPT": "train_cifar.py"})
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise RuntimeError(f"exit code {done.returncode}: {' '.join(last)}")
        return done.stdout + done.stderr


def check_plan(machine: Machine) -> str:
    """A search gives each GPU one worker, under a name of its own."""
    from evaluator.jobs import plan_slots

    slots = plan_slots(0 if machine.device == "cpu" else machine.count)
    if machine.device == "cpu":
        return f"{len(slots)} workers on the CPU"
    names = [name for slot in slots for name in slot.gpus]
    require(len(set(names)) == len(slots) == machine.count,
            f"{machine.count} GPUs, but workers on {names}")
    return f"{len(slots)} workers on {', '.join(names)}"


def check_network(machine: Machine) -> str:
    """A network gives the logits that it gives on the CPU, calibration included."""
    import torch

    from data_providers import DataProvider
    from networks import cut_subnet, load_supernet, recalibrate_bn

    logits = []
    for device in ("cpu", machine.device):
        digits = DataProvider("digits", vld_size=300, cache_dir=machine.folder / "cache")
        net = cut_subnet(load_supernet(SUPERNET), SMALLEST).to(device)
        recalibrate_bn(net, digits.calibration_batches(32, 200, device=device))
        images, _ = next(iter(digits.eval_batches("valid", 32, 100, device=device)))
        with torch.inference_mode():
            logits.append(net(images).cpu())
    difference = (logits[0] - logits[1]).abs().max().item()
    require(difference < SAME_LOGITS, f"logits differ from the CPU's by {difference:.1e}")
    return f"logits within {difference:.0e} of the CPU's"


def check_accuracy(machine: Machine) -> str:
    """An evaluation has the top-1 that it has on the CPU, in mixed precision too."""
    from evaluator.accuracy import SupernetEvaluator

    top1 = [SupernetEvaluator.from_options(machine.options(device, amp=amp)).evaluate(SMALLEST)
            ["top1"] for device, amp in (("cpu", False), (None, False), (None, True))]
    require(max(top1) - min(top1) <= SAME_TOP1, "top-1 on the CPU, here, in mixed precision: "
            + ", ".join(f"{value:.2f}" for value in top1))
    return "top-1 {:.2f} % on the CPU, {:.2f} % here, {:.2f} % in mixed precision".format(*top1)


def check_loader(machine: Machine) -> str:
    """Batches are the CPU's, and come fast from the cache."""
    import torch

    from data_providers import DataProvider
    from utils.devices import synchronize

    digits = DataProvider("digits", vld_size=300, cache_dir=machine.folder / "cache")
    here, cpu = (digits.eval_batches("valid", 224, 100, device=device)
                 for device in (machine.device, "cpu"))
    for (one, _), (other, _) in zip(here, cpu, strict=True):
        require(torch.allclose(one.cpu(), other, atol=1e-5), "batches differ from the CPU's")
    began, n = time.perf_counter(), 0
    while time.perf_counter() - began < 2:
        n += sum(len(images) for images, _ in here)
        synchronize(torch.device(machine.device))
    return f"{n / (time.perf_counter() - began):,.0f} images/s at 224 px from the cache"


def check_latency(machine: Machine) -> str:
    """A latency is repeatable, and that of a larger network is longer."""
    from evaluator.accuracy import SupernetEvaluator

    evaluator = SupernetEvaluator.from_options(machine.options())
    small, again, large = (evaluator.latency(arch) for arch in (SMALLEST, SMALLEST, LARGEST))
    kind = evaluator.latency_device
    ms, repeated, longer = (found["latency"][kind]["median"] for found in (small, again, large))
    require(abs(ms - repeated) < 0.2 * ms, f"{ms:.3f} ms, measured again {repeated:.3f} ms")
    require(longer > ms, f"the largest network takes {longer:.3f} ms, the smallest {ms:.3f} ms")
    spread = small["latency"][kind]["iqr"]
    return f"smallest {ms:.3f} ms (quartiles {spread:.3f} apart), largest {longer:.3f} ms"


def check_search(machine: Machine) -> str:
    """A search ends with a front, and gives up none of its GPUs."""
    output = machine.run(
        "msunas.py --save search --dataset digits --supernet_path {supernet} --n_doe {n_doe} "
        "--iterations 1 --n_iter 8 --n_gpus {gpus}", n_doe=2 * machine.count + 8,
        gpus=0 if machine.device == "cpu" else machine.count)
    stats = json.loads((machine.folder / "search" / "iter_1.stats").read_text())
    require("given up" not in output, last_line_with(output, "given up"))
    return f"{len(stats['archive'])} networks, hypervolume {stats['hv']:.3f}"


def check_training(machine: Machine) -> str:
    """A fine-tuning in mixed precision can be extended at a learning rate above 0."""
    write_network(machine)
    machine.run("train_cifar.py --dataset digits --model-config config --device {device} --amp "
                "--model-ema --model-ema-force-cpu --epochs 1 --save runs")
    (run,) = (machine.folder / "runs").iterdir()
    output = machine.run("train_cifar.py --dataset digits --model-config config --device {device} "
                         "--amp --model-ema --model-ema-force-cpu --epochs 2 --resume {state}",
                         state=run / "last.pth.tar")
    header, *rows = (line.split(",") for line in
                     (run / "summary.csv").read_text().splitlines())
    require(len(rows) == 2 and float(rows[1][header.index("lr")]) > 0,
            "the second epoch was not trained")
    return last_line_with(output, "test images").partition("test images: ")[2]


def check_processes(machine: Machine) -> str:
    """Several processes train one network, one on each GPU, the averaged weights on the CPU."""
    if machine.count < 2:
        raise Skipped("needs two GPUs")
    write_network(machine)
    output = machine.run("scripts/distributed_train.sh {count} --dataset digits --model-config "
                         "config --device {device} --model-ema --model-ema-force-cpu --epochs 1")
    return f"{machine.count} processes: " \
        + last_line_with(output, "test images").partition("test images: ")[2]


def check_supernet(machine: Machine) -> str:
    """A supernet is trained."""
    output = machine.run("train_supernet.py --resolutions 32 --epochs 1,0,0,1 --device {device} "
                         "--save ofa_digits_w0.1")
    found = re.search(r"expansion 1/1: .*?, (\d+) images/s", output)
    return f"{found[1] if found else '?'} images/s"


CHECKS: dict[str, Callable[[Machine], str]] = {
    check.__name__.removeprefix("check_"): check for check in (
        check_plan, check_network, check_accuracy, check_loader, check_latency, check_search,
        check_training, check_processes, check_supernet)}


def write_network(machine: Machine) -> None:
    """Writes the network that a fine-tuning starts from."""
    from networks import cut_subnet, load_supernet, save_weights, write_config

    net = cut_subnet(load_supernet(SUPERNET), SMALLEST)
    write_config(net, machine.folder / "config", resolution=32)
    save_weights(net, machine.folder / "net.inherited")


def require(condition: bool, otherwise: str) -> None:
    """Raises RuntimeError with the text unless the condition holds."""
    if not condition:
        raise RuntimeError(otherwise)


def last_line_with(output: str, text: str) -> str:
    """Returns the last line of an output that contains the text, '' where none does."""
    return next((line for line in reversed(output.splitlines()) if text in line), "")


def check_name(text: str) -> str:
    """Returns the name of a check; raises argparse.ArgumentTypeError for another one."""
    if text not in CHECKS:
        raise argparse.ArgumentTypeError(f"no check {text!r}; choose from {', '.join(CHECKS)}")
    return text


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the command line of this script."""
    p = Parser(prog="gpu_check.sh", description=__doc__)
    p.add_argument("checks", nargs="*", metavar="CHECK", type=check_name,
                   help=f"those to run (default: all): {', '.join(CHECKS)}")
    p.add_argument("--device", help="cpu tries the checks themselves (default: the accelerator "
                   "that is there)")
    return p


def main(args: argparse.Namespace) -> None:
    """Runs the checks and prints a line for each.

    Raises:
        UserError: no such device.
        SystemExit: with `EXIT_FAILED`, where a check failed.
    """
    from utils.devices import checked_device, device_count

    device = checked_device(args.device).type
    if device == "cpu" and not args.device:
        raise UserError("torch finds no GPU here; these checks need one (--device cpu tries the "
                        "checks themselves)")
    with tempfile.TemporaryDirectory(prefix="gpu check ") as folder:
        machine = Machine(device, device_count(device), Path(folder))
        outcomes = [run_check(name, machine) for name in args.checks or CHECKS]
    if "FAILED" in outcomes:
        sys.exit(EXIT_FAILED)


def run_check(name: str, machine: Machine) -> str:
    """Runs a check, prints its line, and returns `ok`, `skipped` or `FAILED`."""
    began = time.perf_counter()
    try:
        outcome, text = "ok", CHECKS[name](machine)
    except Skipped as reason:
        outcome, text = "skipped", str(reason)
    except Exception as error:  # of any kind: the other checks still run
        outcome, text = "FAILED", f"{type(error).__name__}: {error}"
    print(f"{outcome:<8}{name:<10}{time.perf_counter() - began:6.1f} s  {one_line(text)}",
          flush=True)
    return outcome


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
