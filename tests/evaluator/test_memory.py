"""What networks write and hold: by hand, and against hooks in real forward passes."""

import json

import numpy as np
import pytest

from evaluator.costs import COUNTED, CostModel, objective_values
from evaluator.costs.memory import Memory, layer_memory, network_memory
from search_space import Layer, get_search_space
from utils.errors import UserError


def test_a_convolution_by_hand():
    conv = Layer("conv", "first_conv", 5, 3, 8, kernel=3, stride=2)
    assert layer_memory(conv) == (8 * 9, 3 * 25 + 8 * 9)


def test_an_inverted_residual_by_hand():
    block = Layer("mbconv", "MBConv", 4, 8, 8, kernel=3, expand=4, mid=32, skip=True)
    shared, wide = 8 * 16, 32 * 16
    assert layer_memory(block) == (2 * wide + 2 * shared,  # expand, depthwise, project, add
                                   shared + 2 * wide)  # the input waits for the addition
    without = Layer("mbconv", "MBConv", 4, 8, 8, kernel=3, expand=4, mid=32)
    assert layer_memory(without) == (2 * wide + shared, 2 * wide)


def test_squeeze_and_excite_by_hand():
    block = Layer("mbconv", "MBConv", 1, 16, 16, kernel=3, expand=4, mid=64, se=True)
    # expand, depthwise, pool, reduce to 16, restore to 64, scale, project; 1 x 1 maps throughout
    assert layer_memory(block) == (64 + 64 + 64 + 16 + 64 + 64 + 16, 64 + 16 + 64)


def test_a_network_holds_what_its_largest_layer_holds():
    layers = [Layer("conv", "a", 4, 3, 8), Layer("conv", "b", 4, 8, 2)]
    assert network_memory(layers) == Memory(16 * 8 + 16 * 2, 16 * 11)


# --------------------------------------------------------------------- real forward passes

TIMM = ("tf_mobilenetv3_small_075", "mobilenetv4_conv_small_035")


class Trace:
    """The operations of a forward pass: what each reads and makes, in the order of execution."""

    def __init__(self, net):
        import torch
        from ofa.utils import MyGlobalAvgPool2d, SEModule
        from ofa.utils.layers import ResidualBlock, ResNetBottleneckBlock
        from timm.models._efficientnet_blocks import SqueezeExcite

        self.operations = []  # (tensors read, tensor made, elements written)
        self.sizes, self.kept, self.names = [], [], {}
        pools = (torch.nn.MaxPool2d, torch.nn.AvgPool2d, torch.nn.AdaptiveAvgPool2d,
                 MyGlobalAvgPool2d)
        for module in net.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear, *pools)):
                module.register_forward_hook(self._compute)
            elif isinstance(module, SEModule | SqueezeExcite):
                module.register_forward_pre_hook(self._squeeze)
                module.register_forward_hook(self._scale)
            elif isinstance(module, ResidualBlock) and module.shortcut is not None:
                module.register_forward_hook(self._add)
            elif getattr(module, "has_skip", False):  # a block of timm
                module.register_forward_hook(self._add)
            elif isinstance(module, ResNetBottleneckBlock):
                module.downsample.register_forward_hook(self._shortcut)
                module.register_forward_hook(self._add_shortcut)
            elif not list(module.children()):  # normalisation, activation, dropout: in place
                module.register_forward_hook(self._same)

    def name(self, tensor):
        """The number of a tensor; what no hook made is what the last operation made."""
        return self.names.get(id(tensor), len(self.sizes) - 1)

    def make(self, tensor, size):
        self.kept.append(tensor)  # so that no other tensor gets its id
        self.names[id(tensor)] = len(self.sizes)
        self.sizes.append(size)
        return len(self.sizes) - 1

    def _compute(self, module, inputs, output):
        if not self.sizes:
            self.make(inputs[0], inputs[0].numel())
        read = self.name(inputs[0])
        self.operations.append(([read], self.make(output, output.numel()), output.numel()))

    def _same(self, module, inputs, output):
        self.kept.append(output)
        self.names[id(output)] = self.name(inputs[0])

    def _squeeze(self, module, inputs):
        read, channels = self.name(inputs[0]), inputs[0].shape[1]
        self.operations.append(([read], self.make(object(), channels), channels))

    def _scale(self, module, inputs, output):
        gate, scaled = len(self.sizes) - 1, self.name(inputs[0])
        self.operations.append(([gate, scaled], scaled, output.numel()))
        self.kept.append(output)
        self.names[id(output)] = scaled

    def _add(self, module, inputs, output):
        last, shortcut = len(self.sizes) - 1, self.name(inputs[0])
        self._sum(output, last, shortcut)

    def _shortcut(self, module, inputs, output):
        self.kept.append(output)
        self.names[id(output)], self.residual = self.name(output), self.name(output)

    def _add_shortcut(self, module, inputs, output):
        branch = self.operations[-1][1] if self.residual != self.operations[-1][1] else next(
            made for _, made, _ in reversed(self.operations[:-2]))
        self._sum(output, branch, self.residual)

    def _sum(self, output, a, b):
        self.operations.append(([a, b], a, output.numel()))
        self.kept.append(output)
        self.names[id(output)] = a

    def written(self):
        return sum(size for *_, size in self.operations)

    def peak(self):
        """The largest sum of tensors between their making and their last use."""
        last = {name: i for i, (read, made, _) in enumerate(self.operations)
                for name in [*read, made]}
        first = {0: 0}
        for i, (_, made, _) in enumerate(self.operations):
            first.setdefault(made, i)
        return max(sum(size for name, size in enumerate(self.sizes)
                       if first[name] <= i <= last[name]) for i in range(len(self.operations)))


@pytest.mark.parametrize(("name", "width"), [("mbv3", 0.35), ("mbv3", 1.0), ("proxyless", 0.5),
                                             ("resnet50", 0.25), (f"timm:{TIMM[0]}", 1.0),
                                             (f"timm:{TIMM[1]}", 1.0)])
def test_memory_of_real_forward_passes(name, width):
    torch = pytest.importorskip("torch")
    from networks import build_supernet, cut_subnet

    torch.set_num_threads(1)
    space = get_search_space(name, resolutions=[33, 64])
    supernet = build_supernet(10, width, family=name)
    model = CostModel(space, 10, width)
    for arch in [*space.extremes(), *space.sample(5, rng=np.random.default_rng(0))]:
        net = cut_subnet(supernet, arch).eval()
        trace = Trace(net)
        with torch.inference_mode():
            net(torch.zeros(1, 3, arch["r"], arch["r"]))
        costs = model.evaluate(space.encode(arch)[None], ["activations", "peak_memory_int8",
                                                          "peak_memory", "weights_mb"])
        assert costs["activations"] == trace.written()
        assert costs["peak_memory_int8"] == trace.peak()
        assert costs["peak_memory"] == 4 * trace.peak()
        assert costs["weights_mb"] == sum(p.numel() * p.element_size() for p in net.parameters())


@pytest.mark.parametrize(("name", "width"), [("mbv3", 0.5), ("proxyless", 0.5), ("resnet50", 0.5),
                                             (f"timm:{TIMM[1]}", 1.0)])
def test_populations_agree_with_layer_lists(name, width):
    space = get_search_space(name)
    model, X = CostModel(space, 10, width), space.draw(30, np.random.default_rng(0))
    costs = model.evaluate(X, list(COUNTED))
    assert list(costs) == list(COUNTED)
    for i, x in enumerate(X):
        memory = network_memory(space.layers(space.decode(x), 10, width))
        assert (costs["activations"][i], costs["peak_memory_int8"][i]) == memory
    assert all(values.dtype == np.int64 for values in costs.values())


def test_memory_as_objectives():
    space = get_search_space("mbv3")
    model, X = CostModel(space), space.draw(5, np.random.default_rng(0))
    costs = model.evaluate(X, ["peak_memory", "flops"])
    assert model.values(X, "peak_memory").tolist() == (costs["peak_memory"] / 1e6).tolist()
    assert model.values(X, "flops").tolist() == objective_values(costs, "flops").tolist()
    with pytest.raises(UserError, match="weights_mb"):
        model.evaluate(X, ["energy"])
    with pytest.raises(UserError, match="latency table"):
        model.values(X, "cpu")


def test_the_command_line_says_what_is_written_and_held(run_command, tmp_path):
    space = get_search_space("mbv3")
    path = tmp_path / "net.subnet"
    path.write_text(json.dumps(space.extremes()[1]))
    row = json.loads(run_command("-m", "evaluator.costs", path).stdout)
    model, x = CostModel(space), space.upper[None]
    names = sorted(set(COUNTED) & set(row))
    assert {"activations", "peak_memory", "peak_memory_int8", "weights_mb"} < set(names)
    assert {name: row[name] for name in names} == {
        name: model.values(x, name)[0] for name in names}
