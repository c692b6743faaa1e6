"""Every family of supernets: the same subnets as the ofa package cuts, in every file format.

A new family joins by a row in `CASES`.
"""

import copy
import json

import numpy as np
import pytest
import torch

import networks
from networks.families import FAMILIES, get_family
from search_space import get_search_space
from tests.networks.conftest import fill_state
from utils.errors import UserError

# family -> width of a small supernet, and the input resolutions
CASES = {"mbv3": (0.35, (32, 56, 96)), "proxyless": (0.35, (32, 56, 96)),
         "resnet50": (0.25, (32, 56, 96)), "timm:tf_mobilenetv3_small_075": (1.0, (32, 56, 96))}
N_CLASSES = 7
N_SUBNETS = 10


def test_every_family_is_tested():
    assert {name.partition(":")[0] for name in CASES} == set(FAMILIES)


@pytest.fixture(scope="module", params=sorted(CASES))
def family(request):
    return request.param


@pytest.fixture(scope="module")
def filled(family):
    """A small supernet whose tensors are filled by the rule of the golden files."""
    width, _ = CASES[family]
    net = networks.build_supernet(N_CLASSES, width, 0.0, family)
    state = fill_state([(key, list(t.shape)) for key, t in net.state_dict().items()])
    networks.load_state(net, state, "filled")
    return net.eval()


@pytest.fixture(scope="module")
def archs(family):
    """The smallest, the largest, and random ones: `N_SUBNETS` in all."""
    space = get_search_space(family, resolutions=list(CASES[family][1]))
    rng = np.random.default_rng(0)
    return [*space.extremes(), *space.sample(N_SUBNETS - 2, rng=rng)]


def ofa_settings(family: str, arch: dict, supernet) -> dict:
    """What `set_active_subnet` of the ofa package wants, written out by hand for each family."""
    if family == "resnet50":
        return {key: arch[key] for key in ("d", "e", "w")}
    depths = arch["d"] + ([1] if family == "proxyless" else [])
    settings, start = {"ks": [], "e": [], "d": depths}, 0
    for stage, depth in zip(supernet.block_group_info, depths, strict=True):
        for key in ("ks", "e"):
            settings[key] += arch[key][start:start + depth] + [None] * (len(stage) - depth)
        start += depth
    return settings


def ofa_subnet(family: str, arch: dict, supernet) -> torch.nn.Module:
    reference = copy.deepcopy(supernet)
    reference.set_active_subnet(**ofa_settings(family, arch, supernet))
    return reference.get_active_subnet().eval()


def logits(net, resolution: int) -> torch.Tensor:
    values = np.sin(0.01 * np.arange(2 * 3 * resolution**2)).reshape(2, 3, resolution, resolution)
    with torch.inference_mode():
        return net(torch.tensor(values, dtype=torch.float32))


def test_subnets_are_those_of_the_ofa_package(family, filled, archs):
    if get_family(family).of_timm:
        pytest.skip("test_timm_chain.py compares them with networks of timm")
    before = {key: tensor.clone() for key, tensor in filled.state_dict().items()}
    for arch in archs:
        net, expected = networks.cut_subnet(filled, arch), ofa_subnet(family, arch, filled)
        assert net.state_dict().keys() == expected.state_dict().keys()
        assert all(torch.equal(a, b) for a, b in zip(
            net.state_dict().values(), expected.state_dict().values(), strict=True))
        assert net.config == expected.config
        for resolution in CASES[family][1]:
            torch.testing.assert_close(logits(net, resolution), logits(expected, resolution),
                                       atol=1e-5, rtol=1e-5)
    assert all(torch.equal(before[key], t) for key, t in filled.state_dict().items())


def test_an_active_subnet_computes_what_the_cut_one_does(family, filled, archs):
    supernet = copy.deepcopy(filled)
    for arch in archs:
        networks.activate(supernet, arch)
        assert torch.allclose(logits(supernet, 32), logits(networks.cut_subnet(filled, arch), 32),
                              atol=1e-4, rtol=1e-4)


def test_a_config_says_what_the_space_counts(family, filled, archs):
    """Parameters of the network, of its config, and of the space's layers are the same."""
    from evaluator.costs import network_costs
    from evaluator.layers import config_layers

    width, _ = CASES[family]
    space = get_search_space(family, resolutions=list(CASES[family][1]))
    for arch in archs:
        net = networks.cut_subnet(filled, arch)
        counted = network_costs(space.layers(arch, N_CLASSES, width))
        assert counted == network_costs(config_layers(net.config, arch["r"]))
        assert counted.params == sum(p.numel() for p in net.parameters())


def test_checkpoints_of_both_namings_and_configs_survive_a_round_trip(
        family, filled, archs, tmp_path):
    width, _ = CASES[family]
    for old_naming in (False, True):
        path = tmp_path / f"{old_naming}_w{width}"
        networks.save_weights(filled, path, old_naming)
        again = networks.load_supernet(path, family=family)
        assert (again.family, again.width_mult, again.meta) == (family, width, {})
        assert all(torch.equal(a, b) for a, b in zip(
            again.state_dict().values(), filled.state_dict().values(), strict=True))
    net = networks.cut_subnet(filled, archs[-1])
    networks.write_config(net, tmp_path / "net.config", resolution=32, search_space=family)
    networks.save_weights(net, tmp_path / "net.init")
    written = json.loads((tmp_path / "net.config").read_text())
    assert written.get("search_space") == (None if family == "mbv3" else family)
    config = networks.read_config(tmp_path / "net.config")
    again = networks.build_from_config(config).eval()
    networks.load_weights(again, tmp_path / "net.init")
    assert type(again) is type(net)
    assert torch.equal(logits(again, 32), logits(net, 32))


def test_the_old_naming_of_configs(family, filled, archs, tmp_path):
    net = networks.cut_subnet(filled, archs[-1])
    if not get_family(family).old_naming:
        with pytest.raises(UserError, match=r"the old library knows no (ResNets|TimmChain)"):
            networks.write_config(net, tmp_path / "old", old_naming=True)
        return
    networks.write_config(net, tmp_path / "old", old_naming=True, resolution=32)
    text = (tmp_path / "old").read_text()
    assert "MBInvertedConvLayer" in text
    assert "mobile_inverted_conv" in text
    networks.save_weights(net, tmp_path / "old.init", old_naming=True)
    again = networks.build_from_config(networks.read_config(tmp_path / "old")).eval()
    networks.load_weights(again, tmp_path / "old.init")
    assert torch.equal(logits(again, 32), logits(net, 32))


def test_drop_path_and_dropout(family, filled, archs):
    config = networks.cut_subnet(filled, archs[-1]).config
    net = networks.build_from_config(config, drop_path_rate=0.4, dropout_rate=0.3)
    n = len(net.blocks)
    assert [b.drop_path.drop_prob for b in net.blocks] == [0.4 * i / n for i in range(n)]
    assert net.classifier.dropout.p == 0.3
    torch.manual_seed(0)
    images = torch.rand(8, 3, 32, 32)
    net.train()
    assert not torch.equal(net(images), net(images)), "training is random"
    net.eval()
    with torch.inference_mode():
        plain = networks.build_from_config(config).eval()
        networks.load_state(plain, net.state_dict(), "net")
        assert torch.equal(net(images), plain(images))
    networks.replace_classifier(net, 3, torch.Generator().manual_seed(0))
    assert net(images).shape == (8, 3)


def test_a_checkpoint_of_another_family_or_width_is_refused(family, filled, tmp_path):
    width, _ = CASES[family]
    path = tmp_path / f"ofa_w{width}"
    networks.save_weights(filled, path)
    for other in set(CASES) - {family}:
        with pytest.raises(UserError, match=r"ofa_w\d\.\d+: "):
            networks.load_supernet(path, family=other)
    if get_family(family).of_timm:
        return  # the widths are those of the network
    path = path.rename(tmp_path / "ofa_w1.2")
    with pytest.raises(UserError, match=r"by its name the width is 1\.2, but"):
        networks.load_supernet(path, family=family)


def test_a_family_from_outside_the_project():
    assert get_family("tests.networks.test_families:OWN") is OWN
    net = networks.build_supernet(3, 0.1, family="tests.networks.test_families:OWN")
    assert net.family == "tests.networks.test_families:OWN"
    with pytest.raises(UserError, match="choose from mbv3, proxyless, resnet50, timm, or name"):
        get_family("tests.networks.test_families:CASES")
    with pytest.raises(UserError, match="no family of networks 'nowhere:FAMILY'"):
        get_family("nowhere:FAMILY")


OWN = FAMILIES["mbv3"]
