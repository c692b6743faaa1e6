"""Recalibration of BN statistics against ofa's own, and what it leaves behind."""

import copy

import numpy as np
import pytest
import torch
from ofa.imagenet_classification.elastic_nn.modules.dynamic_op import DynamicBatchNorm2d
from ofa.imagenet_classification.elastic_nn.utils import set_running_statistics

import networks
from search_space import OFASearchSpace


@pytest.fixture
def net(supernet):
    (arch,) = OFASearchSpace(resolutions=[32]).sample(1, rng=np.random.default_rng(8))
    return networks.cut_subnet(supernet, arch)


def batches(*sizes: int, dtype=torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, 3, 32, 32, generator=generator).to(dtype) for n in sizes]


@pytest.mark.parametrize("sizes", [(16, 16), (16, 5), (1, 8)])
def test_same_statistics_as_ofa(net, sizes):
    """In float64 the two agree to rounding; a single image, whose variance may be 0, included."""
    net, images = net.double(), batches(*sizes, dtype=torch.float64)
    reference = copy.deepcopy(net)
    set_running_statistics(reference, [(batch, None) for batch in images])
    assert networks.recalibrate_bn(net, images) == sum(sizes)
    for key, expected in reference.state_dict().items():
        assert torch.allclose(net.state_dict()[key], expected, rtol=1e-9, atol=1e-12), key


def test_the_result_is_repeatable_and_leaves_no_traces(net):
    weights = {k: v.clone() for k, v in net.state_dict().items() if "running" not in k}
    results = []
    for _ in range(2):
        networks.recalibrate_bn(net, batches(12, 7))
        results.append({k: v.clone() for k, v in net.state_dict().items()})
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])
    assert all(torch.equal(weights[k], results[0][k]) for k in weights)
    assert not any("forward" in vars(module) for module in net.modules())
    assert not DynamicBatchNorm2d.SET_RUNNING_STATISTICS
    assert not net.training
    networks.recalibrate_bn(net.train(), batches(4))
    assert net.training


def test_a_failure_keeps_the_old_statistics(net):
    def broken():
        yield batches(4)[0]
        raise OSError("a damaged image")

    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(OSError, match="damaged"):
        networks.recalibrate_bn(net, broken())
    with pytest.raises(ValueError, match="no images"):
        networks.recalibrate_bn(net, [])
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert not any("forward" in vars(module) for module in net.modules())
