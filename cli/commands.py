"""The command line that leads to given values: so that a file can record how it was made."""

import argparse
import shlex
from collections.abc import Mapping
from typing import Any

from utils.invocation import calling


def command_line(script: str, parser: argparse.ArgumentParser, values: Mapping[str, Any]) -> str:
    """Returns the command that gives the flags these values; it can be pasted into a shell.

    Args:
        script: what is called, such as `msunas.py`, see `utils.invocation.calling`.
        parser: whose flags they are; values of other names are left out.
        values: by the flag's name in the parsed arguments; those at their default are left out.
    """
    words: list[str] = []
    for action in parser._actions:
        value = values.get(action.dest, action.default)
        if not action.option_strings:
            words = [*_words(value), *words]
        elif value != action.default and value is not None:
            words.append(max(action.option_strings, key=len))
            words += [] if action.nargs == 0 else _words(value)
    return shlex.join([*calling(script), *words])


def _words(value: Any) -> list[str]:
    if value is None or value == argparse.SUPPRESS:
        return []
    return [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]
