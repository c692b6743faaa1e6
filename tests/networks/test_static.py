"""Static networks: published configs, drop path, dropout, classifiers, strict loading."""

import json

import numpy as np
import pytest
import torch
from ofa.imagenet_classification.networks import MobileNetV3

import networks
from networks.static import WithoutInit
from search_space import OFASearchSpace
from utils.errors import UserError


@pytest.fixture
def net(supernet):
    (arch,) = OFASearchSpace(resolutions=[32]).sample(1, rng=np.random.default_rng(5))
    return networks.cut_subnet(supernet, arch)


def specialised(shared_data):
    paths = sorted((shared_data / "ofa_specialized").glob("*.config"))
    assert len(paths) == 5
    return paths


def test_published_configs_build_run_and_are_saved_again(shared_data, tmp_path):
    for path in specialised(shared_data):
        config = networks.read_config(path)
        net = networks.build_from_config(config).eval()
        with torch.inference_mode():
            assert net(torch.rand(1, 3, 224, 224)).shape == (1, 1000)
        networks.write_config(net, tmp_path / "old", old_naming=True, resolution=224)
        networks.write_config(net, tmp_path / "new")
        old = json.loads((tmp_path / "old").read_text())
        assert old.pop("resolution") == 224
        assert old == json.loads(path.read_text())
        assert networks.read_config(tmp_path / "new") == config
        networks.save_weights(net, tmp_path / "weights", old_naming=True)
        again = networks.build_from_config(json.loads(path.read_text()))
        networks.load_weights(again, tmp_path / "weights")
        assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(),
                                                     net.state_dict().values(), strict=True))


def test_eval_logits_are_those_of_ofa_s_mobilenet(net):
    reference = MobileNetV3.build_from_config(json.loads(json.dumps(net.config))).eval()
    reference.load_state_dict(net.state_dict())
    net.set_drop_path(0.5)
    net.set_dropout(0.5)
    x = torch.rand(3, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(net(x), reference(x))


def test_drop_path_grows_linearly_and_acts_in_training_only(net):
    config = net.config
    built = networks.NSGANetV2.build_from_config(config, drop_path_rate=0.4, dropout_rate=0.3)
    n = len(built.blocks)
    assert [b.drop_path.drop_prob for b in built.blocks] == [0.4 * i / n for i in range(n)]
    assert built.classifier.dropout_rate == 0.3
    assert built.state_dict().keys() == net.state_dict().keys()

    block = next(b for b in reversed(built.blocks) if b.shortcut is not None)
    block.drop_path.drop_prob = 0.5
    x = torch.rand(4000, block.conv.in_channels, 1, 1)
    torch.manual_seed(0)
    with torch.no_grad():
        dropped = (block.train()(x) == x).flatten(1).all(1)
        kept = (block.eval()(x) == x).flatten(1).all(1)
    assert 0.45 < dropped.float().mean() < 0.55
    assert not kept.any()


def test_set_dropout_keeps_the_weights(net):
    before = net.classifier.linear.weight.clone()
    net.set_dropout(0.25)
    assert net.classifier.dropout.p == 0.25
    assert net.config["classifier"]["dropout_rate"] == 0.25
    net.set_dropout(0)
    assert net.classifier.dropout_rate == 0
    assert torch.equal(net.classifier.linear.weight, before)


def test_replace_classifier_draws_from_the_generator(net):
    weights = []
    for seed in (1, 1, 2):
        networks.replace_classifier(net, 7, torch.Generator().manual_seed(seed))
        assert net(torch.rand(2, 3, 32, 32)).shape == (2, 7)
        weights.append(net.classifier.linear.weight.clone())
    assert net.config["classifier"]["out_features"] == 7
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert weights[0].abs().max() <= net.classifier.in_features ** -0.5


def test_loading_is_strict_and_names_what_is_wrong(net):
    state = net.state_dict()
    with pytest.raises(UserError, match=r"f: .* tensors are missing \(first first_conv.conv"):
        networks.load_state(net, {}, "f")
    with pytest.raises(RuntimeError, match="Missing key"):
        net.load_state_dict({})
    with pytest.raises(UserError, match=r"1 are not in the network \(first extra\)"):
        networks.load_state(net, {**state, "extra": torch.zeros(1)}, "f")
    key = "blocks.1.conv.depth_conv.conv.weight"
    wrong = {**state, key: torch.zeros(1, 1, 3, 3)}
    with pytest.raises(UserError, match=rf"{key} is \(1, 1, 3, 3\) instead of"):
        networks.load_state(net, wrong, "f")
    classes = {**state, "classifier.linear.weight": torch.zeros(3, net.classifier.in_features),
               "classifier.linear.bias": torch.zeros(3)}
    with pytest.raises(UserError, match="classifier has 3 classes, but the network 10"):
        networks.load_state(net, classes, "f")
    old = key.replace(".conv.depth", ".mobile_inverted_conv.depth")
    with pytest.raises(UserError, match="is there twice"):
        networks.load_state(net, {**state, old: state[key]}, "f")


def test_a_refused_checkpoint_leaves_the_network_alone(net):
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    wrong = {key: torch.ones_like(tensor) for key, tensor in before.items()}
    del wrong["classifier.linear.bias"]
    with pytest.raises(UserError):
        networks.load_state(net, wrong, "f")
    assert all(torch.equal(before[key], t) for key, t in net.state_dict().items())


def test_without_init_ends_with_its_block():
    with WithoutInit(), pytest.raises(ZeroDivisionError):
        raise ZeroDivisionError
    layer = torch.nn.BatchNorm2d(3)
    assert torch.equal(layer.weight, torch.ones(3))
