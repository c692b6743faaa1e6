"""The files of one architecture that a command on a device is given."""

from functools import cached_property
from pathlib import Path
from typing import Any

from evaluator.device_command import DeviceCommand
from evaluator.onnx_layers import KINDS, write_onnx
from networks.export import Preprocessing, get_format
from search_space import SPACE_KEY, Arch, SearchSpace, family_of, name_of
from utils.errors import UserError
from utils.files import write_json

LAYERS = "onnx"  # the format that needs no torch where all layers are known


class NetworkFiles:
    """Writes networks with random weights, which latency does not depend on.

    Args:
        space: of the architectures.
        form: a row of `networks.export.FORMATS`, or `module:Class`.
        n_classes, width_mult: of the networks.
    """

    def __init__(self, space: SearchSpace, form: str, n_classes: int = 1000,
                 width_mult: float = 1.0) -> None:
        self.space, self.form = space, form
        self.n_classes, self.width_mult = n_classes, width_mult

    def model(self, arch: Arch, folder: Path) -> Path:
        """Writes the network of an architecture; returns its file.

        Raises:
            UserError: networks of the space cannot be built, or the format is not installed.
        """
        if self.form == LAYERS and self.space.sequential:
            layers = self.space.layers(arch, self.n_classes, self.width_mult)
            if all(layer.kind in KINDS for layer in layers):
                write_onnx(layers, folder / "net.onnx")
                return folder / "net.onnx"
        form = get_format(self.form)
        from networks import cut_subnet

        path = folder / f"net{form.suffix}"
        form.write(cut_subnet(self._supernet, arch), path,
                   Preprocessing(self.space.resolution(arch) or 0))
        return path

    def architecture(self, arch: Arch, folder: Path) -> Path:
        """Writes an architecture as a `net.subnet` file; returns it."""
        write_json(folder / "net.subnet", {**arch, SPACE_KEY: name_of(self.space)})
        return folder / "net.subnet"

    def values(self, command: DeviceCommand, arch: Arch, folder: Path) -> dict[str, object]:
        """Writes the files that a command asks for; returns what its placeholders stand for."""
        writers = {"{model}": self.model, "{arch}": self.architecture}
        return {"{r}": self.space.resolution(arch) or "",
                **{name: write(arch, folder) for name, write in writers.items()
                   if command.needs(name)}}

    @cached_property
    def _supernet(self) -> Any:
        try:
            family = family_of(name_of(self.space))
        except UserError:
            raise UserError(f"the networks of the search space {self.space.name} cannot be built "
                            "here; write {arch} in the --command, and build them there") from None
        from networks import build_supernet

        return build_supernet(self.n_classes, self.width_mult, family=family).eval()
