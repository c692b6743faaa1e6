"""The processes of a training run: their ranks, their devices, their process group."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from joblib import cpu_count
from timm.utils import reduce_tensor
from torch import Tensor, nn

from cli.progress import progress_bar
from cli.scripts import EXIT_BAD_INPUT
from utils.devices import checked_device, default_device, device_count, widest_float
from utils.errors import UserError

DEFAULT_PORT = "29500"


class World(NamedTuple):
    """The processes of a run: the device of this one, its rank, and how many there are."""

    device: torch.device
    rank: int = 0
    size: int = 1

    def progress(self, batches: Any) -> Any:
        """Wraps batches in a bar where this is the first process and has a terminal."""
        return progress_bar(batches) if self.primary else batches

    @property
    def primary(self) -> bool:
        """Whether this process writes and logs."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Returns the sum of a CPU tensor over all processes, on the CPU."""
        if self.size == 1:
            return tensor
        return reduce_tensor(tensor.to(self.device, widest_float(self.device)), 1).cpu()

    def share(self, net: nn.Module) -> None:
        """Gives all processes the weights and statistics of the first one's network."""
        for tensor in net.state_dict().values() if self.size > 1 else ():
            value = tensor.contiguous()
            torch.distributed.broadcast(value, 0)
            tensor.copy_(value)

    def share_bn(self, net: nn.Module, mode: str) -> None:
        """Gives all processes the same BN statistics of a network, wherever its tensors are.

        Args:
            net: on any device; tensors are copied to this process's device and back.
            mode: `reduce` takes the mean, `broadcast` those of the first process, '' does nothing.
        """
        if self.size == 1 or not mode:
            return
        for name, buffer in net.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                value = buffer.to(self.device)
                if mode == "reduce":
                    torch.distributed.all_reduce(value)
                    value /= self.size
                else:
                    torch.distributed.broadcast(value, 0)
                buffer.copy_(value)


class Launched(NamedTuple):
    """The place of a process that a launcher started: among all, and among those of its machine."""

    rank: int
    size: int
    local_rank: int
    local_size: int


def launched(environ: Mapping[str, str]) -> Launched | None:
    """Returns what torchrun, or srun with MASTER_ADDR, sets for this process; None: it is alone.

    A Slurm job sets its variables in every shell: they alone start nothing.

    Raises:
        UserError: variables that are no numbers.
    """
    names = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID",
             "LOCAL_WORLD_SIZE": "SLURM_NTASKS_PER_NODE"}
    if "LOCAL_RANK" not in environ and "MASTER_ADDR" not in environ:
        return None
    values = {name: environ.get(name, environ.get(other)) for name, other in names.items()}
    if values["RANK"] is None or values["WORLD_SIZE"] is None:
        return None
    try:
        rank, size = int(values["RANK"]), int(values["WORLD_SIZE"])
        local = int(values["LOCAL_RANK"] or rank)
        place = Launched(rank, size, local, int(values["LOCAL_WORLD_SIZE"] or local + 1))
    except ValueError:
        raise UserError(f"the launcher's variables {values} are no numbers; start the processes "
                        "with scripts/distributed_train.sh") from None
    return place if size > 1 else None


def check_devices(n_processes: int, device: str | None) -> None:
    """Raises UserError for no such device, or fewer GPUs than processes."""
    if device:
        checked_device(device)
    check_count(n_processes, device)


def check_count(n_processes: int, device: str | None) -> None:
    """Raises UserError where there are fewer accelerators than processes on one machine."""
    kind, _, index = default_device(device).partition(":")
    if kind == "cpu" or n_processes == 1:
        return
    n = device_count(kind)
    if n_processes > n:
        raise UserError(f"{n_processes} processes for {n} GPUs; start at most one for each, or add "
                        "--device cpu")
    if index:
        raise UserError(f"--device {device}: {n_processes} processes need a device each; name "
                        f"{kind} without a number")


def device_of_rank(device: str | None, local_rank: int, local_size: int) -> torch.device:
    """Returns the device of one process; touches no other, so that no context appears there.

    Raises:
        UserError: as `check_count`, or the device cannot be used.
    """
    check_count(local_size, device)
    name = default_device(device)
    if name == "cpu" or local_size == 1:
        return checked_device(name)
    return checked_device(f"{name}:{local_rank}")


def default_threads() -> int:
    """Returns half of this process's CPU cores, at least 1: two trainings can share a machine.

    More threads than free cores wait for each other: two trainings on two cores reached 597 and 759
    images/s with one thread each, and 29 and 36 with two.
    """
    return max(1, cpu_count() // 2)


@contextmanager
def processes(device: str | None, threads: int | None) -> Iterator[World]:
    """Joins the processes that a launcher started, if any, and leaves them at the end.

    Only the first process reports bad input; the others end with its exit code.
    """
    if threads or "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads or default_threads())
    place = launched(os.environ)
    try:
        yield _meet(device, place) if place else World(device_of_rank(device, 0, 1))
    except UserError:
        if place and place.rank:
            raise SystemExit(EXIT_BAD_INPUT) from None
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _meet(device: str | None, place: Launched) -> World:
    """Joins the process group: NCCL for GPUs, gloo for CPUs."""
    own = device_of_rank(device, place.local_rank, place.local_size)
    if own.type != "cpu":
        torch.accelerator.set_device_index(own.index or 0)
    os.environ.setdefault("MASTER_PORT", DEFAULT_PORT)
    torch.distributed.init_process_group(
        torch.distributed.get_default_backend_for_device(own), rank=place.rank,
        world_size=place.size)
    return World(own, place.rank, place.size)
