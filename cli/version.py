"""What `--version` prints, which is what a report of a fault should contain."""

import argparse
import platform
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from utils.machine import cpu_name, gpu_names, has_gpu_driver

NAME = "msunas"
# Those on which errors and results depend most.
PACKAGES = ("torch", "torchvision", "timm", "ofa", "pymoo", "numpy", "onnxruntime")
_PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def version_of(package: str) -> str:
    """Returns the version of an installed package, from its metadata; nothing is imported."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def program_version() -> str:
    """Returns the version of this program: of the checkout, else of the installed package."""
    if _PROJECT.exists():
        return str(tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]["version"])
    return version_of(NAME)


def devices() -> str:
    """Returns the cores that this process may use, and the GPUs that can be seen cheaply."""
    from joblib import cpu_count  # counts affinity and cgroup limits

    others = "a driver, but no names" if has_gpu_driver() else "none"
    return f"{cpu_count()} CPU cores ({cpu_name()}), GPUs: {', '.join(gpu_names()) or others}"


def version_text() -> str:
    """Returns a line each for the program, Python, the packages and the devices."""
    packages = ", ".join(f"{name} {version_of(name)}" for name in PACKAGES)
    return (f"{NAME} {program_version()}\nPython {platform.python_version()} on "
            f"{platform.platform()}\n{packages}\n{devices()}")


class VersionAction(argparse.Action):
    """Prints the versions and ends the program, as `--help` does."""

    def __init__(self, option_strings: Any, dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Prints to stdout, exit code 0."""
        parser._print_message(f"{version_text()}\n", sys.stdout)  # as argparse prints a help
        parser.exit()
