"""Slots on this machine: a process for each, that builds its evaluator once and stays.

loky and pebble serve one queue of equal workers; they cannot bind a worker to its own GPUs, kill
one job with its children, or end with a parent that is killed, so the few lines here do that.
"""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from evaluator.jobs.base import Devices, EvaluatorSpec, Job, Outcome, Slots
from evaluator.jobs.watchdog import MARK, end_marked
from utils.errors import UserError
from utils.files import make_folder, open_log
from utils.processes import end_group

_BOOT = ("import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
         "from evaluator.jobs.worker import main; main(int(sys.argv[2]))")
_WATCHDOG = Path(__file__).with_name("watchdog.py")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_LOG_TAIL = 4000  # bytes of a worker's output that are kept, for the result of one that dies
_MAX_READS = 16  # of a worker's output at a time, each as much as a pipe holds
_GRACE = 2.0  # seconds for an idle worker to leave by itself
_LONGEST_WAIT = 86_400.0  # seconds; the system counts milliseconds in 32 bits
_ROOT = str(Path(__file__).resolve().parents[2])


@dataclass
class _Worker:
    """A running worker process and what it wrote so far of an unfinished line.

    Attributes:
        mark: in its environment, and so in that of its children.
        log: a file for what it prints; None keeps `tail` alone, the end of that.
    """

    process: subprocess.Popen[bytes]
    requests: IO[bytes]
    answers: IO[bytes]
    printed: IO[bytes]
    mark: str
    log: IO[bytes] | None
    tail: bytes = b""
    buffer: bytearray = field(default_factory=bytearray)
    busy: bool = True

    def send(self, message: dict) -> None:
        with contextlib.suppress(BrokenPipeError):  # it died; its stdout ends too
            self.requests.write(json.dumps(message).encode() + b"\n")
            self.requests.flush()

    def listen(self) -> bool:
        """Takes what it has printed; returns whether more may come."""
        try:
            for _ in range(_MAX_READS):
                data = os.read(self.printed.fileno(), 2**16)
                self.tail = (self.tail + data)[-_LOG_TAIL:]
                if not data:
                    return False
                with contextlib.suppress(OSError):  # a full disk: the tail is kept
                    if self.log is not None:
                        os.write(self.log.fileno(), data)
        except BlockingIOError:
            return True
        return True

    def last_words(self) -> str:
        self.listen()
        return self.tail.decode(errors="replace")


class LocalSlots(Slots):
    """Worker processes on this machine.

    A worker is a fresh interpreter in its own session, so Ctrl-C does not reach it. It dies when
    the thread that opened it ends. This process never imports torch for it.
    """

    def __init__(self, spec: EvaluatorSpec, slots: list[Devices], *,
                 log_dir: str | os.PathLike | None = None, memory_limit: int | None = None) -> None:
        """Prepares slots; no process is started yet.

        Args:
            spec: the evaluator that each worker builds.
            slots: the devices of each worker.
            log_dir: folder for `worker_<slot>.log`; None keeps only the end of what is printed.
            memory_limit: bound of a worker's address space in bytes (RLIMIT_AS).

        Raises:
            UserError: this is Windows, which has no groups of processes and waits for no pipes.
        """
        if not hasattr(os, "killpg"):
            raise UserError("workers need a system with groups of processes, as Linux or macOS; "
                            "on Windows, use WSL")
        self.n = len(slots)
        self._spec = spec
        self._slots = slots
        self._log_dir = Path(log_dir) if log_dir is not None else None
        self._memory_limit = memory_limit
        self._workers: dict[int, _Worker] = {}
        self._selector = selectors.DefaultSelector()
        self._watchdog: subprocess.Popen[str] | None = None
        self._mark = f"{os.getpid()}-{time.monotonic_ns()}-"
        self._n_opened = 0

    def open(self, slot: int) -> None:
        """Starts a process; it is READY once its evaluator is built."""
        devices = self._slots[slot]
        environment = os.environ | {name: str(devices.threads) for name in _THREAD_VARIABLES}
        self._n_opened += 1
        mark = f"{self._mark}{self._n_opened}-"
        environment |= devices.environment | {MARK: mark}
        log = self._open_log(slot)
        process = subprocess.Popen(
            [sys.executable, "-P", "-u", "-X", "faulthandler", "-c", _BOOT,
             json.dumps(import_path()), str(os.getpid())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=environment, start_new_session=True)
        self._tell_watchdog(f"+{process.pid}")
        assert process.stdin and process.stdout and process.stderr  # pipes, as asked for
        worker = _Worker(process, process.stdin, process.stdout, process.stderr, mark, log)
        self._workers[slot] = worker
        os.set_blocking(worker.printed.fileno(), False)
        for channel in (worker.answers, worker.printed):
            self._selector.register(channel, selectors.EVENT_READ, slot)
        worker.send({"name": self._spec.name, "memory_limit": self._memory_limit,
                     "options": self._spec.options | devices.device_options})

    def start(self, slot: int, job: Job, batch_scale: float) -> None:
        """Sends a job to the slot's idle worker."""
        worker = self._workers[slot]
        worker.busy = True
        worker.listen()
        worker.tail = b""
        worker.send({"kind": job.kind, "arch": job.arch, "batch_scale": batch_scale})

    def wait(self, timeout: float | None) -> list[tuple[int, Outcome]]:
        """Sleeps until workers wrote something or died."""
        events = []
        longest = None if timeout is None else min(timeout, _LONGEST_WAIT)
        for key, _ in self._selector.select(longest):
            worker = self._workers[key.data]
            if key.fileobj is worker.answers:
                events += [(key.data, outcome) for outcome in self._read(worker)]
            elif not worker.listen():
                self._unregister(worker.printed)
        return events

    def stop(self, slot: int) -> None:
        """Kills the slot's process and all that it started."""
        worker = self._workers.pop(slot, None)
        if worker is None:
            return
        self._unregister(worker.answers, worker.printed)
        try:
            family = psutil.Process(worker.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            family = []
        end_group(worker.process.pid)
        for child in family:  # those that left the group
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        end_marked(worker.mark)  # those whose parent had ended
        worker.process.wait()
        self._release(worker)

    def close(self) -> None:
        """Ends all workers: idle ones leave by themselves, busy ones are killed."""
        idle = [worker for worker in self._workers.values() if not worker.busy]
        for worker in idle:
            worker.requests.close()
        deadline = time.monotonic() + _GRACE
        for worker in idle:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, deadline - time.monotonic()))
        for slot in list(self._workers):
            self.stop(slot)
        self._selector.close()
        if self._watchdog is not None:
            self._watchdog.communicate()  # its stdin ends
            self._watchdog = None

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def _open_log(self, slot: int) -> IO[bytes] | None:
        if self._log_dir is None:
            return None
        make_folder(self._log_dir)
        return open_log(self._log_dir / f"worker_{slot}.log")

    def _read(self, worker: _Worker) -> list[Outcome]:
        data = os.read(worker.answers.fileno(), 2**16)
        if not data:
            return [self._lost_outcome(worker)]
        worker.buffer += data
        if b"\n" not in data:
            return []
        *lines, rest = worker.buffer.split(b"\n")
        worker.buffer = bytearray(rest)
        worker.busy = False
        return [_parse(line) for line in lines]

    def _lost_outcome(self, worker: _Worker) -> Outcome:
        """What is known of a worker that closed its channel: killed, or ended by itself."""
        self._unregister(worker.answers, worker.printed)
        try:
            code = worker.process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            return Outcome("lost", error="the worker closed its channel", log=worker.last_words())
        end = f"ended with exit code {code}" if code >= 0 else f"was killed by signal {-code}"
        half = ", in the middle of an answer" if worker.buffer else ""
        return Outcome("lost", error=f"the worker {end}{half}", log=worker.last_words())

    def _unregister(self, *channels: IO[bytes]) -> None:
        for channel in channels:
            with contextlib.suppress(KeyError):  # done when it died
                self._selector.unregister(channel)

    def _release(self, worker: _Worker) -> None:
        self._tell_watchdog(f"-{worker.process.pid}")
        for file in filter(None, (worker.log, worker.answers, worker.printed)):
            file.close()
        with contextlib.suppress(BrokenPipeError):
            worker.requests.close()

    def _tell_watchdog(self, line: str) -> None:
        if self._watchdog is None:
            self._watchdog = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_WATCHDOG)], text=True, stdin=subprocess.PIPE,
                start_new_session=True)
            line = f"={self._mark}\n{line}"
        with contextlib.suppress(BrokenPipeError):  # it was killed; workers still die with us
            print(line, file=self._watchdog.stdin, flush=True)


def import_path() -> list[str]:
    """Returns where workers import from: as here, but never from the current folder as such.

    A `json.py` or `torch.py` there, by accident or intent, would be run.
    """
    return [_ROOT, *(entry for entry in sys.path if entry not in ("", ".", _ROOT))]


def _parse(line: bytes | bytearray) -> Outcome:
    try:
        return Outcome.from_json(bytes(line))
    except (ValueError, TypeError, RecursionError):
        return Outcome("lost", error=f"the worker sent an unreadable answer: {bytes(line[:80])!r}")
