"""One lock for what only one process may write: the folder of a search, a table, a training.

The lock is the kernel's (`flock`), on a small file that names its holder, and it is dropped when
the holder ends, however that happens. It works between processes of one machine, and between
machines where the file system passes locks on (NFS does).
"""

import errno
import os
import re
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError, note
from utils.files import in_use, make_folder, open_flags, open_own

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_HOLDER = re.compile(rb"(pid \d+ on [^\n]*\n?)?")
_MAX_HOLDER = 300  # bytes
_TRIES = 1000
# What a file system without locks answers.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
# A forked child that outlives its parent (a loading process) must not keep what the parent held.
_held: set[int] = set()


@dataclass(frozen=True)
class Lock:
    """A lock that this process holds.

    Attributes:
        path: of its file.
        handle: of the open file.
    """

    path: Path
    handle: int

    def holds(self) -> bool:
        """Whether the file is still the one at `path`: its folder was not renamed or replaced."""
        return _is_same_file(self.handle, self.path)

    def check(self) -> None:
        """Looks whether what is locked is still where it was; call it before writing there.

        Raises:
            UserError: it is not, so that files would be written to another folder than the rest.
        """
        if not self.holds():
            raise UserError(f"{self.path.parent}: renamed, replaced or removed while it was in use "
                            f"(it is now in {self.place()}); nothing more is written")

    def place(self) -> str:
        """Returns where the file is now, as far as it is known."""
        try:
            return os.path.dirname(os.readlink(f"/proc/self/fd/{self.handle}"))
        except OSError:
            return "an unknown place"


def _forget_all() -> None:
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_forget_all)


@contextmanager
def locked(path: str | os.PathLike, what: str, hint: str = "wait for it") -> Iterator[Lock]:
    """Holds the lock file `path`, made where it is absent and removed at the end.

    Args:
        path: of the lock file. Links and files with another content are refused, never written.
        what: what is held, for messages: `the search in runs/a`.
        hint: what to do where it is held by another process.

    Raises:
        UserError: another process holds it (the message names its pid and host), the file is none
            of this program's, or the block failed since the file is not where it was.
    """
    path = Path(path)
    make_folder(path.parent)
    handle = _acquire(path, what, hint)
    for _ in range(_TRIES):
        if _is_same_file(handle, path):  # else removed by its former holder while we opened it
            break
        os.close(handle)
        handle = _acquire(path, what, hint)
    os.truncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
    _held.add(handle)
    lock = Lock(path, handle)
    try:
        with in_use(path.parent):
            yield lock
    except OSError:
        lock.check()
        raise
    finally:
        if _is_same_file(handle, path):
            with suppress(PermissionError):  # Windows keeps the names of open files
                path.unlink(missing_ok=True)
        _held.discard(handle)
        os.close(handle)


def locked_beside(path: str | os.PathLike, what: str) -> AbstractContextManager[Lock]:
    """Holds the file `path`, which only one process may write, by a lock file next to it.

    Raises:
        UserError: as `locked`.
    """
    path = Path(path)
    return locked(path.with_name(f".{path.name}.lock"), what, "wait for it, or name another file")


def _acquire(path: Path, what: str, hint: str) -> int:
    handle = open_own(path, "lock file of this program")
    try:
        found = os.read(handle, _MAX_HOLDER)
        if not _HOLDER.fullmatch(found):
            raise UserError(f"{path}: not a lock file of this program (it has another content); it "
                            "was not touched. Remove it if it is not needed")
        try:
            _lock(handle, "LOCK_EX")
        except BlockingIOError:
            holder = found.decode(errors="replace").strip() or "unknown"
            raise UserError(f"{what} is in use by another process ({holder}); {hint}") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            note(f"{path.parent}: this system, or its file system, has no locks; make sure that no "
                 "other process writes there")
    except (OSError, UserError):
        os.close(handle)
        raise
    return handle


def _lock(handle: int, kind: str) -> None:
    """Asks for a lock; errors as `fcntl.flock`, `ENOSYS` on systems without it."""
    if fcntl is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    fcntl.flock(handle, getattr(fcntl, kind) | fcntl.LOCK_NB)


def is_locked(path: str | os.PathLike) -> bool:
    """Whether a process holds the lock file `path`; False where that cannot be seen."""
    try:
        handle = os.open(path, open_flags("O_NOFOLLOW", "O_NONBLOCK"))
    except OSError:
        return False
    try:
        _lock(handle, "LOCK_SH")
    except OSError as error:
        return isinstance(error, BlockingIOError)
    finally:
        os.close(handle)
    return False


def _is_same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat(follow_symlinks=False))
    except OSError:
        return False
