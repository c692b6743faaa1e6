"""Slots without processes, on a clock that jumps: for tests and studies of the scheduler."""

import heapq
from collections.abc import Callable

from evaluator.jobs.base import READY, Job, Outcome, Slots


class SimulatedSlots(Slots):
    """Plays a script instead of evaluating."""

    opens_at_once = False

    def __init__(self, n: int, script: Callable[[Job, int], tuple[float, Outcome]], *,
                 setup_seconds: float = 0.0) -> None:
        """Prepares `n` slots.

        Args:
            n: number of slots.
            script: (job, how often it was started, from 1) -> (duration in s, outcome).
            setup_seconds: time from the opening of a worker until it is READY.
        """
        self.n = n
        self.history: list[tuple[float, int, str]] = []  # (start in s, slot, job name)
        self._script = script
        self._setup_seconds = setup_seconds
        self._starts: dict[str, int] = {}
        self._clock = 0.0
        self._events: list[tuple[float, int, int, Outcome]] = []  # (time, count, slot, outcome)
        self._count = 0
        self._valid: dict[int, int] = {}  # slot -> the count of the event that it waits for

    def open(self, slot: int) -> None:
        """The worker is READY after `setup_seconds`."""
        self._schedule(slot, self._setup_seconds, Outcome(READY))

    def start(self, slot: int, job: Job, batch_scale: float) -> None:
        """The job ends as the script says; an infinite duration is a hang."""
        self._starts[job.name] = self._starts.get(job.name, 0) + 1
        self.history.append((self._clock, slot, job.name))
        self._schedule(slot, *self._script(job, self._starts[job.name]))

    def wait(self, timeout: float | None) -> list[tuple[int, Outcome]]:
        """Jumps to the next event, or by `timeout` if that is sooner."""
        while self._events and self._valid.get(self._events[0][2]) != self._events[0][1]:
            heapq.heappop(self._events)
        due = self._events[0][0] if self._events else float("inf")
        if timeout is not None and self._clock + timeout < due:
            self._clock += timeout
            return []
        if due == float("inf"):
            raise RuntimeError("nothing will ever happen: every job hangs and none has a timeout")
        self._clock = due
        _, _, slot, outcome = heapq.heappop(self._events)
        return [(slot, outcome)]

    def stop(self, slot: int) -> None:
        """Forgets the slot's worker."""
        self._valid.pop(slot, None)

    def close(self) -> None:
        """Forgets all workers."""
        self._valid.clear()

    def now(self) -> float:
        """Simulated seconds since the slots were made."""
        return self._clock

    def _schedule(self, slot: int, seconds: float, outcome: Outcome) -> None:
        self._count += 1
        self._valid[slot] = self._count
        heapq.heappush(self._events, (self._clock + seconds, self._count, slot, outcome))
