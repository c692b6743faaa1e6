"""`net.config` files: the layers of a static network as JSON, in two namings. Free of torch.

Today's naming (ofa 0.1) is used inside the program; the old one (ofa 0.0.4, the published files) is
read everywhere and written on request. Both describe the same networks.
"""

import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from networks.families import FAMILIES, Family, Part, family_of_config, get_family
from search_space import SearchSpace, get_search_space
from search_space.backbones import make_divisible
from utils.errors import UserError, warn
from utils.files import read_json, write_json
from utils.flags import choose
from utils.registry import TIMM

Config = dict[str, Any]

# files that name no space are of this one
ORIGINAL_SPACE = "mbv3"

MAX_CHANNELS = 16_384
MAX_CLASSES = 100_000
MAX_BLOCKS = 200
MAX_PARAMS = 250_000_000
ACTIVATIONS = ("relu", "relu6", "h_swish", "h_sigmoid", "sigmoid", "tanh")
# of a network whose file and command line name none, in pixels
DEFAULT_RESOLUTION = 224
# evaluation transforms: see `networks.preprocessing.Preprocessing`
TRANSFORMS = ("crop", "squash")
# the data sets of the original's train_cifar.py, whose networks were tuned and scored on whole
# images, resized straight; their published files do not record it
SMALL_IMAGES = ("cifar10", "cifar100", "cinic10")

# how a ResNet's block reduces its input in the shortcut
DOWNSAMPLING = ("avgpool_conv", "conv")
# old name -> today's name; the keys of the blocks were renamed as well
_RENAMED = {"MobileInvertedResidualBlock": "ResidualBlock", "MBInvertedConvLayer": "MBConvLayer"}
_OLD_NAMES = {new: old for old, new in _RENAMED.items()}
# the fields that the old library does not know, by layer; they can only be left out if at default
_NEW_FIELDS: dict[str, Config] = {"ConvLayer": {"use_se": False}, "MBConvLayer": {"groups": None}}
_REQUIRED = object()


class Field(NamedTuple):
    """What a field may hold: a test, its description, and the value where the field is absent."""

    accepts: Callable[[Any], bool]
    expected: str
    default: Any = _REQUIRED


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_int(value) or (isinstance(value, float) and math.isfinite(value))


def _integer(low: int, high: int, **default: Any) -> Field:
    return Field(lambda v: _is_int(v) and low <= v <= high, f"an integer in {low}..{high}",
                 **default)


def _only(value: Any) -> Field:
    return Field(lambda v: v == value and isinstance(v, bool) == isinstance(value, bool),
                 f"{value!r}, the only supported value", default=value)


_CHANNELS = _integer(1, MAX_CHANNELS)
_KERNEL = Field(lambda v: _is_int(v) and v % 2 == 1 and 1 <= v <= 15, "an odd integer in 1..15",
                default=3)
_STRIDE = _integer(1, 4, default=1)
_BOOL = {default: Field(lambda v: isinstance(v, bool), "true or false", default=default)
         for default in (False, True)}
_ACT = Field(lambda v: v in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}", default="relu6")
_ORDER = _only("weight_bn_act")
_EXPANSION = Field(lambda v: _is_number(v) and 0 < v <= 64, "a number in (0, 64]", default=6)
_MID_CHANNELS = Field(lambda v: v is None or _CHANNELS.accepts(v), f"null or {_CHANNELS.expected}",
                      default=None)

_ENDS = {"in_channels": _CHANNELS, "out_channels": _CHANNELS}
_CONV = {**_ENDS, "kernel_size": _KERNEL, "stride": _STRIDE}

# Source: the constructors of ofa.utils.layers; what no published network uses is not supported.
SCHEMAS: dict[str, dict[str, Field]] = {
    "ConvLayer": {
        **_CONV, "dilation": _only(1), "groups": _only(1), "bias": _BOOL[False],
        "has_shuffle": _only(False), "use_se": _BOOL[False], "use_bn": _BOOL[True],
        "act_func": Field(lambda v: v is None or v in ACTIVATIONS,
                          f"null or one of {', '.join(ACTIVATIONS)}", default="relu"),
        "dropout_rate": _only(0), "ops_order": _ORDER},
    "MBConvLayer": {
        **_CONV, "expand_ratio": _EXPANSION, "mid_channels": _MID_CHANNELS,
        "act_func": _ACT, "use_se": _BOOL[False], "groups": _only(None)},
    "ResNetBottleneckBlock": {
        **_CONV, "expand_ratio": _EXPANSION._replace(default=0.25), "mid_channels": _MID_CHANNELS,
        "act_func": _ACT._replace(default="relu"), "groups": _only(1),
        "downsample_mode": Field(lambda v: v in DOWNSAMPLING, f"one of {', '.join(DOWNSAMPLING)}",
                                 default="avgpool_conv")},
    "IdentityLayer": {
        **_ENDS, "use_bn": _only(False),
        "act_func": _only(None), "dropout_rate": _only(0), "ops_order": _ORDER},
    "LinearLayer": {
        "in_features": _CHANNELS, "out_features": _integer(1, MAX_CLASSES), "bias": _BOOL[True],
        "use_bn": _only(False), "act_func": _only(None),
        "dropout_rate": Field(lambda v: _is_number(v) and 0 <= v < 1, "a number in [0, 1)",
                              default=0),
        "ops_order": _ORDER},
    "bn": {
        "momentum": Field(lambda v: _is_number(v) and 0 <= v <= 1, "a number in [0, 1]"),
        "eps": Field(lambda v: _is_number(v) and 0 < v <= 1, "a number in (0, 1]"),
        "ws_eps": _only(None), "gn_channel_per_group": _only(None)},
}
# The entries next to the layers.
_IMAGES = {"resolution": _integer(8, 4096), "img_size": _integer(8, 4096),
           "transform": Field(lambda v: v is None or v in TRANSFORMS,
                            f"one of {', '.join(TRANSFORMS)}")}


def read_config(path: str | os.PathLike) -> Config:
    """Reads a `net.config` of either naming; see `check_config`.

    Raises:
        UserError: the file is missing or damaged, or describes no valid network.
    """
    return check_config(read_json(path, "network config"), str(path))


def write_config(net: Any, path: str | os.PathLike, old_naming: bool = False,
                 **extra: Any) -> None:
    """Writes the config of a static network, with `extra` (`resolution`, `transform`).

    A `search_space`, the space that the network comes from, is written where it is not `mbv3`:
    files without it are the original's.

    Raises:
        UserError: the network has a part that the old naming cannot express.
    """
    config = check_config(net.config, "the network")
    if extra.get("search_space") == ORIGINAL_SPACE:
        del extra["search_space"]
    write_json(path, {**(to_old_naming(config) if old_naming else config), **extra}, indent=4)


def check_config(config: Any, source: str = "network config") -> Config:
    """Returns a checked copy of a network config in today's naming, every field filled in.

    Entries next to the layers (`resolution`, `transform`) are kept. Checked are names, types and
    ranges of all fields, that each layer fits the one before, and the total size (at most
    250 million parameters), so that building the result cannot fail or exhaust the memory.

    Raises:
        UserError: names the file, the place in it, and what was expected there.
    """
    if not isinstance(config, dict):
        raise UserError(f"{source}: a network config is an object, not {_short(config)}")
    family = family_of_config(config.get("name"))
    if family is None:
        names = ", ".join(row.config_name for row in FAMILIES.values())
        raise UserError(f"{source}: 'name' must be one of {names}, not "
                        f"{_short(config.get('name'))}")
    checked = {**config, "name": family.config_name, "bn": _bn(config, family, source)}
    for part in family.parts:
        if part.layers:
            checked[part.key] = _part(config, part, source)
    if family.of_timm:
        _check_model(checked, source)
    else:
        _check_chain(checked, source)
    _check_size(checked, source)
    for key, field in _IMAGES.items():
        if key in checked and not field.accepts(checked[key]):
            raise UserError(f"{source}: {key!r} must be {field.expected}, not "
                            f"{_short(checked[key])}")
    return checked


def to_old_naming(config: Config) -> Config:
    """Returns a checked config as ofa 0.0.4 writes it, for users of the original program.

    Raises:
        UserError: the network has a part that the old library does not know.
    """
    if not config_family(config).old_naming:
        raise UserError(f"the old library knows no {config['name']}; write today's naming instead")
    old = {key: _old_layer(value) if isinstance(value, dict) and "name" in value else value
           for key, value in config.items()}
    old["bn"] = {key: config["bn"][key] for key in ("momentum", "eps")}
    old["blocks"] = [{"name": _OLD_NAMES["ResidualBlock"],
                      "mobile_inverted_conv": _old_layer(block["conv"]),
                      "shortcut": block["shortcut"] and _old_layer(block["shortcut"])}
                     for block in config["blocks"]]
    return old


def config_family(config: Config) -> Family:
    """Returns the family of a checked config."""
    family = family_of_config(config["name"])
    assert family is not None  # or `check_config` would have refused it
    return get_family(TIMM + config["model"]) if family.of_timm else family


def config_space(config: Config, resolution: int = DEFAULT_RESOLUTION) -> SearchSpace:
    """Returns the search space of the network of timm that a config names; loads torch.

    Raises:
        UserError: there is none.
    """
    return get_search_space(f"{TIMM}{config.get('model')}", resolutions=[resolution])


def main_layers(config: Config) -> list[tuple[str, Config]]:
    """Returns (place, layer) of a checked config in the order of data flow.

    Left out are the shortcuts, the poolings, which have no entry, and the classifier.
    """
    found = []
    for part in config_family(config).parts[:-1]:
        value: Any = config.get(part.key)
        for i, block in enumerate(value if part.many else [value] if value else []):
            place = f"{part.key}[{i}]" if part.many else part.key
            found.append((f"{place}.conv", block["conv"]) if block["name"] == "ResidualBlock"
                         else (place, block))
    return found


def recorded_resolution(config: Config) -> int | None:
    """Returns the resolution that a `net.config` records, in pixels, or None."""
    return config.get("img_size", config.get("resolution"))


def choose_transform(typed: str | None, config: Config, dataset: str | None, source: str,
                     report: Callable[[str], object] = warn) -> str | None:
    """Returns the evaluation transform by `utils.flags.choose`; None where nothing decides it.

    A file without one, as those of the paper, means `squash` for `SMALL_IMAGES`; a line says so.
    """
    recorded: str | None = config.get("transform")
    if typed is None and recorded is None and dataset in SMALL_IMAGES:
        report(f"{source} has no transform; using squash, with which the paper's networks of "
               f"{dataset} were tuned and scored")
        return "squash"
    return choose("--transform", typed, recorded, source, report)


def choose_resolution(typed: int | None, recorded: int | None, source: str,
                      flag: str = "--img-size",
                      report: Callable[[str], object] = warn) -> int:
    """Returns the input resolution in pixels by `utils.flags.choose`, or the default.

    Arguments are those of `choose`; a line is reported where the default is used, too.
    """
    chosen = choose(flag, typed, recorded, source, report)
    if chosen is None:
        report(f"{source} has no resolution and {flag} was not given; using {DEFAULT_RESOLUTION}")
    return chosen or DEFAULT_RESOLUTION


def mid_channels(layer: Config) -> int:
    """Returns the channels inside an inverted residual or a bottleneck.

    `mid_channels`, or the product of the expansion and the channels at the wide end; a bottleneck
    rounds to a multiple of 8.
    """
    bottleneck = layer["name"] == "ResNetBottleneckBlock"
    mid: int | None = layer["mid_channels"]
    if mid is None:
        mid = round(layer["out_channels" if bottleneck else "in_channels"] * layer["expand_ratio"])
    return make_divisible(mid) if bottleneck else mid


def _old_layer(layer: Config) -> Config:
    old = dict(layer)
    for key, default in _NEW_FIELDS.get(layer["name"], {}).items():
        if old.pop(key) != default:
            raise UserError(f"the old naming knows no {key!r} in a {layer['name']}; write today's "
                            "naming instead")
    if layer["name"] == "IdentityLayer":  # the old library wrote its channels as lists
        old.update({key: [layer[key]] for key in ("in_channels", "out_channels")})
    return {**old, "name": _OLD_NAMES.get(layer["name"], layer["name"])}


def _bn(config: Config, family: Family, source: str) -> Config:
    bn = config.get("bn", {"momentum": 0.1, "eps": family.bn_eps})
    if not isinstance(bn, dict):
        raise UserError(f"{source}: 'bn' must be an object, not {_short(bn)}")
    return _fields(bn, "bn", f"{source}: bn")


def _part(config: Config, part: Part, source: str) -> Any:
    """Returns one part of a network, checked: a layer, None, or a list of blocks."""
    value = config.get(part.key)
    if part.optional and value is None:
        return None
    if not part.many:
        return _layer(config, part.key, part.layers[0], source)
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_BLOCKS:
        found = f"{len(value)} entries" if isinstance(value, list) else _short(value)
        raise UserError(f"{source}: {part.key!r} must be a list of 1..{MAX_BLOCKS} blocks, not "
                        f"{found}")
    return [_block(block, part.layers, f"{source}: {part.key}[{i}]")
            for i, block in enumerate(value)]


def _block(block: Any, kinds: tuple[str, ...], place: str) -> Config:
    """Returns an entry of a list, checked; `kinds` are those that the list may hold."""
    name: Any = block.get("name") if isinstance(block, dict) else None
    today = _RENAMED.get(name, name) if isinstance(name, str) else None
    inner = {kind.split(":")[0]: kind.partition(":")[2] for kind in kinds}
    if not isinstance(block, dict) or today not in inner:
        raise UserError(f"{place}: a {' or '.join(inner)} was expected, not "
                        f"{_short(name or block)}")
    return _residual(block, inner[today], place) if inner[today] else _named(block, today, place)


def _residual(block: Config, inner: str, place: str) -> Config:
    key = "conv" if "conv" in block else "mobile_inverted_conv"
    _refuse_unknown(block, {"name", key, "shortcut"}, place)
    shortcut = None if block.get("shortcut") is None \
        else _layer(block, "shortcut", "IdentityLayer", place)
    return {"name": "ResidualBlock", "conv": _layer(block, key, inner, place),
            "shortcut": shortcut}


def _layer(parent: Config, key: str, name: str, source: str) -> Config:
    layer: Any = parent.get(key)
    place = f"{source}: {key}"
    found = layer.get("name") if isinstance(layer, dict) else None
    if not isinstance(found, str) or _RENAMED.get(found, found) != name:
        raise UserError(f"{place}: a {name} was expected, not {_short(found or layer)}")
    return _named(layer, name, place)


def _named(layer: Config, name: str, place: str) -> Config:
    """Returns one layer of the kind `name`, checked; its own name may be the old one."""
    layer = {k: v for k, v in layer.items() if k != "name"}
    if name == "IdentityLayer":
        layer.update({k: v[0] for k, v in layer.items() if isinstance(v, list) and len(v) == 1})
    return {"name": name, **_fields(layer, name, place)}


def _fields(values: Config, schema: str, place: str) -> Config:
    fields = SCHEMAS[schema]
    _refuse_unknown(values, fields, place)
    checked = {}
    for key, field in fields.items():
        value = values.get(key, field.default)
        if value is _REQUIRED:
            raise UserError(f"{place}: {key!r} is missing; it must be {field.expected}")
        if isinstance(value, list | dict) or not field.accepts(value):
            raise UserError(f"{place}: {key!r} must be {field.expected}, not {_short(value)}")
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
    for part in config_family(config).parts:
        for i, block in enumerate(config[part.key] if part.many else ()):
            _check_block(block, f"{source}: {part.key}[{i}]")
    if config["classifier"]["in_features"] != channels:
        raise UserError(f"{source}: the classifier takes {config['classifier']['in_features']} "
                        f"features, but the layer before it gives {channels}")


def _check_model(config: Config, source: str) -> None:
    """A network of timm: the model and the part of it that is meant must exist."""
    arch, features = config.get("arch"), config["classifier"]["in_features"]
    try:
        space: Any = config_space(config)
        space.encode({**(arch if isinstance(arch, dict) else {}), "r": DEFAULT_RESOLUTION})
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    if features != space.chain.features:
        raise UserError(f"{source}: the classifier takes {features} features, but "
                        f"{config['model']} gives {space.chain.features}")


def _check_block(block: Config, place: str) -> None:
    residual = block["name"] == "ResidualBlock"
    conv, shortcut = (block["conv"], block["shortcut"]) if residual else (block, None)
    if "expand_ratio" in conv:
        _check_mid(conv, place)
    ends = {conv["in_channels"], conv["out_channels"]}
    if shortcut and (conv["stride"] != 1 or len(ends) != 1
                     or ends != {shortcut["in_channels"], shortcut["out_channels"]}):
        raise UserError(f"{place}: a shortcut needs stride 1 and the same channels on both sides")


def _check_mid(conv: Config, place: str) -> None:
    mid = mid_channels(conv)
    if not 1 <= mid <= MAX_CHANNELS:
        raise UserError(f"{place}: {mid} channels inside the layer; 1..{MAX_CHANNELS} are possible")
    if conv["name"] == "MBConvLayer" and conv["expand_ratio"] == 1 and mid != conv["in_channels"]:
        raise UserError(f"{place}: with 'expand_ratio' 1, 'mid_channels' must be null or "
                        f"{conv['in_channels']}, not {mid}")


def _check_size(config: Config, source: str) -> None:
    params = config["classifier"]["in_features"] * config["classifier"]["out_features"]
    params += sum(_weights(layer) for _, layer in main_layers(config))
    if params > MAX_PARAMS:
        raise UserError(f"{source}: the network has about {params // 10**6} million parameters, "
                        f"more than the {MAX_PARAMS // 10**6} million that are accepted")


def _weights(layer: Config) -> int:
    """Returns roughly how many weights a layer has; a float would not do for huge ones."""
    inputs, outputs, area = layer["in_channels"], layer["out_channels"], layer["kernel_size"] ** 2
    if layer["name"] == "ConvLayer":
        return inputs * outputs * area + layer["use_se"] * outputs ** 2 // 2
    mid = mid_channels(layer)
    if layer["name"] == "ResNetBottleneckBlock":
        return mid * (inputs + outputs + mid * area) + inputs * outputs
    return mid * (inputs + outputs + area) + layer["use_se"] * mid ** 2 // 2


def _short(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
