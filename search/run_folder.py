"""The folder of one search: its names, its lock, its settings, and what is finished in it."""

import fcntl
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.files import read_json, write_json, write_text

SETTINGS = "settings.json"
RETRIES = "retries.log"
LOCK = "search.lock"


class RunFolder:
    """The files of a search, in the original's layout.

    `iter_<i>/net_<j>.subnet` and `.stats`, `iter_<i>.stats`, `failed/it_<i>_net_<j>` (with `.log`),
    and of our own `settings.json`, `retries.log` where evaluations had to be started again, and,
    while the search runs, `search.lock`.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)

    def subnet(self, iteration: int, index: int) -> Path:
        """Path of an architecture that was proposed."""
        return self.path / f"iter_{iteration}" / f"net_{index}.subnet"

    def stats(self, iteration: int, index: int) -> Path:
        """Path of what was measured of it."""
        return self.path / f"iter_{iteration}" / f"net_{index}.stats"

    def failed(self, iteration: int, index: int) -> Path:
        """Path of the record of an evaluation that failed."""
        return self.path / "failed" / f"it_{iteration}_net_{index}"

    def iteration(self, iteration: int) -> Path:
        """Path of the archive after an iteration."""
        return self.path / f"iter_{iteration}.stats"

    @property
    def settings(self) -> Path:
        """Path of the flags that the search was started with."""
        return self.path / SETTINGS

    def is_empty(self) -> bool:
        """Whether the folder is absent, or holds nothing but a lock.

        Raises:
            UserError: the path is a file.
        """
        return not any(entry.name != LOCK for entry in self._entries())

    def has_no_result(self) -> bool:
        """Whether it holds at most what a search leaves that failed before its first result.

        Raises:
            UserError: the path is a file.
        """
        return all(entry.name in (LOCK, SETTINGS) or (entry.name == "iter_0" and all(
            path.suffix == ".subnet" for path in entry.iterdir())) for entry in self._entries())

    def _entries(self) -> list[Path]:
        if not os.path.lexists(self.path):
            return []
        if not self.path.is_dir():
            raise UserError(f"{self.path}: a file, but a folder for the search was expected")
        return list(self.path.iterdir())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the folder for this process; a second search in it is refused.

        The kernel drops the lock when the holder ends, however it ends.

        Raises:
            UserError: another process holds it; the message names its pid and host.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / LOCK
        handle = self._open_locked(path)
        while not _is_same_file(handle, path):  # removed by its former holder while we opened it
            os.close(handle)
            handle = self._open_locked(path)
        os.truncate(handle, 0)
        os.write(handle, f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(handle)

    def _open_locked(self, path: Path) -> int:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "unknown"
            os.close(handle)
            raise UserError(f"{self.path}: another search is running in this folder ({holder}); "
                            "wait for it, or choose another --save") from None
        return handle

    def remove_leftovers(self) -> None:
        """Removes the temporary files that a killed process left; call it under the lock."""
        for leftover in self.path.rglob(".*.tmp"):
            leftover.unlink(missing_ok=True)

    def remove_proposals(self) -> None:
        """Removes what a search that failed before its first result proposed."""
        for proposal in self.path.glob("iter_0/net_*.subnet"):
            proposal.unlink()

    def import_from(self, other: "RunFolder") -> None:
        """Copies the files of another search into this empty folder."""
        for entry in sorted(other.path.iterdir()):
            if entry.name == LOCK:
                continue
            copy = shutil.copytree if entry.is_dir() else shutil.copy2
            copy(entry, self.path / entry.name)

    def write_failed(self, iteration: int, index: int, arch: dict[str, Any], status: str,
                     error: str, log: str) -> None:
        """Records a failed evaluation: the architecture and the reason, and the log beside it."""
        path = self.failed(iteration, index)
        text = f"{status}: {error}\n\n{log}".rstrip() + "\n"
        write_text(path.with_name(path.name + ".log"), text)
        write_json(path, {**arch, "status": status, "error": error})

    def write_retried(self, name: str, reasons: Sequence[str]) -> None:
        """Adds a line to `retries.log` for each earlier attempt of an evaluation: why it ended."""
        path = self.path / RETRIES
        known = path.read_text("utf-8", "replace") if path.exists() else ""
        write_text(path, known + "".join(f"{name}: {reason}\n" for reason in reasons))

    def read_failed(self, check_arch: Callable[[dict], object]) -> \
            dict[tuple[int, int], dict[str, Any]]:
        """Returns {(iteration, index): architecture, with `status` and `error`} of all failures.

        Args:
            check_arch: raises UserError for an architecture of another space.

        Raises:
            UserError: a damaged record.
        """
        found = {}
        for path in sorted((self.path / "failed").glob("it_*_net_*")):
            _, iteration, _, index = (path.name.split("_") + [""] * 4)[:4]
            if iteration.isdecimal() and index.isdecimal():
                record = read_json(path, "record of a failure")
                try:
                    check_arch(record)
                except UserError as error:
                    raise UserError(f"{path}: {error}") from None
                found[int(iteration), int(index)] = record
        return found


def _is_same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
