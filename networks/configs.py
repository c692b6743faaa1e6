"""`net.config` files: the layers of a static network as JSON, in two namings. Free of torch.

Today's naming (ofa 0.1) is used inside the program; the old one (ofa 0.0.4, the published files) is
read everywhere and written on request. Both describe the same networks.
"""

import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from utils.errors import UserError
from utils.files import read_json, write_json

Config = dict[str, Any]

MAX_CHANNELS = 16_384
MAX_CLASSES = 100_000
MAX_BLOCKS = 200
MAX_PARAMS = 250_000_000
ACTIVATIONS = ("relu", "relu6", "h_swish", "h_sigmoid", "sigmoid", "tanh")

# old name -> today's name; the keys of the blocks were renamed as well
_RENAMED = {"MobileInvertedResidualBlock": "ResidualBlock", "MBInvertedConvLayer": "MBConvLayer"}
_OLD_NAMES = {new: old for old, new in _RENAMED.items()}
# the fields that the old library does not know, by layer; they can only be left out if at default
_NEW_FIELDS = {"ConvLayer": {"use_se": False}, "MBConvLayer": {"groups": None}}
_REQUIRED = object()


class Rule(NamedTuple):
    """What a field may hold: a test, its description, and the value where the field is absent."""

    accepts: Callable[[Any], bool]
    expected: str
    default: Any = _REQUIRED


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_int(value) or (isinstance(value, float) and math.isfinite(value))


def _integer(low: int, high: int, **default) -> Rule:
    return Rule(lambda v: _is_int(v) and low <= v <= high, f"an integer in {low}..{high}",
                **default)


def _only(value: Any) -> Rule:
    return Rule(lambda v: v == value and isinstance(v, bool) == isinstance(value, bool),
                f"{value!r}, the only supported value", default=value)


_CHANNELS = _integer(1, MAX_CHANNELS)
_KERNEL = Rule(lambda v: _is_int(v) and v % 2 == 1 and 1 <= v <= 15, "an odd integer in 1..15",
               default=3)
_STRIDE = _integer(1, 4, default=1)
_BOOL = {default: Rule(lambda v: isinstance(v, bool), "true or false", default=default)
         for default in (False, True)}
_ACT = Rule(lambda v: v in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}", default="relu6")
_ORDER = _only("weight_bn_act")

# Source: the constructors of ofa.utils.layers; what no published network uses is not supported.
SCHEMAS: dict[str, dict[str, Rule]] = {
    "ConvLayer": {
        "in_channels": _CHANNELS, "out_channels": _CHANNELS, "kernel_size": _KERNEL,
        "stride": _STRIDE, "dilation": _only(1), "groups": _only(1), "bias": _BOOL[False],
        "has_shuffle": _only(False), "use_se": _BOOL[False], "use_bn": _BOOL[True],
        "act_func": Rule(lambda v: v is None or v in ACTIVATIONS,
                         f"null or one of {', '.join(ACTIVATIONS)}", default="relu"),
        "dropout_rate": _only(0), "ops_order": _ORDER},
    "MBConvLayer": {
        "in_channels": _CHANNELS, "out_channels": _CHANNELS, "kernel_size": _KERNEL,
        "stride": _STRIDE,
        "expand_ratio": Rule(lambda v: _is_number(v) and 0 < v <= 64, "a number in (0, 64]",
                             default=6),
        "mid_channels": Rule(lambda v: v is None or _CHANNELS.accepts(v),
                             f"null or {_CHANNELS.expected}", default=None),
        "act_func": _ACT, "use_se": _BOOL[False], "groups": _only(None)},
    "IdentityLayer": {
        "in_channels": _CHANNELS, "out_channels": _CHANNELS, "use_bn": _only(False),
        "act_func": _only(None), "dropout_rate": _only(0), "ops_order": _ORDER},
    "LinearLayer": {
        "in_features": _CHANNELS, "out_features": _integer(1, MAX_CLASSES), "bias": _BOOL[True],
        "use_bn": _only(False), "act_func": _only(None),
        "dropout_rate": Rule(lambda v: _is_number(v) and 0 <= v < 1, "a number in [0, 1)",
                             default=0),
        "ops_order": _ORDER},
    "bn": {
        "momentum": Rule(lambda v: _is_number(v) and 0 <= v <= 1, "a number in [0, 1]"),
        "eps": Rule(lambda v: _is_number(v) and 0 < v <= 1, "a number in (0, 1]"),
        "ws_eps": _only(None), "gn_channel_per_group": _only(None)},
}

# network -> its layers outside the blocks, in the order of data flow; True where null is allowed
TAILS = {"MobileNetV3": {"final_expand_layer": False, "feature_mix_layer": False},
          "ProxylessNASNets": {"feature_mix_layer": True}}
_ALIASES = {"NSGANetV2": "MobileNetV3"}
_DEFAULT_EPS = {"MobileNetV3": 1e-5, "ProxylessNASNets": 1e-3}


def read_config(path: str | os.PathLike) -> Config:
    """Reads a `net.config` of either naming; see `check_config`.

    Raises:
        UserError: the file is missing or damaged, or describes no valid network.
    """
    return check_config(read_json(path, "network config"), str(path))


def write_config(net: Any, path: str | os.PathLike, old_naming: bool = False, **extra) -> None:
    """Writes the config of a static network, with `extra` (`resolution`, `transform`) beside it.

    Raises:
        UserError: the network has a part that the old naming cannot express.
    """
    config = check_config(net.config, "the network")
    write_json(path, {**(to_old_naming(config) if old_naming else config), **extra}, indent=4)


def check_config(config: Any, source: str = "network config") -> Config:
    """Returns a checked copy of a network config in today's naming, every field filled in.

    What stands beside the layers (`resolution`, `transform`) is kept. Checked are names, types and
    ranges of all fields, that each layer fits the one before, and the size of the whole (at most
    250 million parameters), so that building the result cannot fail or exhaust the memory.

    Raises:
        UserError: names the file, the place in it, and what was expected there.
    """
    if not isinstance(config, dict):
        raise UserError(f"{source}: a network config is an object, not {_short(config)}")
    name = config.get("name")
    name = _ALIASES.get(name, name) if isinstance(name, str) else name
    if not isinstance(name, str) or name not in TAILS:
        raise UserError(f"{source}: 'name' must be one of {', '.join(TAILS)}, not {_short(name)}")
    checked = {**config, "name": name, "bn": _bn(config, name, source),
               "first_conv": _layer(config, "first_conv", "ConvLayer", source),
               "blocks": _blocks(config, source)}
    for key, optional in TAILS[name].items():
        checked[key] = None if optional and config.get(key) is None \
            else _layer(config, key, "ConvLayer", source)
    checked["classifier"] = _layer(config, "classifier", "LinearLayer", source)
    _check_chain(checked, source)
    _check_size(checked, source)
    _check_resolution(checked, source)
    return checked


def to_old_naming(config: Config) -> Config:
    """Returns a checked config as ofa 0.0.4 writes it, for users of the original program.

    Raises:
        UserError: the network has a part that the old library does not know.
    """
    old = {key: _old_layer(value) if isinstance(value, dict) and "name" in value else value
           for key, value in config.items()}
    old["bn"] = {key: config["bn"][key] for key in ("momentum", "eps")}
    old["blocks"] = [{"name": _OLD_NAMES["ResidualBlock"],
                      "mobile_inverted_conv": _old_layer(block["conv"]),
                      "shortcut": block["shortcut"] and _old_layer(block["shortcut"])}
                     for block in config["blocks"]]
    return old


def main_layers(config: Config) -> list[tuple[str, Config]]:
    """Returns (place, layer) of a checked config in the order of data flow, shortcuts left out."""
    tails = [(key, config[key]) for key in TAILS[config["name"]] if config[key] is not None]
    blocks = [(f"blocks[{i}].conv", block["conv"]) for i, block in enumerate(config["blocks"])]
    return [("first_conv", config["first_conv"]), *blocks, *tails]


def mid_channels(layer: Config) -> int:
    """Returns the channels inside an inverted residual layer: `mid_channels`, or the product."""
    if layer["mid_channels"] is not None:
        return layer["mid_channels"]
    return round(layer["in_channels"] * layer["expand_ratio"])


def _old_layer(layer: Config) -> Config:
    old = dict(layer)
    for key, default in _NEW_FIELDS.get(layer["name"], {}).items():
        if old.pop(key) != default:
            raise UserError(f"the old naming knows no {key!r} in a {layer['name']}; write today's "
                            "naming instead")
    if layer["name"] == "IdentityLayer":  # the old library wrote its channels as lists
        old.update({key: [layer[key]] for key in ("in_channels", "out_channels")})
    return {**old, "name": _OLD_NAMES.get(layer["name"], layer["name"])}


def _bn(config: Config, name: str, source: str) -> Config:
    bn = config.get("bn", {"momentum": 0.1, "eps": _DEFAULT_EPS[name]})
    if not isinstance(bn, dict):
        raise UserError(f"{source}: 'bn' must be an object, not {_short(bn)}")
    return _fields(bn, "bn", f"{source}: bn")


def _blocks(config: Config, source: str) -> list[Config]:
    blocks = config.get("blocks")
    if not isinstance(blocks, list) or not 1 <= len(blocks) <= MAX_BLOCKS:
        found = f"{len(blocks)} entries" if isinstance(blocks, list) else _short(blocks)
        raise UserError(f"{source}: 'blocks' must be a list of 1..{MAX_BLOCKS} blocks, not {found}")
    return [_block(block, f"{source}: blocks[{i}]") for i, block in enumerate(blocks)]


def _block(block: Any, place: str) -> Config:
    name = block.get("name") if isinstance(block, dict) else None
    if not isinstance(name, str) or _RENAMED.get(name, name) != "ResidualBlock":
        raise UserError(f"{place}: a ResidualBlock was expected, not {_short(name or block)}")
    key = "conv" if "conv" in block else "mobile_inverted_conv"
    _refuse_unknown(block, {"name", key, "shortcut"}, place)
    shortcut = None if block.get("shortcut") is None \
        else _layer(block, "shortcut", "IdentityLayer", place)
    return {"name": "ResidualBlock", "conv": _layer(block, key, "MBConvLayer", place),
            "shortcut": shortcut}


def _layer(parent: Config, key: str, name: str, source: str) -> Config:
    layer, place = parent.get(key), f"{source}: {key}"
    found = layer.get("name") if isinstance(layer, dict) else None
    if not isinstance(found, str) or _RENAMED.get(found, found) != name:
        raise UserError(f"{place}: a {name} was expected, not {_short(found or layer)}")
    layer = {k: v for k, v in layer.items() if k != "name"}
    if name == "IdentityLayer":
        layer.update({k: v[0] for k, v in layer.items() if isinstance(v, list) and len(v) == 1})
    return {"name": name, **_fields(layer, name, place)}


def _fields(values: Config, schema: str, place: str) -> Config:
    rules = SCHEMAS[schema]
    _refuse_unknown(values, rules, place)
    checked = {}
    for key, rule in rules.items():
        value = values.get(key, rule.default)
        if value is _REQUIRED:
            raise UserError(f"{place}: {key!r} is missing; it must be {rule.expected}")
        if isinstance(value, list | dict) or not rule.accepts(value):
            raise UserError(f"{place}: {key!r} must be {rule.expected}, not {_short(value)}")
        checked[key] = value
    return checked


def _refuse_unknown(values: Config, known: Any, place: str) -> None:
    unknown = [key for key in values if key not in known]
    if unknown:
        raise UserError(f"{place}: unknown key {_short(unknown[0])}; known are "
                        f"{', '.join(sorted(known))}")


def _check_chain(config: Config, source: str) -> None:
    """Each layer must take what the one before gives, from the image to the classifier."""
    channels = 3
    for place, layer in main_layers(config):
        if layer["in_channels"] != channels:
            raise UserError(f"{source}: {place} takes {layer['in_channels']} channels, but the "
                            f"layer before it gives {channels}")
        channels = layer["out_channels"]
    for i, block in enumerate(config["blocks"]):
        _check_block(block, f"{source}: blocks[{i}]")
    if config["classifier"]["in_features"] != channels:
        raise UserError(f"{source}: the classifier takes {config['classifier']['in_features']} "
                        f"features, but the layer before it gives {channels}")


def _check_block(block: Config, place: str) -> None:
    conv, shortcut = block["conv"], block["shortcut"]
    mid = mid_channels(conv)
    if not 1 <= mid <= MAX_CHANNELS:
        raise UserError(f"{place}: {mid} channels inside the layer; 1..{MAX_CHANNELS} are possible")
    if conv["expand_ratio"] == 1 and mid != conv["in_channels"]:
        raise UserError(f"{place}: with 'expand_ratio' 1, 'mid_channels' must be null or "
                        f"{conv['in_channels']}, not {mid}")
    ends = {conv["in_channels"], conv["out_channels"]}
    if shortcut and (conv["stride"] != 1 or len(ends) != 1
                     or ends != {shortcut["in_channels"], shortcut["out_channels"]}):
        raise UserError(f"{place}: a shortcut needs stride 1 and the same channels on both sides")


def _check_size(config: Config, source: str) -> None:
    params = config["classifier"]["in_features"] * config["classifier"]["out_features"]
    for _, layer in main_layers(config):
        mid = mid_channels(layer) if layer["name"] == "MBConvLayer" else 0
        ends = layer["in_channels"], layer["out_channels"]
        area = layer["kernel_size"] ** 2
        params += mid * (sum(ends) + area) if mid else math.prod(ends) * area
        params += layer["use_se"] * (mid or ends[1]) ** 2 // 2
    if params > MAX_PARAMS:
        raise UserError(f"{source}: the network has about {params // 10**6} million parameters, "
                        f"more than the {MAX_PARAMS // 10**6} million that are accepted")


def _check_resolution(config: Config, source: str) -> None:
    rule = _integer(8, 4096)
    for key in ("resolution", "img_size"):
        if not rule.accepts(config.get(key, 8)):
            raise UserError(f"{source}: {key!r} must be {rule.expected}, "
                            f"not {_short(config[key])}")


def _short(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
