"""Static networks: what a search finds, what fine-tuning trains, what validation runs."""

import copy
from collections.abc import Mapping
from typing import Any, Self

import torch
from ofa.utils.layers import LinearLayer, ResidualBlock, set_layer_from_config
from timm.layers import DropPath
from torch import nn
from torch.overrides import TorchFunctionMode

from networks.configs import Config, check_config, config_family


class DropPathBlock(ResidualBlock):
    """An inverted-residual block whose residual branch is dropped per sample while training."""

    conv: Any
    shortcut: Any
    drop_path: Any

    def __init__(self, conv: nn.Module, shortcut: nn.Module | None) -> None:
        super().__init__(conv, shortcut)
        self.drop_path = DropPath(0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, c, h, w) -> (b, c', h', w')."""
        y: torch.Tensor = self.conv(x)
        return y if self.shortcut is None else self.drop_path(y) + x


class StaticNetwork(nn.Module):
    """What the static networks of all families add to those of the ofa package, their other base.

    Drop path, a settable dropout, and a `load_state_dict` that is strict by default (the one of ofa
    accepts an empty dict). `config` is that of the ofa class and keeps its name, so the original
    program reads it.
    """

    blocks: Any
    classifier: LinearLayer
    config: Config

    @classmethod
    def build_from_config(cls, config: Config, drop_path_rate: float = 0.0,
                          dropout_rate: float | None = None) -> Self:
        """Returns a network with random weights, in train mode.

        Args:
            config: a network config of either naming; it is checked, and left as it is.
            drop_path_rate: see `set_drop_path`.
            dropout_rate: of the classifier; None takes it from the config.

        Raises:
            UserError: the config describes no valid network.
        """
        config = check_config(config)
        net: Any = cls._build(config)
        net.set_bn_param(**config["bn"])
        net.set_drop_path(drop_path_rate)
        if dropout_rate is not None:
            net.set_dropout(dropout_rate)
        return net

    @classmethod
    def _build(cls, config: Config) -> Self:
        return cls(**{part.key: cls._part(config[part.key])
                      for part in config_family(config).parts if part.layers})

    @classmethod
    def _part(cls, config: Any) -> Any:
        """Returns a part of the network from its checked config: a layer, or a list of them."""
        return [cls._block(block) for block in config] if isinstance(config, list) \
            else build_layer(config)

    @classmethod
    def _block(cls, config: Config) -> nn.Module:
        """Returns one layer of a list; those in `blocks` have a `drop_path`."""
        return DropPathBlock(build_layer(config["conv"]), build_layer(config["shortcut"]))

    def set_drop_path(self, rate: float) -> None:
        """Sets the probability of dropping block i of n to `rate * i / n` (0 <= rate < 1).

        Source: stochastic depth (Huang et al., 2016), growing linearly with depth as in NSGANetV2.
        """
        for i, block in enumerate(self.blocks):
            block.drop_path.drop_prob = rate * i / len(self.blocks)

    def set_dropout(self, rate: float) -> None:
        """Sets the dropout rate in front of the classifier (0 <= rate < 1)."""
        layer = new_classifier(self.classifier.in_features, self.classifier.out_features,
                               self.classifier.bias, rate)
        layer.linear = self.classifier.linear
        self.classifier = layer.train(self.training)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True,
                        assign: bool = False) -> Any:
        """Loads today's key names as any module of torch does; `networks.load_state` reads both."""
        return nn.Module.load_state_dict(self, state_dict, strict, assign)


def replace_classifier(net: Any, n_classes: int, generator: torch.Generator) -> None:
    """Puts a new classifier of `n_classes` on a static network, drawn from `generator`.

    Weights and biases are uniform in +-1/sqrt(features), as torch initialises a linear layer.
    """
    old = net.classifier
    new = new_classifier(old.in_features, n_classes, old.bias, old.dropout_rate)
    bound = old.in_features ** -0.5
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator) * 2 * bound - bound)
    net.classifier = new.to(old.linear.weight.device).train(net.training)


class WithoutInit(TorchFunctionMode):
    """Inside, new modules keep uninitialised weights: for networks whose weights follow at once."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        """See `torch.overrides.TorchFunctionMode`."""
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def new_classifier(in_features: int, n_classes: int, bias: bool,
                   dropout_rate: float) -> LinearLayer:
    """Returns a classifier whose weights are still to be set."""
    with WithoutInit():
        layer = LinearLayer(in_features, n_classes, bias, dropout_rate=dropout_rate)
    if dropout_rate:
        layer.dropout.inplace = False  # a ReLU before it needs its output for the gradient
    return layer


def build_layer(config: Config | None) -> Any:
    """Returns the layer of ofa that a checked config describes, None for None."""
    return set_layer_from_config(copy.deepcopy(config))  # it takes the names out of its argument
