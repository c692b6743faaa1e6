"""Which devices each worker gets."""

import os

import pytest

from evaluator.jobs import EvaluatorSpec, Slot, plan, plan_slots
from evaluator.jobs.base import isolated
from utils.errors import UserError


@pytest.fixture
def gpus(monkeypatch):
    """Pretends that GPUs can be seen."""
    return lambda *names: monkeypatch.setattr(plan, "visible_gpus", lambda: list(names))


def test_each_worker_has_its_own_gpus(gpus, monkeypatch):
    gpus("2", "5", "GPU-a", "7", "8")
    monkeypatch.setattr(plan, "cpu_count", lambda: 12)
    assert plan_slots(8, 1) == [Slot((name,), 2) for name in ("2", "5", "GPU-a", "7", "8")]
    assert plan_slots(8, 2) == [Slot(("2", "5"), 6), Slot(("GPU-a", "7"), 6)]
    assert plan_slots(3, 3, threads=4) == [Slot(("2", "5", "GPU-a"), 4)]


def test_without_gpus_there_are_as_many_workers_as_cores(gpus):
    gpus()
    cores = len(os.sched_getaffinity(0))
    for slots in (plan_slots(8), plan_slots(0)):
        assert 1 <= len(slots) <= cores and set(slots) == {Slot(threads=1)}


def test_gpus_are_not_counted_when_none_are_wanted(monkeypatch):
    monkeypatch.setattr(plan, "visible_gpus", lambda: pytest.fail("counted"))
    assert plan_slots(0, cpu_workers=3, threads=2) == [Slot(threads=2)] * 3


def test_latencies_on_gpus_of_their_own_need_not_wait_for_each_other():
    on_gpu, on_cpu = EvaluatorSpec("ofa"), EvaluatorSpec("ofa", {"latency_device": "cpu"})
    assert isolated(on_gpu, [Slot(("0",)), Slot(("1",))])
    assert not isolated(on_cpu, [Slot(("0",)), Slot(("1",))])
    assert not isolated(on_gpu, [Slot()])


@pytest.mark.parametrize(("arguments", "match"), [
    ((-1, 1), "n_gpus is -1"), ((1, 0), "gpu is 0"), ((0, 1, 0), "cpu_workers is 0"),
    ((0, 1, None, 0), "threads is 0"), ((8, 3), "wants 3 GPUs, but only 2")])
def test_what_cannot_be_is_refused(gpus, arguments, match):
    gpus("0", "1")
    with pytest.raises(UserError, match=match):
        plan_slots(*arguments)


class Child:
    returncode, stderr = 0, ""

    def __init__(self, count):
        self.stdout = f"{count}\n"


@pytest.mark.parametrize(("listed", "count", "names"), [
    (None, 2, ["0", "1"]), ("3,1", 2, ["3", "1"]), ("GPU-8f, MIG-1", 2, ["GPU-8f", "MIG-1"]),
    ("2,9,3", 1, ["2"]), ("", 0, [])])  # CUDA stops at the first name that is not there
def test_cuda_visible_devices_is_honoured(monkeypatch, listed, count, names):
    monkeypatch.setattr(plan, "_has_driver", lambda: True)
    monkeypatch.setattr(plan.subprocess, "run", lambda *_, **__: Child(count))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if listed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert plan.visible_gpus() == names


def test_the_gpus_are_counted_as_torch_does(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(plan, "_has_driver", lambda: True)
    assert len(plan.visible_gpus()) == torch.cuda.device_count()
