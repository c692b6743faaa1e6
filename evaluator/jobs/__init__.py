"""run(jobs) -> results: evaluations on the devices of one machine, or of several."""

from evaluator.jobs.base import STATUSES, EvaluatorSpec, Job, Result

__all__ = ["STATUSES", "EvaluatorSpec", "Job", "Result"]
