"""Files for torch itself: an exported program, and weights with their config in one file."""

import json
import os
from typing import Any

import torch

from networks.checkpoints import load_state
from networks.configs import check_config
from networks.export import Format, Preprocessing, Runner
from networks.hub import to_timm
from networks.supernets import build_from_config
from utils.devices import pinned_threads
from utils.errors import UserError
from utils.files import atomic_path
from utils.parsing import parse_json

# Exporting with one image would make 1 a constant of the program.
EXAMPLES = 2


def program_of(net: Any, resolution: int,
               dynamic_batch: bool = True) -> torch.export.ExportedProgram:
    """Returns the network as a graph of torch operations.

    It is exported in timm's form where timm has its blocks: one operation for each activation,
    where the ofa package has four, makes it two times faster in onnxruntime.

    Args:
        net: a static network in eval mode, on the CPU.
        resolution: of the images in pixels; the graph takes no others.
        dynamic_batch: whether it takes any number of images, or one alone.
    """
    images = torch.zeros(EXAMPLES if dynamic_batch else 1, 3, resolution, resolution)
    batch = {"x": {0: torch.export.Dim("batch")}} if dynamic_batch else None
    with torch.no_grad():
        return torch.export.export(_simplest_form(net), (images,), dynamic_shapes=batch)


def _simplest_form(net: Any) -> Any:
    try:
        return to_timm(net)
    except UserError:  # timm has no such blocks
        return net


def torch_runner(net: Any, threads: int | None) -> Runner:
    """Returns a runner of a torch module; it sets the threads of the whole process."""

    def run(images: Any) -> Any:
        with pinned_threads(threads), torch.inference_mode():
            return net(torch.as_tensor(images)).numpy()

    return run


class ExportedProgram(Format):
    """`torch.export`: a graph that `torch.export.load` and AOTInductor take. No project code."""

    suffix = ".pt2"
    notes = f"torch.export of torch {torch.__version__}"

    def write(self, net: Any, path: str | os.PathLike, images: Preprocessing) -> None:
        """See `Format.write`."""
        program = program_of(net, images.resolution)
        with atomic_path(path) as temporary:
            # torch insists on the suffix
            exported = temporary.with_suffix(self.suffix)
            torch.export.save(program, exported, extra_files={
                "description.json": json.dumps(images.as_text())})
            os.replace(exported, temporary)

    def load(self, path: str | os.PathLike, threads: int | None = None) -> Runner:
        """See `Format.load`."""
        return torch_runner(torch.export.load(path).module(), threads)


class SafeTensors(Format):
    """The weights, and `net.config` in the file's header: one file from which nothing can run."""

    suffix = ".safetensors"
    packages = ("safetensors",)
    notes = "weights in our naming; the header holds net.config"

    def write(self, net: Any, path: str | os.PathLike, images: Preprocessing) -> None:
        """See `Format.write`."""
        from safetensors.torch import save

        state = {key: tensor.contiguous() for key, tensor in net.state_dict().items()}
        header = {"format": "pt", "net.config": json.dumps(net.config), **images.as_text()}
        with atomic_path(path) as temporary:
            temporary.write_bytes(save(state, metadata=header))

    def load(self, path: str | os.PathLike, threads: int | None = None) -> Runner:
        """See `Format.load`; raises UserError for a file that is not of this format."""
        return torch_runner(read_safetensors(path), threads)


def read_safetensors(path: str | os.PathLike) -> Any:
    """Returns the network in a file of `SafeTensors`, in eval mode.

    Raises:
        UserError: the file is missing, damaged, or has no config in its header.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}
        config = parse_json(header["net.config"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path}: no network in the form of --to safetensors ({error})") from None
    net = build_from_config(check_config(config, str(path)))
    load_state(net, state, str(path))
    return net.eval()
