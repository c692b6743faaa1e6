"""How scripts are called here: as files of a checkout, or as commands of an installed package."""

import shlex
from pathlib import Path

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
