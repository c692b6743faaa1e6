"""Elastic stages of inverted residuals: MobileNetV3 and ProxylessNAS.

MobileNetV3 has 5 elastic stages: kernels 3/5/7, expansions 3/4/6, depths 2/3/4. ProxylessNAS has a
single elastic layer after those, and no squeeze-and-excitation.

Sources: ProxylessNAS (Cai et al., ICLR 2019); Once for All (Cai et al., ICLR 2020), which made both
elastic; NSGANetV2 (Lu et al., ECCV 2020).
"""

import os
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any, ClassVar, NamedTuple

from ofa.imagenet_classification import networks as ofa_networks
from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3, OFAProxylessNASNets
from torch import Tensor

from networks.base import Supernets, WeightSource, checked_shape
from networks.configs import Config
from networks.families import get_family
from networks.static import StaticNetwork
from search_space import Arch, search_space_class
from search_space.backbones import MOBILENET_V3, make_divisible


class ActiveLayer(NamedTuple):
    """One elastic layer of a subnet: its block's number in the supernet, what is active."""

    position: int
    kernel: int
    expansion: int


def block_configs(supernet: Any, layers: Iterable[ActiveLayer]) -> list[Config]:
    """Returns the configs of a subnet's blocks: the fixed first one, then the elastic ones."""
    first = supernet.blocks[0]
    channels, blocks = first.conv.out_channels, [first.config]
    for position, kernel, expansion in layers:
        block = supernet.blocks[position]
        conv = block.conv
        blocks.append({
            "name": "ResidualBlock",
            "conv": {"name": "MBConvLayer", "in_channels": channels,
                     "out_channels": conv.out_channels, "kernel_size": kernel,
                     "stride": conv.stride, "expand_ratio": expansion,
                     "mid_channels": make_divisible(channels * expansion),
                     "act_func": conv.act_func, "use_se": conv.use_se},
            "shortcut": block.shortcut and block.shortcut.config})
        channels = conv.out_channels
    return blocks


def read_layers(supernet: Any, blocks: list[Config]) -> dict[str, list[int]]:
    """Returns `ks`, `e` and `d` of a static network's blocks; `d` for each group of the supernet.

    The depths are the first that give blocks of these channels and strides.

    Raises:
        ValueError: no depths do.
    """
    found = [(block["conv"]["out_channels"], block["conv"]["stride"]) for block in blocks[1:]]
    own = [(block.conv.out_channels, block.conv.stride) for block in supernet.blocks]
    groups = supernet.block_group_info
    options = [supernet.depth_list if len(group) > 1 else [1] for group in groups]
    for depths in product(*options):
        if [own[i] for group, depth in zip(groups, depths, strict=True)
                for i in group[:depth]] == found:
            return {"ks": [block["conv"]["kernel_size"] for block in blocks[1:]],
                    "e": [block["conv"]["expand_ratio"] for block in blocks[1:]],
                    "d": list(depths)}
    raise ValueError("no depths give these blocks")


class InvertedResidualSupernets(Supernets):
    """Supernets of elastic inverted residuals; a family is a row of these attributes.

    Attributes:
        supernet: its class in the `ofa` package.
        space: name of the family and of its search space, which knows the elastic choices.
        title: of the family, for messages.
        features: channels of the last convolution at width 1.0.
        last_depths: depths of the stages that `d` of an architecture leaves out.
    """

    supernet: ClassVar[type[Any]]
    space: ClassVar[str]
    title: ClassVar[str]
    features: ClassVar[int]
    last_depths: ClassVar[tuple[int, ...]] = ()

    @property
    def fixed(self) -> list[str]:
        """The other parts, which all subnets have at full size."""
        return [part.key for part in get_family(self.space).parts if part.layers and not part.many]

    def build(self, n_classes: int, width_mult: float, dropout: float) -> Any:
        """See `Supernets.build`."""
        space: Any = search_space_class(self.space)()
        return self.supernet(
            n_classes=n_classes, dropout_rate=dropout, width_mult=width_mult,
            ks_list=list(space.kernel_size), expand_ratio_list=list(space.exp_ratio),
            depth_list=list(space.depth))

    def shape(self, state: Mapping[str, Tensor], path: str | os.PathLike,
              width: float | None = None) -> tuple[int, float]:
        """See `Supernets.shape`."""
        return checked_shape(state, path, width, what=self.title,
                             classifier="classifier.linear.weight",
                             features="feature_mix_layer.conv.weight", base=self.features)

    def config(self, supernet: Any, arch: Arch) -> Config:
        """See `Supernets.config`."""
        return {"name": get_family(self.space).config_name, "bn": supernet.get_bn_param(),
                "blocks": block_configs(supernet, self._layers(supernet, arch)),
                **{part: getattr(supernet, part).config for part in self.fixed}}

    def sources(self, supernet: Any, arch: Arch) -> list[WeightSource]:
        """See `Supernets.sources`."""
        blocks = supernet.blocks
        return [*(WeightSource(part, getattr(supernet, part)) for part in self.fixed),
                WeightSource("blocks.0.conv", blocks[0].conv),
                *(WeightSource(f"blocks.{i}.conv", blocks[layer.position].conv, layer.kernel)
                  for i, layer in enumerate(self._layers(supernet, arch), 1))]

    def arch(self, supernet: Any, config: Config) -> Arch:
        """See `Supernets.arch`."""
        arch = read_layers(supernet, config["blocks"])
        return {**arch, "d": arch["d"][:len(arch["d"]) - len(self.last_depths)]}

    def activate(self, supernet: Any, arch: Arch) -> None:
        """See `Supernets.activate`; layers beyond a stage's depth keep what they had."""
        kernels: list[int | None] = [None] * (len(supernet.blocks) - 1)
        expansions = kernels.copy()
        for position, kernel, expansion in self._layers(supernet, arch):
            kernels[position - 1], expansions[position - 1] = kernel, expansion
        supernet.set_active_subnet(ks=kernels, e=expansions, d=[*arch["d"], *self.last_depths])

    def _layers(self, supernet: Any, arch: Arch) -> list[ActiveLayer]:
        """Returns the elastic layers of a subnet, one for each kernel and expansion."""
        depths = zip(supernet.block_group_info, [*arch["d"], *self.last_depths], strict=True)
        used = [position for stage, depth in depths for position in stage[:depth]]
        return [ActiveLayer(*layer) for layer in zip(used, arch["ks"], arch["e"], strict=True)]


class NSGANetV2(StaticNetwork, ofa_networks.MobileNetV3):
    """A subnet of the OFA MobileNetV3 supernet; the same logits as ofa's MobileNetV3 in eval mode.

    Takes (b, 3, r, r) images, gives (b, n_classes) logits. Source: NSGANetV2 (ECCV 2020).
    """


class MobileNetV3Supernets(InvertedResidualSupernets):
    """The family `mbv3`, published at widths 1.0 and 1.2."""

    network = NSGANetV2
    supernet = OFAMobileNetV3
    space = "mbv3"
    title = "OFA MobileNetV3"
    features = MOBILENET_V3.feature_mix


class ProxylessNASNets(StaticNetwork, ofa_networks.ProxylessNASNets):
    """A ProxylessNAS network (Cai et al., ICLR 2019): (b, 3, r, r) images to (b, n_classes)."""


class ProxylessSupernets(InvertedResidualSupernets):
    """The family `proxyless`, published at width 1.3."""

    network = ProxylessNASNets
    supernet = OFAProxylessNASNets
    space = "proxyless"
    title = "OFA ProxylessNAS"
    features = 1280
    # the sixth block has one layer in every subnet; `d` of an architecture leaves it out
    last_depths = (1,)
