"""Where something is missing: packages of single features, and what Linux alone has."""

import ast
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from search.archive import read_stats
from tests.conftest import ROOT
from utils import locks
from utils.packages import EXTRAS, is_installed, require
from utils.registry import current_folder_last

TABLE = "a,b,top1,flops\n" + "".join(f"{a},{b},{60 + 3 * a + b},{10 * a + b + 1}\n"
                                     for a in range(6) for b in range(6))
SEARCH = ("msunas.py", "--search_space", "table", "--genes", "a,b", "--accuracy", "top1",
          "--sec_obj", "flops", "--n_doe", "12", "--iterations", "1", "--n_iter", "4",
          "--cpu_workers", "1")
# What a table needs none of.
HEAVY = ("torch", "torchvision", "timm", "ofa", "torchprofile", "tensorboard", "google", "plotly",
         "matplotlib", "ray", "onnx", "onnxruntime", "optuna")
# Run in every process: takes packages away, and names of the system.
WITHOUT = """
import os, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in os.environ.get("TEST_PACKAGES", "").split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
for name in os.environ.get("TEST_NAMES", "").split():
    if hasattr(os, name):
        delattr(os, name)
if os.environ.get("TEST_NAMES"):
    import signal
    del signal.SIGKILL
"""
WINDOWS = ("register_at_fork", "killpg", "fchmod", "pread", "pwrite", "O_NOFOLLOW", "O_NONBLOCK",
           "O_CLOEXEC", "O_DIRECTORY", "sched_getaffinity", "link", "fork")


@pytest.fixture
def run_without(tmp_path, run_command):
    """Runs a command, and what it starts, without packages and without names of `os`."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WITHOUT)
    (tmp_path / "t.csv").write_text(TABLE)

    def run(*words, packages=(), names=()):
        return run_command(*words, env={
            **os.environ, "PYTHONPATH": str(tmp_path / "site"), "TEST_PACKAGES": " ".join(packages),
            "TEST_NAMES": " ".join(names)})

    return run


def searched(tmp_path: Path, name: str = "run") -> tuple:
    return (*SEARCH, "--table", tmp_path / "t.csv", "--save", tmp_path / name)


def test_a_table_is_searched_without_torch(run_without, tmp_path):
    done = run_without(*searched(tmp_path), packages=HEAVY)
    assert done.returncode == 0, done.stderr
    assert len(read_stats(tmp_path / "run/iter_1.stats").archive) == 16
    assert "no report: a report needs the package plotly" in done.stderr
    assert "pip install plotly (in the extra report)" in done.stderr
    listed = run_without("post_search.py", "--expr", tmp_path / "run", "--list", packages=HEAVY)
    assert listed.returncode == 0 and "net-flops@" in listed.stdout, listed.stderr


@pytest.mark.parametrize("script", ["msunas.py", "post_search.py", "validation.py",
                                    "train_cifar.py", "train_imagenet.py", "train_supernet.py",
                                    *(f"scripts/{path.name}" for path in
                                      sorted((ROOT / "scripts").glob("*.py")))])
def test_every_help_needs_no_heavy_package(run_without, script):
    done = run_without(script, "--help", packages=HEAVY)
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr


@pytest.mark.parametrize(("words", "line"), [
    (("train_supernet.py", "--resolutions", "32", "--save", "ofa_y_w0.1"),
     "the package torch is not installed; run: pip install torch"),
    ((*SEARCH, "--tensorboard", "--save", "x"),
     "--tensorboard needs the package tensorboard, which is not installed; run: pip install "
     "tensorboard (in the extra tensorboard)"),
    (("scripts/convert_nasbench.py", "nasbench101", "x", "--out", "y"),
     "the package tensorboard is not installed; run: pip install tensorboard"),
    ((*SEARCH, "--backend", "ray", "--save", "x"),
     "the package ray is not installed; run: pip install ray (in the extra ray)")])
def test_a_missing_package_is_one_line(run_without, tmp_path, words, line):
    (tmp_path / "x").write_bytes(bytes(100))  # a file that would be read
    words = [tmp_path / word if word in ("x", "y", "ofa_y_w0.1") else word for word in words]
    if "--table" not in words and words[0] == "msunas.py":
        words += ["--table", tmp_path / "t.csv", "--save", tmp_path / "run"]
    done = run_without(*words, packages=HEAVY)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert line in done.stderr.splitlines()[-1]


def test_every_extra_is_one_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for module, extra in EXTRAS.items():
        name = {"google": "protobuf"}.get(module, module).replace("_", "-")
        assert any(line.startswith(name) for line in extras[extra]), module
    require("this", "json", "numpy.linalg")
    assert not is_installed("no_such_package.part")


def test_a_search_needs_no_names_that_macos_lacks(run_without, tmp_path):
    """The same archive as on Linux."""
    (tmp_path / "t.csv").write_text(TABLE)
    names = ("sched_getaffinity", "O_DIRECTORY", "pread", "pwrite", "link")
    without_signal = "\n".join(WITHOUT.splitlines()[:-3])
    (tmp_path / "site" / "sitecustomize.py").write_text(without_signal)
    for name, taken in (("linux", ()), ("macos", names)):
        done = run_without(*searched(tmp_path, name), "--no_report", names=taken)
        assert done.returncode == 0, done.stderr
    one, other = (read_stats(tmp_path / name / "iter_1.stats") for name in ("linux", "macos"))
    assert one.archive == other.archive


def test_everything_is_imported_without_names_that_windows_lacks(run_without, tmp_path):
    modules = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts)
                     for folder in ("cli", "utils", "search_space", "acc_predictor", "search",
                                    "evaluator", "networks", "data_providers", "training",
                                    "visualization") for path in (ROOT / folder).rglob("*.py")
                     if path.name not in ("__main__.py", "ray.py"))
    code = ("import importlib, os, cma, filelock, matplotlib.figure, ofa, psutil, timm.data\n"
            "import torch, torchvision, pymoo.algorithms.moo.nsga2, sklearn.ensemble\n"
            f"os.environ['TEST_NAMES'] = {' '.join(WINDOWS)!r}\n"
            "os.environ['TEST_PACKAGES'] = 'fcntl resource'\n"
            f"del sys.modules['fcntl'], sys.modules['resource']\n{WITHOUT}\n"
            f"for name in {modules!r}: importlib.import_module(name)")
    done = run_without("-c", "import sys\n" + code)
    assert done.returncode == 0, done.stderr


def test_on_windows_a_search_says_what_it_needs_and_its_results_are_read(run_without, tmp_path):
    windows = {"packages": ["fcntl"], "names": WINDOWS}
    done = run_without(*searched(tmp_path), **windows)
    assert done.returncode == 2 and "on Windows, use WSL" in done.stderr, done.stderr
    assert run_without(*searched(tmp_path, "there"), "--no_report").returncode == 0
    for words in (("post_search.py", "--expr", tmp_path / "there", "--list"),
                  ("scripts/report.py", tmp_path / "there")):
        done = run_without(*words, **windows)
        assert done.returncode == 0, done.stderr


def test_locks_do_without_fcntl(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(locks, "fcntl", None)
    with locks.locked(tmp_path / "lock", "it") as lock:
        assert "has no locks" in capsys.readouterr().err
        assert lock.path.read_text().startswith(f"pid {os.getpid()} on ")
        assert not locks.is_locked(lock.path)
    assert not lock.path.exists()


def test_what_one_system_has_is_named_in_few_places():
    """A new use of these names needs a guard, and a test above."""
    allowed = {"killpg": {"utils/processes.py", "evaluator/jobs/watchdog.py"},
               "fcntl": {"utils/locks.py"}, "resource": {"evaluator/jobs/worker.py"},
               "sched_getaffinity": set(), "fork": set(), "pread": set(), "pwrite": set()}
    for path in subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, text=True,
                               capture_output=True, check=True).stdout.split():
        if path.startswith(("tests/", "benchmarks/")) or not (ROOT / path).exists():
            continue
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            names = [node.attr] if isinstance(node, ast.Attribute) and isinstance(
                node.value, ast.Name) and node.value.id == "os" else [
                alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert path in allowed.get(name, {path}), f"{path} uses {name}"


def test_a_notebooks_backend_of_matplotlib_is_not_asked_for(run_command, tmp_path):
    (tmp_path / "t.csv").write_text(TABLE)
    env = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    assert run_command(*searched(tmp_path), "--no_report", env=env).returncode == 0
    done = run_command("scripts/plot_search.py", tmp_path / "run", env=env)
    assert done.returncode == 0, done.stderr


def test_own_modules_are_found_in_the_current_folder_after_all_others(run_command, tmp_path):
    (tmp_path / "t.csv").write_text(TABLE)
    (tmp_path / "json.py").write_text("raise SystemExit('the module of the current folder')")
    (tmp_path / "mine.py").write_text(
        "import json\nfrom search.strategies.baselines import RandomSearch\n"
        "class Mine(RandomSearch):\n    name = 'mine'\n")
    done = run_command(ROOT / SEARCH[0], *searched(tmp_path)[1:], "--no_report", "--strategy",
                       "mine:Mine", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run/settings.json").read_text())["strategy"] == "mine:Mine"
    before = [*sys.path]
    with current_folder_last():
        assert sys.path == [*before, os.getcwd()]
    assert sys.path == before
