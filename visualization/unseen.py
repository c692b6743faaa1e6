"""Reads what `post_search.py --rescore` found: accuracies on images that chose nothing."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_space import SPACE_KEY
from utils.errors import UserError
from utils.files import read_json
from utils.invocation import program

RESCORE = "rescore.json"
KEYS = ("images", "n_images", "networks", "neighbours")


@dataclass(frozen=True)
class Network:
    """One network.

    Attributes:
        name: of its folder.
        index: its number in the archive; None where it is not of this search.
        top1: accuracy in percent.
        low, high: its 95 % interval.
    """

    name: str
    index: int | None
    top1: float
    low: float
    high: float


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
    """One `rescore.json`: the images, the networks in the order of the front, neighbours."""

    file: Path
    images: str
    n_images: int
    networks: list[Network]
    pairs: list[Pair]


def read_rescores(folder: Path, numbers: Mapping[str, int]) -> list[Rescore]:
    """Returns the `rescore.json` in the folders inside a search's folder, the latest last.

    Args:
        folder: of the search.
        numbers: from an architecture's JSON text, keys sorted, to its number in the archive.

    Raises:
        UserError: one is damaged.
    """
    files = sorted(folder.glob(f"*/{RESCORE}"), key=lambda file: (file.stat().st_mtime_ns, file))
    return [_read(file, numbers) for file in files]


def _read(file: Path, numbers: Mapping[str, int]) -> Rescore:
    value = read_json(file, "record of --rescore")
    try:
        images, n_images, networks, pairs = (value[key] for key in KEYS)
        return Rescore(file, str(images), int(n_images),
                       [_network(file.parent, row, numbers) for row in networks],
                       [_pair(row) for row in pairs])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{file}: no record of --rescore ({type(error).__name__}: {error}); run "
                        f"{program('post_search.py')} --rescore again, or remove it") from None


def _network(folder: Path, row: Mapping[str, Any], numbers: Mapping[str, int]) -> Network:
    name, (top1, low, high) = str(row["name"]), _finite(row["top1"], *row["interval"])
    index = _index(folder / name, numbers) if Path(name).name == name else None
    return Network(name, index, top1, low, high)


def _pair(row: Mapping[str, Any]) -> Pair:
    points, low, high, p_value = _finite(row["points"], *row["interval"], row["p_value"])
    return Pair(str(row["first"]), str(row["second"]), points, low, high, p_value,
                bool(row["distinct"]))


def _finite(*values: Any) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a number is not finite")
    return numbers


def _index(folder: Path, numbers: Mapping[str, int]) -> int | None:
    subnet = folder / "net.subnet"
    if not subnet.is_file():
        return None
    arch = read_json(subnet, "subnet file")
    arch.pop(SPACE_KEY, None)
    return numbers.get(json.dumps(arch, sort_keys=True))
