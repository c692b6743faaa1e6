"""Drawings of architectures: block diagrams as in the papers of the field, and cells as graphs."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import UserError
from visualization.plots import new_figure, save_figure
from visualization.shapes import HEAD, STEM, Block, Graph

# Okabe and Ito (2008): safe for the colour-blind.
KERNEL_COLOURS = {1: "#aab2bd", 3: "#56B4E9", 5: "#E69F00", 7: "#009E73"}
OTHER_KERNEL = "#CC79A7"
INK, QUIET, LINE = "#1b1f24", "#57606a", "#d0d7de"
WIDTH, ROW, DPI = 10.0, 1.75, 150
GRAPH_ROW = 2.3
NODE_SHADE = "#e8eef4"


@dataclass(frozen=True)
class Picture:
    """One architecture to draw.

    Attributes:
        title: one line above it.
        resolution: of the input in pixels; 0 where there is none.
        blocks: of a network; empty for a graph.
        graph: of a cell.
        genes: name and value of each choice, drawn where there are neither blocks nor a graph.
    """

    title: str
    resolution: int = 0
    blocks: tuple[Block, ...] = ()
    graph: Graph | None = None
    genes: tuple[tuple[str, str], ...] = ()


def write_drawing(path: str | os.PathLike, pictures: Sequence[Picture]) -> list[Path]:
    """Draws architectures below each other, their stages aligned; writes SVG and PNG.

    Args:
        path: an `.svg` or a `.png`; the other is written next to it.
        pictures: see `drawn`.

    Returns:
        The two files.

    Raises:
        UserError: another ending, or as `drawn`.
    """
    path = Path(path)
    if path.suffix not in (".svg", ".png"):
        raise UserError(f"{path}: a drawing is an .svg or a .png")
    figure = drawn(pictures)
    files = [path.with_suffix(".svg"), path.with_suffix(".png")]
    for file in files:
        save_figure(figure, file)
    return files


def drawn(pictures: Sequence[Picture]) -> Any:
    """Returns a figure of architectures below each other, their stages aligned.

    Args:
        pictures: at least one, all with blocks, or all without.

    Raises:
        UserError: blocks next to graphs.
    """
    if len({bool(picture.blocks) for picture in pictures}) > 1:
        raise UserError("networks of layers and cells cannot be aligned; draw them apart")
    return _block_figure(pictures) if pictures[0].blocks else _graph_figure(pictures)


def _figure(rows: int, height: float) -> tuple[Any, list[Any]]:
    import matplotlib as mpl

    mpl.rcParams["svg.hashsalt"] = "msunas"  # the same identifiers in equal drawings
    figure, axes = new_figure((WIDTH, height), DPI, rows)
    for each in axes:
        each.set_axis_off()
    return figure, axes


def columns_of(pictures: Sequence[Picture]) -> list[tuple[str, int]]:
    """Returns the stages of all networks in order, each with its largest number of blocks."""
    most: Counter[str] = Counter()
    for picture in pictures:
        most |= Counter(block.stage for block in picture.blocks)
    inner = sorted((stage for stage in most if stage not in (STEM, HEAD)), key=int)
    return [(stage, most[stage]) for stage in (STEM, *inner, HEAD) if stage in most]


def _block_figure(pictures: Sequence[Picture]) -> Any:
    figure, axes = _figure(len(pictures), 0.75 + ROW * len(pictures))
    columns = columns_of(pictures)
    tallest = max(block.channels for picture in pictures for block in picture.blocks) ** 0.5
    for axis, picture in zip(axes, pictures, strict=True):
        _draw_blocks(axis, picture, columns, tallest)
    kernels = sorted({block.kernel for picture in pictures for block in picture.blocks})
    figure.legend(*_kernel_legend(kernels), loc="outside upper right", ncols=len(kernels) + 1,
                  frameon=False, fontsize=9, handlelength=1.0, columnspacing=1.2)
    figure.supxlabel("height: channels inside the block (square root); number: expansion; below: "
                     "channels and map size of the stage's output", x=0.01, ha="left",
                     fontsize=8.5, color=QUIET)
    return figure


def _draw_blocks(axes: Any, picture: Picture, columns: Sequence[tuple[str, int]],
                 tallest: float) -> None:
    """Draws one network; a stage begins at the same x in all of them."""
    from matplotlib.patches import Rectangle

    x, gap, floor = 0.0, 0.7, -tallest / 2
    if picture.resolution:
        axes.text(-0.6, 0, f"{picture.resolution}²", ha="right", va="center", fontsize=9,
                  color=QUIET)
    for stage, width in columns:
        own = [block for block in picture.blocks if block.stage == stage]
        for i, block in enumerate(own):
            height = block.channels ** 0.5
            axes.add_patch(Rectangle((x + i + 0.08, -height / 2), 0.84, height, lw=0,
                                     facecolor=KERNEL_COLOURS.get(block.kernel, OTHER_KERNEL)))
            if block.label:
                axes.text(x + i + 0.5, 0, block.label, ha="center", va="center",
                          fontsize=9 if len(block.label) < 3 else 7, color=INK)
        if own and stage not in (STEM, HEAD):
            axes.text(x, floor - 0.05 * tallest, f"{own[-1].out_channels}, {own[-1].size}²",
                      ha="left", va="top", fontsize=8, color=QUIET)
            axes.plot([x - gap / 2] * 2, [floor, -floor], color=LINE, lw=0.8)
        x += width + gap
    axes.set_xlim(-1.9, x)
    axes.set_ylim(floor * 1.35, -floor * 1.02)
    axes.set_title(picture.title, loc="left", fontsize=10, color=INK)


def _kernel_legend(kernels: Sequence[int]) -> tuple[list[Any], list[str]]:
    from matplotlib.patches import Patch

    handles = [Patch(facecolor="none", edgecolor="none")]
    handles += [Patch(facecolor=KERNEL_COLOURS.get(k, OTHER_KERNEL)) for k in kernels]
    return handles, ["kernel", *(f"{k}×{k}" for k in kernels)]


def _graph_figure(pictures: Sequence[Picture]) -> Any:
    figure, axes = _figure(len(pictures), GRAPH_ROW * len(pictures))
    for axis, picture in zip(axes, pictures, strict=True):
        axis.set_title(picture.title, loc="left", fontsize=10, color=INK)
        if picture.graph is not None:
            _draw_graph(axis, picture.graph)
        else:
            _draw_genes(axis, picture.genes)
    return figure


def _draw_graph(axes: Any, graph: Graph) -> None:
    places = graph.positions()
    for start, end, label in graph.edges:
        _draw_edge(axes, places[start], places[end], graph.bend(start, end), label)
    for (x, y), label in zip(places, graph.nodes, strict=True):
        _draw_node(axes, x, y, label)
    bends = [graph.bend(start, end) for start, end, _ in graph.edges]
    heights = [y for _, y in places] + bends
    axes.set_xlim(-0.4, max(x for x, _ in places) + 0.4)
    axes.set_ylim(min(heights) - 0.5, max(heights) + 0.5)


def _draw_node(axes: Any, x: float, y: float, label: str) -> None:
    axes.text(x, y, label, ha="center", va="center", fontsize=9.5, color=INK,
              bbox={"boxstyle": "round,pad=0.4", "facecolor": NODE_SHADE, "edgecolor": QUIET,
                    "linewidth": 0.8})


def _draw_edge(axes: Any, start: tuple[float, float], end: tuple[float, float], bend: float,
               label: str) -> None:
    """Draws an arrow whose middle lies `bend` above its straight line, its label at the middle."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    (x0, y0), (x1, y1) = start, end
    middle = ((x0 + x1) / 2, (y0 + y1) / 2 + bend)
    # A quadratic Bezier curve passes half-way to its control point.
    control = (middle[0], (y0 + y1) / 2 + 2 * bend)
    points = [_between(start, control, 0.10), control, _between(end, control, 0.12)]
    axes.add_patch(FancyArrowPatch(path=Curve(points, [Curve.MOVETO, Curve.CURVE3, Curve.CURVE3]),
                                   arrowstyle="-|>", mutation_scale=11, lw=1.1, color=QUIET,
                                   shrinkA=0, shrinkB=0))
    if label:
        axes.text(*middle, label, ha="center", va="center", fontsize=8.5, color=INK,
                  bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"})


def _between(a: tuple[float, float], b: tuple[float, float], part: float) -> tuple[float, float]:
    length = ((b[0] - a[0]) ** 2 + (b[1] - a[1]) ** 2) ** 0.5 or 1.0
    step = min(0.5, 1.5 * part / length)
    return a[0] + step * (b[0] - a[0]), a[1] + step * (b[1] - a[1])


def _draw_genes(axes: Any, genes: Sequence[tuple[str, str]]) -> None:
    for i, (name, value) in enumerate(genes):
        _draw_node(axes, i, 0, value)
        axes.text(i, 0.6, name, ha="center", va="center", fontsize=8.5, color=QUIET)
    axes.set_xlim(-0.6, max(len(genes) - 0.4, 0.6))
    axes.set_ylim(-0.8, 1.0)
