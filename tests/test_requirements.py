"""What is installed is what was tested: every package pinned, every file of it by its hash."""

import re
import subprocess
import sys
import tomllib

import pytest
from packaging.version import Version

from tests.conftest import ROOT

NAMES = tuple(sorted(path.stem for path in ROOT.glob("requirements*.txt")))
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


def pins(text: str) -> dict[str, str]:
    """Returns {normalised name: version}."""
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in PIN.findall(text)}


def lock(name: str) -> str:
    return (ROOT / f"{name}.lock").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_the_lock_has_what_is_required(name):
    """After a change of the requirements: bash scripts/lock.sh."""
    required = pins((ROOT / f"{name}.txt").read_text())
    assert required.items() <= pins(lock(name)).items()


@pytest.mark.parametrize("name", NAMES)
def test_every_package_has_hashes_and_no_place(name):
    entries = re.split(r"\n(?=\S)", lock(name).strip())
    for entry in entries:
        assert PIN.match(entry) and "--hash=sha256:" in entry, entry
    assert "://" not in lock(name) and "--index" not in lock(name)


def test_compiled_packages_have_several_wheels():
    """One hash would be one file: those of other Linux builds and of the source count too."""
    entries = re.split(r"\n(?=\S)", lock("requirements").strip())
    hashes = {PIN.match(entry)[1]: entry.count("--hash=") for entry in entries}
    for name in ("numpy", "pillow", "scipy", "torch", "torchvision", "pyyaml", "moocore"):
        assert hashes[name] >= 4, name


def test_the_locks_agree_with_each_other():
    together: dict[str, str] = {}
    for name in NAMES:
        for package, version in pins(lock(name)).items():
            assert together.setdefault(package, version) == version, package


def test_what_is_installed_here_is_what_the_locks_say():
    if not (ROOT / ".venv").is_dir() or sys.version_info[:2] != (3, 11):
        pytest.skip("another environment than setup_env.sh's")
    done = subprocess.run([sys.executable, "-m", "pip", "freeze"], capture_output=True,
                          text=True)
    installed = pins(done.stdout)
    locked = {package: version for name in NAMES for package, version in pins(lock(name)).items()}
    other = {package: (version, installed[package]) for package, version in locked.items()
             if package in installed and installed[package].split("+")[0] != version.split("+")[0]}
    assert not other


def test_the_lowest_lock_has_the_lower_bounds():
    """After a change of pyproject.toml: bash scripts/lock.sh."""
    lowest = pins(lock("requirements-lowest"))
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        name, bound = re.match(r"([\w-]+)[>=]=([\w.]+)", line).groups()
        assert Version(lowest[name.lower()]) == Version(bound), line
