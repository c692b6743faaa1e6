"""The console commands of an installed package.

A wheel holds the project's modules in `msunas_cli/project/`, so that names such as `utils` and
`evaluator` shadow nothing in site-packages; a command puts that folder first on the path of its own
process alone. In a checkout the project is the folder above this one.
"""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

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


def project() -> Path:
    """Returns the folder of the project's modules, and puts it first on this process's path.

    Code of one's own calls it once, and then imports `networks`, `search`, ... as in a checkout.
    """
    package = Path(__file__).resolve().parent
    installed = package / "project"
    folder = installed if installed.is_dir() else package.parent
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return folder


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


def __getattr__(name: str) -> Callable[[], int]:
    """Returns the entry point of a command: `msunas_select` runs `msunas-select`."""
    command = name.replace("_", "-")
    if command not in COMMANDS:
        raise AttributeError(f"module 'msunas_cli' has no attribute {name!r}")
    return lambda: run(command)
