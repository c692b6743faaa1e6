"""What a search prints and records while it runs: lines, a bar, an estimate, and its events."""

import platform
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cli.progress import duration
from search import events
from search.archive import SURROGATE_SCORES, Stats
from search.run_folder import RunFolder
from utils.errors import one_line

# Evaluations after which the duration of the search is estimated.
ESTIMATE_AFTER = 8
TENSORBOARD = "tensorboard"
# The values of an iteration that become TensorBoard scalars.
SCALARS = ("hv", "tau", "rho", "rmse", "best_top1_err", "n_evaluated", "n_failed")


class Progress:
    """Prints lines to stdout, notes to stderr, a bar where stderr is a terminal; records events.

    Args:
        n_planned: evaluations of the whole search.
        n_slots: how many run at a time.
        quiet: print nothing but notes.
        folder: of the search, where `events.jsonl` is written; None records nothing.
        log_format: what goes to standard output: `text`, lines for people; `json`, the events, one
            object a line.
        tensorboard: write the figures of each iteration as scalars to `<folder>/tensorboard`; the
            step is the number of evaluated networks.
    """

    def __init__(self, n_planned: int = 0, n_slots: int = 1, quiet: bool = False,
                 folder: RunFolder | None = None, log_format: str = "text",
                 tensorboard: bool = False) -> None:
        self.n_planned, self.n_slots, self.quiet = n_planned, n_slots, quiet
        self.folder, self.log_format = folder, log_format
        self._tensorboard = folder.path / TENSORBOARD if folder and tensorboard else None
        self._board: Any = None
        self._seconds: dict[str, float] = {}  # by phase of the present iteration
        self._start = time.monotonic()
        self.n_evaluated, self.n_known = 0, 0
        self._spent = np.zeros(2)  # seconds and expected work of what was evaluated

    def say(self, text: str) -> None:
        """Prints a line; in the format `json` as an event, which is not recorded."""
        if not self.quiet:
            print(events.as_line("message", {"text": text}) if self.log_format == "json" else text,
                  flush=True)

    def note(self, text: str) -> None:
        """Prints a line about something unusual."""
        print(text, file=sys.stderr)

    def bar(self, iteration: int, total: int, done: int) -> AbstractContextManager[Any]:
        """Returns the bar of an iteration of `total` evaluations, `done` of them from before."""
        return tqdm(total=total, initial=done, leave=False, unit="net",
                    desc=f"iteration {iteration}", disable=self.quiet or not sys.stderr.isatty())

    def event(self, name: str, text: str = "", **values: Any) -> None:
        """Records an event; `text` is what people read of it, nothing where it is empty."""
        line = events.as_line(name, values)
        if self.folder is not None:
            events.append(self.folder.events, line)
        shown = line if self.log_format == "json" else text
        if shown and not self.quiet:
            print(shown, flush=True)

    def start(self, command: list[str]) -> None:
        """Records the command, the versions and the machine: the start of a run, or of a resume.

        Prints a warning where the run is resumed on another Python, see `events.interpreter`.
        """
        if self.folder is not None and (other := events.other_interpreter(self.folder.path)):
            self.note(f"warning: the search has run on {one_line(other)}, this is "
                      f"{events.interpreter()}: its files may differ in the last digits from those "
                      "of a search on either alone")
        self.event("start", command=command, slots=self.n_slots, versions=events.versions(),
                   python=platform.python_version(), interpreter=events.interpreter(),
                   machine=platform.platform())

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times a phase of the present iteration: `fit`, `propose`, `evaluate`."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - start

    def evaluated(self, iteration: int, index: int, seconds: float, status: str,
                  work: float = 1.0, batch: int = 0) -> None:
        """Records an evaluation and, after the first ones, prints how long the search will take.

        Jobs start with the largest networks, so seconds are put in proportion to their work.

        Args:
            iteration, index: of the evaluation.
            seconds: how long its device worked.
            status: `ok`, or why it failed.
            work: expected, relative to the mean of the batch.
            batch: how many evaluations the batch has; 0 makes no estimate.
        """
        self.event("evaluation", iteration=iteration, index=index, seconds=round(seconds, 3),
                   status=status)
        self.n_evaluated += 1
        self._spent += np.array([seconds, work])
        if self.n_evaluated == min(batch, ESTIMATE_AFTER):
            left = max(self.n_planned - self.n_known, self.n_evaluated)
            total = self._spent[0] / self._spent[1] * left
            self.say(f"estimate from the first {self.n_evaluated}: "
                     f"{duration(total / self.n_slots)} for {left} evaluations, "
                     f"{total / 3600:.2f} device-hours")

    def busy(self) -> list[str]:
        """Returns a line with the share of time in which the devices of this run were busy."""
        if not self.n_evaluated:
            return []
        available = self.n_slots * (time.monotonic() - self._start)
        return [f"devices busy {min(1.0, self._spent[0] / available):.0%} of {self.n_slots} x "
                f"{duration(available / self.n_slots)}"]

    def iteration(self, number: int, last: int, stats: Stats, n_failed: int = 0,
                  left: int = 0) -> None:
        """Prints and records a finished iteration, with its figures (`SCALARS`) and phases.

        Args:
            number: of the iteration.
            last: number of the last iteration.
            stats: the archive and what is new in it.
            n_failed: failures in this iteration.
            left: evaluations still to come.
        """
        best = min(record.top1_err for record in stats.archive)
        n_archive, n_new = len(stats.archive), len(stats.candidates)
        scores = {score: stats.surrogate.get(score) for score in SURROGATE_SCORES}
        tau = "-" if scores["tau"] is None else f"{scores['tau']:.3f}"
        elapsed = time.monotonic() - self._start
        rest = elapsed / self.n_evaluated * left if self.n_evaluated else 0.0
        values = {"n_evaluated": n_archive, "n_new": n_new, "n_failed": n_failed, "hv": stats.hv,
                  "best_top1_err": best, "winner": stats.surrogate.get("winner"), **scores}
        seconds = {name: round(value, 3) for name, value in self._seconds.items()}
        self._seconds = {}
        self.event("iteration", f"iteration {number}/{last}: {n_archive} evaluated ({n_new} new, "
                   f"{n_failed} failed), hypervolume {stats.hv:.4f}, tau {tau}, best error "
                   f"{best:.2f} %, {duration(elapsed)} elapsed, {duration(rest)} left",
                   iteration=number, seconds=seconds, **values)
        if self._tensorboard is not None:
            self._write_scalars(self._tensorboard, values, seconds)

    def _write_scalars(self, folder: Path, values: Mapping[str, Any],
                       seconds: Mapping[str, float]) -> None:
        if self._board is None:
            from utils.scalars import Scalars  # imports tensorboard

            self._board = Scalars(folder, 0)
        found = {f"search/{name}": values[name] for name in SCALARS if values[name] is not None}
        found |= {f"seconds/{name}": value for name, value in seconds.items()}
        self._board.add(found, values["n_evaluated"])
