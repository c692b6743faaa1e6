"""Layers as ONNX: the same operations as the network that is deployed."""

import json
import re

import numpy as np
import pytest

from evaluator.layers import build_network
from evaluator.network_file import NetworkFiles
from evaluator.onnx_layers import INPUT, write_onnx
from search_space import get_search_space
from search_space.layers import Layer
from utils.errors import UserError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("name", ["mbv3", "proxyless", "resnet50"])
def test_convolutions_are_those_of_the_network(name, tmp_path):
    from torch import nn

    space = get_search_space(name, resolutions=[64])
    arch = space.sample(1, rng=np.random.default_rng(3))[0]
    layers = space.layers(arch, 10, space.default_width)
    path = tmp_path / "net.onnx"
    write_onnx(layers, path)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    shapes = {array.name: tuple(array.dims) for array in model.graph.initializer}
    written = sorted(
        (shapes[node.input[1]], *(tuple(attributes[key]) for key in ("strides", "pads")),
         attributes["group"])
        for node in model.graph.node if node.op_type == "Conv"
        for attributes in [{each.name: onnx.helper.get_attribute_value(each)
                            for each in node.attribute}])
    built = sorted((tuple(conv.weight.shape), conv.stride, conv.padding * 2, conv.groups)
                   for conv in build_network(layers).modules() if isinstance(conv, nn.Conv2d))
    assert written == built
    session = onnxruntime.InferenceSession(path)
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    logits = session.run(None, {INPUT: images})[0]
    assert logits.shape == (2, 10) and np.isfinite(logits).all() and np.ptp(logits) > 0


@pytest.mark.slow
def test_operations_are_those_of_an_export(tmp_path):
    """After the optimisation of onnxruntime, as torch's own exporter writes them."""
    from networks import build_supernet, cut_subnet
    from networks.export import Preprocessing, get_format

    space = get_search_space("mbv3", resolutions=[32])
    arch = space.extremes()[0]
    paths = tmp_path / "layers.onnx", tmp_path / "export.onnx"
    write_onnx(space.layers(arch, 10, 0.35), paths[0])
    get_format("onnx").write(cut_subnet(build_supernet(10, 0.35).eval(), arch), paths[1],
                             Preprocessing(32))
    counts = []
    for path in paths:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(path.with_suffix(".optimised"))
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        onnxruntime.InferenceSession(path, options)
        kinds = [node.op_type for node in onnx.load(path.with_suffix(".optimised")).graph.node]
        pooled = ("GlobalAveragePool", "ReduceMean")
        counts.append({kind: kinds.count(kind) for kind in set(kinds) - {
            *pooled, "Flatten", "Reshape", "Relu", "Clip", "HardSigmoid", "HardSwish"}}
            | {"pooling": sum(map(kinds.count, pooled))})
    assert counts[0] == counts[1]


def test_a_layer_without_a_form_is_refused(tmp_path):
    with pytest.raises(UserError, match="of the kind norm"):
        write_onnx([Layer("norm", "last_norm", 8, 4, 4)], tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_cells_without_networks_are_passed_as_architectures(tmp_path):
    space = get_search_space("nasbench201")
    files = NetworkFiles(space, "onnx")
    arch = space.extremes()[1]
    content = json.loads(files.architecture(arch, tmp_path).read_text())
    assert content == {**arch, "search_space": "nasbench201"}
    with pytest.raises(UserError, match=re.escape("write {arch} in the --command")):
        files.model(arch, tmp_path)
