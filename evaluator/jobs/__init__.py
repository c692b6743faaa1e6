"""run(jobs) -> results: evaluations on the devices of one machine, or of several.

One `Scheduler` holds the policy (what runs when, what follows a fault); behind it are `Slots`, the
places where workers run: `local` (processes of this machine) or `ray` (actors of a cluster). Both
`Scheduler` and `InProcess`, which has no workers, are engines in the sense of `search.Engine`.
"""

import importlib
import os
from collections.abc import Callable

from evaluator.jobs.base import STATUSES, Devices, EvaluatorSpec, Job, Result, WorkerError
from evaluator.jobs.in_process import InProcess
from evaluator.jobs.plan import plan_slots
from evaluator.jobs.scheduler import Scheduler
from evaluator.jobs.stream import JobStream
from utils.errors import UserError

__all__ = ["BACKENDS", "STATUSES", "Devices", "EvaluatorSpec", "InProcess", "Job", "JobStream",
           "Result", "Scheduler", "WorkerError", "get_engine", "plan_slots"]

# name -> "module:class" of its slots, and the options of `get_engine` that it understands.
BACKENDS = {
    "local": ("evaluator.jobs.local:LocalSlots", ("log_dir", "memory_limit")),
    "ray": ("evaluator.jobs.ray:RaySlots", ("ray_address",)),
}


def get_engine(backend: str, spec: EvaluatorSpec, *, slots: list[Devices],
               timeout: float | None = None, retries: int = 2,
               log_dir: str | os.PathLike | None = None, memory_limit: int | None = None,
               ray_address: str | None = None,
               on_ready: Callable[[], None] = lambda: None) -> Scheduler:
    """Returns an engine for `with get_engine(...) as engine: engine.run(jobs)`.

    Args:
        backend: a key of `BACKENDS`.
        spec: the evaluator that every worker builds once.
        slots: devices of each worker, see `plan_slots`; with `ray` only their numbers count.
        timeout: seconds after which a job is killed; None for never.
        retries: how often a job whose worker was lost is tried again.
        log_dir: `local` writes `worker_<slot>.log` there; None keeps no logs.
        memory_limit: bound in bytes of a `local` worker's address space; for workers on the CPU.
        ray_address: the cluster that `ray` joins; `auto` or None for the running one, and where
            none is running, for one that is started here and ended with the engine.
        on_ready: called once, when the first worker is ready; what it raises ends the run.

    Raises:
        UserError: an unknown backend, an option that it lacks, or a number out of range.
    """
    if backend not in BACKENDS:
        raise UserError(f"unknown backend {backend!r}; choose from {', '.join(sorted(BACKENDS))}")
    if timeout is not None and not timeout > 0:
        raise UserError(f"timeout is {timeout} s, but must be greater than 0")
    if retries < 0:
        raise UserError(f"retries is {retries}, but must be 0 or more")
    place, understood = BACKENDS[backend]
    given = {"log_dir": log_dir, "memory_limit": memory_limit, "ray_address": ray_address}
    options = {name: value for name, value in given.items() if name in understood}
    for name in ("memory_limit", "ray_address"):
        if given[name] is not None and name not in understood:
            raise UserError(f"{name} has no meaning with --backend {backend}")
    if memory_limit is not None and any(slot.gpus for slot in slots):
        raise UserError("a memory limit cannot be set for workers on GPUs: CUDA reserves more "
                        "addresses than there is memory")
    module, name = place.split(":")
    return Scheduler(getattr(importlib.import_module(module), name)(spec, slots, **options),
                     timeout=timeout, retries=retries, on_ready=on_ready, spec=spec)
