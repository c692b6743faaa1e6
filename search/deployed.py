"""Chosen networks on the device: what the search predicted, and what a command measures."""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluator.device_command import KEY, DeviceCommand, DeviceError
from evaluator.latency_model import KIND, is_learned, stated_mape, with_measured
from evaluator.measurements import file_content
from evaluator.network_file import LAYERS, NetworkFiles
from networks.supernet_info import read_supernet_info
from search.archive import Record
from search.finished import FinishedSearch
from search.objectives import parse_luts
from search.run_folder import RunFolder
from search.settings import rebased
from search_space.backbones import width_from_name
from utils.errors import UserError, note, one_line
from utils.files import read_json, write_json
from utils.locks import locked_beside

# The mean error that is expected where the file of a latency states none.
USUAL_ERROR = 0.1


@dataclass(frozen=True)
class Deployed:
    """The latencies of chosen networks.

    Attributes:
        command: what measured them.
        names: of the networks.
        objective: the one that predicted them; None where the search had no latency.
        predicted: (n,) ms; NaN without an objective.
        measured: (n,) ms; NaN where the command failed.
        stated: the mean error that the prediction promises, relative to the measurement.
    """

    command: str
    names: Sequence[str]
    objective: str | None
    predicted: np.ndarray
    measured: np.ndarray
    stated: float

    @property
    def error(self) -> float:
        """The mean error of the predictions, relative to the measurement; NaN without any."""
        off = np.abs(self.predicted / self.measured - 1)
        known = off[np.isfinite(off)]
        return float(known.mean()) if len(known) else float("nan")

    def warnings(self) -> list[str]:
        """Returns a line where the predictions are worse than they promise."""
        if not self.error > self.stated:
            return []
        return [f"warning: {self.objective} is {self.error:.0%} off the measured latencies on "
                f"average, and {self.stated:.0%} were expected: the device is in another state, or "
                "what predicts it is of another device or runtime"]

    def rows(self) -> list[dict[str, Any]]:
        """Returns a row for each network: its predicted and its measured latency in ms."""
        return [{"predicted_ms": _number(predicted), "measured_ms": _number(measured)}
                for predicted, measured in zip(self.predicted, self.measured, strict=True)]

    def facts(self) -> list[str]:
        """Returns what the model card of each network says of it."""
        return ["not measured: the command failed" if row["measured_ms"] is None else
                f"{row['measured_ms']:.4g} ms" + (
                    "" if row["predicted_ms"] is None else
                    f", {row['predicted_ms']:.4g} ms predicted by {self.objective}")
                + f" ({self.command})" for row in self.rows()]

    def report(self) -> dict[str, Any]:
        """Returns everything as plain values: what `device.json` holds."""
        return {"command": self.command, "objective": self.objective, "error": _number(self.error),
                "stated_error": self.stated, "networks": [
                    {"name": name, **row}
                    for name, row in zip(self.names, self.rows(), strict=True)]}


def _number(value: float) -> float | None:
    return round(float(value), 5) if np.isfinite(value) else None


def measure_chosen(text: str, found: FinishedSearch, records: Sequence[Record],
                   names: Sequence[str], supernet: str | None) -> Deployed:
    """Measures the chosen networks of a search by a command, see `evaluator.device_command`.

    Args:
        text: the command.
        found: the search.
        records: of the networks.
        names: of the networks.
        supernet: their checkpoint, whose width and classes they have; None is the search's.

    Raises:
        UserError: a command that measures nothing, or fails for every network.
    """
    command = DeviceCommand.parse(text)
    if found.space is None:
        raise UserError("--command needs the search space: name it with --search_space")
    objective = latency_name(found.sec_obj)
    column = None if objective is None else found.sec_obj.split("+").index(objective)
    files = NetworkFiles(found.space, command.form or LAYERS, *_classes_and_width(found, supernet))
    with tempfile.TemporaryDirectory(prefix="post_search.") as folder:
        rows = [_measured(command, files, record, name, Path(folder))
                for record, name in zip(records, names, strict=True)]
    if not any(rows):
        raise UserError("--command failed for every network; nothing is written")
    keep(found, objective, command, files, [row for row in rows if row])
    measured = [row.get(KEY, np.nan) for row in rows]
    predicted = [np.nan if column is None else record.values[column] for record in records]
    return Deployed(text, names, objective, np.array(predicted), np.array(measured),
                    stated_error(found.settings, objective))


def _measured(command: DeviceCommand, files: NetworkFiles, record: Record, name: str,
              folder: Path) -> dict[str, Any]:
    """Returns the row of a network in a file of measurements; {} where the command failed."""
    try:
        return {"arch": record.arch, **command.measure(files.values(command, record.arch, folder))}
    except DeviceError as error:
        print(f"failed: {name}: {error}", file=sys.stderr)
        return {}


def keep(found: FinishedSearch, objective: str | None, command: DeviceCommand,
         files: NetworkFiles, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes measurements into the folder of the search, whose learned latency they add to.

    Only those of the command that it was learned from: another one may be of another device.
    """
    path, tag = _learned_file(found.settings, objective), (objective or "").partition("@")[2]
    if path is None:
        return
    learned = read_json(path, KIND)
    if learned.get("command") != command.text:
        note(f"{path} was not learned by this command, so what is measured now is not kept for it")
        return
    kept = RunFolder(found.folder).device(tag)
    content = {**file_content(files.space, files.n_classes, files.width_mult),
               "key": learned["key"], "command": command.text, "format": files.form}
    try:
        with locked_beside(kept, f"{kept}: the measurements"):
            if kept.exists():
                content = with_measured(content, read_json(kept, KIND), kept)
            write_json(kept, with_measured(content, {**content, "measured": rows}, kept))
    except (OSError, UserError) as error:  # the networks are chosen and measured nevertheless
        note(f"what was measured is not kept for the search: {one_line(error)}")
    else:
        note(f"{kept}: what was measured; msunas.py --resume and learn_latency.py --add learn "
             "from it")


def latency_name(sec_obj: str) -> str | None:
    """Returns the first latency among objectives; None without one."""
    return next((name for name in sec_obj.split("+") if name.startswith(("cpu", "gpu"))), None)


def stated_error(settings: Mapping[str, Any], objective: str | None) -> float:
    """Returns the mean error that the file of a learned latency states, else `USUAL_ERROR`."""
    path = _learned_file(settings, objective)
    stated = None if path is None else stated_mape(read_json(path, KIND))
    return USUAL_ERROR if stated is None else stated


def _learned_file(settings: Mapping[str, Any], objective: str | None) -> str | None:
    """Returns the file that an objective is learned from; None where it is not learned."""
    luts = rebased(settings, str(settings.get("cwd", ""))).get("lut") or []
    path = parse_luts(luts).get((objective or "").partition("@")[2], "")
    return path if is_learned(path) else None


def _classes_and_width(found: FinishedSearch, supernet: str | None) -> tuple[int, float]:
    path = str(supernet or found.settings.get("supernet_path") or "")
    info = read_supernet_info(path)
    return (info.n_classes or found.settings.get("n_classes") or 1000,
            info.width or width_from_name(path))
