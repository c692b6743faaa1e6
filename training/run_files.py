"""The files of a training run: args.yaml, summary.csv, train.log, checkpoints, scalars.

Where one cannot be written, the run ends with the system's reason in one line and no partial file.
"""

import argparse
import csv
import io
import itertools
import logging
import re
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

import yaml
from torch import Tensor
from tqdm import tqdm

from training.checkpoints import Checkpoints, History, plain_part
from training.flags import OF_THE_CALL
from training.run import Run
from training.world import World
from utils.errors import UserError, one_line
from utils.files import open_log, read_text, write_text
from utils.locks import locked
from utils.packages import advice, is_installed
from utils.scalars import Scalars

log = logging.getLogger("train")

SUMMARY, LOCK, BOARD = "summary.csv", "train.lock", "tensorboard"
_EPOCH = re.compile(r"\d{1,9}", re.ASCII)
# Names of the files that are written, of which a killed process may leave temporary ones.
OWN = ("*.pth.tar", "net.init", "net.config", "args.yaml", SUMMARY)


class Summary:
    """summary.csv: a row for each epoch, written whole, so that a full disk or a kill leaves one.

    Args:
        path: the file; rows of a resumed run are kept up to `epoch`.
        epoch: the first one to come.
    """

    def __init__(self, path: Path, epoch: int) -> None:
        self.path = path
        self.rows = [row for row in _rows(path) if int(row["epoch"]) < epoch]

    def add(self, row: dict[str, Any]) -> None:
        """Adds an epoch's row; columns are those of all rows."""
        self.rows.append({key: str(value) for key, value in row.items()})
        text = io.StringIO()
        columns = dict.fromkeys(key for row in self.rows for key in row)
        writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())


def _rows(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a summary; NULs, which a crash of the machine can leave, are skipped."""
    try:
        text = io.StringIO(read_text(path, "summary").replace("\0", ""), newline=None)
        return [row for row in csv.DictReader(text)
                if None not in row and _EPOCH.fullmatch(row.get("epoch") or "")]
    except (UserError, csv.Error):
        return []


class Output:
    """The files of a run; the first process writes, the others only take part.

    Used with `with`: inside, the folder is locked.

    Args:
        run: the run.
        folder: where they are written; None writes nothing.
        on_best: called with the network and the folder whenever it is the best so far.

    Attributes:
        folder: None, too, in a process that does not write.
        saved: whether an epoch was finished, whose checkpoint is the last one.
    """

    def __init__(self, run: Run, folder: Path | None,
                 on_best: Callable[[Any, Path], None]) -> None:
        self.run, self.on_best, self.metric = run, on_best, run.args.eval_metric
        self.folder = folder if run.world.primary else None
        self.start, self.epochs, self.saved = time.monotonic(), 0, False
        self.opened = ExitStack()
        if self.folder:
            with ExitStack() as opened:
                self._open(self.folder, opened)
                self.opened = opened.pop_all()

    def _open(self, folder: Path, opened: ExitStack) -> None:
        self.lock = opened.enter_context(
            locked(folder / LOCK, f"{folder}: the folder of a training"))
        handler = LogFile(folder / "train.log", encoding="utf-8", errors="backslashreplace")
        opened.callback(handler.close)
        log.addHandler(handler)
        opened.callback(log.removeHandler, handler)
        remove_leftovers(folder)
        args, epoch = self.run.args, self.run.start_epoch
        flags = {name: value for name, value in plain_part(vars(args)).items()
                 if name not in OF_THE_CALL}
        write_text(folder / "args.yaml", yaml.safe_dump(flags, sort_keys=False))
        self.checkpoints = Checkpoints(folder, args.checkpoint_hist, self.metric == "loss")
        self.summary = Summary(folder / SUMMARY, epoch)
        self.board = Scalars(folder / BOARD, epoch) if is_installed("tensorboard") else None
        if self.board is None:
            log.info("no scalars for TensorBoard; for them, %s", advice("tensorboard"))
        self.wandb = start_wandb(args, folder.name) if args.log_wandb else None
        log.info("output: %s", one_line(folder))

    def resume(self, history: History | None, source: str | None) -> None:
        """Continues the files of the run that a checkpoint comes from.

        What a killed process did not finish is completed: the best checkpoint and its pair.
        """
        if self.folder and history and source \
                and self.checkpoints.restore(history, Path(source)):
            self.on_best(self.run.best, self.folder)

    def on_step(self, epoch: int, step: int, loss: Tensor) -> None:
        """Logs every `--log-interval` steps, and writes recovery checkpoints."""
        args, total = self.run.args, self.run.updates_per_epoch
        if not self.run.world.primary:
            return
        if step % args.log_interval == 0 or step == total:
            lr = self.run.optimizer.param_groups[0]["lr"]
            log.info("epoch %d step %d/%d: loss %.4f, lr %.3e", epoch, step, total, loss.item(), lr)
        if self.folder and args.recovery_interval and step % args.recovery_interval == 0:
            self.on_recovery(epoch, step)

    def on_recovery(self, epoch: int, step: int) -> None:
        """Writes a checkpoint within an epoch."""
        self.lock.check()
        self.checkpoints.save_recovery(self.run.state(), epoch, step)

    def on_epoch(self, epoch: int, train: dict[str, float], evaluation: dict[str, float],
                 lr: float) -> None:
        """Writes everything about a finished epoch; `evaluation` is empty where there was none."""
        if not self.run.world.primary:
            return
        self.epochs += 1
        text = ", ".join(f"{key} {value:.4f}" for key, value in evaluation.items()) or "none"
        pace = (time.monotonic() - self.start) / self.epochs
        left = timedelta(seconds=round(pace * (self.run.n_epochs - epoch - 1)))
        log.info("epoch %d: train loss %.4f, %.1f images/s; evaluation: %s; %s left", epoch,
                 train["loss"], train["images_per_s"], text, left)
        if self.folder:
            self._write_epoch(self.folder, epoch, {"train": train, "eval": evaluation}, lr)

    def _write_epoch(self, folder: Path, epoch: int, figures: dict[str, dict[str, float]],
                     lr: float) -> None:
        self.lock.check()
        rows = {mark: {f"{part}{mark}{key}": value for part, values in figures.items()
                       for key, value in values.items()} | {"lr": lr} for mark in "_/"}
        self.summary.add({"epoch": epoch, **rows["_"]})
        if self.board:
            self.board.add(rows["/"], epoch)
        if self.wandb:
            self.wandb.log({"epoch": epoch, **rows["_"]})
        best_so_far = self.checkpoints.save(self.run.state(), epoch,
                                            figures["eval"].get(self.metric))
        self.saved = True
        if best_so_far:
            self.on_best(self.run.best, folder)
        if best := self.checkpoints.best:
            log.info("best %s: %.4f (epoch %d)", self.metric, best.metric, best.epoch)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Logs where everything is, and unlocks the folder."""
        if self.folder:
            if self.wandb:
                self.wandb.finish()
            log.info("output: %s", one_line(self.folder))
        self.opened.close()


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of a killed process, and no others."""
    for name in OWN:
        for leftover in folder.glob(f".{name}.*.tmp"):
            leftover.unlink(missing_ok=True)


class LogFile(logging.FileHandler):
    """A log in a file; where it cannot be written it stays incomplete, and the run continues.

    Raises:
        UserError: the file is a link or a device: the folder may come from elsewhere.
    """

    def _open(self) -> Any:
        return io.TextIOWrapper(open_log(self.baseFilename), self.encoding, self.errors,
                                line_buffering=True)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """Does nothing: other writes to the folder raise the error."""

    def close(self) -> None:
        """Closes the file; what the disk has no room for is lost."""
        with suppress(OSError):
            super().close()


def start_wandb(args: argparse.Namespace, name: str) -> Any:
    """Returns a run of Weights & Biases, which takes the rows of the summary too.

    Raises:
        UserError: it cannot be started: no account, no network, no such run.
    """
    import wandb

    try:
        return wandb.init(project=args.wandb_project, name=name, tags=args.wandb_tags,
                          config=plain_part(vars(args)), id=args.wandb_resume_id,
                          resume="must" if args.wandb_resume_id else None)
    except Exception as error:  # of any kind that the package raises
        raise UserError(f"--log-wandb: {one_line(error)}; WANDB_MODE=offline logs on this machine "
                        "alone") from error


def output_folder(args: argparse.Namespace, root: str | None, name: str) -> Path | None:
    """Returns the folder of a run: that of --resume, or a new one below `root`; None without."""
    if args.resume:
        return Path(args.resume).parent
    if root is None:
        return None
    first = Path(root) / f"{datetime.now():%Y%m%d-%H%M%S}-{name}"
    others = (first.with_name(f"{first.name}-{i}") for i in itertools.count(2))
    return next(path for path in itertools.chain([first], others) if not path.exists())


class BesideBar(logging.Handler):
    """Logs to stderr without disturbing a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a line above the bar; a terminal that was closed ends no training."""
        with suppress(OSError, ValueError):
            if sys.stderr:
                tqdm.write(self.format(record), file=sys.stderr)


def start_logging(world: World) -> None:
    """Lets the first process log to stderr; the others stay quiet."""
    if not world.primary:
        logging.disable(logging.WARNING)
        return
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    if not any(isinstance(handler, BesideBar) for handler in root.handlers):
        root.addHandler(BesideBar())
    logging.getLogger("timm").setLevel(logging.WARNING)

