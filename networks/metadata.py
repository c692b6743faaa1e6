"""What our supernet checkpoints say of their training, read without torch."""

import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

MAX_PICKLE_BYTES = 2**26


@dataclass(frozen=True)
class SupernetMeta:
    """What a supernet was trained on; None where a checkpoint does not say.

    Attributes:
        search_space: name or `module:Class`.
        dataset: a row of `data_providers.DATASETS`.
        resolutions: input resolutions in pixels, ascending.
        vld_size: images split off the training set, which the training has not seen.
        n_classes: outputs of the classifier.
        classes: their names, in the order of the outputs.
        mean, std: that the images were normalised with, one for each channel.
        transform: evaluation transform, `crop` or `squash`.
    """

    search_space: str | None = None
    dataset: str | None = None
    resolutions: list[int] | None = None
    vld_size: int | None = None
    n_classes: int | None = None
    classes: list[str] | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    transform: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns what is stored under `meta`."""
        return asdict(self)

    @classmethod
    def of(cls, values: Any) -> Self:
        """Returns what `values`, from a file, says; parts of another form count as missing."""
        known = values if isinstance(values, Mapping) else {}
        return cls(**{name: known[name] for name, rule in _RULES.items()
                      if name in known and rule(known[name])})


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) < 1000


def _is_count(value: Any, least: int = 1, most: int = 10**6) -> bool:
    return type(value) is int and least <= value <= most


def _is_list(value: Any, rule: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(rule, value))


def _is_rgb(value: Any) -> bool:
    return _is_list(value, lambda x: isinstance(x, float) and math.isfinite(x)) and len(value) == 3


_RULES = {
    "search_space": _is_text, "dataset": _is_text, "transform": _is_text,
    "resolutions": lambda value: _is_list(value, lambda r: _is_count(r, 8, 4096)),
    "vld_size": _is_count, "n_classes": _is_count,
    "classes": lambda value: _is_list(value, _is_text), "mean": _is_rgb, "std": _is_rgb}


def read_supernet_meta(path: str | Path | None) -> SupernetMeta:
    """Returns what a checkpoint of train_supernet.py says; all None for others, or for no file.

    Nothing that the file names is imported or run, and its tensors are passed over.
    """
    try:
        with zipfile.ZipFile(path or "") as archive:
            info = next(info for info in archive.infolist() if info.filename.endswith("/data.pkl"))
            if info.file_size > MAX_PICKLE_BYTES:
                return SupernetMeta()
            with archive.open(info) as file:
                content = _PlainUnpickler(file).load()
    except Exception:  # whatever a damaged pickle raises: reading the weights will name it
        return SupernetMeta()
    return SupernetMeta.of(content.get("meta") if isinstance(content, dict) else None)


class _Ignored:
    """Stands for a tensor, and for anything else that is not plain."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _PlainUnpickler(pickle.Unpickler):
    """Gives plain values, and `_Ignored` for everything that a class or a function would make."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns no class of the file's but OrderedDict."""
        return OrderedDict if (module, name) == ("collections", "OrderedDict") else _Ignored

    def persistent_load(self, pid: Any) -> None:
        """Passes over the storage of a tensor."""
