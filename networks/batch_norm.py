"""Batch-norm statistics of a subnet, recomputed on its own activations."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from utils.devices import device_of, to_device, widest_float


def _same(x: torch.Tensor) -> torch.Tensor:
    return x


class _Observer:
    """Stands in for the forward pass of one BN layer and averages what it sees.

    The statistics of the layer itself are written by `finish` only.
    """

    def __init__(self, bn: Any) -> None:
        self.bn, self.n_images = bn, 0
        self.batch = torch.zeros_like(bn.running_mean), torch.zeros_like(bn.running_var)
        self.dtype = widest_float(bn.running_mean.device)
        self.sums = [torch.zeros_like(value, dtype=self.dtype) for value in self.batch]
        bn.forward = self

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Normalises (b, c, ...) with its own statistics; momentum 1 writes them to `batch`."""
        bn, (mean, var) = self.bn, self.batch
        y = torch.batch_norm(x, bn.weight, bn.bias, mean, var, True, 1.0, bn.eps,
                             torch.backends.cudnn.enabled)
        n = x.numel() // x.shape[1]
        if n == 1:  # the kernel's unbiased variance of one value is NaN
            var.zero_()
        for total, value in zip(self.sums, (mean, var.to(self.dtype) * ((n - 1) / n)), strict=True):
            total += value * len(x)
        self.n_images += len(x)
        return getattr(bn, "act", _same)(y)  # timm's norms have one

    def finish(self) -> None:
        """Writes the averages into the layer, if anything reached it."""
        if self.n_images:
            self.bn.running_mean.copy_(self.sums[0] / self.n_images)
            self.bn.running_var.copy_(self.sums[1] / self.n_images)


@torch.no_grad()
def recalibrate_bn(net: nn.Module, batches: Iterable[torch.Tensor]) -> int:
    """Recomputes the BN statistics of `net` over an iterable of image batches (b, 3, r, r).

    Each batch is normalised with its own statistics; what is kept is the mean of the batches' means
    and biased variances, weighted by their sizes: the method of Once for All (Cai et al., 2020).
    That variance is the one within batches, so the batch size has a (small) effect. The same
    batches give the same result. The mode of `net` is kept; if a batch fails, so are its old
    statistics.

    Returns:
        The number of images seen.

    Raises:
        ValueError: there is no image.
    """
    observers = [_Observer(bn) for bn in net.modules() if isinstance(bn, _BatchNorm)]
    device, was_training, n_images = device_of(net), net.training, 0
    net.eval().to(memory_format=torch.channels_last)
    try:
        for images in batches:
            net(to_device(images, device))
            n_images += len(images)
    finally:
        net.train(was_training)
        for observer in observers:
            del observer.bn.forward  # its own is back
    if not n_images:
        raise ValueError("no images to recompute the batch-norm statistics on")
    for observer in observers:
        observer.finish()
    return n_images


class Moments(NamedTuple):
    """Mean and biased variance of each channel, (c,) each."""

    mean: torch.Tensor
    variance: torch.Tensor


@torch.no_grad()
def input_moments(net: nn.Module, modules: Sequence[nn.Module],
                  batches: Iterable[torch.Tensor]) -> dict[nn.Module, Moments]:
    """Returns the moments of the input of each of the modules, over all images (b, 3, r, r).

    The network runs in evaluation mode; its mode is kept.

    Raises:
        ValueError: there is no image.
    """
    sums: dict[nn.Module, list[Any]] = {module: [0, 0.0, 0.0] for module in modules}

    def observe(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        x = inputs[0].to(widest_float(inputs[0].device)).transpose(0, 1).flatten(1)
        for i, value in enumerate((x.shape[1], x.sum(1), x.square().sum(1))):
            sums[module][i] += value

    hooks = [module.register_forward_pre_hook(observe) for module in modules]
    device, was_training = device_of(net), net.training
    net.eval()
    try:
        for images in batches:
            net(to_device(images, device))
    finally:
        net.train(was_training)
        for hook in hooks:
            hook.remove()
    if not all(n for n, *_ in sums.values()):
        raise ValueError("no images to compute moments on")
    return {module: Moments((total / n).float(),
                            (squares / n - (total / n).square()).clamp(min=0).float())
            for module, (n, total, squares) in sums.items()}


@torch.no_grad()
def set_statistics(bn: Any, mean: torch.Tensor, variance: torch.Tensor) -> None:
    """Gives a BN layer other running statistics; what it computes with them stays, by its weights.

    Args:
        bn: changed in place.
        mean, variance: of its input, (c,) each.
    """
    before, after = ((value + bn.eps).sqrt() for value in (bn.running_var, variance))
    bn.bias += bn.weight * (mean - bn.running_mean) / before
    bn.weight *= after / before
    bn.running_mean.copy_(mean)
    bn.running_var.copy_(variance)
