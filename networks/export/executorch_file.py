"""ExecuTorch, for phones and small devices: a program with the XNNPACK kernels of CPUs."""

import os
from typing import Any

import numpy as np

from networks.export import Description, Format, Runner
from networks.export.torch_files import program_of
from utils.files import atomic_path


class ExecuTorch(Format):
    """ExecuTorch with XNNPACK; one image at a time."""

    suffix = ".pte"
    packages = ("executorch",)
    dynamic_batch = False
    notes = "XNNPACK kernels; one image at a time"

    def write(self, net: Any, path: str | os.PathLike, description: Description) -> None:
        """See `Format.write`."""
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        program = program_of(net, description.resolution, dynamic_batch=False)
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
