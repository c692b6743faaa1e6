"""The networks as timm models: timm's own classes, described by their block strings.

A folder's config.json carries the arguments, so one name serves every network of a family.
"""

import re
from functools import partial
from typing import Any

import timm
from timm.layers import get_act_layer
from timm.models import generate_default_cfgs, register_model
from timm.models._builder import build_model_with_cfg, pretrained_cfg_for_features
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def, resolve_bn_args, round_channels
from timm.models.efficientnet import EfficientNet, EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3, MobileNetV3Features
from torch import nn

from msunas_timm.chains import Size, shrink

LICENSE = "apache-2.0"
# The smallest MobileNetV3 subnet of Once for All at width 1.0, for who names a model and no folder.
SMALLEST_MBV3 = (
    ("ds_r1_k3_s1_e1_c16_nre",),
    ("ir_r1_k3_s2_e3_c24_nre", "ir_r1_k3_s1_e3_c24_nre"),
    ("ir_r1_k3_s2_e3_c40_se0.25_nre", "ir_r1_k3_s1_e3_c40_se0.25_nre"),
    ("ir_r1_k3_s2_e3_c80_nhs", "ir_r1_k3_s1_e3_c80_nhs"),
    ("ir_r1_k3_s1_e3_c112_se0.25_nhs", "ir_r1_k3_s1_e3_c112_se0.25_nhs"),
    ("ir_r1_k3_s2_e3_c160_se0.25_nhs", "ir_r1_k3_s1_e3_c160_se0.25_nhs"),
    ("cn_r1_k1_s1_c960_nhs",),
)
DEFAULT_CHAIN = "tf_efficientnet_lite0"
# ProxylessNAS: the smallest subnet, likewise (relu6 everywhere, six stages, no squeeze-and-excite).
SMALLEST_PROXYLESS = (
    ("ds_r1_k3_s1_e1_c16_nr6_noskip",),
    *((f"ir_r1_k3_s{stride}_e3_c{width}_nr6", f"ir_r1_k3_s1_e3_c{width}_nr6")
      for width, stride in ((24, 2), (40, 2), (80, 2), (96, 1), (192, 2))),
    ("ir_r1_k3_s1_e3_c320_nr6",),
)

default_cfgs = generate_default_cfgs({
    name: {"first_conv": "conv_stem", "classifier": "classifier", "interpolation": "bilinear",
           "license": LICENSE}
    for name in ("nsganetv2", "nsganetv2_proxyless", "nsganetv2_chain")})

_MAX_BLOCKS = 1000  # far above every space; timm would build them all first


@register_model
def nsganetv2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """A subnet of the Once-for-All MobileNetV3 supernet, as timm's `MobileNetV3`.

    Args:
        pretrained: load the weights that the folder of `local-dir:` has.
        kwargs: `arch_def` (block strings of each stage), `stem_size`, `num_features`, `bn_eps`,
            `bn_momentum`, and any option of timm's `MobileNetV3`.
    """
    squeeze_excite = partial(SqueezeExcite, gate_layer="hard_sigmoid", force_act_layer=nn.ReLU,
                             rd_round_fn=round_channels)
    options = {"stem_size": 16, "num_features": 1280, "act_layer": "hard_swish",
               "head_bias": False, "se_layer": squeeze_excite} | kwargs
    return _build("nsganetv2", MobileNetV3, MobileNetV3Features, SMALLEST_MBV3, pretrained,
                  options)


@register_model
def nsganetv2_proxyless(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """A subnet of the Once-for-All ProxylessNAS supernet, as timm's `EfficientNet`.

    Args:
        pretrained: as `nsganetv2`.
        kwargs: as `nsganetv2`; `num_features` 0 has no convolution in front of the pooling.
    """
    options = {"stem_size": 32, "num_features": 1280, "act_layer": "relu6"} | kwargs
    return _build("nsganetv2_proxyless", EfficientNet, EfficientNetFeatures, SMALLEST_PROXYLESS,
                  pretrained, options)


@register_model
def nsganetv2_chain(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """A smaller network within one of timm's, as an instance of timm's own class.

    Args:
        pretrained: as `nsganetv2`.
        kwargs: `model` (the name of the whole network), `blocks` ([number in the whole, kernel of
            each convolution, hidden channels] of each block that is there; without it all are),
            `bn_eps`, `bn_momentum`, and any option of the whole network.
    """
    features_only = kwargs.pop("features_only", False)
    net: Any = build_model_with_cfg(
        partial(_part_of_model, features_only), "nsganetv2_chain", pretrained,
        pretrained_strict=not features_only, **{"model": DEFAULT_CHAIN} | kwargs)
    if features_only:
        net.default_cfg = pretrained_cfg_for_features(net.default_cfg)
    return net


def _part_of_model(features_only: bool, model: str, blocks: Any = None,
                   bn_eps: float | None = None, bn_momentum: float | None = None,
                   **options: Any) -> nn.Module:
    net: Any = timm.create_model(model, features_only=features_only, **options)
    if blocks is not None:
        shrink(net, [Size(*block) for block in blocks])
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = module.eps if bn_eps is None else bn_eps
            module.momentum = module.momentum if bn_momentum is None else bn_momentum
    return net


def _build(name: str, network: type, features: type, arch_def: Any, pretrained: bool,
           options: dict[str, Any]) -> nn.Module:
    """Builds the network, or with `features_only` timm's class that returns feature maps."""
    features_only = options.pop("features_only", False)
    arch_def = [list(stage) for stage in options.pop("arch_def", arch_def)]
    _check_blocks(arch_def)
    norm = partial(nn.BatchNorm2d, **resolve_bn_args(options))
    head: Any = ("num_classes", "num_features", "head_bias", "head_norm", "global_pool")
    net: Any = build_model_with_cfg(
        features if features_only else network, name, pretrained,
        pretrained_strict=not features_only, kwargs_filter=head if features_only else None,
        **options | {"block_args": decode_arch_def(arch_def), "fix_stem": True,
                     "round_chs_fn": _as_given, "norm_layer": norm,
                     "act_layer": get_act_layer(options["act_layer"])})
    if features_only:
        net.default_cfg = pretrained_cfg_for_features(net.default_cfg)
    return net


def _check_blocks(arch_def: list[list[str]]) -> None:
    """Raises ValueError where the block strings repeat to more than any network has."""
    repeats = sum(int(number) for stage in arch_def for block in stage
                  for number in re.findall(r"_r(\d{1,9})(?:_|$)", block) or ["1"])
    if repeats > _MAX_BLOCKS or any(re.search(r"_r\d{10}", block)
                                    for stage in arch_def for block in stage):
        raise ValueError(f"arch_def: more than {_MAX_BLOCKS} blocks")


def _as_given(channels: int) -> int:
    """The widths of a folder are final: nothing rounds them again."""
    return channels
