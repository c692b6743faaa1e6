"""Progress on a terminal, and how processors are waited for."""

import os
import sys
from collections.abc import Iterable
from typing import Any

from cli.types import count


def progress_bar(batches: Iterable[Any], unit: str = "batch") -> Any:
    """Wraps an iterable in a bar on stderr, where that is a terminal; nothing elsewhere."""
    from tqdm import tqdm

    on_a_terminal = getattr(sys.stderr, "isatty", lambda: False)  # a closed stream is None
    return tqdm(batches, unit=unit, leave=False, disable=not on_a_terminal())


def announce(line: str) -> None:
    """Prints what begins and may take more than 5 s, to stderr; of several processes the first."""
    if os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Returns seconds as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def add_threads_flag(p: Any) -> None:
    """Adds `--threads`, which `share_processors` obeys, to a parser or a group of one."""
    p.add_argument("--threads", type=count(1, 1024), help="CPU threads (default: one per core; "
                   "idle ones sleep, so that others can use the cores)")


def share_processors(threads: int | None = None) -> None:
    """Lets idle CPU threads sleep, unless OMP_WAIT_POLICY says otherwise; before torch is imported.

    Threads that wait actively keep the processors from everybody else: two programs that share
    the same cores then need several times as long as one after the other.

    Args:
        threads: of torch and its libraries; None for their choice, one per core.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
