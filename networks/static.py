"""Static networks: what a search finds, what fine-tuning trains, what validation runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from ofa.imagenet_classification import networks as ofa_networks
from ofa.utils.layers import LinearLayer, ResidualBlock, set_layer_from_config
from timm.layers import DropPath
from torch import nn
from torch.overrides import TorchFunctionMode

from networks.configs import TAILS, Config, check_config


class DropPathBlock(ResidualBlock):
    """An inverted-residual block whose residual branch is dropped per sample while training."""

    def __init__(self, conv: nn.Module, shortcut: nn.Module | None) -> None:
        super().__init__(conv, shortcut)
        self.drop_path = DropPath(0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, c, h, w) -> (b, c', h', w')."""
        y = self.conv(x)
        return y if self.shortcut is None else self.drop_path(y) + x


class _Static:
    """What both static networks add to those of the ofa package.

    Drop path, a settable dropout, and a `load_state_dict` that is strict by default (the one of ofa
    accepts an empty dict). `config` is that of the ofa class and keeps its name, so the original
    program reads it.
    """

    @classmethod
    def build_from_config(cls, config: Config, drop_path_rate: float = 0.0,
                          dropout_rate: float | None = None) -> "_Static":
        """Returns a network with random weights, in train mode.

        Args:
            config: a network config of either naming; it is checked, and left as it is.
            drop_path_rate: see `set_drop_path`.
            dropout_rate: of the classifier; None takes it from the config.

        Raises:
            UserError: the config describes no valid network.
        """
        return cls._build(check_config(config), drop_path_rate, dropout_rate)

    @classmethod
    def _build(cls, config: Config, drop_path_rate: float = 0.0,
               dropout_rate: float | None = None) -> "_Static":
        parts = ("first_conv", *TAILS[config["name"]], "classifier")
        blocks = [DropPathBlock(_layer(block["conv"]), _layer(block["shortcut"]))
                  for block in config["blocks"]]
        net = cls(blocks=blocks, **{part: _layer(config[part]) for part in parts})
        net.set_bn_param(**config["bn"])
        net.set_drop_path(drop_path_rate)
        if dropout_rate is not None:
            net.set_dropout(dropout_rate)
        return net

    def set_drop_path(self, rate: float) -> None:
        """Sets the probability of dropping block i of n to `rate * i / n` (0 <= rate < 1).

        Source: stochastic depth (Huang et al., 2016), growing linearly with depth as in NSGANetV2.
        """
        for i, block in enumerate(self.blocks):
            block.drop_path.drop_prob = rate * i / len(self.blocks)

    def set_dropout(self, rate: float) -> None:
        """Sets the dropout rate in front of the classifier (0 <= rate < 1)."""
        layer = _classifier(self.classifier.in_features, self.classifier.out_features,
                            self.classifier.bias, rate)
        layer.linear = self.classifier.linear
        self.classifier = layer.train(self.training)

    def load_state_dict(self, state_dict: dict[str, torch.Tensor], strict: bool = True,
                        assign: bool = False) -> Any:
        """Loads today's key names as any module of torch does; `networks.load_state` reads both."""
        return nn.Module.load_state_dict(self, state_dict, strict, assign)


class NSGANetV2(_Static, ofa_networks.MobileNetV3):
    """A subnet of the OFA MobileNetV3 supernet; the same logits as ofa's MobileNetV3 in eval mode.

    Takes (b, 3, r, r) images, gives (b, n_classes) logits. Source: NSGANetV2 (ECCV 2020).
    """


class ProxylessNASNets(_Static, ofa_networks.ProxylessNASNets):
    """A ProxylessNAS network (Cai et al., ICLR 2019): (b, 3, r, r) images to (b, n_classes)."""


NETWORKS: dict[str, type[_Static]] = {"MobileNetV3": NSGANetV2,
                                      "ProxylessNASNets": ProxylessNASNets}


def build_from_config(config: Config, drop_path_rate: float = 0.0,
                      dropout_rate: float | None = None) -> NSGANetV2 | ProxylessNASNets:
    """Returns the network that `config["name"]` says; arguments as in `NSGANetV2`'s."""
    config = check_config(config)
    return NETWORKS[config["name"]]._build(config, drop_path_rate, dropout_rate)


def replace_classifier(net: nn.Module, n_classes: int, generator: torch.Generator) -> None:
    """Puts a new classifier of `n_classes` on a static network, drawn from `generator`.

    Weights and biases are uniform in +-1/sqrt(features), as torch initialises a linear layer.
    """
    old = net.classifier
    new = _classifier(old.in_features, n_classes, old.bias, old.dropout_rate)
    bound = old.in_features ** -0.5
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator) * 2 * bound - bound)
    net.classifier = new.to(old.linear.weight.device).train(net.training)


@contextmanager
def without_init() -> Iterator[None]:
    """Inside, new modules keep uninitialised weights: for networks whose weights follow at once."""
    with _SkipInit():
        yield


class _SkipInit(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: tuple = (),
                           kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _classifier(in_features: int, n_classes: int, bias: bool, dropout_rate: float) -> LinearLayer:
    with without_init():
        return LinearLayer(in_features, n_classes, bias, dropout_rate=dropout_rate)


def _layer(config: Config | None) -> nn.Module | None:
    return set_layer_from_config(config and dict(config))  # it takes the name out of its argument
