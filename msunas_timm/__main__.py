"""Runs a script that knows no --device-modules with the models registered.

    python -m msunas_timm validate.py DATA --model local-dir:hub --pretrained
"""

import os
import runpy
import sys
from collections.abc import Sequence

import msunas_timm  # noqa: F401  registers the models

USAGE = "usage: python -m msunas_timm SCRIPT [its arguments]"


def main(arguments: Sequence[str]) -> None:
    """Runs the script `arguments[0]` as if it had been called by itself."""
    if not arguments or not os.path.isfile(arguments[0]):
        sys.exit(f"{USAGE}; no such script: {arguments[0]}" if arguments else USAGE)
    sys.argv = [*arguments]
    sys.path[0] = os.path.dirname(os.path.abspath(arguments[0]))
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
