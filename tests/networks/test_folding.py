"""The form that networks are evaluated in: the same logits and accuracies, nothing else touched."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import networks
from networks.folding import folded, speed_up
from search_space import get_search_space
from tests.conftest import ROOT
from tests.networks.test_families import CASES


@pytest.fixture(params=sorted(CASES))
def net(request):
    """A subnet with statistics that are not the identity."""
    torch.manual_seed(0)
    supernet = networks.build_supernet(10, CASES[request.param][0], 0.0, request.param)
    for key, tensor in supernet.state_dict().items():
        if "running_mean" in key:
            tensor += 0.3 * torch.randn_like(tensor)
        elif "running_var" in key:
            tensor *= 0.5 + torch.rand_like(tensor)
    (arch,) = get_search_space(request.param, resolutions=[32]).sample(
        1, rng=np.random.default_rng(1))
    return networks.cut_subnet(supernet, arch)


def run(net, images):
    with torch.inference_mode():
        return net(images)


def test_a_folded_network_has_the_same_logits_and_no_batch_norm(net):
    images = torch.randn(4, 3, 48, 48)
    before, expected = copy.deepcopy(net.state_dict()), run(net, images)
    fast = folded(net)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fast.modules())
    assert not fast.training
    torch.testing.assert_close(run(fast, images), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(run(net, images), expected), "the network itself is left as it is"
    assert all(torch.equal(before[key], tensor) for key, tensor in net.state_dict().items())


def test_a_speeded_up_network_keeps_parameters_and_config(net):
    images = torch.randn(4, 3, 48, 48)
    expected, state, config = run(net, images), copy.deepcopy(net.state_dict()), net.config
    speed_up(net)
    torch.testing.assert_close(run(net, images), expected, atol=1e-5, rtol=1e-4)
    assert net.config == config
    assert list(net.state_dict()) == list(state)
    again = networks.build_from_config(net.config).eval()
    networks.load_state(again, net.state_dict(), "net")
    assert torch.equal(run(again, images), expected)


def test_a_fold_is_exact_in_double_precision():
    torch.manual_seed(0)
    pair = nn.Sequential(nn.Conv2d(3, 5, 3, bias=True), nn.BatchNorm2d(5)).double().eval()
    pair[1].running_mean.normal_()
    pair[1].running_var.uniform_(0.5, 2)
    nn.init.normal_(pair[1].weight)
    nn.init.normal_(pair[1].bias)
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(run(folded(pair), images), run(pair, images), atol=1e-12, rtol=0)
    alone = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 5, 3)).eval()
    assert isinstance(folded(alone)[0], nn.BatchNorm2d), "nothing runs before it"


def test_accuracies_of_digits_are_those_of_the_plain_form():
    """Calibrated and validated plainly, and as evaluations do."""
    from evaluator import build_evaluator
    from training.loops import evaluate

    evaluator = build_evaluator("ofa", {
        "supernet_path": str(ROOT / "data/ofa_digits_d234_e346_k357_w0.35"), "dataset": "digits",
        "vld_size": 300, "n_epochs": 0, "threads": 1})
    archs = get_search_space("mbv3", resolutions=[32, 40]).sample(8, rng=np.random.default_rng(2))
    for arch in archs:
        plain = networks.cut_subnet(evaluator.supernet, arch)
        networks.recalibrate_bn(plain, evaluator.provider.calibration_batches(arch["r"]))
        expected = evaluate(plain, evaluator.provider.eval_batches("valid", arch["r"]))
        stats = evaluator.evaluate(arch)
        assert (stats["top1"], stats["top5"]) == (expected["top1"], expected["top5"])
        assert stats["loss"] == pytest.approx(expected["loss"], abs=1e-5)
