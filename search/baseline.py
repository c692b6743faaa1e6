"""Networks of known accuracy, next to which the front of a search is judged."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from utils.errors import UserError, one_line
from utils.files import read_json, write_json

VALIDATION, TEST = "validation images", "test images"


@dataclass(frozen=True)
class Baseline:
    """A network that no search chose.

    Attributes:
        name: what it is.
        costs: by the name of the objective: `flops` and `params` in millions, `cpu` in ms, ...
        top1: accuracy in percent, by what it was scored on: `VALIDATION`, `TEST`.
        n_images: how many they are.
    """

    name: str
    costs: Mapping[str, float]
    top1: Mapping[str, float]
    n_images: Mapping[str, int]

    def scored_as(self, test: bool) -> str:
        """Returns which images compare it with a search: the test images, or else the others."""
        return TEST if test or VALIDATION not in self.top1 else VALIDATION

    def line(self) -> str:
        """Returns it in words."""
        scores = ", ".join(f"{value:.2f} % on {self.n_images[images]} {images}"
                           for images, value in self.top1.items())
        costs = ", ".join(f"{name} {value:g}" for name, value in self.costs.items())
        return f"{self.name} ({costs}): {scores}"


def read_baselines(path: str | os.PathLike) -> list[Baseline]:
    """Returns the networks of a file that `scripts/baseline.py` wrote, or a person.

    Raises:
        UserError: it is no such file.
    """
    value = read_json(path, "baseline file")
    try:
        return [Baseline(one_line(row["name"]), _numbers(row["costs"]), _numbers(row["top1"]),
                         {key: int(row["n_images"][key]) for key in row["top1"]})
                for row in value["networks"]]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{path}: no baseline file ({type(error).__name__}: {error}); "
                        "docs/formats.md describes it") from None


def write_baselines(path: str | os.PathLike, networks: Sequence[Baseline]) -> None:
    """Writes a file that `read_baselines` reads."""
    write_json(path, {"networks": [asdict(network) for network in networks]}, indent=1)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers of a JSON object; raises ValueError where one is not finite."""
    found = {key: float(value) for key, value in values.items()}
    if not all(map(math.isfinite, found.values())):
        raise ValueError("a number is not finite")
    return found


def with_baselines(rows: Sequence[dict[str, Any]], baselines: Sequence[Baseline],
                   test: bool) -> list[dict[str, Any]]:
    """Returns the printed rows and, in the same columns, those of the networks to compare with.

    Args:
        rows: of networks.
        baselines: to compare with.
        test: whether the search scored on the test images.
    """
    added = []
    for network in baselines:
        top1 = network.top1[network.scored_as(test)]
        values = {**network.costs, "top1": top1, "top1_err": round(100 - top1, 4),
                  "chosen": network.name, "arch": None}
        if TEST in network.top1:
            values["unseen_top1"] = network.top1[TEST]
        added.append({key: values.get(key, "") for key in rows[0]})
    return [*rows, *added]
