"""The families of networks: one row each. Free of torch; what needs torch is named and imported
on use.

A row says how the family's `net.config` looks and which class builds and cuts its supernets. A new
family is a module beside `networks/resnet50.py` and a row here; one from outside the project is a
`Family` of its own, which a search space names as `module:ATTRIBUTE`.
"""

import importlib
from collections.abc import Container
from dataclasses import dataclass, replace

from search_space.layers import POOL
from utils.errors import UserError
from utils.registry import TIMM, current_folder_last

MAX_POOL = "max_pooling"


@dataclass(frozen=True)
class Part:
    """One part of a static network, in the order of data flow.

    Attributes:
        key: its name in the network and in `net.config`.
        layers: the layers that may stand there; `ResidualBlock:X` is layer X with or without a
            shortcut. Empty: a pooling, which has no entry in a `net.config`.
        many: whether it is a list of layers.
        optional: whether it may be null.
    """

    key: str
    layers: tuple[str, ...] = ()
    many: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Family:
    """A family of supernets and of the static networks that are cut from them.

    Attributes:
        name: as a search space's `family` names it.
        config_name: `name` in a `net.config`.
        supernets: `module:Class` of its `networks.base.Supernets`.
        mark: a key in the state dict of its supernets that no other family's have; empty where
            the checkpoint says its family.
        parts: of a static network, from the image to the classifier.
        bn_eps: epsilon of batch normalisation where a `net.config` does not say.
        aliases: further names in a `net.config`.
        old_naming: whether ofa 0.0.4 knows such networks, so that its naming exists.
        of_timm: whether a `net.config` names a model of timm and what part of it the network is,
            in place of its layers.
    """

    name: str
    config_name: str
    supernets: str
    mark: str
    parts: tuple[Part, ...]
    bn_eps: float = 1e-5
    aliases: tuple[str, ...] = ()
    old_naming: bool = True
    of_timm: bool = False


_FIRST = Part("first_conv", ("ConvLayer",))
_MB_BLOCKS = Part("blocks", ("ResidualBlock:MBConvLayer",), many=True)
_CLASSIFIER = Part("classifier", ("LinearLayer",))

FAMILIES: dict[str, Family] = {row.name: row for row in (
    Family("mbv3", "MobileNetV3", "networks.inverted_residuals:MobileNetV3Supernets",
           "final_expand_layer.conv.weight", (
        _FIRST, _MB_BLOCKS, Part("final_expand_layer", ("ConvLayer",)), Part(POOL),
        Part("feature_mix_layer", ("ConvLayer",)), _CLASSIFIER), bn_eps=1e-3,
        aliases=("NSGANetV2",)),
    Family("proxyless", "ProxylessNASNets", "networks.inverted_residuals:ProxylessSupernets",
           "feature_mix_layer.bn.weight", (
        _FIRST, _MB_BLOCKS, Part("feature_mix_layer", ("ConvLayer",), optional=True), Part(POOL),
        _CLASSIFIER), bn_eps=1e-3),
    Family("resnet50", "ResNets", "networks.resnet50:ResNet50Supernets",
           "input_stem.0.conv.conv.weight", (
        Part("input_stem", ("ConvLayer", "ResidualBlock:ConvLayer"), many=True), Part(MAX_POOL),
        Part("blocks", ("ResNetBottleneckBlock",), many=True), Part(POOL), _CLASSIFIER),
        old_naming=False),
    Family("timm", "TimmChain", "networks.timm_chain:TimmSupernets", "", (_CLASSIFIER,),
           old_naming=False, of_timm=True),
)}


def get_family(name: str) -> Family:
    """Returns the row `name`, that of `timm:NAME`, or the `Family` that `module:ATTRIBUTE` names.

    Raises:
        UserError: no such family; the message lists them.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    if name.startswith(TIMM):
        return replace(FAMILIES["timm"], name=name)
    module, colon, attribute = name.partition(":")
    try:
        with current_folder_last():
            found = getattr(importlib.import_module(module), attribute) if colon else None
    except (ModuleNotFoundError, AttributeError) as error:
        raise UserError(f"no family of networks {name!r}: {error}") from None
    if not isinstance(found, Family):
        raise UserError(f"no supernets of the family {name!r}; choose from "
                        f"{', '.join(sorted(FAMILIES))}, or name a Family as module:ATTRIBUTE")
    return found


def family_of_state(keys: Container[str]) -> str | None:
    """Returns the name of the family whose supernets have these keys; None where none does."""
    return next((row.name for row in FAMILIES.values() if row.mark in keys), None)


def family_of_config(name: object) -> Family | None:
    """Returns the family whose `net.config` files have this `name`; None where there is none."""
    return next((row for row in FAMILIES.values() if name in (row.config_name, *row.aliases)),
                None)
