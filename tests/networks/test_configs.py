"""net.config files: checked field by field; whatever passes can be built."""

import copy
import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import networks
from networks.static import WithoutInit
from utils.errors import UserError


def conv(cin, cout, **fields):
    return {"name": "ConvLayer", "in_channels": cin, "out_channels": cout, "act_func": "relu",
            **fields}


def block(cin, cout, shortcut=False, **fields):
    identity = {"name": "IdentityLayer", "in_channels": cin, "out_channels": cout}
    return {"name": "ResidualBlock", "shortcut": identity if shortcut else None,
            "conv": {"name": "MBConvLayer", "in_channels": cin, "out_channels": cout,
                     "act_func": "relu", **fields}}


def small() -> dict:
    return {"name": "MobileNetV3", "bn": {"momentum": 0.1, "eps": 1e-5},
            "first_conv": conv(3, 8, stride=2),
            "blocks": [block(8, 8, shortcut=True, expand_ratio=1),
                       block(8, 16, use_se=True, kernel_size=5, stride=2)],
            "final_expand_layer": conv(16, 24, kernel_size=1),
            "feature_mix_layer": conv(24, 32, kernel_size=1, use_bn=False),
            "classifier": {"name": "LinearLayer", "in_features": 32, "out_features": 5}}


def put(config, place, value):
    *parents, last = place
    for key in parents:
        config = config[key]
    if value is DELETE:
        del config[last]
    else:
        config[last] = value


DELETE = object()


def test_a_small_config_is_completed_and_built():
    given_config = small()
    config = networks.check_config(given_config)
    assert given_config == small()
    assert config["blocks"][1]["conv"]["mid_channels"] is None
    net = networks.build_from_config(given_config).eval()
    assert given_config == small()
    assert net(torch.zeros(2, 3, 16, 16)).shape == (2, 5)
    assert networks.check_config(net.config) == networks.check_config(
        json.loads(json.dumps(net.config)))


def test_names_of_the_network():
    config = small()
    assert networks.check_config({**config, "name": "NSGANetV2"})["name"] == "MobileNetV3"
    del config["final_expand_layer"]
    config["feature_mix_layer"] = None
    config["classifier"]["in_features"] = 16
    net = networks.build_from_config({**config, "name": "ProxylessNASNets"}).eval()
    assert net(torch.zeros(2, 3, 16, 16)).shape == (2, 5)
    assert net.config["name"] == "ProxylessNASNets"


@pytest.mark.parametrize("place, value, match", [
    (("name",), "ResNet",
     "must be one of MobileNetV3, ProxylessNASNets, ResNets, TimmChain, not 'ResNet'"),
    (("name",), DELETE, "not null"), (("name",), ["x"], "'name' must be"),
    (("bn",), 3, "'bn' must be an object"), (("bn", "eps"), 0, "bn: 'eps' must be a number in"),
    (("bn", "eps"), float("nan"), "'eps'"), (("bn", "momentum"), True, "'momentum'"),
    (("bn", "momentum"), DELETE, "bn: 'momentum' is missing"),
    (("bn", "ws_eps"), 1e-5, "the only supported value"),
    (("first_conv",), DELETE, "first_conv: a ConvLayer was expected, not null"),
    (("first_conv", "name"), "LinearLayer", "a ConvLayer was expected, not 'LinearLayer'"),
    (("first_conv", "in_channels"), 4, "first_conv takes 4 channels, but .* gives 3"),
    (("first_conv", "out_channels"), 10**9, "an integer in 1..16384, not 1000000000"),
    (("first_conv", "out_channels"), 8.0, "an integer"),
    (("first_conv", "out_channels"), True, "an integer"),
    (("first_conv", "kernel_size"), 10**6, "an odd integer in 1..15, not 1000000"),
    (("first_conv", "kernel_size"), 4, "an odd integer"),
    (("first_conv", "stride"), 0, "'stride' must be an integer in 1..4"),
    (("first_conv", "groups"), 2, "'groups' must be 1, the only"),
    (("first_conv", "groups"), True, "'groups' must be 1, the only"),
    (("first_conv", "bias"), 0, "true or false"),
    (("first_conv", "act_func"), "gelu", "null or one of relu, .* not 'gelu'"),
    (("first_conv", "act_func"), {"a": 1}, "'act_func'"),
    (("first_conv", "width"), 1, "first_conv: unknown key 'width'; known are act_func"),
    (("blocks",), [], "1..200 blocks, not 0 entries"), (("blocks",), {}, "a list of"),
    (("blocks", 0), None, r"blocks\[0\]: a ResidualBlock was expected"),
    (("blocks", 0, "conv"), None, r"blocks\[0\]: conv: a MBConvLayer was expected, not null"),
    (("blocks", 1, "conv", "act_func"), None, "'act_func' must be one of"),
    (("blocks", 1, "conv", "expand_ratio"), 10**9, "'expand_ratio'"),
    (("blocks", 1, "conv", "expand_ratio"), 0.01, "0 channels inside"),
    (("blocks", 0, "conv", "mid_channels"), 9, "'mid_channels' must be null or 8"),
    (("blocks", 1, "conv", "in_channels"), 9, r"blocks\[1\].conv takes 9 channels, .* gives 8"),
    (("blocks", 0, "conv", "stride"), 2, r"blocks\[0\]: a shortcut needs stride 1"),
    (("blocks", 0, "shortcut", "in_channels"), [8, 8], "'in_channels' must be"),
    (("blocks", 0, "shortcut", "use_bn"), True, "'use_bn' must be False, the only"),
    (("final_expand_layer",), None, "final_expand_layer: a ConvLayer was expected"),
    (("classifier", "in_features"), 31, "the classifier takes 31 features, .* gives 32"),
    (("classifier", "out_features"), 10**9, "1..100000"),
    (("classifier", "dropout_rate"), 1, "a number in .0, 1."),
    (("resolution",), "224", "'resolution' must be an integer in 8..4096"),
    (("img_size",), 10**9, "'img_size' must be")])
def test_what_is_wrong_is_named_with_its_place(place, value, match):
    config = small()
    put(config, place, value)
    with pytest.raises(UserError, match=f"f: .*{match}"):
        networks.check_config(config, "f")
    with pytest.raises(UserError):
        networks.build_from_config(config)


def test_the_whole_must_fit_into_memory():
    config = small()
    wide = [block(16384, 16384, expand_ratio=1) for _ in range(3)]
    config["first_conv"]["out_channels"] = config["final_expand_layer"]["in_channels"] = 16384
    config["blocks"] = wide
    with pytest.raises(UserError, match="million parameters, more than the 250"):
        networks.check_config(config)


@pytest.mark.parametrize("text, match", [
    ("", "empty"), ("[]", "not list"), ("{", "truncated"), ("<html>", "HTML"),
    ('{"a": NaN}', "NaN"), ('{"name": 1, "name": 2}', "twice"), ("\x00", "not JSON")])
def test_files_that_hold_no_config(tmp_path, text, match):
    (tmp_path / "net.config").write_text(text)
    with pytest.raises(UserError, match=match):
        networks.read_config(tmp_path / "net.config")


def test_extras_are_kept_and_the_old_naming_refuses_what_it_lacks(tmp_path):
    net = networks.build_from_config(small())
    networks.write_config(net, tmp_path / "c", resolution=32, transform="squash")
    config = networks.read_config(tmp_path / "c")
    assert (config["resolution"], config["transform"]) == (32, "squash")
    networks.write_config(net, tmp_path / "old", old_naming=True, resolution=32)
    assert networks.read_config(tmp_path / "old")["blocks"] == config["blocks"]
    strange = small()
    strange["first_conv"]["use_se"] = True
    with pytest.raises(UserError, match="the old naming knows no 'use_se'"):
        networks.to_old_naming(networks.check_config(strange))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner,
                                                                max_size=3), max_leaves=8)
VALUES = JSON | st.sampled_from([0, 1, 2, 3, 7, 8, 16, 24, 16384, -1, 0.5, 10**9, True, None,
                                 "relu", "none", "h_swish", "tanh", [8], [], {}, "MBConvLayer",
                                 DELETE])


def places(value, prefix=()) -> list[tuple]:
    items = value.items() if isinstance(value, dict) else \
        enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in items
            for place in [(*prefix, key), *places(inner, (*prefix, key))]]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_change_gives_a_network_that_runs_or_one_clear_error(data):
    config = copy.deepcopy(networks.check_config(small()))
    for _ in range(data.draw(st.integers(1, 3))):
        place, value = data.draw(st.sampled_from(places(config))), data.draw(VALUES)
        # of a list a copy: the next change may be inside it
        put(config, place, value if value is DELETE else copy.deepcopy(value))
        if not places(config):
            break
    try:
        with WithoutInit():
            net = networks.build_from_config(config).eval()
    except UserError as error:
        assert "network config: " in str(error)
        return
    with torch.inference_mode():
        logits = net(torch.zeros(1, 3, 16, 16))
    assert logits.shape == (1, config["classifier"]["out_features"])
    assert networks.check_config(net.config)["blocks"] == networks.check_config(config)["blocks"]


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_any_json_is_refused_clearly(value):
    with pytest.raises(UserError, match="network config: "):
        networks.check_config(value)
