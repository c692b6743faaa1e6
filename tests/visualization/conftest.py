"""A run to look at, and a browser to look at it with."""

import os
import shutil

import pytest

from tests.visualization.runs import make_run

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """The folder of a search; nobody writes to it."""
    return make_run(tmp_path_factory.mktemp("runs") / "run a")


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium; tests that need it skip where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, see "
                                     "requirements-dev.txt")
    executable = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip("needs Chromium: install it, or set CHROMIUM to its path")
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield chromium
        chromium.close()
