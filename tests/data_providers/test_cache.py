"""The cache: made once, found again, bounded, shared, and never trusted when damaged."""

import errno
import multiprocessing
import os
import shutil
import time

import numpy as np
import pytest

from data_providers.cache import ArrayCache, content_key, default_cache_dir
from utils.files import read_json

SHAPE = (100, 10)
GB = 1e-9


def maker(value: int, calls: list | None = None):
    """Makes an array of one value, in chunks."""

    def make(notes):
        if calls is not None:
            calls.append(value)
        notes["value"] = value
        for _ in range(SHAPE[0]):
            yield np.full(SHAPE[1], value, np.uint8)

    return make


def arrays(folder) -> set[str]:
    return {path.stem for path in folder.glob("*.npy")}


def test_made_once_and_found_again(tmp_path):
    calls = []
    for _ in range(2):
        cache = ArrayCache(tmp_path, 1)
        for _ in range(2):
            entry = cache.get("a", SHAPE, maker(7, calls))
            assert entry.array.shape == SHAPE and (entry.array == 7).all()
            assert entry.meta == {"value": 7}
    assert calls == [7]
    entry.array[:] = 1  # private to this mapping
    assert (ArrayCache(tmp_path, 1).get("a", SHAPE, maker(7, calls)).array == 7).all()


def test_less_than_promised_is_filled_with_zeros(tmp_path):
    entry = ArrayCache(tmp_path, 1).get("a", SHAPE, lambda notes: iter([np.ones(15, np.uint8)]))
    assert entry.array.sum() == 15 and entry.array.shape == SHAPE


@pytest.mark.parametrize("damage", [
    lambda data, notes: data.write_bytes(data.read_bytes()[:-1]),
    lambda data, notes: data.write_bytes(data.read_bytes()[:50]),
    lambda data, notes: data.write_bytes(b""),
    lambda data, notes: data.write_bytes(data.read_bytes()[:-3] + b"\0" + data.read_bytes()[-2:]),
    lambda data, notes: notes.write_text('{"bytes": 1000'),
    lambda data, notes: notes.write_text("{}"),
    lambda data, notes: notes.unlink(),
    lambda data, notes: np.save(data, np.zeros((3, 3)))])
def test_damaged_files_are_made_again(tmp_path, damage):
    calls = []
    ArrayCache(tmp_path, 1).get("a", SHAPE, maker(7, calls))
    damage(tmp_path / "a.npy", tmp_path / "a.json")
    for _ in range(2):
        assert (ArrayCache(tmp_path, 1).get("a", SHAPE, maker(7, calls)).array == 7).all()
    assert calls == [7, 7]


def test_the_least_recently_used_goes_first(tmp_path):
    cache = ArrayCache(tmp_path, 3.9 * 1128 * GB)  # room for three arrays
    for key in "abc":
        cache.get(key, SHAPE, maker(1))
        time.sleep(0.01)
    cache.get("a", SHAPE, maker(1))
    time.sleep(0.01)
    cache.get("d", SHAPE, maker(1))
    assert arrays(tmp_path) == {"a", "c", "d"}
    assert sum(path.stat().st_size for path in tmp_path.glob("*.npy")) <= cache.max_bytes


def test_what_is_in_use_stays(tmp_path):
    cache = ArrayCache(tmp_path, 2.9 * 1128 * GB)
    held = [cache.get(key, SHAPE, maker(1)) for key in "ab"]
    assert all(held) and cache.get("c", SHAPE, maker(1)) is None
    held.pop(0)
    assert cache.get("c", SHAPE, maker(1)) and arrays(tmp_path) == {"b", "c"}


@pytest.mark.parametrize("max_gb", [0, 500 * GB])
def test_what_does_not_fit_is_not_made(tmp_path, max_gb):
    calls = []
    assert ArrayCache(tmp_path, max_gb).get("a", SHAPE, maker(1, calls)) is None
    assert not calls and not list(tmp_path.iterdir())


def test_leftovers_of_killed_writers_are_removed(tmp_path):
    for key in ("a", "b"):
        (tmp_path / f".{key}.npy.x1.tmp").write_bytes(bytes(5000))
    cache = ArrayCache(tmp_path, 2000 * GB)
    assert cache.get("a", SHAPE, maker(1))
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_full_disk_is_survived(tmp_path, capsys):
    def make(notes):
        yield np.zeros(10, np.uint8)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "a.npy"))

    cache = ArrayCache(tmp_path, 1)
    assert cache.get("a", SHAPE, make) is None
    assert not list(tmp_path.glob("*.npy")) and not list(tmp_path.glob(".*.tmp"))
    assert "disk is full" in capsys.readouterr().err
    assert cache.get("a", SHAPE, make) is None and capsys.readouterr().err == ""


def test_a_folder_that_cannot_be_written_is_done_without(read_only_folder, tmp_path, capsys):
    (tmp_path / "file").touch()
    for folder in (read_only_folder, read_only_folder / "new", tmp_path / "file"):
        assert ArrayCache(folder, 1).get("a", SHAPE, maker(1)) is None
        assert "going on without the cache" in capsys.readouterr().err


def test_half_of_the_free_disk_stays_free(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2000))
    assert ArrayCache(tmp_path, 1).get("a", SHAPE, maker(1)) is None
    monkeypatch.undo()
    assert ArrayCache(tmp_path, 1).get("a", SHAPE, maker(1))


def get_in_process(folder, queue):
    calls = []
    entry = ArrayCache(folder, 1).get("a", SHAPE, maker(3, calls))
    queue.put((len(calls), int(entry.array.sum())))


def test_processes_wait_for_the_one_that_writes(tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=get_in_process, args=(tmp_path, queue)) for _ in range(6)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sum(calls for calls, _ in results) == 1 and {total for _, total in results} == {3000}


def test_notes(tmp_path):
    cache = ArrayCache(tmp_path, 1)
    assert cache.note("n", lambda: [1, 2]) == cache.note("n", lambda: None) == [1, 2]
    (tmp_path / "n.json").write_text("[")
    assert cache.note("n", lambda: [3]) == [3] == read_json(tmp_path / "n.json")["value"]
    assert ArrayCache(tmp_path, 0).note("n", lambda: 4) == 4


def test_keys_are_of_the_content():
    assert content_key(a=1, b=[2]) == content_key(b=[2], a=1) != content_key(a=1, b=[3])


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("MSUNAS_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path
    monkeypatch.delenv("MSUNAS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "msunas"
