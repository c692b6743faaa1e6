"""What a search tells about itself while it runs: to people, to machines, and to its report.

Every event is a dict with `event`, `time` (seconds since 1970) and values in JSON types. All go to
`events.jsonl` in the search's folder; the file holds times and is no part of the search's result.
"""

import fcntl
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from search.run_folder import EVENTS, LOCK, RunFolder
from utils.files import open_log, own_folder, read_log
from utils.parsing import parse_json

TENSORBOARD = "tensorboard"
LOG_FORMATS = ("text", "json")
MAX_SECONDS = 1e12  # of one event; JSON has integers without an end
PACKAGES = ("torch", "torchvision", "pymoo", "numpy", "scikit-learn")
# The values of an iteration that become TensorBoard scalars.
SCALARS = ("hv", "tau", "rho", "rmse", "best_top1_err", "n_evaluated", "n_failed")


class Events:
    """Records the events of one search.

    Args:
        folder: of the search; None records nothing.
        log_format: what goes to standard output: `text`, lines for people; `json`, the events, one
            object a line.
        tensorboard: write the figures of each iteration as scalars to `<folder>/tensorboard`; the
            step is the number of evaluated networks.
    """

    def __init__(self, folder: RunFolder | None = None, log_format: str = "text",
                 tensorboard: bool = False) -> None:
        self.folder = folder
        self.log_format = log_format
        self._tensorboard = tensorboard
        self._writer: Any = None
        self._seconds: dict[str, float] = {}

    def say(self, text: str) -> None:
        """Prints a line for people; in the format `json` as an event, which is not recorded."""
        print(_line("message", {"text": text}) if self.log_format == "json" else text, flush=True)

    def event(self, name: str, text: str = "", **values: Any) -> None:
        """Records an event; `text` is what people read of it, nothing where it is empty."""
        line = _line(name, values)
        if self.folder is not None:
            with open_log(self.folder.events) as file:
                # a killed process may have left half a line
                whole = not file.tell() or os.pread(file.fileno(), 1, file.tell() - 1) == b"\n"
                file.write(b"" if whole else b"\n")
                file.write(line.encode() + b"\n")
        if self.log_format == "json":
            print(line, flush=True)
        elif text:
            print(text, flush=True)

    def start(self, command: list[str], slots: int) -> None:
        """Records the command, the versions and the machine: the start of a run, or of a resume."""
        self.event("start", command=command, slots=slots, versions=versions(),
                   python=platform.python_version(), machine=platform.platform())

    def evaluated(self, iteration: int, index: int, seconds: float, status: str) -> None:
        """Records one evaluation: how long its device worked, and `ok` or why it failed."""
        self.event("evaluation", iteration=iteration, index=index, seconds=round(seconds, 3),
                   status=status)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times a phase of the present iteration: `fit`, `propose`, `evaluate`."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - start

    def iteration(self, number: int, text: str = "", **values: Any) -> None:
        """Records the end of an iteration with its figures (see `SCALARS`) and phases."""
        seconds = {name: round(value, 3) for name, value in self._seconds.items()}
        self._seconds = {}
        self.event("iteration", text, iteration=number, seconds=seconds, **values)
        if self._tensorboard and self.folder is not None:
            self._write_scalars(values, seconds)

    def _write_scalars(self, values: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # imports torch

            self._writer = SummaryWriter(str(self._tensorboard_folder()))
        step = values.get("n_evaluated", 0)
        for name in SCALARS:
            if values.get(name) is not None:
                self._writer.add_scalar(f"search/{name}", values[name], step)
        for name, value in seconds.items():
            self._writer.add_scalar(f"seconds/{name}", value, step)
        self._writer.flush()

    def _tensorboard_folder(self) -> Path:
        return own_folder((self.folder.path if self.folder else Path()) / TENSORBOARD)

    def close(self) -> None:
        """Closes the TensorBoard file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _line(name: str, values: Mapping[str, Any]) -> str:
    return json.dumps({"event": name, "time": round(time.time(), 3), **values}, allow_nan=False)


def versions() -> dict[str, str]:
    """Returns the versions of the packages that a result depends on most."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def read(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the events of a search, oldest first; [] where none were recorded.

    A line that a killed process left unfinished, or that no search writes, is skipped.

    Raises:
        UserError: the file is a link, a device, or too large.
    """
    return [record for line in read_log(Path(folder) / EVENTS)
            if (record := _parsed(line)) is not None]


def _parsed(line: str) -> dict[str, Any] | None:
    """Returns the event that a line holds; None where it holds none of the known forms."""
    try:
        record = parse_json(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or not isinstance(record.get("event"), str):
        return None
    fields = _FORMS.get(record["event"], {})
    return record if all(key in record and rule(record[key]) for key, rule in fields.items()) \
        else None


def _is_seconds(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < MAX_SECONDS


def _is_dict_of(rule: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(rule, value.values()))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


# What a report takes from the events of a file, which may be anybody's: field -> rule.
_FORMS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "start": {"command": lambda value: isinstance(value, list) and all(map(_is_text, value)),
              "versions": _is_dict_of(_is_text), "machine": _is_text},
    "evaluation": {"seconds": _is_seconds},
    "iteration": {"iteration": lambda value: type(value) is int,
                  "seconds": _is_dict_of(_is_seconds)},
}


def phases(events: list[dict[str, Any]]) -> dict[int, dict[str, float]]:
    """Returns {iteration: {phase: seconds}}; of an iteration that was run again, the last."""
    return {record["iteration"]: record["seconds"] for record in events
            if record["event"] == "iteration"}


def device_hours(events: list[dict[str, Any]]) -> float:
    """Returns the hours that devices spent on evaluations, failed ones included."""
    return sum(record["seconds"] for record in events
               if record["event"] == "evaluation") / 3600


def is_running(folder: str | os.PathLike) -> bool:
    """Whether a process holds the search's lock file."""
    try:
        handle = os.open(Path(folder) / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False

