"""Loading supernets and cutting subnets: the original's logits, ofa's weights, nothing shared."""

import copy
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from ofa.imagenet_classification.networks import MobileNetV3

import networks
from search_space import OFASearchSpace
from tests.networks.conftest import fill_state, golden_input
from utils.errors import UserError


def archs(n: int, seed: int = 0) -> list[dict]:
    return OFASearchSpace(resolutions=[32]).sample(n, rng=np.random.default_rng(seed))


def padded(arch: dict) -> dict:
    """ks and e with four entries for each stage, as ofa wants them."""
    full, start = {"ks": [], "e": [], "d": arch["d"]}, 0
    for depth in arch["d"]:
        for key in ("ks", "e"):
            full[key] += arch[key][start:start + depth] + [None] * (4 - depth)
        start += depth
    return full


@pytest.mark.parametrize("case", [0, 1])
def test_the_original_s_supernet_logits(interop, original_checkpoint, case):
    case = interop["cases"][case]
    supernet = networks.load_supernet(original_checkpoint)
    with torch.inference_mode():
        logits = networks.cut_subnet(supernet, case["arch"])(golden_input(case["arch"]["r"]))[0]
    assert torch.allclose(logits[:10], torch.tensor(case["supernet_logits_first10"]), atol=1e-4)
    assert logits.argmax() == case["supernet_argmax"]
    assert logits.norm().item() == pytest.approx(case["supernet_logit_norm"], abs=1e-4)


@pytest.mark.parametrize("case", [0, 1])
def test_the_original_s_static_logits_and_file_formats(interop, tmp_path, case):
    """Read old, write old, read again: the same config, keys, tensors and logits."""
    case = interop["cases"][case]
    state = fill_state(case["static_keys"])
    torch.save(state, tmp_path / "net.inherited")
    (tmp_path / "net.config").write_text(json.dumps(case["net_config"]))
    net = networks.build_from_config(networks.read_config(tmp_path / "net.config")).eval()
    networks.load_weights(net, tmp_path / "net.inherited")
    with torch.inference_mode():
        logits = net(golden_input(case["arch"]["r"]))[0]
    assert torch.allclose(logits[:10], torch.tensor(case["static_logits_first10"]), atol=1e-4)
    assert logits.argmax() == case["static_argmax"]
    assert logits.norm().item() == pytest.approx(case["static_logit_norm"], abs=1e-4)

    networks.write_config(net, tmp_path / "old.config", old_naming=True)
    networks.save_weights(net, tmp_path / "old.init", old_naming=True)
    assert json.loads((tmp_path / "old.config").read_text()) == case["net_config"]
    written = torch.load(tmp_path / "old.init", weights_only=True)["state_dict"]
    assert written.keys() == state.keys()
    assert all(torch.equal(written[key], state[key]) for key in state)
    again = networks.build_from_config(networks.read_config(tmp_path / "old.config"))
    networks.load_weights(again, tmp_path / "old.init")
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(),
                                                 net.state_dict().values(), strict=True))


def test_supernet_survives_the_old_naming(interop, original_checkpoint, tmp_path):
    supernet = networks.load_supernet(original_checkpoint)
    path = tmp_path / "again_w1.0"
    networks.save_weights(supernet, path, old_naming=True)
    written = torch.load(path, weights_only=True)["state_dict"]
    assert {key: list(t.shape) for key, t in written.items()} == dict(interop["supernet_keys"])
    again = networks.load_supernet(path)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(),
                                                 supernet.state_dict().values(), strict=True))


def test_cut_equals_ofa_s_own_subnet(supernet):
    for arch in [*OFASearchSpace(resolutions=[32]).extremes(), *archs(3)]:
        reference = copy.deepcopy(supernet)
        reference.set_active_subnet(**padded(arch))
        expected = reference.get_active_subnet().eval()
        net = networks.cut_subnet(supernet, arch)
        assert not net.training
        assert net.state_dict().keys() == expected.state_dict().keys()
        assert all(torch.equal(a, b) for a, b in zip(
            net.state_dict().values(), expected.state_dict().values(), strict=True))
        assert net.config == expected.config
        x = torch.rand(2, 3, 32, 32)
        with torch.inference_mode():
            assert torch.equal(net(x), MobileNetV3.forward(expected, x))


def test_cut_neither_changes_nor_shares_the_supernet(supernet):
    before = {key: tensor.clone() for key, tensor in supernet.state_dict().items()}
    depth, random_state = list(supernet.runtime_depth), torch.get_rng_state()
    net = networks.cut_subnet(supernet, archs(1)[0])
    for tensor in net.state_dict().values():
        tensor.fill_(7)
    assert all(torch.equal(before[key], t) for key, t in supernet.state_dict().items())
    assert supernet.runtime_depth == depth
    assert torch.equal(random_state, torch.get_rng_state())
    assert all(p.requires_grad for p in net.parameters())


def test_threads_cut_at_once(supernet):
    many = archs(12, seed=3)
    alone = [networks.cut_subnet(supernet, arch).state_dict() for arch in many]
    with ThreadPoolExecutor(4) as pool:
        together = pool.map(lambda a: networks.cut_subnet(supernet, a).state_dict(), many)
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True))


def save(supernet, path):
    networks.save_weights(supernet, path)
    return path


def test_load_takes_width_and_classes_from_the_file(supernet, tmp_path):
    path = save(supernet, tmp_path / "ofa_w0.35")
    loaded = networks.load_supernet(path)
    assert not loaded.training
    assert loaded.width_mult == 0.35
    assert networks.load_supernet(path, n_classes=10).classifier.out_features == 10


def test_load_refuses_another_width_class_count_and_network(supernet, tmp_path):
    path = save(supernet, tmp_path / "ofa_w0.35")
    with pytest.raises(UserError, match="has 10 classes, not 1000"):
        networks.load_supernet(path, n_classes=1000)
    for name in ("ofa_w1.2", "ofa_w0", "ofa_w" + "9" * 400, "no_width"):
        if len(name) < 250:
            with pytest.raises(UserError, match="by its name the width is"):
                networks.load_supernet(save(supernet, tmp_path / name))
    static = networks.cut_subnet(supernet, archs(1)[0])
    networks.save_weights(static, tmp_path / "static_w0.35")
    with pytest.raises(UserError, match=r"of 475 tensors are missing \(first blocks\.1\.conv"):
        networks.load_supernet(tmp_path / "static_w0.35")
    torch.save({"a": torch.zeros(1)}, tmp_path / "foreign_w1.0")
    with pytest.raises(UserError, match=r"'classifier\.linear\.weight' is missing"):
        networks.load_supernet(tmp_path / "foreign_w1.0")


def test_unknown_supernet():
    with pytest.raises(UserError, match="choose from mbv3"):
        networks.build_supernet(10, family="resnet")
