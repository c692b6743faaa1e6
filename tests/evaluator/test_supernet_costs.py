"""Costs of the OFA families in closed form, against real networks of the `ofa` package."""

import json

import numpy as np
import pytest

from evaluator.costs import CostModel, network_costs
from evaluator.layers import build_module, build_network, input_shape, space_layers
from search_space import get_search_space

torch = pytest.importorskip("torch")

N_SUBNETS, N_CLASSES = 20, 10
RESOLUTIONS = (33, 48, 64)


def proxyless(width: float) -> torch.nn.Module:
    from ofa.imagenet_classification.elastic_nn.networks import OFAProxylessNASNets

    return OFAProxylessNASNets(n_classes=N_CLASSES, width_mult=width, ks_list=[3, 5, 7],
                               expand_ratio_list=[3, 4, 6], depth_list=[2, 3, 4])


def resnet50(width: float) -> torch.nn.Module:
    from ofa.imagenet_classification.elastic_nn.networks import OFAResNets

    return OFAResNets(n_classes=N_CLASSES, depth_list=[0, 1, 2],
                      expand_ratio_list=[0.2, 0.25, 0.35],
                      width_mult_list=[width * w for w in (0.65, 0.8, 1.0)])


def cut_proxyless(supernet: torch.nn.Module, arch: dict) -> torch.nn.Module:
    full, values = {"ks": [], "e": []}, {key: iter(arch[key]) for key in ("ks", "e")}
    for depth, places in [*((d, 4) for d in arch["d"]), (1, 1)]:
        for key, entries in full.items():
            entries += [next(values[key]) for _ in range(depth)] + [None] * (places - depth)
    supernet.set_active_subnet(ks=full["ks"], e=full["e"], d=[*arch["d"], 1])
    return supernet.get_active_subnet().eval()


def cut_resnet50(supernet: torch.nn.Module, arch: dict) -> torch.nn.Module:
    supernet.set_active_subnet(d=list(arch["d"]), e=list(arch["e"]), w=list(arch["w"]))
    return supernet.get_active_subnet().eval()


FAMILIES = {"proxyless": (proxyless, cut_proxyless), "resnet50": (resnet50, cut_resnet50)}


def profiled(net: torch.nn.Module, resolution: int) -> int:
    """Multiply-accumulates as torchprofile counts them, batch normalisation left out."""
    from torchprofile import profile_macs

    profile = profile_macs(net, torch.zeros(1, 3, resolution, resolution), reduction=None)
    return sum(count for node, count in profile.items() if node.operator != "aten::batch_norm")


def conv_macs(net: torch.nn.Module, resolution: int) -> int:
    """Multiply-accumulates of convolutions and linear layers in a real forward pass."""
    found = []
    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    for module in net.modules():
        if isinstance(module, kinds):
            module.register_forward_hook(
                lambda m, _, out: found.append(out.numel() * m.weight[0].numel()))
    with torch.inference_mode():
        net(torch.zeros(1, 3, resolution, resolution))
    return sum(found)


@pytest.mark.parametrize(("name", "width"), [("proxyless", 0.5), ("proxyless", 1.3),
                                             ("resnet50", 0.25), ("resnet50", 1.0)])
def test_counts_are_those_of_the_ofa_package(name, width):
    torch.set_num_threads(1)
    build, cut = FAMILIES[name]
    space = get_search_space(name, resolutions=RESOLUTIONS)
    supernet, model = build(width), CostModel(space, N_CLASSES, width)
    n = N_SUBNETS if width < 1 else 4
    archs = [*space.extremes(), *space.sample(n, rng=np.random.default_rng(0))]
    assert len({json.dumps(arch) for arch in archs}) == n + 2
    for arch in archs:
        net, costs = cut(supernet, arch), model.of_arch(arch)
        assert costs["params"] == sum(p.numel() for p in net.parameters())
        assert costs["flops"] == profiled(net, arch["r"])
        assert costs["macs"] == conv_macs(net, arch["r"])


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_layers_of_a_latency_table_are_those_of_the_network(name):
    space = get_search_space(name, resolutions=[32])
    for arch in space.extremes():
        layers = space.layers(arch, N_CLASSES, 0.25)
        network = build_network(layers).eval()
        assert sum(p.numel() for p in network.parameters()) == network_costs(layers).params
        with torch.inference_mode():
            for layer in layers:
                shape = build_module(layer).eval()(torch.zeros(input_shape(layer))).shape
                sizes = () if layer.kind == "linear" else (layer.out_size,) * 2
                assert shape == (1, layer.out_channels, *sizes)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_different_layers_have_different_keys(name):
    layers = space_layers(get_search_space(name), 1000, 1.0)
    keyed = [layer for layer in layers if layer.key]
    assert len({layer.key for layer in keyed}) == len(keyed)
