"""Fingerprints of what a search reads, so that a resumed one reads the same."""

import hashlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from search.run_folder import CODE_FLAGS
from utils.errors import UserError, worded
from utils.files import open_regular
from utils.registry import code_in, current_folder_last

# The files that an evaluator reads besides the data; one of the user's own may read both.
_FILES = {"ofa": ("supernet_path",), "oracle": ("oracle_path",)}
_WITHOUT_DATA = ("oracle",)


def fingerprints(settings: dict[str, Any], luts: Mapping[str, str]) -> dict[str, str]:
    """Returns digests of a search's inputs, by the flag that names them.

    Files count by their content; the folder of the data by its listing, that is by the relative
    path and the size of each file; the split by the flags that decide it; code of the user's by
    its module. What is not on this machine (a cluster may have it) is left out.

    Args:
        settings: the resolved flags of msunas.py.
        luts: the latency tables in use by tag, see `SpaceCosts.used_luts`.
    """
    evaluator = settings["evaluator"]
    files = {name: settings[name]
             for name in (*_FILES.get(evaluator, ("supernet_path", "oracle_path")), "table",
                          "warm_start")}
    files |= {f"lut {tag}".strip(): path for tag, path in luts.items()}
    found = {name: _of_file(path) for name, path in files.items()
             if path and os.path.isfile(path)}
    if evaluator not in _WITHOUT_DATA:
        images = "the test images" if settings["vld_size"] is None else settings["vld_size"]
        found["vld_size"] = f"{settings['dataset']}: {images}, seed {settings['seed']}"
        # what is still to be fetched has no listing yet
        if settings["data"] and os.path.isdir(settings["data"]) and not settings["download"]:
            found["data"] = _of_folder(settings["data"])
    code = {name: _of_code(value) for name, value in code_in(settings, CODE_FLAGS).items()}
    return found | {name: digest for name, digest in code.items() if digest}


def recorded_inputs(settings: Mapping[str, Any]) -> dict[str, str]:
    """Returns the fingerprints of a `settings.json`, which may come from anybody; {} for none."""
    stored = settings.get("inputs")
    return {name: value for name, value in stored.items() if isinstance(value, str)} \
        if isinstance(stored, dict) else {}


def check_inputs(source: str | os.PathLike, stored: Mapping[str, str],
                 found: Mapping[str, str]) -> None:
    """Compares the inputs of a search that is resumed with those that it was started with.

    Args:
        source: the folder of the search, for the message.
        stored: what `fingerprints` returned then.
        found: what it returns now.

    Raises:
        UserError: an input has changed.
    """
    changed = [name for name in found if name in stored and stored[name] != found[name]]
    if changed:
        raise UserError(f"{source}: what --{', --'.join(changed)} names has changed since the "
                        "search was started, so that its results cannot be compared with new "
                        "ones; put it back, " + worded(
                            "start a new search in another --save, or continue anyway with "
                            "--accept_changed_inputs", "or start a new search in another folder"))


def _of_code(named: str) -> str:
    """Returns a digest of the modules that `module:Class` names; of what it imports, nothing."""
    digests = []
    for part in named.split("+"):
        module, colon, _ = part.partition(":")
        try:
            with current_folder_last():
                found = importlib.util.find_spec(module) if colon else None
        except (ImportError, ValueError):  # reported when it is loaded
            continue
        if found and found.origin and os.path.isfile(found.origin):
            digests.append(_of_file(found.origin))
    return " ".join(digests)


def _of_file(path: str | os.PathLike) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _of_folder(path: str | os.PathLike) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, size in _listing(Path(path)):
        digest.update(f"{name}\0{size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _listing(folder: Path) -> Iterator[tuple[str, int]]:
    """Yields (relative path, bytes) of every file below, in order; each folder once.

    Hidden files and folders, which tools leave, are no data.
    """
    seen: set[tuple[int, int]] = set()
    pending = [""]
    while pending:  # no recursion: folders may be nested more deeply than Python's stack
        name = pending.pop()
        path = folder / name
        if name and not path.is_dir():
            if path.is_file():
                yield name, path.stat().st_size
            continue
        status = path.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        pending += (os.path.join(name, entry) for entry in sorted(os.listdir(path), reverse=True)
                    if not entry.startswith("."))
