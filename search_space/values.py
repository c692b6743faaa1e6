"""Checks of what architecture dicts and constructors of spaces are given."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from utils.errors import UserError

WIDTH_MULTIPLIERS = (0.1, 10.0)
MAX_CLASSES = 100_000


# The key of a file that names the space of its architecture.
SPACE_KEY = "search_space"
# What other programs write into an architecture, and what to do about it here.
FOREIGN_KEYS = {
    **dict.fromkeys(("w", "wid"), "a width multiplier is the supernet's: take the key out, and "
                    "name the supernet of that width with --supernet_path (for counted costs: "
                    "--width)"),
    "t": "networks with early exits are not supported",
    "resolution": "the input resolution has the key r: keep one of them, as r"}


def check_keys(arch: Any, keys: Sequence[str]) -> None:
    """Raises UserError unless `arch` is a dict with all `keys` and without others."""
    if not isinstance(arch, dict):
        raise UserError(f"an architecture is a dict with the keys {', '.join(keys)}, not a "
                        f"{type(arch).__name__}")
    missing = [key for key in keys if key not in arch]
    if missing:
        raise UserError(f"the architecture lacks {', '.join(missing)}; it needs {', '.join(keys)}")
    unknown = [key for key in arch if key not in {*keys, SPACE_KEY}]
    if unknown:
        reason = FOREIGN_KEYS.get(unknown[0], f"the space has {', '.join(keys)}; take it out, or "
                                  "name the space that it belongs to (--search_space)")
        raise UserError(f"{unknown[0]!r:.60} of the architecture is unknown here: {reason}")


def without_wrapping(arch: Any) -> Any:
    """Returns an architecture dict of the `ofa` package in the form that is used here.

    There, `"r": [224]` is a list and `"wid": null` stands for no width multiplier.
    """
    if not isinstance(arch, dict):
        return arch
    plain = {key: value for key, value in arch.items() if key != "wid" or value is not None}
    match plain.get("r"):
        case [size]:
            plain["r"] = size
    return plain


def entries(arch: dict[str, Any], key: str, length: int) -> list[Any]:
    """Returns the list under a key; raises UserError unless it is one of `length` entries."""
    values = arch[key]
    if not isinstance(values, list | tuple) or len(values) != length:
        size = f"{len(values)} entries" if isinstance(values, list | tuple) else repr(values)[:60]
        raise UserError(f"{key!r} of the architecture must be a list of {length} numbers, "
                        f"not {size}")
    return list(values)


def position(key: str, value: Any, options: Sequence[Any]) -> int:
    """Returns the position of a value among the options of its key.

    Raises:
        UserError: it is none of them; `True` and `1.0` are not 1.
    """
    value = value.item() if isinstance(value, np.generic) else value
    for i, option in enumerate(options):
        if type(value) is type(option) and value == option:
            return i
    raise UserError(f"{key!r} of the architecture holds {str(value)[:60]!r}; the space has "
                    f"{', '.join(map(str, options))}")


def check_supernet(n_classes: int, width_mult: float) -> None:
    """Raises UserError for a classifier or a width multiplier that no supernet has."""
    low, high = WIDTH_MULTIPLIERS
    if not low <= width_mult <= high:
        raise UserError(f"a width multiplier lies in {low}..{high}, not {width_mult}")
    if not 1 <= n_classes <= MAX_CLASSES:
        raise UserError(f"n_classes must be 1..{MAX_CLASSES}, not {n_classes}")


def chosen(what: str, options: list[int], wanted: Sequence[int] | None) -> list[int]:
    """Returns the wanted options, all of them where none are named; raises UserError for others."""
    values = options if wanted is None else list(wanted)
    unknown = [value for value in values if value not in options]
    if unknown or not values:
        raise UserError(f"{what} must be among {', '.join(map(str, options))}, not {values}")
    return values


def checked_resolutions(resolutions: Sequence[int]) -> list[int]:
    """Returns input resolutions in pixels; raises UserError unless they are positive and ascend."""
    values = [int(r) for r in resolutions]
    if not values or sorted(set(values)) != values or min(values) < 1:
        raise UserError(f"resolutions must be different positive integers in ascending order, "
                        f"not {values}")
    return values
