"""docs/backbones.md: a network of hub/ in a detector and in a segmenter, as on the page."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from data_providers.table import DIGITS_SUPERNET, get_dataset_info
from networks import cut_subnet, load_supernet
from networks.hub import Preprocessing, write_hub
from search_space import OFASearchSpace
from tests.conftest import ROOT, loads_folders

EXAMPLES = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/backbones.md").read_text(),
                      re.MULTILINE | re.DOTALL)
RNG = torch.Generator().manual_seed(0)


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Runs an example next to a hub/; returns its model, and the weights in hub/."""
    loads_folders()
    net = cut_subnet(load_supernet(ROOT / DIGITS_SUPERNET), OFASearchSpace([32]).extremes()[0])
    info = get_dataset_info("digits")
    write_hub(net, tmp_path / "hub", Preprocessing(32, "squash", info.mean, info.std), "")
    monkeypatch.chdir(tmp_path)

    def run(example):
        names = {}
        exec(EXAMPLES[example], names)
        return names["model"], load_file(tmp_path / "hub" / "model.safetensors")

    return run


def check_body(body, weights, n_maps):
    """The maps come from the trained weights, and the loss has reached their first layer."""
    assert len(body.feature_info.channels()) == n_maps
    own = body.state_dict()
    shared = [name for name in weights if name in own and "conv" in name]
    assert len(shared) > 20 and all(own[name].equal(weights[name]) for name in shared)
    assert body.conv_stem.weight.grad.abs().sum() > 0


def test_each_example_is_short():
    assert len(EXAMPLES) == 2
    assert all(len(example.splitlines()) <= 25 for example in EXAMPLES)


def test_a_detector_learns_from_boxes(build):
    torch.manual_seed(0)
    model, weights = build(0)
    model.transform.min_size, model.transform.max_size = (96,), 96
    images = [torch.rand(3, 64, 80, generator=RNG) for _ in range(2)]
    targets = [{"boxes": torch.tensor([[8.0, 8.0, 40.0, 48.0]]), "labels": torch.tensor([1 + i])}
               for i in range(2)]
    losses = model.train()(images, targets)
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_objectness",
                           "loss_rpn_box_reg"}
    sum(losses.values()).backward()
    check_body(model.backbone.body, weights, 3)
    with torch.inference_mode():
        found = model.eval()(images[:1])[0]
    assert np.all(found["boxes"].numpy() <= [80, 64, 80, 64])


def test_a_segmenter_learns_from_pixels(build):
    torch.manual_seed(0)
    model, weights = build(1)
    images = torch.rand(2, 3, 64, 96, generator=RNG)
    logits = model.train()(images)
    assert logits.shape == (2, 4, 64, 96)
    cross_entropy(logits, torch.randint(4, (2, 64, 96), generator=RNG)).backward()
    check_body(model.body, weights, 2)
