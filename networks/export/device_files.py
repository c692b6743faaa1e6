"""Files for the runtimes of other devices: OpenVINO, Core ML, ExecuTorch."""

import os
import platform
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from networks.export import Format, Preprocessing, Runner
from networks.export.torch_files import program_of
from utils.errors import UserError
from utils.files import atomic_path

INPUT = "images"  # of a Core ML program


class OpenVino(Format):
    """OpenVINO's intermediate representation, with any number of images, in float32."""

    suffix = ".xml"
    packages = ("openvino",)
    notes = "OpenVINO IR; the weights lie beside it in a .bin file"

    def write(self, net: Any, path: str | os.PathLike, images: Preprocessing) -> None:
        """See `Format.write`; the weights are whole before the XML file that names them is."""
        import openvino

        model = openvino.convert_model(program_of(net, images.resolution))
        for name, text in images.as_text().items():
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


class CoreMl(Format):
    """An ML program for Apple's devices in float32, one image at a time; a folder."""

    suffix = ".mlpackage"
    packages = ("coremltools",)
    notes = "ML program, iOS 16 or macOS 13 and later; one image at a time; only macOS runs it"

    def write(self, net: Any, path: str | os.PathLike, images: Preprocessing) -> None:
        """See `Format.write`; an older folder of that name is replaced."""
        import coremltools

        program = program_of(net, images.resolution, dynamic_batch=False)
        model = coremltools.convert(
            program.run_decompositions({}), convert_to="mlprogram",
            inputs=[coremltools.TensorType(INPUT, program.example_inputs[0][0].shape)],
            minimum_deployment_target=coremltools.target.iOS16,
            compute_precision=coremltools.precision.FLOAT32, skip_model_load=True)
        model.user_defined_metadata.update(images.as_text())
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
            return np.concatenate([next(iter(model.predict({INPUT: image[None]}).values()))
                                   for image in images])

        return run

    def written(self, path: str | os.PathLike) -> list[str]:
        """See `Format.written`."""
        return [os.fspath(each) for each in Path(path).rglob("*") if each.is_file()]


class ExecuTorch(Format):
    """ExecuTorch for phones, with the XNNPACK kernels of CPUs; one image at a time."""

    suffix = ".pte"
    packages = ("executorch",)
    notes = "XNNPACK kernels; one image at a time"

    def write(self, net: Any, path: str | os.PathLike, images: Preprocessing) -> None:
        """See `Format.write`."""
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        program = program_of(net, images.resolution, dynamic_batch=False)
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        with atomic_path(path) as temporary:
            temporary.write_bytes(lowered.to_executorch().buffer)

    def load(self, path: str | os.PathLike, threads: int | None = None) -> Runner:
        """See `Format.load`; the runtime's own number of threads is used."""
        import torch
        from executorch.runtime import Runtime

        method = Runtime.get().load_program(os.fspath(path)).load_method("forward")

        def run(images: Any) -> Any:
            return np.concatenate([method.execute([torch.from_numpy(image[None])])[0].numpy()
                                   for image in np.ascontiguousarray(images)])

        return run
