"""Warm starts: what is taken over, what is evaluated again, and that a kill changes nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import msunas
from search.archive import read_stats
from search.constraints import Constraints
from search.run_folder import RunFolder
from search.runner import make_parts, starting_point
from search.warm_start import read_warm_start
from tests.conftest import ROOT
from tests.search.runs import EVALUATOR, command, contents, resume
from tests.search.test_msunas import wait_for
from utils.errors import UserError
from utils.pareto import non_dominated


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """A finished search of 60 evaluations for FLOPs."""
    save = tmp_path_factory.mktemp("warm") / "run"
    done = subprocess.run([sys.executable, *command(save, "--no_report")], cwd=ROOT,
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return save


def start_of(earlier, *flags):
    """What a search with these flags would start from, its settings and parts."""
    args = msunas.get_args_parser().parse_args(
        ["--evaluator", EVALUATOR, "--warm_start", str(earlier), "--save", str(earlier) + ".new",
         *map(str, flags)])
    folder, _, settings = msunas.prepare(args)
    parts = make_parts(settings)
    return starting_point(settings, parts, folder), settings, parts


def test_another_objective_takes_the_rows_and_computes_the_costs_anew(earlier):
    start, _, parts = start_of(earlier, "--sec_obj", "params+macs")
    rows = read_stats(earlier / "iter_2.stats").archive
    assert start.reason is None and len(start.records) == len(rows) == 60
    X = np.array([parts.space.encode(row.arch) for row in rows])
    assert [r.top1_err for r in start.records] == [r.top1_err for r in rows]
    costs = np.column_stack([objective.values(X) for objective in parts.objectives])
    np.testing.assert_array_equal([r.values for r in start.records], costs)


@pytest.mark.parametrize(("flags", "reason"), [
    (("--seed", 5), "another --seed, --vld_size"), (("--test",), "another --test"),
    (("--dataset", "cifar10"), "another --dataset, --n_classes"), (("--amp",), "another --amp"),
    (("--sec_obj", "cpu", "--lut", "measure"), "it has not measured cpu"),
    (("--sec_obj", "energy"), "it has not measured energy")])
def test_other_accuracies_are_not_taken_over(earlier, flags, reason):
    start, _, _ = start_of(earlier, *flags)
    assert start.reason.startswith(reason)
    assert not start.records and len(start.X) == 60


def test_the_sample_is_the_best_of_it_within_the_constraint(earlier):
    start, _, parts = start_of(earlier, "--seed", 5)
    no_limits = Constraints(None, parts.objectives, parts.costs)
    X = start.sample(parts.space, 10, no_limits, np.random.default_rng(0))
    front = start.X[non_dominated(start.F)]
    chosen, best = {tuple(x) for x in X}, {tuple(x) for x in front}
    assert len(chosen) == 10 and (chosen <= best or best <= chosen)
    cheap = Constraints("flops<=250", parts.objectives, parts.costs)
    X = start.sample(parts.space, 70, cheap, np.random.default_rng(0))
    assert len(np.unique(X, axis=0)) == 70 and (cheap.exact_violation(X) <= 0).all()


def test_nothing_is_evaluated_again_and_a_kill_changes_nothing(earlier, tmp_path):
    flags = ("--warm_start", str(earlier), "--sec_obj", "params", "--no_report")
    budget = ["--iterations", "2", "--n_iter", "4"]
    base = ["msunas.py", "--evaluator", EVALUATOR, *flags, *budget]
    save = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, *base, "--save", str(save)], cwd=ROOT, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, env={**os.environ, "MSUNAS_TEST_SLEEP": "0.1"})
    wait_for(save / "iter_1/net_1.stats", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    whole = tmp_path / "whole"
    shutil.copytree(save, whole)  # as if it had been killed before its first iteration
    for path in ("iter_0.stats", "iter_1"):
        (shutil.rmtree if (whole / path).is_dir() else os.remove)(whole / path)
    for folder in (save, whole):
        done = subprocess.run([sys.executable, *resume(folder), "--no_report"], cwd=ROOT,
                              capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    assert contents(save) == contents(whole)
    assert not (save / "iter_0").exists(), "the rows are not evaluated again"
    last = read_stats(save / "iter_2.stats")
    assert len(last.archive) == 68
    assert last.extra["warm_start"] == {"stats": str(earlier / "iter_2.stats"), "reused": True}
    assert json.loads((save / "settings.json").read_text())["reused"] is True


def test_a_resumed_search_keeps_what_was_decided_and_notices_another_archive(earlier, tmp_path):
    start, settings, parts = start_of(earlier, "--seed", 5)
    again = read_warm_start(earlier / "iter_2.stats", parts.space, parts.objectives, {}, {}, False)
    np.testing.assert_array_equal(again.X, start.X)
    assert not again.records
    folder = RunFolder(tmp_path / "started")
    (tmp_path / "started").mkdir()
    (tmp_path / "started/iter_0.stats").write_text("{}")
    settings = replace(settings, warm_start=str(tmp_path / "gone.stats"), reused=False)
    assert starting_point(settings, parts, folder) is None, "it has started and needs it no more"


@pytest.mark.parametrize(("flags", "match"), [
    (("--n_doe", 20), "replace the initial sample"),
    (("--iterations", 0), "random search"),
    (("--search_space", "proxyless"), "of the search space mbv3, not proxyless"),
    (("--dataset", "digits"), "holds '192'; the space has 32, 36, 40, 44, 48")])
def test_what_has_no_meaning_is_refused(earlier, flags, match):
    with pytest.raises(UserError, match=match):
        start_of(earlier, *flags)
    assert not os.path.exists(f"{earlier}.new")


def test_a_folder_without_a_search_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"iter_<i>\.stats"):
        start_of(tmp_path)
