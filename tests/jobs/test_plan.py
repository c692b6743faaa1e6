"""Which devices each worker gets."""

import os

import pytest

from evaluator.jobs import Devices, plan, plan_slots
from utils.errors import UserError


@pytest.fixture
def gpus(monkeypatch):
    """Pretends that GPUs can be seen."""
    return lambda *names: monkeypatch.setattr(plan, "visible_gpus",
                                              lambda: ("cuda", list(names)))


def test_each_worker_has_its_own_gpus(gpus, monkeypatch):
    gpus("2", "5", "GPU-a", "7", "8")
    monkeypatch.setattr(plan, "cpu_count", lambda: 12)
    assert plan_slots(8, 1) == [Devices((name,), 2) for name in ("2", "5", "GPU-a", "7", "8")]
    assert plan_slots(8, 2) == [Devices(("2", "5"), 6), Devices(("GPU-a", "7"), 6)]
    assert plan_slots(3, 3, threads=4) == [Devices(("2", "5", "GPU-a"), 4)]


def test_without_gpus_there_are_as_many_workers_as_cores(gpus):
    gpus()
    cores = len(os.sched_getaffinity(0))
    for slots in (plan_slots(8), plan_slots(0)):
        assert 1 <= len(slots) <= cores and set(slots) == {Devices(threads=1)}


def test_gpus_are_not_counted_when_none_are_wanted(monkeypatch):
    monkeypatch.setattr(plan, "visible_gpus", lambda: pytest.fail("counted"))
    assert plan_slots(0, cpu_workers=3, threads=2) == [Devices(threads=2)] * 3


def test_several_gpus_for_one_evaluation_are_warned_about(gpus, capsys):
    gpus("0", "1", "2", "3")
    plan_slots(4, 1)
    assert not capsys.readouterr().err
    plan_slots(4, 2)
    assert "--gpu 2: " in (line := capsys.readouterr().err) and line.count("\n") == 1


@pytest.mark.parametrize(("arguments", "match"), [
    ((-1, 1), "n_gpus is -1"), ((1, 0), "gpu is 0"), ((0, 1, 0), "cpu_workers is 0"),
    ((0, 1, None, 0), "threads is 0"), ((8, 3), "needs 3 GPUs, but only 2")])
def test_what_cannot_be_is_refused(gpus, arguments, match):
    gpus("0", "1")
    with pytest.raises(UserError, match=match):
        plan_slots(*arguments)


class Child:
    returncode, stderr = 0, ""

    def __init__(self, kind, count):
        self.stdout = f"{kind} {count}\n"


VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")


@pytest.fixture
def machine(monkeypatch):
    """Pretends that torch counts these GPUs, and that these variables are set."""

    def pretend(kind: str, count: int, **variables: str) -> None:
        monkeypatch.setattr(plan, "has_gpu_driver", lambda: True)
        monkeypatch.setattr(plan.subprocess, "run", lambda *_, **__: Child(kind, count))
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return pretend


@pytest.mark.parametrize(("listed", "count", "names"), [
    (None, 2, ["0", "1"]), ("3,1", 2, ["3", "1"]), ("GPU-8f, MIG-1", 2, ["GPU-8f", "MIG-1"]),
    ("2,9,3", 1, ["2"]),  # CUDA stops at the first number that is not there
    ("MIG-a/1/0,MIG-a/2/0,MIG-b", 1, ["MIG-a/1/0", "MIG-a/2/0", "MIG-b"]),  # and counts one MIG
    ("GPU-1,GPU-2", 2, ["GPU-1", "GPU-2"])])
def test_cuda_visible_devices_is_honoured(machine, listed, count, names):
    machine("cuda", count, **({} if listed is None else {"CUDA_VISIBLE_DEVICES": listed}))
    assert plan.visible_gpus() == ("cuda", names)


def test_a_driver_that_never_answers_is_one_line(monkeypatch):
    monkeypatch.setattr(plan, "has_gpu_driver", lambda: True)
    monkeypatch.setattr(plan, "_COUNT_GPUS", "import time; time.sleep(60)")
    monkeypatch.setattr(plan, "_COUNT_SECONDS", 0.1)
    with pytest.raises(UserError, match="has not answered"):
        plan.visible_gpus()


def test_no_gpu_is_no_gpu(machine):
    machine("cuda", 0, CUDA_VISIBLE_DEVICES="")
    assert plan.visible_gpus() == ("cpu", [])
    machine("cpu", 0)
    assert plan.visible_gpus() == ("cpu", [])


@pytest.mark.parametrize(("kind", "variables", "names", "device", "environment"), [
    ("rocm", {}, ["0", "1"], "cuda:0", {"HIP_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "0"}),
    ("rocm", {"HIP_VISIBLE_DEVICES": "4,6"}, ["4", "6"], "cuda:0",
     {"HIP_VISIBLE_DEVICES": "4", "CUDA_VISIBLE_DEVICES": "4"}),
    ("rocm", {"CUDA_VISIBLE_DEVICES": "5,7"}, ["5", "7"], "cuda:0",
     {"HIP_VISIBLE_DEVICES": "5", "CUDA_VISIBLE_DEVICES": "5"}),
    ("xpu", {"ZE_AFFINITY_MASK": "1,2"}, ["1", "2"], "xpu:0", {"ZE_AFFINITY_MASK": "1"}),
    ("mps", {}, ["0", "1"], "mps:0", {})])
def test_accelerators_of_every_kind_are_planned(machine, kind, variables, names, device,
                                                environment):
    machine(kind, 2, **variables)
    assert plan.visible_gpus() == (kind, names)
    first = plan_slots(2)[0]
    assert first.device_options["device"] == device and first.environment == environment


def test_the_gpus_are_counted_as_torch_does(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(plan, "has_gpu_driver", lambda: True)
    assert len(plan.visible_gpus()[1]) == torch.accelerator.device_count()


def test_the_probe_does_not_run_what_lies_in_the_current_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(plan, "has_gpu_driver", lambda: True)
    monkeypatch.chdir(tmp_path)
    for name in ("torch", "json", "encodings"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    plan.visible_gpus()
    assert not (tmp_path / "ran").exists()
