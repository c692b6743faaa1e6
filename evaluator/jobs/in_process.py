"""Evaluations in this process, one after the other: for notebooks and benchmarks."""

from collections.abc import Iterable, Iterator
from typing import Any

from evaluator.jobs.base import Job, Result
from evaluator.jobs.worker import answer


class InProcess:
    """An engine without workers: what an evaluator raises or returns is judged as a worker does.

    It does not survive what kills a process, and has no time limit.

    Args:
        evaluator: an `evaluator.base.Evaluator`, or any object with its method `evaluate`.
    """

    def __init__(self, evaluator: Any) -> None:
        self.evaluator = evaluator

    def run(self, jobs: Iterable[Job]) -> Iterator[Result]:
        """Yields the result of every job (or of a `JobStream`) in turn; errors as `Result.of`."""
        for job in jobs:
            outcome = answer(self.evaluator, job.kind, job.arch, 1.0)
            yield Result.of(job, outcome, outcome.seconds or 0.0)
