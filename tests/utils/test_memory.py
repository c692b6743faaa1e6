"""Freed memory that stays with a process: no page is asked for twice."""

import platform
import subprocess
import sys

import pytest

from evaluator.jobs import Devices, EvaluatorSpec, Job, get_engine
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone is told")
AS_A_SCRIPT = f"sys.modules['__main__'].__file__ = {str(ROOT / 'validation.py')!r}; "


@pytest.fixture(autouse=True)
def pages_of_4_kib(monkeypatch):
    """Of huge pages as many are needed as the address of an array happens to allow."""
    monkeypatch.setenv("NUMPY_MADVISE_HUGEPAGE", "0")


def faults_of(before: str) -> int:
    code = f"import sys; {before}; from tests.jobs.evaluators import page_faults; " \
           "print(page_faults())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("before", ["from utils.memory import keep_freed_memory as keep; keep()",
                                    AS_A_SCRIPT + "import cli.startup"])
def test_a_script_asks_once_for_its_memory(before):
    assert faults_of(before) < faults_of("import cli.startup") / 4


def test_a_worker_asks_once_for_its_memory():
    spec = EvaluatorSpec("tests.jobs.evaluators:Obedient")
    with get_engine("local", spec, slots=[Devices()]) as engine:
        (result,) = engine.run([Job("a", {"do": "faults"})])
    assert result.stats["faults"] < faults_of("import cli.startup") / 4


def test_a_library_leaves_memory_alone():
    before = faults_of("import cli.startup")
    assert faults_of("import msunas, validation, evaluator.accuracy") > before / 2 > 0
