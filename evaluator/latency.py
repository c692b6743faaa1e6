"""Latency tables: the mean of single layers, measured once; a network's latency is their sum."""

import os
import shlex
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from evaluator.layers import space_layers
from evaluator.timing import Conditions
from search_space import SearchSpace, name_of
from search_space.layers import Layer
from utils.errors import UserError
from utils.files import read_text, read_yaml
from utils.invocation import calling
from utils.parsing import parse_yaml

SHOWN_KEYS = 5
# The file that a message suggests for a new table, and what all entries of a table share.
NEW_TABLE = "my_lut.yaml"
CONDITIONS = Conditions._fields
MAX_MS = 1e9
WIDTHS = (0.01, 100.0)  # multipliers that a table can be of


class LookUpTable:
    """Mean latency in ms of single layers, by their key; a network's latency is the sum.

    The format is the one published with NSGANetV2: YAML, `key: {mean: ms, var: ms^2}`. Tables of
    `scripts/build_lut.py` also have `count`, and leading comments on how they were measured.

    Attributes:
        path: the file.
        entries: key -> mean in ms.
        header: the leading comments; empty for published tables.
    """

    def __init__(self, path: str | os.PathLike, entries: dict[str, float],
                 header: dict[str, Any]) -> None:
        self.path = Path(path)
        self.entries = entries
        self.header = header

    @classmethod
    def read(cls, path: str | os.PathLike) -> "LookUpTable":
        """Reads and checks a table.

        Raises:
            UserError: the file is missing, damaged, or an entry has no finite positive mean.
        """
        rows = read_yaml(path, "latency table")
        return cls(path, {key: _checked_mean(path, key, row) for key, row in rows.items()},
                   read_header(path))

    @property
    def runtime(self) -> str:
        """What ran the layers; PyTorch, where the table does not name it."""
        return str(self.header.get("runtime", "torch"))

    def missing(self, layers: Iterable[Layer]) -> list[str]:
        """Returns the keys of `layers` that the table lacks, each once."""
        keys = dict.fromkeys(layer.key for layer in layers if layer.key is not None)
        return [key for key in keys if key not in self.entries]

    def require(self, layers: Iterable[Layer], command: str) -> None:
        """Raises UserError when layers are missing; `command` is what measures them."""
        layers = [*layers]
        missing = self.missing(layers)
        if missing:
            foreign = "" if any(layer.key in self.entries for layer in layers) else (
                f"none of its {len(self.entries)} entries is a layer of these networks, so it is "
                "the table of others or of another program (its first entry: "
                f"{next(iter(self.entries), '')[:80]}); ")
            more = f" and {len(missing) - SHOWN_KEYS} more" if len(missing) > SHOWN_KEYS else ""
            raise UserError(f"{self.path}: the latency table lacks {len(missing)} layers: "
                            f"{', '.join(missing[:SHOWN_KEYS])}{more}; {foreign}"
                            f"{self._adding(command)}"
                            f"measure a table that has them with: {command}")

    def _adding(self, command: str) -> str:
        """Returns how to add to this table, under its conditions; '' without such a header."""
        if any(name not in self.header for name in CONDITIONS):
            return ""
        conditions = [f"--{name}={self.header[name]}" for name in CONDITIONS]
        conditions += [f"--runtime={self.runtime}"]
        adding = command.replace(NEW_TABLE, shlex.quote(str(self.path)), 1)
        return (f"on the machine of this table ({self.header.get('device_name', 'unknown')}) add "
                f"them with: {adding} {shlex.join(conditions)}; on another one ")

    def require_space(self, space: SearchSpace, n_classes: int, width_mult: float) -> None:
        """Raises UserError unless the table has every layer that the space can contain."""
        self.require(space_layers(space, n_classes, width_mult),
                     space_command(space, n_classes, width_mult))

    def latency(self, layers: Iterable[Layer]) -> float:
        """Returns the sum in ms over `layers`, all of which the table must have."""
        return sum(self.entries[layer.key] for layer in layers if layer.key is not None)


def build_command(resolutions: Sequence[int], n_classes: int = 1000, width_mult: float = 1.0,
                  config: str | None = None, search_space: str = "mbv3") -> str:
    """Returns the command that measures a space's layers (or a net.config's) on this machine."""
    what = ["--config", str(config)] if config else [
        *([] if search_space == "mbv3" else ["--search_space", search_space]),
        "--n_classes", str(n_classes), "--width", str(width_mult)]
    sizes = ["--resolutions", *map(str, resolutions)] if resolutions else []
    return shlex.join([*calling("scripts/build_lut.py"), "--out", NEW_TABLE, *what, *sizes])


def space_command(space: SearchSpace, n_classes: int, width_mult: float) -> str:
    """Returns the `build_command` of a search space."""
    return build_command(getattr(space, "resolutions", ()), n_classes, width_mult,
                         search_space=name_of(space))


def read_header(path: str | os.PathLike) -> dict[str, Any]:
    """Returns the `# name: value` lines at the top of a table as a dict; {} where there are none.

    Raises:
        UserError: the file cannot be read, or its leading comments are no such lines.
    """
    lines = takewhile(lambda line: line.startswith("#"),
                      read_text(path, "latency table").splitlines())
    try:
        header = parse_yaml("\n".join(line.lstrip("#").strip() for line in lines))
    except ValueError as error:
        raise UserError(f"{path}: the comments at its top are no 'name: value' lines ({error}); "
                        "correct or remove them") from None
    return header if isinstance(header, dict) else {}


def _checked_mean(path: str | os.PathLike, key: Any, row: Any) -> float:
    mean = row.get("mean") if isinstance(row, dict) else None
    if not isinstance(key, str) or isinstance(mean, bool) or not isinstance(mean, int | float) \
            or not 0 < mean < MAX_MS:
        raise UserError(f"{path}: entry {str(key)[:80]!r}: expected a mean in ms above 0, found "
                        f"{str(row)[:60]!r}; measure it again or take it out")
    return float(mean)
