"""A virtual clock: in which order evaluations end on devices that take what was counted.

An asynchronous search counts results in the order of this clock and not in that in which they
arrive, so that what a proposal has seen depends on the seed, the settings and the number of devices
alone.
"""

import heapq
from collections.abc import Iterable

# Part of an evaluation's duration that is the same for all, in units of the mean work.
CONSTANT = 0.25


class VirtualClock:
    """Devices that start jobs in the order in which they were given, each as soon as one is free.

    Args:
        n: number of devices.

    Attributes:
        now: virtual time of the last end.
    """

    def __init__(self, n: int) -> None:
        self.now = 0.0
        self._free = [0.0] * n
        self._ends: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._ends)

    def start(self, number: int, duration: float) -> None:
        """Gives the devices a job of a positive duration, called `number`."""
        end = max(heapq.heappop(self._free), self.now) + duration
        heapq.heappush(self._free, end)
        heapq.heappush(self._ends, (end, number))

    @property
    def first(self) -> int | None:
        """The job that ends first, of equal ones the one with the lowest number; None without."""
        return self._ends[0][1] if self._ends else None

    @property
    def under_way(self) -> list[int]:
        """The jobs that have not ended, in ascending order."""
        return sorted(number for _, number in self._ends)

    def advance(self) -> int:
        """Moves to the end of the first job, and returns its number."""
        self.now, number = heapq.heappop(self._ends)
        return number


def busy_share(durations: Iterable[float], n: int) -> float:
    """Returns the share of time in which `n` devices work on a batch, the longest job first.

    Args:
        durations: of the jobs, in any unit.
        n: number of devices, which all wait for the last job.
    """
    clock, longest_first = VirtualClock(n), sorted(durations, reverse=True)
    for number, duration in enumerate(longest_first):
        clock.start(number, duration)
    while len(clock):
        clock.advance()
    return sum(longest_first) / (n * clock.now)
