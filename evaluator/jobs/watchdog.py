"""Ends the process groups of workers whose parent has ended; run as a file, with nothing imported.

A worker dies with its parent by itself, but the children that it started would not. This small
process reads every worker's group from stdin: `+123` when one starts, `-123` when it was ended.
When the parent ends, however that happens, stdin ends too, and so do the groups, and, where /proc
shows the environments, all processes that have the parent's mark in theirs (`=mark` on stdin):
children in a session of their own.
"""

import os
import signal
import sys

MARK = "MSUNAS_WORKER"  # a variable in the environment of workers, and so of their children
_TIMES = 8  # for children that are started meanwhile


def end_marked(mark: str) -> None:
    """Kills the processes in whose environment the value of `MARK` begins with `mark`."""
    for _ in range(_TIMES):
        found = [int(name) for name in _processes() if _is_marked(name, f"{MARK}={mark}".encode())]
        for process in found:
            try:
                os.kill(process, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        if not found:
            return


def _processes() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdecimal()] \
        if os.path.isdir("/proc") else []


def _is_marked(process: str, entry: bytes) -> bool:
    try:
        with open(f"/proc/{process}/environ", "rb") as file:
            return any(each.startswith(entry) for each in file.read().split(b"\0"))
    except OSError:  # it ended, or is somebody else's
        return False


def main() -> None:
    """Keeps the list, and kills what is on it when stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    groups: set[int] = set()
    mark = ""
    for line in sys.stdin:
        if line[0] == "=":
            mark = line[1:].strip()
        elif line[0] == "+":
            groups.add(int(line[1:]))
        else:
            groups.discard(int(line[1:]))
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            continue
    if mark:
        end_marked(mark)


if __name__ == "__main__":
    main()
