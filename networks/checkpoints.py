"""Checkpoints: the only place that reads weights, and the two namings of their keys.

Only tensors in plain containers and NumPy's numbers are read (`weights_only=True`). What could
execute code, is damaged, or claims more memory than its file can fill is refused with one line.
Weights that are not finite are neither read nor written.
"""

import argparse
import io
import os
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from networks.supernet_info import DAMAGE, MAX_PICKLE_BYTES, archive_entries
from utils.errors import UserError
from utils.files import atomic_path, open_regular
from utils.registry import TIMM

StateDict = dict[str, torch.Tensor]

MAX_BYTES = 8 * 2**30
# a pickle describes tensors, a few hundred bytes and 40 steps each: more is no description of
# weights, and each step may make a list
MAX_STEPS = 1_000_000
SAFETENSORS = ".safetensors"
_N_PICKLES = 5  # of a file as torch wrote it until 2020, before the tensors
N_NAMED = 3
# of weights, counters and masks; others (8 bits and less, quantised) cannot be checked
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.int16,
          torch.int32, torch.int64, torch.uint8, torch.bool)

# where training scripts keep the weights, in the order of preference
_WRAPPERS = ("state_dict", "model", "net")
_EMA_WRAPPERS = ("state_dict_ema", "model_ema")
# both in the state of a training run, the second one not always
_STATES = ("state_dict", "state_dict_ema")
# added by DistributedDataParallel and torch.compile
_PREFIXES = ("module.", "_orig_mod.")
_OLD_BLOCK, _NEW_BLOCK = ".mobile_inverted_conv.", ".conv."
_UNSAFE = re.compile(r"GLOBAL (\S+)|class (\S+) that is blocked|executing (\S+)")


class _NumberType:
    """Stands for `numpy.dtype` in a checkpoint: the type of a number, and its byte order."""

    def __init__(self, code: str, *_: object) -> None:
        if not re.fullmatch(r"[fiu][1248]|b1", code):
            raise pickle.UnpicklingError("GLOBAL numpy.dtype of no number")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


def _number(kind: _NumberType, data: bytes) -> Any:
    """Stands for NumPy's `scalar`: returns the plain number."""
    return np.frombuffer(data, kind.dtype).item()


# What a file may name besides tensors: the flags of timm's script, and NumPy's numbers, such as a
# `best_acc`, whose bytes old pickles encode. They become plain ones, by functions that only do so.
_HARMLESS: list[Any] = [
    argparse.Namespace, (_NumberType, "numpy.dtype"),
    (lambda text, _: text.encode("latin1"), "_codecs.encode"),
    *((_number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core"))]


class Checkpoint(NamedTuple):
    """What a file of weights holds.

    Attributes:
        state: the state dict, on the CPU, in today's key naming.
        meta: what stands next to it under `meta`: plain Python, empty where there is none.
        family: of a supernet whose tensors do not tell it.
        averaged: the name under which averaged weights, which were not taken, stand next to it.
    """

    state: StateDict
    meta: dict[str, Any]
    family: str | None = None
    averaged: str | None = None


def load_checkpoint(path: str | os.PathLike, ema: bool = False) -> StateDict:
    """Returns the state dict in a checkpoint; see `read_checkpoint`."""
    return read_checkpoint(path, ema).state


def read_checkpoint(path: str | os.PathLike, ema: bool = False) -> Checkpoint:
    """Returns the weights in a checkpoint, and its `meta`.

    Reads zip and pre-2020 files, bare state dicts and those wrapped by a training script, and
    `.safetensors`.

    Args:
        path: the file.
        ema: take the averaged weights (`state_dict_ema`) instead of the last ones.

    Raises:
        UserError: missing, empty, HTML, damaged, carrying code, claiming absurd sizes, without
            weights, or with anything but finite tensors among them.
    """
    path = Path(path)
    size = _check_file(path)
    content = _load_safetensors(path) if path.suffix == SAFETENSORS else _load(path)
    state = _unwrap(content, ema, path)
    if not isinstance(state, Mapping) or not state:
        raise UserError(f"{path}: holds no weights (a dict of tensors was expected, not "
                        f"{type(state).__name__})")
    for key, tensor in state.items():
        _check_tensor(path, key, tensor, size)
    stored = content if state is not content else {}
    meta, family = stored.get("meta"), stored.get("family")
    raw = any(stored.get(key) is state for key in _WRAPPERS)
    others = [key for key in _EMA_WRAPPERS if raw and not ema and stored.get(key)]
    return Checkpoint(_today(state, path), dict(meta) if isinstance(meta, Mapping) else {},
                      family if isinstance(family, str) else None, *others[:1])


def load_state(net: nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Loads `state`, of either key naming, into `net`; every tensor of the network must be there.

    Args:
        net: a supernet or a static network.
        state: its state dict.
        source: the file's name for messages.

    Raises:
        UserError: keys are missing or unknown, or shapes differ; the first ones are named.
    """
    state, own = _today(state, source), dict(net.state_dict())
    missing = [key for key in own if key not in state]
    unknown = [key for key in state if key not in own]
    if missing or unknown:
        parts = [f"{len(keys)} {what} (first {', '.join(keys[:N_NAMED])})"
                 for what, keys in ((f"of {len(own)} tensors are missing", missing),
                                    ("are not in the network", unknown)) if keys]
        raise UserError(f"{source}: not the weights of this network: {'; '.join(parts)}; give the "
                        "checkpoint that belongs to the config")
    wrong = [key for key in own if state[key].shape != own[key].shape]
    if wrong:
        raise UserError(f"{source}: {_describe_shapes(wrong, state, own)}")
    kinds = [key for key in own if own[key].is_floating_point() != state[key].is_floating_point()]
    if kinds:
        raise UserError(f"{source}: {kinds[0]!r} is {state[kinds[0]].dtype}, but the network has "
                        f"{own[kinds[0]].dtype} there ({len(kinds)} such tensors); quantised "
                        "weights must be converted first")
    nn.Module.load_state_dict(net, state)


def load_weights(net: nn.Module, path: str | os.PathLike, ema: bool = False,
                 report: Callable[[str], object] | None = None) -> None:
    """Loads the checkpoint at `path` into `net`; see `read_checkpoint` and `load_state`.

    Args:
        net: a supernet or a static network.
        path, ema: see `read_checkpoint`.
        report: gets a line where averaged weights are left aside that --use-ema would take.

    Raises:
        UserError: as those two.
    """
    found = read_checkpoint(path, ema)
    load_state(net, found.state, str(path))
    if found.averaged and report:
        report(f"{path} holds averaged weights, too ({found.averaged}); --use-ema takes them")


def save_weights(net: nn.Module, path: str | os.PathLike, old_naming: bool = False,
                 **extra: Any) -> None:
    """Writes `{"state_dict": ..., **extra}` atomically; tensors on the CPU.

    Args:
        net: the network.
        path: the file.
        old_naming: write the key names of ofa 0.0.4, for users of the original program.
        extra: plain Python values to store with them.

    Raises:
        UserError: weights are NaN or infinite; an older file stays as it is.
    """
    state = {_old_key(key) if old_naming else key: tensor.detach().cpu().contiguous()
             for key, tensor in net.state_dict().items()}
    family = getattr(net, "family", "")
    named = {"family": family} if family.startswith(TIMM) else {}
    _write(path, {"state_dict": state, **named, **extra})


def save_training_state(path: str | os.PathLike, **state: Any) -> None:
    """Writes what a training run needs to resume: tensors and plain Python, atomically.

    Raises:
        UserError: as `save_weights`.
    """
    _write(path, state)


def load_training_state(path: str | os.PathLike) -> dict[str, Any]:
    """Returns what `save_training_state` wrote, on the CPU.

    Raises:
        UserError: missing, damaged or unsafe as in `load_checkpoint`, or weights without the state
            of a training run.
    """
    path = Path(path)
    size = _check_file(path)
    content = _load(path)
    parts = {"epoch": int, "optimizer": dict, **dict.fromkeys(_STATES, dict)}
    if not isinstance(content, dict) or not all(
            isinstance(({"state_dict_ema": {}} | content).get(key), kind)
            for key, kind in parts.items()):
        raise UserError(f"{path}: not the state of a training run; weights alone can only start a "
                        "new one")
    for key, tensor in chain(*(content.get(name, {}).items() for name in _STATES)):
        _check_tensor(path, key, tensor, size)
    return content


def _write(path: str | os.PathLike, content: dict[str, Any]) -> None:
    for key, tensor in chain(*(content.get(name, {}).items() for name in _STATES)):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"{path}: not written, {key!r} became NaN or infinite: the training "
                            "diverged; choose a smaller learning rate")
    buffer = io.BytesIO()  # torch would report a full disk as a RuntimeError without the reason
    torch.save(content, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def _check_file(path: Path) -> int:
    """Returns the file's size, after the checks that need no loading."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(256).lstrip()
        if size > MAX_BYTES:
            raise UserError(f"{path}: {size} bytes; at most {MAX_BYTES} are accepted")
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint; check the path") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, but a checkpoint was expected; name the file") from None
    except ValueError as error:  # an embedded null byte in the path
        raise UserError(f"{str(path)!r}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if not start:
        raise UserError(f"{path}: empty, but a checkpoint was expected; copy it again")
    if start[:1] == b"<":
        raise UserError(f"{path}: HTML, not a checkpoint; the download probably failed, "
                        "get the file again")
    entries = archive_entries(path)
    if entries is not None:
        _check_zip(path, entries, size)
    elif path.suffix != SAFETENSORS:
        _check_pickles(path)
    return size


def _check_zip(path: Path, entries: list[zipfile.ZipInfo], size: int) -> None:
    """Refuses archives that unpack to more than they are: torch stores without compression."""
    declared = sum(entry.file_size for entry in entries)
    pickles = max((e.file_size for e in entries if e.filename.endswith(".pkl")), default=0)
    if declared > size or pickles > MAX_PICKLE_BYTES:
        raise UserError(f"{path}: an archive of absurd size ({declared} bytes declared in a file "
                        f"of {size}); refused")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UserError(f"{path}: a compressed archive, which no checkpoint is; unpack it first")


def _check_pickles(path: Path) -> None:
    """Refuses a file that is no archive and whose pickles build more than weights need."""
    with open(path, "rb") as file, suppress(*DAMAGE):  # damage is found when it is loaded
        steps = chain.from_iterable(pickletools.genops(file) for _ in range(_N_PICKLES))
        if next(islice(steps, MAX_STEPS, None), None) is None:
            return
        raise UserError(f"{path}: more than {MAX_STEPS} steps to build what it holds, which no "
                        "weights need; refused")


def _load(path: Path) -> Any:
    # mapped, a zip file's tensors take memory only when they are read; old files cannot be mapped
    zipped = archive_entries(path) is not None
    mapped = zipped and str(path).encode(errors="replace") == os.fsencode(path)  # UTF-8, for torch
    try:
        with (warnings.catch_warnings(action="ignore"),  # of damaged files, which end as an error
              torch.serialization.safe_globals(_HARMLESS)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except DAMAGE as error:
        name = _code_in(path, zipped, str(error))
        if name:
            raise UserError(f"{path}: carries code (it would run {name}) and not plain weights; "
                            "refused, nothing was run. Get it from a source that you trust, saved "
                            "as a state dict") from None
        raise UserError(f"{path}: no checkpoint, or a truncated or damaged one; copy it again") \
            from None


def _load_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, *DAMAGE):
        raise UserError(f"{path}: no {SAFETENSORS} file, or a truncated or damaged one; copy it "
                        "again") from None


def _code_in(path: Path, zipped: bool, message: str) -> str | None:
    """Returns what the pickle in a refused file would import and run, if anything.

    torch names it in its message, unless the pickle is in a newer protocol than checkpoints are.
    """
    named = _UNSAFE.search(message)
    if named:
        return next(group for group in named.groups() if group)
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(_pickle_in(path, zipped)):
            if opcode.name in ("GLOBAL", "INST") and isinstance(argument, str):
                return argument.replace(" ", ".")
            if opcode.name == "STACK_GLOBAL":
                return ".".join(strings[-2:])
            if isinstance(argument, str):
                strings.append(argument)
    except DAMAGE:  # the end of a damaged pickle: nothing was found
        pass
    return None


def _pickle_in(path: Path, zipped: bool) -> bytes:
    if not zipped:
        with open(path, "rb") as file:
            return file.read(MAX_PICKLE_BYTES)
    with zipfile.ZipFile(path) as archive:
        names = (name for name in archive.namelist() if name.endswith("data.pkl"))
        return archive.read(next(names, "data.pkl"))


def _unwrap(content: Any, ema: bool, path: Path) -> Any:
    if not isinstance(content, Mapping):
        return content
    wrapped = next((key for key in (_EMA_WRAPPERS if ema else _WRAPPERS + _EMA_WRAPPERS)
                    if isinstance(content.get(key), Mapping)), None)
    if ema and wrapped is None:
        raise UserError(f"{path}: holds no averaged (EMA) weights; load it without the EMA option")
    return content if wrapped is None else content[wrapped]


def _check_tensor(path: Path, key: Any, tensor: Any, size: int) -> None:
    """One entry of a state dict: its own memory must lie in the file before it is looked at."""
    if not isinstance(key, str) or not isinstance(tensor, torch.Tensor):
        raise UserError(f"{path}: {str(key)[:60]!r} holds a {type(tensor).__name__}; a state dict "
                        "has names and tensors only")
    if tensor.is_nested or tensor.layout != torch.strided or tensor.dtype not in DTYPES \
            or tensor.device.type != "cpu":
        kind = "nested" if tensor.is_nested else f"{tensor.dtype}, {tensor.layout}"
        raise UserError(f"{path}: {str(key)[:60]!r} is no plain tensor of weights ({kind})")
    if tensor.numel() * tensor.element_size() > size:
        raise UserError(f"{path}: {key!r} claims the absurd shape {tuple(tensor.shape)} in a file "
                        f"of {size} bytes; refused")
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise UserError(f"{path}: {key!r} holds NaN or infinite weights; the training that wrote "
                        "it diverged, take an earlier checkpoint")


def _today(state: Mapping[str, torch.Tensor], source: Any) -> StateDict:
    """Returns the state dict with today's key names, without the prefixes of wrappers."""
    keys = list(state)
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in keys):
            keys = [key.removeprefix(prefix) for key in keys]
    keys = [key.replace(_OLD_BLOCK, _NEW_BLOCK) for key in keys]
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise UserError(f"{source}: {twice!r} is there twice, in the old naming and in today's")
    return dict(zip(keys, state.values(), strict=True))


def _old_key(key: str) -> str:
    return re.sub(r"^(blocks\.\d+)\.conv\.", rf"\1{_OLD_BLOCK}", key)


def _describe_shapes(wrong: list[str], state: Mapping[str, torch.Tensor], own: StateDict) -> str:
    if all(key.startswith("classifier.linear.") for key in wrong):
        return (f"the classifier has {len(state[wrong[0]])} classes, but the network "
                f"{len(own[wrong[0]])}; set the class count, or take the checkpoint for it")
    shapes = [f"{key} is {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
              for key in wrong[:N_NAMED]]
    return (f"not the weights of this network: {len(wrong)} tensors have another shape "
            f"({'; '.join(shapes)})")
