"""Any network of timm that is a chain of inverted residuals, as a supernet and its subnets.

The supernet has timm's own blocks at full size, and so timm's weights. A subnet takes the first
hidden channels of a block and the centre of its kernels (as BigNAS, Yu et al., ECCV 2020: without
the kernel transforms of Once for All), and leaves out blocks at the end of a stage.
"""

import copy
import os
from collections.abc import Mapping
from typing import Any, Self

import timm
import torch
from timm.layers import DropPath
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import efficientnet_init_weights
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from msunas_timm.chains import Size, convs_of, corner, parts_of, resize
from networks.base import Supernets, WeightSource, checked_classes
from networks.configs import Config
from networks.static import StaticNetwork, new_classifier
from search_space import Arch, get_search_space
from utils.errors import UserError
from utils.registry import TIMM

CONFIG_NAME = "TimmChain"


class TimmChain(StaticNetwork):
    """A network of timm, or a smaller one within it: (b, 3, r, r) images to (b, n_classes) logits.

    Args:
        model: its name in timm.
        n_classes: outputs of the classifier.
        dropout: rate in front of it.

    Attributes:
        blocks: those of all stages, in a row.
        arch: which part of the network this is, without a resolution.
    """

    def __init__(self, model: str, n_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        parts = parts_of(timm.create_model(model))
        self.model = model
        self.stem = nn.Sequential(*parts.stem)
        self.blocks: Any = nn.Sequential(*(block for blocks in parts.stages for block in blocks))
        self.head = nn.Sequential(*parts.head)
        self.classifier = new_classifier(parts.classifier.in_features, n_classes, True, dropout)
        efficientnet_init_weights(self.classifier)
        self.arch = _whole(model)
        for block in self.blocks:
            block.drop_path = DropPath(0.0)

    @classmethod
    def _build(cls, config: Config) -> Self:
        classifier = config["classifier"]
        net = cls(config["model"], classifier["out_features"], classifier["dropout_rate"])
        net.keep(config["arch"])
        efficientnet_init_weights(net)
        return net

    def set_bn_param(self, momentum: float, eps: float, **_: None) -> None:
        """Sets momentum and epsilon of all batch norms."""
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eps, module.momentum = eps, momentum

    def keep(self, arch: Arch) -> None:
        """Leaves the blocks of an architecture, in its sizes."""
        blocks = []
        for size in sizes_of(self.model, arch):
            block = self.blocks[size.number]
            resize(block, size.kernels, size.mid)
            blocks.append(block)
        self.blocks, self.arch = nn.Sequential(*blocks), _choices(arch)

    @property
    def config(self) -> Config:  # type: ignore[override]
        """Its `net.config`."""
        bn: Any = self.stem[1]
        return {"name": CONFIG_NAME, "model": self.model, "arch": self.arch,
                "bn": {"momentum": bn.momentum, "eps": bn.eps},
                "classifier": self.classifier.config}

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, r, r) -> (b, n_classes)."""
        logits: Tensor = self.classifier(self.head(self.blocks(self.stem(x))))
        return logits


class ElasticChain(TimmChain):
    """The whole network, whose forward pass runs the active subnet.

    Attributes:
        active: the blocks of the active subnet.
    """

    def __init__(self, model: str, n_classes: int, dropout: float = 0.0) -> None:
        super().__init__(model, n_classes, dropout)
        self.active = self._whole = sizes_of(model, self.arch)
        with torch.device("meta"):
            self._empty = [TimmChain(model, n_classes)]  # in a list it is no part of the network
        self._templates: dict[tuple[Any, ...], nn.Module] = {}

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, r, r) -> (b, n_classes)."""
        x = self.stem(x)
        for size in self.active:
            x = self._run(size, x)
        logits: Tensor = self.classifier(self.head(x))
        return logits

    def _run(self, size: Size, x: Tensor) -> Tensor:
        """Runs a block of the active size on the tensors of the whole one."""
        block = self.blocks[size.number]
        if size == self._whole[size.number]:
            return block(x)
        template = self._template(size).train(self.training)
        pairs = [*zip(block.named_parameters(), template.parameters(), strict=True),
                 *zip(block.named_buffers(), template.buffers(), strict=True)]
        state = {name: corner(whole, part.shape) for (name, whole), part in pairs}
        y: Tensor = functional_call(template, state, (x,))
        return y

    def _template(self, size: Size) -> nn.Module:
        """Returns a block of a size, without weights."""
        key = size.number, *size.kernels, size.mid
        if key not in self._templates:
            template = copy.deepcopy(self._empty[0].blocks[size.number])
            resize(template, size.kernels, size.mid)
            self._templates[key] = template
        return self._templates[key]

    @torch.no_grad()
    def re_organize_middle_weights(self) -> None:
        """Sorts the hidden channels of each block, the most important ones first.

        Importance is the L1 norm of the weights that read a channel in the projection: Once for
        All (Cai et al., ICLR 2020, Section 3.3).
        """
        for block in self.blocks:
            sort_hidden(block)


def full_convs(block: nn.Module) -> list[int]:
    """Returns which convolutions of a block are not depthwise; the last one is its projection."""
    return [i for i, (conv, _) in enumerate(convs_of(block)) if conv.groups == 1]


def sort_hidden(block: nn.Module, variance: Tensor | None = None) -> None:
    """Sorts the hidden channels of a block in place; what it computes stays.

    Args:
        block: of `msunas_timm.chains.BLOCKS`.
        variance: of each hidden channel where the projection reads it, (hidden,): channels are
            sorted by what they add to that of the output. None: by the L1 norm of the weights.
    """
    convs, full = list(convs_of(block)), full_convs(block)
    first, last = full[0], full[-1]
    if first == last:
        return
    weight = convs[last][0].weight
    importance = weight.abs().sum((0, 2, 3)) if variance is None else \
        weight.square().sum((0, 2, 3)) * variance
    order = importance.argsort(descending=True, stable=True)
    for conv, norm in convs[first:last]:
        for module in (conv, norm):
            _permute(module, order)
    weight.copy_(weight[:, order])
    se: Any = getattr(block, "se", None)
    if isinstance(se, SqueezeExcite):
        se.conv_reduce.weight.copy_(se.conv_reduce.weight[:, order])
        _permute(se.conv_expand, order)


def _permute(module: nn.Module, order: Tensor) -> None:
    """Reorders the output channels of a convolution or a norm."""
    for tensor in module.state_dict().values():
        if tensor.dim():
            tensor.copy_(tensor[order])


def sizes_of(model: str, arch: Arch) -> list[Size]:
    """Returns the blocks of an architecture of `timm:MODEL`."""
    space: Any = get_search_space(TIMM + model)
    found: list[Size] = space.sizes(arch)
    return found


def _whole(model: str) -> Arch:
    return _choices(get_search_space(TIMM + model).extremes()[1])


def _choices(arch: Arch) -> Arch:
    """Returns an architecture without what does not shape the network, as the resolution."""
    return {key: list(arch[key]) for key in ("d", "ks", "e")}


class TimmSupernets(Supernets):
    """The family `timm:NAME` of one network of timm."""

    network = TimmChain

    def __init__(self, model: str = "") -> None:
        self.model = model

    @classmethod
    def named(cls, family: str) -> Self:
        """See `Supernets.named`."""
        return cls(family.removeprefix(TIMM))

    def build(self, n_classes: int, width_mult: float, dropout: float) -> ElasticChain:
        """See `Supernets.build`; a network of timm has its own widths.

        Raises:
            UserError: a width multiplier.
        """
        if width_mult != 1:
            raise UserError(f"{TIMM}{self.model} has its own widths: the name of its supernet "
                            f"cannot say width {width_mult:g}")
        return ElasticChain(self.model, n_classes, dropout)

    def shape(self, state: Mapping[str, Tensor], path: str | os.PathLike,
              width: float | None = None) -> tuple[int, float]:
        """See `Supernets.shape`."""
        return checked_classes(state, path, f"{TIMM}{self.model}", "classifier.linear.weight"), 1.0

    def config(self, supernet: ElasticChain, arch: Arch) -> Config:
        """See `Supernets.config`."""
        return {**supernet.config, "arch": _choices(arch)}

    def sources(self, supernet: ElasticChain, arch: Arch) -> list[WeightSource]:
        """See `Supernets.sources`."""
        return [*(WeightSource(part, getattr(supernet, part))
                  for part in ("stem", "head", "classifier")),
                *(WeightSource(f"blocks.{i}", supernet.blocks[size.number])
                  for i, size in enumerate(sizes_of(supernet.model, arch)))]

    def arch(self, supernet: ElasticChain, config: Config) -> Arch:
        """See `Supernets.arch`."""
        return _choices(config["arch"])

    def activate(self, supernet: ElasticChain, arch: Arch) -> None:
        """See `Supernets.activate`."""
        supernet.active = sizes_of(supernet.model, arch)
