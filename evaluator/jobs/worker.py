"""What runs inside a worker, whoever started it: build the evaluator once, then answer jobs.

The local backend starts `main` in a fresh interpreter. Requests come in on what was stdin and
outcomes leave on what was stdout, one JSON object per line: plain data cannot carry code, and half
a line is recognised as such. An evaluator reads nothing from stdin, and whatever it prints goes to
stderr, which is the worker's log.
"""

import ctypes
import functools
import json
import os
import signal
import sys
import time
import traceback
from typing import Any

from cli.progress import share_processors
from evaluator import build_evaluator
from evaluator.base import PERCENTAGES, Evaluator, judge
from evaluator.jobs.base import BROKEN, MACHINE_FAULT, READY, REFUSED, Outcome
from utils.errors import (
    UserError,
    describe_os_error,
    is_machine_fault,
    is_out_of_memory,
    one_line,
    shortened,
)
from utils.memory import keep_freed_memory

_ROUNDING = 1e-6
_MAX_ERROR, _MAX_LOG = 1000, 20_000  # characters that are kept of what an evaluator raises
_LARGEST_LIMIT = 2**62  # bytes; the system's numbers have 64 bits
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_HARDWARE_FAULTS = ("cuda error", "hip error", "cudnn_status_execution_failed",
                    "cudnn_status_internal_error", "cublas_status_execution_failed",
                    "cublas_status_not_initialized", "uncorrectable ecc", "nccl error",
                    "level zero error", "device lost")

# kind of a job -> the evaluator's method; batch sizes only matter to `evaluate`.
_KINDS = {
    "accuracy": lambda evaluator, arch, scale: evaluator.evaluate(arch, batch_scale=scale),
    "latency": lambda evaluator, arch, scale: evaluator.latency(arch),
}


def prepare(name: str, options: dict[str, Any]) -> tuple[Any, Outcome]:
    """Builds the evaluator; returns it, or None, and how that went: READY, REFUSED or BROKEN."""
    keep_freed_memory()
    share_processors()  # torch comes with the evaluator
    try:
        evaluator = build_evaluator(name, options)
        if "torch" in sys.modules:  # a library may have been imported before OMP_NUM_THREADS
            sys.modules["torch"].set_num_threads(options.get("threads", 1))
        inputs = evaluator.fingerprint() if isinstance(evaluator, Evaluator) else ""
        return evaluator, Outcome(READY, {"fingerprint": inputs} if inputs else {})
    except UserError as error:
        return None, Outcome(REFUSED, error=shortened(str(error), _MAX_ERROR))
    except (Exception, SystemExit) as error:  # an outcome, with its traceback, for the parent
        if is_out_of_memory(error):
            return None, Outcome(REFUSED, error="memory ran out while a worker was set up; raise "
                                                "its memory limit, or use fewer workers")
        return None, _raised(BROKEN, error)


def answer(evaluator: Any, kind: str, arch: dict[str, Any], batch_scale: float) -> Outcome:
    """Does one job and returns how it ended; exceptions become outcomes."""
    began = time.perf_counter()
    try:
        stats = _KINDS[kind](evaluator, arch, batch_scale)
        stats = tidied(stats)
        status, error = judge(stats, kind)
        outcome = Outcome(status, stats if status == "ok" else {}, shortened(error, _MAX_ERROR))
    except (Exception, SystemExit) as error:  # an outcome, for the archive of failures
        outcome = _raised("oom" if is_out_of_memory(error) else
                          "lost" if is_hardware_fault(error) else
                          MACHINE_FAULT if is_machine_fault(error) else "failed", error)
    return Outcome(**vars(outcome) | {"seconds": time.perf_counter() - began})


def tidied(stats: Any) -> Any:
    """Returns stats whose percentages are not above 100 by a rounding error."""
    if not isinstance(stats, dict):
        return stats
    near = {key: 100.0 for key in PERCENTAGES
            if isinstance(stats.get(key), float) and 100 < stats[key] < 100 + _ROUNDING}
    return stats | near


def is_hardware_fault(error: BaseException) -> bool:
    """Whether a GPU or its driver failed, and not the architecture that was evaluated on it.

    What follows on the same device fails as well: the worker counts as lost, the job is tried
    again on a new one.
    """
    text = str(error).lower()
    return type(error).__name__ == "AcceleratorError" or (
        isinstance(error, RuntimeError) and any(t in text for t in _HARDWARE_FAULTS))


def die_with(parent: int) -> None:
    """Asks Linux to kill this process when its parent ends, for whatever reason.

    Strictly, when the parent's thread that started this process ends. Elsewhere than on Linux
    the end of the parent shows as the end of stdin alone.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before it could be watched
        os.kill(os.getpid(), signal.SIGKILL)


def main(parent: int) -> None:
    """Serves the process `parent` until it ends the requests."""
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    channel, requests = os.dup(1), os.fdopen(os.dup(0))
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    # A forked child that outlives this worker must not keep the channel open.
    os.register_at_fork(after_in_child=functools.partial(os.close, channel))
    setup = json.loads(requests.readline())
    if setup["memory_limit"]:
        import resource  # not on Windows
        limit = min(setup["memory_limit"], _LARGEST_LIMIT)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    evaluator, outcome = prepare(setup["name"], setup["options"])
    _send(channel, outcome)
    for line in requests:
        _send(channel, answer(evaluator, **json.loads(line)))


def _send(channel: int, outcome: Outcome) -> None:
    message = memoryview(outcome.to_json().encode() + b"\n")
    while message:
        message = message[os.write(channel, message):]


def _raised(status: str, error: BaseException) -> Outcome:
    """Returns the outcome of an exception that is being handled, with its traceback."""
    text = f"{type(error).__name__}: {shortened(str(error), _MAX_ERROR)}"
    if status == MACHINE_FAULT and isinstance(error, OSError) and error.errno:
        text = describe_os_error(error)
    return Outcome(status, error=one_line(text).strip(),
                   log=shortened(traceback.format_exc(), _MAX_LOG))
