"""Reads what `post_search.py --rescore` found: accuracies on unseen images."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.archive import arch_key
from search_space import SPACE_KEY
from utils.errors import UserError
from utils.files import read_json
from utils.invocation import program

RESCORE = "rescore.json"


@dataclass(frozen=True)
class RescoredNetwork:
    """One network.

    Attributes:
        name: of its folder.
        index: its number in the archive; None where it is not of this search.
        top1: accuracy in percent.
        low, high: its 95 % interval.
        by_class: accuracy in percent of each class; None of one without images.
    """

    name: str
    index: int | None
    top1: float
    low: float
    high: float
    by_class: list[float | None]


@dataclass(frozen=True)
class Pair:
    """A network and the one before it on the front, on the same images.

    Attributes:
        first, second: names; `second` is the later one.
        points: accuracy of the second minus that of the first, in percentage points.
        low, high: the 95 % interval of `points`.
        p_value: that both are equally good, corrected for the number of pairs.
        distinct: whether the images tell them apart.
    """

    first: str
    second: str
    points: float
    low: float
    high: float
    p_value: float
    distinct: bool


@dataclass(frozen=True)
class Rescore:
    """One `rescore.json`: the images, the networks in the order of the front, neighbours.

    Older ones name no `classes`.
    """

    file: Path
    images: str
    n_images: int
    networks: list[RescoredNetwork]
    pairs: list[Pair]
    classes: list[str]


def read_rescores(folder: Path, numbers: Mapping[str, int]) -> list[Rescore]:
    """Returns the `rescore.json` in the folders inside a search's folder, the latest last.

    Args:
        folder: of the search.
        numbers: from an architecture's `arch_key` to its number in the archive.

    Raises:
        UserError: one is damaged.
    """
    files = sorted(folder.glob(f"*/{RESCORE}"), key=lambda file: (file.stat().st_mtime_ns, file))
    return [_read(file, numbers) for file in files]


def _read(file: Path, numbers: Mapping[str, int]) -> Rescore:
    value = read_json(file, "record of --rescore")
    try:
        classes = [str(name) for name in value.get("classes", [])]
        networks = [RescoredNetwork(str(row["name"]), _index(file.parent, row["name"], numbers),
                                    _finite(row["top1"]), *_interval(row), [
                                        None if of is None else _finite(of) for of, _ in zip(
                                            row["by_class"] if classes else (), classes,
                                            strict=True)])
                    for row in value["networks"]]
        pairs = [Pair(str(row["first"]), str(row["second"]), _finite(row["points"]),
                      *_interval(row), _finite(row["p_value"]), bool(row["distinct"]))
                 for row in value["neighbours"]]
        return Rescore(file, str(value["images"]), int(value["n_images"]), networks, pairs,
                       classes)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{file}: no record of --rescore ({type(error).__name__}: {error}); run "
                        f"{program('post_search.py')} --rescore again, or remove it") from None


def _interval(row: Mapping[str, Any]) -> tuple[float, float]:
    low, high = row["interval"]
    return _finite(low), _finite(high)


def _finite(value: Any) -> float:
    if not math.isfinite(number := float(value)):
        raise ValueError("a number is not finite")
    return number


def _index(folder: Path, name: Any, numbers: Mapping[str, int]) -> int | None:
    """Returns the number in the archive of the network in a folder; None where there is none."""
    subnet = folder / str(name) / "net.subnet"
    if Path(str(name)).name != name or not subnet.is_file():
        return None
    arch = read_json(subnet, "subnet file")
    arch.pop(SPACE_KEY, None)
    return numbers.get(arch_key(arch))
