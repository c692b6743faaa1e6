"""MobileNetV3: 5 elastic stages, kernels 3/5/7, expansions 3/4/6, depths 2/3/4.

Source: Once for All (Cai et al., ICLR 2020); NSGANetV2 (Lu et al., ECCV 2020).
"""

import os
from collections.abc import Mapping
from typing import Any

from ofa.imagenet_classification import networks as ofa_networks
from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3
from torch import Tensor

from networks.base import Source, Supernets, checked_shape
from networks.configs import Config
from networks.inverted_residuals import (
    ActiveLayer,
    activate_layers,
    active_layers,
    block_configs,
    block_sources,
    read_layers,
)
from networks.static import StaticNetwork
from search_space import Arch, OFASearchSpace
from search_space.backbones import MOBILENET_V3

FIXED = ("first_conv", "final_expand_layer", "feature_mix_layer", "classifier")


class NSGANetV2(StaticNetwork, ofa_networks.MobileNetV3):
    """A subnet of the OFA MobileNetV3 supernet; the same logits as ofa's MobileNetV3 in eval mode.

    Takes (b, 3, r, r) images, gives (b, n_classes) logits. Source: NSGANetV2 (ECCV 2020).
    """


class MobileNetV3Supernets(Supernets):
    """The family `mbv3`, published at widths 1.0 and 1.2."""

    network = NSGANetV2

    def build(self, n_classes: int, width_mult: float, dropout: float) -> OFAMobileNetV3:
        """See `Supernets.build`."""
        space = OFASearchSpace()
        return OFAMobileNetV3(
            n_classes=n_classes, dropout_rate=dropout, width_mult=width_mult,
            ks_list=list(space.kernel_size), expand_ratio_list=list(space.exp_ratio),
            depth_list=list(space.depth))

    def shape(self, state: Mapping[str, Tensor], path: str | os.PathLike,
              width: float | None = None) -> tuple[int, float]:
        """See `Supernets.shape`."""
        return checked_shape(state, path, width, what="OFA MobileNetV3",
                             classifier="classifier.linear.weight",
                             features="feature_mix_layer.conv.weight",
                             base=MOBILENET_V3.feature_mix)

    def config(self, supernet: Any, arch: Arch) -> Config:
        """See `Supernets.config`."""
        return {"name": "MobileNetV3", "bn": supernet.get_bn_param(),
                "blocks": block_configs(supernet, self._layers(supernet, arch)),
                **{part: getattr(supernet, part).config for part in FIXED}}

    def sources(self, supernet: Any, arch: Arch) -> list[Source]:
        """See `Supernets.sources`."""
        return [*(Source(part, getattr(supernet, part)) for part in FIXED),
                *block_sources(supernet, self._layers(supernet, arch))]

    def arch(self, supernet: Any, config: Config) -> Arch:
        """See `Supernets.arch`."""
        return read_layers(supernet, config["blocks"])

    def activate(self, supernet: Any, arch: Arch) -> None:
        """See `Supernets.activate`."""
        activate_layers(supernet, arch["d"], self._layers(supernet, arch))

    @staticmethod
    def _layers(supernet: Any, arch: Arch) -> list[ActiveLayer]:
        return active_layers(supernet, arch["d"], arch["ks"], arch["e"])
