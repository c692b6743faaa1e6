"""The types of flags, and their values from files."""

import argparse
import math
import os
from collections.abc import Callable
from typing import Any

from utils.errors import UserError


def count(least: int, most: int = 10**6) -> Callable[[str], int]:
    """Returns an argparse type: an integer in `least`..`most`."""

    def convert(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            bound = f"{least} or more" if value < least else f"{most} or less"
            raise argparse.ArgumentTypeError(f"must be {bound}, not {text[:20]}")
        return value

    convert.__name__ = "integer"
    return convert


def number(least: float, most: float = math.inf) -> Callable[[str], float]:
    """Returns an argparse type: a finite number in `least`..`most`."""

    def convert(text: str) -> float:
        value = float(text)
        if not (least <= value <= most and math.isfinite(value)):
            bound = f"in {least}..{most}" if math.isfinite(most) else f"{least} or more"
            raise argparse.ArgumentTypeError(f"must be {bound}, not {text[:20]}")
        return value

    convert.__name__ = "number"
    return convert


def amount(text: str) -> float:
    """An argparse type: a finite number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text[:20]}")
    return value


def checked_values(parser: argparse.ArgumentParser, values: dict[str, Any],
                   source: str) -> dict[str, Any]:
    """Returns values for flags that were read from a file, converted as argparse would.

    Args:
        parser: whose flags they are; values of other names are left out.
        values: by the flag's name in the parsed arguments.
        source: the file, for messages.

    Raises:
        UserError: a value that its flag cannot have.
    """
    actions = [action for action in parser._actions if action.dest in values]
    return {action.dest: _checked_value(action, values[action.dest], source) for action in actions}


def _checked_value(action: argparse.Action, value: Any, source: str) -> Any:
    if value is None and action.default is None:
        return None
    if action.nargs == 0 and isinstance(value, bool):
        return value
    several = action.nargs == "+" or (isinstance(action.nargs, int) and action.nargs > 0)
    items = value if several and isinstance(value, list) else [value]
    try:
        if action.nargs == 0 or (several and len(items) != action.nargs != "+") or not items:
            raise ValueError
        converted = [_converted(action, item) for item in items]
    except (ValueError, TypeError, OverflowError, argparse.ArgumentTypeError):
        raise UserError(f"{source}: {action.dest} cannot be {str(value)[:60]!r}; see --help") \
            from None
    return converted if several else converted[0]


def _converted(action: argparse.Action, item: Any) -> Any:
    """Returns one value of a flag; a text may stand for a number, nothing else for another type."""
    if b"\0" in os.fsencode(str(item)):  # which itself raises for what no path can hold
        raise ValueError
    converted = (action.type or str)(str(item))
    if not isinstance(item, str) and (isinstance(item, bool) or converted != item):
        raise ValueError
    if action.choices and converted not in action.choices:
        raise ValueError
    return converted
