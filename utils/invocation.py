"""How scripts are called here: as files of a checkout, or as commands of an installed package."""

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).resolve().parents[1]  # the checkout, or msunas_cli/project


def calling(file: str) -> list[str]:
    """Returns the words that call a script here: `python post_search.py`, or `msunas-select`.

    Args:
        file: in a checkout, such as `scripts/report.py` or `acc_predictor/__main__.py`.
    """
    if _FOLDER.parent.name == "msunas_cli":
        from msunas_cli import COMMANDS

        return [command for command, path in COMMANDS.items() if path == file]
    folder = file.rpartition("/")[0]
    if folder in ("", "scripts"):
        return ["python", file]
    return ["python", "-m", file.removesuffix(".py").removesuffix("/__main__").replace("/", ".")]


def program(file: str) -> str:
    """Returns `calling(file)` as one text."""
    return shlex.join(calling(file))


def command_line(script: str, parser: argparse.ArgumentParser, values: Mapping[str, Any]) -> str:
    """Returns the command that gives the flags these values; it can be pasted into a shell.

    Args:
        script: what is called, such as `msunas.py`, see `calling`.
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
