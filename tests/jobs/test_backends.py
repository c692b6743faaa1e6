"""What every backend keeps to: the same jobs have the same outcomes, wherever they run."""

import json
import time

import pytest

from evaluator.jobs import Devices, EvaluatorSpec, Job, WorkerError, get_engine
from utils.errors import UserError

MODULE = "tests.jobs.evaluators"
SPEC = EvaluatorSpec(f"{MODULE}:Obedient", {"dataset": "digits"})
BACKENDS = ["local", "ray"]


@pytest.fixture(scope="module")
def local():
    return "local"


@pytest.fixture(scope="module")
def ray():
    library = pytest.importorskip("ray", reason="needs requirements-ray.txt")
    from evaluator.jobs.ray import connect
    connect(None, n_cpus=3)  # two of the shared engine, and one for a test of its own
    yield "ray"
    library.shutdown()


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def engine(backend):
    with get_engine(backend, SPEC, slots=[Devices()] * 2, timeout=3, retries=1) as engine:
        yield engine


def run(engine, **jobs):
    """Runs `name=(do, argument)` and returns the results by name."""
    jobs = [Job(name, {"do": do, "with": argument}) for name, (do, argument) in jobs.items()]
    return {result.job.name: result for result in engine.run(jobs)}


def test_measurements_come_back_as_they_are(engine):
    results = run(engine, **{f"j{i}": ("seeded", i) for i in range(20)})
    assert len(results) == 20 and all(r.ok and r.attempts == 1 for r in results.values())
    assert [results[f"j{i}"].stats["top1"] for i in range(20)] == [
        (i * 7919 % 1000) / 10 + 0.1 for i in range(20)]
    assert results["j0"].stats["gpu"] is None


def test_exceptions_come_back_with_their_traceback(engine):
    results = run(engine, bad=("fail", "a\nmessage of 2 lines"), good=("seeded", 1))
    assert results["good"].ok
    assert results["bad"].status == "failed" and results["bad"].stats == {}
    assert results["bad"].error == r"ValueError: a\nmessage of 2 lines"
    assert "Traceback" in results["bad"].log and "in fail" in results["bad"].log


def test_what_is_not_finite_is_never_scored(engine):
    results = run(engine, nan=("odd", {"top1": float("nan")}), none=("odd", {"top1": None}),
                  loss=("odd", {"loss": float("inf")}), good=("odd", {"gpu": 1.5}))
    assert {n: r.status for n, r in results.items()} == {
        "nan": "nan", "none": "nan", "loss": "nan", "good": "ok"}
    assert results["loss"].error == "not finite: loss = inf"


def test_memory_that_ran_out_is_retried_at_half_the_batch(engine):
    results = run(engine, halved=("cuda_memory", 0.5), never=("cuda_memory", 0.1))
    assert (results["halved"].status, results["halved"].attempts) == ("ok", 2)
    assert results["halved"].stats["scale"] == 0.5
    assert (results["never"].status, results["never"].attempts) == ("oom", 2)


def test_killed_workers_are_replaced(engine, tmp_path):
    results = run(engine, passing=("die_once", str(tmp_path / "mark")), poison=("die", 7),
                  good=("seeded", 1))
    assert (results["passing"].status, results["passing"].attempts) == ("ok", 2)
    assert (results["poison"].status, results["poison"].attempts) == ("lost", 2)
    assert results["good"].ok


def test_a_job_that_hangs_is_killed_and_the_rest_goes_on(engine, tmp_path):
    assert run(engine, warm_up=("seeded", 0))["warm_up"].ok  # Ray itself may take seconds to start
    began = time.monotonic()
    results = run(engine, hangs=("hang_with_child", str(tmp_path)), a=("seeded", 1),
                  b=("seeded", 2))
    assert results["hangs"].status == "timeout" and "3 s" in results["hangs"].error
    assert results["a"].ok and results["b"].ok
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(("name", "error", "match"), [
    (f"{MODULE}:Refusing", UserError, "no such supernet"),
    (f"{MODULE}:Missing", UserError, "no evaluator"),
    (f"{MODULE}:Broken", WorkerError, "ZeroDivisionError: a fault in the set-up\nTraceback"),
    (f"{MODULE}:DyingInSetup", WorkerError, "could not be started"),
])
def test_faults_of_the_set_up_end_the_run(backend, name, error, match):
    with get_engine(backend, EvaluatorSpec(name), slots=[Devices()], retries=0) as engine, \
            pytest.raises(error, match=match):
        list(engine.run([Job("a", {})]))


@pytest.mark.parametrize(("value", "what"), [(None, "NoneType"), ([1, 2], "list"),
                                             ({"top1": {1, 2}}, "not JSON")])
def test_an_evaluator_that_returns_something_else_has_failed(local, value, what):
    from evaluator.base import judge
    status, error = judge(value)
    assert status == "failed" and what in error
    if not isinstance(value, dict):
        spec = EvaluatorSpec(f"{MODULE}:NotADict")
        with get_engine(local, spec, slots=[Devices()]) as engine:
            (result,) = engine.run([Job("a", {"with": value})])
        assert (result.status, result.error) == (status, error)


def test_local_and_ray_agree_to_the_last_byte(local, ray):
    """In stats as in errors, except for the duration and the worker's process."""
    texts = []
    for backend in (local, ray):
        with get_engine(backend, SPEC, slots=[Devices()] * 2) as engine:
            results = run(engine, **{f"j{i}": ("seeded", i) for i in range(10)}, bad=("fail", "x"))
        texts.append(json.dumps({name: [r.status, r.error, r.attempts,
                                        r.stats.get("top1"), r.stats.get("loss")]
                                 for name, r in sorted(results.items())}))
    assert texts[0] == texts[1]


@pytest.mark.parametrize(("options", "match"), [
    ({"backend": "slurm"}, "choose from local, ray"), ({"timeout": 0}, "greater than 0"),
    ({"timeout": float("nan")}, "greater than 0"), ({"retries": -1}, "retries"),
    ({"ray_address": "auto"}, "ray_address has no meaning with --backend local"),
    ({"memory_limit": 2**30, "slots": [Devices(("0",))]}, "CUDA")])
def test_bad_options_are_refused(options, match):
    options = {"backend": "local", "slots": [Devices()]} | options
    with pytest.raises(UserError, match=match):
        get_engine(options.pop("backend"), SPEC, **options)
