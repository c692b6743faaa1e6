"""Switches of the interpreter and the umask change neither the helps nor who may write."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from utils.locks import locked

SCRIPTS = sorted(str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.py"),
                                                          *ROOT.glob("scripts/*.py"))
                 if "if __name__ == " in path.read_text())


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_without_docstrings(script):
    done = subprocess.run([sys.executable, str(ROOT / script), "--help"], capture_output=True,
                          text=True, env=os.environ | {"PYTHONOPTIMIZE": "2"}, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


@pytest.mark.parametrize(("mask", "mode"), [(0o002, 0o664), (0o022, 0o644), (0o077, 0o600)])
def test_a_lock_obeys_the_umask(tmp_path, mask, mode):
    old = os.umask(mask)
    try:
        with locked(tmp_path / "lock", "a folder") as lock:
            assert lock.path.stat().st_mode & 0o777 == mode
    finally:
        os.umask(old)
