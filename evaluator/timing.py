"""Timing: how long a call, a layer or a network takes on the device at hand."""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from cli.types import count, number
from utils.errors import UserError, warn
from utils.machine import cpu_name
from utils.memory import keep_freed_memory

if TYPE_CHECKING:
    import torch
    from torch import nn

TURN, MIN_REPEATS = 5, 20
MAX_THREADS, MAX_COUNT = 1024, 10**6
# Modules that take turns: enough to even out slow spells, few enough for the memory.
GROUP = 32
# Samples above this multiple of the median are interruptions by other processes.
INTERRUPTED = 1.5
REL_ERR, MAX_REPEATS = 0.02, 1000
SHARED = 0.1  # of the time without the processor, above which other programs are mentioned
# Of an accelerator, before anything is timed.
WARM_UP_S, PASSES_BEFORE_RECORDING = 0.5, 3


class Conditions(NamedTuple):
    """How something is measured; see `measure`. From the header of a table, values of any type."""

    device: str = "cpu"
    threads: int = 1
    batch_size: int = 1
    rel_err: float = REL_ERR
    max_repeats: int = MAX_REPEATS

    @classmethod
    def of(cls, args: object) -> Self:
        """Returns those of a command line; raises UserError if one is out of range or missing."""
        found = cls(*(getattr(args, name) for name in cls._fields))
        found.check()
        return found

    def check(self) -> None:
        """Raises UserError for values out of range and for a device that is not there."""
        counts = {"threads": MAX_THREADS, "batch_size": MAX_COUNT, "max_repeats": MAX_COUNT}
        for name, most in counts.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise UserError(f"{name} must be an integer in 1..{most}, not {str(value)[:20]}")
        if not isinstance(self.device, str):
            raise UserError("device must be a name such as cpu or cuda:0, not "
                            f"{str(self.device)[:20]}")
        if not 0 < self.rel_err < 1:
            raise UserError(f"rel_err must be between 0 and 1, not {self.rel_err}")
        from utils.devices import checked_device

        checked_device(self.device)


CONDITION_FLAGS: dict[str, dict[str, Any]] = {
    "device": {"default": "cpu", "help": "cpu, or cuda:0 and so on"},
    "threads": {"type": count(1, MAX_THREADS), "default": 1, "help": "CPU threads"},
    "batch_size": {"type": count(1), "default": 1, "help": "images in one pass"},
    "rel_err": {"type": number(0, 1), "default": REL_ERR,
                "help": "repeat until the standard error is below this part of the mean ..."},
    "max_repeats": {"type": count(1), "default": MAX_REPEATS,
                    "help": "... or until this many passes"}}


@dataclass(frozen=True)
class Latency:
    """A measured duration in ms.

    Attributes:
        mean: mean of the samples.
        var: their variance.
        count: how many they are; interrupted ones are left out.
        rel_err: standard error of the mean, relative to the mean.
        median: of all samples, interrupted ones too.
        iqr: from their first to their third quartile.
    """

    mean: float
    var: float
    count: int
    rel_err: float
    median: float
    iqr: float


Timer = Callable[[Callable[[], object]], float]


def wall_clock(call: Callable[[], object]) -> float:
    """Returns how long a call takes, in ms."""
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def measure(calls: Sequence[Callable[[], object]], timer: Timer = wall_clock,
            rel_err: float = REL_ERR, max_repeats: int = MAX_REPEATS) -> list[Latency]:
    """Times calls until the mean of each is known well enough.

    The calls take turns, so that a slow spell of the machine does not fall on one of them alone.
    A turn is one pass to warm up and a few that are timed. A call drops out when the standard
    error of its mean is below `rel_err` of the mean, or after `max_repeats` samples. Samples above
    one and a half times the median are interruptions by other processes and are left out.

    Args:
        calls: what to time.
        timer: calls once and returns the ms.
        rel_err: the bound on the relative standard error.
        max_repeats: the most samples of each call, rounded up to whole turns of five.
    """
    samples: list[list[float]] = [[] for _ in calls]
    results: dict[int, Latency] = {}
    while len(results) < len(calls):
        for i in (i for i in range(len(calls)) if i not in results):
            calls[i]()
            samples[i] += [timer(calls[i]) for _ in range(TURN)]
            if len(samples[i]) >= min(MIN_REPEATS, max_repeats):
                latency = _summary(np.array(samples[i]))
                if latency.rel_err <= rel_err or len(samples[i]) >= max_repeats:
                    results[i] = latency
    return [results[i] for i in range(len(calls))]


def _summary(samples: np.ndarray) -> Latency:
    first, median, third = np.percentile(samples, (25, 50, 75)).tolist()
    kept = samples[samples <= INTERRUPTED * median]
    mean, var = kept.mean(), kept.var(ddof=1)
    return Latency(float(mean), float(var), len(kept), float(np.sqrt(var / len(kept)) / mean),
                   median, third - first)


def measure_latency(net: "nn.Module", resolution: int, batch_size: int = 1, device: str = "cpu",
                    threads: int = 1, rel_err: float = REL_ERR,
                    max_repeats: int = MAX_REPEATS) -> Latency:
    """Measures the latency in ms of a network on a device; the network is not changed.

    A copy runs in eval and inference mode, batch normalisation included. On a CPU the process keeps
    the memory that it frees (`keep_freed_memory`); for GPUs see `measure_modules`.

    Args:
        net: a network that takes images.
        resolution: height and width of the images in pixels.
        batch_size: images in one pass; the latency is that of the whole batch.
        device: `cpu` or `cuda:0`, ...
        threads: threads that a CPU uses.
        rel_err, max_repeats: as in `measure`.
    """
    shape = (batch_size, 3, resolution, resolution)
    return measure_modules([(copy.deepcopy(net), shape)], device, threads, rel_err,
                           max_repeats)[0]


def measure_modules(modules: Sequence[tuple["nn.Module", Sequence[int]]], device: str = "cpu",
                    threads: int = 1, rel_err: float = REL_ERR,
                    max_repeats: int = MAX_REPEATS) -> list[Latency]:
    """Measures modules in turns, each with its input shape; the rest is as in `measure_latency`.

    The modules themselves are moved to the device and put in eval mode. A GPU runs them as it
    evaluates: in `channels_last`. Its clock has risen before the first sample (half a second of
    passes), its own events are the clock, and CUDA replays a recorded graph: what is measured is
    the GPU, and not how fast Python launches its kernels.
    """
    import torch

    from utils.devices import as_current, pinned_threads

    keep_freed_memory()
    generator, place = torch.Generator().manual_seed(0), torch.device(device)
    layout = torch.contiguous_format if place.type == "cpu" else torch.channels_last

    def call(module: "nn.Module", shape: Sequence[int]) -> Callable[[], object]:
        images = torch.randn(*shape, generator=generator).to(place)
        if len(shape) == 4:
            images = images.to(memory_format=layout)
        return partial(module.to(place).to(memory_format=layout).eval(), images)

    with torch.inference_mode(), pinned_threads(threads):
        calls = [call(*module) for module in modules]
        if place.type == "cpu":
            return measure(calls, wall_clock, rel_err, max_repeats)
        with as_current(place):
            if place.type == "cuda":
                calls = [_recorded(call) for call in calls]
            _warm_up(calls, place)
            return measure(calls, partial(_event_clock, place), rel_err, max_repeats)


def _recorded(call: Callable[[], object]) -> Callable[[], object]:
    """Returns what replays a call as one CUDA graph."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # libraries choose kernels and take memory before the recording
        for _ in range(PASSES_BEFORE_RECORDING):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def _warm_up(calls: Sequence[Callable[[], object]], device: "torch.device") -> None:
    """Lets an accelerator work for half a second, after which its clock has risen."""
    from utils.devices import synchronize

    end = time.perf_counter() + WARM_UP_S
    while time.perf_counter() < end:
        for call in calls:
            call()
        synchronize(device)


def _event_clock(device: "torch.device", call: Callable[[], object]) -> float:
    """Returns the ms of a call between two events of an accelerator."""
    import torch

    start, end = (torch.Event(device, enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


@contextmanager
def watched_processor(at_work: bool) -> Iterator[None]:
    """Warns at the end if this thread, where it was `at_work`, often had no processor."""
    wall, own = time.perf_counter(), time.thread_time()
    yield
    wall, own = time.perf_counter() - wall, time.thread_time() - own
    if at_work and own < (1 - SHARED) * wall:
        warn(f"other programs had the processor for {100 * (1 - own / wall):.0f} % of the time, "
             "which makes latencies longer and less certain: measure again on a quiet machine")


def device_name(device: str) -> str:
    """Returns the model of a GPU, or of this machine's CPU."""
    import torch

    place = torch.device(device)
    if place.type == "cpu":
        return cpu_name()
    named = getattr(torch.get_device_module(place), "get_device_name", None)  # MPS has none
    return named(place) if named else place.type
