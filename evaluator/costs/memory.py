"""How much a network writes and holds while it runs one image; free of torch.

The model is an inference engine that runs the layers one after another. Batch normalisation and
activation functions are part of the convolution before them; the addition of a shortcut and the
scaling of squeeze-and-excite overwrite one of their inputs. Weights are not counted.

`written`: elements of all results: of each convolution, linear layer, pooling (max, average,
global: one element per channel), addition of a shortcut, and scaling.

`peak`: elements of the largest set of tensors that exist at the same time: while an operation
runs, its inputs, its result, and what a later operation still needs, such as the input of a block
with a shortcut. A bottleneck without an identity runs its branch first, then the shortcut, which
the network of `networks.resnet50` does, too.

Sources: the peak is what MCUNet (Lin et al., NeurIPS 2020) must fit into a microcontroller's SRAM,
without its depthwise convolutions in place; "activations" as a cost: Radosavovic et al., "Designing
Network Design Spaces" (CVPR 2020), who count convolutions only.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from search_space.backbones import squeeze_width
from search_space.layers import Layer


class Memory(NamedTuple):
    """Elements that a layer or a network writes in all, and that it holds at most at one time."""

    written: int
    peak: int


class _Step(NamedTuple):
    """One operation: the elements of its result, and of all that exists while it runs."""

    result: int
    live: int


def layer_memory(layer: Layer) -> Memory:
    """Returns the memory of one layer, its input included in the peak."""
    steps = _STEPS[layer.kind](layer)
    return Memory(sum(step.result for step in steps), max(step.live for step in steps))


def network_memory(layers: Sequence[Layer]) -> Memory:
    """Returns the memory of a chain of layers: between two, only the tensor they share exists."""
    found = [layer_memory(layer) for layer in layers]
    return Memory(sum(x.written for x in found), max((x.peak for x in found), default=0))


def _map(channels: int, size: int) -> int:
    return channels * size * size


def _chain(results: Sequence[int], held: int = 0) -> list[_Step]:
    """Returns the steps from the first tensor to the last, with `held` more elements in memory."""
    return [_Step(after, before + after + held)
            for before, after in pairwise(results)]


def _squeeze_excite(channels: int, size: int, held: int, squeeze: int = 0) -> list[_Step]:
    """Pools, two convolutions of 1 x 1, and the scaling in place; the map is held meanwhile."""
    scaled = _map(channels, size)
    gate = _chain([channels, squeeze or squeeze_width(channels), channels], held + scaled)
    return [_Step(channels, scaled + channels + held), *gate,
            _Step(scaled, scaled + channels + held)]


def _branch(x: Layer, held: int) -> list[_Step]:
    """The convolutions of a layer; from the second one on `held` elements exist next to them."""
    steps, other = [], 0
    for part in x.convolutions:
        before, after = _map(part.in_channels, part.size), _map(part.out_channels, part.out_size)
        steps.append(_Step(after, before + after + other))
        other = held
        if part.se:
            steps += _squeeze_excite(part.out_channels, part.out_size, held, part.squeeze)
    return steps


def _block(x: Layer) -> list[_Step]:
    return [*_branch(x, held=_map(x.in_channels, x.size) * x.skip), *_addition(x)]


def _addition(x: Layer) -> list[_Step]:
    """The addition of an identity shortcut, in place; nothing where there is none."""
    result = _map(x.out_channels, x.out_size)
    return [_Step(result, 2 * result)] if x.skip else []


def _bottleneck(x: Layer) -> list[_Step]:
    start, result = _map(x.in_channels, x.size), _map(x.out_channels, x.out_size)
    branch = _branch(x, held=start)
    if x.skip:
        return [*branch, *_addition(x)]
    averaged = _map(x.in_channels, x.out_size)
    shortcut = _chain([start, averaged], held=result) + _chain([averaged, result], held=result)
    return [*branch, *shortcut, _Step(result, 2 * result)]


_STEPS: dict[str, Callable[[Layer], list[_Step]]] = {
    **dict.fromkeys(("conv", "mbconv", "block", "max_pool", "linear"), _block),
    "bottleneck": _bottleneck,
    **dict.fromkeys(("pool", "mean"), lambda x: [
        _Step(x.in_channels, _map(x.in_channels, x.size) + x.in_channels)]),
}
