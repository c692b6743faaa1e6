"""Imported before anything slow: what must be right while a script is still importing.

Ctrl-C ends it with one word instead of a traceback from inside a library, and a standard stream
that was closed by the caller is opened on the null device, or the next file that is opened would
take its place and receive what is printed. Memory that it frees stays with it (`utils.memory`).
Pictures are drawn to files.
"""

import os
import signal
import sys
from pathlib import Path

from utils.memory import keep_freed_memory

EXIT_INTERRUPTED = 130
_ROOT = Path(__file__).resolve().parents[1]


def runs_a_script() -> bool:
    """Whether this process runs a command of this project, and does not import it as a library."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return file is not None and (Path(file).name.startswith("msunas") or Path(
        file).resolve().parent in (_ROOT, _ROOT / "scripts", _ROOT / "evaluator"))


def quit_quietly(*_signal: object) -> None:
    """Ends the process; nothing has been started that would have to be cleaned up."""
    os.write(2, b"\ninterrupted\n")
    os._exit(EXIT_INTERRUPTED)


def open_streams() -> None:
    """Opens those of stdin, stdout and stderr that are closed on the null device."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r"))


if runs_a_script():
    open_streams()
    os.environ["MPLBACKEND"] = "agg"  # a notebook's is not there in its children
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, quit_quietly)
    keep_freed_memory()
