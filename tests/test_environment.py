"""Switches of the interpreter and the umask change neither the helps nor who may write."""

import os
import subprocess
import sys

import pytest

from msunas_timm.models import nsganetv2
from search.fingerprints import _of_folder
from tests.conftest import ROOT
from utils.locks import locked

SCRIPTS = sorted(str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.py"),
                                                          *ROOT.glob("scripts/*.py"))
                 if "if __name__ == " in path.read_text())


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(("switch", "value"), [("PYTHONOPTIMIZE", "2"), ("PYTHONSAFEPATH", "1")])
def test_help_under_switches_of_the_interpreter(tmp_path, script, switch, value):
    done = subprocess.run([sys.executable, str(ROOT / script), "--help"], capture_output=True,
                          text=True, env=os.environ | {switch: value}, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_a_search_whose_workers_have_a_safe_path(tmp_path, run_command):
    done = run_command("-P", ROOT / "msunas.py", "--evaluator", "oracle", "--oracle_path",
                       ROOT / "data/digits_predictor.json", "--save", tmp_path / "run", "--n_doe",
                       4, "--iterations", 0, "--no_report", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("mask", "mode"), [(0o002, 0o664), (0o022, 0o644), (0o077, 0o600)])
def test_a_lock_obeys_the_umask(tmp_path, mask, mode):
    old = os.umask(mask)
    try:
        with locked(tmp_path / "lock", "a folder") as lock:
            assert lock.path.stat().st_mode & 0o777 == mode
    finally:
        os.umask(old)


def test_folders_nested_more_deeply_than_the_stack_are_fingerprinted(tmp_path):
    os.chdir(tmp_path)
    for _ in range(1100):
        os.mkdir("a")
        os.chdir("a")
    os.chdir(ROOT)
    (tmp_path / "b").write_bytes(b"12")
    (tmp_path / "a" / ".hidden").touch()
    shallow = tmp_path.parent / f"{tmp_path.name}_shallow"
    shallow.mkdir()
    (shallow / "b").write_bytes(b"12")
    assert _of_folder(tmp_path) == _of_folder(shallow)


@pytest.mark.parametrize("repeats", [30_000_000, 10**12])
def test_a_network_of_millions_of_blocks_is_refused_before_it_is_built(repeats):
    with pytest.raises(ValueError, match="more than 1000 blocks"):
        nsganetv2(arch_def=[[f"ir_r{repeats}_k3_s1_e3_c24"]])
