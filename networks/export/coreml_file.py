"""Core ML, for Apple's devices: an ML program that only macOS can run."""

import os
import platform
import shutil
from pathlib import Path
from typing import Any

from networks.export import Description, Format, Runner
from networks.export.torch_files import program_of
from utils.errors import UserError

INPUT = "images"


class CoreMl(Format):
    """An ML program in float32, one image at a time; a folder."""

    suffix = ".mlpackage"
    packages = ("coremltools",)
    dynamic_batch = False
    notes = "ML program, iOS 16 or macOS 13 and later; one image at a time; only macOS runs it"

    def write(self, net: Any, path: str | os.PathLike, description: Description) -> None:
        """See `Format.write`; an older folder of that name is replaced."""
        import coremltools

        program = program_of(net, description.resolution, dynamic_batch=False)
        model = coremltools.convert(
            program.run_decompositions({}), convert_to="mlprogram",
            inputs=[coremltools.TensorType(INPUT, program.example_inputs[0][0].shape)],
            minimum_deployment_target=coremltools.target.iOS16,
            compute_precision=coremltools.precision.FLOAT32, skip_model_load=True)
        model.user_defined_metadata.update(description.as_text())
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.stem}.{os.getpid()}{self.suffix}")
        try:
            model.save(os.fspath(temporary))
            shutil.rmtree(path, ignore_errors=True)
            os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def load(self, path: str | os.PathLike, threads: int | None = None) -> Runner:
        """See `Format.load`."""
        if platform.system() != "Darwin":
            raise UserError("a Core ML file runs on macOS alone; it was written, not compared")
        import coremltools

        model = coremltools.models.MLModel(os.fspath(path),
                                           compute_units=coremltools.ComputeUnit.CPU_ONLY)

        def run(images: Any) -> Any:
            import numpy as np

            return np.concatenate([next(iter(model.predict({INPUT: image[None]}).values()))
                                   for image in images])

        return run

    def written(self, path: str | os.PathLike) -> list[str]:
        """See `Format.written`."""
        return [os.fspath(each) for each in Path(path).rglob("*") if each.is_file()]
