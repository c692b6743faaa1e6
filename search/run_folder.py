"""The folder of one search: its names, its lock, its settings, and what is finished in it."""

import contextlib
import errno
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from utils import files
from utils.errors import UserError, worded
from utils.invocation import calling
from utils.locks import Lock, locked
from utils.registry import as_typed, code_in, refuse_untyped

SETTINGS = "settings.json"
RETRIES = "retries.log"
EVENTS = "events.jsonl"
LOCK = "search.lock"
# Flags of one call, which its settings file must not hand on to the next.
ONE_TIME = ("typed", "resume", "dry_run", "retry_failed", "accept_changed_inputs",
            "log_format", "tensorboard", "no_report", "download")
# Flags that may name code, as module:Class: never taken from a file without being typed.
COMMAND = "command:"  # in --lut: a command that would be run
CODE_FLAGS = ("evaluator", "search_space", "predictor", "strategy", "sec_obj")
# By these a settings file is known as that of a search.
_SETTINGS_KEYS = ("sec_obj", "n_doe", "iterations")
# What a search has written, ours or the original's: files, and folders with files. The original
# may have left networks next to its iterations.
_NETWORKS = re.compile(r"net_\d+\.(subnet|stats)", re.ASCII)
_PROPOSED = re.compile(r"net_\d+\.subnet", re.ASCII)
_FILES = re.compile(rf"settings\.json|retries\.log|events\.jsonl|iter_\d+\.stats|"
                    rf"device_\w+\.json|{_NETWORKS.pattern}", re.ASCII)
_FOLDERS = {re.compile(r"iter_\d+", re.ASCII): _NETWORKS,
            re.compile("failed"): re.compile(r"it_\d+_net_\d+(\.log)?|worker\.log", re.ASCII)}
_TEMPORARY = re.compile(r"\.(.+)\.[a-z0-9_]+\.tmp", re.ASCII)


class RunFolder:
    """The files of a search, in the original's layout.

    `iter_<i>/net_<j>.subnet` and `.stats`, `iter_<i>.stats`, `failed/it_<i>_net_<j>` (with `.log`),
    and of our own `settings.json`, `events.jsonl`, `retries.log` where evaluations had to be
    started again, `device_<name>.json` where a command has measured networks, and, while the search
    runs, `search.lock`. No other name is ever copied or
    removed; besides these, the command writes `report.html` and, if asked to, `tensorboard/`.

    While the folder is locked, every path that it gives is checked to be in that folder still.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._lock: Lock | None = None

    def subnet(self, iteration: int, index: int) -> Path:
        """Path of an architecture that was proposed."""
        return self._at(f"iter_{iteration}", f"net_{index}.subnet")

    def stats(self, iteration: int, index: int) -> Path:
        """Path of what was measured of it."""
        return self._at(f"iter_{iteration}", f"net_{index}.stats")

    def failed(self, iteration: int, index: int) -> Path:
        """Path of the record of an evaluation that failed."""
        return self._at("failed", f"it_{iteration}_net_{index}")

    def iteration(self, iteration: int) -> Path:
        """Path of the archive after an iteration."""
        return self._at(f"iter_{iteration}.stats")

    def device(self, name: str) -> Path:
        """Path of the networks that a device has measured, see `evaluator.measurements`."""
        return self._at(f"device_{name}.json")

    @property
    def settings(self) -> Path:
        """Path of the flags that the search was started with."""
        return self._at(SETTINGS)

    @property
    def events(self) -> Path:
        """Path of what the search recorded about its progress, see `search.events`."""
        return self._at(EVENTS)

    def _at(self, *names: str) -> Path:
        self._check_place()
        return self.path.joinpath(*names)

    def _check_place(self) -> None:
        if self._lock is not None and not self._lock.holds():
            place = self._lock.place()
            raise UserError(f"{self.path}: renamed, replaced or removed while the search was "
                            f"running (it is now in {place}); nothing more is written. " + worded(
                                f"Resume it with --resume {shlex.quote(place)}",
                                f"Resume it with Search(folder={place!r})"))

    def is_empty(self) -> bool:
        """Whether the folder is absent, or holds nothing but a lock.

        Raises:
            UserError: the path is a file.
        """
        return not any(entry.name != LOCK for entry in self._entries())

    def check_unused(self) -> None:
        """Looks whether a new search may begin here.

        Raises:
            UserError: the folder holds more than a search leaves that ended before its first
                result, or the path is a file.
        """
        entries = {entry.name: entry for entry in self._entries()
                   if entry.name not in (LOCK, EVENTS) and not _is_leftover(entry.name, _FILES)}
        settings, first = entries.pop(SETTINGS, None), entries.pop("iter_0", None)
        if entries or (settings and not self._settings_are_ours()) or (first and not (
                first.is_dir() and not first.is_symlink() and all(
                    _PROPOSED.fullmatch(path.name) or _is_leftover(path.name, _PROPOSED)
                    for path in first.iterdir()))):
            raise UserError(f"{self.path}: not empty; " + worded(
                f"resume it with --resume {shlex.quote(str(self.path))}, or choose another --save",
                "choose another folder for the search"))

    def check_search(self) -> None:
        """Looks, without writing, whether this is the folder of a search, ours or the original's.

        Raises:
            UserError: it is not, or its files or folders are links, which lead elsewhere.
        """
        entries = self._entries()
        if not entries:
            raise UserError(f"{str(self.path)!r}: no search to resume in this folder; name the "
                            "--save of a search")
        own = [entry for entry in entries if entry.name == LOCK or _FILES.fullmatch(entry.name)
               or _inside(entry.name)]
        for entry in own:
            if entry.is_symlink():
                raise UserError(f"{entry}: a link, but the files of a search lie in its own "
                                "folder; copy them there")
        if (self.path / SETTINGS).exists():
            known = self._settings_are_ours()
        else:
            known = any(entry.suffix == ".stats" or (_inside(entry.name) is _NETWORKS and any(
                map(_NETWORKS.fullmatch, os.listdir(entry)))) for entry in own)
        if not known:
            raise UserError(f"{self.path}: not the folder of a search (no {SETTINGS} of one, no "
                            "iter_<i>.stats); name the --save of a search")

    def _settings_are_ours(self) -> bool:
        stored = files.read_json(self.path / SETTINGS, "settings file")
        return all(key in stored for key in _SETTINGS_KEYS)

    def _entries(self) -> list[Path]:
        if not os.path.lexists(self.path):
            return []
        if not self.path.is_dir():
            raise UserError(f"{self.path}: a file, but a folder for the search was expected")
        return list(self.path.iterdir())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the folder for this process; a second search in it is refused.

        Raises:
            UserError: see `utils.locks.locked`; also where a step failed since the folder is
                not where it was.
        """
        with locked(self.path / LOCK, f"{self.path}: the folder of a search",
                    "wait for it, or choose another --save") as self._lock:
            try:
                yield
            except (OSError, UserError):
                self._check_place()
                raise
            finally:
                self._lock = None

    def remove_leftovers(self) -> None:
        """Removes the temporary files that a killed search left; call it under the lock."""
        for folder, names in self._own_folders():
            for path in folder.iterdir():
                if _is_leftover(path.name, names):
                    path.unlink(missing_ok=True)

    def remove_proposals(self) -> None:
        """Removes what a search that failed before its first result proposed."""
        for proposal in self.path.glob("iter_0/*"):
            if _PROPOSED.fullmatch(proposal.name):
                proposal.unlink()

    def import_from(self, other: "RunFolder") -> None:
        """Makes this folder, which is absent or empty, a copy of another search.

        The copy is made next to it, then renamed: whenever it is stopped, this folder is complete
        or not there. Only the files of the search are copied; links are not followed.

        Raises:
            UserError: one folder lies in the other, this one is not empty, another process copies
                to it, or something else lies where the copy is made.
        """
        source, target = other.path.resolve(), self.path.resolve()
        if target.is_relative_to(source) or source.is_relative_to(target):
            raise UserError(f"{self.path}: lies in {other.path} or the other way round; choose "
                            "a --save outside")
        copy = RunFolder(files.own_folder(target.with_name(f".{target.name[:60]}.copy")))
        with copy.lock():
            for path in copy._foreign():
                raise UserError(f"{path}: no file of a search, but lies where the copy is made; "
                                "move it away")
            copy._remove_all()  # what a copy that was killed left
            try:
                for folder, names in other._own_folders():
                    _copy_files(folder, copy.path / folder.relative_to(other.path), names)
                with self.lock():  # another process may hold it; one that was killed does not
                    pass
                os.rename(copy.path, target)
            except BaseException as error:
                copy._remove_all()
                if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    raise UserError(f"{self.path}: not empty; choose another --save") from None
                raise
            else:
                (target / LOCK).unlink(missing_ok=True)
                files.fsync_folder(target.parent)
        with contextlib.suppress(OSError):  # it is the target now
            copy.path.rmdir()

    def _foreign(self) -> Iterator[Path]:
        """Gives what no search writes, in its folder and those in it."""
        own = self._own_folders()
        folders = [folder for folder, _ in own]
        for folder, names in own:
            for path in folder.iterdir():
                if not (names.fullmatch(path.name) or path.name == LOCK or path in folders):
                    yield path

    def _remove_all(self) -> None:
        """Removes the files of a search, and its folders where nothing else is in them."""
        for folder, names in self._own_folders():
            for path in folder.iterdir():
                if names.fullmatch(path.name):
                    path.unlink()
            if folder != self.path:
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def _own_folders(self) -> list[tuple[Path, re.Pattern]]:
        """Returns this folder and those in it that a search makes, and the names of their files."""
        inside = [(entry, names) for entry in self._entries()
                  if (names := _inside(entry.name)) and entry.is_dir() and not entry.is_symlink()]
        return [(self.path, _FILES), *inside]

    def write_settings(self, settings: dict[str, Any]) -> None:
        """Writes the flags of the search, without those that are meant for one call."""
        files.write_json(self.settings, {key: value for key, value in settings.items()
                                         if key not in ONE_TIME}, indent=1)

    def read_settings(self) -> dict[str, Any]:
        """Returns the stored flags; {} where there are none (the original's search).

        Raises:
            UserError: the file is damaged.
        """
        if not self.settings.exists():
            return {}
        stored = files.read_json(self.settings, "settings file")
        return {key: value for key, value in stored.items() if key not in ONE_TIME}

    def write_failed(self, iteration: int, index: int, arch: dict[str, Any], status: str,
                     error: str, log: str) -> None:
        """Records a failed evaluation: the architecture and the reason, and the log next to it."""
        path = self.failed(iteration, index)
        text = f"{status}: {error}\n\n{log}".rstrip() + "\n"
        files.write_text(path.with_name(path.name + ".log"), text)
        files.write_json(path, {**arch, "status": status, "error": error})

    def write_retried(self, name: str, reasons: Sequence[str]) -> None:
        """Adds a line to `retries.log` for each earlier attempt of an evaluation: why it ended."""
        path = self._at(RETRIES)
        lines = [*files.read_log(path), *(f"{name}: {reason}" for reason in reasons)]
        files.write_text(path, "".join(f"{line}\n" for line in lines))

    def read_failed(self, check_arch: Callable[[dict], object]) -> \
            dict[tuple[int, int], "FailedArch"]:
        """Returns what is recorded of all failures, by (iteration, index).

        Args:
            check_arch: raises UserError for an architecture of another space.

        Raises:
            UserError: a damaged record.
        """
        found = {}
        for path in sorted((self.path / "failed").glob("it_*_net_*")):
            _, iteration, _, index = (path.name.split("_") + [""] * 4)[:4]
            if iteration.isdecimal() and index.isdecimal():
                arch = files.read_json(path, "record of a failure")
                status, error = (str(arch.pop(key, "not recorded")) for key in ("status", "error"))
                try:
                    check_arch(arch)
                except UserError as wrong:
                    raise UserError(f"{path}: {wrong}") from None
                found[int(iteration), int(index)] = FailedArch(arch, status, error)
        return found


class FailedArch(NamedTuple):
    """An architecture whose evaluation failed, and why; the original records no reason."""

    arch: dict[str, Any]
    status: str
    error: str


def check_code(source: str, stored: dict[str, Any], typed: set[str]) -> None:
    """Raises UserError where stored flags name code of its own that was not typed again.

    A folder from elsewhere would otherwise decide what this machine imports and runs, or which
    Ray cluster it trusts: what a cluster answers can run code, too.
    """
    refuse_untyped(source, _trusted(stored), typed)


def _trusted(settings: dict[str, Any]) -> dict[str, str | list[str]]:
    """Returns the flags that decide whose code is run: those must be typed, in every call."""
    flags: dict[str, str | list[str]] = {**code_in(settings, CODE_FLAGS)}
    luts = [str(text) for text in settings.get("lut") or []]
    if any(COMMAND in text for text in luts):
        flags["lut"] = luts
    if settings.get("backend") == "ray" and settings.get("ray_address") not in (None, "auto"):
        flags["ray_address"] = str(settings["ray_address"])
    return flags


def resume_command(settings: dict[str, Any]) -> str:
    """Returns the command that resumes a search, with the flags that must be typed again."""
    return shlex.join([*calling("msunas.py"), "--resume", str(settings["save"]),
                       *as_typed(_trusted(settings))])


def _is_leftover(name: str, names: re.Pattern) -> bool:
    """Whether a file is what a killed search leaves of one whose name is among `names`."""
    temporary = _TEMPORARY.fullmatch(name)
    return temporary is not None and names.fullmatch(temporary[1]) is not None


def _inside(name: str) -> re.Pattern | None:
    """Returns the names of the files in one of a search's folders; None for any other folder."""
    return next((names for folder, names in _FOLDERS.items() if folder.fullmatch(name)), None)


def _copy_files(source: Path, target: Path, names: re.Pattern) -> None:
    """Copies the plain files of these names, and flushes them to the disk."""
    files.make_folder(target)
    for entry in sorted(source.iterdir()):
        if names.fullmatch(entry.name) and entry.is_file() and not entry.is_symlink():
            with files.open_regular(entry) as file, open(target / entry.name, "xb") as copy:
                shutil.copyfileobj(file, copy)
                copy.flush()
                files.where_supported(os.fsync, copy.fileno())
    files.fsync_folder(target)
