"""Pictures of a search as PNG files. matplotlib is imported when the first one is drawn."""

import os
import re
from collections.abc import Mapping, Sequence
from itertools import cycle, product
from typing import Any

import numpy as np

from search.comparison import mean_and_error
from utils.files import atomic_path
from utils.pareto import non_dominated

NAMES = {"flops": "FLOPs", "params": "parameters", "macs": "multiply-accumulates"}
UNITS = dict.fromkeys(NAMES, "millions")
# Okabe and Ito (2008), as in the report.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = ("-", "--", ":")  # of lines beyond the colours
BLUE, ORANGE, GREY = "#1f5fa8", "#d9701c", "#9aa3ad"
SIZE, DPI = (7.2, 4.6), 130


def axis_parts(key: str, unit: str = "") -> tuple[str, str]:
    """Returns name and unit of an objective for people: ("FLOPs", "millions").

    Args:
        key: the objective, as files name it: `flops`, `gpu64`, `cpu@pi4`, `energy`.
        unit: of an objective that is not in `UNITS`.
    """
    latency = re.fullmatch(r"([cg]pu)(\d*)(?:@(\w+))?", key)
    if latency:
        device, batch, table = latency.groups()
        note = f", batch {batch}" if batch else f", {table}" if table else ""
        return f"{device.upper()} latency", f"ms{note}"
    return NAMES.get(key, key), UNITS.get(key, unit)


def axis_label(sec_obj: str) -> str:
    """Returns the label of an axis, with its unit: `FLOPs (millions)`, `CPU latency (ms)`."""
    name, unit = axis_parts(sec_obj)
    return f"{name} ({unit})" if unit else name


def plot_front(path: str | os.PathLike, F: np.ndarray, front: np.ndarray, candidates: np.ndarray,
               sec_obj: str, title: str) -> None:
    """Writes `front_figure` as a PNG file, atomically."""
    save_figure(front_figure(F, front, candidates, axis_label(sec_obj), title), path)


def front_figure(F: np.ndarray, front: np.ndarray, candidates: np.ndarray, label: str, title: str,
                 sign: int = 1) -> Any:
    """Returns a figure of an archive, its front as steps, and this iteration's candidates.

    Args:
        F: (n, 2) top-1 error in percent and second objective of the archive.
        front: (f, 2) its non-dominated part, in any order.
        candidates: (k, 2) those that are new; may be empty.
        label: of the second objective.
        title: one line.
        sign: -1 where the second objective is maximised.
    """
    figure, (axes,) = new_figure(SIZE, DPI)
    axes.set_title(title, fontsize=11)
    axes.plot(F[:, 1], F[:, 0], "o", color=GREY, ms=4, alpha=0.55, mew=0, label="evaluated")
    ends = (F[:, 1].min(), F[:, 1].max())
    _, steps = border(front[:, :2] * [1, sign], ends, (0, F[:, 0].max()), sign)
    axes.step(*steps, where="post", color=BLUE, lw=1.3, alpha=0.8)
    axes.plot(front[:, 1], front[:, 0], "o", color=BLUE, ms=5.5, mew=0, label="front")
    if len(candidates):
        axes.plot(candidates[:, 1], candidates[:, 0], "o", mfc="none", mec=ORANGE, mew=1.4, ms=9,
                  label="new in this iteration")
    axes.set_xlabel(label)
    axes.set_ylabel("top-1 error (%)")
    axes.legend(frameon=False, loc="upper right" if sign > 0 else "upper left")
    return figure


def plot_history(path: str | os.PathLike, evaluated: Sequence[int], hv: Sequence[float],
                 tau: Sequence[float | None]) -> None:
    """Writes `history_figure` as a PNG file, atomically."""
    save_figure(history_figure(evaluated, hv, tau), path)


def history_figure(evaluated: Sequence[int], hv: Sequence[float],
                   tau: Sequence[float | None]) -> Any:
    """Returns a figure of the hypervolume and the predictor's quality over the evaluations.

    Args:
        evaluated: number of evaluated architectures after each iteration.
        hv: normalised hypervolume after each iteration.
        tau: Kendall's tau of the predictor; None where none was fitted.
    """
    figure, (axes,) = new_figure(SIZE, DPI)
    axes.set_title("progress of the search", fontsize=11)
    axes.plot(evaluated, hv, "o-", color=BLUE, ms=4, lw=1.5)
    axes.set_xlabel("evaluated architectures")
    axes.set_ylabel("normalised hypervolume", color=BLUE)
    fitted = [(n, value) for n, value in zip(evaluated, tau, strict=True) if value is not None]
    if fitted:
        right = axes.twinx()
        right.plot(*zip(*fitted, strict=True), "s--", color=ORANGE, ms=4, lw=1.2)
        right.set_ylim(min(0.0, *(value for _, value in fitted)), 1.02)
        right.set_ylabel("Kendall's tau of the predictor", color=ORANGE)
        right.spines["top"].set_visible(False)
    return figure


def plot_curves(path: str | os.PathLike, counts: Sequence[float], curves: Mapping[str, np.ndarray],
                title: str = "", line: tuple[str, Mapping[int, float]] | None = None,
                x: str = "evaluated architectures") -> None:
    """Draws mean hypervolumes by evaluations with bands of one standard error, atomically.

    The y axis starts at the lowest mean after a fourth of the evaluations: before, the
    hypervolume of every search grows fast from 0.

    Args:
        path: the PNG file.
        counts: k numbers of evaluations.
        curves: (seeds, k) hypervolumes by strategy.
        title: one line.
        line: name and values of a curve without seeds.
        x: what `counts` are.
    """
    figure, (axes,) = new_figure(SIZE, DPI)
    lowest, highest = np.inf, -np.inf
    for (strategy, values), (style, colour) in zip(curves.items(), cycle(product(STYLES, COLOURS))):
        mean, error = mean_and_error(values)
        lowest = min(lowest, (mean - error)[np.searchsorted(counts, max(counts) / 4)])
        highest = max(highest, np.nanmax(mean + error))
        axes.plot(counts, mean, style, color=colour, lw=1.6,
                  label=f"{strategy}, {len(values)} seeds")
        axes.fill_between(counts, mean - error, mean + error, color=colour, alpha=0.2, lw=0)
    if line:
        highest = max(highest, *line[1].values())
        axes.plot([*line[1]], [*line[1].values()], "s--", color="black", ms=4, label=line[0])
    room = 0.05 * (highest - lowest)
    axes.set_ylim(lowest - room, highest + room)
    axes.set(xlabel=x, ylabel="normalised hypervolume", title=title)
    inside = len(curves) <= len(COLOURS)
    axes.legend(frameon=False, loc="lower right" if inside else "center left",
                bbox_to_anchor=None if inside else (1, 0.5))
    save_figure(figure, path)


def border(F: np.ndarray, xlim: tuple[float, float], ylim: tuple[float, float],
           sign: int = 1) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Returns the front of points and the border of what it dominates, as x and y each.

    The border goes down to the front's first point, on in steps (`where="post"`), and to the end
    of the x axis.

    Args:
        F: (n, 2) minimised top-1 error and second objective, n > 0.
        xlim, ylim: of the axes.
        sign: -1 where the second objective is maximised, so that `F` holds its negative.
    """
    front = F[non_dominated(F)]
    front = front[np.argsort(front[:, 1], kind="stable")]
    x, y = sign * front[:, 1], front[:, 0]
    end = xlim[1] if sign > 0 else xlim[0]
    return (x, y), (np.array([x[0], *x, end]), np.array([ylim[1], *y, y[-1]]))


def new_figure(size: tuple[float, float], dpi: int, rows: int = 1,
               columns: Sequence[float] = (1,)) -> tuple[Any, list[Any]]:
    """Returns a figure that no global state knows of, and its axes.

    Args:
        size: in inches.
        dpi: pixels per inch.
        rows: number of axes below each other.
        columns: relative widths of the axes next to each other.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, len(columns), squeeze=False, width_ratios=columns).flat)
    for each in axes:
        each.grid(color="#e3e6ea", lw=0.7)
        each.set_axisbelow(True)
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save_figure(figure: Any, path: str | os.PathLike) -> None:
    """Writes a figure as a PNG, or as an SVG where the path ends so, atomically.

    What differs between equal pictures, a date or a version, is left out: they are equal files.
    """
    svg = str(path).endswith(".svg")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="svg" if svg else "png",
                       metadata={"Date": None} if svg else {"Software": None})
