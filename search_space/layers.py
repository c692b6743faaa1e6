"""A network as a list of `Layer` rows: what spaces, costs and latency tables share."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

POOL = "global_avg_pool"


@dataclass(frozen=True)
class Layer:
    """One layer of a network at a fixed input size.

    Attributes:
        kind: `conv`, `mbconv` (inverted residual), `bottleneck` (of a ResNet50-D), `block` (a run
            of convolutions), `max_pool`, `pool` (global average, in two steps), `mean` (in one),
            `linear`, `norm` (batch normalisation alone), or `counted_bias` (a linear layer whose
            bias counts as FLOPs).
        name: its place in the network, as latency tables call it: `first_conv`, `MBConv`,
            `final_expand_layer`, `feature_mix_layer`, `classifier`, `global_avg_pool`, ...
        size: height and width of its input in pixels.
        in_channels, out_channels: channels (features, where `kind` is `linear`).
        expand, mid: of an `mbconv` or `bottleneck`, the nominal expansion and the channels that it
            makes.
        skip: whether the input itself is added to the output.
        bn, bias: whether a `conv` or `linear` has batch normalisation, a bias.
        groups: of a `conv`.
        same: whether a `conv` pads as TensorFlow does, by the size of the map.
        squeeze: of a `conv` in a `block`, the channels inside squeeze-and-excite.
        parts: of a `block`.
    """

    kind: str
    name: str
    size: int
    in_channels: int
    out_channels: int
    kernel: int = 1
    stride: int = 1
    expand: float = 1
    mid: int = 0
    act: str | None = None
    se: bool = False
    skip: bool = False
    bn: bool = True
    bias: bool = False
    groups: int = 1
    same: bool = False
    squeeze: int = 0
    parts: "tuple[Layer, ...]" = ()

    @property
    def out_size(self) -> int:
        """Height and width of the output: the padding is "same", so the quotient rounds up."""
        return 1 if self.kind in ("pool", "mean", "linear") else -(-self.size // self.stride)

    @property
    def convolutions(self) -> "tuple[Layer, ...]":
        """What it runs one after another, without shortcuts; a simple layer is its only part."""
        if self.kind not in ("mbconv", "bottleneck"):
            return self.parts or (self,)
        depthwise = self.kind == "mbconv"
        first = Layer("conv", self.name, self.size, self.in_channels, self.mid, act=self.act)
        middle = Layer("conv", self.name, self.size, self.mid, self.mid, self.kernel, self.stride,
                       act=self.act, se=self.se, groups=self.mid if depthwise else 1)
        last = Layer("conv", self.name, self.out_size, self.mid, self.out_channels)
        return (middle, last) if depthwise and self.expand == 1 else (first, middle, last)

    @property
    def key(self) -> str | None:
        """The layer's entry in a latency table, None for the pooling, which has no entry."""
        return _KEYS[self.kind](self)


def _conv_key(layer: Layer) -> str:
    return (f"{layer.name}-input:{layer.size}x{layer.size}x{layer.in_channels}"
            f"-output:{layer.out_size}x{layer.out_size}x{layer.out_channels}")


def _mbconv_key(layer: Layer) -> str:
    return (f"{_conv_key(layer)}-expand:{layer.expand:g}-kernel:{layer.kernel}"
            f"-stride:{layer.stride}-idskip:{layer.skip:d}-se:{layer.se:d}")


def _block_key(layer: Layer) -> str:
    parts = [f"{part.kernel}x{part.kernel}{'d' * (part.groups > 1)}{part.out_channels}"
             f"{'s' * part.same}{part.act or ''}{f'se{part.squeeze}' if part.se else ''}"
             for part in layer.parts]
    return f"{_conv_key(layer)}-stride:{layer.stride}-idskip:{layer.skip:d}-{'-'.join(parts)}"


_KEYS: dict[str, Callable[[Layer], str | None]] = {
    "conv": _conv_key,
    "mbconv": _mbconv_key,
    "bottleneck": _mbconv_key,
    "block": _block_key,
    "max_pool": _conv_key,
    "pool": lambda layer: None,
    "mean": lambda layer: None,
    "norm": lambda layer: None,
    "counted_bias": lambda layer: None,
    "linear": lambda layer: f"{layer.name}-input:{layer.in_channels}-output:{layer.out_channels}",
}


@dataclass(frozen=True)
class Slot:
    """A part of the network, as a function of the few genes that decide what stands there.

    Attributes:
        genes: positions of these genes in the vector.
        build: takes one value for each of them, and returns the layers: none where the part is
            left out, as beyond the depth of a stage.
    """

    genes: tuple[int, ...]
    build: Callable[..., tuple[Layer, ...]]

    def pick(self, x: np.ndarray) -> tuple[Layer, ...]:
        """Returns the layers that an (n_var,) vector has here."""
        return self.build(*(int(x[gene]) for gene in self.genes))

    def n_options(self, lower: np.ndarray, upper: np.ndarray) -> int:
        """Returns the number of combinations that its genes have, given their bounds (n_var,)."""
        return int(np.prod([int(upper[g] - lower[g]) + 1 for g in self.genes], dtype=object))

    def options(self, lower: np.ndarray, upper: np.ndarray) -> Iterator[tuple[Layer, ...]]:
        """Gives the layers of every combination of its genes, the last gene changing fastest."""
        for values in product(*(range(lower[g], upper[g] + 1) for g in self.genes)):
            yield self.build(*values)
