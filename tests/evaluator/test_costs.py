"""Costs in closed form: golden figures, real networks, profilers, populations, command line."""

import argparse
import csv
import json
import shlex
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluator.costs import CostModel, layer_costs, millions, network_costs, objective_values
from evaluator.costs.__main__ import file_costs, get_args_parser
from evaluator.latency import LookUpTable
from evaluator.layers import config_layers, space_layers
from search_space import Layer, OFASearchSpace
from utils.errors import UserError

CONFIG = "ofa_specialized/flops-389M_top1-79.1_finetune-75.config"


@pytest.fixture(scope="module")
def space():
    return OFASearchSpace()


@pytest.fixture
def subnet_file(tmp_path, space):
    path = tmp_path / "net.subnet"
    path.write_text(json.dumps(space.extremes()[0]))
    return path


def test_counts_of_one_convolution_by_hand():
    conv = layer_costs(Layer("conv", "first_conv", 5, 3, 8, kernel=3, stride=2, act="h_swish"))
    assert conv == (3 * 3 * 3 * 8 + 2 * 8, 216 * 9 + 8 * 9, 216 * 9)  # output 3x3: 5/2 rounded up


def test_counts_of_one_squeeze_excite_layer_by_hand():
    layer = Layer("mbconv", "MBConv", 4, 16, 16, kernel=5, expand=4, mid=64, act="relu", se=True)
    macs = 16 * 64 * 16 + 25 * 64 * 16 + 64 * 16 * 16 + 2 * 64 * 16
    params = (16 * 64 + 2 * 64) + (25 * 64 + 2 * 64) + (64 * 16 + 2 * 16) + (64 * 16 + 16
                                                                             + 16 * 64 + 64)
    assert layer_costs(layer) == (params, macs + (64 * 4 + 64) + 64 * 16, macs)


def test_reference_costs_of_the_original(shared_data, space):
    rows = json.loads((shared_data / "reference_costs.json").read_text())
    costs = CostModel(space).evaluate(np.array([row["encoded"] for row in rows]))
    assert len(rows) == 30
    assert costs["params"].tolist() == [row["params"] for row in rows]
    assert costs["flops"].tolist() == [row["torchprofile001_macs"] for row in rows]


def test_published_measurements(shared_data, space):
    path = shared_data / "ofa_mbv3_w1.0_imagenet_measured.csv"
    rows = list(csv.DictReader(path.read_text().splitlines()))
    costs = CostModel(space).evaluate(np.array([space.encode(json.loads(row["arch"]))
                                                for row in rows]))
    assert len(rows) == 1081
    assert costs["params"].tolist() == [int(row["params"]) for row in rows]
    assert costs["macs"].tolist() == [int(row["conv_linear_macs"]) for row in rows]


def test_published_configs(shared_data):
    files = sorted((shared_data / "ofa_specialized").glob("*.config"))
    macs = {path.name: network_costs(config_layers(json.loads(path.read_text()), 224)).macs
            for path in files}
    assert len(macs) == 5
    assert abs(macs["flops-389M_top1-79.1_finetune-75.config"] - 389e6) < 1e6


@pytest.mark.parametrize(("resolutions", "n_classes", "width"), [
    (range(192, 257, 4), 1000, 1.0), (range(192, 257, 4), 100, 1.2),
    (range(32, 49, 4), 10, 0.35), ((33, 97, 131), 7, 1.0)])
def test_populations_agree_with_layer_lists(resolutions, n_classes, width):
    space = OFASearchSpace(resolutions=list(resolutions))
    archs = [*space.extremes(), *space.sample(30, rng=np.random.default_rng(1))]
    costs = CostModel(space, n_classes, width).evaluate(
        np.array([space.encode(arch) for arch in archs]))
    for i, arch in enumerate(archs):
        expected = network_costs(space.layers(arch, n_classes, width))
        assert tuple(costs[name][i] for name in expected._fields) == expected


def test_unused_genes_cost_nothing(space):
    X = np.random.default_rng(0).integers(space.lower, space.upper, (300, space.n_var),
                                          endpoint=True)
    canonical = space.canonical(X)
    assert (X != canonical).any()
    model = CostModel(space)
    for name, values in model.evaluate(X).items():
        np.testing.assert_array_equal(values, model.evaluate(canonical)[name])


def test_counts_are_exact_integers_and_grow_with_every_gene(space):
    model = CostModel(space)
    X = space.draw(50, np.random.default_rng(0))
    for i in range(space.n_var):
        less, more = X.copy(), X.copy()
        less[:, i], more[:, i] = space.lower[i], space.upper[i]
        before, after = model.evaluate(less), model.evaluate(more)
        assert all(values.dtype == np.int64 for values in before.values())
        assert (after["flops"] >= before["flops"]).all()
        assert (after["params"] >= before["params"]).all()


def test_wrong_populations_are_refused(space):
    model = CostModel(space)
    with pytest.raises(ValueError, match="shape"):
        model.evaluate(np.zeros((3, 45)))
    with pytest.raises(ValueError, match="bounds"):
        model.evaluate(np.full((1, 46), 3))


def test_objective_values_are_those_of_the_stats_files(space):
    X = space.draw(5, np.random.default_rng(0))
    costs = CostModel(space).evaluate(X)
    expected = [round(count / 1e6, 2) for count in costs["flops"].tolist()]
    assert objective_values(costs, "flops").tolist() == expected
    assert CostModel(space).of_arch(space.decode(X[0]))["flops"] == costs["flops"][0]
    assert millions(743047104) == 743.05
    with pytest.raises(UserError, match="latency table"):
        objective_values(costs, "cpu")


def test_a_thousand_subnets_take_milliseconds(space):
    model, X = CostModel(space), space.draw(1000, np.random.default_rng(0))
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        model.evaluate(X)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.002


@pytest.mark.parametrize(("n_classes", "width", "resolution"),
                         [(1000, 1.0, 192), (10, 0.35, 36), (100, 1.2, 129)])
def test_against_real_networks_and_their_profile(n_classes, width, resolution):
    torch = pytest.importorskip("torch")
    from torchprofile import profile_macs

    from networks import build_supernet, cut_subnet

    torch.set_num_threads(1)
    space = OFASearchSpace(resolutions=[resolution])
    supernet = build_supernet(n_classes, width)
    archs = [*space.extremes(), *space.sample(2, rng=np.random.default_rng(2))]
    for arch in archs:
        net = cut_subnet(supernet, arch).eval()
        image = torch.zeros(1, 3, resolution, resolution)
        costs = CostModel(space, n_classes, width).of_arch(arch)
        layers = space.layers(arch, n_classes, width)
        assert costs["params"] == sum(p.numel() for p in net.parameters())
        profile = profile_macs(net, image, reduction=None)
        assert costs["flops"] == sum(count for node, count in profile.items()
                                     if node.operator != "aten::batch_norm")
        assert network_costs(config_layers(net.config, resolution)) == network_costs(layers)
        shapes = conv_outputs(torch, net, image)
        assert costs["macs"] == sum(
            np.prod(shape) * module.weight[0].numel() for module, shape in shapes)


def conv_outputs(torch, net, image):
    """Runs a real forward pass; returns (module, output shape) of convolutions and linears."""
    found = []
    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    hooks = [module.register_forward_hook(lambda m, _, out: found.append((m, tuple(out.shape))))
             for module in net.modules() if isinstance(module, kinds)]
    with torch.inference_mode():
        net(image)
    for hook in hooks:
        hook.remove()
    return found


def test_every_possible_layer_is_listed_once(space):
    layers = space_layers(space)
    assert len(set(layers)) == len(layers)
    for arch in space.sample(20, rng=np.random.default_rng(3)):
        assert set(space.layers(arch)) <= set(layers)


def test_command_line(run_command, shared_data, subnet_file):
    done = run_command("-m", "evaluator.costs", subnet_file, "--lut",
                       shared_data / "i7-8700K_lut.yaml", "--layers")
    first, *table = done.stdout.splitlines()
    row = json.loads(first)
    assert (row["params"], row["flops"]) == (3.41, 90.69)
    assert row["flops_count"] > row["macs_count"] > row["params_count"]
    assert "torchprofile 0.0.1" in row["flops_convention"]
    ms = sum(float(line.split()[-1]) for line in table[1:])
    assert ms == pytest.approx(row["cpu"], abs=2e-3)
    assert len(table) == 1 + 2 + 10 + 4


def test_layers_that_a_table_lacks_are_named(fails_clearly, shared_data):
    (config,) = (shared_data / "ofa_specialized").glob("cpu_lat*.config")
    fails_clearly("-m", "evaluator.costs", config, "--lut", shared_data / "i7-8700K_lut.yaml",
                  match="build_lut.py --out my_lut.yaml --config "
                        f"{shlex.quote(str(config))} --resolutions 224")


def test_a_typed_resolution_goes_before_that_of_a_config(shared_data, tmp_path, capsys):
    config = json.loads((shared_data / CONFIG).read_text())
    rows = []
    for typed in ([], ["--img-size", "192"]):
        flags = get_args_parser().parse_args(["x", *typed])
        for extra in ({}, {"resolution": 256}, {"img_size": 256}):
            path = tmp_path / "net.config"
            path.write_text(json.dumps({**config, **extra}))
            rows.append(file_costs(path, flags)[0])
    assert [row["resolution"] for row in rows] == [224, 256, 256, 192, 192, 192]
    assert rows[1]["macs_count"] == rows[2]["macs_count"] > rows[0]["macs_count"]
    assert "records 256; using --img-size 192" in capsys.readouterr().err


@pytest.mark.parametrize(("content", "match"), [
    ("", "empty"), ("{", "truncated"), ("<html>", "HTML"), ("{}", "neither"),
    ('{"ks": [3], "e": [3], "d": [1], "r": 200}', "'d'"),
    ('{"blocks": [], "name": "ResNet"}', "name"),
    ('{"blocks": [], "name": "MobileNetV3"}', "first_conv")])
def test_bad_files_on_the_command_line(fails_clearly, tmp_path, content, match):
    path = tmp_path / "net file"
    path.write_text(content)
    fails_clearly("-m", "evaluator.costs", path, match=match)


@pytest.mark.parametrize(("flags", "match"), [
    (("--img-size", "4"), "--img-size"), (("--width", "0"), "width"),
    (("--n_classes", "0"), "n_classes"), (("--lut", "nowhere.yaml"), "nowhere.yaml")])
def test_bad_flags_on_the_command_line(fails_clearly, subnet_file, flags, match):
    fails_clearly("-m", "evaluator.costs", subnet_file, *flags, match=match)


ARGS = argparse.Namespace(img_size=None, n_classes=1000, width=1.0,
                          search_space=None)
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
                    max_leaves=20)
KEYS = st.sampled_from(["ks", "e", "d", "r", "name", "blocks", "first_conv", "classifier"])


@given(st.dictionaries(KEYS, JSON) | JSON)
def test_any_json_is_counted_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "net.config"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"net\.config"):
        file_costs(path, ARGS)


@given(st.data())
def test_a_config_with_one_field_replaced_is_counted_or_refused(shared_data, data):
    config = json.loads((shared_data / CONFIG).read_text())
    places = [(node, key) for node in nodes(config) for key in sorted(node)]
    node, key = data.draw(st.sampled_from(places))
    node[key] = data.draw(JSON | st.integers(-2, 10))
    try:
        costs = network_costs(config_layers(config, 224))
    except UserError as error:
        assert str(error)
    else:
        assert min(costs) > 0


def nodes(config: dict) -> list[dict]:
    """Returns the dict and all dicts inside, those in lists included."""
    found = [config]
    for value in config.values():
        for inner in value if isinstance(value, list) else [value]:
            found += nodes(inner) if isinstance(inner, dict) else []
    return found


def test_the_table_of_a_space_needs_all_its_layers(tmp_path, shared_data, space):
    table = LookUpTable.read(shared_data / "i7-8700K_lut.yaml")
    with pytest.raises(UserError, match=r"lacks 1 layers: classifier-input:1280-output:10;.*"
                                        r"build_lut.py.*--n_classes 10 --width 1.0"):
        CostModel(space, n_classes=10, lut=table)
