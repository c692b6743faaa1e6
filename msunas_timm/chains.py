"""timm's networks that are chains of convolutions and inverted residuals: read, and made smaller.

Such a network is a stem, blocks in stages, and a head. Whether one is, is found by looking at its
modules. A block's hidden channels are those between its first and its last full convolution.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import timm
import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import Tensor, nn

# block -> its convolutions and their norms, in the order of the forward pass
BLOCKS: dict[str, tuple[tuple[str, str], ...]] = {
    "ConvBnAct": (("conv", "bn1"),),
    "DepthwiseSeparableConv": (("conv_dw", "bn1"), ("conv_pw", "bn2")),
    "InvertedResidual": (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")),
    "EdgeResidual": (("conv_exp", "bn1"), ("conv_pwl", "bn2")),
    "UniversalInvertedResidual": tuple((f"{part}.conv", f"{part}.bn") for part in (
        "dw_start", "pw_exp", "dw_mid", "pw_proj", "dw_end")),
}
# class -> timm's name of it
ACTIVATIONS = {"Identity": None, "ReLU": "relu", "ReLU6": "relu6", "SiLU": "silu",
               "Hardswish": "hard_swish", "GELU": "gelu"}
_CONVS = (nn.Conv2d, Conv2dSame)
# what blocks consist of; parts of squeeze-and-excite stand for themselves
_KNOWN = {*ACTIVATIONS, "Conv2d", "Conv2dSame", "BatchNormAct2d", "ConvNormAct", "DropPath"}


class NotAChainError(ValueError):
    """A network is no chain of known blocks; the message is the reason."""


class Conv(NamedTuple):
    """A convolution with what follows it; `squeeze` channels are inside squeeze-and-excite.

    `same` is TensorFlow's padding, which depends on the size of the map.
    """

    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    groups: int
    act: str | None
    bn: bool
    bias: bool
    same: bool
    squeeze: int = 0


class Block(NamedTuple):
    """A block: its class, the number of its stage, and whether its input is added."""

    kind: str
    stage: int
    skip: bool
    convs: tuple[Conv, ...]

    @property
    def full(self) -> tuple[int, int]:
        """Positions of the first and the last convolution that is not depthwise."""
        return _full([conv.groups for conv in self.convs])

    @property
    def mid(self) -> int:
        """The hidden channels; 0 where there are none."""
        first, last = self.full
        return self.convs[first].out_channels if first < last else 0


class Chain(NamedTuple):
    """A network: `head` stands before the pooling, `pooled_head` behind it; either may be None."""

    stem: Conv
    blocks: tuple[Block, ...]
    head: Conv | None
    pooled_head: Conv | None
    features: int


class Size(NamedTuple):
    """A block of a smaller network: its number in the whole, its kernels, its hidden channels."""

    number: int
    kernels: Sequence[int]
    mid: int


class Parts(NamedTuple):
    """The modules of a network."""

    stem: list[nn.Module]
    stages: list[list[nn.Module]]
    head: list[nn.Module]
    classifier: Any


def parts_of(net: nn.Module) -> Parts:
    """Returns the modules of a timm model, without the dropout.

    Raises:
        NotAChainError: it has no stem, stages and head.
    """
    layers = list(net.as_sequential()) if hasattr(net, "as_sequential") else []  # type: ignore[operator]
    staged = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Sequential)]
    if not staged or not isinstance(layers[-1], nn.Linear):
        raise NotAChainError(f"a {type(net).__name__} has no stem, stages of blocks, and head")
    head = [layer for layer in layers[staged[-1] + 1:-1] if not isinstance(layer, nn.Dropout)]
    return Parts(layers[:staged[0]], [list(layers[i]) for i in staged], head, layers[-1])


def read_chain(name: str) -> Chain:
    """Returns what a model that timm knows by `name` consists of; builds no weights.

    Raises:
        NotAChainError: it is no chain of known blocks.
    """
    with torch.device("meta"):
        parts = parts_of(timm.create_model(name))
    pool = next((i for i, layer in enumerate(parts.head)
                 if getattr(layer, "pool_type", None) == "avg"), None)
    if pool is None:
        raise NotAChainError("it has no global average pooling")
    blocks = tuple(_block(block, stage) for stage, blocks in enumerate(parts.stages)
                   for block in blocks)
    stem = _plain(parts.stem)
    if stem is None:
        raise NotAChainError("its stem is no convolution")
    return Chain(stem, blocks, _plain(parts.head[:pool]), _plain(parts.head[pool + 1:]),
                 parts.classifier.in_features)


def _plain(layers: Sequence[nn.Module]) -> Conv | None:
    """Returns the one convolution in a stem or a head, None where there is none."""
    layers = [layer for layer in layers if not isinstance(layer, nn.Identity | nn.Flatten)]
    if not layers:
        return None
    conv, *rest = layers
    norm = rest.pop(0) if rest and isinstance(rest[0], BatchNormAct2d) else None
    act = rest.pop(0) if rest else None
    if rest:
        raise NotAChainError(f"a {type(rest[0]).__name__} stands outside of its blocks")
    return _conv(conv, norm, act)


def _block(block: nn.Module, stage: int) -> Block:
    kind = type(block).__name__
    if kind not in BLOCKS:
        raise NotAChainError(f"stage {stage + 1} has a {kind}; known are {', '.join(BLOCKS)}")
    se = getattr(block, "se", None)
    if isinstance(se, nn.Identity):
        se = None
    if se is not None and type(se) is not SqueezeExcite:
        raise NotAChainError(f"stage {stage + 1} has a {type(se).__name__}, which is no "
                             "squeeze-and-excite of timm's kind")
    found = [module for name, module in block.named_modules()
             if name and not name.startswith("se.") and module is not se]
    convs = [pair for pair in convs_of(block)]
    odd = next((module for module in found if type(module).__name__ not in _KNOWN), None)
    if odd is not None:
        raise NotAChainError(f"stage {stage + 1} has a {type(odd).__name__}")
    if len([module for module in found if isinstance(module, _CONVS)]) != len(convs):
        raise NotAChainError(f"stage {stage + 1} has a {kind} with a further convolution")
    read = [_conv(conv, norm) for conv, norm in convs]
    if se is not None:
        before = _full([conv.groups for conv in read])[1] - 1
        read[before] = read[before]._replace(squeeze=se.conv_reduce.out_channels)
    return Block(kind, stage, bool(block.has_skip), tuple(read))


def convs_of(block: nn.Module) -> Iterator[tuple[Any, Any]]:
    """Yields the convolutions of a block and their norms, in the order of the forward pass."""
    for conv, norm in BLOCKS[type(block).__name__]:
        if not isinstance(block.get_submodule(conv.split(".")[0]), nn.Identity):
            yield block.get_submodule(conv), block.get_submodule(norm)


def _full(groups: Sequence[int]) -> tuple[int, int]:
    whole = [i for i, number in enumerate(groups) if number == 1]
    return whole[0], whole[-1]


def _conv(conv: Any, norm: Any, act: Any = None) -> Conv:
    if not isinstance(conv, _CONVS):
        raise NotAChainError(f"a {type(conv).__name__} stands in place of a convolution")
    if norm is not None and type(norm) is not BatchNormAct2d:
        raise NotAChainError(f"its norm is {type(norm).__name__}, not batch normalisation")
    kernel, (stride, _), same = conv.kernel_size[0], conv.stride, isinstance(conv, Conv2dSame)
    if conv.kernel_size != (kernel, kernel) or kernel % 2 == 0 or conv.dilation != (1, 1) \
            or conv.groups not in (1, conv.in_channels) or conv.groups == conv.in_channels == 1:
        raise NotAChainError(f"it has a convolution of {conv.groups} groups, dilation "
                             f"{conv.dilation[0]} and a kernel of {kernel}")
    act = type(act or getattr(norm, "act", nn.Identity())).__name__
    if act not in ACTIVATIONS:
        raise NotAChainError(f"its activation is {act}; known are {', '.join(ACTIVATIONS)}")
    return Conv(conv.in_channels, conv.out_channels, kernel, stride, conv.groups,
                ACTIVATIONS[act], norm is not None, conv.bias is not None, same)


# ------------------------------------------------------------------------------------ smaller ones


def corner(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Returns the first channels of a larger tensor, and the centre of its kernels, as a view."""
    view = tensor[tuple(slice(n) for n in shape[:2])]
    for dim in range(2, len(shape)):
        view = view.narrow(dim, (view.shape[dim] - shape[dim]) // 2, shape[dim])
    return view


def resize(block: nn.Module, kernels: Sequence[int], mid: int) -> None:
    """Leaves a block the first `mid` of its hidden channels and the centre of its kernels.

    The channels inside squeeze-and-excite stay as many as they are.

    Args:
        block: changed in place.
        kernels: one number for each convolution.
        mid: 0 where the block has no hidden channels.
    """
    convs = list(convs_of(block))
    first, last = _full([conv.groups for conv, _ in convs])
    for i, ((conv, norm), kernel) in enumerate(zip(convs, kernels, strict=True)):
        outputs = mid if first <= i < last else conv.out_channels
        _cut_conv(conv, outputs, mid if first < i <= last else conv.in_channels, kernel)
        _cut(norm, ("weight", "bias", "running_mean", "running_var"), outputs)
        norm.num_features = outputs
    se: Any = getattr(block, "se", None)
    if first < last and isinstance(se, SqueezeExcite):
        _cut_conv(se.conv_reduce, se.conv_reduce.out_channels, mid, 1)
        _cut_conv(se.conv_expand, mid, se.conv_expand.in_channels, 1)


def _cut_conv(conv: Any, outputs: int, inputs: int, kernel: int) -> None:
    depthwise = conv.groups > 1
    _cut(conv, ("weight",), outputs, 1 if depthwise else inputs, kernel, kernel)
    _cut(conv, ("bias",), outputs)
    conv.in_channels, conv.out_channels = inputs, outputs
    conv.groups, conv.kernel_size = inputs if depthwise else 1, (kernel, kernel)
    if not isinstance(conv, Conv2dSame):
        conv.padding = (kernel // 2, kernel // 2)


def _cut(module: nn.Module, names: Sequence[str], *shape: int) -> None:
    for name in names:
        tensor = getattr(module, name)
        if tensor is not None:
            cut = corner(tensor.detach(), shape).clone()
            setattr(module, name, nn.Parameter(cut) if isinstance(tensor, nn.Parameter) else cut)


def shrink(net: Any, sizes: Sequence[Size]) -> None:
    """Leaves a timm model only the blocks in `sizes`, of those sizes; changes it in place."""
    number, wanted = 0, {size.number: size for size in sizes}
    for stage, blocks in enumerate(net.blocks):
        kept = [(block, wanted.get(number + i)) for i, block in enumerate(blocks)]
        number += len(blocks)
        for block, size in kept:
            if size is not None:
                resize(block, size.kernels, size.mid)
        net.blocks[stage] = nn.Sequential(*(block for block, size in kept if size is not None))
