"""What a supernet's checkpoint says of itself, read without torch.

`train_supernet.py` stores under `meta` what the supernet was trained on, in plain Python:
`resolutions`, `dataset`, `class_names`, `mean`, `std`, `width`, `search_space`.
"""

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from utils.files import open_regular

MAX_PICKLE_BYTES = 64 * 2**20
# What reading damaged bytes can raise.
_DAMAGE = (pickle.UnpicklingError, zipfile.BadZipFile, OSError, EOFError, ValueError, TypeError,
           LookupError, AttributeError, RuntimeError, MemoryError, NotImplementedError)


class _Inert:
    """Stands for every class and function that a checkpoint names: does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

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


def read_meta(path: str | os.PathLike) -> dict[str, Any]:
    """Returns the `meta` of a checkpoint; {} where it has none or cannot be read here.

    Whether the file is a sound checkpoint is told when it is loaded (`networks.load_supernet`).
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            (entry,) = (e for e in archive.infolist() if e.filename.endswith("/data.pkl"))
            if entry.file_size > MAX_PICKLE_BYTES or entry.compress_type != zipfile.ZIP_STORED:
                return {}
            content = _Reader(io.BytesIO(archive.read(entry))).load()
    except _DAMAGE:
        return {}
    meta = content.get("meta") if isinstance(content, dict) else None
    return dict(meta) if isinstance(meta, Mapping) else {}
