"""Gradients on narrow maps: torch's own, computed in another way."""

import pytest
import torch
from torch import nn

import networks
from networks.depthwise import NarrowDepthwise, is_narrow, weight_gradient
from training.loops import train_one_epoch

CASES = [(size, out, kernel, stride) for kernel in (3, 5, 7) for stride in (1, 2)
         for size in range(1, kernel + 2) for out in [(size - 1) // stride + 1]]


@pytest.mark.parametrize(("size", "out", "kernel", "stride"), CASES)
def test_the_gradient_of_the_weights_is_torchs(size, out, kernel, stride):
    torch.manual_seed(size)
    x = torch.randn(5, 4, size, size + 1, dtype=torch.float64)
    grad = torch.randn(5, 4, out, size // stride + 1, dtype=torch.float64)
    expected = torch.nn.grad.conv2d_weight(x, (4, 1, kernel, kernel), grad, stride, kernel // 2,
                                           groups=4)
    found = weight_gradient(x.float(), grad.float(), (kernel, kernel), (stride, stride),
                            (kernel // 2, kernel // 2))
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)


def test_rectangles_and_odd_paddings():
    torch.manual_seed(0)
    x, grad = torch.randn(3, 2, 2, 6), torch.randn(3, 2, 4, 2)
    expected = torch.nn.grad.conv2d_weight(x, (2, 1, 3, 5), grad, (1, 3), (2, 1), groups=2)
    found = weight_gradient(x, grad, (3, 5), (1, 3), (2, 1))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def gradients(net, images, inside):
    """Returns the outputs and the gradients of images and parameters."""
    images = images.clone().requires_grad_()
    net.zero_grad()
    if inside:
        with NarrowDepthwise():
            logits = net(images)
    else:
        logits = net(images)
    logits.square().sum().backward()
    return [logits.detach(), images.grad, *(p.grad for p in net.parameters() if p.grad is not None)]


def test_a_supernet_has_the_same_outputs_and_gradients(monkeypatch):
    torch.manual_seed(0)
    net, images = networks.build_supernet(10, 0.35, 0.0), torch.randn(6, 3, 40, 40)
    calls = []
    monkeypatch.setattr("networks.depthwise.weight_gradient",
                        lambda *args: calls.append(args) or weight_gradient(*args))
    first = gradients(net, images, inside=False)
    assert not calls
    second = gradients(net, images, inside=True)
    assert len(calls) > 10, "most layers of the largest subnet are narrow at 40 px"
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(other, one, atol=1e-5 * one.abs().max().item() + 1e-6, rtol=1e-3)


@pytest.mark.parametrize("layer", [
    nn.Conv2d(6, 6, 7, padding=3, groups=6, bias=True),
    nn.Conv2d(6, 6, 7, padding=3, groups=2, bias=False),
    nn.Conv2d(6, 12, 7, padding=3, groups=6, bias=False),
    nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6, bias=False),
    nn.Conv2d(6, 6, 7, padding="same", groups=6, bias=False),
    nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)])
def test_other_convolutions_are_left_to_torch(layer, monkeypatch):
    def never(*_):
        raise AssertionError("not for this layer")

    monkeypatch.setattr("networks.depthwise.weight_gradient", never)
    images = torch.randn(2, 6, 4, 4)
    for one, other in zip(gradients(layer, images, True), gradients(layer, images, False),
                          strict=True):
        assert torch.equal(one, other)


def test_without_gradients_in_half_precision_and_without_a_batch_torch_computes():
    x, weight = torch.randn(2, 6, 4, 4), torch.randn(6, 1, 7, 7, requires_grad=True)
    assert is_narrow(x, weight, 6)
    assert not is_narrow(x.bfloat16(), weight, 6)
    assert not is_narrow(x[0], weight, 6)
    assert not is_narrow(x, weight.detach(), 6)
    with torch.no_grad():
        assert not is_narrow(x, weight, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_narrow(x, weight, 6)


def test_trainings_use_it(monkeypatch):
    calls = []
    monkeypatch.setattr("networks.depthwise.weight_gradient",
                        lambda *args: calls.append(args) or weight_gradient(*args))
    net = nn.Sequential(nn.Conv2d(3, 3, 5, padding=2, groups=3, bias=False), nn.Flatten(),
                        nn.Linear(48, 2))
    batches = [(torch.randn(4, 3, 4, 4), torch.tensor([0, 1, 0, 1]))]
    train_one_epoch(net, batches, torch.optim.SGD(net.parameters(), 0.1))
    assert len(calls) == 1
