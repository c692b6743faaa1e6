"""OpenVINO's intermediate representation: an XML file with the weights beside it."""

import os
from pathlib import Path
from typing import Any

from networks.export import Description, Format, Runner
from networks.export.torch_files import program_of


class OpenVino(Format):
    """OpenVINO with any number of images, in float32."""

    suffix = ".xml"
    packages = ("openvino",)
    notes = "OpenVINO IR; the weights lie beside it in a .bin file"

    def write(self, net: Any, path: str | os.PathLike, description: Description) -> None:
        """See `Format.write`; the weights are whole before the XML file that names them is."""
        import openvino

        model = openvino.convert_model(program_of(net, description.resolution))
        for name, text in description.as_text().items():
            model.set_rt_info(text, ["network", name])
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.stem}.{os.getpid()}.xml")
        try:
            openvino.save_model(model, temporary, compress_to_fp16=False)
            os.replace(temporary.with_suffix(".bin"), path.with_suffix(".bin"))
            os.replace(temporary, path)
        finally:
            for part in (temporary, temporary.with_suffix(".bin")):
                part.unlink(missing_ok=True)

    def load(self, path: str | os.PathLike, threads: int | None = None) -> Runner:
        """See `Format.load`."""
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        compiled = openvino.Core().compile_model(path, "CPU", settings)
        return lambda images: compiled(images)[0]

    def written(self, path: str | os.PathLike) -> list[str]:
        """See `Format.written`."""
        return [os.fspath(path), os.fspath(Path(path).with_suffix(".bin"))]
