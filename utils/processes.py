"""Processes that this program has started, and how they are ended."""

import os
import signal
from contextlib import suppress


def end_group(leader: int) -> None:
    """Kills a process that leads a session of its own, and all that it started there.

    Windows has no such groups: the process alone is ended.
    """
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(leader, signal.SIGKILL)
        else:
            os.kill(leader, signal.SIGTERM)
