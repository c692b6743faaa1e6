"""Networks of timm as supernets: the same logits, parameters and FLOPs as timm's own."""

import copy
from functools import partial

import numpy as np
import pytest
import timm
import torch
from timm.models import _efficientnet_blocks as blocks
from torch import nn

import networks
from evaluator.costs import network_costs
from evaluator.layers import build_module, build_network, input_shape, space_layers
from msunas_timm.chains import corner
from networks.batch_norm import recalibrate_bn
from networks.export import get_format
from networks.folding import folded
from networks.hub import Preprocessing, to_timm, write_hub
from search_space import get_search_space
from tests.conftest import loads_folders
from tests.evaluator.test_supernet_costs import conv_macs
from utils.errors import UserError

# One of each family; TensorFlow's padding, squeeze-and-excite, every kind of block among them.
MODELS = ("efficientnet_lite0", "tf_efficientnet_b0", "efficientnet_b1_pruned", "mobilenetv2_035",
          "mobilenetv3_large_075", "tf_mobilenetv3_small_075", "semnasnet_050", "fbnetc_100",
          "tinynet_e", "lcnet_050", "test_efficientnet", "efficientnet_es",
          "mobilenetv4_conv_small_035")
N_CLASSES, SIZES = 7, [64, 80]


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    torch.set_num_threads(1)
    return request.param


@pytest.fixture(scope="module")
def supernet(model):
    """A supernet with random weights, scales and statistics."""
    torch.manual_seed(0)
    net = networks.build_supernet(N_CLASSES, dropout=0.0, family=f"timm:{model}")
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, 0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    net.eval()
    recalibrate_bn(net, [images(64, 8)])
    return net


@pytest.fixture(scope="module")
def space(model):
    return get_search_space(f"timm:{model}", resolutions=SIZES)


@pytest.fixture(scope="module")
def archs(space):
    return [*space.extremes(), *space.sample(3, rng=np.random.default_rng(0))]


def images(resolution: int, n: int = 2) -> torch.Tensor:
    return torch.randn(n, 3, resolution, resolution, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def assert_same(net: nn.Module, other: nn.Module, resolution: int) -> None:
    expected = other(images(resolution))
    assert expected.abs().max() > 0.01, "a dead network shows nothing"
    torch.testing.assert_close(net(images(resolution)), expected, rtol=1e-4,
                               atol=1e-4 * expected.abs().max().item())


def with_weights(net: nn.Module, source: nn.Module) -> nn.Module:
    """A network of timm with the weights of ours: both list them in the order of the layers."""
    net.load_state_dict(dict(zip(net.state_dict(), source.state_dict().values(), strict=True)))
    return net.eval()


def of_size(block: nn.Module, kernels: list[int], mid: int) -> nn.Module:
    """A block built by the constructor of timm's class, of other sizes than the given one."""
    convs = [m for name, m in block.named_modules() if isinstance(m, nn.Conv2d)
             and "se." not in name]
    first, stride = convs[0], max(conv.stride[0] for conv in convs)
    norms = [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)]
    acts = [type(norm.act) for norm in norms if not isinstance(norm.act, nn.Identity)]
    out = convs[-1].out_channels
    options = {"stride": stride, "act_layer": acts[0] if acts else nn.ReLU,
               "pad_type": "same" if any(type(c).__name__ == "Conv2dSame" for c in convs) else ""}
    kind, se = type(block).__name__, getattr(block, "se", None)
    if isinstance(se, blocks.SqueezeExcite):
        squeezed = partial(blocks.SqueezeExcite, rd_channels=se.conv_reduce.out_channels,
                           gate_layer=type(se.gate))
        options["se_layer"] = lambda chs, act_layer, **kwargs: squeezed(
            chs, act_layer=type(se.act1), **kwargs)
    if kind == "ConvBnAct":
        built = blocks.ConvBnAct(first.in_channels, out, kernels[0], skip=block.has_skip, **options)
    elif kind == "DepthwiseSeparableConv":
        built = blocks.DepthwiseSeparableConv(
            first.in_channels, out, kernels[0], noskip=not block.has_skip,
            pw_act=block.has_pw_act, **options)
    else:
        options |= {"noskip": not block.has_skip, "exp_ratio": mid / first.in_channels}
        if kind == "UniversalInvertedResidual":
            parts = ("dw_start", "pw_exp", "dw_mid", "pw_proj", "dw_end")
            there = [p for p in parts if not isinstance(getattr(block, p), nn.Identity)]
            options |= {f"dw_kernel_size_{part[3:]}": dict(zip(there, kernels, strict=True)).get(
                part, 0) for part in parts if part.startswith("dw")}
            options["layer_scale_init_value"] = None
        else:
            name = "exp_kernel_size" if kind == "EdgeResidual" else "dw_kernel_size"
            options[name] = max(kernels)
        built = getattr(blocks, kind)(first.in_channels, out, **options)
    for norm, old in zip([m for m in built.modules() if isinstance(m, nn.BatchNorm2d)], norms,
                         strict=True):
        norm.eps = old.eps
    return built


def plain(model: str, sizes: list) -> nn.Module:
    """The network of timm whose blocks were built of these sizes."""
    net, wanted = timm.create_model(model, num_classes=N_CLASSES), {s.number: s for s in sizes}
    number = 0
    for i, stage in enumerate(net.blocks):
        kept = [(block, wanted[number + j]) for j, block in enumerate(stage)
                if number + j in wanted]
        number += len(stage)
        pruned = "pruned" in model  # whose widths no constructor gives
        net.blocks[i] = nn.Sequential(*(
            block if pruned else of_size(block, list(size.kernels), size.mid)
            for block, size in kept))
    return net


def profiled(net: nn.Module, resolution: int) -> int:
    """Operations as torchprofile counts them, without batch norm and the arithmetic of padding."""
    from torchprofile import profile_macs

    profile = profile_macs(net, torch.zeros(1, 3, resolution, resolution), reduction=None)
    return sum(count for node, count in profile.items() if node.operator != "aten::batch_norm"
               and node.outputs[0].shape)


def test_the_whole_network_gives_the_logits_of_timm(model, supernet, space):
    own = with_weights(timm.create_model(model, num_classes=N_CLASSES), supernet)
    for resolution in (*SIZES, 49):
        assert_same(supernet, own, resolution)
    largest = space.extremes()[1]
    costs = network_costs(space.layers(largest, N_CLASSES))
    assert costs.params == sum(p.numel() for p in own.parameters())
    assert costs.flops == profiled(own, largest["r"])
    assert costs.macs == conv_macs(own, largest["r"])


def test_subnets_are_networks_of_timm_of_their_sizes(model, supernet, space, archs):
    for arch in archs if "pruned" not in model else archs[1:2]:
        net = networks.cut_subnet(supernet, arch)
        reference = with_weights(plain(model, space.sizes(arch)), net)
        for resolution in SIZES:
            assert_same(net, reference, resolution)
        costs = network_costs(space.layers(arch, N_CLASSES))
        assert costs.params == sum(p.numel() for p in reference.parameters())
        assert costs.flops == profiled(reference, arch["r"])
        assert costs.macs == conv_macs(reference, arch["r"])


def test_an_active_subnet_computes_what_the_cut_one_does(supernet, archs):
    net = copy.deepcopy(supernet)
    for arch in archs:
        cut = networks.cut_subnet(supernet, arch)
        networks.activate(net, arch)
        assert_same(net, cut, 64)
        assert_same(folded(cut), cut, 64)


def test_training_a_subnet_changes_its_part_of_the_weights_alone(supernet, space, archs):
    net = copy.deepcopy(supernet)
    networks.activate(net, archs[0])
    net(images(64, 4)).square().sum().backward()
    used = {size.number for size in space.sizes(archs[0])}
    for number, block in enumerate(net.blocks):
        gradients = [p.grad for p in block.parameters() if p.grad is not None]
        assert bool(gradients) == (number in used)
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
    part, cut = net.blocks[min(used)], networks.cut_subnet(supernet, archs[0])
    cut(images(64, 4)).square().sum().backward()
    for own, whole in zip(cut.blocks[0].parameters(), part.parameters(), strict=True):
        inner = corner(whole.grad, own.shape)
        assert inner.abs().sum().item() == pytest.approx(own.grad.abs().sum().item(), rel=1e-3)
        assert torch.count_nonzero(whole.grad) <= own.numel()


def test_sorted_channels_change_no_logits_and_the_important_ones_come_first(supernet):
    net = copy.deepcopy(supernet)
    net.re_organize_middle_weights()
    assert_same(net, supernet, 64)
    for block in net.blocks:
        weight = next((getattr(block, name).weight for name in ("conv_pwl",)
                       if hasattr(block, name)), None)
        if weight is not None:
            norms = weight.abs().sum((0, 2, 3))
            assert (norms[:-1] >= norms[1:] - 1e-5).all()


def test_layers_of_a_latency_table_are_those_of_the_network(space, archs):
    for arch in archs[:2]:
        layers = space.layers(arch, N_CLASSES)
        network = build_network(layers).eval()
        assert sum(p.numel() for p in network.parameters()) == network_costs(layers).params
        with torch.inference_mode():
            for layer in layers:
                shape = build_module(layer).eval()(torch.zeros(input_shape(layer))).shape
                sizes = () if layer.kind == "linear" else (layer.out_size,) * 2
                assert shape == (1, layer.out_channels, *sizes)
    keyed = [layer for layer in space_layers(space, N_CLASSES) if layer.key]
    assert len({layer.key for layer in keyed}) == len(keyed)


def test_timm_loads_the_folder_of_a_subnet(supernet, archs, tmp_path):
    net = networks.cut_subnet(supernet, archs[-1])
    write_hub(net, tmp_path / "hub", Preprocessing(64, "squash", (0.5,) * 3, (0.5,) * 3), "# card")
    loads_folders()
    loaded = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True).eval()
    assert_same(loaded, net, 64)
    assert_same(to_timm(net), net, 64)
    features = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True,
                                 features_only=True)
    assert len(features(images(64))) == len(features.feature_info.channels())


@pytest.mark.parametrize("name", ["onnx", "pt2", "safetensors"])
def test_a_subnet_is_exported(name, tmp_path):
    if name == "onnx":
        pytest.importorskip("onnx")
    space = get_search_space("timm:tf_mobilenetv3_small_075", resolutions=[64])
    torch.manual_seed(0)
    net = networks.cut_subnet(networks.build_supernet(N_CLASSES, family=space.name),
                              space.sample(1, rng=np.random.default_rng(0))[0])
    recalibrate_bn(net, [images(64, 8)])
    found, path = get_format(name), tmp_path / f"net.{name}"
    found.write(net, path, Preprocessing(64))
    with torch.inference_mode():
        expected = net(images(64)).numpy()
    np.testing.assert_allclose(found.load(path, 1)(images(64).numpy()), expected,
                               atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("name", "match"), [
    ("resnet50", "a ResNet has no stem, stages of blocks, and head"),
    ("mixnet_s", "stage 2 has a MixedConv2d"), ("efficientnet_b0_gn", "GroupNormAct"),
    ("tf_efficientnet_cc_b0_4e", "stage 5 has a CondConvResidual"),
    ("mobilenetv4_hybrid_medium", "stage 2 has a LayerScale2d"),
    ("efficientnet_blur_b0", "BlurPool2d"), ("efficientnet_x_b3", "a further convolution"),
    ("gc_efficientnetv2_rw_t", "GlobalContext"), ("efficientnet_b0_g16_evos", "groups"),
    ("efficientnet_lite9", "knows no model efficientnet_lite9"), ("", "letters, digits and _"),
    ("hf-hub:timm/resnet18", "letters, digits and _ alone")])
def test_what_is_no_chain_is_refused_with_its_reason(name, match):
    with pytest.raises(UserError, match=match) as error:
        get_search_space(f"timm:{name}")
    assert "\n" not in str(error.value)


def test_a_resolution_too_small_for_the_strides_is_refused():
    with pytest.raises(UserError, match="reduces images 32 times: a resolution of 24 is too small"):
        get_search_space("timm:efficientnet_lite0", resolutions=[24, 32])
