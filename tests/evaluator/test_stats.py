"""One judge for stats that are stored and for stats that are read."""

import json

import pytest

from evaluator.base import judge
from evaluator.jobs import EvaluatorSpec, Job, get_engine
from evaluator.jobs.base import Devices
from search.archive import read_net_stats
from utils.errors import UserError

NAN, INF = float("nan"), float("inf")
REFUSED = [({"top1": 60, "per_class": [0.5, NAN]}, "nan", r"per_class\[1\] = nan"),
           ({"top1": 60, "sizes": {"a": [1, {"b": -INF}]}}, "nan", r"sizes.a\[1\].b = -inf"),
           ({"top1": 60, "n": 10**400}, "nan", "not finite: n = 1000"),
           ({"top1": 60, "loss": -0.3}, "failed", "loss: must be a number of 0 or more, not"),
           ({"top1": 60, "params": "12M"}, "failed", "params: must be a number of 0 or more"),
           ({"top1": 60, "flops": True}, "failed", "flops"),
           ({"top1": 101}, "failed", "top1: must be a finite number in 0..100"),
           ({"top1": 60, 1: 2, "1": 3}, "failed", "twice"), ({"loss": 1.0}, "nan", "no 'top1'"),
           ({"top1": None}, "nan", "no 'top1'")]


@pytest.mark.parametrize(("stats", "status", "reason"), REFUSED)
def test_what_is_refused_when_read_is_refused_before_it_is_stored(tmp_path, stats, status, reason):
    found, error = judge(stats)
    assert found == status
    with pytest.raises(UserError, match=reason):
        raise UserError(error)
    text = json.dumps(stats)
    (tmp_path / "net_0.stats").write_text(text)
    with pytest.raises(UserError, match=r"net_0\.stats"):
        read_net_stats(tmp_path / "net_0.stats")


@pytest.mark.parametrize("stats", [
    {"top1": 0}, {"top1": 100.0, "params": None, "loss": 0.0, "note": "12M", "x": [[], {}, -1]}])
def test_what_is_accepted_is_read_again(tmp_path, stats):
    assert judge(stats) == ("ok", "")
    (tmp_path / "net_0.stats").write_text(json.dumps(stats))
    assert read_net_stats(tmp_path / "net_0.stats") == stats


def test_nested_nan_of_an_evaluator_is_an_outcome():
    spec = EvaluatorSpec("tests.jobs.evaluators:NotADict")
    with get_engine("local", spec, slots=[Devices()]) as engine:
        results = {r.job.name: r for r in engine.run([
            Job("a", {"with": {"top1": 60, "loss": -0.3}}), Job("b", {"with": {"top1": 1}})])}
    assert (results["a"].status, results["b"].status) == ("failed", "ok")
