"""The one rule between a flag, a file, and a default: what is typed is obeyed, or refused."""

from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

from utils.errors import UserError, warn

T = TypeVar("T")


def choose(flag: str, typed: T | None, recorded: T | None, source: str,
           report: Callable[[str], object] = warn) -> T | None:
    """Returns what was typed, or else what a file records: a typed flag is obeyed.

    Args:
        flag: its name, for the message.
        typed: its value; None where it was not typed.
        recorded: the file's value; None where it has none.
        source: the file.
        report: gets a line where the two differ.
    """
    if typed is not None and recorded is not None and typed != recorded:
        report(f"{source} records {short(recorded)}; using {flag} {short(typed)}")
    return recorded if typed is None else typed


def refuse_idle(typed: Collection[str], idle: Mapping[str, Collection[str]]) -> None:
    """Refuses typed flags that would change nothing.

    Args:
        typed: the flags on the command line, by the names of their values: `vld_size`.
        idle: flags as they are spelled, by the reason why they would do nothing, such as
            `without --teacher` or `with --list`.

    Raises:
        UserError: one of them was typed.
    """
    for reason, flags in idle.items():
        found = [flag for flag in flags if flag.lstrip("-").replace("-", "_") in typed]
        if found:
            has, them = ("has", "it") if len(found) == 1 else ("have", "them")
            raise UserError(f"{', '.join(found)}: {has} no meaning {reason}; leave {them} out")


def short(value: object) -> str:
    """Returns a value as it is typed: a list without brackets and commas."""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
