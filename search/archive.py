"""The files of a search: what was evaluated, in JSON that the original reads and writes too.

`<save>/iter_<i>.stats` holds everything up to iteration i (of a large archive, every tenth is kept
and the last), `<save>/iter_<i>/net_<j>.subnet` and
`net_<j>.stats` each architecture and what was measured of it.
"""

import json
import math
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evaluator.base import MEASURED, judge
from search_space import SearchSpace
from utils.errors import UserError, warn, worded
from utils.files import read_json, write_json
from utils.parsing import n_values

REQUIRED_KEYS = ("archive", "candidates", "hv", "surrogate")
SURROGATE_SCORES = ("rmse", "rho", "tau")
# Of the candidates of an iteration: lists of numbers, which the original does not have.
PREDICTIONS = ("predicted", "predicted_std")
# What the original stores for an evaluation that failed: error 100, cost 1000.
FAILED = (100.0, 1000.0)
# What describes each objective besides the error: name, unit, source, direction.
DESCRIBED = "objectives"
# The key of the third objective and those after it: the rows of the archive keep three items.
FURTHER = "further_objectives"
# Values of a stats file: one of 200,000 architectures of OFA's space has 11 million.
MAX_VALUES = 20_000_000
# Beyond so many architectures, the files of every tenth iteration and of the last one are kept.
KEEP_ALL, KEEP_EVERY = 1000, 10


class Record(NamedTuple):
    """One evaluated architecture.

    Attributes:
        arch: the architecture dict.
        top1_err: measured top-1 error in percent, 0..100.
        sec_obj: the second objective: millions for `flops` and `params`, ms for a latency.
        further: the third objective and those after it, where there are more than two.
    """

    arch: dict[str, Any]
    top1_err: float
    sec_obj: float
    further: tuple[float, ...] = ()

    @property
    def values(self) -> tuple[float, ...]:
        """The objectives besides the error."""
        return (self.sec_obj, *self.further)


@dataclass(frozen=True)
class Stats:
    """The content of one `iter_<i>.stats`.

    Attributes:
        archive: every evaluated architecture so far, in the order of evaluation.
        candidates: those of this iteration.
        hv: normalised hypervolume of the archive, 0..1.
        surrogate: `model`, `name`, `winner` (str), `rmse`, `rho`, `tau` (float or None); may be {}.
        sec_obj: names of the objectives besides the error, joined by `+`; None where the file does
            not say (the original's).
        reference_point: of the hypervolume, [error, second objective, ...], all minimised; None
            as above.
        extra: any further keys, kept as they are.
        objectives: `Objective.describe` of each objective besides the error; may be [].
        search_space: name of the search space; None as above.
    """

    archive: list[Record]
    candidates: list[Record]
    hv: float
    surrogate: dict[str, Any] = field(default_factory=dict)
    sec_obj: str | None = None
    reference_point: list[float] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    objectives: list[dict[str, Any]] = field(default_factory=list)
    search_space: str | None = None

    @property
    def names(self) -> list[str]:
        """The names of the objectives besides the error; [] where the file does not say."""
        return self.sec_obj.split("+") if self.sec_obj else []

    @property
    def signs(self) -> np.ndarray:
        """(m,) what turns (error, objectives ...) into values to be minimised."""
        n = len(self.objectives) or max(len(self.names), 1)
        signs = [-1.0 if row.get("direction") == "max" else 1.0 for row in self.objectives]
        return np.array([1.0, *(signs or [1.0] * n)])


def stats_path(folder: str | os.PathLike, iteration: int) -> Path:
    """Returns `<folder>/iter_<iteration>.stats`."""
    return Path(folder) / f"iter_{iteration}.stats"


def latest_stats(folder: str | os.PathLike) -> Path:
    """Returns the `iter_<i>.stats` with the highest i in a search's folder.

    Raises:
        UserError: no such folder, or no such file in it.
    """
    numbered = _numbered(folder, r"iter_(\d+)\.stats")
    if not numbered:
        raise UserError(f"{folder}: no iter_<i>.stats in this folder; name the folder of a search "
                        f"{worded('(its --save) ', '')}that finished an iteration")
    return numbered[max(numbered)]


def stats_file(run: str | os.PathLike) -> Path:
    """Returns the stats file that is meant by the name of one, or of a search's folder."""
    return latest_stats(run) if os.path.isdir(run) else Path(run)


def objectives(records: Iterable[Record], signs: np.ndarray | None = None) -> np.ndarray:
    """Returns the (n, m) float array of (top-1 error, objectives ...).

    Args:
        records: n of them, with equally many objectives.
        signs: (m,) factors that make all of them minimised (`Stats.signs`); None for values as
            they are.
    """
    rows = [(record.top1_err, *record.values) for record in records]
    F = np.array(rows, dtype=float) if rows else np.zeros((0, 2 if signs is None else len(signs)))
    return F if signs is None else F * signs


def arch_key(arch: dict[str, Any]) -> str:
    """Returns a text that is the same for equal architecture dicts."""
    return json.dumps(arch, sort_keys=True)


def write_stats(path: str | os.PathLike, stats: Stats) -> None:
    """Writes a stats file atomically; equal stats give equal bytes."""
    parts = {"archive": stats.archive, "candidates": stats.candidates}
    value: dict[str, Any] = {
        **{key: _plain_records(records) for key, records in parts.items()},
        "hv": float(stats.hv), "surrogate": stats.surrogate}
    point, described = stats.reference_point, stats.objectives
    optional = {"sec_obj": stats.sec_obj,
                "reference_point": None if point is None else [float(v) for v in point],
                DESCRIBED: described or None, "search_space": stats.search_space,
                FURTHER: {key: [list(r.further) for r in records] for key, records in parts.items()}
                if any(r.further for r in stats.archive) else None}
    value |= {key: item for key, item in optional.items() if item is not None}
    write_json(path, value | stats.extra)


def check_room(space: SearchSpace, n: int) -> None:
    """Raises UserError where a stats file of `n` architectures of a space could not be read."""
    arch = space.decode(space.draw(1, np.random.default_rng(0))[0])
    if (most := MAX_VALUES // n_values(json.dumps([arch, 1.5, 1.5] * 2))) < n:
        raise UserError(f"{n} evaluations are more than an archive can hold: {most} in the space "
                        f"{space.name}; choose fewer (--n_doe, --iterations, --n_iter)")


def remove_previous(path: Path, number: int, stats: Stats) -> None:
    """Removes the file of the iteration before one of a large archive, unless it is a tenth.

    Each file holds the whole archive: together, all would take space that grows with its square.

    Args:
        path: of the file before.
        number: of the iteration that `stats` are of.
    """
    if len(stats.archive) - len(stats.candidates) > KEEP_ALL and (number - 1) % KEEP_EVERY:
        path.unlink(missing_ok=True)


def read_stats(path: str | os.PathLike,
               check_arch: Callable[[dict], object] | None = None) -> Stats:
    """Reads a stats file of ours or of the original.

    The original records a failed evaluation as error 100, cost 1000, and may hold an architecture
    twice: both are dropped, with one counted warning on stderr. In a file of ours (it names its
    `sec_obj`) an architecture that is listed twice is an error.

    Args:
        path: the file.
        check_arch: raises UserError for an architecture that does not belong to the space, such as
            `space.encode`; without it only the shape of the dict is checked.

    Raises:
        UserError: the file is missing or damaged; the message names the place and what is expected.
    """
    value = read_json(path, "stats file", allow_nan=True, max_values=MAX_VALUES)
    missing = [key for key in REQUIRED_KEYS if key not in value]
    if missing:
        raise UserError(f"{path}: the key {missing[0]!r} is missing; a stats file of a search has "
                        f"{', '.join(REQUIRED_KEYS)}")
    sec_obj, space = (_name(path, value, key) for key in ("sec_obj", "search_space"))
    described = _described(f"{path}: {DESCRIBED}", value.get(DESCRIBED, []), sec_obj)
    low = -math.inf if any(row.get("source") == "reported" for row in described) else 0.0
    n_further = (sec_obj or "").count("+")
    further = _dict(f"{path}: {FURTHER}", value.get(FURTHER), "archive and candidates") \
        if n_further else {}
    records = {key: _clean(f"{path}: {key}", _records(
        path, key, value[key], check_arch, further.get(key), n_further, low), sec_obj is not None)
        for key in ("archive", "candidates")}
    point = value.get("reference_point")
    if point is not None:
        place = f"{path}: reference_point"
        signed = any(row.get("direction") == "max" for row in described) or low < 0
        point = [_number(place, v, low=-math.inf if signed else 0)
                 for v in _list(place, point, n_further + 2)]
    known = (*REQUIRED_KEYS, "sec_obj", "search_space", DESCRIBED, "reference_point", FURTHER)
    extra = {key: v for key, v in value.items() if key not in known}
    surrogate = _surrogate(f"{path}: surrogate", value["surrogate"])
    try:
        json.dumps([surrogate, extra], allow_nan=False)
    except ValueError:
        raise UserError(f"{path}: NaN or infinity, which only {', '.join(SURROGATE_SCORES)} of "
                        "'surrogate' can be") from None
    return Stats(**records, hv=_number(f"{path}: hv", value["hv"], low=0), sec_obj=sec_obj,
                 surrogate=surrogate, reference_point=point, objectives=described,
                 search_space=space, extra=extra)


def _name(path: str | os.PathLike, value: dict[str, Any], key: str) -> str | None:
    name = value.get(key)
    if name is not None and (not isinstance(name, str) or not name):
        what = "name of an objective" if key == "sec_obj" else "name of a search space"
        raise UserError(f"{path}: {key!r} must be the {what}, not {_short(name)}")
    return name


def _described(place: str, value: Any, sec_obj: str | None) -> list[dict[str, Any]]:
    """Returns the descriptions of the objectives, whose names must be those of `sec_obj`."""
    rows = _list(place, value)
    names = [row.get("name") if isinstance(row, dict) else None for row in rows]
    if rows and names != (sec_obj or "").split("+"):
        raise UserError(f"{place}: must describe {sec_obj}, not {_short(names)}")
    return rows


def read_net_stats(path: str | os.PathLike) -> dict[str, Any]:
    """Reads a `net_<j>.stats`: `params`, `flops`, `gpu`, `cpu`, `loss`, `top1`, `top5`, and more.

    Raises:
        UserError: the file is missing or damaged, or `evaluator.base.judge` finds fault with it.
    """
    value: dict[str, Any] = read_json(path, "stats file of a network")
    status, error = judge(value)
    if status != "ok":
        raise UserError(f"{path}: {error}")
    return value


class Evaluation(NamedTuple):
    """One finished evaluation in an `iter_<i>` folder: its file, architecture and stats."""

    path: Path
    arch: dict[str, Any]
    stats: dict[str, Any]

    def value(self, key: str) -> float:
        """Returns what was measured under `key`; raises UserError where that is nothing."""
        if self.stats.get(key) is None:
            known = ", ".join(k for k in [*MEASURED][:4] if self.stats.get(k) is not None)
            raise UserError(f"{self.path}: {key!r} was not measured; known are {known}")
        return _number(f"{self.path}: {key}", self.stats[key])

    @property
    def top1_err(self) -> float:
        """The measured top-1 error in percent."""
        return 100 - float(self.stats["top1"])


def read_evaluations(folder: str | os.PathLike,
                     check_arch: Callable[[dict], object] | None = None) -> list[Evaluation]:
    """Reads the pairs `net_<j>.subnet`, `net_<j>.stats` of one `iter_<i>` folder, in order of j.

    A subnet without stats was never finished and is left out.

    Raises:
        UserError: no such folder, or a damaged file.
    """
    found = []
    for _, path in sorted(_numbered(folder, r"net_(\d+)\.stats").items()):
        stats, subnet = read_net_stats(path), path.with_suffix(".subnet")
        arch = read_json(subnet, "subnet file")
        _check_arch(str(subnet), arch, check_arch)
        found.append(Evaluation(path, arch, stats))
    return found


def _numbered(folder: str | os.PathLike, pattern: str) -> dict[int, Path]:
    try:
        names = os.listdir(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: not a folder that can be read ({error})") from None
    found = {name: re.fullmatch(pattern, name, re.ASCII) for name in names}
    return {int(match[1]): Path(folder) / name for name, match in found.items() if match}


def _plain_records(records: Iterable[Record]) -> list[list]:
    return [[record.arch, float(record.top1_err), float(record.sec_obj)] for record in records]


def _records(path: str | os.PathLike, key: str, value: Any, check_arch: Callable | None,
             further: Any, n_further: int, low: float) -> list[Record]:
    """Returns the records of archive or candidates; `n_further` objectives stand in `further`."""
    rows = _list(f"{path}: {key}", value)
    place = f"{path}: {FURTHER}[{key}]"
    more = _list(place, further, len(rows)) if n_further else [[]] * len(rows)
    records = []
    for i, (row, rest) in enumerate(zip(rows, more, strict=True)):
        here = f"{path}: {key}[{i}]"
        arch, error, cost = _list(here, row, 3)
        _check_arch(here, arch, check_arch)
        records.append(Record(arch, _number(f"{here}, top-1 error", error, 0, 100),
                              _number(f"{here}, second objective", cost, low),
                              tuple(_number(f"{place}[{i}]", v, low)
                                    for v in _list(f"{place}[{i}]", rest, n_further))))
    return records


def _clean(place: str, records: list[Record], strict: bool) -> list[Record]:
    """Drops the original's failed evaluations and repeated architectures, with one warning."""
    kept: dict[str, Record] = {}
    for i, record in enumerate(records):
        key = arch_key(record.arch)
        if key in kept and strict:
            raise UserError(f"{place}[{i}]: this architecture is there twice")
        if strict or (record.top1_err, record.sec_obj) != FAILED:
            kept.setdefault(key, record)
    if len(kept) < len(records):
        warn(f"{place}: left out {len(records) - len(kept)} of {len(records)} records that failed "
             "or repeat an architecture")
    return list(kept.values())


def _check_arch(place: str, arch: Any, check_arch: Callable[[dict], object] | None) -> None:
    if not isinstance(arch, dict) or not arch:
        raise UserError(f"{place}: an architecture is a dict such as ks, e, d, r, not "
                        f"{_short(arch)}")
    for key, genes in arch.items():
        rows = genes if isinstance(genes, list) else [genes]
        for gene in (gene for row in rows for gene in (row if isinstance(row, list) else [row])):
            if isinstance(gene, bool) or not isinstance(gene, int | float | str):
                raise UserError(f"{place}: {_short(key)} of the architecture holds {_short(gene)}, "
                                "but must hold numbers or names")
    if check_arch is not None:
        try:
            check_arch(arch)
        except UserError as error:
            raise UserError(f"{place}: {error}") from None


def _surrogate(place: str, value: Any) -> dict[str, Any]:
    _dict(place, value, "model, name, winner, rmse, rho, tau")
    scores = {key: value[key] for key in SURROGATE_SCORES if value.get(key) is not None}
    for key, score in scores.items():
        if isinstance(score, float) and math.isnan(score):  # predictions that were all equal
            scores[key] = None
        else:
            _number(f"{place}: {key}", score)
    for key in PREDICTIONS:
        for score in _list(f"{place}: {key}", value.get(key, [])):
            _number(f"{place}: {key}", score)
    return value | scores


def _dict(place: str, value: Any, keys: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{place}: must be a dict with {keys}, not {_short(value)}")
    return value


def _list(place: str, value: Any, length: int | None = None) -> list:
    if not isinstance(value, list) or length not in (None, len(value)):
        size = "a list" if length is None else f"a list of {length}"
        raise UserError(f"{place}: must be {size}, not {_short(value)}")
    return value


def _number(place: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{place}: must be a number, not {_short(value)}")
    # A JSON integer may be too large for a float, and 1e999 is read as infinity.
    number = float(value) if abs(value) < 1e300 else math.inf
    if not (low <= number <= high and math.isfinite(number)):
        limits = f" in {low:g}..{high:g}" if math.isfinite(low) else ""
        raise UserError(f"{place}: must be a finite number{limits}, not {_short(value)}")
    return number


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
