"""The console commands of an installed package, and what code of one's own imports.

    from msunas_cli import EvaluatorSpec, Search, SpaceCosts, get_engine, get_search_space

A wheel holds the project's modules in `msunas_cli/project/`, so that names such as `utils` and
`evaluator` shadow nothing in site-packages; a command puts that folder first on the path of its own
process alone. In a checkout the project is the folder above this one.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

# command -> file in the project
COMMANDS = {
    "msunas": "msunas.py",
    "msunas-select": "post_search.py",
    "msunas-validate": "validation.py",
    "msunas-tune": "train_cifar.py",
    "msunas-tune-imagenet": "train_imagenet.py",
    "msunas-supernet": "train_supernet.py",
    "msunas-evaluate": "evaluator/__main__.py",
    "msunas-predictor": "acc_predictor/__main__.py",
    "msunas-costs": "evaluator/costs/__main__.py",
    "msunas-export": "scripts/export.py",
    "msunas-baseline": "scripts/baseline.py",
    "msunas-report": "scripts/report.py",
    "msunas-plot": "scripts/plot_search.py",
    "msunas-compare": "scripts/compare.py",
    "msunas-animate": "scripts/animate.py",
    "msunas-lut": "scripts/build_lut.py",
    "msunas-check-lut": "scripts/check_lut.py",
    "msunas-learn-latency": "scripts/learn_latency.py",
    "msunas-convert-nasbench": "scripts/convert_nasbench.py",
    "msunas-digits-folder": "scripts/digits_folder.py",
    "msunas-draw": "scripts/draw.py",
}
COMPLETION = "msunas-completion"
# Top-level names that the project's folder brings.
PACKAGES = ("acc_predictor", "cli", "data_providers", "evaluator", "networks", "search",
            "search_space", "training", "utils", "visualization")
# What a notebook needs -> the module that has it.
API = {
    **dict.fromkeys(("Search", "draw", "plot_front", "plot_progress"), "visualization.notebook"),
    **dict.fromkeys(("Failure", "Progress", "Record", "SpaceCosts", "make_objectives"), "search"),
    **dict.fromkeys(("EvaluatorSpec", "InProcess", "get_engine", "plan_slots"), "evaluator.jobs"),
    "get_search_space": "search_space", "UserError": "utils.errors"}


def project() -> Path:
    """Returns the folder of the project's modules, and puts it first on this process's path.

    Code of one's own calls it once, and then imports `networks`, `search`, ... as in a checkout;
    names of `API` can be imported from here.

    Raises:
        ImportError: modules of other code have the names of the project's.
    """
    package = Path(__file__).resolve().parent
    installed = package / "project"
    folder = installed if installed.is_dir() else package.parent
    other = [name for name in PACKAGES if _is_foreign(name, folder)]
    if other:
        raise ImportError(f"{', '.join(other)}: already imported from other code, but the project "
                          "has modules of this name; import msunas_cli's first")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return folder


def _is_foreign(name: str, folder: Path) -> bool:
    """Whether a module of this name is imported from elsewhere than the folder."""
    file = getattr(sys.modules.get(name), "__file__", None)
    return name in sys.modules and (file is None or folder not in Path(file).resolve().parents)


def load_script(command: str) -> ModuleType:
    """Returns the module behind a command: it has `main` and `get_args_parser`."""
    path = project() / COMMANDS[command]
    folder = ".".join(path.parent.relative_to(project()).parts)
    if (path.parent / "__init__.py").exists():  # a part of a package
        name = f"{folder}.{path.stem}"
    else:
        name = path.stem if not folder else f"msunas_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # a .py file always has one
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(command: str) -> int:
    """Runs a command with the arguments of this process; returns the exit code."""
    script = load_script(command)
    from cli.scripts import run_script

    parser = script.get_args_parser()
    parser.prog = command
    return run_script(script.main, parser)


def __getattr__(name: str) -> Any:
    """Returns a name of `API`, or the entry point of a command: `msunas_select`."""
    if name in API:
        project()
        importlib.import_module("utils.errors").name_arguments()
        return getattr(importlib.import_module(API[name]), name)
    command = name.replace("_", "-")
    if command not in COMMANDS:
        raise AttributeError(f"module 'msunas_cli' has no attribute {name!r}")
    return lambda: run(command)
