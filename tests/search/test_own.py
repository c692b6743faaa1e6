"""A space, an evaluator and objectives from outside the packages, through the real commands."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from search.archive import read_stats
from tests.conftest import ROOT
from tests.search.runs import contents
from tests.search.test_msunas import wait_for
from utils.pareto import non_dominated, normalized_hypervolume
from visualization.data import read_run
from visualization.report import payload

SPACE, EVALUATOR = "tests.search.toy:Cakes", "tests.search.toy:Baker"
FLAGS = ("--search_space", SPACE, "--evaluator", EVALUATOR)
OBJECTIVES = ("--sec_obj", "energy+sweetness:max")
BUDGET = ("--n_doe", 20, "--iterations", 3, "--n_iter", 4, "--dataset", "folder", "--n_classes", 2)


def command(save, *flags) -> list[str]:
    return ["msunas.py", *map(str, (*FLAGS, *OBJECTIVES, *BUDGET, "--save", save, *flags))]


@pytest.fixture(scope="module")
def cakes(tmp_path_factory):
    save = tmp_path_factory.mktemp("toy") / "run"
    done = subprocess.run([sys.executable, *command(save)], cwd=ROOT, capture_output=True,
                          text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return save


def test_three_objectives_are_searched_and_written(cakes):
    stats = read_stats(cakes / "iter_3.stats")
    assert stats.sec_obj == "energy+sweetness" and stats.search_space == SPACE
    assert [row["direction"] for row in stats.objectives] == ["min", "max"]
    assert len(stats.archive) == 32
    text = json.loads((cakes / "iter_3.stats").read_text())
    assert all(len(row) == 3 for row in text["archive"])
    values = [json.loads(path.read_text()) for path in sorted((cakes / "iter_3").glob("*.stats"))]
    expected = {(100 - v["top1"], v["energy"], v["sweetness"]) for v in values}
    assert {(r.top1_err, *r.values) for r in stats.candidates} == expected
    F = np.array([(r.top1_err, *r.values) for r in stats.archive]) * stats.signs
    assert stats.signs.tolist() == [1, 1, -1]
    assert stats.hv == pytest.approx(normalized_hypervolume(F, stats.reference_point))
    assert read_stats(cakes / "iter_0.stats").hv <= stats.hv


def test_a_killed_run_of_ones_own_resumes_to_the_same_bytes(cakes, tmp_path, run_command,
                                                            fails_clearly):
    save = tmp_path / "run"
    process = subprocess.Popen([sys.executable, *command(save)], cwd=ROOT,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               env={**os.environ, "MSUNAS_TEST_SLEEP": "0.05"})
    wait_for(save / "iter_1/net_1.stats", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    fails_clearly("msunas.py", "--resume", save,
                  match=f"type again: --evaluator {EVALUATOR} --search_space {SPACE}")
    done = run_command("msunas.py", "--resume", save, *FLAGS, *OBJECTIVES)
    assert done.returncode == 0, done.stderr
    assert contents(save) == contents(cakes)


def test_post_search_lists_and_limits_by_ones_own_objectives(cakes, run_command, fails_clearly):
    flags = ("post_search.py", "--expr", cakes, "--list", "--format", "json")
    rows = json.loads(run_command(*flags, "--search_space", SPACE).stdout)
    values = np.array([(row["top1_err"], row["energy"], -row["sweetness"]) for row in rows])
    assert len(rows) > 4 and non_dominated(values).all()
    limited = json.loads(run_command(*flags, "--search_space", SPACE, "--constraint",
                                     "energy<=1.2,sweetness>=4").stdout)
    assert 0 < len(limited) < len(rows)
    assert all(row["energy"] <= 1.2 and row["sweetness"] >= 4 for row in limited)
    untyped = run_command(*flags)
    assert untyped.returncode == 0 and "code of your own" in untyped.stderr
    assert [row["arch"] for row in json.loads(untyped.stdout)] == [row["arch"] for row in rows]
    fails_clearly(*flags, "--search_space", SPACE, "--constraint", "flops<=3",
                  match="this search has top1, energy, sweetness")
    preferred = run_command(*flags, "--search_space", SPACE, "--prefer",
                            "top1#85+energy#1+sweetness#5")
    assert any(row["chosen"] for row in json.loads(preferred.stdout))


def test_the_report_normalises_what_is_maximised(cakes):
    (run,) = payload([read_run(cakes, SPACE)])["runs"]
    curve = run["hv"]["value"]
    assert len(curve) == 32 and (np.diff(curve) >= 0).all() and 0 < curve[0] < curve[-1] < 1
    assert read_stats(cakes / "iter_3.stats").hv != pytest.approx(curve[-1], abs=0.1)


def test_an_objective_that_nobody_reports_is_named(tmp_path, fails_clearly):
    fails_clearly(*command(tmp_path / "run", "--sec_obj", "weight"),
                  match="lack the objective 'weight' (a finite number under 'weight')")
