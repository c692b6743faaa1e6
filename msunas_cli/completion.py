"""Completion of the commands' flags in bash, zsh and tcsh; needs the package shtab."""

import argparse
import sys
from collections.abc import Sequence

from msunas_cli import COMMANDS, COMPLETION, load_script, project

SHELLS = ("bash", "zsh", "tcsh")


def script_of(shell: str) -> str:
    """Returns what a shell evaluates to complete the flags of every command.

    Raises:
        ModuleNotFoundError: shtab is not installed.
    """
    import shtab

    parts = []
    for command in COMMANDS:
        parser = load_script(command).get_args_parser()
        parser.prog = command
        parts.append(shtab.complete(parser, shell, root_prefix=command.replace("-", "_")))
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the completion for the shell that is named; returns the exit code."""
    project()
    from cli.scripts import Parser, run_script

    def show(args: argparse.Namespace) -> None:
        print(script_of(args.shell))

    parser = Parser(prog=COMPLETION, description=__doc__)
    parser.add_argument("shell", choices=SHELLS, help="of which completion is wanted")
    return run_script(show, parser, None if arguments is None else list(arguments))


if __name__ == "__main__":
    sys.exit(main())
