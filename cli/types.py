"""The types of flags, and their values from files."""

import argparse
import math
import os
from collections.abc import Callable
from typing import Any

from utils.errors import UserError

# What --download does, in every script that has it.
DOWNLOAD = ("fetch the data set into its folder where it is not there: cifar10, cifar100, "
            "fashion_mnist, stl10, aircraft, dtd, pets, flowers102")

# Seconds (32 years), GB or GiB.
MAX_AMOUNT = 1e9


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
    """An argparse type: a number above 0, and not so large that a system call would refuse it."""
    value = float(text)
    if not 0 < value <= MAX_AMOUNT:
        raise argparse.ArgumentTypeError(f"must be a number above 0, at most {MAX_AMOUNT:g}, not "
                                         f"{text[:20]}")
    return value


class Flatten(argparse.Action):
    """Stores the lists that its `type` returns, one for each text, as one list."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: str | None = None) -> None:
        """Joins the lists of one flag."""
        setattr(namespace, self.dest, [item for part in values for item in part])


class Extend(argparse.Action):
    """Stores the values of a flag that may be given several times as one list."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: str | None = None) -> None:
        """Adds the values to those of the same flag before."""
        before = getattr(namespace, self.dest, None)
        setattr(namespace, self.dest, [*(before if isinstance(before, list) else []), *values])


def integers(least: int, most: int = 10**6) -> dict[str, Any]:
    """Returns the options of `add_argument` for a list of integers in `least`..`most`.

    It can be typed as `32 36 40`, as `32,36,40`, or as `32:40:4` (first, last, step; the last one
    is included), and these can be mixed.
    """
    convert = count(least, most)

    def expand(text: str) -> list[int]:
        if ":" not in text:
            return [convert(part) for part in text.split(",")]
        first, last, step = text.split(":")
        values = list(range(convert(first), convert(last) + 1, count(1, most)(step)))
        if not values:
            raise argparse.ArgumentTypeError(f"{text[:20]} is empty: write first:last:step")
        return values

    expand.__name__ = "list"
    return {"type": expand, "nargs": "+", "action": Flatten}


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
    wanted = action.nargs if isinstance(action.nargs, int) else None
    several = action.nargs == "+" or bool(wanted)
    items = value if several and isinstance(value, list) else [value]
    try:
        wrong_number = wanted is not None and len(items) != wanted
        if action.nargs == 0 or wrong_number or not items:
            raise ValueError
        converted = [_converted(action, item) for item in items]
    except (ValueError, TypeError, OverflowError, argparse.ArgumentTypeError):
        raise UserError(f"{source}: {action.dest} cannot be {str(value)[:60]!r}; see --help") \
            from None
    if isinstance(action, Flatten):
        return [item for part in converted for item in part]
    return converted if several else converted[0]


def _converted(action: argparse.Action, item: Any) -> Any:
    """Returns one value of a flag; a text may hold a number, no other type is converted."""
    if b"\0" in os.fsencode(str(item)):  # which itself raises for what no path can hold
        raise ValueError
    convert: Any = action.type or str
    converted = convert(str(item))
    if not isinstance(item, str) and (isinstance(item, bool) or converted not in (item, [item])):
        raise ValueError
    if action.choices and converted not in action.choices:
        raise ValueError
    return converted
