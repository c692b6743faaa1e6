"""Searches compared: the numbers, and the command that makes and resumes the runs."""

import json
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from search.comparison import Box, difference_rows, evaluations_to, mean_rows, spread
from tests.conftest import ROOT
from tests.search.runs import contents
from tests.search.test_msunas import wait_for
from tests.search_space.tables import write_table

STRATEGIES = ("ehvi", "my_strategy:Own")
OWN = """
from search.strategies import Strategy


class Own(Strategy):
    name = "own"
    default_predictor = None

    def propose(self, task, k, rng):
        return task.top_up(task.X[:0], k, rng)[:k]
"""


def command(tmp_path, save, *flags, seeds=2):
    table = [f"--{key}={value}" for key, value in write_table(tmp_path).items()]
    return ["scripts/compare.py", "--strategies", ",".join(STRATEGIES), "--seeds", str(seeds),
            "--workers", "2", "--save", str(save), *flags, "--", "--search_space", "table", *table,
            "--sec_obj", "latency_ms", "--n_doe", "12", "--iterations", "2", "--n_iter", "4"]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    (folder / "my_strategy.py").write_text(OWN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        done = subprocess.run([sys.executable, *command(folder, folder / "all")], cwd=ROOT,
                              capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        yield folder, done.stdout


def test_two_strategies_are_compared_on_equal_seeds(compared):
    folder, printed = compared
    text = (folder / "all" / "comparison.md").read_text()
    assert text in printed and (folder / "all" / "comparison.png").stat().st_size > 1000
    rows = {cells[1].strip(): cells[2:-1] for line in text.splitlines()
            if len(cells := line.split("|")) > 5}
    assert [int(cell) for cell in rows["strategy"][1:]] == [12, 13, 15, 16, 18, 20]
    ours, own = (float(rows[strategy][-1].split("±")[0]) for strategy in STRATEGIES)
    difference = float(rows[" - ".join(STRATEGIES)][-1].split("(")[0])
    assert difference == pytest.approx(ours - own, abs=2e-4)
    page = (folder / "all" / "report.html").read_text()
    content = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert [run["group"] for run in content["runs"]] == [s for s in STRATEGIES for _ in range(2)]
    final = np.mean([run["hv"]["value"][-1] for run in content["runs"][:2]])
    assert ours == pytest.approx(final, abs=1e-4), "one reference point for tables and report"


@pytest.mark.slow
def test_a_comparison_that_was_killed_is_resumed_to_the_same_runs(compared, tmp_path):
    save = tmp_path / "all"
    words = [sys.executable, *command(compared[0], save)]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               text=True)
    wait_for(save / "ehvi-0/iter_0.stats", process)
    process.send_signal(signal.SIGTERM)
    assert "the same command resumes the runs" in process.communicate(timeout=60)[1]
    assert process.returncode == 130 and not (save / "comparison.md").exists()
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for run in (f"{strategy.replace(':', '.')}-{seed}" for strategy in STRATEGIES
                for seed in range(2)):
        assert contents(save / run) == contents(compared[0] / "all" / run)
    assert (save / "comparison.md").read_text() == (compared[0] / "all/comparison.md").read_text()


@pytest.mark.parametrize(("flags", "run_flags", "match"), [
    (("--strategies", "nothing"), (), "unknown strategy 'nothing'"),
    ((), ("--seed", "3"), "--seed: is set for each run"),
    ((), ("--n_iter", "5"), "--n_iter is 5, was 4")])
def test_what_cannot_be_compared_is_refused(compared, fails_clearly, flags, run_flags, match):
    folder = compared[0]
    fails_clearly(*command(folder, folder / "all", *flags), *run_flags, match=match)


def test_the_box_of_runs_with_a_maximised_objective_normalises_them():
    rng = np.random.default_rng(0)
    runs = [np.column_stack([rng.uniform(5, 50, 30), -rng.uniform(1, 9, 30)]) for _ in range(2)]
    box = Box.around(runs, [10, 10])
    assert box.ideal.tolist() == [0, min(F[:, 1].min() for F in runs)]
    curve = box.curve(runs[0], spread(1, 30))
    assert (np.diff(curve) >= 0).all() and 0 <= curve[0] < curve[-1] <= 1
    assert Box.around([-np.ones((3, 2))], [3]).curve(-np.ones((1, 2)), [1]) == [1.0]


def test_rows_by_hand():
    curves = {"a": {0: [0.2, 0.4], 1: [0.4, 0.8]}, "b": {1: [0.1, 0.2], 2: [0.3, 0.3]}}
    assert mean_rows({"a": np.array([*curves["a"].values()])}) == [
        ("a", 2, "0.3000 ± 0.1000", "0.6000 ± 0.2000")]
    assert difference_rows(curves, [0, 1]) == [("a - b", 1, "+0.3000 (-)", "+0.6000 (-)")]
    assert spread(40, 120, 6) == [40, 56, 72, 88, 104, 120] and spread(12, 13, 6) == [12, 13]
    assert evaluations_to(0.3, [10, 20], np.array([0.2, 0.4])) == 15
