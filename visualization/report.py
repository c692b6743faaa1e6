"""One self-contained `report.html` of one search or several: everything to look at, offline.

The page holds plotly (compressed) and the figures of the runs as JSON; `assets/report.js` draws
them. It needs no network and no server.
"""

import base64
import gzip
import html
import json
import os
import shlex
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from search import events
from search.baseline import TEST, Baseline
from search.comparison import Box, spread
from search.settings import CHANGEABLE
from search_space.base import SearchSpace
from utils.files import write_text
from utils.metrics import spearman
from utils.packages import require
from utils.pareto import ideal_point
from visualization.data import RunData, distinct_picks, read_run
from visualization.shapes import Graph, blocks_of, graph_of

REPORT = "report.html"
ASSETS = Path(__file__).parent / "assets"
UNUSED = "."  # a gene that the architecture does not use
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
DECIMALS = 5
NO_GENES: dict[str, Any] = {"vectors": [], "groups": [], "genes": []}


def write_report(path: str | os.PathLike, runs: Sequence[str | os.PathLike],
                 refresh: int | None = None, search_space: str | None = None,
                 baselines: Sequence[Baseline] = ()) -> None:
    """Writes the report of one or several searches, atomically.

    Args:
        path: the HTML file.
        runs: folders of searches, or `iter_<i>.stats` files.
        search_space: see `visualization.data.read_run`.
        refresh: seconds after which an open page loads itself again; None: never.
        baselines: networks to compare the fronts with.

    Raises:
        UserError: as `visualization.data.read_run`.
    """
    write_text(path, page(payload([read_run(run, search_space) for run in runs], baselines),
                          refresh))


def page(content: dict[str, Any], refresh: int | None = None) -> str:
    """Returns the page that shows the content of `payload`."""
    # "<" cannot occur in the text of a script element: it might close it.
    text = json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {"title": html.escape(", ".join(run["title"] for run in content["runs"])),
             "style": _asset("report.css"), "script": _asset("report.js"), "data": text,
             "refresh": str(refresh or 0), "plotly": _plotly()}
    document = _asset("report.html")
    for key, value in parts.items():
        document = document.replace(f"<!--{key}-->", value)
    return document


def payload(runs: Sequence[RunData], baselines: Sequence[Baseline] = ()) -> dict[str, Any]:
    """Returns what the page shows of the runs, in JSON types."""
    box = None if len(runs) == 1 else _common_box(runs)
    equal = len({run.name for run in runs}) < len(runs)  # then the folders tell them apart
    return {"runs": [{"group": group, **_run(run, str(run.folder) if equal else run.name, box),
                      "baselines": [_baseline(run, network) for network in baselines]}
                     for run, group in zip(runs, _groups_of(runs), strict=True)]}


def _groups_of(runs: Sequence[RunData]) -> list[str]:
    """Returns each run's strategy where they differ in that and the seed alone, else its folder."""
    aside = {*CHANGEABLE, "strategy", "seed", "inputs"}
    others = [{k: v for k, v in run.settings.items() if k not in aside} for run in runs]
    strategies = [run.settings.get("strategy", "") for run in runs]
    equal = all(other == others[0] for other in others) and len({*strategies}) > 1
    return strategies if equal else [str(run.folder) for run in runs]


def _run(run: RunData, name: str, box: Box | None) -> dict[str, Any]:
    starts = [event for event in run.events if event["event"] == "start"]
    start: dict[str, Any] = starts[-1] if starts else {}
    return {
        "name": name, "title": run.title, "folder": str(run.folder), "settings": run.settings,
        "space": run.space.name if run.space else None,
        "axes": [{"key": a.key, "name": a.name, "unit": a.unit, "label": a.label,
                  "max": a.maximise} for a in run.axes],
        "values": [_rounded(column) for column in run.F.T], "iteration": run.iteration.tolist(),
        "n_initial": run.n_initial,
        "expected": None if run.expected is None else [_rounded(c) for c in run.expected.T],
        "front": np.flatnonzero(run.front).tolist(), "figures": _figure_columns(run.figures),
        "arch": [run.describe(i) for i in range(len(run.archs))],
        **(_genes(run, run.space) if run.space else NO_GENES), "drawings": _drawings(run),
        "picks": [{"names": [pick.name for pick in found], "index": index,
                   "reason": "; ".join(pick.reason for pick in found),
                   "command": run.command(index)} for index, found in distinct_picks(run).items()],
        "bounds": [{"axis": axis, "value": limit.bound if axis else 100 - limit.bound,
                    "text": str(limit)} for axis, limit in run.limits],
        "take_home": run.command(),
        "history": [_history(entry) for entry in run.history],
        "hv": _hypervolumes(run, box),
        "rescores": [{
            "file": str(rescore.file.relative_to(run.folder)), "images": rescore.images,
            "n": rescore.n_images, "networks": [vars(each) for each in rescore.networks],
            "classes": rescore.classes, "pairs": [vars(each) for each in rescore.pairs]}
            for rescore in run.rescores],
        "failures": run.failures, "retries": run.retries,
        "phases": events.phases(run.events),
        "device_hours": round(events.device_hours(run.events), 4),
        "command": start.get("command"), "command_line": shlex.join(start.get("command", [])),
        "versions": start.get("versions", {}),
        "machine": start.get("machine"),
    }


def _baseline(run: RunData, network: Baseline) -> dict[str, Any]:
    """Returns a network's values on the axes of a run; None on those that it has no value of."""
    error = round(100 - network.top1[network.scored_as(bool(run.settings.get("test")))], DECIMALS)
    costs = [network.costs.get(axis.key) for axis in run.axes[1:]]
    return {"line": network.line(), "values": [error, *costs], "unseen": network.top1.get(TEST)}


def _history(entry: Any) -> dict[str, Any]:
    scores = {key: entry.surrogate.get(key) for key in ("name", "winner", "rmse", "rho", "tau")}
    return {"number": entry.number, "n": entry.n_evaluated, "hv": round(entry.hv, 6), **scores,
            "measured": _rounded(entry.measured), "predicted": _rounded(entry.predicted),
            "std": _rounded(entry.std)}


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(float(value), DECIMALS) for value in values]


def _figure_columns(figures: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Returns the columns that are known of at least one network; None where it is not known."""
    keys = dict.fromkeys(key for row in figures for key in row)
    return {key: [round(row[key], DECIMALS) if isinstance(row.get(key), float) else row.get(key)
                  for row in figures] for key in keys}


def _genes(run: RunData, space: SearchSpace) -> dict[str, Any]:
    return {"vectors": _packed(space, run.vectors), "groups": _groups(space),
            "genes": _correlations(run, space)}


def _packed(space: SearchSpace, vectors: np.ndarray) -> list[str]:
    """Returns each vector as a word, one character a gene: its place in the gene's values."""
    places, active = vectors - space.lower, space.active(vectors)
    return ["".join(DIGITS[min(place, len(DIGITS) - 1)] if used else UNUSED
                    for place, used in zip(row, mask, strict=True))
            for row, mask in zip(places.tolist(), active.tolist(), strict=True)]


def _groups(space: SearchSpace) -> list[dict[str, Any]]:
    """Returns the groups of genes, with equal kinds (the last word) next to each other."""
    groups: dict[str, dict[str, Any]] = {}
    for number, gene in enumerate(space.genes):
        group = groups.setdefault(gene.group, {
            "name": gene.group, "values": [str(v) for v in gene.values],
            "ordered": gene.ordered, "genes": []})
        group["genes"].append(number)
    kinds = list(dict.fromkeys(name.split()[-1] for name in groups))
    return sorted(groups.values(), key=lambda group: kinds.index(group["name"].split()[-1]))


def _correlations(run: RunData, space: SearchSpace) -> list[dict[str, Any]]:
    """Returns, for each gene, its association with accuracy and with each further objective.

    Spearman's rho for ordered genes, over the networks that use the gene. For a choice without an
    order the correlation ratio (eta), which has no sign. None where nothing varies.
    """
    active = space.active(run.vectors)
    rows = []
    for number, gene in enumerate(space.genes):
        used = active[:, number]
        values = run.vectors[used, number]
        associate = spearman if gene.ordered else _eta
        targets = [-run.F[used, 0], *(run.F[used, column] for column in range(1, run.F.shape[1]))]
        rows.append({"name": gene.name, "ordered": gene.ordered,
                     "values": [round(associate(values, target), 3) if len(values) > 2
                                and np.ptp(values) and np.ptp(target) else None
                                for target in targets]})
    return rows


def _eta(values: np.ndarray, targets: np.ndarray) -> float:
    total = float(((targets - targets.mean()) ** 2).sum())
    between = sum(float((values == v).sum() * (targets[values == v].mean() - targets.mean()) ** 2)
                  for v in np.unique(values))
    return float(np.sqrt(between / total))


def _drawings(run: RunData) -> dict[str, Any]:
    """Returns the distinct blocks of all networks, each network as places in that list, graphs."""
    table: dict[tuple, int] = {}
    networks: list[list[int]] = []
    graphs = [_graph(graph_of(arch)) for arch in run.archs]
    for index, graph in enumerate(graphs):
        layers = [] if graph else run.layers(index)
        rows = [(b.stage, b.kind, b.channels, b.out_channels, b.kernel, b.label, b.size)
                for b in blocks_of(layers)]
        networks.append([table.setdefault(row, len(table)) for row in rows])
    return {"blocks": list(table), "networks": networks,
            "graphs": graphs if any(graphs) else []}


def _graph(graph: Graph | None) -> dict[str, Any] | None:
    if graph is None:
        return None
    return {"nodes": graph.nodes, "places": graph.positions(),
            "edges": [(*edge, graph.bend(edge[0], edge[1])) for edge in graph.edges]}


def _common_box(runs: Sequence[RunData]) -> Box | None:
    """What normalises the hypervolume of all runs; None where their objectives differ."""
    if len({tuple(axis.key for axis in run.axes) for run in runs}) > 1:
        return None
    return Box.around([run.minimised for run in runs], [run.n_initial for run in runs])


def _hypervolumes(run: RunData, box: Box | None) -> dict[str, Any]:
    """Returns the normalised hypervolume after a few hundred numbers of evaluations.

    Without a reference point, as in a file of the original, it is what the search wrote.
    """
    if box is None and run.stats.reference_point:
        box = Box(np.array(run.stats.reference_point), ideal_point(run.minimised))
    if box is None:
        return {"n": [entry.n_evaluated for entry in run.history],
                "value": [round(entry.hv, 6) for entry in run.history]}
    counts = spread(1, len(run.archs))
    return {"n": counts, "reference": _rounded(box.reference.tolist()),
            "value": [round(value, 6) for value in box.curve(run.minimised, counts)]}


@cache
def _plotly() -> str:
    """Returns plotly's JavaScript, compressed, in letters."""
    require("a report", "plotly")
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 3, mtime=0)).decode("ascii")


def _asset(name: str) -> str:
    return (ASSETS / name).read_text("utf-8")
