"""Progress on a terminal, and how processors are waited for."""

import os
import sys
from collections.abc import Iterable
from typing import Any


def progress_bar(batches: Iterable[Any], unit: str = "batch") -> Any:
    """Wraps an iterable in a bar on stderr, where that is a terminal; nothing elsewhere."""
    from tqdm import tqdm

    return tqdm(batches, unit=unit, leave=False, disable=not _on_a_terminal())


def wait_passively() -> None:
    """Lets idle CPU threads sleep, unless OMP_WAIT_POLICY says otherwise; before torch is imported.

    Threads that wait actively keep the processors from everybody else: two programs that share
    the same cores then need several times as long as one after the other.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _on_a_terminal() -> bool:
    """Whether stderr is a terminal; a closed one is none."""
    return bool(sys.stderr and hasattr(sys.stderr, "isatty") and sys.stderr.isatty())
