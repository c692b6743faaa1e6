"""What pictures and reports show of a search, read once from its folder. Free of torch."""

import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from search import events
from search.archive import Stats, objectives, read_stats, stats_file, stats_path
from search.run_folder import RETRIES
from search.settings import read_stored
from search_space import get_search_space
from search_space.backbones import width_from_name
from search_space.base import SearchSpace
from search_space.layers import Layer
from utils.errors import UserError
from utils.files import read_json, read_log
from utils.invocation import calling
from utils.pareto import non_dominated
from utils.registry import names_code
from visualization.plots import axis_parts
from visualization.unseen import Rescore, read_rescores

# Figures of one evaluation that tables show where its stats hold them.
FIGURES = ("params", "flops", "top5", "loss")
UNSEEN = "unseen_top1"  # name of the figure that `post_search.py --rescore` adds
WITHIN = 1.0  # points of top-1 that the "cheapest" pick may lose to the best


@dataclass(frozen=True)
class Axis:
    """One objective: its key in files, its name for people, its unit, its direction."""

    key: str
    name: str
    unit: str = ""
    maximise: bool = False

    @property
    def label(self) -> str:
        """Name and unit, as on an axis: `FLOPs (millions)`."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


@dataclass(frozen=True)
class Iteration:
    """What one `iter_<i>.stats` says beside its archive.

    Attributes:
        number: of the iteration; 0 is the initial sample.
        n_evaluated: size of the archive after it.
        hv: normalised hypervolume, as the search computed it.
        surrogate: `name`, `winner`, `rmse`, `rho`, `tau`; the scores may be None.
        measured, predicted, std: (k,) top-1 errors in percent of the candidates, as measured, as
            predicted before, and the predicted standard deviation; the latter two empty where they
            were not recorded.
    """

    number: int
    n_evaluated: int
    hv: float
    surrogate: dict[str, Any]
    measured: list[float]
    predicted: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Failure:
    """One evaluation that failed."""

    iteration: int
    index: int
    status: str
    error: str


@dataclass(frozen=True)
class Pick:
    """A network that a report recommends: its number in the archive, and why."""

    name: str
    index: int
    reason: str


@dataclass(frozen=True)
class RunData:
    """One search.

    Attributes:
        folder: of the search.
        stats_file: the `iter_<i>.stats` that was read.
        settings: the flags of the search; {} for one of the original's.
        space: the search space; None where it is code that nobody named.
        axes: of the objectives; the first is the top-1 error.
        archs: n architectures in the order of evaluation.
        F: (n, m) objectives in their own units and directions; column 0 the top-1 error in percent.
        iteration: (n,) number of the iteration that evaluated each.
        figures: n dicts of what else is known of each network, by column name.
        history: one entry for each iteration, ascending.
        failures: evaluations that failed.
        retries: lines of the log of evaluations that were started again.
        events: what the search recorded about its progress, see `search.events`.
        reference: (m,) reference point of the hypervolume, minimised objectives; None where the
            files do not say.
        rescores: accuracies of chosen networks on images that the search did not see.
    """

    folder: Path
    stats_file: Path
    settings: dict[str, Any]
    space: SearchSpace | None
    axes: tuple[Axis, ...]
    archs: list[dict[str, Any]]
    F: np.ndarray
    iteration: np.ndarray
    figures: list[dict[str, Any]]
    history: list[Iteration]
    failures: list[Failure]
    retries: list[str]
    events: list[dict[str, Any]]
    reference: np.ndarray | None
    rescores: list[Rescore] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The folder's name, as legends show it."""
        return self.folder.resolve().name

    @cached_property
    def minimised(self) -> np.ndarray:
        """(n, m) objectives, all minimised."""
        return self.F * np.array([-1.0 if axis.maximise else 1.0 for axis in self.axes])

    @cached_property
    def front(self) -> np.ndarray:
        """(n,) bool: the non-dominated networks."""
        return non_dominated(self.minimised)

    @cached_property
    def vectors(self) -> np.ndarray:
        """(n, n_var) encoded architectures; (n, 0) without a space."""
        if self.space is None:
            return np.zeros((len(self.archs), 0), dtype=int)
        return np.array([self.space.encode(arch) for arch in self.archs])

    def describe(self, index: int) -> str:
        """Returns one line about one network."""
        arch = self.archs[index]
        return _key(arch) if self.space is None else self.space.describe(arch)

    @property
    def n_initial(self) -> int:
        """How many networks the initial sample has."""
        return int((self.iteration == 0).sum())

    def layers(self, index: int) -> list[Layer]:
        """Returns the layers of one network; [] where the space does not say."""
        classes, width = self.settings.get("n_classes"), self.settings.get("supernet_path")
        if self.space is None:
            return []
        try:
            return self.space.layers(self.archs[index], classes or 1000,
                                     width_from_name(width or ""))
        except UserError:
            return []

    def command(self, index: int) -> str:
        """Returns the `post_search.py` command that writes one network and its weights."""
        return self.command_for([index])

    def command_for(self, indices: Sequence[int]) -> str:
        """Returns the command for several networks; where the space has no weights it lists them.

        Without indices `--pick ''` stands for those to come.
        """
        parts = [*calling("post_search.py"), "--expr", str(self.stats_file), "--pick",
                 ",".join(map(str, indices))]
        own = self.settings.get("search_space") or ""
        if names_code(own):
            parts += ["--search_space", own]
        if self.space is not None and self.space.family is None:
            return shlex.join([*parts, "--list", "--format", "json"])
        parts += ["--save", str(self.folder / "selected")]
        if self.settings.get("supernet_path"):
            parts += ["--supernet_path", self.settings["supernet_path"]]
        return shlex.join(parts)


def read_run(path: str | os.PathLike, search_space: str | None = None) -> RunData:
    """Reads a search, ours or the original's.

    Args:
        path: its folder, or one of its `iter_<i>.stats`.
        search_space: the space where the files do not say. One of the user's own, `module:Class`,
            is imported only if it is named here: reading a folder runs none of its code.

    Raises:
        UserError: no search there, a damaged file, or architectures of an unknown space.
    """
    file = stats_file(path)
    folder = file.parent
    settings = read_stored(folder)
    stats = read_stats(file)
    if not stats.archive:
        raise UserError(f"{file}: the archive holds no evaluated architecture")
    space = _space(stats, settings, search_space)
    archs = [record.arch for record in stats.archive]
    if space is not None:
        _check(file, archs, space)
    history, iteration = _history(file, stats)
    rescores = read_rescores(folder, {_key(arch): i for i, arch in enumerate(archs)})
    return RunData(folder=folder, stats_file=file, settings=settings, space=space,
                   axes=_axes(stats, settings), archs=archs, F=objectives(stats.archive),
                   iteration=np.array([iteration.get(_key(arch), 0) for arch in archs]),
                   figures=_figures(folder, archs, space, history, rescores), history=history,
                   failures=_failures(folder), retries=read_log(folder / RETRIES),
                   events=events.read(folder), reference=None if stats.reference_point is None
                   else np.array(stats.reference_point), rescores=rescores)


def picks(run: RunData) -> list[Pick]:
    """Returns the three networks that a report names: knee, cheapest near the best, best.

    The knee is the front's point with the smallest sum of the error and the mean of the other
    objectives, each scaled to 0..1 over the front: with two objectives the farthest from the line
    between the front's ends (Das 1999).
    """
    front = np.flatnonzero(run.front)
    F = run.minimised[front]
    span = np.ptp(F, axis=0)
    scaled = (F - F.min(axis=0)) / np.where(span > 0, span, 1.0)
    best = int(np.lexsort((F[:, 1], F[:, 0]))[0])
    near = np.flatnonzero(F[:, 0] <= F[best, 0] + WITHIN)
    cheapest = int(near[np.lexsort((F[near, 0], F[near, 1]))[0]])
    knee = int((scaled[:, 0] + scaled[:, 1:].mean(axis=1)).argmin())
    what = run.axes[1].name
    return [Pick("knee", int(front[knee]), "most gained for what it costs"),
            Pick("cheapest near the best", int(front[cheapest]),
                 f"{'highest' if run.axes[1].maximise else 'lowest'} {what} within "
                 f"{WITHIN:g} point of the best"),
            Pick("best", int(front[best]), "lowest top-1 error")]


def _space(stats: Stats, settings: dict[str, Any], typed: str | None) -> SearchSpace | None:
    """The space of a search; resolutions that no setting names are taken from the archive."""
    name = typed or stats.search_space or settings.get("search_space") or "mbv3"
    if names_code(name) and not typed:
        print(f"note: the search space {name} is code of your own, which --search_space {name} "
              "would load; without it architectures are shown as they are written", file=sys.stderr)
        return None
    options = dict(settings)
    if not options.get("resolutions"):
        found = {record.arch.get("r") for record in stats.archive} - {None}
        options["resolutions"] = sorted(found)
    return get_search_space(name, **options)


def _check(file: Path, archs: Sequence[dict[str, Any]], space: SearchSpace) -> None:
    for i, arch in enumerate(archs):
        try:
            space.encode(arch)
        except UserError as error:
            raise UserError(f"{file}: archive[{i}]: {error}") from None


def _axes(stats: Stats, settings: dict[str, Any]) -> tuple[Axis, ...]:
    text = stats.sec_obj or settings.get("sec_obj") or "flops"
    described = {row["name"]: row for row in stats.objectives}
    axes = [Axis("top1_err", "top-1 error", "%")]
    for key in text.split("+"):
        row = described.get(key, {})
        name, unit = axis_parts(key, str(row.get("unit", "")))
        axes.append(Axis(key, name, unit, row.get("direction") == "max"))
    return tuple(axes)


def _key(arch: dict[str, Any]) -> str:
    return json.dumps(arch, sort_keys=True)


def _history(file: Path, last: Stats) -> tuple[list[Iteration], dict[str, int]]:
    """Returns what each stats file up to `file` says, and the iteration of each candidate."""
    stem = file.stem.removeprefix("iter_")
    if not stem.isdecimal():
        return [_entry(0, last)], {}
    history: list[Iteration] = []
    iteration: dict[str, int] = {}
    for number in range(int(stem) + 1):
        path = stats_path(file.parent, number)
        if number == int(stem) or path.exists():
            stats = last if number == int(stem) else read_stats(path)
            history.append(_entry(number, stats))
            iteration |= {_key(record.arch): number for record in stats.candidates}
    return history, iteration


def _entry(number: int, stats: Stats) -> Iteration:
    return Iteration(number, len(stats.archive), stats.hv, stats.surrogate,
                     [record.top1_err for record in stats.candidates],
                     list(stats.surrogate.get("predicted") or []),
                     list(stats.surrogate.get("predicted_std") or []))


def _figures(folder: Path, archs: Sequence[dict[str, Any]], space: SearchSpace | None,
             history: Sequence[Iteration], rescores: Sequence[Rescore]) -> list[dict[str, Any]]:
    """Returns what the space says of each network, and what its evaluations wrote beside."""
    unseen = {network.index: {UNSEEN: network.top1}
              for rescore in rescores for network in rescore.networks}
    measured: dict[str, dict[str, Any]] = {}
    for entry in history:
        for path in (folder / f"iter_{entry.number}").glob("net_*.stats"):
            subnet = path.with_suffix(".subnet")
            if subnet.exists():
                measured[_key(read_json(subnet, "subnet file"))] = read_json(path, "stats file")
    figures = []
    for i, arch in enumerate(archs):
        stats = measured.get(_key(arch), {})
        figures.append(unseen.get(i, {}) | ({} if space is None else space.summary(arch)) | {
            key: stats[key] for key in FIGURES if isinstance(stats.get(key), int | float)})
    return figures


def _failures(folder: Path) -> list[Failure]:
    found = []
    for path in (folder / "failed").glob("it_*_net_*"):
        parts = path.name.split("_")
        if len(parts) == 4 and parts[1].isdecimal() and parts[3].isdecimal():
            record = read_json(path, "record of a failure")
            found.append(Failure(int(parts[1]), int(parts[3]), str(record.get("status", "failed")),
                                 str(record.get("error", "no reason was recorded"))))
    return sorted(found, key=lambda failure: (failure.iteration, failure.index))

