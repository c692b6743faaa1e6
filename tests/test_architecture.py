"""The layout: imports point down only, and what must stay light is light."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

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


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Names that are imported anywhere, `a.b` for `from a import b`; not those for types alone."""
    for node in ast.iter_child_nodes(tree):
        if is_type_checking(node):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        yield from imports_of(node)


def import_graph() -> dict[str, set[str]]:
    """The modules of the project that each one imports; a package is its `__init__`."""
    files = [*ROOT.glob("*.py"), *(path for package in [*ALLOWED, "msunas_cli", "scripts"]
                                   for path in (ROOT / package).rglob("*.py"))]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"):
               path for path in files}
    return {name: set(imports_of(ast.parse(path.read_text(encoding="utf-8")))) & set(modules)
            - {name} for name, path in modules.items()}


def test_no_modules_import_each_other_in_a_circle():
    graph = import_graph()
    assert "training.resume" in graph["training.tune"]
    assert {"networks.supernets", "search_space.base"} <= graph["networks.warm_start"]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


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
