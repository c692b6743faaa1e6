"""Which devices each worker gets. The GPUs are counted by a child process: torch stays out.

A GPU is any accelerator that torch supports: `cuda` (NVIDIA), `rocm` (AMD, which torch calls cuda
too), `xpu` (Intel), `mps` (Apple).
"""

import os
import subprocess
import sys

from joblib import cpu_count

from evaluator.jobs.base import VISIBLE, Devices
from utils.errors import UserError
from utils.machine import has_gpu_driver

_COUNT_GPUS = ("import torch; there = torch.accelerator; kind = "
               "there.is_available() and there.current_accelerator(); "
               "print('rocm' if torch.version.hip else kind.type if kind else 'cpu', "
               "there.device_count())")
_COUNT_SECONDS = 120


def plan_slots(n_gpus: int, gpus_per_job: int = 1, cpu_workers: int | None = None,
               threads: int | None = None, ray_address: str | None = None) -> list[Devices]:
    """Divides the devices of this machine, or of a cluster, into slots: one worker each.

    Args:
        n_gpus: GPUs to use; 0 for none. Fewer are used where fewer can be seen, by
            `CUDA_VISIBLE_DEVICES` too.
        gpus_per_job: GPUs of each worker.
        cpu_workers: workers without GPUs; None for as many as there are cores for this process
            (affinity and cgroup limits count).
        threads: threads of each worker's CPU work; None for 1 without GPUs, so that results do not
            depend on the number of cores, and an equal share of the cores with GPUs.
        ray_address: the cluster whose devices count (`auto`: the running one, if there is one);
            None for this machine's.

    Raises:
        UserError: a number is out of range, or one job needs more GPUs than there are.
    """
    for flag, value, least in (("n_gpus", n_gpus, 0), ("gpu", gpus_per_job, 1),
                               ("cpu_workers", cpu_workers, 1), ("threads", threads, 1)):
        if value is not None and value < least:
            raise UserError(f"{flag} is {value}, but must be {least} or more")
    kind, gpus, cores = _cluster_devices(ray_address) or (
        *(visible_gpus() if n_gpus else ("cpu", [])), cpu_count())
    gpus = gpus[:n_gpus]
    if not gpus:
        return [Devices(threads=threads or 1)] * (cpu_workers or cores)
    if gpus_per_job > len(gpus):
        raise UserError(f"a job needs {gpus_per_job} GPUs, but only {len(gpus)} can be used; "
                        "lower --gpu or raise --n_gpus")
    if gpus_per_job > 1:
        print(f"warning: --gpu {gpus_per_job}: the GPUs share each batch and wait for each other; "
              "unless a batch is too large for one, --gpu 1 evaluates more networks an hour",
              file=sys.stderr)
    n_slots = len(gpus) // gpus_per_job
    threads = threads or max(1, cores // n_slots)
    return [Devices(tuple(gpus[i * gpus_per_job:(i + 1) * gpus_per_job]), threads, kind)
            for i in range(n_slots)]


def _cluster_devices(address: str | None) -> tuple[str, list[str], int] | None:
    if address is None:
        return None
    from evaluator.jobs.ray import cluster_devices  # Ray is optional
    found = cluster_devices(address)
    return found and ("cuda", *found)


def visible_gpus() -> tuple[str, list[str]]:
    """Returns the kind of the GPUs that torch can use here, and their names.

    The names are entries for the variable that restricts a worker to its own, see `Devices`. Where
    that variable is set, the names in it are those to use; CUDA counts only one of several MIG
    instances, so names that are not numbers are trusted.

    Raises:
        UserError: they cannot be counted.
    """
    if not has_gpu_driver():  # spares the seconds of the child
        return "cpu", []
    try:
        child = subprocess.run([sys.executable, "-P", "-c", _COUNT_GPUS], capture_output=True,
                               text=True, timeout=_COUNT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise UserError(f"the GPUs cannot be counted: their driver has not answered for "
                        f"{_COUNT_SECONDS} s; use --n_gpus 0 to evaluate on the CPU") from None
    kind, _, count = child.stdout.strip().rpartition(" ")
    if child.returncode != 0 or not count.isdecimal():
        raise UserError(f"the GPUs cannot be counted: {child.stderr.strip()[-300:]}; "
                        "use --n_gpus 0 to evaluate on the CPU")
    listed = _listed(kind)
    if kind == "cpu" or not int(count):
        return "cpu", []
    if listed is None:
        return kind, [str(i) for i in range(int(count))]
    by_number = all(name.isdecimal() for name in listed)
    return kind, listed[:int(count)] if by_number else listed


def _listed(kind: str) -> list[str] | None:
    """Returns the names in the first variable that is set of those that restrict the GPUs."""
    texts = (os.environ.get(name) for name in VISIBLE.get(kind, ()))
    text = next((text for text in texts if text is not None), None)
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]
