"""The events of a search, `events.jsonl`: how a line is written, and what a report reads.

Every event is a dict with `event`, `time` (seconds since 1970) and values in JSON types. The file
holds times and is no part of the search's result. `search.progress` records what happens.
"""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from search.run_folder import EVENTS, LOCK
from utils.errors import UserError
from utils.files import open_log, read_log
from utils.locks import is_locked
from utils.parsing import parse_json

MAX_SECONDS = 1e12  # of one event; JSON has integers without an end
PACKAGES = ("torch", "torchvision", "pymoo", "numpy", "scikit-learn")


def as_line(name: str, values: Mapping[str, Any]) -> str:
    """Returns an event of the present moment as one line of JSON."""
    return json.dumps({"event": name, "time": round(time.time(), 3), **values}, allow_nan=False)


def append(path: Path, line: str) -> None:
    """Adds a line to a file of events; one that a killed process left unfinished is ended first."""
    with open_log(path) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        whole = file.read() in (b"", b"\n")
        file.write((b"" if whole else b"\n") + line.encode() + b"\n")


def versions() -> dict[str, str]:
    """Returns the versions of the packages that a result depends on most."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def interpreter() -> str:
    """Returns what the last digits of a result depend on, pySOT by `acc_predictor.rbf`."""
    has = "with" if find_spec("pySOT") else "without"
    return f"{_minor(platform.python_version())} {has} pySOT"


def other_interpreter(folder: str | os.PathLike) -> str | None:
    """Returns the interpreter that last ran a search, where it is another than this one.

    Args:
        folder: of the search; nothing is known where its events cannot be read.
    """
    with suppress(UserError):
        for event in reversed(read(folder)):
            if event["event"] == "start":
                before = str(event.get("interpreter") or _minor(str(event.get("python"))))
                return None if interpreter().startswith(before) else before
    return None


def _minor(version: str) -> str:
    return f"Python {'.'.join(version.split('.')[:2])}"


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
    return is_locked(Path(folder) / LOCK)

