"""From files and architectures to what is drawn of them."""

import os
from collections.abc import Sequence
from typing import Any

from evaluator.layers import read_config_layers
from search.selection import check_numbers
from search_space.base import SearchSpace
from utils.errors import UserError
from visualization.data import RunData, distinct_picks, read_run
from visualization.drawing import Picture
from visualization.shapes import blocks_of, graph_of


def of_search(path: str | os.PathLike, numbers: Sequence[int] | None,
              search_space: str | None) -> list[Picture]:
    """Returns pictures of networks of a search: those of its report, or those with the numbers.

    Raises:
        UserError: as `read_run`, or the archive has no such number.
    """
    run = read_run(path, search_space)
    named = dict.fromkeys(numbers, ()) if numbers else distinct_picks(run)
    check_numbers(named, len(run.archs))
    return [of_network(run, i, " = ".join(pick.name for pick in found) or f"network {i}")
            for i, found in named.items()]


def of_network(run: RunData, index: int, name: str) -> Picture:
    """Returns the picture of one network of a search."""
    values = ", ".join(f"{run.F[index, k]:g} M {axis.name}" if axis.unit == "millions"
                       else f"{axis.name} {run.F[index, k]:g} {axis.unit}".rstrip()
                       for k, axis in enumerate(run.axes) if k)
    title = f"{name}: top-1 {100 - run.F[index, 0]:.2f} %, {values}"
    arch, space = run.archs[index], run.space
    if space is None:
        genes = tuple((key, str(value)) for key, value in arch.items())
        return Picture(title, graph=graph_of(arch), genes=genes)
    return _picture(space, arch, title, run.layers(index))


def of_config(path: str | os.PathLike, title: str) -> Picture:
    """Returns the picture of a `net.config`; raises UserError where it is damaged."""
    layers, resolution = read_config_layers(path, None)
    return Picture(title, resolution, tuple(blocks_of(layers)))


def of_arch(space: SearchSpace, arch: dict[str, Any], title: str, n_classes: int = 1000,
            width_mult: float = 1.0) -> Picture:
    """Returns the picture of an architecture; raises UserError where it is not of the space."""
    try:
        layers = space.layers(arch, n_classes, width_mult)
    except UserError:
        space.encode(arch)  # raises, where the reason is the architecture
        layers = []
    return _picture(space, arch, title, layers)


def _picture(space: SearchSpace, arch: dict[str, Any], title: str,
             layers: Sequence[Any]) -> Picture:
    graph = graph_of(arch)
    if graph is None and layers:
        return Picture(title, space.resolution(arch) or layers[0].size, tuple(blocks_of(layers)))
    names = [gene.name for gene in space.genes]
    values = [str(gene.values[place - low]) for gene, place, low in zip(
        space.genes, space.encode(arch).tolist(), space.lower.tolist(), strict=True)]
    return Picture(title, graph=graph, genes=tuple(zip(names, values, strict=True)))
