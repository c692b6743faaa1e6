"""What runs the networks that are measured: onnxruntime, torch, torch-compile."""

import json
import shlex

import pytest

from evaluator.latency import LookUpTable
from evaluator.runtimes import RUNTIMES, choose_runtime, measure_networks
from evaluator.timing import Conditions
from search_space import OFASearchSpace
from utils.errors import UserError

SPACE = OFASearchSpace(resolutions=[32])
SMALL = ("--dataset", "digits", "--resolutions", "32", "--width", "0.35", "--max_repeats", "20",
         "--rel_err", "0.5")
QUICK = Conditions(rel_err=0.9, max_repeats=20)


def networks():
    return [SPACE.layers(arch, 10, 0.35) for arch in SPACE.extremes()]


@pytest.mark.parametrize("name", [
    "onnxruntime", "torch", pytest.param("torch-compile", marks=pytest.mark.slow)])
def test_each_runtime_measures_layers_and_networks(name):
    if name == "onnxruntime":
        pytest.importorskip("onnxruntime")
    small, large = networks()
    layer, whole = measure_networks([large[:1], large], name, QUICK)
    assert 0 < layer.mean < whole.mean
    (smaller,) = measure_networks([small], name, QUICK)
    assert smaller.mean < whole.mean


def test_the_default_is_onnxruntime_or_a_note_says_what_torch_means(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: True)
    assert choose_runtime(None) == "onnxruntime" and choose_runtime(None, "cuda:0") == "torch"
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("importlib.util.find_spec",
                        lambda package: None if package.startswith("onnx") else True)
    assert choose_runtime(None) == "torch"
    assert "those of PyTorch" in capsys.readouterr().err
    with pytest.raises(UserError, match="pip install onnx"):
        choose_runtime("onnxruntime")
    with pytest.raises(UserError, match="torch-compile"):
        choose_runtime("tensorflow")
    assert all(choose_runtime(name) == name for name in RUNTIMES if name != "onnxruntime")


def test_a_table_names_its_runtime_and_takes_no_other(run_command, fails_clearly, tmp_path):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "lut.yaml"
    build = ("scripts/build_lut.py", "--out", path, *SMALL)
    done = run_command(*build)
    assert done.returncode == 0 and "by onnxruntime" in done.stdout, done.stderr
    table = LookUpTable.read(path)
    assert table.runtime == "onnxruntime" and table.header["precision"] == "float32"
    assert table.header["onnxruntime"] and "torch" not in table.header
    fails_clearly(*build, "--runtime", "torch", match="other conditions")
    done = run_command("scripts/check_lut.py", path, "--n", 3, "--out", tmp_path / "c.png",
                       "--rel_err", 0.5, "--max_repeats", 20)
    assert done.returncode == 0 and '"runtime": "onnxruntime"' in done.stdout, done.stderr


def test_a_runtime_without_a_measurement_is_refused(fails_clearly, tmp_path):
    fails_clearly("msunas.py", "--dataset", "digits", "--runtime", "torch", "--save",
                  tmp_path / "run", match="measures no latency")


# A device: the time follows the size of the file; from the fourth call on it may be lost.
DEVICE = """
echo >> "$2/log"
if [ $(wc -l < "$2/log") -gt $(cat "$2/lost") ]; then echo "no route to host" >&2; exit 1; fi
wc -c < "$1"
"""


def test_a_command_measures_a_table_layer_by_layer(run_command, fails_clearly, tmp_path):
    pytest.importorskip("onnx")
    (tmp_path / "device.sh").write_text(DEVICE)
    (tmp_path / "lost").write_text("3")
    command = shlex.join(["sh", str(tmp_path / "device.sh"), "{model}", str(tmp_path)])
    path = tmp_path / "lut.yaml"
    build = ("scripts/build_lut.py", "--out", path, *SMALL[:6], "--command", command)
    line = fails_clearly(*build, match="no route to host")
    assert "the same command resumes" in line
    assert len(LookUpTable.read(path).entries) == 3
    (tmp_path / "lost").write_text("1000000")
    done = run_command(*build)
    assert done.returncode == 0, done.stderr
    table = LookUpTable.read(path)
    assert table.header["command"] == command and table.runtime == "command"
    table.require_space(SPACE, 10, 0.35)
    check = ("scripts/check_lut.py", path, "--n", 8, "--out", tmp_path / "c.png")
    fails_clearly(*check, match="name it with --command")
    done = run_command(*check, "--command", command)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["runtime"] == "command" and found["spearman"] > 0.9
    fails_clearly(*build, "--threads", 2, match="--threads: has no meaning with --command")
    fails_clearly(*build[:-1], "bench {arch}", match="single layers are ONNX files")
