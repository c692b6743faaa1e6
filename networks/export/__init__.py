"""From a static network to a file that another runtime loads. Free of torch until one is made.

A format is a class here and a row in `FORMATS`; its packages are imported on use.
"""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

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


@dataclass(frozen=True)
class Description:
    """What a file says about its network beside the layers.

    Attributes:
        resolution: height and width of the images in pixels.
        transform: `crop` or `squash`; None where nothing is known.
        mean, std: of the pixels in [0, 1], by channel; None likewise.
        class_names: in the order of the outputs; None likewise.
    """

    resolution: int
    transform: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    class_names: tuple[str, ...] | None = None

    def as_text(self) -> dict[str, str]:
        """Returns what is known, as text: what files can carry; the names as a list in JSON."""
        names = self.class_names and json.dumps(self.class_names, ensure_ascii=False)
        return {name: str(value) for name, value in
                {**asdict(self), "class_names": names}.items() if value is not None}


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
    def write(self, net: Any, path: str | os.PathLike, description: Description) -> None:
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
