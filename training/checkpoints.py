"""The checkpoints of a training run: the last one, the best ones, and those within an epoch.

Names and the record of the best are those of timm's training script. Each file is complete or
absent, even after a kill.
"""

import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from networks.checkpoints import save_training_state
from utils.errors import UserError
from utils.files import atomic_path

LAST, BEST = "last.pth.tar", "model_best.pth.tar"
_RANKED = re.compile(r"checkpoint-(\d{1,9})\.pth\.tar")
_RECOVERIES = 2


class Ranked(NamedTuple):
    """One of the best checkpoints: its file's name and its metric."""

    name: str
    metric: float

    @property
    def epoch(self) -> int:
        """The epoch after which it was written."""
        return int(self.name.removeprefix("checkpoint-").removesuffix(".pth.tar"))


class History(NamedTuple):
    """What a checkpoint records of the run before it.

    Attributes:
        ranked: the best checkpoints, best first, without this one.
        best: the best metric so far with its epoch, or None.
        own: this checkpoint's name and metric; None in a checkpoint within an epoch.
    """

    ranked: tuple[Ranked, ...] = ()
    best: Ranked | None = None
    own: Ranked | None = None


def read_history(value: Any, source: str) -> History:
    """Returns the record `saver` of a checkpoint, every part of it checked.

    Its names are names of files that may be deleted: only those that a run writes are accepted.

    Args:
        value: the record; None where a checkpoint has none.
        source: the file, for messages.

    Raises:
        UserError: another form, another name, or a metric that is no number.
    """
    if value is None:
        return History()
    try:
        ranked = tuple(Ranked(_ranked_name(name), _metric(metric))
                       for name, metric in value.get("checkpoint_files", []))
        best = _of_epoch(value.get("best_epoch"), value.get("best_metric"))
        return History(ranked, best, _of_epoch(*value.get("pending", (None, None))))
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{source}: its record of the best checkpoints is damaged "
                        f"({error}); take another checkpoint") from None


def _ranked_name(name: Any) -> str:
    if not isinstance(name, str) or not _RANKED.fullmatch(name):
        raise ValueError(f"{str(name)[:60]!r} is not the name of a checkpoint")
    return name


def _metric(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{str(value)[:60]!r} is no metric")
    return value


def _of_epoch(epoch: Any, metric: Any) -> Ranked | None:
    if epoch is None or metric is None:
        return None
    if isinstance(epoch, bool) or not isinstance(epoch, int):
        raise ValueError(f"{str(epoch)[:60]!r} is no epoch")
    return Ranked(_ranked_name(f"checkpoint-{epoch}.pth.tar"), _metric(metric))


class Checkpoints:
    """The checkpoints in one folder.

    Args:
        folder: of the run.
        keep: how many of the best are kept.
        decreasing: whether a smaller metric is better.
    """

    def __init__(self, folder: Path, keep: int, decreasing: bool) -> None:
        self.folder, self.keep, self.decreasing = folder, keep, decreasing
        self.ranked: list[Ranked] = []
        self.best: Ranked | None = None
        self._recoveries: list[Path] = []

    def save(self, state: Mapping[str, Any], epoch: int, metric: float | None = None) -> bool:
        """Writes the state after an epoch, and keeps it as one of the best if it is.

        Args:
            state: tensors and plain Python.
            epoch: its number.
            metric: what it is ranked by; None, where it was not measured, only writes the last.

        Returns:
            Whether it is the best so far; where two are equal, the first one is.
        """
        self._write(LAST, state, epoch, epoch, metric)
        return metric is not None and self._rank(epoch, metric, self.folder / LAST)

    def save_recovery(self, state: Mapping[str, Any], epoch: int, step: int) -> None:
        """Writes the state within an epoch, which a resumed run repeats; two of them are kept."""
        name = f"recovery-{epoch}-{step}.pth.tar"
        self._write(name, state, epoch - 1, epoch, None)
        self._recoveries.append(self.folder / name)
        for path in self._recoveries[:-_RECOVERIES]:
            path.unlink(missing_ok=True)
        self._recoveries = self._recoveries[-_RECOVERIES:]

    def restore(self, history: History, source: Path) -> bool:
        """Continues after a checkpoint, and completes what a killed process did not finish.

        Args:
            history: the checkpoint's record.
            source: the checkpoint itself.

        Returns:
            Whether it is the best so far.
        """
        self.ranked = [row for row in history.ranked if (self.folder / row.name).is_file()]
        self.best = history.best
        own = history.own
        if own is None:
            return False
        if self.best and self.best.epoch == own.epoch:
            self.best = None  # written after it was ranked: it is ranked again
        return self._rank(own.epoch, own.metric, source)

    def _write(self, name: str, state: Mapping[str, Any], done: int, epoch: int,
               metric: float | None) -> None:
        record = {"checkpoint_files": [tuple(row) for row in self.ranked],
                  "best_epoch": self.best and self.best.epoch,
                  "best_metric": self.best and self.best.metric, "pending": (epoch, metric)}
        save_training_state(self.folder / name, **{
            **state, "epoch": done, "metric": metric, "saver": record})

    def _rank(self, epoch: int, metric: float, source: Path) -> bool:
        """Copies `source` to its ranked name, and to the best's, if it is good enough."""
        row = Ranked(f"checkpoint-{epoch}.pth.tar", metric)
        others = [other for other in self.ranked if other.name != row.name]
        rows = sorted([*others, row], key=lambda one: one.metric, reverse=not self.decreasing)
        if row in rows[:self.keep]:
            copy_file(source, self.folder / row.name)
        for lost in rows[self.keep:]:
            if lost != row:
                (self.folder / lost.name).unlink(missing_ok=True)
        self.ranked = rows[:self.keep]
        if self.best and not (metric < self.best.metric if self.decreasing
                              else metric > self.best.metric):
            return False
        self.best = row
        copy_file(source, self.folder / BEST)
        return True


def copy_file(source: Path, target: Path) -> None:
    """Gives a file a second name, or where the file system has no hard links, a copy; atomically.

    FUSE and some network file systems have none.
    """
    if target.exists() and target.samefile(source):
        return
    with atomic_path(target) as temporary:
        temporary.unlink()
        try:
            os.link(os.path.realpath(source), temporary)  # never a second name of a link
        except (OSError, AttributeError):  # of the file system, of the system
            shutil.copyfile(source, temporary)


def plain_part(value: Any) -> Any:
    """Returns the part of a value that is plain Python: what YAML and safe checkpoints hold."""
    if isinstance(value, dict):
        return {key: plain_part(item) for key, item in value.items() if _is_plain(item)}
    if isinstance(value, list | tuple):
        return [plain_part(item) for item in value if _is_plain(item)]
    return value


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list | tuple | dict)
