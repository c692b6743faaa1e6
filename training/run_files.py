"""What a training run leaves: args.yaml, summary.csv, train.log, checkpoints, scalars.

Whatever cannot be written ends the run with the system's reason in one line, never half a file.
"""

import argparse
import csv
import io
import itertools
import logging
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

import yaml
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor
from torch.utils.tensorboard.summary import scalar
from tqdm import tqdm

from training.checkpoints import Checkpoints, History, plain_part
from training.flags import OF_THE_CALL
from training.run import Run
from training.world import World
from utils.errors import UserError, one_line
from utils.files import make_folder, open_log, own_folder, read_text, write_text
from utils.locks import locked

log = logging.getLogger("train")

SUMMARY, LOCK, BOARD = "summary.csv", "train.lock", "tensorboard"
_EPOCH = re.compile(r"\d{1,9}", re.ASCII)
# Names of the files that are written, of which a killed process may leave a half.
OWN = ("*.pth.tar", "net.init", "net.config", "args.yaml", SUMMARY)


class Summary:
    """summary.csv: a row for each epoch, written whole, so that a full disk or a kill leaves one.

    Args:
        path: the file; rows of a run that goes on are kept up to `epoch`.
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
    """Returns the rows of a summary; what a crash of the machine left as NULs is no row."""
    try:
        text = io.StringIO(read_text(path, "summary").replace("\0", ""), newline=None)
        return [row for row in csv.DictReader(text)
                if None not in row and _EPOCH.fullmatch(row.get("epoch") or "")]
    except (UserError, csv.Error):
        return []


class Scalars:
    """The figures of a run as TensorBoard reads them.

    torch's own writer works in a thread, which ends with a traceback where the disk is full.

    Args:
        folder: where a new file of events is made.
        epoch: the first one to come; what older files hold from there on does not count.
    """

    def __init__(self, folder: Path, epoch: int) -> None:
        make_folder(own_folder(folder))
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self.path = folder / name
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if epoch:
            self._write(Event(wall_time=time.time(), step=epoch,
                              session_log=SessionLog(status=SessionLog.START)))

    def add(self, values: dict[str, float], epoch: int) -> None:
        """Adds an epoch's figures, by their names."""
        for name, value in values.items():
            self._write(Event(wall_time=time.time(), step=epoch, summary=scalar(name, value)))

    def _write(self, event: Any) -> None:
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        with open(self.path, "ab") as file:
            file.write(record.getvalue())


class Output:
    """The files of a run; the first process writes, the others only take part.

    Used with `with`: inside, the folder is locked.

    Args:
        run: the run.
        folder: where they lie; None keeps nothing.
        on_best: called with the network and the folder whenever it is the best so far.
    """

    def __init__(self, run: Run, folder: Path | None,
                 on_best: Callable[[Any, Path], None]) -> None:
        self.run, self.metric = run, run.args.eval_metric
        self.files = RunFiles(run, folder, on_best) if folder and run.world.primary else None
        self.start, self.epochs = time.monotonic(), 0

    def take_up(self, history: History | None, source: str | None) -> None:
        """Goes on with the files of the run that a checkpoint comes from."""
        if self.files and history and source:
            self.files.take_up(history, Path(source))

    def on_step(self, epoch: int, step: int, loss: Tensor) -> None:
        """Logs every now and then, and writes a recovery checkpoint."""
        args, total = self.run.args, self.run.updates_per_epoch
        if not self.run.world.primary:
            return
        if step % args.log_interval == 0 or step == total:
            lr = self.run.optimizer.param_groups[0]["lr"]
            log.info("epoch %d step %d/%d: loss %.4f, lr %.3e", epoch, step, total, loss.item(), lr)
        if self.files and args.recovery_interval and step % args.recovery_interval == 0:
            self.files.on_recovery(epoch, step)

    def on_epoch(self, epoch: int, train: dict[str, float], evaluation: dict[str, float],
                 lr: float) -> None:
        """Writes everything about a finished epoch; `evaluation` is empty where there was none."""
        if not self.run.world.primary:
            return
        self.epochs += 1
        text = ", ".join(f"{key} {value:.4f}" for key, value in evaluation.items()) or "none"
        log.info("epoch %d: train loss %.4f, %.1f images/s; evaluation: %s; %s left", epoch,
                 train["loss"], train["images_per_s"], text, self._time_left(epoch))
        if self.files:
            self.files.on_epoch(epoch, train, evaluation, lr)

    def _time_left(self, epoch: int) -> timedelta:
        """Returns the time that the other epochs need at the pace so far, in whole seconds."""
        pace = (time.monotonic() - self.start) / self.epochs
        return timedelta(seconds=round(pace * (self.run.n_epochs - epoch - 1)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.files:
            self.files.close()


class RunFiles:
    """The files themselves; arguments as of `Output`.

    Attributes:
        saved: whether an epoch was finished, whose checkpoint is the last one.
    """

    def __init__(self, run: Run, folder: Path, on_best: Callable[[Any, Path], None]) -> None:
        self.run, self.folder, self.on_best = run, folder, on_best
        self.metric, self.saved = run.args.eval_metric, False
        self.checkpoints = Checkpoints(folder, run.args.checkpoint_hist, self.metric == "loss")
        with ExitStack() as opened:
            self.lock = opened.enter_context(
                locked(folder / LOCK, f"{folder}: the folder of a training"))
            opened.enter_context(log_file(folder / "train.log"))
            remove_leftovers(folder)
            flags = {name: value for name, value in plain_part(vars(run.args)).items()
                     if name not in OF_THE_CALL}
            text = yaml.safe_dump(flags, sort_keys=False)
            write_text(folder / "args.yaml", text)
            self.board = Scalars(folder / BOARD, run.start_epoch)
            self.summary = Summary(folder / SUMMARY, run.start_epoch)
            self.wandb = start_wandb(run.args, folder.name) if run.args.log_wandb else None
            log.info("output: %s", one_line(folder))
            self.opened = opened.pop_all()

    def take_up(self, history: History, source: Path) -> None:
        """Completes what a killed process left undone: the best checkpoint and its pair."""
        if self.checkpoints.restore(history, source):
            self.on_best(self.run.best, self.folder)

    def on_recovery(self, epoch: int, step: int) -> None:
        """Writes a checkpoint within an epoch."""
        self.lock.check()
        self.checkpoints.save_recovery(self.run.state(), epoch, step)

    def on_epoch(self, epoch: int, train: dict[str, float], evaluation: dict[str, float],
                 lr: float) -> None:
        """Writes everything about a finished epoch."""
        self.lock.check()
        row = {"epoch": epoch, **{f"train_{key}": value for key, value in train.items()},
               **{f"eval_{key}": value for key, value in evaluation.items()}, "lr": lr}
        self.summary.add(row)
        self.board.add({**{f"train/{key}": value for key, value in train.items()},
                        **{f"eval/{key}": value for key, value in evaluation.items()}, "lr": lr},
                       epoch)
        if self.wandb:
            self.wandb.log(row)
        best_so_far = self.checkpoints.save(self.run.state(), epoch, evaluation.get(self.metric))
        self.saved = True
        if best_so_far:
            self.on_best(self.run.best, self.folder)
        best = self.checkpoints.best
        if best:
            log.info("best %s: %.4f (epoch %d)", self.metric, best.metric, best.epoch)

    def close(self) -> None:
        """Says where everything is, and leaves the folder to others."""
        if self.wandb:
            self.wandb.finish()
        log.info("output: %s", one_line(self.folder))
        self.opened.close()


def remove_leftovers(folder: Path) -> None:
    """Removes the half-written files of a killed process, and no others."""
    for name in OWN:
        for leftover in folder.glob(f".{name}.*.tmp"):
            leftover.unlink(missing_ok=True)


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Writes the log into a file too, as far as there is room for it."""
    handler = LogFile(path, encoding="utf-8", errors="backslashreplace")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        with suppress(OSError):
            handler.close()


class LogFile(logging.FileHandler):
    """A log in a file that is only left incomplete where it cannot be written.

    Raises:
        UserError: the file is a link or a device: the folder may come from elsewhere.
    """

    def _open(self) -> Any:
        return io.TextIOWrapper(open_log(self.baseFilename), self.encoding, self.errors,
                                line_buffering=True)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """Does nothing: what else is written in the folder says what is wrong."""


def start_wandb(args: argparse.Namespace, name: str) -> Any:
    """Returns a run of Weights & Biases, which takes the rows of the summary too.

    Raises:
        UserError: it cannot be started: no account is known, no network, no such run.
    """
    import wandb

    try:
        return wandb.init(project=args.wandb_project, name=name, tags=args.wandb_tags,
                          config=plain_part(vars(args)), id=args.wandb_resume_id,
                          resume="must" if args.wandb_resume_id else None)
    except Exception as error:  # of any kind that the package knows
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

