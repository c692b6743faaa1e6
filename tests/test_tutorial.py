"""docs/tutorial.ipynb: its cells run from start to end, and what is stored in it can be shown."""

import json
import os
import re

import pytest

from search.archive import read_stats
from tests.conftest import ROOT

NOTEBOOK = ROOT / "docs/tutorial.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def cells(kind: str) -> list[str]:
    return ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == kind]


def test_the_outputs_that_are_stored_are_small_and_complete():
    outputs = [output for cell in CELLS for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    shown = [output for output in outputs if "text/html" in output.get("data", {})]
    assert len(pictures) >= 8 and len(shown) == 1
    assert NOTEBOOK.stat().st_size < 300_000
    assert {output.get("name", "stdout") for output in outputs} == {"stdout"}
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not re.search(r"/(root|work|home|tmp)/", NOTEBOOK.read_text(encoding="utf-8"))


def test_its_links_lead_somewhere():
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", "\n".join(cells("markdown")))
    assert len(links) >= 3
    assert all((NOTEBOOK.parent / link).exists() for link in links)


@pytest.mark.slow
def test_its_cells_run_from_start_to_end(tmp_path, run_command):
    script = tmp_path / "tutorial.py"
    end = "\nprint(search._repr_html_().count('<tr>'), len(search.front()) + 1)"
    script.write_text("\n".join(cells("code")) + end, encoding="utf-8")
    done = run_command(script, cwd=tmp_path, timeout=900, env={
        **os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    values = {name: float(value) for name, value in re.findall(
        r"(random|guided): ([\d.]+) ± [\d.]+ after 60", done.stdout)}
    assert values["guided"] > values["random"] > 0
    assert "5 right, 1 wrong, tau = 0.67" in done.stdout
    assert float(re.search(r"([\d.]+)% of 600 test images", done.stdout)[1]) > 95
    rows, expected = done.stdout.split()[-2:]
    assert rows == expected
    assert len(read_stats(tmp_path / "runs/tutorial/iter_3.stats").archive) == 26
