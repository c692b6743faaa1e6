"""Faults of workers and of the file system through a whole search."""

import json
import os
from pathlib import Path

import psutil

from search.archive import read_stats
from tests.search.runs import command, contents

FAULTS = {2: "hang", 5: "memory", 8: "nan", 11: "raise", 14: "die", 17: "half", 20: "die once"}
STATUS = {2: "timeout", 5: "oom", 8: "nan", 11: "failed", 14: "lost", 17: "lost"}
REASON = {2: "not finished after 8 s", 5: "MemoryError", 8: "not finite: top1 = nan",
          11: "as the test wants", 14: "killed by signal 9", 17: "in the middle of an answer"}


def faulty(reference: Path, faults: dict[int, str], mark: Path, **variables) -> dict[str, str]:
    """The environment in which the architectures of the initial sample have these faults."""
    archs = {j: json.loads((reference / f"iter_0/net_{j}.subnet").read_text()) for j in faults}
    keys = {json.dumps(archs[j], sort_keys=True): fault for j, fault in faults.items()}
    return {**os.environ, "MSUNAS_TEST_FAULTS": json.dumps(keys), "MSUNAS_TEST_MARK": str(mark),
            **variables}


def alive(mark: Path) -> list[psutil.Process]:
    """The processes that the test has left."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MSUNAS_TEST_MARK") == str(mark):
                found.append(process)
        except psutil.Error:
            continue
    return psutil.wait_procs(found, timeout=10)[1]


def test_every_fault_of_a_worker_is_told_apart_and_the_search_completes(
        finished, tmp_path, run_command):
    save, mark = tmp_path / "run", tmp_path / "mark"
    done = run_command(*command(save), "--timeout", 8, "--memory_limit", 2,
                       env=faulty(finished[0], FAULTS, mark))
    assert done.returncode == 0, done.stderr
    failed = {j: json.loads((save / f"failed/it_0_net_{j}").read_text()) for j in STATUS}
    assert {j: record["status"] for j, record in failed.items()} == STATUS
    for j, reason in REASON.items():
        assert reason in failed[j]["error"]
        assert reason in (save / f"failed/it_0_net_{j}.log").read_text()
    assert len(list((save / "failed").iterdir())) == 2 * len(STATUS)
    retried = (save / "retries.log").read_text().splitlines()
    for line in ("iter_0/net_20: lost: the worker was killed by signal 9",
                 "iter_0/net_5: oom: "):
        assert [one.startswith(line) for one in retried].count(True) == 1
    assert "note: iter_0/net_20 took 2 attempts (lost: the worker was killed by" in done.stderr
    assert (save / "iter_0/net_20.stats").read_bytes() == \
        (finished[0] / "iter_0/net_20.stats").read_bytes()
    assert len(read_stats(save / "iter_0.stats").archive) == 52 - len(STATUS)
    assert (save / "iter_2.stats").exists()
    assert not alive(mark)


def test_slow_workers_are_waited_for(finished, tmp_path, run_command):
    """They take a hundred times the median."""
    save = tmp_path / "run"
    done = run_command(*command(save), env=faulty(
        finished[0], {3: "slow", 30: "slow"}, tmp_path / "mark", MSUNAS_TEST_SLEEP="0.02"))
    assert done.returncode == 0, done.stderr
    assert contents(save) == contents(finished[0])


def test_a_read_only_place_for_the_search_is_named(read_only_folder, fails_clearly):
    for save in (read_only_folder, read_only_folder / "run"):
        fails_clearly(*command(save), match=f"{save}")


def test_a_file_where_a_folder_should_be_is_named(tmp_path, fails_clearly):
    (tmp_path / "file").write_text("kept")
    for save in (tmp_path / "file", tmp_path / "file/run", tmp_path / "file/deep/run"):
        fails_clearly(*command(save), match=f"{tmp_path / 'file'}")
    assert (tmp_path / "file").read_text() == "kept"
