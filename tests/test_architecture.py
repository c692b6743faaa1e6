"""The layout: imports point down only, and what must stay light is light."""

import ast
import importlib
import subprocess
import sys

import pytest

from tests.conftest import ROOT

# A package may import those on lower floors, and itself.
FLOORS = [["msunas_timm"], ["utils"], ["cli"], ["search_space"],
          ["acc_predictor", "networks", "data_providers"], ["training"], ["evaluator"], ["search"],
          ["visualization"]]
ALLOWED = {name: {n for floor in FLOORS[:i] for n in floor}
           for i, floor in enumerate(FLOORS) for name in floor}
SCRIPTS = {path.stem for path in ROOT.glob("*.py")} - {"setup", "hubconf"}
TORCH_FREE = ["msunas", "post_search", "search_space", "acc_predictor", "evaluator",
              "evaluator.costs", "evaluator.latency", "evaluator.jobs", "data_providers.table",
              "search.archive", "search.events", "utils.pareto", "visualization.plots",
              "visualization.report", "utils.metrics"]


def imported(path) -> set[str]:
    """Top-level names that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_point_down_only(package):
    files = [path for path in (ROOT / package).rglob("*.py") if path.name != "__main__.py"]
    assert files  # a `__main__` is a command, which may import everything
    for path in files:
        own = imported(path) & (set(ALLOWED) | SCRIPTS | {"tests", "benchmarks", "scripts"})
        forbidden = own - ALLOWED[package] - {package}
        assert not forbidden, f"{path.relative_to(ROOT)} imports {forbidden}"


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_every_name_that_a_package_exports_is_there(package):
    module = importlib.import_module(package)
    for name in getattr(module, "__all__", ()):
        assert getattr(module, name) is not None


@pytest.mark.parametrize("module", TORCH_FREE)
def test_light_modules_load_no_torch(module):
    code = (f"import {module}, sys; "
            "sys.exit(' '.join({'torch', 'matplotlib', 'ray'} & set(sys.modules)) or 0)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"import {module} loads {done.stderr}"


def test_every_top_level_script_answers_help_without_torch(run_command):
    scripts = sorted(SCRIPTS)
    assert "msunas" in scripts
    for script in scripts:
        done = run_command("-X", "importtime", f"{script}.py", "--help")
        assert done.returncode == 0, done.stderr
        loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
        assert "torch" not in loaded, f"{script}.py --help imports torch"
