"""The policy, for every backend: which job runs when and where, and what follows a fault."""

import heapq
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from evaluator.jobs.base import (
    BROKEN,
    MACHINE_FAULT,
    READY,
    REFUSED,
    EvaluatorSpec,
    Job,
    Outcome,
    Result,
    Slots,
    WorkerError,
)
from evaluator.jobs.stream import JobStream
from utils.errors import UserError, one_line

# After anything else the worker is replaced: what an exception leaves behind (a half-built model,
# a broken CUDA context, fragmented memory) must not affect the next result.
_KEEP_WORKER = ("ok", "nan")
# What another worker, perhaps on another machine, may do better.
_LOSSES = ("lost", MACHINE_FAULT)
# Different jobs in a row that a slot may lose.
_MAX_JOBS_LOST = 2
# Seconds that a worker has to be built, where the timeout is shorter: it imports libraries.
_LEAST_FOR_SETUP = 30.0
# Seconds of sleep beyond what was asked for that only a suspension explains.
_SUSPENDED = 5.0
# Seconds between two looks for new jobs, where a slot is free and more may come.
_POLL = 0.02


@dataclass
class _Ticket:
    """A job in progress: its batch scale, how often it was lost, and why it was started again."""

    job: Job
    order: int
    losses: int = 0
    lost_on: set[int] = field(default_factory=set)
    retried: tuple[str, ...] = ()
    batch_scale: float = 1.0
    started: float = 0.0


class _Queue:
    """Waiting tickets, longest expected first, then as given.

    Latencies come after all others and are exclusive: GPUs of one machine share its power, its
    memory bus and its processors.
    """

    def __init__(self) -> None:
        self._shared: list[tuple[float, int, _Ticket]] = []
        self._exclusive: list[tuple[float, int, _Ticket]] = []
        self._names: set[str] = set()

    def extend(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            if job.name in self._names:
                raise ValueError(f"two jobs are called {job.name!r}; names are unique in a run")
            self.push(_Ticket(job, len(self._names)))
            self._names.add(job.name)

    def push(self, ticket: _Ticket) -> None:
        heap = self._exclusive if ticket.job.kind == "latency" else self._shared
        heapq.heappush(heap, (-ticket.job.expected, ticket.order, ticket))

    def pop(self, alone: bool, avoids: Callable[[_Ticket], bool]) -> _Ticket | None:
        """The next ticket that does not avoid the slot; exclusive ones only when `alone`."""
        heap = self._shared or (self._exclusive if alone else [])
        avoided = []
        while heap and avoids(heap[0][2]):
            avoided.append(heapq.heappop(heap))
        found = heapq.heappop(heap)[2] if heap else None
        for item in avoided:
            heapq.heappush(heap, item)
        return found

    def __len__(self) -> int:
        return len(self._shared) + len(self._exclusive)

    @property
    def only_exclusive(self) -> bool:
        return bool(self._exclusive) and not self._shared

    @property
    def width(self) -> int:
        """How many workers the waiting jobs could use."""
        return len(self._shared) or bool(self._exclusive)


class Scheduler:
    """Runs jobs on slots; a context manager, at whose end no worker is left.

    Jobs start the moment a worker is free, longest expected first, and results come in the order
    in which they end. Workers start when the first jobs need them and serve all later runs.
    Latency jobs run alone, one at a time.

    Only a lost worker or a fault of the machine is worth another try (`retries` of them), and
    memory that ran out one at half the batch; a fault of the machine that stays ends the run.
    Without a `timeout` no job is ever killed, however slow it is. A slot whose
    workers die again and again before they are ready, or lose one job after the other, is given up
    for the run; one that refuses its set-up (a GPU that is there but cannot be used) for good. The
    others do its work; where there is no other, the run ends with the reason.
    """

    def __init__(self, slots: Slots, *, timeout: float | None = None, retries: int = 2,
                 on_ready: Callable[[], None] = lambda: None,
                 spec: EvaluatorSpec | None = None) -> None:
        """Takes over the slots; `timeout` is in seconds and counts from the start of a job.

        `on_ready` is called once, when the first worker has read what it needs; `spec` is what the
        workers build, for those who ask; a search records it.
        """
        self.spec = spec
        self._slots = slots
        self._timeout = timeout
        self._retries = retries
        self._on_ready = on_ready
        # Every slot is in one of these, or was given up until the next run.
        self._closed = set(range(slots.n))
        self._ready: set[int] = set()
        self._opening: dict[int, float] = {}  # slot -> since when
        self._running: dict[int, _Ticket] = {}
        self._lost_in_setup = [0] * slots.n  # in a row
        self._jobs_lost: list[set[str]] = [set() for _ in range(slots.n)]  # likewise
        self._unusable: set[int] = set()
        self._any_ready = False
        self._fingerprint: str | None = None  # of what the workers have read

    def __enter__(self) -> "Scheduler":
        return self

    def __exit__(self, *_exception: object) -> None:
        self._slots.close()

    def run(self, jobs: Iterable[Job]) -> Iterator[Result]:
        """Evaluates the jobs and yields one result for each, as they end.

        Jobs of a `JobStream` may come at any time, until it is closed.
        Jobs in flight are killed when the iterator is closed or the caller is interrupted.

        Raises:
            UserError: a worker refused its options (a missing supernet, wrong data, ...), reads
                other inputs than those before it, or a machine has a fault.
            WorkerError: workers cannot be started; the message holds the worker's traceback.
            ValueError: two jobs have the same name.
            RuntimeError: the previous run has neither ended nor been closed.
        """
        if self._running:
            raise RuntimeError("one run at a time: exhaust or close the previous iterator first")
        queue, stream = _Queue(), JobStream.of(jobs)
        queue.extend(stream.take())
        self._lost_in_setup = [0] * self._slots.n
        self._jobs_lost = [set() for _ in range(self._slots.n)]
        self._closed = set(range(self._slots.n)) - self._ready - {*self._opening} - self._unusable
        try:
            while queue or self._running or not stream.ended:
                queue.extend(stream.take(wait=not queue and not self._running))
                if not queue and not self._running:
                    continue  # it was closed
                self._assign(queue)
                events = self._wait(looking=not stream.closed)
                events += self._overdue({slot for slot, _ in events})
                results = [self._settle(slot, outcome, queue) for slot, outcome in events]
                self._assign(queue)
                yield from filter(None, results)
        finally:
            for slot in list(self._running):
                self._drop(slot)

    def _assign(self, queue: _Queue) -> None:
        if queue.only_exclusive and self._ready:  # workers that still load would disturb them
            for slot in list(self._opening):
                self._drop(slot)
        for slot in sorted(self._ready):
            ticket = queue.pop(not self._running, partial(self._avoids, slot))
            if ticket is None:
                continue
            ticket.started = self._slots.now()
            self._ready.remove(slot)
            self._running[slot] = ticket
            self._slots.start(slot, ticket.job, ticket.batch_scale)
        if queue.only_exclusive and (self._running or self._ready):
            return
        # Slots that are ready avoid what is left: it needs another one.
        lacking = queue.width - len(self._opening)
        for slot in heapq.nsmallest(lacking, self._closed):
            self._closed.remove(slot)
            self._opening[slot] = self._slots.now()
            self._slots.open(slot)

    def _avoids(self, slot: int, ticket: _Ticket) -> bool:
        """Whether a job was lost on this slot, and another one could have it."""
        usable = self._closed | self._ready | {*self._opening, *self._running}
        return slot in ticket.lost_on and bool(usable - ticket.lost_on)

    def _settle(self, slot: int, outcome: Outcome, queue: _Queue) -> Result | None:
        """Records what happened on a slot; returns a result if that was the end of a job."""
        if slot not in self._running:
            self._settle_setup(slot, outcome)
            return None
        ticket = self._running[slot]
        seconds = outcome.seconds
        if seconds is None:
            seconds = self._slots.now() - ticket.started
        if outcome.status in _KEEP_WORKER:
            del self._running[slot]
            self._ready.add(slot)
        else:
            self._drop(slot)
        self._note_loss(slot, ticket.job.name, outcome)
        if outcome.status in _LOSSES:
            ticket.lost_on.add(slot)
        if self._deserves_retry(ticket, outcome.status):
            ticket.retried += (f"{outcome.status}: {outcome.error}",)
            queue.push(ticket)
            return None
        return Result.of(ticket.job, outcome, seconds, ticket.retried)

    def _note_loss(self, slot: int, name: str, outcome: Outcome) -> None:
        """Gives up a slot that loses one job after the other, as a failing GPU does."""
        lost = self._jobs_lost[slot]
        if outcome.status != "lost":
            lost.clear()
            return
        lost.add(name)
        if len(lost) > _MAX_JOBS_LOST and self._others(slot):
            self._give_up(slot, f"it lost {len(lost)} jobs in a row, the last one: "
                                f"{outcome.error}")

    def _settle_setup(self, slot: int, outcome: Outcome) -> None:
        if outcome.status == READY:
            if not self._any_ready:
                self._on_ready()
            self._any_ready = True
            self._lost_in_setup[slot] = 0
            self._check_inputs(outcome.stats.get("fingerprint"))
            self._opening.pop(slot, None)
            self._ready.add(slot)
            return
        in_setup = slot in self._opening
        self._drop(slot)
        if outcome.status in (REFUSED, BROKEN) or (
                outcome.status == "timeout" and not self._any_ready):
            self._refused(slot, outcome)
            return
        self._lost_in_setup[slot] += in_setup
        if self._lost_in_setup[slot] > self._retries:
            if not self._others(slot):
                raise _failure(outcome)
            self._give_up(slot, outcome.error)

    def _check_inputs(self, fingerprint: str | None) -> None:
        """Raises UserError where a worker has read other inputs than those before it."""
        if fingerprint is not None and fingerprint != (self._fingerprint or fingerprint):
            raise UserError("a worker that was started now lists other images, or reads other "
                            "weights or another table, than those before it: they have changed "
                            "since the search was started, or are others on this machine; put them "
                            "back and resume")
        self._fingerprint = fingerprint or self._fingerprint

    def _refused(self, slot: int, outcome: Outcome) -> None:
        """Gives up a slot that cannot be used, unless it seems that none can.

        All workers are built alike. Where none has ever been ready, the second refusal, or the
        first with no other worker starting, counts as that of all.
        """
        working = self._opening or self._ready or self._running
        if not working and (not self._any_ready or not self._others(slot)) and (
                self._unusable or not self._others(slot)):
            raise _failure(outcome)
        self._unusable.add(slot)
        self._give_up(slot, outcome.error)

    def _others(self, slot: int) -> bool:
        """Whether another slot could do the work of this one."""
        return bool((self._closed | self._ready | {*self._opening, *self._running}) - {slot})

    def _give_up(self, slot: int, reason: str) -> None:
        self._closed.discard(slot)
        print(f"warning: slot {slot} is given up, the others continue: {one_line(reason)}",
              file=sys.stderr)

    def _deserves_retry(self, ticket: _Ticket, status: str) -> bool:
        if status in _LOSSES:
            ticket.losses += 1
            return ticket.losses <= self._retries
        if status == "oom" and ticket.batch_scale == 1.0:
            ticket.batch_scale = 0.5
            return True
        return False

    def _patience(self) -> float | None:
        """Seconds until the next job or set-up is overdue; None if none can be."""
        deadlines = self._deadlines().values()
        return max(0.0, min(deadlines) - self._slots.now()) if deadlines else None

    def _deadlines(self) -> dict[int, float]:
        """When each job, and each worker that is being built, will be overdue, by slot."""
        if self._timeout is None:
            return {}
        building = self._opening if self._slots.opens_at_once else {}
        return {slot: ticket.started + self._timeout for slot, ticket in self._running.items()} | {
            slot: began + max(self._timeout, _LEAST_FOR_SETUP) for slot, began in building.items()}

    def _wait(self, looking: bool = False) -> list[tuple[int, Outcome]]:
        """Waits for events; before a job is judged overdue, asks once more whether it has ended.

        With `looking`, no longer than new jobs may wait for a slot that is free.

        This process may have been suspended: then jobs ended meanwhile, and if the workers slept
        too (a whole job of Slurm, a container), the time was not theirs.
        """
        before, patience = self._slots.now(), self._patience()
        if looking and (self._ready or self._closed):
            patience = min(_POLL, patience if patience is not None else _POLL)
        events = self._slots.wait(patience)
        slept = self._slots.now() - before
        if patience is not None and slept > patience + _SUSPENDED:
            for ticket in self._running.values():
                ticket.started += slept
            self._opening = {slot: began + slept for slot, began in self._opening.items()}
        while self._overdue({slot for slot, _ in events}) and (more := self._slots.wait(0.0)):
            events += more
        return events

    def _overdue(self, heard_of: set[int]) -> list[tuple[int, Outcome]]:
        now = self._slots.now()
        late = [slot for slot, deadline in self._deadlines().items()
                if deadline <= now and slot not in heard_of]
        built = max(self._timeout or 0.0, _LEAST_FOR_SETUP)
        return [(slot, Outcome("timeout", error=f"not finished after {self._timeout:g} s"
                               if slot in self._running else
                               f"the evaluator was not built within {built:g} s (--timeout)"))
                for slot in late]

    def _drop(self, slot: int) -> None:
        """Kills the slot's worker; a fresh one is opened when there is work for it."""
        self._running.pop(slot, None)
        self._ready.discard(slot)
        self._opening.pop(slot, None)
        self._closed.add(slot)
        self._slots.stop(slot)


def _failure(outcome: Outcome) -> Exception:
    """Returns what ends a run whose workers cannot be started."""
    if outcome.status == REFUSED:
        return UserError(outcome.error)
    return WorkerError(f"a worker could not be started: {outcome.error}\n{outcome.log}")
