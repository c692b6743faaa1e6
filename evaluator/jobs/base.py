"""The contract between the search and its evaluations: a job is a value, so is its result."""

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from search_space import Arch
from utils.errors import UserError

# ok: measured. failed: an exception. timeout: killed after --timeout. oom: memory ran out, twice.
# nan: a result that is not finite. lost: the worker died. Only `ok` is ever scored.
STATUSES = ("ok", "failed", "timeout", "oom", "nan", "lost")

# States of a worker before its first job. ready: it waits for jobs. refused: its options
# are wrong (`UserError`). broken: an exception while it was built.
READY, REFUSED, BROKEN = "ready", "refused", "broken"
# A job that ended by a fault of its machine: a full disk, say. It has no `Result`.
MACHINE_FAULT = "machine"

# The variables that select the GPUs that a process sees. AMD's libraries read both of theirs.
VISIBLE = {"cuda": ("CUDA_VISIBLE_DEVICES",),
           "rocm": ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"),
           "xpu": ("ZE_AFFINITY_MASK",)}


class WorkerError(RuntimeError):
    """Workers cannot be started; the first line is the reason, then comes the worker's log."""


@dataclass(frozen=True)
class Job:
    """One architecture to evaluate.

    Attributes:
        name: unique in a run, also the stem of its files: `iter_3/net_5`.
        arch: the architecture dict.
        kind: what the worker does: `accuracy` (cut, calibrate, validate) or `latency` (measure).
        expected: expected relative duration; longer jobs start first.
    """

    name: str
    arch: Arch
    kind: str = "accuracy"
    expected: float = 1.0


@dataclass(frozen=True)
class Result:
    """The outcome of one job.

    Attributes:
        job: the job.
        status: one of `STATUSES`.
        stats: what was measured (`params`, `flops`, `gpu`, `cpu`, `loss`, `top1`, `top5`, ...);
            empty unless `ok`.
        error: what went wrong, in one line.
        log: the traceback of the worker, or its last output.
        retried: why each earlier attempt ended: `lost: ...` or `oom: ...`.
        seconds: duration of the last attempt.
    """

    job: Job
    status: str
    stats: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    log: str = ""
    retried: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def attempts(self) -> int:
        """How often the job was started."""
        return 1 + len(self.retried)

    @property
    def ok(self) -> bool:
        """Whether the result may be scored."""
        return self.status == "ok"

    @classmethod
    def of(cls, job: Job, outcome: "Outcome", seconds: float,
           retried: tuple[str, ...] = ()) -> "Result":
        """Returns the result of a job whose last attempt had this outcome.

        Raises:
            UserError: that was a fault of the machine, which says nothing of the architecture.
        """
        if outcome.status == MACHINE_FAULT:
            raise UserError(f"{job.name}: {outcome.error}; this is a fault of the machine, so the "
                            "architecture is not recorded as failed: remove the cause and resume")
        return cls(job, outcome.status, outcome.stats, outcome.error, outcome.log, retried, seconds)


@dataclass(frozen=True)
class EvaluatorSpec:
    """How a worker builds its evaluator: a row of `evaluator.EVALUATORS` and its options.

    Plain data, so that it can be sent to another process or machine; `options` holds JSON types.
    Options called `data` or `<something>_path` name input files or folders, or are None.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def input_options(self) -> list[str]:
        """The names of the options that hold an input path."""
        return [name for name, value in self.options.items()
                if value is not None and (name == "data" or name.endswith("_path"))]


@dataclass(frozen=True)
class Devices:
    """What one worker may use.

    Attributes:
        gpus: entries of the variables `VISIBLE[kind]`; none for a worker on the CPU.
        threads: threads of its CPU work.
        kind: of the GPUs: `cuda`, `rocm` (AMD), `xpu` (Intel) or `mps` (Apple).
    """

    gpus: tuple[str, ...] = ()
    threads: int = 1
    kind: str = "cuda"

    @property
    def device_options(self) -> dict[str, Any]:
        """The options that name an evaluator's device; it sees its own GPUs alone, from 0."""
        kind = "cuda" if self.kind == "rocm" else self.kind  # as torch calls it
        device = f"{kind}:0" if self.gpus else "cpu"
        return {"device": device, "gpus": list(range(len(self.gpus))), "threads": self.threads}

    @property
    def environment(self) -> dict[str, str]:
        """The variables that hide all other GPUs from a worker."""
        return dict.fromkeys(VISIBLE.get(self.kind, ()), ",".join(self.gpus))


@dataclass(frozen=True)
class Outcome:
    """What became of one attempt: one of `STATUSES` or MACHINE_FAULT; READY, REFUSED or BROKEN of
    the set-up. The stats of READY hold the evaluator's `fingerprint`.
    """

    status: str
    stats: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    log: str = ""
    seconds: float | None = None

    def to_json(self) -> str:
        """Returns the outcome on one line of JSON, as workers send it."""
        return json.dumps(vars(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Outcome":
        """Reads what `to_json` wrote; raises ValueError or TypeError for anything else."""
        outcome = cls(**json.loads(text))
        if outcome.status not in (*STATUSES, READY, REFUSED, BROKEN,
                                  MACHINE_FAULT) or not (
                isinstance(outcome.stats, dict) and isinstance(outcome.error, str)
                and isinstance(outcome.log, str)
                and isinstance(outcome.seconds, float | int | None)):
            raise ValueError(f"not an outcome: {text[:80]!r}")
        return outcome


class Slots(ABC):
    """Places where jobs run, numbered 0..n-1, each with room for one worker; no policy.

    An engine opens a worker, waits until it is READY, starts one job at a time on it, and waits
    for the outcome. Every outcome is returned by `wait`, never raised by `start`. A worker that
    died by itself needs a `stop` too, before its slot is opened again.

    Attributes:
        n: number of slots.
        opens_at_once: whether `open` starts a worker now, and not when there is room for it.
    """

    n: int
    opens_at_once = True

    @abstractmethod
    def open(self, slot: int) -> None:
        """Begins to start the slot's worker; `wait` returns READY, REFUSED, BROKEN or lost."""

    @abstractmethod
    def start(self, slot: int, job: Job, batch_scale: float) -> None:
        """Hands a job to the slot's idle worker; batch sizes are multiplied by `batch_scale`."""

    @abstractmethod
    def wait(self, timeout: float | None) -> list[tuple[int, Outcome]]:
        """Sleeps until something happened or `timeout` seconds passed (None: for ever)."""

    @abstractmethod
    def stop(self, slot: int) -> None:
        """Kills the slot's worker with its children; its job has no outcome any more."""

    @abstractmethod
    def close(self) -> None:
        """Ends all workers."""

    @abstractmethod
    def now(self) -> float:
        """The time in seconds, on the clock that `wait` sleeps by."""
