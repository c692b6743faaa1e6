"""The runtimes on which layers and networks are measured: what they run on when they are deployed.

PyTorch runs a network layer by layer from Python, which costs a small network more than its
arithmetic; a runtime for deployment does not.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cli.progress import announce, progress_bar
from evaluator.device_command import DeviceCommand, DeviceError
from evaluator.layers import build_module, build_network, input_shape
from evaluator.onnx_layers import INPUT, onnx_model, write_onnx
from evaluator.timing import (
    GROUP,
    Conditions,
    Latency,
    measure,
    measure_modules,
    watched_processor,
)
from search_space.layers import Layer
from utils.errors import UserError
from utils.flags import refuse_idle
from utils.packages import advice, is_installed, require

ONNXRUNTIME, TORCH, COMMAND = "onnxruntime", "torch", "command"
PRECISION = "float32"
ERRORS_ONLY = 3  # of onnxruntime's log


Layers = Sequence[Layer]
Measure = Callable[[Sequence[Layers], Conditions], list[Latency]]


class Runtime(NamedTuple):
    """A row of `RUNTIMES`: how it measures networks, and the packages whose versions matter."""

    measure: Measure
    packages: Sequence[str]


def _by_torch(networks: Sequence[Layers], under: Conditions, compiled: bool = False
              ) -> list[Latency]:
    import torch

    modules: list[Any] = [build_network(layers) if len(layers) > 1 else build_module(layers[0])
                          for layers in networks]
    if compiled:
        torch._dynamo.reset()
        modules = [torch.compile(module, dynamic=False) for module in modules]
    shapes = [input_shape(layers[0], under.batch_size) for layers in networks]
    return measure_modules(list(zip(modules, shapes, strict=True)), under.device, under.threads,
                           under.rel_err, under.max_repeats)


def _by_onnxruntime(networks: Sequence[Layers], under: Conditions) -> list[Latency]:
    return measure([_session(layers, under) for layers in networks], rel_err=under.rel_err,
                   max_repeats=under.max_repeats)


def _by_command(command: DeviceCommand, networks: Sequence[Layers],
                under: Conditions) -> list[Latency]:
    """Returns what a command says of each; the conditions are its own."""
    return [Latency(ms, 0.0, 1, 0.0, ms, 0.0) for ms in (
        _answer(command, layers) for layers in networks)]


def _answer(command: DeviceCommand, layers: Layers) -> float:
    with tempfile.TemporaryDirectory(prefix="measure.") as folder:
        path = Path(folder) / "net.onnx"
        write_onnx(layers, path)
        try:
            found = command.measure({"{model}": path, "{r}": layers[0].size})
        except DeviceError as error:
            raise UserError(f"{layers[0].key}: {error}; the same command resumes") from None
    return found[command.keys[0]]


def _session(layers: Layers, under: Conditions) -> Callable[[], object]:
    """Returns a call that runs layers once on random numbers."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = under.threads, ERRORS_ONLY
    session = onnxruntime.InferenceSession(onnx_model(layers), options,
                                           providers=[_provider(under.device)])
    shape = input_shape(layers[0], under.batch_size)
    images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return partial(session.run, None, {INPUT: images})


def _provider(device: str) -> str:
    """Returns what onnxruntime calls a device.

    Raises:
        UserError: the installed onnxruntime does not run on it.
    """
    import onnxruntime

    name = "CPU" if device == "cpu" else "CUDA"
    if f"{name}ExecutionProvider" not in onnxruntime.get_available_providers():
        raise UserError(f"onnxruntime: this installation does not run on {device}; choose "
                        f"--runtime {TORCH}, or install onnxruntime-gpu")
    return f"{name}ExecutionProvider"


RUNTIMES: Mapping[str, Runtime] = {
    ONNXRUNTIME: Runtime(_by_onnxruntime, ("onnxruntime", "onnx")),
    TORCH: Runtime(_by_torch, ("torch", "ofa")),
    "torch-compile": Runtime(partial(_by_torch, compiled=True), ("torch", "ofa"))}
# Flags that say how this machine measures; a command has its own.
OF_THIS_MACHINE = ("--runtime", "--device", "--threads", "--batch_size", "--rel_err",
                   "--max_repeats")
COMMAND_FLAG: dict[str, Any] = {
    "metavar": "TEXT", "help": "measures on a device instead, as in scripts/learn_latency.py: "
    "{model} is an ONNX file"}
RUNTIME_FLAG: dict[str, Any] = {
    "choices": list(RUNTIMES),
    "help": f"what runs the networks that are measured (default: {ONNXRUNTIME} on a CPU where it "
            f"is installed, else {TORCH})"}


def choose_runtime(name: str | None, device: str = "cpu") -> str:
    """Returns the runtime of a name; without one onnxruntime on a CPU, if it is installed.

    Prints a note where it is not installed, and so PyTorch is measured.

    Raises:
        UserError: an unknown name, or what it needs is not installed.
    """
    needs = RUNTIMES[ONNXRUNTIME].packages
    missing = [package for package in needs if not is_installed(package)]
    if name is None and device == "cpu" and missing:
        print(f"note: {', '.join(missing)} is not installed, so latencies are those of PyTorch "
              "itself: several times those of a deployed network, and in another order; "
              f"{advice(missing[0])}", file=sys.stderr)
    if name is None:
        return TORCH if missing or device != "cpu" else ONNXRUNTIME
    if name not in RUNTIMES:
        raise UserError(f"unknown runtime {name[:40]!r}; choose from {', '.join(RUNTIMES)}")
    require(f"--runtime {name}", *RUNTIMES[name].packages)
    return name


def choose_measure(args: argparse.Namespace) -> Measure:
    """Returns what measures by a command line, whose `runtime` is then the name of it.

    Raises:
        UserError: flags that a command makes idle, or one that takes no ONNX file; or as
            `choose_runtime`.
    """
    if args.command is None:
        args.runtime = choose_runtime(args.runtime, args.device)
        return RUNTIMES[args.runtime].measure
    refuse_idle(args.typed, {"with --command": OF_THIS_MACHINE})
    command = DeviceCommand.parse(args.command)
    if not command.needs("{model}") or command.form not in (None, "onnx"):
        raise UserError("--command: single layers are ONNX files; write {model} for them, or learn "
                        "the latency of whole networks (scripts/learn_latency.py)")
    args.runtime = COMMAND
    return partial(_by_command, command)


def described(name: str) -> dict[str, str]:
    """Returns what a table says of its runtime: the name, the precision, and versions."""
    return {"runtime": name, "precision": PRECISION,
            **{package: _version(package) for package in RUNTIMES[name].packages}}


def _version(package: str) -> str:
    if package != TORCH:
        return version(package)
    import torch

    return str(torch.__version__)  # which names the build, too


def measure_networks(networks: Sequence[Layers], runtime: str,
                     under: Conditions) -> list[Latency]:
    """Returns the latency in ms of each network, or layer, with random weights; they take turns.

    Raises:
        UserError: a layer that the runtime does not know, or a device that it does not run on.
    """
    return RUNTIMES[runtime].measure(networks, under)


def measured_in_groups(networks: Sequence[Layers], measure: Measure,
                       under: Conditions) -> Iterator[list[Latency]]:
    """Gives what a row of `RUNTIMES` measures, a group at a time; shows a bar or lines on stderr.

    A command answers for one network at a time, elsewhere.
    """
    n, here = len(networks), any(row.measure is measure for row in RUNTIMES.values())
    group = GROUP if here else 1
    with watched_processor(here and n > 0 and under.device == "cpu" and under.threads == 1):
        for start in progress_bar(range(0, n, group), f"{group} networks"):
            yield measure(networks[start:start + group], under)
            if not sys.stderr.isatty():
                announce(f"{min(start + group, n)} of {n} measured")
