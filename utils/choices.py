"""The one rule between a flag, a file, and a default."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def choose(flag: str, typed: T | None, recorded: T | None, source: str,
           say: Callable[[str], object]) -> T | None:
    """Returns what was typed, or else what a file records: a typed flag is obeyed.

    Args:
        flag: its name, for the message.
        typed: its value; None where it was not typed.
        recorded: what the file says; None where it says nothing.
        source: the file.
        say: told where the two differ.
    """
    if typed is not None and recorded is not None and typed != recorded:
        say(f"{source} says {_short(recorded)}, {flag} says {_short(typed)}; the flag is obeyed")
    return recorded if typed is None else typed


def _short(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
