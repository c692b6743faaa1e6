"""ResNet50-D: elastic depths, expansions and widths, and a stem whose middle layer can be skipped.

Source: Once for All (Cai et al., ICLR 2020) with the stem and the downsampling of ResNet-D (He et
al., "Bag of Tricks", CVPR 2019). An architecture is `{"d", "e", "w", "r"}` as
`OFAResNets.sample_active_subnet` gives it: `d` of the stem and the 4 stages, `e` of each of the 18
blocks, `w` (an index) of the stem's two widths and the 4 stages.
"""

import os
from collections.abc import Mapping
from typing import Any

from ofa.imagenet_classification import networks as ofa_networks
from ofa.imagenet_classification.elastic_nn.networks import OFAResNets
from ofa.utils.layers import IdentityLayer, ResNetBottleneckBlock
from timm.layers import DropPath
from torch import Tensor, nn

from networks.base import Supernets, WeightSource, checked_shape
from networks.configs import Config, mid_channels
from networks.static import StaticNetwork, build_layer
from search_space import Arch, get_search_space

LAST_WIDTH, LAST_WEIGHT = 2048, "blocks.17.conv3.conv.conv.weight"


class DropPathBottleneck(ResNetBottleneckBlock):
    """A bottleneck whose residual branch is dropped per sample while training."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.drop_path = DropPath(0.0)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c', h', w')."""
        y = self.conv3(self.conv2(self.conv1(x)))
        return self.final_act(self.drop_path(y) + self.downsample(x))


class ResNets(StaticNetwork, ofa_networks.ResNets):
    """A subnet of the OFA ResNet50 supernet: (b, 3, r, r) images to (b, n_classes) logits."""

    @classmethod
    def _block(cls, config: Config) -> nn.Module:
        if config["name"] != "ResNetBottleneckBlock":  # in the stem
            return build_layer(config)
        return DropPathBottleneck(**{key: value for key, value in config.items() if key != "name"})


class ResNet50Supernets(Supernets):
    """The family `resnet50`, published at width 1.0.

    DEVIATION resnet-width: other width multipliers, which the ofa package lacks, multiply all three
    widths.
    """

    network = ResNets

    def build(self, n_classes: int, width_mult: float, dropout: float) -> OFAResNets:
        """See `Supernets.build`."""
        space: Any = get_search_space("resnet50")
        return OFAResNets(
            n_classes=n_classes, dropout_rate=dropout, depth_list=list(space.depth),
            expand_ratio_list=list(space.exp_ratio),
            width_mult_list=[width * width_mult for width in space.width])

    def shape(self, state: Mapping[str, Tensor], path: str | os.PathLike,
              width: float | None = None) -> tuple[int, float]:
        """See `Supernets.shape`."""
        return checked_shape(state, path, width, what="OFA ResNet50",
                             classifier="classifier.linear.linear.weight",
                             features=LAST_WEIGHT, base=LAST_WIDTH)

    def config(self, supernet: Any, arch: Arch) -> Config:
        """See `Supernets.config`."""
        stem, channels = self._stem(supernet, arch)
        blocks = []
        for index, expansion, width in self._active(supernet, arch):
            block = supernet.blocks[index]
            config = {"name": "ResNetBottleneckBlock", "in_channels": channels,
                      "out_channels": block.out_channel_list[width],
                      "kernel_size": block.kernel_size, "stride": block.stride,
                      "expand_ratio": expansion, "mid_channels": None,
                      "act_func": block.act_func,
                      "downsample_mode": block.downsample_mode}
            blocks.append({**config, "mid_channels": mid_channels(config)})
            channels = config["out_channels"]
        classifier = supernet.classifier
        return {"name": "ResNets", "bn": supernet.get_bn_param(), "input_stem": stem,
                "blocks": blocks, "classifier": {
                    "name": "LinearLayer", "in_features": channels,
                    "out_features": classifier.out_features, "bias": classifier.bias,
                    "dropout_rate": classifier.dropout_rate}}

    def sources(self, supernet: Any, arch: Arch) -> list[WeightSource]:
        """See `Supernets.sources`."""
        first, middle, last = supernet.input_stem
        stem = [WeightSource("input_stem.0", first)]
        if arch["d"][0]:  # 0 or 2
            stem.append(WeightSource("input_stem.1.conv", middle.conv))
        stem.append(WeightSource(f"input_stem.{len(stem)}", last))
        blocks = [WeightSource(f"blocks.{i}", supernet.blocks[index])
                  for i, (index, *_) in enumerate(self._active(supernet, arch))]
        return [*stem, *blocks, WeightSource("classifier", supernet.classifier)]

    def arch(self, supernet: Any, config: Config) -> Arch:
        """See `Supernets.arch`."""
        first, _, last = supernet.input_stem
        stem, stage = config["input_stem"], -1
        least = min(supernet.expand_ratio_list)
        arch: Arch = {"d": [max(supernet.depth_list) * (len(stem) == 3)],
                      "e": [least] * len(supernet.blocks),
                      "w": [first.out_channel_list.index(stem[0]["out_channels"]),
                            last.out_channel_list.index(stem[-1]["out_channels"])]}
        groups = supernet.grouped_block_index
        used = [0] * len(groups)
        for block in config["blocks"]:
            if block["stride"] != 1 or block["in_channels"] != block["out_channels"]:
                stage += 1
                widths = supernet.blocks[groups[stage][0]].out_channel_list
                arch["w"].append(widths.index(block["out_channels"]))
            arch["e"][groups[stage][used[stage]]] = block["expand_ratio"]
            used[stage] += 1
        arch["d"] += [max(supernet.depth_list) - len(group) + n
                      for group, n in zip(groups, used, strict=True)]
        return arch

    def activate(self, supernet: Any, arch: Arch) -> None:
        """See `Supernets.activate`."""
        supernet.set_active_subnet(d=list(arch["d"]), e=list(arch["e"]), w=list(arch["w"]))

    @staticmethod
    def _stem(supernet: Any, arch: Arch) -> tuple[list[Config], int]:
        """Returns the configs of the stem's layers, and the channels that it gives."""
        first, middle, last = supernet.input_stem
        mid = first.out_channel_list[arch["w"][0]]
        out = last.out_channel_list[arch["w"][1]]
        stem = [_conv(first, 3, mid)]
        if arch["d"][0]:
            stem.append({"name": "ResidualBlock", "conv": _conv(middle.conv, mid, mid),
                         "shortcut": IdentityLayer(mid, mid).config})
        return [*stem, _conv(last, mid, out)], out

    @staticmethod
    def _active(supernet: Any, arch: Arch) -> list[tuple[int, float, int]]:
        """Returns (block of the supernet, expansion, index of the width) of a subnet's blocks."""
        layers = []
        groups = zip(supernet.grouped_block_index, arch["d"][1:], arch["w"][2:], strict=True)
        for stage, depth, width in groups:
            used = stage[:len(stage) - max(supernet.depth_list) + depth]
            layers += [(index, arch["e"][index], width) for index in used]
        return layers


def _conv(layer: Any, in_channels: int, out_channels: int) -> Config:
    """Returns the config of an elastic convolution at some of its channels."""
    return {"name": "ConvLayer", "in_channels": in_channels, "out_channels": out_channels,
            "kernel_size": layer.kernel_size, "stride": layer.stride, "dilation": layer.dilation,
            "use_bn": layer.use_bn, "act_func": layer.act_func}
