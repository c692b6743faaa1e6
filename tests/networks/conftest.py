"""The original's figures, the rule that fills its tensors, and a small supernet."""

import json
import math

import numpy as np
import pytest
import torch

import networks


def fill_tensor(key: str, shape: list[int], index: int) -> torch.Tensor:
    """The rule of `original_format_interop.json` for the tensor number `index` of a sorted dict."""
    s = np.sin(0.7 * np.arange(math.prod(shape)) + index).reshape(shape)
    rules = [(key.endswith("num_batches_tracked"), lambda: np.zeros(shape, dtype=np.int64)),
             ("running_mean" in key, lambda: 0.05 * s),
             ("running_var" in key, lambda: 1 + 0.1 * s),
             ("matrix" in key, lambda: np.eye(*shape) + 0.05 * s),
             (len(shape) >= 2, lambda: s * math.sqrt(3 / math.prod(shape[1:]))),
             (key.endswith("weight"), lambda: 1 + 0.1 * s)]
    value = next((rule() for holds, rule in rules if holds), None)
    value = 0.1 * s if value is None else value
    return torch.tensor(value, dtype=None if value.dtype == np.int64 else torch.float32)


def fill_state(keys: list) -> dict[str, torch.Tensor]:
    return {key: fill_tensor(key, shape, i) for i, (key, shape) in enumerate(sorted(keys))}


def golden_input(r: int) -> torch.Tensor:
    values = np.sin(0.01 * np.arange(3 * r * r)).reshape(1, 3, r, r)
    return torch.tensor(values, dtype=torch.float32)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def interop(shared_data) -> dict:
    return json.loads((shared_data / "original_format_interop.json").read_text())


@pytest.fixture(scope="session")
def original_checkpoint(interop, tmp_path_factory):
    """A supernet checkpoint with the original's key names, wrapped as it wraps them."""
    path = tmp_path_factory.mktemp("original") / "ofa_mbv3_d234_e346_k357_w1.0"
    torch.save({"state_dict": fill_state(interop["supernet_keys"])}, path)
    return path


@pytest.fixture(scope="session")
def supernet():
    """A supernet of width 0.35 with 10 classes, its weights and statistics drawn at random."""
    torch.manual_seed(0)
    net = networks.build_supernet(10, width_mult=0.35)
    for key, tensor in net.state_dict().items():
        if "running" in key or "matrix" in key:
            tensor += 0.1 * torch.rand_like(tensor)
    return net.eval()
