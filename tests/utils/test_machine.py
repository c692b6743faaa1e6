"""What the machine has, as far as the system's files name it."""

import pytest

from utils import machine


@pytest.fixture
def files(monkeypatch, tmp_path):
    """Lets a folder stand for the root of the file system."""
    monkeypatch.setattr(machine, "Path", lambda path: tmp_path / path.lstrip("/"))
    return tmp_path


def test_gpus_have_the_names_that_their_driver_gives(files):
    assert machine.gpu_names() == []
    for bus, name in (("0000:01:00.0", "NVIDIA H100"), ("0000:02:00.0", "NVIDIA L4")):
        folder = files / "proc/driver/nvidia/gpus" / bus
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t {name}\nIRQ:   \t\t 44\n")
    assert machine.gpu_names() == ["NVIDIA H100", "NVIDIA L4"]


def test_the_processor_has_a_name_with_and_without_cpuinfo(files):
    assert machine.cpu_name()
    (files / "proc").mkdir()
    (files / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: Model X\nmodel name\t: Y\n")
    assert machine.cpu_name() == "Model X"


@pytest.mark.parametrize("name", ["nvidia0", "dxg", "kfd", "dri/renderD128", "accel/accel0"])
def test_every_driver_is_looked_for(files, name):
    assert not machine.has_gpu_driver()
    (files / "dev" / name).parent.mkdir(parents=True)
    (files / "dev" / name).touch()
    assert machine.has_gpu_driver()
