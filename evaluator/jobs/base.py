"""The contract between the search and its evaluations: a job is a value, so is its result."""

from dataclasses import dataclass, field
from typing import Any

from search_space import Arch

# ok: measured. failed: an exception. timeout: killed after --timeout. oom: memory ran out, twice.
# nan: a result that is not finite. lost: the worker died. Only `ok` is ever scored.
STATUSES = ("ok", "failed", "timeout", "oom", "nan", "lost")


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
        error: one line that says what went wrong.
        log: the traceback of the worker, or its last output.
        attempts: how often the job was started.
        seconds: duration of the last attempt.
    """

    job: Job
    status: str
    stats: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    log: str = ""
    attempts: int = 1
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the result may be scored."""
        return self.status == "ok"


@dataclass(frozen=True)
class EvaluatorSpec:
    """How a worker builds its evaluator: a row of `evaluator.EVALUATORS` and its options.

    Plain data, so that it can be sent to another process or machine; `options` holds JSON types.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
