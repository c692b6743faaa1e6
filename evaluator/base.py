"""The contract of evaluators: architecture -> stats, inside a worker; and the judge of stats."""

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

from search_space import Arch
from utils.errors import UserError, one_line
from utils.parsing import parse_json

# What is known of one network, as in a `net.stats` file: JSON types, None if not measured.
NetStats = dict[str, Any]

# The figures that have a meaning here, and the largest value of each; the smallest is 0.
PERCENTAGES = ("top1", "top5")
MEASURED = {**dict.fromkeys(("params", "flops", "gpu", "cpu", "loss"), math.inf),
            **dict.fromkeys(PERCENTAGES, 100.0)}
_LARGEST = 10**300  # beyond it an integer is no float


class Evaluator(ABC):
    """Answers the jobs of a search; each worker builds one and asks it for one thing at a time.

    Policy: the same options and the same architecture give the same stats, in every order of jobs
    and on every worker. What cannot be scored is raised, never returned as a bad score. A class
    from outside the project is named as `module:Class`.
    """

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Constructs the evaluator from the options of a search, JSON types by name.

        An evaluator gets the options of all evaluators and uses its own.
        """
        return cls(**options)

    @abstractmethod
    def evaluate(self, arch: Arch, *, batch_scale: float = 1.0) -> NetStats:
        """Returns the stats of one architecture: `top1` in percent, and whatever else is known.

        Args:
            arch: an architecture of the search's space.
            batch_scale: multiplies batch sizes, after memory ran out: 0 < batch_scale <= 1.

        Raises:
            UserError: an invalid architecture.
        """

    def latency(self, arch: Arch) -> NetStats:
        """Returns the measured latency of one architecture in ms, as `{"gpu": ...}` or `cpu`.

        Raises:
            UserError: an invalid architecture, or the evaluator measures none.
        """
        raise UserError(f"the evaluator {type(self).__name__} measures no latency; choose a counted"
                        " objective, or one that it reports")

    def fingerprint(self) -> str:
        """Returns a digest of what was read to build this; empty where nothing was.

        A search is stopped where a worker that is built later has another one.
        """
        return ""


def digest_of(parts: Iterable[Any]) -> str:
    """Returns a digest of bytes-like parts, for `Evaluator.fingerprint`."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def judge(stats: Any, kind: str = "accuracy") -> tuple[str, str]:
    """Returns status and error of stats, returned or stored: `ok`, `nan`, or `failed`.

    What is stored can be read again: JSON within the bounds of `parse_json`, without NaN or
    infinity at any depth, the figures of `MEASURED` within their ranges or None.

    Args:
        stats: what an evaluator returned, or a file holds.
        kind: `accuracy` needs `top1`; `latency` any number.
    """
    if not isinstance(stats, dict):
        return "failed", f"the evaluator returned {type(stats).__name__}, not a dict of stats"
    try:
        stats = parse_json(json.dumps(stats), allow_nan=True)
    except (TypeError, ValueError, RecursionError) as error:
        return "failed", f"the evaluator returned stats that are not JSON: {one_line(error)}"
    if odd := [f"{place} = {value}" for place, value in _numbers(stats)
               if not (abs(value) < _LARGEST and math.isfinite(value))]:
        return "nan", f"not finite: {', '.join(odd)[:200]}"
    for key, high in MEASURED.items():
        value = stats.get(key)
        if value is not None and (type(value) not in (int, float) or not 0 <= value <= high):
            what = "number of 0 or more" if high == math.inf else f"finite number in 0..{high:g}"
            return "failed", f"{key}: must be a {what}, not {str(value)[:60]!r}"
    if not any(True for _ in _numbers(stats)) or (kind == "accuracy" and stats.get("top1") is None):
        return "nan", "no 'top1', the measured accuracy" if kind == "accuracy" else "no number"
    return "ok", ""


def _numbers(value: Any, place: str = "") -> Iterator[tuple[str, int | float]]:
    """Gives all numbers in a JSON value, with where they stand: `("per_class[2]", 0.5)`."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _numbers(item, f"{place}.{key}" if place else key)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _numbers(item, f"{place}[{i}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield place, value
