"""Networks that are rows of layers, as ONNX files: what a device runs, written in milliseconds.

Latency does not depend on weights, so these are random. Batch normalisation is part of the
convolution before it, as every runtime makes it. Free of torch, whose own export takes ten seconds
for each network (`scripts/export.py` uses it: there weights count).
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from search_space.backbones import squeeze_width
from search_space.layers import Layer
from utils.errors import UserError
from utils.files import atomic_path
from utils.packages import require

OPSET, IR_VERSION = 18, 8  # of 2022, for the runtimes of small devices
INPUT, OUTPUT = "images", "outputs"
# What each activation is in ONNX.
ACTIVATIONS: dict[str, tuple[str, dict[str, float]]] = {
    "relu": ("Relu", {}), "h_swish": ("HardSwish", {}),
    "h_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5})}


class _Graph:
    """Nodes and random weights, in the order of the forward pass."""

    def __init__(self) -> None:
        from onnx import helper, numpy_helper

        self._make, self._array = helper.make_node, numpy_helper.from_array
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._rng = np.random.default_rng(0)

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds an operation; returns the name of its output."""
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(self._make(kind, list(inputs), [name], name=name, **attributes))
        return name

    def weight(self, values: np.ndarray) -> str:
        """Adds an array; returns its name."""
        name = f"weight_{len(self.weights)}"
        self.weights.append(self._array(values.astype(np.float32), name))
        return name

    def conv(self, x: str, inputs: int, outputs: int, kernel: int = 1, stride: int = 1,
             groups: int = 1, act: str | None = None) -> str:
        """Adds a convolution with "same" padding, its bias and its activation."""
        shape = outputs, inputs // groups, kernel, kernel
        values = self._rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        y = self.node("Conv", x, self.weight(values), self.weight(np.full(outputs, 0.01)),
                      strides=[stride] * 2, pads=[kernel // 2] * 4, group=groups)
        return self.act(y, act)

    def convolutions(self, x: str, layer: Layer) -> str:
        """Adds the convolutions of a layer, each with its squeeze-and-excite module."""
        for part in layer.convolutions:
            x = self.conv(x, part.in_channels, part.out_channels, part.kernel, part.stride,
                          part.groups, part.act)
            x = self.squeeze_excite(x, part.out_channels) if part.se else x
        return x

    def act(self, x: str, act: str | None) -> str:
        """Adds an activation, if there is one."""
        if act == "relu6":
            return self.node("Clip", x, self.weight(np.array(0.0)), self.weight(np.array(6.0)))
        if act is None:
            return x
        kind, attributes = ACTIVATIONS[act]
        return self.node(kind, x, **attributes)

    def squeeze_excite(self, x: str, channels: int) -> str:
        """Adds a squeeze-and-excite module."""
        mid = squeeze_width(channels)
        y = self.conv(self.node("GlobalAveragePool", x), channels, mid, act="relu")
        return self.node("Mul", x, self.conv(y, mid, channels, act="h_sigmoid"))


def _residual(g: _Graph, layer: Layer, x: str) -> str:
    y = g.convolutions(x, layer)
    return g.node("Add", y, x) if layer.skip else y


def _bottleneck(g: _Graph, layer: Layer, x: str) -> str:
    y = g.convolutions(x, layer)
    if not layer.skip:
        if layer.stride > 1:
            x = g.node("AveragePool", x, kernel_shape=[layer.stride] * 2,
                       strides=[layer.stride] * 2, ceil_mode=1)
        x = g.conv(x, layer.in_channels, layer.out_channels)
    return g.act(g.node("Add", y, x), layer.act)


def _max_pool(g: _Graph, layer: Layer, x: str) -> str:
    return g.node("MaxPool", x, kernel_shape=[layer.kernel] * 2, strides=[layer.stride] * 2,
                  pads=[layer.kernel // 2] * 4)


def _linear(g: _Graph, layer: Layer, x: str) -> str:
    shape = layer.in_channels, layer.out_channels
    values = np.full(shape, 1 / layer.in_channels)
    return g.node("Gemm", g.node("Flatten", x), g.weight(values),
                  g.weight(np.zeros(layer.out_channels)))


KINDS: dict[str, Callable[[_Graph, Layer, str], str]] = {
    "conv": _residual, "mbconv": _residual, "bottleneck": _bottleneck, "max_pool": _max_pool,
    "pool": lambda g, layer, x: g.node("GlobalAveragePool", x), "linear": _linear}


def _map(layer: Layer, size: int) -> list[int]:
    """Returns height and width of a layer's input or output; a linear layer has none."""
    return [] if layer.kind == "linear" else [size, size]


def write_onnx(layers: Sequence[Layer], path: str | os.PathLike) -> None:
    """Writes layers that run one after another as an ONNX file; errors as `onnx_model`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(onnx_model(layers))


def onnx_model(layers: Sequence[Layer]) -> bytes:
    """Returns layers that run one after another as an ONNX model for any number of images.

    Raises:
        UserError: a layer that has no form here, or the package onnx is not installed.
    """
    other = sorted({layer.kind for layer in layers} - set(KINDS))
    if other:
        raise UserError(f"no ONNX form of layers of the kind {', '.join(other)} is known")
    require("an ONNX file", "onnx")
    from onnx import TensorProto, helper

    g, x = _Graph(), INPUT
    for layer in layers:
        x = KINDS[layer.kind](g, layer, x)
    g.nodes[-1].output[0] = OUTPUT
    first, last = layers[0], layers[-1]
    shapes = {INPUT: [first.in_channels, *_map(first, first.size)],
              OUTPUT: [last.out_channels, *_map(last, last.out_size)]}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
            for name, shape in shapes.items()]
    graph = helper.make_graph(g.nodes, "network", ends[:1], ends[1:], g.weights)
    model = helper.make_model(graph, ir_version=IR_VERSION,
                              opset_imports=[helper.make_opsetid("", OPSET)])
    return bytes(model.SerializeToString())
