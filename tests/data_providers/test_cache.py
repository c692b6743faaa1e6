"""The cache: made once, found again, bounded, shared, and never trusted when damaged."""

import errno
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from data_providers import cache as cache_module
from data_providers.cache import ArrayCache, content_key, default_cache_dir
from tests.data_providers.conftest import in_processes
from utils.files import read_json

SHAPE = (100, 10)
GB = 1e-9
KEYS = {name: content_key(name=name) for name in "abcdn"}
NAMES = {key: name for name, key in KEYS.items()}


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
    return {NAMES[path.stem] for path in folder.glob("arrays/*.npy")}


def files(folder, name: str) -> tuple[Path, Path]:
    """The array and its notes."""
    return tuple(folder / "arrays" / f"{KEYS[name]}.{kind}" for kind in ("npy", "json"))


def test_made_once_and_found_again(tmp_path):
    calls = []
    for _ in range(2):
        cache = ArrayCache(tmp_path, 1)
        for _ in range(2):
            entry = cache.get(KEYS["a"], SHAPE, maker(7, calls))
            assert entry.array.shape == SHAPE and (entry.array == 7).all()
            assert entry.meta == {"value": 7}
    assert calls == [7]
    entry.array[:] = 1  # private to this mapping
    assert (ArrayCache(tmp_path, 1).get(KEYS["a"], SHAPE, maker(7, calls)).array == 7).all()


def test_less_than_promised_is_filled_with_zeros(tmp_path):
    entry = ArrayCache(tmp_path, 1).get(KEYS["a"], SHAPE,
                                        lambda notes: iter([np.ones(15, np.uint8)]))
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
    ArrayCache(tmp_path, 1).get(KEYS["a"], SHAPE, maker(7, calls))
    damage(*files(tmp_path, "a"))
    for _ in range(2):
        assert (ArrayCache(tmp_path, 1).get(KEYS["a"], SHAPE, maker(7, calls)).array == 7).all()
    assert calls == [7, 7]


def test_the_least_recently_used_goes_first(tmp_path):
    cache = ArrayCache(tmp_path, 3.9 * 1128 * GB)  # room for three arrays
    for key in "abc":
        cache.get(KEYS[key], SHAPE, maker(1))
        time.sleep(0.01)
    cache.get(KEYS["a"], SHAPE, maker(1))
    time.sleep(0.01)
    cache.get(KEYS["d"], SHAPE, maker(1))
    assert arrays(tmp_path) == {"a", "c", "d"}
    assert sum(path.stat().st_size for path in tmp_path.glob("arrays/*.npy")) <= cache.max_bytes


def test_what_is_in_use_stays(tmp_path):
    cache = ArrayCache(tmp_path, 2.9 * 1128 * GB)
    held = [cache.get(KEYS[key], SHAPE, maker(1)) for key in "ab"]
    assert all(held) and cache.get(KEYS["c"], SHAPE, maker(1)) is None
    held.pop(0)
    assert cache.get(KEYS["c"], SHAPE, maker(1)) and arrays(tmp_path) == {"b", "c"}


@pytest.mark.parametrize("max_gb", [0, 500 * GB])
def test_what_does_not_fit_is_not_made(tmp_path, max_gb):
    calls = []
    assert ArrayCache(tmp_path, max_gb).get(KEYS["a"], SHAPE, maker(1, calls)) is None
    assert not calls and not list(tmp_path.iterdir())


def test_leftovers_of_killed_writers_are_removed(tmp_path):
    (tmp_path / "arrays").mkdir()
    for key in ("a", "b"):
        (tmp_path / "arrays" / f".{KEYS[key]}.npy.x1.tmp").write_bytes(bytes(5000))
    cache = ArrayCache(tmp_path, 2000 * GB)
    assert cache.get(KEYS["a"], SHAPE, maker(1))
    assert not list(tmp_path.glob("arrays/.*.tmp"))


def test_a_full_disk_is_survived(tmp_path, capsys):
    def make(notes):
        yield np.zeros(10, np.uint8)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "a.npy"))

    cache = ArrayCache(tmp_path, 1)
    assert cache.get(KEYS["a"], SHAPE, make) is None
    assert not list(tmp_path.glob("arrays/*.npy")) and not list(tmp_path.glob("arrays/.*.tmp"))
    assert "disk is full" in capsys.readouterr().err
    assert cache.get(KEYS["a"], SHAPE, make) is None and capsys.readouterr().err == ""


def test_a_folder_that_cannot_be_written_is_done_without(read_only_folder, tmp_path, capsys):
    (tmp_path / "file").touch()
    for folder in (read_only_folder, read_only_folder / "new", tmp_path / "file"):
        assert ArrayCache(folder, 1).get(KEYS["a"], SHAPE, maker(1)) is None
        assert "decoded images are not cached" in capsys.readouterr().err


def test_pipes_are_not_waited_for_and_folders_done_without(tmp_path, capsys):
    """In `arrays/`, which may come from elsewhere, in place of an array and of its notes."""
    data, notes = files(tmp_path, "a")
    data.parent.mkdir()
    os.mkfifo(data)
    notes.write_text("{}")
    assert (ArrayCache(tmp_path, 1).get(KEYS["a"], SHAPE, maker(7)).array == 7).all()
    notes.unlink()
    notes.mkdir()
    assert ArrayCache(tmp_path, 1).get(KEYS["a"], SHAPE, maker(7)) is None
    assert "decoded images are not cached" in capsys.readouterr().err


def test_half_of_the_free_disk_stays_free(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2000))
    assert ArrayCache(tmp_path, 1).get(KEYS["a"], SHAPE, maker(1)) is None
    monkeypatch.undo()
    assert ArrayCache(tmp_path, 1).get(KEYS["a"], SHAPE, maker(1))


def get_in_process(folder, queue):
    calls = []
    entry = ArrayCache(folder, 1).get(KEYS["a"], SHAPE, maker(3, calls))
    queue.put((len(calls), int(entry.array.sum())))


def test_processes_wait_for_the_one_that_writes(tmp_path):
    results = in_processes(6, get_in_process, tmp_path)
    assert sum(calls for calls, _ in results) == 1 and {total for _, total in results} == {3000}


def test_notes(tmp_path):
    cache = ArrayCache(tmp_path, 1)
    assert cache.note(KEYS["n"], lambda: [1, 2]) == cache.note(KEYS["n"], lambda: None) == [1, 2]
    files(tmp_path, "n")[1].write_text("[")
    assert cache.note(KEYS["n"], lambda: [3]) == [3]
    assert read_json(files(tmp_path, "n")[1])["value"] == [3]
    files(tmp_path, "n")[1].unlink()
    os.mkfifo(files(tmp_path, "n")[1])
    assert cache.note(KEYS["n"], lambda: [5]) == [5]
    assert cache.note(KEYS["n"], lambda: None) == [5], "it is kept in place of the pipe"
    assert ArrayCache(tmp_path, 0).note(KEYS["n"], lambda: 4) == 4


def test_keys_are_of_the_content():
    assert content_key(a=1, b=[2]) == content_key(b=[2], a=1) != content_key(a=1, b=[3])


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("MSUNAS_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path
    monkeypatch.delenv("MSUNAS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "msunas"


# ---------------------------------------------------------------------- what is not ours, and trust


def test_foreign_files_in_the_folder_are_never_removed(tmp_path):
    """They are neither counted nor evicted, in the folder itself or beside our arrays."""
    names = ["weights.npy", "notes.json", ".a.npy.x1.tmp", f"{KEYS['b']}.npy"]
    (tmp_path / "arrays").mkdir()
    foreign = [tmp_path / name for name in names] + [tmp_path / "arrays" / n for n in names[:3]]
    for path in foreign:
        path.write_bytes(bytes(100_000))
    cache = ArrayCache(tmp_path, 1.9 * 1128 * GB)  # room for one array
    for name in "acd":
        assert cache.get(KEYS[name], SHAPE, maker(1))
    assert all(path.stat().st_size == 100_000 for path in foreign)
    assert len([path for path in tmp_path.glob("arrays/*.npy") if path not in foreign]) == 1


def test_changed_labels_are_noticed(tmp_path, capsys):
    calls = []
    ArrayCache(tmp_path, 1).get(KEYS["a"], SHAPE, maker(7, calls))
    notes = files(tmp_path, "a")[1]
    notes.write_text(notes.read_text().replace('"value": 7', '"value": 8'))
    assert ArrayCache(tmp_path, 1).get(KEYS["a"], SHAPE, maker(7, calls)).meta == {"value": 7}
    assert calls == [7, 7] and "checksum of its labels" in capsys.readouterr().err


def test_a_changed_note_is_noticed(tmp_path):
    ArrayCache(tmp_path, 1).note(KEYS["n"], lambda: [1, 2])
    path = files(tmp_path, "n")[1]
    path.write_text(path.read_text().replace("[1, 2]", "[1, 3]"))
    assert ArrayCache(tmp_path, 1).note(KEYS["n"], lambda: [4]) == [4]


def test_the_checksum_is_taken_once_for_all_processes(tmp_path, monkeypatch):
    """Again only where the file is not the one that was written: copied, or changed."""
    verified = []
    real = cache_module._verify
    monkeypatch.setattr(cache_module, "_verify",
                        lambda *args: (verified.append(1), real(*args)))
    ArrayCache(tmp_path, 1).get(KEYS["a"], SHAPE, maker(7))
    for _ in range(3):  # each cache as in a process of its own
        assert ArrayCache(tmp_path, 1).get(KEYS["a"], SHAPE, maker(7))
    assert not verified
    shutil.copytree(tmp_path / "arrays", tmp_path / "copy" / "arrays")
    for _ in range(3):
        assert ArrayCache(tmp_path / "copy", 1).get(KEYS["a"], SHAPE, maker(7))
    assert len(verified) == 1


def test_damage_with_the_old_times_is_noticed(tmp_path):
    calls = []
    ArrayCache(tmp_path, 1).get(KEYS["a"], SHAPE, maker(7, calls))
    data, _ = files(tmp_path, "a")
    before = data.stat()
    data.write_bytes(data.read_bytes()[:-1] + b"\0")
    os.utime(data, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (ArrayCache(tmp_path, 1).get(KEYS["a"], SHAPE, maker(7, calls)).array == 7).all()
    assert calls == [7, 7]


def test_spare_arrays_drive_out_nothing_and_go_first(tmp_path):
    """As decoded files beside the batches of 17 resolutions: no array is made twice."""
    calls = []
    cache = ArrayCache(tmp_path, 3.9 * 1128 * GB)  # room for three
    spare = content_key(spare=True, name="files")
    for name in "abcabc":
        cache.get(spare, SHAPE, maker(0, calls))
        cache.get(KEYS[name], SHAPE, maker(1, calls))
    assert calls == [0, 1, 1, 1]
    assert len(list(tmp_path.glob("arrays/*.npy"))) == 3
    for path in tmp_path.glob("arrays/*.json"):
        os.utime(path, (time.time() - 2 * 86_400,) * 2)
    assert cache.get(spare, SHAPE, maker(0, calls)), "what nobody uses makes room"


def test_a_user_without_a_home_folder_goes_without(monkeypatch, capsys, tmp_path):
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    for name in ("MSUNAS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert ArrayCache(None, 1).get(KEYS["a"], SHAPE, maker(1)) is None
    assert "no home folder" in capsys.readouterr().err
    assert ArrayCache(tmp_path, 1).get(KEYS["a"], SHAPE, maker(1))
    monkeypatch.setenv("MSUNAS_CACHE", str(tmp_path / "named"))
    assert default_cache_dir() == tmp_path / "named"


def test_a_link_in_place_of_a_lock_is_not_followed(tmp_path):
    (tmp_path / "arrays").mkdir()
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "arrays" / f"{KEYS['a']}.lock").symlink_to(tmp_path / "precious")
    assert ArrayCache(tmp_path, 1).get(KEYS["a"], SHAPE, maker(1)) is None
    assert (tmp_path / "precious").read_text() == "precious"
