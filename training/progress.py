"""The progress of a supernet's training: a bar on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from cli.progress import duration
from training.shrinking import Step

SECONDS_BETWEEN_LINES = 30.0


class TimeLeft:
    """Estimates the remaining time of a training from the measured seconds of a step of each phase.

    Args:
        seconds: of a step, by phase.
        epochs: of each phase.
        batches: steps of an epoch.
        teacher: seconds that a teacher adds to a step, in `taught` steps from the step `first` on.
        taught: steps that call the teacher.
        first: the step, counted over all epochs, that the training begins or resumes with.
    """

    def __init__(self, seconds: Sequence[float], epochs: Sequence[int], batches: int,
                 teacher: float = 0.0, taught: int = 0, first: int = 0) -> None:
        self.seconds, self.epochs, self.batches = list(seconds), list(epochs), batches
        self.teacher, self.taught_until = teacher, first + taught
        self.done_seconds, self.began = 0.0, time.monotonic()

    def total(self, first_epoch: int = 0, first_batch: int = 0) -> float:
        """Returns the estimated seconds from a point of the training to its end."""
        skip = first_epoch * self.batches + first_batch
        left = self.teacher * max(0, self.taught_until - skip)
        for seconds, epochs in zip(self.seconds, self.epochs, strict=True):
            steps = epochs * self.batches
            left += max(0, steps - skip) * seconds
            skip = max(0, skip - steps)
        return left

    def after(self, phase: int, epoch: int, batch: int) -> float:
        """Counts a step and returns the seconds left, corrected by how long all took so far."""
        taught = epoch * self.batches + batch <= self.taught_until
        self.done_seconds += self.seconds[phase] + self.teacher * taught
        pace = (time.monotonic() - self.began) / max(self.done_seconds, 1e-9)
        return self.total(epoch, batch) * pace


class Report:
    """Shows each step: in a bar where stderr is a terminal, else as a line every 30 seconds."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        self.last = time.monotonic()

    def step(self, step: Step, seconds_left: float) -> None:
        """Shows a step."""
        figures = (f"loss {step.loss:.3f} a subnet, {step.images_per_s:.0f} images/s, "
                   f"{duration(seconds_left)} left")
        name = f"{step.phase} {step.epoch}/{step.epochs}"
        if sys.stderr.isatty():
            if self.bar is None:
                self.bar = tqdm(total=step.batches, initial=step.batch - 1, leave=False,
                                unit="step")
            self.bar.set_description_str(name)
            self.bar.set_postfix_str(figures)
            self.bar.update()
        elif time.monotonic() - self.last >= SECONDS_BETWEEN_LINES:
            self.last = time.monotonic()
            print(f"  {name}, step {step.batch}/{step.batches}: {figures}", flush=True)

    def close(self) -> None:
        """Removes the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
