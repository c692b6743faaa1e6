"""Slots on a Ray cluster: an actor for each, wherever its CPUs and GPUs are free.

The project must be importable on every node: at the same path, or through
`ray job submit --working-dir`. Input files and folders may be missing there; they are shipped.
"""

import io
import logging
import os
import signal
import tarfile
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import ray

from evaluator.jobs.base import BROKEN, Devices, EvaluatorSpec, Job, Outcome, Slots
from evaluator.jobs.worker import answer, prepare
from utils.errors import UserError, one_line

MAX_SHIPPED_BYTES = 4 * 2**30

_GRACE = 2.0  # seconds for idle actors to leave by themselves
_WARN_AFTER = 60.0  # seconds without any worker
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
_log = logging.getLogger(__name__)


def join(address: str | None) -> bool:
    """Connects this process to a running cluster.

    Args:
        address: of the cluster; `auto` or None for `RAY_ADDRESS`, then for one on this machine.

    Returns:
        False if none is running and none was named.

    Raises:
        UserError: no cluster answers at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    named = address not in (None, "auto") or "RAY_ADDRESS" in os.environ
    try:
        _init(address=address or "auto")
    except (ConnectionError, ValueError, RuntimeError) as error:
        if not named and isinstance(error, ConnectionError):
            return False
        raise UserError(f"no Ray cluster at {address}: {one_line(error)}; start one with "
                        "`ray start --head`, or leave --ray_address out") from None
    return True


def connect(address: str | None, n_cpus: int = 1) -> None:
    """As `join`, but starts a cluster here, of `n_cpus` or more, where `join` returns False."""
    if not join(address):
        _init(address="local", include_dashboard=False, num_cpus=max(n_cpus, os.cpu_count() or 1))


def _init(**options: Any) -> None:
    """Connects, and keeps this process's signals: Ray's own handler of SIGTERM would abort it."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        ray.init(**options, **_QUIET)
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in kept.items():
                signal.signal(number, handler)


def cluster_devices(address: str | None) -> tuple[list[str], int] | None:
    """Returns a cluster's GPUs (as names to be counted) and CPUs; None where `join` is False.

    With GPUs only the CPUs of their nodes count, and of each node as many for a GPU as the node
    with the fewest has: an actor that asked for more would never start there.
    """
    if not join(address):
        return None
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    ray.shutdown()
    with_gpus = [node for node in nodes if node.get("GPU", 0) >= 1]
    if not with_gpus:
        return [], max(1, int(sum(node.get("CPU", 0) for node in nodes)))
    n_gpus = sum(int(node["GPU"]) for node in with_gpus)
    share = min(int(node.get("CPU", 0) // node["GPU"]) for node in with_gpus)
    return ["any"] * n_gpus, n_gpus * share


class Worker:
    """The actor: builds its evaluator once, then answers jobs as a local worker does."""

    def missing(self, paths: list[str]) -> list[str]:
        """Returns those of `paths` that this node does not have."""
        return [path for path in paths if not os.path.exists(path)]

    def set_up(self, name: str, options: dict[str, Any], shipped: list[str],
               *archives: bytes) -> str:
        """Builds the evaluator; `shipped` are option names whose content is in `archives`.

        Returns:
            The outcome (READY, REFUSED, BROKEN) in JSON.
        """
        os.environ["OMP_NUM_THREADS"] = str(options["threads"])  # torch is not yet imported
        self._folder = tempfile.TemporaryDirectory(prefix="shipped-")
        received = {option: unpack(archive, Path(self._folder.name) / option)
                    for option, archive in zip(shipped, archives, strict=True)}
        self._evaluator, outcome = prepare(name, options | received)
        return outcome.to_json()

    def answer(self, kind: str, arch: dict[str, Any], batch_scale: float) -> str:
        """Does one job; returns its outcome in JSON."""
        return answer(self._evaluator, kind, arch, batch_scale).to_json()


class RaySlots(Slots):
    """Actors of a Ray cluster.

    A slot whose resources do not exist (any more) simply never becomes READY; the others do its
    work. Timeouts, exceptions and lost nodes have the same outcomes as with local workers.
    """

    opens_at_once = False

    def __init__(self, spec: EvaluatorSpec, slots: list[Devices], *,
                 ray_address: str | None = None) -> None:
        """Joins or starts a cluster, unless this process is connected to one already.

        Args:
            spec: the evaluator that each actor builds.
            slots: the number of GPUs and threads of each actor.
            ray_address: see `connect`.
        """
        self.n = len(slots)
        self._slots = slots
        self._name = spec.name
        paths = {option: os.path.abspath(spec.options[option]) for option in spec.input_options}
        self._options = spec.options | paths
        # Only what exists here can be shipped; the evaluator reports what else is missing.
        self._inputs = {option: path for option, path in paths.items() if os.path.exists(path)}
        self._actors: dict[int, Any] = {}
        self._pending: dict[Any, tuple[int, str]] = {}  # reference -> (slot, method)
        self._archives: dict[str, Any] = {}  # option -> reference; each is packed once
        self._any_ready = False
        self._guest = ray.is_initialized()
        if not self._guest:
            connect(ray_address, sum(slot.threads for slot in slots))

    def open(self, slot: int) -> None:
        """Asks for an actor; it is READY once it has its resources, its inputs, its evaluator."""
        devices = self._slots[slot]
        actor: Any = ray.remote(Worker).options(num_cpus=devices.threads,
                                           num_gpus=len(devices.gpus)).remote()
        self._actors[slot] = actor
        self._pending[actor.missing.remote(list(self._inputs.values()))] = (slot, "missing")

    def start(self, slot: int, job: Job, batch_scale: float) -> None:
        """Sends a job to the slot's actor."""
        reference = self._actors[slot].answer.remote(job.kind, job.arch, batch_scale)
        self._pending[reference] = (slot, "answer")

    def wait(self, timeout: float | None) -> list[tuple[int, Outcome]]:
        """Sleeps until an actor answered or was lost."""
        patience = timeout
        if not self._any_ready:
            patience = min(_WARN_AFTER, timeout if timeout is not None else _WARN_AFTER)
        done, _ = ray.wait(list(self._pending), num_returns=1, timeout=patience)
        if not done and patience == _WARN_AFTER:
            _log.warning("no worker yet: each needs %s, the cluster has %s free",
                         self._slots[0], ray.available_resources())
        events = [self._conclude(reference, *self._pending.pop(reference)) for reference in done]
        return [event for event in events if event is not None]

    def stop(self, slot: int) -> None:
        """Kills the slot's actor; Ray ends its children with it."""
        actor = self._actors.pop(slot, None)
        self._forget(slot)
        if actor is not None:
            ray.kill(actor, no_restart=True)

    def close(self) -> None:
        """Ends all actors, and leaves the cluster (or ends it, if it was started here)."""
        busy = {slot for slot, _ in self._pending.values()}
        leaving = [actor.__ray_terminate__.remote() for slot, actor in self._actors.items()
                   if slot not in busy]
        if leaving:
            ray.wait(leaving, num_returns=len(leaving), timeout=_GRACE)
        for slot in list(self._actors):
            self.stop(slot)
        if not self._guest:
            ray.shutdown()

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def _conclude(self, reference: Any, slot: int, method: str) -> tuple[int, Outcome] | None:
        """Turns an answered call into an event; None while it is being set up."""
        try:
            value = ray.get(reference)
        except ray.exceptions.RayTaskError as error:  # outside of what `answer` catches
            status = "failed" if method == "answer" else BROKEN
            return slot, Outcome(status, error=one_line(error.cause), log=str(error))
        except ray.exceptions.OutOfMemoryError as error:  # the node's memory monitor
            return slot, Outcome("oom", error="the node ran out of memory", log=str(error))
        except ray.exceptions.RayError as error:
            return slot, Outcome("lost", error=f"the actor is lost: {type(error).__name__}",
                                 log=str(error))
        if method == "missing":
            self._set_up(slot, value)
            return None
        outcome = Outcome.from_json(value)
        self._any_ready |= method == "set_up"
        return slot, outcome

    def _set_up(self, slot: int, missing: list[str]) -> None:
        shipped = [option for option, path in self._inputs.items() if path in missing]
        for option in shipped:
            if option not in self._archives:
                self._archives[option] = ray.put(pack(Path(self._inputs[option])))
        reference = self._actors[slot].set_up.remote(
            self._name, self._options | self._slots[slot].device_options, shipped,
            *(self._archives[option] for option in shipped))
        self._pending[reference] = (slot, "set_up")

    def _forget(self, slot: int) -> None:
        self._pending = {reference: place for reference, place in self._pending.items()
                         if place[0] != slot}


def pack(path: Path) -> bytes:
    """Returns a file or a folder as a tar archive.

    Raises:
        UserError: it is too large to ship.
    """
    files = path.rglob("*") if path.is_dir() else [path]
    if (size := sum(file.stat().st_size for file in files)) > MAX_SHIPPED_BYTES:
        raise UserError(f"{path}: {size / 2**30:.1f} GiB are too much to ship to the nodes; "
                        "copy it to the same path on each")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(path, arcname=path.name)
    return buffer.getvalue()


def unpack(archive: bytes, folder: Path) -> str:
    """Unpacks what `pack` made; the name is kept, since it may contain the supernet's width."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
        return str(folder / tar.getnames()[0])
