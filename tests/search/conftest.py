"""A finished search for the tests to compare with."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.search.runs import command


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """An undisturbed run, shared by the tests; nobody writes to it."""
    save = tmp_path_factory.mktemp("search") / "run"
    done = subprocess.run([sys.executable, *command(save)], cwd=ROOT, capture_output=True,
                          text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return save, done.stdout
