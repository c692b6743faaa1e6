"""Which devices each worker gets. The GPUs are counted by a child process: torch stays out."""

import os
import subprocess
import sys
from pathlib import Path

from joblib import cpu_count

from evaluator.jobs.base import Slot
from utils.errors import UserError

_COUNT_GPUS = "import torch; print(torch.cuda.device_count())"
_COUNT_SECONDS = 120


def plan_slots(n_gpus: int, gpus_per_job: int = 1, cpu_workers: int | None = None,
               threads: int | None = None, ray_address: str | None = None) -> list[Slot]:
    """Divides the devices of this machine, or of a cluster, into slots: one worker each.

    Args:
        n_gpus: GPUs to use; 0 for none. Fewer are used where fewer can be seen, by
            `CUDA_VISIBLE_DEVICES` too.
        gpus_per_job: GPUs of each worker.
        cpu_workers: workers without GPUs; None for as many as there are cores for this process
            (affinity and cgroup limits count).
        threads: threads of each worker's CPU work; None for 1 without GPUs, so that results do not
            depend on the number of cores, and an equal share of the cores beside GPUs.
        ray_address: the cluster whose devices count (`auto`: the running one, if there is one);
            None for this machine's.

    Raises:
        UserError: a number is out of range, or one job needs more GPUs than there are.
    """
    for flag, value, least in (("n_gpus", n_gpus, 0), ("gpu", gpus_per_job, 1),
                               ("cpu_workers", cpu_workers, 1), ("threads", threads, 1)):
        if value is not None and value < least:
            raise UserError(f"{flag} is {value}, but must be {least} or more")
    gpus, cores = _cluster_devices(ray_address) or (visible_gpus() if n_gpus else [], cpu_count())
    gpus = gpus[:n_gpus]
    if not gpus:
        return [Slot(threads=threads or 1)] * (cpu_workers or cores)
    if gpus_per_job > len(gpus):
        raise UserError(f"a job wants {gpus_per_job} GPUs, but only {len(gpus)} can be used; "
                        "lower --gpu or raise --n_gpus")
    n_slots = len(gpus) // gpus_per_job
    threads = threads or max(1, cores // n_slots)
    return [Slot(tuple(gpus[i * gpus_per_job:(i + 1) * gpus_per_job]), threads)
            for i in range(n_slots)]


def _cluster_devices(address: str | None) -> tuple[list[str], int] | None:
    if address is None:
        return None
    from evaluator.jobs.ray import cluster_devices  # Ray is optional
    return cluster_devices(address)


def visible_gpus() -> list[str]:
    """The GPUs that torch can use here, as entries for `CUDA_VISIBLE_DEVICES`."""
    if not _has_driver():  # spare the seconds that the child takes to import torch
        return []
    child = subprocess.run([sys.executable, "-c", _COUNT_GPUS], capture_output=True, text=True,
                           timeout=_COUNT_SECONDS, check=False)
    if child.returncode != 0 or not child.stdout.strip().isdigit():
        raise UserError(f"the GPUs cannot be counted: {child.stderr.strip()[-300:]}; "
                        "use --n_gpus 0 to evaluate on the CPU")
    count = int(child.stdout)
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(i) for i in range(count)] if listed is None else listed.split(",")
    return [name.strip() for name in names[:count]]


def _has_driver() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()
