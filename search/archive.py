"""The files of a search: what was evaluated, in JSON that the original reads and writes too.

`<save>/iter_<i>.stats` holds everything up to iteration i, `<save>/iter_<i>/net_<j>.subnet` and
`net_<j>.stats` each architecture and what was measured of it.
"""

import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.errors import UserError
from utils.files import read_json, write_json

REQUIRED_KEYS = ("archive", "candidates", "hv", "surrogate")
SURROGATE_SCORES = ("rmse", "rho", "tau")
# What the original stores for an evaluation that failed: error 100, cost 1000.
FAILED = (100.0, 1000.0)
MEASURED = ("params", "flops", "gpu", "cpu", "loss", "top1", "top5")


class Record(NamedTuple):
    """One evaluated architecture.

    Attributes:
        arch: the architecture dict.
        top1_err: measured top-1 error in percent, 0..100.
        sec_obj: the second objective: millions for `flops` and `params`, ms for a latency.
    """

    arch: dict[str, Any]
    top1_err: float
    sec_obj: float


@dataclass(frozen=True)
class Stats:
    """The content of one `iter_<i>.stats`.

    Attributes:
        archive: every evaluated architecture so far, in the order of evaluation.
        candidates: those of this iteration.
        hv: normalised hypervolume of the archive, 0..1.
        surrogate: `model`, `name`, `winner` (str), `rmse`, `rho`, `tau` (float or None); may be {}.
        sec_obj: name of the second objective; None where the file does not say (the original's).
        reference_point: of the hypervolume, [error, second objective]; None as above.
        extra: any further keys, kept as they are.
    """

    archive: list[Record]
    candidates: list[Record]
    hv: float
    surrogate: dict[str, Any] = field(default_factory=dict)
    sec_obj: str | None = None
    reference_point: list[float] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


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
                        "(its --save) that finished an iteration")
    return numbered[max(numbered)]


def objectives(records: Iterable[Record]) -> np.ndarray:
    """Returns the (n, 2) float array of (top-1 error, second objective), both minimised."""
    return np.array([record[1:] for record in records], dtype=float).reshape(-1, 2)


def write_stats(path: str | os.PathLike, stats: Stats) -> None:
    """Writes a stats file atomically; equal stats give equal bytes."""
    value = {"archive": _plain_records(stats.archive),
             "candidates": _plain_records(stats.candidates),
             "hv": float(stats.hv), "surrogate": stats.surrogate}
    if stats.sec_obj is not None:
        value["sec_obj"] = stats.sec_obj
    if stats.reference_point is not None:
        value["reference_point"] = [float(v) for v in stats.reference_point]
    write_json(path, value | stats.extra)


def read_stats(path: str | os.PathLike,
               check_arch: Callable[[dict], object] | None = None) -> Stats:
    """Reads a stats file of ours or of the original.

    The original records a failed evaluation as error 100, cost 1000, and may hold an architecture
    twice: both are dropped, with one counted warning on stderr. In a file of ours (it names its
    `sec_obj`) an architecture that stands there twice is an error.

    Args:
        path: the file.
        check_arch: raises UserError for an architecture that does not belong to the space, such as
            `space.encode`; without it only the shape of the dict is checked.

    Raises:
        UserError: the file is missing or damaged; the message names the place and what is expected.
    """
    value = read_json(path, "stats file", allow_nan=True)
    missing = [key for key in REQUIRED_KEYS if key not in value]
    if missing:
        raise UserError(f"{path}: the key {missing[0]!r} is missing; a stats file of a search has "
                        f"{', '.join(REQUIRED_KEYS)}")
    sec_obj = value.get("sec_obj")
    if sec_obj is not None and (not isinstance(sec_obj, str) or not sec_obj):
        raise UserError(f"{path}: 'sec_obj' must be the name of an objective, not "
                        f"{_short(sec_obj)}")
    records = {key: _records(f"{path}: {key}", value[key], check_arch)
               for key in ("archive", "candidates")}
    records = {key: _clean(f"{path}: {key}", found, strict=sec_obj is not None)
               for key, found in records.items()}
    point = value.get("reference_point")
    if point is not None:
        point = _list(f"{path}: reference_point", point, 2)
        point = [_number(f"{path}: reference_point", v, low=0) for v in point]
    known = (*REQUIRED_KEYS, "sec_obj", "reference_point")
    extra = {key: v for key, v in value.items() if key not in known}
    surrogate = _surrogate(f"{path}: surrogate", value["surrogate"])
    try:
        json.dumps([surrogate, extra], allow_nan=False)
    except ValueError:
        raise UserError(f"{path}: NaN or infinity, which only {', '.join(SURROGATE_SCORES)} of "
                        "'surrogate' can be") from None
    return Stats(**records, hv=_number(f"{path}: hv", value["hv"], low=0), sec_obj=sec_obj,
                 surrogate=surrogate, reference_point=point, extra=extra)


def check_objective(path: str | os.PathLike, stats: Stats, sec_obj: str) -> None:
    """Raises UserError where an archive says that its second objective is another one."""
    if stats.sec_obj not in (None, sec_obj):
        raise UserError(f"{path}: its second objective is {stats.sec_obj}, not {sec_obj}; go on "
                        f"with --sec_obj {stats.sec_obj}, or start anew in another --save")


def read_net_stats(path: str | os.PathLike) -> dict[str, Any]:
    """Reads a `net_<j>.stats`: `params`, `flops`, `gpu`, `cpu`, `loss`, `top1`, `top5`, and more.

    Raises:
        UserError: the file is missing or damaged, lacks `top1` (0..100), or one of the keys above
            is neither a finite number >= 0 nor null.
    """
    value = read_json(path, "stats file of a network")
    if value.get("top1") is None:
        raise UserError(f"{path}: 'top1', the measured accuracy, is missing")
    for key in MEASURED:
        if value.get(key) is not None:
            _number(f"{path}: {key}", value[key], low=0,
                    high=100 if key in ("top1", "top5") else math.inf)
    return value


def read_evaluations(folder: str | os.PathLike, sec_obj: str,
                     check_arch: Callable[[dict], object] | None = None) -> list[Record]:
    """Reads the pairs `net_<j>.subnet`, `net_<j>.stats` of one `iter_<i>` folder, in order of j.

    A subnet without stats was never finished and is left out.

    Raises:
        UserError: no such folder, a damaged file, or stats that lack the objective `sec_obj`.
    """
    records = []
    for _, path in sorted(_numbered(folder, r"net_(\d+)\.stats").items()):
        stats, subnet = read_net_stats(path), path.with_suffix(".subnet")
        arch = read_json(subnet, "subnet file")
        _check_arch(str(subnet), arch, check_arch)
        if stats.get(sec_obj) is None:
            raise UserError(f"{path}: {sec_obj!r} was not measured; known are "
                            f"{', '.join(k for k in MEASURED[:4] if stats.get(k) is not None)}")
        records.append(Record(arch, 100 - float(stats["top1"]), float(stats[sec_obj])))
    return records


def _numbered(folder: str | os.PathLike, pattern: str) -> dict[int, Path]:
    try:
        names = os.listdir(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: not a folder that can be read ({error})") from None
    found = {name: re.fullmatch(pattern, name, re.ASCII) for name in names}
    return {int(match[1]): Path(folder) / name for name, match in found.items() if match}


def _plain_records(records: Iterable[Record]) -> list[list]:
    return [[arch, float(top1_err), float(sec_obj)] for arch, top1_err, sec_obj in records]


def _records(place: str, value: Any, check_arch: Callable | None) -> list[Record]:
    records = []
    for i, item in enumerate(_list(place, value)):
        arch, error, cost = _list(f"{place}[{i}]", item, 3)
        _check_arch(f"{place}[{i}]", arch, check_arch)
        records.append(Record(arch, _number(f"{place}[{i}], top-1 error", error, 0, 100),
                              _number(f"{place}[{i}], second objective", cost, 0)))
    return records


def _clean(place: str, records: list[Record], strict: bool) -> list[Record]:
    """Drops the original's failed evaluations and repeated architectures, and says how many."""
    kept: dict[str, Record] = {}
    for i, record in enumerate(records):
        key = repr(sorted(record.arch.items()))
        if key in kept and strict:
            raise UserError(f"{place}[{i}]: this architecture stands there twice")
        if strict or tuple(record[1:]) != FAILED:
            kept.setdefault(key, record)
    if len(kept) < len(records):
        print(f"warning: {place}: left out {len(records) - len(kept)} of {len(records)} records "
              "that failed or repeat an architecture", file=sys.stderr)
    return list(kept.values())


def _check_arch(place: str, arch: Any, check_arch: Callable[[dict], object] | None) -> None:
    if not isinstance(arch, dict) or not arch:
        raise UserError(f"{place}: an architecture is a dict such as ks, e, d, r, not "
                        f"{_short(arch)}")
    for key, genes in arch.items():
        for gene in genes if isinstance(genes, list) else [genes]:
            if isinstance(gene, bool) or not isinstance(gene, int | str):
                raise UserError(f"{place}: {_short(key)} of the architecture holds {_short(gene)}, "
                                "but must hold integers")
    if check_arch is not None:
        try:
            check_arch(arch)
        except UserError as error:
            raise UserError(f"{place}: {error}") from None


def _surrogate(place: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{place}: must be a dict with model, name, winner, rmse, rho, tau, not "
                        f"{_short(value)}")
    scores = {key: value[key] for key in SURROGATE_SCORES if value.get(key) is not None}
    for key, score in scores.items():
        if isinstance(score, float) and math.isnan(score):  # predictions that were all equal
            scores[key] = None
        else:
            _number(f"{place}: {key}", score)
    return value | scores


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
