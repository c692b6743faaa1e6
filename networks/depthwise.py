"""Gradients of depthwise convolutions on maps that are narrower than their kernels, on CPUs.

A 7 x 7 kernel on a map of 4 x 4 is common in networks for small pictures. torch's library for CPUs
(oneDNN) has no fast kernel for the gradient of such weights where the map is narrower than the
kernel: it took 30 to 120 times as long as a forward pass. Here it is two matrix products.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode


class NarrowDepthwise(TorchFunctionMode):
    """Inside, convolutions that `is_narrow` describes have the gradient of `weight_gradient`.

    Everything else, and all outputs, stay the same; gradients differ by rounding.
    """

    def __torch_function__(self, func: Callable[..., Any], types: Sequence[type],
                           args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        """See `torch.overrides.TorchFunctionMode`."""
        if func is torch.conv2d:
            return _conv2d(*args, **kwargs or {})
        return func(*args, **kwargs or {})


def _conv2d(input: Tensor, weight: Tensor, bias: Tensor | None = None,
            stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Tensor:
    if bias is None and not isinstance(padding, str) and _pair(dilation) == (1, 1) \
            and is_narrow(input, weight, groups):
        return _Depthwise.apply(input, weight, _pair(stride), _pair(padding))
    return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)


def is_narrow(x: Tensor, weight: Tensor, groups: int) -> bool:
    """Tells whether a convolution trains depthwise weights in float32 on a narrow map on a CPU.

    Args:
        x: (b, c, h, w).
        weight: (c, 1, k, k).
        groups: of the convolution.
    """
    return x.dim() == 4 and x.shape[3] < weight.shape[3] and groups == x.shape[1] == len(weight) \
        and x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 \
        and weight.requires_grad and torch.is_grad_enabled() \
        and not torch.is_autocast_enabled("cpu")


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution without bias whose weights have the gradient of `weight_gradient`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int],
                padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return torch.conv2d(x, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        to_x = to_weight = None
        if ctx.needs_input_grad[0]:
            to_x = conv2d_input(x.shape, weight, grad, ctx.stride, ctx.padding,
                                groups=len(weight))
        if ctx.needs_input_grad[1]:
            to_weight = weight_gradient(x, grad, weight.shape[2:], ctx.stride, ctx.padding)
        return to_x, to_weight, None, None


def weight_gradient(x: Tensor, grad: Tensor, kernel: Sequence[int], stride: Sequence[int],
                    padding: Sequence[int]) -> Tensor:
    """Returns the gradient of the weights of a depthwise convolution without bias.

    For each channel, the products of all input with all output pixels, summed over the batch, are
    one matrix product; a weight's gradient is the sum of those pairs of pixels that it connects.
    This pays where there are few pixels.

    Args:
        x: (b, c, h, w), the input.
        grad: (b, c, h', w'), the gradient of the output.
        kernel, stride, padding: two numbers each.

    Returns:
        (c, 1, k, l).
    """
    b, c, h, w = x.shape
    out_h, out_w = grad.shape[2:]
    rows = _connects(h, out_h, kernel[0], stride[0], padding[0])
    columns = _connects(w, out_w, kernel[1], stride[1], padding[1])
    pixels = x.permute(1, 2, 3, 0).reshape(c, h * w, b)
    grads = grad.permute(1, 2, 3, 0).reshape(c, out_h * out_w, b)
    pairs = (pixels @ grads.mT).view(c, h, w, out_h, out_w).transpose(2, 3)
    return (rows.T @ (pairs.reshape(c, h * out_h, w * out_w) @ columns))[:, None]


def _connects(size: int, out_size: int, kernel: int, stride: int, padding: int) -> Tensor:
    """Returns (size * out_size, kernel): 1 where a weight connects an input with an output."""
    position, out, weight = torch.meshgrid(
        torch.arange(size), torch.arange(out_size), torch.arange(kernel), indexing="ij")
    return (out * stride + weight - padding == position).float().flatten(0, 1)
