"""What a search says while it runs: a line an iteration, a bar, and how long it will take."""

import sys
import time
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from tqdm import tqdm

from search.archive import SURROGATE_SCORES, Stats
from search.events import Events

# Evaluations after which the duration of the search is estimated.
ESTIMATE_AFTER = 8


class Progress:
    """Prints plain lines to stdout, notes to stderr, and a bar where stderr is a terminal.

    Args:
        n_planned: evaluations of the whole search.
        n_slots: how many run at a time.
        quiet: print nothing.
        events: records what happens, and prints it where machines read it.
    """

    def __init__(self, n_planned: int, n_slots: int = 1, quiet: bool = False,
                 events: Events | None = None) -> None:
        self.events = events or Events()
        self.n_planned, self.n_slots, self.quiet = n_planned, n_slots, quiet
        self.start = time.monotonic()
        self.n_evaluated, self.n_known = 0, 0
        self.spent = np.zeros(2)  # seconds and expected work of what was evaluated

    def say(self, line: str) -> None:
        """Prints a line."""
        if not self.quiet:
            self.events.say(line)

    def note(self, line: str) -> None:
        """Prints a line about something unusual."""
        print(line, file=sys.stderr)

    def bar(self, iteration: int, total: int, done: int) -> AbstractContextManager[Any]:
        """Returns the bar of an iteration of `total` evaluations, `done` of them from before."""
        return tqdm(total=total, initial=done, leave=False, unit="net",
                    desc=f"iteration {iteration}", disable=self.quiet or not sys.stderr.isatty())

    def evaluated(self, seconds: float, work: float, mean_work: float, batch: int) -> None:
        """Counts an evaluation and, after the first ones, prints what the search will take.

        Jobs start with the largest networks, so seconds are put in proportion to their work.
        """
        self.n_evaluated += 1
        self.spent += np.array([seconds, work])
        if self.n_evaluated == min(batch, ESTIMATE_AFTER):
            left = max(self.n_planned - self.n_known, self.n_evaluated)
            total = self.spent[0] / self.spent[1] * mean_work * left
            self.say(f"estimate from the first {self.n_evaluated}: "
                     f"{duration(total / self.n_slots)} for {left} evaluations, "
                     f"{total / 3600:.2f} device-hours")

    def iteration(self, number: int, last: int, n_archive: int, n_new: int, n_failed: int,
                  stats: Stats, left: int) -> None:
        """Prints the line of a finished iteration; `left` evaluations are to come."""
        tau = stats.surrogate.get("tau")
        best = min(record.top1_err for record in stats.archive)
        shown = "-" if tau is None else f"{tau:.3f}"
        line = (f"iteration {number}/{last}: {n_archive} evaluated ({n_new} new, {n_failed} "
                f"failed), hypervolume {stats.hv:.4f}, tau {shown}, best error {best:.2f} %, "
                f"{self._clock(left)}")
        scores = {score: stats.surrogate.get(score) for score in SURROGATE_SCORES}
        self.events.iteration(number, "" if self.quiet else line, n_evaluated=n_archive,
                              n_new=n_new, n_failed=n_failed, hv=stats.hv, best_top1_err=best,
                              winner=stats.surrogate.get("winner"), **scores)

    def _clock(self, left: int) -> str:
        elapsed = time.monotonic() - self.start
        rest = elapsed / self.n_evaluated * left if self.n_evaluated else 0.0
        return f"{duration(elapsed)} elapsed, {duration(rest)} left"


def duration(seconds: float) -> str:
    """Returns seconds as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
