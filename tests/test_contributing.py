"""CONTRIBUTING.md: the files that it shows are taken out of the page and run."""

import re

import pytest

from search.archive import read_stats
from tests.conftest import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = {name: code for name, code in re.findall(r"```python\n# (my_\w+\.py)\n(.*?)```", TEXT,
                                                 re.DOTALL)}


@pytest.mark.parametrize("name", ["my_strategy.py", "my_predictor.py", "my_objective.py"])
def test_an_example_is_short(name):
    assert len(FILES[name].strip().splitlines()) <= 30


def test_the_examples_run_in_one_search(tmp_path, run_command):
    for name, code in FILES.items():
        (tmp_path / name).write_text(code)
    (flags,) = re.findall(r"python (msunas\.py .*?) --save runs/mine", TEXT.replace("\\\n", " "))
    script, *words = flags.split()
    done = run_command(ROOT / script, *words, "--save", tmp_path / "run", "--cpu_workers", 1,
                       cwd=tmp_path)  # where the modules are
    assert done.returncode == 0, done.stderr
    stats = read_stats(tmp_path / "run/iter_2.stats")
    assert stats.sec_obj == "flops+density" and len(stats.archive) == 36
    assert stats.surrogate["name"] == "nearest"
    assert all(1 < record.further[0] < 1000 for record in stats.archive)

