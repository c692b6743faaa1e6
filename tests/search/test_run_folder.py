"""The run folder: lock, leftovers, failures."""

import os
import signal
import subprocess
import sys

import pytest

from search.run_folder import RunFolder
from search_space import OFASearchSpace
from tests.conftest import ROOT
from utils.errors import UserError
from utils.files import write_json

HOLD = """
import sys, time
from search.run_folder import RunFolder
with RunFolder(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_and_told_who_holds_it(tmp_path, holder):
    with pytest.raises(UserError, match=f"pid {holder.pid} on "), RunFolder(tmp_path).lock():
        pass


def test_a_killed_holder_frees_the_folder(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with RunFolder(tmp_path).lock():
        assert f"pid {os.getpid()}" in (tmp_path / "search.lock").read_text()
    assert not (tmp_path / "search.lock").exists()


def test_the_lock_is_exclusive_under_contention(tmp_path):
    code = """
import sys, time
from pathlib import Path
from utils.errors import UserError
from search.run_folder import RunFolder
folder, wins = Path(sys.argv[1]), 0
end = time.monotonic() + 1.5
while time.monotonic() < end:
    try:
        with RunFolder(folder).lock():
            (folder / "inside").mkdir()
            wins += 1
            (folder / "inside").rmdir()
    except UserError:
        pass
print(wins)
"""
    runs = [subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=ROOT, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    outputs = [run.communicate() for run in runs]
    assert all(run.returncode == 0 for run in runs), outputs
    assert sum(int(out) for out, _ in outputs) > 3


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    keep = tmp_path / "iter_0" / "net_0.subnet"
    write_json(keep, {})
    (tmp_path / "iter_0" / ".net_1.subnet.abcd.tmp").write_text("half")
    RunFolder(tmp_path).remove_leftovers()
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["net_0.subnet"]


def test_failures_are_recorded_with_their_reason(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_failed(3, 5, {"r": 1}, "timeout", "after 5 s", "a log")
    folder.write_failed(0, 12, {"r": 2}, "nan", "loss is nan", "")
    assert folder.read_failed(check_arch=bool) == {
        (3, 5): ({"r": 1}, "timeout", "after 5 s"), (0, 12): ({"r": 2}, "nan", "loss is nan")}
    assert (tmp_path / "failed" / "it_3_net_5.log").read_text() == "timeout: after 5 s\n\na log\n"


def test_a_damaged_record_of_a_failure_is_named(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_failed(0, 3, {"r": 1}, "nan", "top1 is nan", "")
    with pytest.raises(UserError, match="it_0_net_3: the architecture lacks ks"):
        folder.read_failed(OFASearchSpace().encode)


def test_an_empty_folder_is_one_without_results(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert folder.is_empty()
    with folder.lock():
        assert folder.is_empty()
    write_json(folder.settings, {})
    assert not folder.is_empty()
    with pytest.raises(UserError, match="a file"):
        RunFolder(folder.settings).is_empty()


@pytest.mark.parametrize("write", [
    lambda path: (path / "events.jsonl").write_text(""),
    lambda path: write_json(path / "iter_0.stats", {})], ids=["half-way", "a new file"])
def test_whatever_fails_since_the_folder_was_renamed_says_how_to_go_on(tmp_path, write):
    folder, moved = RunFolder(tmp_path / "a"), tmp_path / "b c"
    with pytest.raises(UserError, match=f"Resume it with --resume '{moved}'"), folder.lock():
        folder.path.rename(moved)
        write(folder.path)
    assert not folder.path.exists()


def test_copies_leave_the_source_alone(tmp_path):
    source, copy = RunFolder(tmp_path / "a"), RunFolder(tmp_path / "b")
    write_json(source.subnet(0, 1), {"r": 1})
    write_json(source.iteration(0), {})
    copy.path.mkdir()
    copy.import_from(source)
    assert copy.subnet(0, 1).exists() and copy.iteration(0).exists()
    assert source.subnet(0, 1).read_bytes() == copy.subnet(0, 1).read_bytes()
