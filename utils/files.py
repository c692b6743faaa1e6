"""Reading and writing small files: every write is atomic, every read says what is wrong.

What a file system lacks (FUSE, some NFS, SMB: modes, or flushing a folder) is done without.
"""

import errno
import json
import math
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import yaml

from utils.errors import UserError

MAX_TEXT_BYTES = 256 * 2**20
MAX_LOG_BYTES = 32 * 2**20  # of a log that is read again
# JSON: a value takes up to 100 bytes of memory where it is one in the file.
MAX_VALUES = 5_000_000
# YAML, which is read far slower: values, and how many of them its aliases may repeat.
MAX_YAML_VALUES, MAX_REPEATED = 1_000_000, 100_000
MAX_DEPTH = 50  # of nested collections in YAML
MAX_BITS = 4096  # of an integer
# What a file system answers to a call that it does not have.
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES,
                errno.EBADF, errno.EISDIR, errno.ENOTTY)

_in_use: list[str] = []


def shipped(path: str) -> str:
    """Returns where a file of the project's own lies, named relative to the project's root.

    In a checkout that is the name itself; elsewhere, as for an installed command, the path of the
    file beside the code.
    """
    beside = Path(__file__).resolve().parents[1] / path
    return path if os.path.exists(path) or not beside.exists() else str(beside)


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path beside `path`; when the block ends well it is flushed and renamed.

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
            where_supported(os.fchmod, file.fileno(), 0o666 & ~_umask())
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
        UserError: one of them was in use (`in_use`) and is gone.
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
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return
    try:
        where_supported(os.fsync, handle)
    finally:
        os.close(handle)


def where_supported(call: Callable[..., Any], *args: Any) -> None:
    """Calls the system; an answer that the file system does not have this call is no error."""
    try:
        call(*args)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a UTF-8 text file atomically; what UTF-8 lacks (bytes of a path) is escaped."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: str | os.PathLike, value: Any, indent: int | None = None) -> None:
    """Writes JSON atomically. NaN and infinity, which JSON lacks, raise ValueError."""
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n")


def open_regular(path: str | os.PathLike) -> IO[bytes]:
    """Opens a file for reading.

    Raises:
        OSError: as `open`, or the path is a device, a pipe or a folder, which might never end.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    raise OSError(errno.EINVAL, "a device or a pipe, not a file", os.fspath(path))


def open_log(path: str | os.PathLike) -> IO[bytes]:
    """Opens a log to add to, in a folder that may come from elsewhere; makes it where absent.

    Raises:
        UserError: the path is a link, a pipe or a device: what is written would go elsewhere.
        OSError: as `open`.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):
            raise
        raise UserError(f"{path}: a link or a device, not a log file; remove it") from None
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(handle)
        raise UserError(f"{path}: a link or a device, not a log file; remove it")
    return os.fdopen(handle, "ab+")


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


def read_text(path: str | os.PathLike, what: str = "text file",
              max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Reads a UTF-8 text file.

    Raises:
        UserError: as `read_bytes`, or the file is empty or not UTF-8.
    """
    try:
        text = read_bytes(path, what, max_bytes).decode("utf-8")
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
            a file that nobody meant to show.
    """
    if not os.path.lexists(path):
        return []
    if os.path.islink(path):
        raise UserError(f"{path}: a link, not a log file; remove it")
    return read_bytes(path, "log file", MAX_LOG_BYTES).decode("utf-8", "replace").splitlines()


def read_json(path: str | os.PathLike, what: str = "JSON file",
              expect: type | tuple[type, ...] = dict, allow_nan: bool = False) -> Any:
    """Reads a JSON file whose top level is of type `expect`.

    Args:
        path: the file.
        what: its kind, for messages.
        expect: the type of its top level.
        allow_nan: return the NaN and infinities that Python's own writer may have left.

    Raises:
        UserError: the file is missing, empty, truncated, or `parse_json` refuses it, or its top
            level has another type.
    """
    text = read_text(path, what)
    try:
        value = parse_json(text, allow_nan)
    except json.JSONDecodeError as error:
        hint = "HTML" if text.lstrip()[:1] == "<" else "not JSON, or truncated"
        raise UserError(f"{path}: {hint} at line {error.lineno} column {error.colno}, but a {what} "
                        "was expected; make or copy it again") from None
    except ValueError as error:
        raise UserError(f"{path}: not a valid {what}: {error}") from None
    return _of_type(path, value, what, expect)


def parse_json(text: str, allow_nan: bool = False) -> Any:
    """Returns what JSON text stands for; `allow_nan` as `read_json`.

    Raises:
        ValueError: no JSON (`json.JSONDecodeError`), NaN, a key twice, nested too deeply, or more
            than `MAX_VALUES` values.
    """
    if sum(map(text.count, ",[{")) > MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES} values")
    try:
        return json.loads(text, parse_constant=float if allow_nan else _refuse_constant,
                          parse_float=float if allow_nan else _finite,
                          object_pairs_hook=_unique_keys)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_yaml(path: str | os.PathLike, what: str = "YAML file",
              expect: type | tuple[type, ...] = dict) -> Any:
    """Reads a YAML file with the safe (C, where there is one) loader; errors as `read_json`."""
    return parse_yaml(read_text(path, what), path, what, expect)


def parse_yaml(text: str, path: str | os.PathLike, what: str = "YAML file",
               expect: type | tuple[type, ...] = dict) -> Any:
    """Returns what YAML text stands for; `path` and `what` are for messages.

    Raises:
        UserError: no YAML, a key twice, nested deeper than `MAX_DEPTH`, more than
            `MAX_YAML_VALUES` values, or aliases that repeat more than `MAX_REPEATED`; or the top
            level has another type.
    """
    try:
        _check_structure(text)
        value = yaml.load(text, Loader=_UniqueKeysLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1} column {mark.column + 1}" if mark else ""
        raise UserError(f"{path}: not YAML, or truncated{place}, but a {what} was expected") \
            from None
    except (ValueError, RecursionError, OverflowError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a valid {what}: {error}") from None
    return _of_type(path, value, what, expect)


class _UniqueKeysLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) != len(node.value):
            _unique_keys([(self.construct_object(key), None) for key, _ in node.value])
        return mapping

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        number = int(super().construct_yaml_int(node))
        if number.bit_length() > MAX_BITS:  # Python itself refuses to print it
            raise ValueError(f"an integer of {number.bit_length()} bits")
        return number


_UniqueKeysLoader.add_constructor("tag:yaml.org,2002:int", _UniqueKeysLoader.construct_yaml_int)


def _check_structure(text: str) -> None:
    """Looks at YAML without building anything: the loader's stack is C's, aliases are cheap.

    Raises:
        ValueError: nested too deeply, too many values, or aliases that repeat too much.
    """
    values = repeated = 0
    open_collections: list[tuple[str | None, int]] = []
    sizes: dict[str | None, int] = {}  # anchor -> values that it stands for, once it is complete
    for event in yaml.parse(text, Loader=_UniqueKeysLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_collections.append((event.anchor, values))
            values += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_collections.pop()
            if anchor:
                sizes[anchor] = values - before
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"*{event.anchor} stands for nothing, or for itself")
            values += sizes[event.anchor]
            repeated += sizes[event.anchor]
        if len(open_collections) > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        if values > MAX_YAML_VALUES:
            raise ValueError(f"more than {MAX_YAML_VALUES} values")
        if repeated > MAX_REPEATED:
            raise ValueError(f"its aliases repeat more than {MAX_REPEATED} values")


def _of_type(path: Any, value: Any, what: str, expect: type | tuple[type, ...]) -> Any:
    if not isinstance(value, expect):
        names = [t.__name__ for t in (expect if isinstance(expect, tuple) else (expect,))]
        raise UserError(f"{path}: a {what} holds a {' or '.join(names)} at its top level, "
                        f"not {type(value).__name__}")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):  # 1e999
        raise ValueError(f"{text[:20]} is more than a number can be")
    return number


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} is there twice")
        result[key] = value
    return result


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
