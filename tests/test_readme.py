"""README.md: the search as an object, as it stands on the page."""

import os
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT


def test_the_notebook_example_runs_in_fifteen_lines(tmp_path, run_command):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
               if "from search import" in block]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    script = tmp_path / "notebook.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
                      + code.replace('"data/', f'"{ROOT}/data/'))
    done = run_command(script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(" % at " in line and "MFLOPs" in line for line in lines), done.stdout
    assert (tmp_path / "runs/notebook/iter_2.stats").exists()


# What makes the README's own commands quick: its text, and what the test runs instead.
BUDGET = {"--epochs 16 4 4 12": "--epochs 1 0 0 0", "--n_doe 40 --iterations 5":
          "--n_doe 6 --iterations 1 --n_iter 2", "-n 2": "-n 1",
          "--to onnx": "--to onnx --tolerance 1"}  # the logits of an untrained network are large


@pytest.mark.slow
def test_from_a_folder_of_pictures_to_an_exported_network(tmp_path, run_command):
    """The six commands as they are printed, less their budget; each finds what the last left."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Your own pictures")[1]
    section = section.split("\n## ")[0].replace("\\\n", " ")
    commands = re.findall(r"`(python scripts/digits_folder[^`]*)`", section)
    commands += re.findall(r"^python .*$", section, re.MULTILINE)
    assert len(commands) == 7, "the folder, and six commands"
    for printed, quick in BUDGET.items():
        assert printed in section
        commands = [command.replace(printed, quick) for command in commands]
    for command in commands:
        words = [word.replace("runs/", f"{tmp_path}/runs/") for word in command.split()[1:]]
        words = [str(only(Path(word))) if "net-" in word else word for word in words]
        done = run_command(*words, env={**os.environ, "MSUNAS_CACHE": str(tmp_path / "cache")})
        assert done.returncode == 0, f"{command}: {done.stderr}"
    assert list(tmp_path.rglob("*.onnx")) and (tmp_path / "runs/search/report.html").is_file()


def only(path: Path) -> Path:
    """The same file of the network that this run chose: its FLOPs are in the folder's name."""
    folders = sorted(path.parent.parent.glob("net-*"))
    return folders[0] / path.name
