"""Batch-norm statistics of a subnet, recomputed on its own activations."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Mean:
    """The running mean and variance of one BN layer over batches, weighted by their images."""

    def __init__(self, bn: _BatchNorm) -> None:
        self.before = bn.running_mean.clone(), bn.running_var.clone()
        self.sums = [torch.zeros_like(buffer, dtype=torch.float64) for buffer in self.before]
        self.n_images = 0

    def __call__(self, bn: _BatchNorm, inputs: tuple[torch.Tensor]) -> None:
        """Sees the input (b, c, ...) of the layer, which then normalises with its statistics."""
        (x,) = inputs
        dims = [0, *range(2, x.dim())]
        var, mean = torch.var_mean(x.float(), dims, correction=0)
        self.n_images += len(x)
        for buffer, total, value in zip((bn.running_mean, bn.running_var), self.sums, (mean, var),
                                        strict=True):
            buffer.copy_(value)
            total += value.double() * len(x)

    def finish(self, bn: _BatchNorm, ok: bool) -> None:
        """Sets the means, or what was there before."""
        done = ok and self.n_images > 0
        values = [total / self.n_images for total in self.sums] if done else self.before
        bn.running_mean.copy_(values[0])
        bn.running_var.copy_(values[1])


@torch.no_grad()
def recalibrate_bn(net: nn.Module, batches: Iterable[torch.Tensor]) -> int:
    """Recomputes the BN statistics of `net` over an iterable of image batches (b, 3, r, r).

    Each batch is normalised with its own statistics; what is kept is the mean of the batches' means
    and biased variances, weighted by their sizes: the method of Once for All (Cai et al., 2020).
    The variance is that within batches, so the size of the batches has a (small) effect. The same
    batches give the same result. The mode of `net` is kept; if a batch fails, its statistics stay.

    Returns:
        The number of images seen.

    Raises:
        ValueError: there is no image.
    """
    layers = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    means = [_Mean(bn) for bn in layers]
    handles = [bn.register_forward_pre_hook(mean)
               for bn, mean in zip(layers, means, strict=True)]
    device = next(net.parameters()).device
    training, n_images, ok = net.training, 0, False
    net.eval()
    try:
        for images in batches:
            net(images.to(device, non_blocking=True))
            n_images += len(images)
        if not n_images:
            raise ValueError("no images to recompute the batch-norm statistics on")
        ok = True
    finally:
        for handle, bn, mean in zip(handles, layers, means, strict=True):
            handle.remove()
            mean.finish(bn, ok)
        net.train(training)
    return n_images
