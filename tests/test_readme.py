"""README.md: the search as an object, as it stands on the page."""

import re

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
