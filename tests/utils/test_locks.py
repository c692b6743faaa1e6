"""The one lock: exclusive, dropped with its holder, and never a way to write elsewhere."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from utils.errors import UserError
from utils.locks import locked, locked_beside

HOLD = """
import sys, time
from utils.locks import locked_beside
with locked_beside(sys.argv[1], "it"):
    print("held", flush=True)
    time.sleep(600)
"""
COMMANDS = {
    "table.yaml": ("scripts/build_lut.py", "--dataset", "digits", "--resolutions", 32, "--out"),
    "net_w0.1": ("train_supernet.py", "--dataset", "digits", "--save")}


@pytest.fixture
def hold():
    """Holds a file in another process."""
    processes = []

    def start(path) -> subprocess.Popen:
        processes.append(subprocess.Popen([sys.executable, "-c", HOLD, path], cwd=ROOT, text=True,
                                          stdout=subprocess.PIPE))
        assert processes[-1].stdout.readline() == "held\n"
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_second_process_on_one_output_is_refused(tmp_path, hold, fails_clearly, name):
    holder = hold(tmp_path / name)
    fails_clearly(*COMMANDS[name], tmp_path / name, match=f"in use by another process (pid "
                  f"{holder.pid} on ")
    assert not (tmp_path / name).exists()


def test_the_end_of_a_holder_frees_the_lock(tmp_path, hold):
    holder = hold(tmp_path / "a")
    holder.kill()
    holder.wait()
    with locked_beside(tmp_path / "a", "it"):
        assert f"pid {os.getpid()}" in (tmp_path / ".a.lock").read_text()
    assert not list(tmp_path.iterdir())


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    done = os.pipe()
    with locked_beside(tmp_path / "a", "it"):
        child = os.fork()
        if child == 0:  # as a loading process that outlives its parent
            os.close(done[1])
            os.read(done[0], 1)
            os._exit(0)
    try:
        with locked_beside(tmp_path / "a", "it"):
            pass
    finally:
        os.close(done[1])
        os.waitpid(child, 0)
        os.close(done[0])


@pytest.mark.parametrize("kind", ["symlink", "dangling", "hard link", "pipe", "text", "folder"])
def test_what_is_no_lock_of_ours_is_refused_and_kept(tmp_path, kind):
    target, path = tmp_path / "precious", tmp_path / "lock"
    if kind != "dangling":
        target.write_text("precious")
    {"symlink": lambda: path.symlink_to(target), "dangling": lambda: path.symlink_to(target),
     "hard link": lambda: path.hardlink_to(target), "pipe": lambda: os.mkfifo(path),
     "text": lambda: path.write_text("a diary"), "folder": path.mkdir}[kind]()
    with pytest.raises(UserError, match="not a lock file"), locked(path, "it"):
        pass
    assert kind == "dangling" or target.read_text() == "precious"
    assert kind != "dangling" or not target.exists()
    assert kind != "text" or path.read_text() == "a diary"


def test_a_file_system_without_locks_is_said_and_done_without(tmp_path, monkeypatch, capsys):
    def refuse(*_args) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path / "lock", "it"):
        assert "has no locks" in capsys.readouterr().err


def test_a_lock_knows_that_its_folder_was_renamed(tmp_path):
    (tmp_path / "a").mkdir()
    with locked(tmp_path / "a" / "lock", "it") as lock:
        assert lock.holds()
        (tmp_path / "a").rename(tmp_path / "b")
        assert not lock.holds() and lock.place() == str(tmp_path / "b")
        with pytest.raises(UserError, match=f"it is now in {tmp_path / 'b'}"):
            lock.check()
        (tmp_path / "a").mkdir()
        with locked(tmp_path / "a" / "lock", "another"):
            pass
    assert not lock.holds()


def test_what_fails_since_the_folder_was_renamed_says_so(tmp_path):
    (tmp_path / "a").mkdir()
    with (pytest.raises(UserError, match=f"it is now in {tmp_path / 'b'}"),
          locked(tmp_path / "a" / "lock", "it")):
        (tmp_path / "a").rename(tmp_path / "b")
        (tmp_path / "a" / "late").write_text("")
    with pytest.raises(FileNotFoundError), locked(tmp_path / "lock", "it"):
        (tmp_path / "a" / "never").write_text("")
