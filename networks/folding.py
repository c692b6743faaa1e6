"""A network as it is best run for evaluation: fewer operations, the same logits up to rounding.

Batch normalisation in evaluation mode is a scale and a shift of each channel, which the convolution
before it can do itself. torch computes hard-swish in one pass over the memory where ofa's formula
takes four, and a mean over both dimensions in one where ofa takes two.
"""

import copy
from typing import Any, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812
from ofa.utils.pytorch_modules import Hsigmoid, Hswish, SEModule
from torch import Tensor, nn

from utils.devices import widest_float

Net = TypeVar("Net", bound=nn.Module)


class SqueezeExcite(nn.Module):
    """ofa's squeeze-and-excitation with one pooling; the same parameters under the same names."""

    def __init__(self, fc: nn.Module) -> None:
        super().__init__()
        self.fc = fc

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, h, w), each channel scaled."""
        return x * self.fc(F.adaptive_avg_pool2d(x, 1))


# what ofa's layers are replaced by
_FASTER: dict[type, Any] = {
    Hswish: lambda layer: nn.Hardswish(inplace=True),
    Hsigmoid: lambda layer: nn.Hardsigmoid(inplace=True),
    SEModule: lambda layer: SqueezeExcite(layer.fc),
}


def speed_up(net: nn.Module) -> None:
    """Replaces layers of ofa, in place, by those that torch runs faster.

    Parameters, their names and `config` stay, and so do the logits, up to rounding.
    """
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in _FASTER:
                setattr(parent, name, _FASTER[type(child)](child))


@torch.no_grad()
def folded(net: Net) -> Net:
    """Returns a copy of `net`, in eval mode, without batch normalisation behind its convolutions.

    Scales and shifts are computed in float64 where the device has it, so that the logits differ
    from those of `net` by rounding alone. The copy is for evaluation: its state dict is not that of
    `net`, and its statistics cannot be recomputed.

    Args:
        net: a static network with final statistics; it is left as it is.
    """
    copied = copy.deepcopy(net).eval()
    speed_up(copied)
    for parent in list(copied.modules()):
        before: nn.Module | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and isinstance(before, nn.Conv2d):
                _fold(before, child)
                setattr(parent, name, getattr(child, "act", nn.Identity()))  # timm's norms have one
            before = child
    return copied


def _fold(conv: Any, bn: Any) -> None:
    """Lets a convolution do what the batch norm behind it does."""
    wide = widest_float(conv.weight.device)
    scale = bn.weight.to(wide) / (bn.running_var.to(wide) + bn.eps).sqrt()
    shift = bn.bias.to(wide) - bn.running_mean.to(wide) * scale
    if conv.bias is not None:
        shift += conv.bias.to(wide) * scale
    conv.weight.copy_(conv.weight.to(wide) * scale[:, None, None, None])
    conv.bias = nn.Parameter(shift.to(conv.weight.dtype))
