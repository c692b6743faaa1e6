"""Runs the checks that need a machine with GPUs: a line for each, at the end one JSON of all.

`scripts/gpu_check.sh` calls it, with any interpreter that has torch. Nothing is installed: what is
missing is named, and taken from a folder of wheels where there is one, into a temporary folder.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import repeat
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cli.startup  # noqa: F401  # before what takes time to import

from cli.scripts import Parser, run_script
from utils.errors import UserError, one_line
from utils.packages import advice, is_installed

EXIT_FAILED = 1
# What a machine must have, and what may come from a folder of wheels: module -> distribution.
GIVEN = ("torch", "torchvision", "timm", "numpy", "scipy", "sklearn", "matplotlib", "yaml", "tqdm")
BEYOND = {"pymoo": "pymoo", "moocore": "moocore", "ofa": "ofa", "torchprofile": "torchprofile",
          "pydacefit": "pydacefit", "psutil": "psutil", "filelock": "filelock",
          "threadpoolctl": "threadpoolctl", "joblib": "joblib",
          # what pymoo and moocore need
          "alive_progress": "alive-progress", "about_time": "about-time", "autograd": "autograd",
          "grapheme": "graphemeu", "cma": "cma", "deprecated": "deprecated", "wrapt": "wrapt",
          "cffi": "cffi", "pycparser": "pycparser", "platformdirs": "platformdirs"}
LEAST_TORCH = (2, 6)
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 26, 24, 17, 12, 5)] + [
    "manylinux2014_x86_64"]
ROOT = Path(__file__).resolve().parents[1]
SUPERNET = ROOT / "data" / "ofa_digits_d234_e346_k357_w0.35"
TIMEOUT = 120  # seconds for one command
# Points of top-1 on the 300 validation images, of which each is a third of a point; logits are
# about 10, and TF32 has 10 bits.
SAME_TOP1, SAME_LOGITS = 1.01, 0.1
SMALLEST = {"ks": [3] * 10, "e": [3] * 10, "d": [2] * 5, "r": 32}
LARGEST = {"ks": [7] * 20, "e": [6] * 20, "d": [4] * 5, "r": 48}


class Skipped(Exception):  # noqa: N818  # it is no error
    """A check that this machine cannot run, with the reason."""


@dataclass(frozen=True)
class Workload:
    """How much the figures are measured on.

    Attributes:
        width: multiplier of the network.
        resolution: of the images, in pixels.
        batches: sizes; the first one also trains.
        n_pictures: files that are read.
        n_workers: processes that decode them.
        seconds: of each measurement.
    """

    width: float
    resolution: int
    batches: tuple[int, ...]
    n_pictures: int
    n_workers: int
    seconds: float


FULL = Workload(1.0, 224, (200, 512), 4096, 8, 3.0)
TRIAL = Workload(0.35, 32, (16,), 64, 0, 0.05)


@dataclass(frozen=True)
class Machine:
    """What is checked.

    Attributes:
        device: `cuda`, `xpu`, `mps`, or `cpu` to test the checks themselves.
        count: how many of them there are.
        folder: an empty one, for what the checks write.
        figures: what the checks measured, by check and name.
    """

    device: str
    count: int
    folder: Path
    figures: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def workload(self) -> Workload:
        """How much is measured."""
        return TRIAL if self.device == "cpu" else FULL

    @cached_property
    def pictures(self) -> Any:
        """A provider of pictures of noise, which are in the cache once they have been read."""
        from data_providers import DataProvider

        write_pictures(self.folder / "pictures", self.workload.n_pictures)
        return DataProvider("folder", self.folder / "pictures", vld_size=16,
                            cache_dir=self.folder / "cache", n_workers=self.workload.n_workers)

    def network(self) -> Any:
        """Returns the largest subnet with random weights, on the device."""
        import torch

        from networks import build_supernet, cut_subnet

        net = cut_subnet(build_supernet(2, self.workload.width), LARGEST)
        return net.to(self.device, memory_format=torch.channels_last)

    def rate(self, step: Callable[[], int]) -> float:
        """Returns images/s of a step that returns how many it took, called for some seconds."""
        import torch

        from utils.devices import synchronize

        step()
        synchronize(torch.device(self.device))
        began, n = time.perf_counter(), 0
        while time.perf_counter() - began < self.workload.seconds:
            n += step()
        synchronize(torch.device(self.device))
        return n / (time.perf_counter() - began)

    def record(self, check: str, **figures: float) -> str:
        """Keeps figures for the result, and returns them as a text."""
        rounded = {name: float(f"{value:.4g}") for name, value in figures.items()}
        self.figures.setdefault(check, {}).update(rounded)
        return ", ".join(f"{name.replace('_', ' ')} {value:,.10g}"
                         for name, value in rounded.items())

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
    """Batches are the CPU's; images/s decoded from files, and from the cache."""
    import torch

    from data_providers import DataProvider

    digits = DataProvider("digits", vld_size=300, cache_dir=machine.folder / "cache")
    here, cpu = (digits.eval_batches("valid", 224, 100, device=device)
                 for device in (machine.device, "cpu"))
    for (one, _), (other, _) in zip(here, cpu, strict=True):
        require(torch.allclose(one.cpu(), other, atol=1e-5), "batches differ from the CPU's")
    size, pictures = machine.workload, machine.pictures
    began = time.perf_counter()
    batches = pictures.eval_batches("train", size.resolution, size.batches[0],
                                    device=machine.device)
    decoded = count_images(batches) / (time.perf_counter() - began)
    cached = machine.rate(partial(count_images, batches))
    return machine.record("loader", decoded_images_per_s=decoded, cached_images_per_s=cached)


def check_evaluation(machine: Machine) -> str:
    """Images/s of an evaluation and of its passes alone: the GPU waits for the difference."""
    import torch

    from training.loops import evaluate
    from utils.devices import autocast

    size, net, device = machine.workload, machine.network(), torch.device(machine.device)

    def passes(images: torch.Tensor, amp: str | None) -> int:
        with torch.inference_mode(), autocast(device, amp):
            net(images)
        return len(images)

    def whole(batches: Any, amp: str | None) -> int:
        return int(evaluate(net, batches, amp=amp)["n_images"])

    texts = []
    for amp, batch in [(amp, batch) for amp in (None, "bfloat16") for batch in size.batches]:
        batches = machine.pictures.eval_batches("train", size.resolution, batch, device=device)
        images = next(iter(batches))[0].contiguous(memory_format=torch.channels_last)
        alone = machine.rate(partial(passes, images, amp))
        rate = machine.rate(partial(whole, batches, amp))
        texts.append(machine.record("evaluation", **named(
            f"{amp or 'float32'} batch {batch}", rate, alone)))
    return "; ".join(texts)


def check_tuning(machine: Machine) -> str:
    """Images/s of a fine-tuning in mixed precision, and of the same steps without loading."""
    import torch

    from training.loops import train_one_epoch
    from utils.devices import amp_precision

    size, net, device = machine.workload, machine.network(), torch.device(machine.device)
    optimizer, amp = torch.optim.SGD(net.parameters(), 0.01), amp_precision(True, device)
    scaler = torch.amp.GradScaler(device.type, enabled=amp == "float16")

    def epoch(batches: Iterable[Any]) -> int:
        return int(train_one_epoch(net, batches, optimizer, amp=amp, scaler=scaler)["n_images"])

    loader = machine.pictures.train_loader(size.resolution, size.batches[0], device=device)
    first = next(iter(loader))
    alone = machine.rate(lambda: epoch(repeat(first, 4)))
    return machine.record("tuning", **named(str(amp), machine.rate(lambda: epoch(loader)), alone))


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
    return machine.record("supernet", images_per_s=float(found[1])) if found else "no rate"


CHECKS: dict[str, Callable[[Machine], str]] = {
    check.__name__.removeprefix("check_"): check for check in (
        check_plan, check_network, check_accuracy, check_loader, check_evaluation, check_tuning,
        check_latency, check_search, check_training, check_processes, check_supernet)}


def named(prefix: str, rate: float, alone: float) -> dict[str, float]:
    """Returns the figures of a loop, by their names, from its rate and that of its steps alone."""
    figures = {"images_per_s": rate, "images_per_s_without_loading": alone,
               "share_of_time_waiting": max(0.0, 1 - rate / alone)}
    return {f"{prefix} {name}".replace(" ", "_"): value for name, value in figures.items()}


def count_images(batches: Iterable[Any]) -> int:
    """Reads batches and returns how many images they have."""
    return sum(len(images) for images, _ in batches)


def write_pictures(folder: Path, n: int) -> None:
    """Writes pictures of noise in two classes, n to train with and 16 to test with."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in (("train", n + 16), ("test", 16)):
        for i in range(count):
            path = folder / split / f"class-{i % 2}" / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((256, 256)).save(path, quality=85)


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
    p.add_argument("--wheels", type=Path, metavar="DIR", help="folder of wheels: packages that are "
                   "not installed are taken from there; with --python it is made")
    p.add_argument("--python", metavar="VERSION", help="make the folder --wheels, with a network, "
                   "for a machine with this Python, such as 3.12, and Linux on x86-64")
    return p


def make_wheels(folder: Path, python: str) -> None:
    """Downloads what the checks need beyond `GIVEN`, in the versions of requirements.lock.

    Raises:
        UserError: pip fails.
    """
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pins = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", lock, re.MULTILINE))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder,
               "--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    command += [word for platform in PLATFORMS for word in ("--platform", platform)]
    done = subprocess.run([*command, *(f"{name}=={pins[name]}" for name in BEYOND.values())],
                          capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"--wheels: pip failed: {done.stderr.strip()[-300:]}")
    wheels = list(folder.glob("*.whl"))
    size = sum(wheel.stat().st_size for wheel in wheels) / 1e6
    print(f"{folder}: {len(wheels)} wheels, {size:.1f} MB; on the machine with GPUs, where torch, "
          f"torchvision, timm, scikit-learn and matplotlib are installed: "
          f"bash scripts/gpu_check.sh --wheels {folder}")


@contextmanager
def with_wheels(folder: Path | None) -> Iterator[None]:
    """Lets this process and its children import from wheels what is not installed.

    Raises:
        UserError: something is still missing, or torch is too old.
    """
    with tempfile.TemporaryDirectory(prefix="wheels") as site:
        for wheel in folder.glob("*.whl") if folder else ():
            name = wheel.name.partition("-")[0].lower()
            modules = [module for module, package in BEYOND.items()
                       if package.replace("-", "_") == name]
            if not any(map(is_installed, modules)):
                zipfile.ZipFile(wheel).extractall(site)
        sys.path.append(site)
        path = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (path, site)))
        check_packages()
        yield


def check_packages() -> None:
    """Raises UserError with the name of every package that is missing, or for an old torch."""
    missing = [module for module in (*GIVEN, *BEYOND) if not is_installed(module)]
    if any(module in GIVEN for module in missing):
        raise UserError(f"{sys.executable} lacks {', '.join(missing)}; {advice(missing[0])}, or "
                        "set PYTHON to another interpreter")
    if missing:
        version = "{}.{}".format(*sys.version_info)
        raise UserError(f"{sys.executable} lacks {', '.join(missing)}; on a machine with a network "
                        f"run bash scripts/gpu_check.sh --wheels DIR --python {version}, and here "
                        "--wheels DIR")
    import torch

    if tuple(map(int, torch.__version__.split(".")[:2])) < LEAST_TORCH:
        raise UserError(f"torch {torch.__version__} is older than "
                        f"{'.'.join(map(str, LEAST_TORCH))}; install a newer one")


def main(args: argparse.Namespace) -> None:
    """Runs the checks, or makes the folder of wheels.

    Raises:
        UserError: no such device, or a package is missing.
        SystemExit: with `EXIT_FAILED`, where a check failed.
    """
    if args.python and not args.wheels:
        raise UserError("--python: name the folder of wheels to make, --wheels DIR")
    if args.python:
        make_wheels(args.wheels, args.python)
        return
    with with_wheels(args.wheels):
        run_checks(args)


def run_checks(args: argparse.Namespace) -> None:
    """Prints a line for each check, and the JSON of all; errors as `main`."""
    import torch

    from evaluator.timing import device_name
    from utils.devices import checked_device, device_count

    device = checked_device(args.device).type
    if device == "cpu" and not args.device:
        raise UserError("torch finds no GPU here; these checks need one (--device cpu tries the "
                        "checks themselves)")
    with tempfile.TemporaryDirectory(prefix="gpu check ") as folder:
        machine = Machine(device, device_count(device), Path(folder))
        outcomes = {name: run_check(name, machine) for name in args.checks or CHECKS}
    print(json.dumps({"device": device_name(device), "count": machine.count,
                      "torch": torch.__version__, "python": sys.version.split()[0],
                      "checks": outcomes, "figures": machine.figures}))
    if "FAILED" in outcomes.values():
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
