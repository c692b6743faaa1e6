"""scripts/gpu_check.sh: lines, exit codes, and its checks with a CPU in the place of a GPU."""

import importlib.util
import json
import subprocess
import zipfile

import pytest
import torch

from cli.scripts import run_script
from tests.conftest import ROOT
from utils.errors import UserError


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "benchmarks/gpu_check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def machine(script, tmp_path_factory):
    torch.set_num_threads(1)
    return script.Machine("cpu", 1, tmp_path_factory.mktemp("gpu check"))


def run(script, capsys, checks, *words) -> tuple[int, list[str]]:
    script.CHECKS.clear()
    script.CHECKS.update(checks)
    args, code = script.get_args_parser().parse_args(["--device", "cpu", *words]), 0
    try:
        script.main(args)
    except SystemExit as end:
        code = end.code
    return code, capsys.readouterr().out.splitlines()


def fails(machine):
    raise RuntimeError("two\nlines")


def test_one_line_for_each_check_and_the_worst_decides(script, capsys, monkeypatch):
    monkeypatch.setattr(script, "CHECKS", {})
    checks = {"good": lambda machine: f"on {machine.device}", "bad": fails,
              "other": lambda machine: (_ for _ in ()).throw(script.Skipped("needs two GPUs"))}
    code, lines = run(script, capsys, checks)
    assert code == 1
    *lines, result = lines
    assert [line.split()[:2] for line in lines] == [
        ["ok", "good"], ["FAILED", "bad"], ["skipped", "other"]]
    assert json.loads(result)["checks"] == {"good": "ok", "bad": "FAILED", "other": "skipped"}
    assert lines[0].endswith("on cpu")
    assert lines[1].endswith(r"RuntimeError: two\nlines")
    assert run(script, capsys, checks, "good", "other")[0] == 0
    with pytest.raises(SystemExit, match="2"):
        run(script, capsys, checks, "nonsense")


def test_a_device_that_is_not_there_is_one_line(script, capsys):
    assert run_script(script.main, script.get_args_parser(), ["--device", "nonsense"]) == 2
    assert "'nonsense' cannot be used" in (text := capsys.readouterr().err)
    assert text.count("\n") == 1


def test_without_a_set_up_it_says_so():
    done = subprocess.run(["sh", ROOT / "scripts/gpu_check.sh"], capture_output=True, text=True,
                          env={"PATH": "/usr/bin:/bin", "PYTHON": "/nowhere/python"})
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "no such interpreter" in done.stderr


def test_without_a_gpu_it_says_so():
    done = subprocess.run(["sh", ROOT / "scripts/gpu_check.sh"], capture_output=True, text=True,
                          env={"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": "",
                               "PYTHON": __import__("sys").executable})
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "torch finds no GPU here" in done.stderr


@pytest.mark.parametrize(("name", "text"), [
    ("plan", "workers on the CPU"), ("network", "within 0e+00"), ("accuracy", "in mixed precision"),
    ("loader", "cached images per s"), ("evaluation", "bfloat16 batch 16 images per s"),
    ("tuning", "without loading")])
def test_checks_pass_where_they_cannot_fail(script, machine, name, text):
    assert text in script.CHECKS[name](machine)


def test_a_device_that_computes_something_else_is_noticed(script, machine, monkeypatch):
    import networks

    calls = []

    def odd(net, batches):
        calls.append(net)
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.fill_(len(calls))

    monkeypatch.setattr(networks, "recalibrate_bn", odd)
    with pytest.raises(RuntimeError, match="logits differ"):
        script.check_network(machine)


def test_what_is_missing_is_named_and_taken_from_wheels(script, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(script.sys, "path", [*script.sys.path])
    monkeypatch.setattr(script, "BEYOND", {"no_such_module": "no-such-package", "numpy": "numpy"})
    with pytest.raises(UserError, match=r"lacks no_such_module; on a machine with a network"), \
            script.with_wheels(None):
        pass
    for name in ("no_such_package", "numpy"):  # what is installed is not taken
        with zipfile.ZipFile(tmp_path / f"{name}-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr("no_such_module.py" if name != "numpy" else "taken.py", "value = 7")
    with script.with_wheels(tmp_path):
        assert importlib.import_module("no_such_module").value == 7
        done = subprocess.run([script.sys.executable, "-c", "import no_such_module"])
        assert done.returncode == 0 and importlib.util.find_spec("taken") is None
    monkeypatch.setattr(script, "GIVEN", ("no_such_torch",))
    with pytest.raises(UserError, match="lacks no_such_torch; run: pip install no_such_torch, or"):
        script.check_packages()
    monkeypatch.setattr(script, "GIVEN", ())
    monkeypatch.setattr(script, "BEYOND", {})
    monkeypatch.setattr(torch, "__version__", "2.5.1+cu124")
    with pytest.raises(UserError, match=r"torch 2\.5\.1\+cu124 is older than 2\.6"):
        script.check_packages()
