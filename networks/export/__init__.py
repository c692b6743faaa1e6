"""From a static network to a file that another runtime loads. Free of torch until one is made.

A format is a class here and a row in `FORMATS`; its packages are imported on use.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from networks.preprocessing import Preprocessing
from utils.packages import require
from utils.registry import load_class

# (b, 3, r, r) float32 images -> (b, n_classes) logits, both numpy arrays
Runner = Callable[[Any], Any]

FORMATS = {
    "onnx": "networks.export.onnx_file:Onnx",
    "pt2": "networks.export.torch_files:ExportedProgram",
    "safetensors": "networks.export.torch_files:SafeTensors",
    "openvino": "networks.export.device_files:OpenVino",
    "executorch": "networks.export.device_files:ExecuTorch",
    "coreml": "networks.export.device_files:CoreMl",
}


class Format(ABC):
    """Writes a network in one format and runs what was written.

    Attributes:
        suffix: of its files.
        packages: that it imports beside torch, by their import names.
        notes: what a user of the file must know, such as the version of the format.
    """

    suffix: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    notes: ClassVar[str] = ""

    @abstractmethod
    def write(self, net: Any, path: str | os.PathLike, images: Preprocessing) -> None:
        """Writes a static network in eval mode, on the CPU, to a file."""

    @abstractmethod
    def load(self, path: str | os.PathLike, threads: int | None = None) -> Runner:
        """Returns what runs the file on the CPU with so many threads; None takes all.

        Raises:
            UserError: this system can write the format but not run it.
        """

    def written(self, path: str | os.PathLike) -> list[str]:
        """Returns the files that `write` made for `path`."""
        return [os.fspath(path)]


def get_format(name: str) -> Format:
    """Returns the format called `name`, or the `Format` that `module:Class` names.

    Raises:
        UserError: no such format, or a package that it needs is not installed.
    """
    found = load_class(FORMATS, name, "export format", Format)
    require(f"--to {name}", *found.packages)
    return found()
