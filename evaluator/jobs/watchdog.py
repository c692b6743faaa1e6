"""Ends the process groups of workers whose parent has ended; run as a file, with nothing imported.

A worker dies with its parent by itself, but the children that it started would not. This small
process reads every worker's group from stdin: `+123` when one starts, `-123` when it was ended.
When the parent ends, however that happens, stdin ends too, and so do the groups.
"""

import os
import signal
import sys


def main() -> None:
    """Keeps the list, and kills what is on it when stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        group = int(line[1:])
        if line[0] == "+":
            groups.add(group)
        else:
            groups.discard(group)
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    main()
