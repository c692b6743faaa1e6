"""Figures of a network on any device, by a command of the user: a script, ssh, adb, trtexec.

The command runs without a shell. Its words may hold `{model}` (a file of the network; `{model:pt2}`
in that format), `{arch}` (a file of the architecture in JSON) and `{r}` (its resolution in pixels).
"""

import math
import os
import re
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import IO, Any

from utils.errors import UserError, one_line
from utils.parsing import parse_json
from utils.processes import end_group

PLACEHOLDERS = ("{model}", "{arch}", "{r}")
KEY = "ms"
TIMEOUT_S, RETRIES, PAUSE_S = 300.0, 2, 1.0
MAX_OUTPUT, SHOWN = 2**16, 120  # bytes that are read, characters that a message quotes
_MODEL = re.compile(r"\{model:([^{}]+)\}")
_NUMBER = re.compile(r"(?<![\w.])[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]*\d)")


class DeviceError(Exception):
    """The command gave no figure; the message says why, in one line."""


@dataclass(frozen=True)
class DeviceCommand:
    """A command that measures one network.

    Attributes:
        words: of the command line.
        keys: the figures that are asked for, among those that the command prints; a single number
            is the first of them.
        timeout: in seconds; then the command and its children are ended.
        retries: how often a command that failed is started again.
        form: the format of `{model}`, where the command names one.
        text: the command as it was typed.
    """

    words: tuple[str, ...]
    keys: tuple[str, ...] = (KEY,)
    timeout: float = TIMEOUT_S
    retries: int = RETRIES
    form: str | None = None
    text: str = ""

    @classmethod
    def parse(cls, text: str, flag: str = "--command", **options: Any) -> "DeviceCommand":
        """Splits a command as a shell would.

        Args:
            text: the command.
            flag: that named it, for messages.
            options: see the attributes.

        Raises:
            UserError: an open quote, no words, two formats, or nothing that names the network.
        """
        place = f"{flag} {text[:SHOWN]!r}"
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise UserError(f"{place}: {error}") from None
        forms = dict.fromkeys(form for word in words for form in _MODEL.findall(word))
        words = [_MODEL.sub("{model}", word) for word in words]
        if len(forms) > 1:
            raise UserError(f"{place}: one format of {{model}}, not {' and '.join(forms)}")
        if not any(name in word for word in words for name in PLACEHOLDERS[:2]):
            raise UserError(f"{place}: write {{model}} where the file of the network belongs, or "
                            "{arch} for the architecture in JSON")
        return cls(tuple(words), form=next(iter(forms), None), text=text, **options)

    def needs(self, placeholder: str) -> bool:
        """Whether the command has that placeholder."""
        return any(placeholder in word for word in self.words)

    def measure(self, values: Mapping[str, object]) -> dict[str, float]:
        """Returns the figures of a network, `keys` among them.

        Args:
            values: by placeholder, `{model}` and the others.

        Raises:
            DeviceError: the command failed as often as it may.
            UserError: there is no such program.
        """
        words = [_filled(word, values) for word in self.words]
        for attempt in range(self.retries + 1):
            time.sleep(PAUSE_S * attempt)
            try:
                return figures(run(words, self.timeout), *self.keys)
            except DeviceError as error:
                failure = error
        raise failure


def _filled(word: str, values: Mapping[str, object]) -> str:
    for name, value in values.items():
        word = word.replace(name, str(value))
    return word


def run(words: Sequence[str], timeout: float) -> str:
    """Runs a command without a shell and returns what it printed, at most its end.

    Whatever it started is ended with it, also after a timeout or Ctrl-C.

    Raises:
        DeviceError: it took too long, or ended with another exit code than 0.
        UserError: it cannot be started.
    """
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as complaints:
        try:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=printed,
                                       stderr=complaints, start_new_session=True)
        except OSError as error:
            raise UserError(f"--command: {words[0][:SHOWN]}: {error.strerror}") from None
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise DeviceError(f"no answer within {timeout:g} s") from None
        finally:
            end_group(process.pid)
            process.wait()
        if code:
            how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            raise DeviceError(f"{how}{_quoted(_end(complaints) or _end(printed))}")
        return _end(printed)


def _end(file: IO[bytes]) -> str:
    file.seek(max(0, file.seek(0, os.SEEK_END) - MAX_OUTPUT))
    return file.read().decode(errors="replace")


def _quoted(text: str) -> str:
    """Returns the last line of a text, for a message; '' where it is empty."""
    lines = text.split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    return f": {one_line(last.strip())[:SHOWN]}" if last else ""


def figures(text: str, *keys: str) -> dict[str, float]:
    """Returns the figures in what a command printed.

    They are the numbers of the last line that is a JSON object, or of the whole text; of a list of
    samples the median. Without one, the last number is the first of `keys`.

    Args:
        text: what was printed.
        keys: the figures that are asked for; `ms` where none is named.

    Raises:
        DeviceError: one of them is no number above 0.
    """
    keys = keys or (KEY,)
    found = next((each for line in (*reversed(text.split("\n")), text)
                  if (each := _object(line)) is not None), None)
    if found is None:
        numbers = _NUMBER.findall(text)
        found = {keys[0]: float(numbers[-1])} if numbers else {}
        if not text.strip():
            raise DeviceError("printed nothing")
    known = {name: value for name, each in found.items()
             if (value := _figure(each)) is not None}
    for key in keys:
        if known.get(key, 0) <= 0:
            raise DeviceError(f"printed no number above 0 for {key!r}{_quoted(text)}")
    return known


def _object(text: str) -> dict[str, Any] | None:
    """Returns the JSON object that a text is; None where it is none."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = parse_json(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _figure(value: Any) -> float | None:
    """Returns a number, or the median of a list of numbers; None for anything else."""
    values = value if isinstance(value, list) else [value]
    if not values or not all(type(each) in (int, float) and math.isfinite(each)
                             for each in values):
        return None
    return float(median(values))
