"""Reading and writing small files: every write is atomic, every read says what is wrong."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from utils.errors import UserError

MAX_TEXT_BYTES = 256 * 2**20


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path beside `path`; when the block ends well it is flushed and renamed.

    A reader sees the old file or the new one, never a half. If the block fails the temporary file
    is removed and the old file stays. Folders on the way are created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fchmod(file.fileno(), 0o666 & ~_umask())
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, name):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    _fsync_folder(path.parent)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a UTF-8 text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any, indent: int | None = None) -> None:
    """Writes JSON atomically. NaN and infinity, which JSON lacks, raise ValueError."""
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n")


def read_text(path: str | os.PathLike, what: str = "text file",
              max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Reads a UTF-8 text file.

    Raises:
        UserError: the file is missing, a folder, unreadable, empty, too large, or not UTF-8.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise UserError(f"{path}: a folder, but a {what} was expected; name the file itself")
        if size > max_bytes:
            raise UserError(f"{path}: {size} bytes, more than a {what} can have ({max_bytes})")
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such {what}; check the path") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file, but a {what} was expected") from None
    except ValueError as error:  # an embedded null byte in the path
        raise UserError(f"{str(path)!r}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if not text.strip():
        raise UserError(f"{path}: empty, but a {what} was expected; make or copy it again")
    return text


def read_json(path: str | os.PathLike, what: str = "JSON file",
              expect: type | tuple[type, ...] = dict, allow_nan: bool = False) -> Any:
    """Reads a JSON file whose top level is of type `expect`.

    Args:
        path: the file.
        what: its kind, for messages.
        expect: the type of its top level.
        allow_nan: return the NaN and infinities that Python's own writer may have left.

    Raises:
        UserError: the file is missing, empty, truncated, not JSON, holds NaN or a key twice, or
            its top level has another type.
    """
    text = read_text(path, what)
    try:
        value = json.loads(text, parse_constant=float if allow_nan else _refuse_constant,
                           object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        hint = "HTML" if text.lstrip()[:1] == "<" else "not JSON, or truncated"
        raise UserError(f"{path}: {hint} at line {error.lineno} column {error.colno}, but a {what} "
                        "was expected; make or copy it again") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a valid {what}: {error}") from None
    return _of_type(path, value, what, expect)


def read_yaml(path: str | os.PathLike, what: str = "YAML file",
              expect: type | tuple[type, ...] = dict) -> Any:
    """Reads a YAML file with the safe (C, where there is one) loader; errors as `read_json`."""
    text = read_text(path, what)
    try:
        value = yaml.load(text, Loader=_UniqueKeysLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1} column {mark.column + 1}" if mark else ""
        raise UserError(f"{path}: not YAML, or truncated{place}, but a {what} was expected") \
            from None
    except (ValueError, RecursionError, OverflowError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a valid {what}: {error}") from None
    return _of_type(path, value, what, expect)


class _UniqueKeysLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) != len(node.value):
            _unique_keys([(self.construct_object(key), None) for key, _ in node.value])
        return mapping


def _of_type(path: Any, value: Any, what: str, expect: type | tuple[type, ...]) -> Any:
    if not isinstance(value, expect):
        names = [t.__name__ for t in (expect if isinstance(expect, tuple) else (expect,))]
        raise UserError(f"{path}: a {what} holds a {' or '.join(names)} at its top level, "
                        f"not {type(value).__name__}")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands there twice")
    return result


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
