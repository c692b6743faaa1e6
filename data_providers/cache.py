"""Arrays of bytes that are made once and then mapped into the memory of every process."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import time
import weakref
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from filelock import BaseFileLock, FileLock, Timeout

from utils.errors import UserError, describe_os_error, note, one_line
from utils.files import atomic_path, make_folder, read_json, write_json

_HEADER = 128  # bytes of an .npy file before its data
# The only folder and names that are ever written or removed below the folder that a user names.
_SUBFOLDER = "arrays"
_OWN = re.compile(r"[0-9a-f]{32}(-spare)?\.npy", re.ASCII)
_TEMPORARY = re.compile(r"\.([0-9a-f]{32}(?:-spare)?)\.(?:npy|json)\.[a-z0-9_]+\.tmp", re.ASCII)
# A spare array only replaces what has not been used for a day.
_SPARE, _SPARE_WAITS = "-spare", 86_400.0
# Calls with a dict to fill, yields the array's bytes in order.
Maker = Callable[[dict[str, Any]], Iterator[np.ndarray]]


def default_cache_dir() -> Path | None:
    """Returns $MSUNAS_CACHE, or `msunas` in the user's cache folder; None for a user without."""
    for name, folder in (("MSUNAS_CACHE", "."), ("XDG_CACHE_HOME", "msunas")):
        if os.environ.get(name):
            return Path(os.environ[name], folder)
    try:
        return Path.home() / ".cache" / "msunas"
    except RuntimeError:  # in a container: no HOME, and a user that has no entry
        return None


def content_key(spare: bool = False, **identity: Any) -> str:
    """Returns the name of what is made from `identity` (JSON types): equal content, equal name.

    A `spare` array saves time while there is room for it, and never evicts another one.
    """
    text = json.dumps(identity, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest() + (_SPARE if spare else "")


@dataclass(frozen=True, eq=False)
class Entry:
    """A cached array, memory-mapped; what is written to it stays private.

    Attributes:
        array: uint8, of the shape asked for.
        meta: the notes of its maker.
    """

    array: np.ndarray
    meta: dict[str, Any]


class ArrayCache:
    """A folder of arrays (`<key>.npy`, each with a `<key>.json`), bounded in size.

    Several processes may share the folder: one makes an array, the others wait and map it. A file
    that was damaged is made again: its checksum is verified by the first process that finds it
    other than it was written (by inode, size and times). What was used least recently goes first
    when room is needed, spare arrays before all others, but nothing that this process is using.

    Args:
        folder: the arrays are in its subfolder `arrays`; None takes `default_cache_dir()`.
        max_gb: bound of the folder in GB; 0 switches the cache off.
    """

    # (file, id) -> array, of every array that is still in use in this process.
    _mapped: ClassVar[weakref.WeakValueDictionary] = weakref.WeakValueDictionary()

    def __init__(self, folder: str | os.PathLike | None, max_gb: float) -> None:
        place = Path(folder) if folder is not None else default_cache_dir()
        self.max_bytes = int(max_gb * 1e9) if place else 0
        self.folder = (place or Path()) / _SUBFOLDER
        if place is None and max_gb > 0:
            note("this user has no home folder; decoded images are not cached (give --cache_dir)")
        self._verified: set[tuple] = set()

    def get(self, key: str, shape: tuple[int, ...], make: Maker) -> Entry | None:
        """Returns the array called `key`, made by `make` where it is not there yet.

        Args:
            key: from `content_key`.
            shape: of the array; where `make` yields less, the rest is 0.
            make: called with a dict for notes (JSON types), yields uint8 arrays in order.

        Returns:
            The entry; None where it does not fit or the folder cannot be written: go without.
        """
        size = _HEADER + int(np.prod(shape))
        if size > self.max_bytes:
            return None
        entry = None
        try:
            entry = self._open(key, shape)
            if entry is not None:
                return entry
            make_folder(self.folder)
            with file_lock(self.folder / f"{key}.lock"):
                entry = self._open(key, shape)
                for left in self.folder.glob(f".{key}.*.tmp"):  # of a writer that was killed
                    left.unlink(missing_ok=True)
                if entry is None and self._make_room(size, key.endswith(_SPARE)):
                    self._write(key, shape, make)
                    entry = self._open(key, shape)
        except OSError as error:
            note(f"{one_line(describe_os_error(error))}; decoded images are not cached")
            self.max_bytes = 0
        return entry

    def note(self, key: str, make: Callable[[], Any]) -> Any:
        """Returns a small JSON value kept under `key`, made where it is not there yet."""
        path = self.folder / f"{key}.json"
        if self.max_bytes > 0 and _stat(path):
            try:
                stored = read_json(path)
                if stored["crc32"] == _crc_of(stored["value"]):
                    return stored["value"]
            except (UserError, KeyError):
                pass
            note(f"{path}: damaged, made again")
        value = make()
        if self.max_bytes > 0:
            try:
                _make_way(path)
                write_json(path, {"value": value, "crc32": _crc_of(value)})
            except OSError as error:
                note(one_line(describe_os_error(error)))
        return value

    def _paths(self, key: str) -> tuple[Path, Path]:
        return self.folder / f"{key}.npy", self.folder / f"{key}.json"

    def _open(self, key: str, shape: tuple[int, ...]) -> Entry | None:
        data, notes = self._paths(key)
        try:
            stamp = _stamp(data)
            if not notes.exists():
                return None
            meta = read_json(notes)
            array = np.load(data, mmap_mode="c", allow_pickle=False)
            if array.shape != tuple(shape) or array.dtype != np.uint8:
                raise ValueError(f"has the shape {array.shape}")
            if meta["notes_crc32"] != _crc_of(meta["notes"]):
                raise ValueError("the checksum of its labels is wrong")
            if stamp != meta.get("stamp") and (key, *stamp) not in self._verified:
                _verify(array, meta)
                self._verified.add((key, *stamp))
                with contextlib.suppress(OSError):  # another user's folder: each process verifies
                    write_json(notes, meta | {"stamp": stamp})
        except OSError:  # not there, evicted just now, or not to be read
            return None
        except (ValueError, EOFError, KeyError, TypeError, UserError) as error:
            note(f"{data}: damaged ({one_line(error)}), made again")
            notes.unlink(missing_ok=True)
            data.unlink(missing_ok=True)
            return None
        with contextlib.suppress(OSError):  # another user's folder, or evicted just now
            os.utime(notes)
        self._mapped[data, id(array)] = array
        return Entry(array, meta["notes"])

    def _write(self, key: str, shape: tuple[int, ...], make: Maker) -> None:
        data, notes = self._paths(key)
        meta: dict[str, Any] = {}
        size, crc = 0, 0
        for path in (data, notes):
            _make_way(path)
        with atomic_path(data) as temporary, open(temporary, "wb") as file:
            file.truncate(_HEADER + int(np.prod(shape)))  # counts from the start for `_make_room`
            np.lib.format.write_array_header_1_0(
                file, {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)})
            for chunk in make(meta):
                chunk = np.ascontiguousarray(chunk)
                crc = zlib.crc32(chunk.data, crc)
                size += chunk.nbytes
                file.write(chunk.data)
        write_json(notes, {"bytes": size, "crc32": crc, "notes": meta,
                           "notes_crc32": _crc_of(meta), "stamp": _stamp(data)})

    def _make_room(self, size: int, spare: bool) -> bool:
        """Removes the least recently used until `size` more bytes fit; False where they cannot."""
        with file_lock(self.folder / "evict.lock"):
            files = [path for path in self.folder.iterdir() if self._counts(path)]
            sizes = {path: status.st_size for path in files if (status := _stat(path))}
            total, in_use = sum(sizes.values()), {path for path, _ in self._mapped}
            recent = time.time_ns() - _SPARE_WAITS * 1e9
            for path in sorted(sizes, key=lambda path: (_SPARE not in path.name, _last_use(path))):
                if total + size <= self.max_bytes:
                    break
                if spare and _last_use(path) > recent:
                    continue
                if path.suffix == ".npy" and path not in in_use:
                    path.with_suffix(".json").unlink(missing_ok=True)
                    path.unlink(missing_ok=True)
                    total -= sizes[path]
            # Half of what is free stays free: a full disk would end the search itself.
            return (total + size <= self.max_bytes
                    and size <= shutil.disk_usage(self.folder).free // 2)

    def _counts(self, path: Path) -> bool:
        """Whether a file takes up room; a half-written one whose writer died is removed."""
        half = _TEMPORARY.fullmatch(path.name)
        if half is None:
            return _OWN.fullmatch(path.name) is not None
        lock = file_lock(self.folder / f"{half[1]}.lock")
        try:
            with lock.acquire(timeout=0):
                path.unlink(missing_ok=True)
        except Timeout:
            return True
        return False


def file_lock(path: Path) -> BaseFileLock:
    """Returns the lock of a file.

    Raises:
        OSError: the file is a link, which filelock followed until 3.20.
    """
    if path.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))
    return FileLock(path)


def _stamp(path: Path) -> list[int]:
    """Returns what changes whenever a file is written, replaced or copied.

    Raises:
        OSError: it is not there, or a pipe or a device, which might never end.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a file", str(path))
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _make_way(path: Path) -> None:
    """Removes a pipe or a device that has a name of the cache: a write would refuse to replace it.

    Raises:
        OSError: it cannot be removed.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        path.unlink(missing_ok=True)


def _crc_of(value: Any) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def _stat(path: Path) -> os.stat_result | None:
    """Returns the file's status; None where it is not there, or was removed just now."""
    try:
        return path.stat()
    except OSError:
        return None


def _last_use(path: Path) -> int:
    status = _stat(path.with_suffix(".json")) or _stat(path)
    return status.st_mtime_ns if status else 0


def _verify(array: np.ndarray, meta: dict[str, Any]) -> None:
    """Raises ValueError where the bytes are not those that were written."""
    if zlib.crc32(array.reshape(-1)[:meta["bytes"]].data) != meta["crc32"]:
        raise ValueError("its checksum is wrong")
