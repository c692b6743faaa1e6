"""Costs in closed form, for one network or a whole population; free of torch.

Two conventions. `flops`: multiply-accumulates of convolutions and linear layers, one per element
of each multiplication (hard-swish, squeeze-and-excite scaling), and the outputs of the means in
poolings; batch normalisation is free. This is how torchprofile 0.0.1 counts, and so the published
NSGANetV2 figures. It counts operations as a network has them: a hard-swish of the ofa package is a
product, one of timm a single operation that is free. `macs`: convolutions and linear layers only,
as OFA counts.

What a network writes and holds: `activations` are the elements written, `peak_memory` and
`peak_memory_int8` the bytes of the largest set of tensors that exist at one time, for one image in
float32 or int8 (`evaluator.costs.memory` defines them); `weights_mb` are the bytes of the
parameters in float32. A MB is 10**6 bytes.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple, overload

import numpy as np

from evaluator.costs.memory import layer_memory
from evaluator.latency import LookUpTable, space_command
from search_space import SearchSpace
from search_space.backbones import squeeze_width
from search_space.layers import Layer
from utils.errors import UserError

FLOPS_CONVENTION = "torchprofile 0.0.1: conv + linear MACs, multiplications, pooling means"
MACS_CONVENTION = "conv + linear MACs"
# Multiplications per element; ReLUs and sigmoids have none.
ACT_MULTIPLICATIONS: dict[str | None, int] = {"h_swish": 1}
# name -> unit of the objectives in closed form; those of `Costs` are rounded to two digits.
COUNTED = {"params": "M", "flops": "M", "macs": "M", "activations": "M", "peak_memory": "MB",
           "peak_memory_int8": "MB", "weights_mb": "MB"}
# Measures that are a multiple of another: bytes of elements or parameters.
MEMORY = ("activations", "peak")
BYTES = {"peak_memory": ("peak", 4), "peak_memory_int8": ("peak", 1), "weights_mb": ("params", 4)}
# A part of a network with more variants than this is counted when asked, not in advance.
MAX_OPTIONS = 100_000


class Costs(NamedTuple):
    """Exact counts of a layer or a network."""

    params: int
    flops: int
    macs: int


def layer_costs(layer: Layer) -> Costs:
    """Returns the parameters, FLOPs and MACs of one layer."""
    return total_costs(_PARTS[layer.kind](layer))


def total_costs(costs: Sequence[Costs]) -> Costs:
    """Returns the sum, measure by measure."""
    return Costs(*map(sum, zip(*costs, strict=True)))


def _conv(inputs: int, outputs: int, size: int, kernel: int = 1, groups: int = 1,
          act: str | None = None, bn: bool = True, bias: bool = False) -> Costs:
    weights = kernel * kernel * inputs // groups * outputs
    elements = outputs * size * size
    macs = weights * size * size
    return Costs(weights + outputs * (2 * bn + bias),
                 macs + elements * ACT_MULTIPLICATIONS.get(act, 0), macs)


def _pool(channels: int, size: int) -> Costs:
    """Two means, over the width and then over the height; each output counts one."""
    return Costs(0, channels * size + channels, 0)


def _squeeze_excite(channels: int, size: int, squeeze: int = 0) -> list[Costs]:
    """That of timm, where the channels inside are named, pools in one step."""
    mid = squeeze or squeeze_width(channels)
    return [Costs(0, channels, 0) if squeeze else _pool(channels, size),
            _conv(channels, mid, 1, bn=False, bias=True),
            _conv(mid, channels, 1, bn=False, bias=True),
            Costs(0, channels * size * size, 0)]


def _conv_parts(x: Layer) -> list[Costs]:
    conv = _conv(x.in_channels, x.out_channels, x.out_size, x.kernel, x.groups, x.act, x.bn, x.bias)
    return [conv, *(_squeeze_excite(x.out_channels, x.out_size, x.squeeze) if x.se else [])]


def _convolutions(x: Layer) -> list[Costs]:
    return [costs for part in x.convolutions for costs in _conv_parts(part)]


def _bottleneck_parts(x: Layer) -> list[Costs]:
    shortcut = [Costs(0, x.in_channels * x.out_size * x.out_size, 0),
                _conv(x.in_channels, x.out_channels, x.out_size)]
    return _convolutions(x) + ([] if x.skip else shortcut)


_PARTS: dict[str, Callable[[Layer], list[Costs]]] = {
    **dict.fromkeys(("conv", "mbconv", "block", "linear"), _convolutions),
    "bottleneck": _bottleneck_parts,
    "max_pool": lambda x: [Costs(0, 0, 0)],
    "norm": lambda x: [Costs(2 * x.in_channels, 0, 0)],
    "counted_bias": lambda x: [*_conv_parts(x), Costs(0, x.out_channels, 0)],
    "pool": lambda x: [_pool(x.in_channels, x.size)],
    "mean": lambda x: [Costs(0, x.in_channels, 0)],
}


def network_costs(layers: Sequence[Layer]) -> Costs:
    """Returns the exact parameters, FLOPs and MACs of a network."""
    return total_costs([layer_costs(layer) for layer in layers])


@overload
def millions(count: np.ndarray) -> np.ndarray: ...
@overload
def millions(count: float) -> float: ...
def millions(count: np.ndarray | float) -> np.ndarray | float:
    """Returns counts in millions, rounded to two digits, as stats files have them."""
    rounded = np.round(np.asarray(count) / 1e6, 2)
    return rounded if rounded.ndim else float(rounded)


def objective_values(costs: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Returns an objective (n,) from what `CostModel.evaluate` gave.

    Args:
        costs: the population's costs.
        name: `params`, `flops` or `macs` (in millions, two digits), another one of `COUNTED` (in
            millions or MB, unrounded), or `cpu` (ms, unrounded).

    DEVIATION latency-digits: the original rounds `cpu` to 0.01 ms, which ties fast networks.

    Raises:
        UserError: another name, or `cpu` without a latency table.
    """
    if name not in costs:
        raise UserError(f"the objective {name!r} is not among the costs at hand "
                        f"({', '.join(costs)}); 'cpu' needs a latency table")
    if name == "cpu":
        return costs[name]
    return millions(costs[name]) if name in Costs._fields else costs[name] / 1e6


class CostModel:
    """The costs of whole populations of one space, by table look-up.

    Every layer that a network of the space can have is counted once, for each combination of the
    genes that decide about its slot; a population's costs are then a gather and a sum (of the peak
    memory, the maximum). Unused genes have no influence.

    DEVIATION closed-form: the original cuts and profiles a network for every figure.

    Args:
        space: a space that lists the layers of its networks.
        n_classes: outputs of the classifier.
        width_mult: width multiplier of the supernet.
        lut: a latency table; with one `evaluate` also gives `cpu`.

    Raises:
        UserError: the space does not list them, or the table lacks some; the message has the
            command that measures them.
    """

    def __init__(self, space: SearchSpace, n_classes: int = 1000, width_mult: float = 1.0,
                 lut: LookUpTable | None = None) -> None:
        self.space = space
        self.lut = lut
        slots = space.slots(n_classes, width_mult)
        self._slots = [slot for slot in slots
                       if slot.n_options(space.lower, space.upper) <= MAX_OPTIONS]
        self._untabled = [slot for slot in slots if slot not in self._slots]
        self._options = [option for slot in self._slots
                         for option in slot.options(space.lower, space.upper)]
        if lut is not None:
            lut.require(set(chain.from_iterable(self._options)),
                        space_command(space, n_classes, width_mult))
        self._tables = self._count(self._options, self.names)
        self._deciding, self._strides, self._starts = self._positions()

    @property
    def names(self) -> list[str]:
        """The measures that `evaluate` gives, unless it is asked for others."""
        return [*Costs._fields, *(["cpu"] if self.lut is not None else [])]

    def evaluate(self, X: np.ndarray, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Returns the costs of (n, n_var) integer vectors.

        Args:
            X: the vectors.
            names: of `COUNTED` and `cpu`; None is the attribute `names`.

        Returns:
            (n,) int64, exact: `params`, `flops`, `macs`, `activations` are counts, the others of
            `COUNTED` bytes. `cpu`: (n,) float ms, given a table.

        Raises:
            UserError: an unknown name, `cpu` without a table, or the memory of networks whose
                layers do not run one after another.
            ValueError: `X` has another shape, or genes outside the bounds of the space.
        """
        X = self._checked(X)
        rows = self._rows(X)
        picked = [[slot.pick(x) for x in X] for slot in self._untabled]
        parts = {name: BYTES.get(name, (name, 1)) for name in names or self.names}
        values = {measure: self._total(measure, rows, picked)
                  for measure in dict.fromkeys(measure for measure, _ in parts.values())}
        return {name: values[measure] * factor if factor > 1 else values[measure]
                for name, (measure, factor) in parts.items()}

    def values(self, X: np.ndarray, name: str) -> np.ndarray:
        """Returns the objective `name` (n,) of (n, n_var) vectors, as `objective_values`.

        Raises:
            UserError, ValueError: as `evaluate`.
        """
        return objective_values(self.evaluate(X, [name]), name)

    def of_arch(self, arch: dict[str, Any]) -> dict[str, int | float]:
        """Returns the costs of one architecture as plain numbers."""
        costs = self.evaluate(self.space.encode(arch)[None])
        return {name: values[0].item() for name, values in costs.items()}

    def _checked(self, X: np.ndarray) -> np.ndarray:
        X = np.asarray(X)
        if X.ndim != 2 or X.shape[1] != self.space.n_var:
            raise ValueError(f"expected vectors of shape (n, {self.space.n_var}), not {X.shape}")
        X = X.astype(np.intp)
        if np.any((X < self.space.lower) | (X > self.space.upper)):
            raise ValueError(f"genes outside the bounds of the space {self.space.name}")
        return X

    def _total(self, measure: str, rows: np.ndarray,
               picked: Sequence[Sequence[tuple[Layer, ...]]]) -> np.ndarray:
        """Returns one measure (n,): the slots' sum, of the peak their maximum.

        Args:
            measure: a column of the tables.
            rows: (slots, n) positions in the tables.
            picked: the n runs of layers of each slot without a table.
        """
        if measure not in self._tables:
            self._tables |= self._count(self._options, self._group(measure))
        combine = np.maximum if measure == "peak" else np.add
        total: np.ndarray = combine.reduce(self._tables[measure].take(rows), axis=0, initial=0)
        for options in picked:
            total = combine(total, self._count(options, self._group(measure))[measure])
        return total

    def _group(self, measure: str) -> list[str]:
        """Returns the measures that are counted together with this one."""
        if measure in self.names:
            return self.names
        if measure not in MEMORY:
            raise UserError(f"unknown cost {measure!r}; choose from {', '.join(COUNTED)}; 'cpu' "
                            "needs a latency table")
        if not self.space.sequential:
            raise UserError(f"the layers of the search space {self.space.name} do not run one "
                            "after another, so what they write and hold is unknown")
        return list(MEMORY)

    def _count(self, options: Sequence[tuple[Layer, ...]],
               measures: Sequence[str]) -> dict[str, np.ndarray]:
        """Returns, by measure, the costs (m,) of m runs of layers."""
        count = self._layer_costs if "params" in measures else layer_memory
        known = {layer: count(layer) for layer in set(chain.from_iterable(options))}
        runs = [[known[layer] for layer in layers] for layers in options]
        return {name: np.array([_combined(name, [costs[i] for costs in run]) for run in runs],
                               float if name == "cpu" else np.int64)
                for i, name in enumerate(measures)}

    def _layer_costs(self, layer: Layer) -> tuple[int | float, ...]:
        latency = [] if self.lut is None else [self.lut.latency([layer])]
        return (*layer_costs(layer), *latency)

    def _rows(self, X: np.ndarray) -> np.ndarray:
        """Returns (slots, n) positions in the tables of what (n, n_var) vectors choose."""
        genes = np.ascontiguousarray(X.T)
        rows = np.repeat(self._starts[:, None], len(X), axis=1)
        for gene, stride in zip(self._deciding.T, self._strides.T, strict=True):
            rows += genes[gene] * stride[:, None]
        return rows

    def _positions(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns what turns vectors into positions: `starts + sum(X[deciding] * strides)`.

        Returns:
            The genes that decide about each slot (slots, k), where fewer than k do filled up with
            gene 0 at a stride of 0; the strides (slots, k); the starts (slots,).
        """
        lower, sizes = self.space.lower, self.space.upper - self.space.lower + 1
        shape = len(self._slots), max((len(slot.genes) for slot in self._slots), default=0)
        deciding, strides = np.zeros(shape, dtype=np.intp), np.zeros(shape, dtype=np.intp)
        starts = np.zeros(len(self._slots), dtype=np.intp)
        first = 0
        for i, slot in enumerate(self._slots):
            genes, k = list(slot.genes), len(slot.genes)
            deciding[i, :k] = genes
            strides[i, :k] = np.cumprod([1, *sizes[genes][:0:-1]])[::-1][:k]
            starts[i] = first - strides[i, :k] @ lower[genes]
            first += int(np.prod(sizes[genes]))
        return deciding, strides, starts


def _combined(measure: str, values: list[int | float]) -> int | float:
    """Returns what layers that run one after another cost together."""
    return max(values, default=0) if measure == "peak" else sum(values)
