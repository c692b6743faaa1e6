"""Devices: which one is taken, and what is asked of it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from utils import devices
from utils.devices import (
    amp_precision,
    default_device,
    device_count,
    evaluation_precision,
    seeded,
    synchronize,
    widest_float,
)


@pytest.mark.parametrize("kind", ["cuda", "xpu", "mps"])
def test_any_accelerator_is_the_default(pretend_accelerator, kind):
    pretend_accelerator(kind)
    assert default_device(None) == kind
    assert default_device("cpu") == "cpu"


def test_without_one_it_is_the_cpu(pretend_accelerator):
    pretend_accelerator(None)
    assert default_device(None) == "cpu"


def test_some_devices_have_no_float64():
    assert [widest_float(torch.device(kind)) for kind in ("cpu", "cuda", "xpu", "mps")] == \
        [torch.float64] * 2 + [torch.float32] * 2


@pytest.mark.parametrize(("amp", "kind", "has", "says"), [
    (True, "cpu", False, True), ("bfloat16", "cpu", False, True), (True, "cpu", True, False),
    (None, "cpu", False, False), ("float16", "cpu", False, False), (True, "cuda", False, False)])
def test_slow_mixed_precision_is_said(monkeypatch, capsys, amp, kind, has, says):
    monkeypatch.setattr(devices, "_processor_has_bfloat16", lambda: has)
    amp_precision(amp, torch.device(kind))
    assert ("no instructions for bfloat16" in capsys.readouterr().err) == says


def test_unknown_kinds_have_no_device():
    assert device_count("cpu") == 1
    assert device_count("magic") == 0


def test_accelerators_are_waited_for_and_the_cpu_is_not(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    for device in (torch.device("cpu"), torch.device("xpu", 1)):
        synchronize(device)
    assert waited == [torch.device("xpu", 1)]


def test_the_generator_of_mps_is_put_back(monkeypatch):
    states = [torch.tensor([7], dtype=torch.uint8)]
    monkeypatch.setattr(devices, "default_device", lambda name: "mps")
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: states[-1])
    monkeypatch.setattr(torch.mps, "set_rng_state", states.append)
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with seeded(1):
        torch.rand(3)
    assert torch.equal(torch.rand(2), expected)
    assert len(states) == 2


@pytest.mark.parametrize(("amp", "device", "has", "expected"), [
    (None, "cpu", True, None), (None, "cuda", True, "bfloat16"), (None, "cuda", False, None),
    (False, "cuda", True, None), (True, "cuda", True, "float16"), (True, "cpu", True, "bfloat16"),
    ("bfloat16", "cuda", False, "bfloat16"), (None, "mps", True, None),
    (None, "xpu", True, "bfloat16")])
def test_gpus_with_bfloat16_evaluate_in_it_unless_told_otherwise(monkeypatch, amp, device, has,
                                                                 expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has)
    assert evaluation_precision(amp, torch.device(device)) == expected


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="a system without /proc")
def test_the_peak_of_memory_is_that_of_this_process(run_command):
    done = run_command("-c", "import torch; from utils.devices import peak_memory\n"
                       "cpu = torch.device('cpu'); before = peak_memory(cpu)\n"
                       "torch.ones(50 * 2**20); print(before, peak_memory(cpu) - before)")
    before, grown = map(int, done.stdout.split())
    assert 50e6 < before < 2e9, done.stderr
    assert 190 < grown / 2**20 < 260


def test_the_peak_of_memory_on_an_accelerator_is_its_own_count(monkeypatch):
    module = SimpleNamespace(max_memory_allocated=lambda device: 7)
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    assert devices.peak_memory(torch.device("cuda")) == 7
    del module.max_memory_allocated
    assert devices.peak_memory(torch.device("mps")) is None
