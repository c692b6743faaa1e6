"""What every benchmark shares: its parser, its report, the machine in a line, peak memory."""

import argparse
import os
import platform
import resource
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def benchmark_parser(script: str, doc: str | None) -> argparse.ArgumentParser:
    """Returns a parser without flags, by the file and the docstring of a benchmark."""
    return argparse.ArgumentParser(prog=Path(script).name, description=(doc or "").split("\n")[0],
                                   formatter_class=argparse.ArgumentDefaultsHelpFormatter)


def add_supernet_flags(p: argparse.ArgumentParser) -> None:
    """Adds the supernet and the images that a benchmark scores its subnets on."""
    from cli.types import count

    p.add_argument("--supernet", default="data/ofa_digits_d234_e346_k357_w0.35",
                   help="checkpoint")
    p.add_argument("--dataset", default="digits", help="data set")
    p.add_argument("--data", help="its folder; digits needs none")
    p.add_argument("--vld_size", type=count(1),
                   help="validation images (default: as many as in the supernet's training)")


def publish(text: str, path: str | Path | None = None) -> None:
    """Prints a report, and writes it where a file is named."""
    from utils.files import write_text

    print(text)
    if path:
        write_text(path, text)


def machine() -> str:
    """Returns the processor, its usable cores, and the Python version in one line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines()
                 if line.startswith("model name")]
        model = names[0] if names else model
    return f"{model}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"


def moment() -> str:
    """Returns the date and the load of the machine, as far as it is known, in one line."""
    return f"{date.today().isoformat()}, load average {os.getloadavg()[0]:.1f}"


def table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """Returns a Markdown table."""
    from search.comparison import markdown

    return markdown(header, rows)


def peak_mib() -> float:
    """Returns the peak resident memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def processes(n: int, start: Callable[..., object] | None = None,
              *args: object) -> ProcessPoolExecutor:
    """Returns `n` processes that work for this one, and end with it, even if it is killed.

    Args:
        n: how many.
        start: called in each of them first, with `args`; by default they are set up as the
            project's scripts are.
    """
    from utils.memory import keep_freed_memory

    return ProcessPoolExecutor(n, get_context("spawn"), _begin,
                               (os.getpid(), start or keep_freed_memory, args))


def _begin(parent: int, start: Callable[..., object], args: tuple[object, ...]) -> None:
    from evaluator.jobs.worker import die_with

    die_with(parent)
    start(*args)
