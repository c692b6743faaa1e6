"""Fixtures for every test: the project's root, the optional real data, one way to run a script."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# What is tested is what is answered, however busy the machine is.
settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")

# A shell starts background jobs with Ctrl-C ignored, and their children inherit that; the commands
# under test must see it.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]


# Tests of one file run in one process, so that they share its fixtures; those of tests/jobs start
# Ray clusters, of which a machine holds one at a time.
TOGETHER = ("tests/jobs/",)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Returns what distributes the tests for `pytest -n 2`: by file, or by folder of `TOGETHER`."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return next((folder for folder in TOGETHER if file.startswith(folder)), file)

    return ByFile(config, log)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the project; tests that need it skip where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the real data in ../shared/data, which is not here")
    return folder


@pytest.fixture
def pretend_accelerator(monkeypatch):
    """Lets torch find an accelerator of a kind, or with None no accelerator."""
    import torch

    def pretend(kind):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: kind is not None)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))

    return pretend


def loads_folders() -> None:
    """Skips a test where timm is older than its `local-dir:`."""
    pytest.importorskip("timm", "1.0.16")


@pytest.fixture
def run_command():
    """Runs `python <arguments>` in the project's root and returns the completed process."""

    def run(*arguments, timeout: float = 300, **options) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, *map(str, arguments)], cwd=options.pop("cwd", ROOT),
                              capture_output=True, text=True, timeout=timeout, **options)

    return run


@pytest.fixture
def read_only_folder(tmp_path):
    """An empty folder that nobody can write to: a mount, since permissions do not stop root."""
    folder = tmp_path / "read only"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a file system")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=64k", "none", folder],
                      capture_output=True).returncode:
        pytest.skip("this machine does not let the test mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def fails_clearly(run_command):
    """Runs a command that must fail on bad input: exit code 2, one line on stderr, no traceback."""

    def check(*arguments, match: str = "") -> str:
        done = run_command(*arguments)
        assert done.returncode == 2, f"exit code {done.returncode}: {done.stdout}{done.stderr}"
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        assert len([line for line in lines if "error" in line]) == 1, done.stderr
        assert match in lines[-1], f"{match!r} is not in {lines[-1]!r}"
        return lines[-1]

    return check


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB: a disk that is soon full."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a file system")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder],
                      capture_output=True).returncode:
        pytest.skip("this machine does not let the test mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def with_shared_memory():
    """Runs `python <arguments>` where /dev/shm is private and has `size` (`3m`), or skips."""

    def run(size: str, *arguments, timeout: float = 120) -> subprocess.CompletedProcess:
        mount = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
        alone = ["unshare", "-rm", "bash", "-c", mount, "bash"]
        try:
            subprocess.run([*alone, "true"], check=True, capture_output=True, timeout=30)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("needs a mount namespace of its own, which is not permitted here")
        return subprocess.run([*alone, sys.executable, *map(str, arguments)], cwd=ROOT,
                              capture_output=True, text=True, timeout=timeout)

    return run
