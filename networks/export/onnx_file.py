"""ONNX, and its quantisation to 8-bit integers."""

import os
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from networks.export import Format, Preprocessing, Runner
from networks.export.torch_files import program_of
from utils.files import atomic_path

# Old enough for the runtimes in use since 2023, and the first with every operation that we need.
OPSET = 18
INPUT, OUTPUT = "images", "logits"


class Onnx(Format):
    """ONNX with any number of images; run by onnxruntime."""

    suffix = ".onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")
    notes = f"opset {OPSET}, input '{INPUT}' (batch, 3, r, r), output '{OUTPUT}'"

    def write(self, net: Any, path: str | os.PathLike, images: Preprocessing) -> None:
        """See `Format.write`; the file carries `images` as its metadata."""
        import onnx
        import torch

        program = program_of(net, images.resolution)
        exported: Any = torch.onnx.export(
            program, input_names=[INPUT], output_names=[OUTPUT], opset_version=OPSET,
            dynamo=True, verbose=False)
        model = exported.model_proto
        onnx.helper.set_model_props(model, images.as_text())
        onnx.checker.check_model(model, full_check=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(model.SerializeToString())

    def load(self, path: str | os.PathLike, threads: int | None = None) -> Runner:
        """See `Format.load`."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        session = onnxruntime.InferenceSession(path, options,
                                               providers=["CPUExecutionProvider"])
        return lambda images: session.run([OUTPUT], {INPUT: images})[0]


def quantise(path: str | os.PathLike, target: str | os.PathLike, batches: Iterable[Any]) -> None:
    """Writes an ONNX file with 8-bit weights and activations: post-training quantisation.

    Weights get a scale for each channel, activations one for each tensor, from the ranges that
    the calibration images show. Batch norm is folded into the convolutions first.

    Args:
        path: the file of `Onnx`.
        target: the file to write.
        batches: float32 arrays (b, 3, r, r), preprocessed as for the network.
    """
    from onnxruntime.quantization import QuantType, quant_pre_process, quantize_static

    inputs = ({INPUT: images} for images in batches)
    reader = SimpleNamespace(get_next=lambda: next(inputs, None))
    with atomic_path(target) as temporary:
        folded = temporary.with_suffix(".folded.onnx")
        try:
            quant_pre_process(os.fspath(path), os.fspath(folded))
            quantize_static(
                os.fspath(folded), os.fspath(temporary), reader, per_channel=True,
                reduce_range=not _has_vnni(), activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8, extra_options={"CalibMovingAverage": False})
        finally:
            folded.unlink(missing_ok=True)


def _has_vnni() -> bool:
    """Whether the CPU multiplies 8-bit integers without saturating; others need 7-bit weights."""
    info = Path("/proc/cpuinfo")
    return not info.exists() or "vnni" in info.read_text(encoding="utf-8")
