"""What a supernet's checkpoint records of its training, read without torch.

`train_supernet.py` stores under `meta` what the supernet was trained on, in plain Python: the
fields of `SupernetInfo`.
"""

import io
import math
import os
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from utils.errors import UserError
from utils.files import open_regular
from utils.invocation import program

MAX_PICKLE_BYTES = 8 * 2**20  # a few hundred for each tensor
_RELEASE = "https://raw.githubusercontent.com/han-cai/files/master/ofa/ofa_nets"
# The supernets that Once-for-All publishes and this program reads, with their sizes.
PUBLISHED = {"ofa_mbv3_d234_e346_k357_w1.0": "31 MB", "ofa_mbv3_d234_e346_k357_w1.2": "43 MB",
             "ofa_proxyless_d234_e346_k357_w1.3": "32 MB"}
# What to do where a network has other classes than the data set.
FINE_TUNE = "fine-tune with --n_epochs 1 or more, or take another supernet"
TUNE_FIRST = "fine-tune it on that data set first"
# What reading damaged bytes can raise.
DAMAGE = (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, ValueError,
          AttributeError, ArithmeticError, AssertionError, ImportError, MemoryError, OSError,
          struct.error, zipfile.BadZipFile)


class _Inert:
    """Stands for every class and function that a checkpoint names: does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        pass


class _Reader(pickle.Unpickler):
    """Reads plain Python; tensors become inert objects, and nothing is imported."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns a class that does nothing, whatever is asked for."""
        return OrderedDict if (module, name) == ("collections", "OrderedDict") else _Inert

    def persistent_load(self, pid: Any) -> Any:
        """Returns nothing in place of a tensor's memory."""
        return None


@dataclass(frozen=True)
class SupernetInfo:
    """What a supernet was trained on; None where a checkpoint does not record it.

    Attributes:
        search_space: name or `module:Class`.
        dataset: a row of `data_providers.DATASETS`.
        resolutions: input resolutions in pixels, ascending.
        vld_size: images split off the training set, which the training has not seen.
        n_classes: outputs of the classifier.
        class_names: their names, in the order of the outputs.
        mean, std: that the images were normalised with, one for each channel.
        transform: evaluation transform, `crop` or `squash`.
        crop_scale: smallest part of an image that its random crops held, 0..1.
        width: width multiplier.
        pretrained: the weights that its training started from, with their licence.
        n_outputs: outputs of the classifier by the shape of its weights, which older checkpoints
            have too; not stored.
    """

    search_space: str | None = None
    dataset: str | None = None
    resolutions: list[int] | None = None
    vld_size: int | None = None
    n_classes: int | None = None
    class_names: list[str] | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    transform: str | None = None
    crop_scale: float | None = None
    width: float | None = None
    pretrained: str | None = None
    n_outputs: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns what is stored under `meta`."""
        return {name: getattr(self, name) for name in _RULES}

    @classmethod
    def of(cls, values: Any, n_outputs: int | None = None) -> Self:
        """Returns what `values`, from a file, records; parts of another form count as missing."""
        known = values if isinstance(values, Mapping) else {}
        return cls(n_outputs=n_outputs, **{name: known[name] for name, rule in _RULES.items()
                                           if name in known and rule(known[name])})

    @classmethod
    def of_config(cls, config: Mapping[str, Any], source: str) -> Self:
        """Returns what a `net.config` records of the images that its network was made with.

        Raises:
            UserError: a part has another form.
        """
        for name in ("mean", "std", "class_names"):
            if config.get(name) is not None and not _RULES[name](config[name]):
                raise UserError(f"{source}: {name!r} cannot be {str(config[name])[:60]!r}; fix "
                                "the file, or take the entry out")
        return cls.of(config)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) < 1000


def _is_count(value: Any, least: int = 1, most: int = 10**6) -> bool:
    return type(value) is int and least <= value <= most


def _is_list(value: Any, rule: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(rule, value))


def _is_rgb(value: Any, least: float = 0.0) -> bool:
    return _is_list(value, lambda x: isinstance(x, float) and least <= x < math.inf) \
        and len(value) == 3


_RULES: dict[str, Callable[[Any], bool]] = {  # in the order of the fields
    "search_space": _is_text, "dataset": _is_text,
    "resolutions": lambda value: _is_list(value, lambda r: _is_count(r, 8, 4096)),
    "vld_size": _is_count, "n_classes": _is_count,
    "class_names": lambda value: _is_list(value, _is_text), "mean": _is_rgb,
    "std": lambda value: _is_rgb(value, 1e-6), "transform": _is_text,
    "crop_scale": lambda value: type(value) in (int, float) and 0 < value <= 1,
    "width": lambda value: type(value) in (int, float) and 0 < value < 100,
    "pretrained": _is_text}


def read_supernet_info(path: str | os.PathLike) -> SupernetInfo:
    """Returns what a checkpoint records; nothing where it has no `meta` or cannot be read here.

    The file is opened once. Whether it is a sound checkpoint shows when it is loaded
    (`networks.load_supernet`).
    """
    content = _read(path)
    return SupernetInfo.of(content.get("meta"), _count_outputs(content.get("state_dict")))


def _read(path: str | os.PathLike) -> dict[str, Any]:
    """Returns what a checkpoint holds, with inert tensors; {} where it cannot be read."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            (entry,) = (e for e in archive.infolist() if e.filename.endswith("/data.pkl"))
            if entry.file_size > MAX_PICKLE_BYTES or entry.compress_type != zipfile.ZIP_STORED:
                return {}
            content = _Reader(io.BytesIO(archive.read(entry))).load()
    except DAMAGE:
        return {}
    return content if isinstance(content, dict) else {}


def _count_outputs(state: Any) -> int | None:
    """Returns the outputs of the classifier in a state dict of inert tensors, if it has one."""
    for key, tensor in state.items() if isinstance(state, Mapping) else ():
        if re.fullmatch(r"classifier\..*weight", str(key)) and isinstance(tensor, _Inert):
            shape = tensor.args[2:3]  # of torch._utils._rebuild_tensor_v2
            if shape and isinstance(shape[0], tuple) and shape[0] and _is_count(shape[0][0]):
                return int(shape[0][0])
    return None


def archive_entries(path: str | os.PathLike) -> list[zipfile.ZipInfo] | None:
    """Returns the entries of a checkpoint that is a zip archive, as they are since 2020, or None.

    Raises:
        UserError: it ends early, as after a copy that was cut.
    """
    with open_regular(path) as file:
        if file.read(4) != b"PK\x03\x04":
            return None
        try:
            with zipfile.ZipFile(file) as archive:
                return archive.infolist()
        except DAMAGE:
            raise UserError(f"{path}: a truncated or damaged checkpoint; copy it again") from None


def check_supernet_file(path: str | os.PathLike) -> None:
    """Checks a supernet before anything is planned with it; it is read whole when it is loaded.

    Raises:
        UserError: see `check_supernet_exists`; or the end of the file is missing.
    """
    check_supernet_exists(path)
    archive_entries(path)


def check_supernet_exists(path: str | os.PathLike) -> None:
    """Raises UserError, with where to get supernets, if there is no file `path`."""
    if os.path.exists(path):
        return
    name = os.path.basename(path)
    source = f", or get it from Once-for-All's release, {PUBLISHED[name]}: {_RELEASE}/{name}" \
        if name in PUBLISHED else ""
    raise UserError(f"{path}: no such checkpoint of a supernet; name yours with --supernet_path"
                    f"{source}; {program('train_supernet.py')} makes one of your own data "
                    "(docs/imagenet.md, docs/own_data.md)")


def check_classes(source: object, found: int | None, wanted: int | None,
                  advice: str = FINE_TUNE) -> None:
    """Raises UserError where a network does not have as many classes as the data set.

    Args:
        source: the network's file, or how it is called.
        found, wanted: the outputs of its classifier, and the classes of the data; None is unknown.
        advice: what to do, for the message.

    DEVIATION class-count: the original measures how often the outputs meet labels of other classes.
    """
    if None not in (found, wanted) and found != wanted:
        raise UserError(f"{source}: a network for {found} classes, but the data set has {wanted}; "
                        f"{advice}")
