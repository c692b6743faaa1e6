"""docs/extending.md: the files that it shows are taken out of the page and run."""

import json
import os
import re

import pytest

from search.archive import read_stats
from tests.conftest import ROOT

TEXT = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
FILES = {name: code for name, code in re.findall(r"```python\n# (my_\w+\.py)\n(.*?)```", TEXT,
                                                 re.DOTALL)}


@pytest.fixture
def own(tmp_path, run_command):
    """Runs a command in the folder where the files of the page are."""
    for name, code in FILES.items():
        (tmp_path / name).write_text(code)
    return lambda first, *words: run_command(
        first if first == "-m" else ROOT / first, *words, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)})


def commands(pattern: str) -> list[str]:
    return re.findall(rf"^python ({pattern}.*)", TEXT.replace("\\\n", " "),
                      re.MULTILINE)


def test_each_component_has_a_short_file():
    assert {*FILES} == {f"my_{name}.py" for name in (
        "space", "evaluator", "objective", "strategy", "predictor", "loop", "pool")}
    assert all(len(code.strip().splitlines()) <= 50 for code in FILES.values())


def test_the_examples_run_in_one_search(tmp_path, own):
    (flags,) = commands(r"msunas\.py --dataset digits")
    done = own(*flags.replace("runs/mine", str(tmp_path / "run")).split(), "--cpu_workers", 1)
    assert done.returncode == 0, done.stderr
    stats = read_stats(tmp_path / "run/iter_2.stats")
    assert stats.sec_obj == "flops+density" and len(stats.archive) == 36
    assert stats.surrogate["name"] == "nearest"
    assert all(1 < record.further[0] < 1000 for record in stats.archive)


def test_a_search_of_ones_own_space_is_run_resumed_selected_and_reported(tmp_path, own):
    save = tmp_path / "perceptrons"
    search, select, report = (
        command.replace("runs/perceptrons", str(save)).split()
        for command in commands(r"\S+ .*perceptrons"))
    done = own(*search, "--cpu_workers", 1)
    assert done.returncode == 0, done.stderr
    stats = read_stats(save / "iter_2.stats")
    assert stats.search_space == "my_space:Perceptrons" and len(stats.archive) == 18
    assert all(50 < 100 - record.top1_err <= 100 for record in stats.archive[-4:])
    refused = own("msunas.py", "--resume", save, "--iterations", 3)
    assert refused.returncode == 2
    flags = refused.stderr.split("type again: ")[1].split()
    assert own("msunas.py", "--resume", save, "--iterations", 3, *flags).returncode == 0
    for command in (select, report):
        done = own(*command)
        assert done.returncode == 0, done.stderr
    chosen = list((save / "selected").rglob("net.subnet"))
    assert json.loads(chosen[0].read_text())["search_space"] == "my_space:Perceptrons"
    assert '"width 3"' in (save / "report.html").read_text()
    costs = own("-m", "evaluator.costs", chosen[0], "--n_classes", 10, "--search_space",
                "my_space:Perceptrons")
    assert costs.returncode == 0 and json.loads(costs.stdout)["params"] > 0, costs.stderr
    (save / "settings.json").unlink()  # as a search that a notebook ran
    listed = own("post_search.py", "--expr", save, "--list", "--format", "json")
    assert listed.returncode == 0 and "--search_space my_space:Perceptrons" in listed.stderr


def test_a_program_evaluates_by_ask_and_tell(tmp_path, own, run_command):
    for name in ("my_loop.py", "my_pool.py"):
        done = run_command(tmp_path / name, cwd=tmp_path,
                           env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert done.returncode == 0, done.stderr
        assert "iteration 2/2: 18 evaluated (4 new, 0 failed)" in done.stdout
    stats = read_stats(tmp_path / "runs/loop/iter_2.stats")
    assert stats.sec_obj == "params+loss" and len(stats.archive) == 18
    done = own("post_search.py", "--expr", "runs/loop", "--list", "--search_space",
               "my_space:Perceptrons")
    assert done.returncode == 0, done.stderr


def test_a_module_that_is_missing_says_where_it_was_looked_for(tmp_path, own):
    for flags in (("--strategy", "nowhere:Own"), ("--sec_obj", "nowhere:own")):
        done = own("msunas.py", *flags, "--save", tmp_path / "run")
        assert done.returncode == 2
        assert f"looked for in {ROOT}, {tmp_path} and the installed packages" in done.stderr
