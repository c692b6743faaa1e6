"""How fast a report opens and answers in Chromium, and how large it is.

Searches of the ImageNet space with formula accuracies: 350 networks, and 5,000. Needs playwright
and Chromium (or CHROMIUM, its path).

    python benchmarks/report_page.py [--save benchmarks/results/report_page.md]
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import benchmark_parser, machine, moment, publish, table
from playwright.sync_api import sync_playwright

from cli.scripts import run_script
from tests.visualization.runs import N_ITER, make_run
from visualization.report import write_report

SIZES, ITERATIONS, REPEATS, HOVERS = (350, 5000), 10, 3, 10
COLUMNS = ["networks", "file (MB)", "written in (s)", "processor (s)", "words (s)",
           "charts (s)", "slowest hover (ms)", "click (ms)",
           "filter (ms)", "slider (ms)", "whole table (ms)"]
# Where each network is drawn, in pixels of the page.
PLACES = """() => { const g = document.getElementById("front"), box = g.getBoundingClientRect(),
  l = g._fullLayout, t = g.data[1];
  return t.x.map((x, i) => [box.x + l.xaxis._offset + l.xaxis.d2p(x),
                            box.y + l.yaxis._offset + l.yaxis.d2p(t.y[i])]); }"""


def report_of(n: int, folder: Path) -> tuple[Path, float]:
    """Writes a search of n networks and its report; returns the page and the report's seconds."""
    run = make_run(folder / str(n), iterations=ITERATIONS, n_doe=n - ITERATIONS * N_ITER)
    start = time.perf_counter()
    write_report(folder / f"{n}.html", [run])
    return folder / f"{n}.html", time.perf_counter() - start


def seconds(page: Any, act: Callable[..., Any], *arguments: Any) -> float:
    """Returns how long an action takes until the browser has drawn what follows from it."""
    start = time.perf_counter()
    act(*arguments)
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
    return time.perf_counter() - start


def hover(page: Any, place: list[float]) -> float:
    """Returns how long it takes until the label of a network appears next to the mouse."""
    page.mouse.move(5, 5)
    page.wait_for_function("!document.querySelector('#front .hoverlayer').textContent")
    start = time.perf_counter()
    page.mouse.move(*place)
    page.wait_for_function("document.querySelector('#front .hoverlayer').textContent"
                           ".includes('network ')", polling="raf")
    return time.perf_counter() - start


def look(browser: Any, path: Path) -> list[float]:
    """Opens a page anew and uses it; returns the seconds of each column from `processor` on."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True).new_page()
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(f"file://{path}")
    page.wait_for_selector("body[data-ready=yes]", timeout=120_000)
    metrics = session.send("Performance.getMetrics")["metrics"]
    opened = [next(row["value"] for row in metrics if row["name"] == "TaskDuration"), *(
        page.evaluate("name => performance.getEntriesByName(name)[0].startTime / 1000", name)
        for name in ("words", "charts"))]
    page.evaluate("document.getElementById('front').scrollIntoView({block: 'center'})")
    places = page.evaluate(PLACES)
    slowest = max(hover(page, places[i * len(places) // HOVERS]) for i in range(HOVERS))
    page.mouse.move(*places[1])
    found = [*opened, slowest, seconds(page, page.mouse.click, *places[1])]
    page.evaluate("document.getElementById('choices').scrollIntoView({block: 'center'})")
    page.wait_for_selector("#choices .main-svg")
    found += [seconds(page, page.fill, "input[aria-label='filter FLOPs (millions)']", "<=300"),
              seconds(page, page.fill, "#share", "50")]
    page.fill("input[aria-label='filter FLOPs (millions)']", "")
    found.append(seconds(page, page.click, "#more"))
    page.context.close()
    return found


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("--save", type=Path, help="file for the table as well")
    return p


def main(args: argparse.Namespace) -> None:
    """Prints the table."""
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    rows = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        version = browser.version
        for n in SIZES:
            path, written = report_of(n, Path(folder))
            runs = [look(browser, path) for _ in range(REPEATS)]
            middle = [statistics.median(values) for values in zip(*runs, strict=True)]
            rows.append([n, f"{path.stat().st_size / 1e6:.2f}", f"{written:.1f}",
                         *(f"{value:.2f}" for value in middle[:3]),
                         *(f"{1000 * value:.0f}" for value in middle[3:])])
        browser.close()
    text = (f"# Reports in a browser\n\n`python benchmarks/report_page.py`. Chromium {version}, "
            f"headless, no GPU; medians of {REPEATS} openings, each in a\nfresh context. Words and "
            "charts: by the page's clock, from the start of the navigation until\nthey are made. "
            "Processor: what the page's thread took of the CPU until then, which other programs\n"
            f"change less. {machine()}.\n{moment()}.\n\n{table(COLUMNS, rows)}\n")
    publish(text, args.save)


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
