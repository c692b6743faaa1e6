"""ProxylessNAS: 5 elastic stages and a single elastic layer, no squeeze-and-excitation.

Source: ProxylessNAS (Cai et al., ICLR 2019), made elastic in Once for All (Cai et al., ICLR 2020).
"""

import os
from collections.abc import Mapping
from typing import Any

from ofa.imagenet_classification import networks as ofa_networks
from ofa.imagenet_classification.elastic_nn.networks import OFAProxylessNASNets
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
from search_space import Arch, get_search_space

FIXED = ("first_conv", "feature_mix_layer", "classifier")
LAST_WIDTH = 1280
# the sixth block has one layer in every subnet; `d` of an architecture leaves it out
LAST_DEPTH = 1


class ProxylessNASNets(StaticNetwork, ofa_networks.ProxylessNASNets):
    """A ProxylessNAS network (Cai et al., ICLR 2019): (b, 3, r, r) images to (b, n_classes)."""


class ProxylessSupernets(Supernets):
    """The family `proxyless`, published at width 1.3."""

    network = ProxylessNASNets

    def build(self, n_classes: int, width_mult: float, dropout: float) -> OFAProxylessNASNets:
        """See `Supernets.build`."""
        space: Any = get_search_space("proxyless")
        return OFAProxylessNASNets(
            n_classes=n_classes, dropout_rate=dropout, width_mult=width_mult,
            ks_list=list(space.kernel_size), expand_ratio_list=list(space.exp_ratio),
            depth_list=list(space.depth))

    def shape(self, state: Mapping[str, Tensor], path: str | os.PathLike,
              width: float | None = None) -> tuple[int, float]:
        """See `Supernets.shape`."""
        return checked_shape(state, path, width, what="OFA ProxylessNAS",
                             classifier="classifier.linear.weight",
                             features="feature_mix_layer.conv.weight", base=LAST_WIDTH)

    def config(self, supernet: Any, arch: Arch) -> Config:
        """See `Supernets.config`."""
        return {"name": "ProxylessNASNets", "bn": supernet.get_bn_param(),
                "blocks": block_configs(supernet, self._layers(supernet, arch)),
                **{part: getattr(supernet, part).config for part in FIXED}}

    def sources(self, supernet: Any, arch: Arch) -> list[Source]:
        """See `Supernets.sources`."""
        return [*(Source(part, getattr(supernet, part)) for part in FIXED),
                *block_sources(supernet, self._layers(supernet, arch))]

    def arch(self, supernet: Any, config: Config) -> Arch:
        """See `Supernets.arch`."""
        arch = read_layers(supernet, config["blocks"])
        return {**arch, "d": arch["d"][:-1]}

    def activate(self, supernet: Any, arch: Arch) -> None:
        """See `Supernets.activate`."""
        activate_layers(supernet, [*arch["d"], LAST_DEPTH], self._layers(supernet, arch))

    @staticmethod
    def _layers(supernet: Any, arch: Arch) -> list[ActiveLayer]:
        return active_layers(supernet, [*arch["d"], LAST_DEPTH], arch["ks"], arch["e"])
