"""Scripts whose streams are closed, that are interrupted early, or meet odd bytes and numbers."""

import os
import signal
import subprocess
import sys
import time

import pytest

from search.archive import Record, Stats, write_stats
from search_space import OFASearchSpace
from tests.conftest import ROOT

SCRIPTS = ["msunas.py", "post_search.py", "validation.py", "train_cifar.py", "train_imagenet.py",
           "train_supernet.py", "scripts/build_lut.py", "scripts/check_lut.py",
           "scripts/plot_search.py", "scripts/report.py"]


@pytest.fixture
def stats(tmp_path):
    """A small archive."""
    small, large = OFASearchSpace().extremes()
    records = [Record(small, 30.0, 90.0), Record(large, 20.0, 1200.0)]
    write_stats(tmp_path / "iter_0.stats",
                Stats(records, records, 0.5, {}, "flops", [31.0, 1300.0]))
    return tmp_path / "iter_0.stats"


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_prepares_for_ctrl_c_before_its_slow_imports(script):
    text = (ROOT / script).read_text()
    first = text.index("import cli.startup")
    for name in ("import torch\n", "from cli.scripts", "from utils", "from evaluator"):
        assert name not in text[:first]


@pytest.mark.parametrize("delay", [0.08, 0.15, 0.3, 0.6])
@pytest.mark.parametrize("script", ["msunas.py", "validation.py"])
def test_an_early_ctrl_c_is_quiet(script, delay):
    """At any moment after the interpreter itself has started, which is waited for."""
    process = subprocess.Popen([sys.executable, "-X", "importtime", script, "--dataset", "digits",
                                "--save", "/nonexistent/a", "--model", "x", "--pretrained", "x"],
                               cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    seen = []
    for line in process.stderr:  # until our first module is imported
        seen.append(line)
        if "cli.startup" in line:
            break
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    error = "".join(seen) + process.communicate(timeout=60)[1]
    assert process.returncode in (130, 2, -signal.SIGINT), error[-2000:]
    assert "Traceback" not in error


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_closed_streams_change_nothing(stats, closed):
    def close() -> None:
        for number in closed:
            os.close(number)

    output = stats.parent / "out"
    done = subprocess.run([sys.executable, "scripts/plot_search.py", str(stats.parent),
                           "--save", str(output)], cwd=ROOT, preexec_fn=close, timeout=120)
    assert done.returncode == 0
    assert list(output.parent.glob("out*"))


def test_a_search_whose_stdout_is_closed_ends_well(tmp_path):
    done = subprocess.run([sys.executable, "msunas.py", "--evaluator",
                           "tests.search.evaluators:Formula", "--save", str(tmp_path / "run"),
                           "--n_doe", "4", "--iterations", "0"], cwd=ROOT, timeout=120,
                          preexec_fn=lambda: (os.close(1), os.close(2)))
    assert done.returncode == 0
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert "iter_0.stats" in names
    assert "iteration" not in (tmp_path / "run" / "iter_0.stats").read_text()[:20]


def test_a_path_that_is_no_utf8_is_printed_and_logged(tmp_path):
    save = os.fsencode(tmp_path) + b"/run \xff\xe9"
    done = subprocess.run([sys.executable, "msunas.py", "--evaluator",
                           "tests.search.evaluators:Formula", "--save", save, "--n_doe", "4",
                           "--iterations", "0", "--tensorboard"], cwd=ROOT, capture_output=True,
                          timeout=120,
                          env={**os.environ, "MSUNAS_TEST_FAULTS": "{}", "LANG": "C.UTF-8"})
    assert done.returncode == 0, done.stderr
    assert os.path.exists(save + b"/iter_0.stats") and os.listdir(save + b"/tensorboard")


@pytest.mark.parametrize(("flag", "value"), [
    ("--timeout", "1e300"), ("--memory_limit", "1e300"), ("--cache_gb", "1e300"),
    ("--timeout", "inf"), ("--cache_gb", "nan"), ("--memory_limit", "0")])
def test_amounts_that_no_system_call_takes_are_refused(fails_clearly, tmp_path, flag, value):
    fails_clearly("msunas.py", "--save", tmp_path / "run", flag, value, match="at most 1e+09")
