"""Reading and writing small files: every write is atomic, every error names the file.

What a file system or a system lacks (FUSE, some NFS, SMB, Windows: modes, or flushing a folder)
is done without.
"""

import errno
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

from utils.errors import UserError
from utils.parsing import MAX_VALUES, MalformedError, parse_json, parse_yaml

MAX_TEXT_BYTES = 256 * 2**20
MAX_LOG_BYTES = 32 * 2**20  # of a log that is read again
# What a file system answers to a call that it does not have.
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES,
                errno.EBADF, errno.EISDIR, errno.ENOTTY)

_in_use: list[str] = []


def shipped(path: str) -> str:
    """Returns the path of a file that comes with the project, named relative to its root.

    Called from a checkout that is the name itself; elsewhere, as for an installed command, the path
    of the file next to the code, whatever has that name in the current folder.
    """
    own = Path(__file__).resolve().parents[1] / path
    here = not own.exists() or (os.path.exists(path) and os.path.samefile(path, own))
    return path if here else str(own)


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path next to `path`; when the block ends well it is flushed and renamed.

    A reader sees the old file or the new one, never a half. If the block fails the temporary file
    is removed and the old file stays. Folders on the way are created.

    Raises:
        UserError: a device or a pipe is there, which the new file would replace (as root, also
            `/dev/null`).
    """
    path = Path(path)
    with suppress(OSError):  # what is not there, or nowhere
        if not (stat.S_ISREG(mode := path.stat().st_mode) or stat.S_ISDIR(mode)):
            raise UserError(f"{path}: a device or a pipe, not a file; choose another path")
    make_folder(path.parent)
    prefix = os.fsdecode(os.fsencode(path.name)[:100])  # a name has at most 255 bytes
    handle, name = tempfile.mkstemp(prefix=f".{prefix}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            where_supported(getattr(os, "fchmod", None), file.fileno(), 0o666 & ~_umask())
            where_supported(os.fsync, file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, name):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)


def make_folder(path: str | os.PathLike) -> None:
    """Creates a folder and its parents, and flushes their names to the disk.

    Raises:
        UserError: one of them was in use (`in_use`) and was removed.
        OSError: as `os.mkdir`.
    """
    path = Path(path)
    if path.is_dir():
        return
    missing = [path, *(parent for parent in path.parents if not parent.exists())]
    for folder in missing:
        if os.path.abspath(folder) in _in_use:
            raise UserError(f"{folder}: renamed or removed while it was in use; nothing more is "
                            "written")
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
    for folder in missing:
        fsync_folder(folder.parent)


@contextmanager
def in_use(folder: str | os.PathLike) -> Iterator[None]:
    """Lets nothing make a folder anew inside the block: renamed meanwhile, it would be two."""
    place = os.path.abspath(folder)
    _in_use.append(place)
    try:
        yield
    finally:
        _in_use.remove(place)


def fsync_folder(folder: str | os.PathLike) -> None:
    """Flushes the names in a folder to the disk, where the file system can do that."""
    def flush() -> None:
        handle = os.open(folder, open_flags("O_DIRECTORY"))
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    where_supported(flush)


def where_supported(call: Callable[..., Any] | None, *args: Any) -> None:
    """Calls the system; no error where it (None) or the file system does not have this call."""
    try:
        if call is not None:
            call(*args)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def open_flags(*names: str) -> int:
    """Returns the flags of `os.open` with these names, without those that the system lacks."""
    return sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_BINARY", *names))


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a UTF-8 text file atomically; what UTF-8 lacks (bytes of a path) is escaped."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: str | os.PathLike, value: Any, indent: int | None = None) -> None:
    """Writes JSON atomically. NaN and infinity, which JSON lacks, raise ValueError."""
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n")


def open_regular(path: str | os.PathLike) -> BufferedReader:
    """Opens a file for reading.

    Raises:
        OSError: as `open`, or the path is a device, a pipe or a folder, which might never end.
    """
    handle = os.open(path, open_flags("O_NONBLOCK"))
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    raise OSError(errno.EINVAL, "a device or a pipe, not a file", os.fspath(path))


def open_own(path: str | os.PathLike, what: str, flags: int = 0) -> int:
    """Opens a file to write to, in a folder that may come from elsewhere; makes it where absent.

    Returns:
        Its handle.

    Raises:
        UserError: the path is a link, a pipe or a device: what is written would go elsewhere.
        OSError: as `os.open`.
    """
    flags |= os.O_RDWR | os.O_CREAT | open_flags("O_NOFOLLOW", "O_NONBLOCK")
    foreign = UserError(f"{path}: a link or a device, not a {what}; remove it")
    try:
        handle = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise
        raise foreign from None
    status = os.fstat(handle)
    if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1:
        return handle
    os.close(handle)
    raise foreign


def open_log(path: str | os.PathLike) -> IO[bytes]:
    """Opens a log to add to; errors as `open_own`."""
    return os.fdopen(open_own(path, "log file", os.O_APPEND), "ab+")


def own_folder(path: str | os.PathLike) -> Path:
    """Returns a folder whose name the program chose, in a folder that may come from elsewhere.

    Raises:
        UserError: it is a link: what is written would go elsewhere.
    """
    path = Path(path)
    if path.is_symlink():
        raise UserError(f"{path}: a link, but what is written there belongs into this folder "
                        "itself; remove the link")
    return path


def read_bytes(path: str | os.PathLike, what: str = "file",
               max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """Reads a file.

    Raises:
        UserError: the file is missing, a folder, a device, unreadable, or too large.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > max_bytes:
                raise UserError(f"{path}: {size} bytes, more than a {what} can have ({max_bytes})")
            return file.read(max_bytes)
    except FileNotFoundError:
        raise UserError(f"{path}: no such {what}; check the path") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, but a {what} was expected; name the file itself") \
            from None
    except ValueError as error:  # an embedded null byte in the path
        raise UserError(f"{str(path)!r}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def read_text(path: str | os.PathLike, what: str = "text file") -> str:
    """Reads a UTF-8 text file, without the byte order mark that some editors begin it with.

    Raises:
        UserError: as `read_bytes`, or the file is empty or not UTF-8.
    """
    try:
        text = read_bytes(path, what).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file, but a {what} was expected") from None
    if not text.strip():
        raise UserError(f"{path}: empty, but a {what} was expected; make or copy it again")
    return text


def read_log(path: str | os.PathLike) -> list[str]:
    """Returns the lines of a log, which may be absent, empty, cut off, or hold bytes that are no
    UTF-8.

    Raises:
        UserError: as `read_bytes`, or the log is a link: in a folder from elsewhere it may lead to
            a file that was not meant to be shown.
    """
    if not os.path.lexists(path):
        return []
    if os.path.islink(path):
        raise UserError(f"{path}: a link, not a log file; remove it")
    return read_bytes(path, "log file", MAX_LOG_BYTES).decode("utf-8", "replace").splitlines()


def read_json(path: str | os.PathLike, what: str = "JSON file", allow_nan: bool = False,
              max_values: int = MAX_VALUES) -> Any:
    """Reads a JSON file whose top level is a dict.

    Args:
        path: the file.
        what: its kind, for messages.
        allow_nan: return the NaN and infinities that Python's own writer may have left.
        max_values: how many values it may hold.

    Raises:
        UserError: the file is missing, empty, truncated, or `parse_json` refuses it, or its top
            level has another type.
    """
    return _parsed(path, what, partial(parse_json, allow_nan=allow_nan, max_values=max_values))


def read_yaml(path: str | os.PathLike, what: str = "YAML file") -> Any:
    """Reads a YAML file whose top level is a dict; errors as `read_json`."""
    return _parsed(path, what, parse_yaml)


def _parsed(path: str | os.PathLike, what: str, parse: Callable[[str], Any]) -> Any:
    text = read_text(path, what)
    try:
        value = parse(text)
    except MalformedError as error:
        raise UserError(f"{path}: {error}, but a {what} was expected; make or copy it again") \
            from None
    except ValueError as error:
        raise UserError(f"{path}: not a valid {what}: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: a {what} holds a dict at its top level, "
                        f"not {type(value).__name__}")
    return value


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
