"""What pictures and reports show of a search, read once from its folder. Free of torch."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from search import archive, events
from search.constraints import Limit, parse_limits
from search.finished import FinishedSearch, read_finished
from search.objectives import ERROR
from search.run_folder import RETRIES, RunFolder
from search.selection import (
    MEASURED,
    apart,
    default_trust,
    expected_errors,
    images_of,
)
from search_space.backbones import width_from_name
from search_space.layers import Layer
from utils.errors import UserError
from utils.files import read_log
from utils.invocation import calling
from utils.pareto import non_dominated
from utils.registry import names_code
from visualization.plots import axis_parts
from visualization.unseen import Rescore, read_rescores

# Figures of one evaluation that tables show where its stats hold them.
FIGURES = ("params", "flops", "top5", "loss")
UNSEEN = "unseen_top1"  # name of the figure that `post_search.py --rescore` adds
COLUMNS = (*FIGURES, UNSEEN)  # a gene of the same name is called otherwise
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
class HistoryEntry:
    """What one `iter_<i>.stats` says besides its archive.

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
class Pick:
    """A network that a report recommends: its number in the archive, and why."""

    name: str
    index: int
    reason: str


@dataclass(frozen=True)
class RunData(FinishedSearch):
    """One search, with all that its folder tells.

    Attributes:
        axes: of the objectives; the first is the top-1 error.
        history: one entry for each iteration, ascending.
        iteration: (n,) number of the iteration that evaluated each architecture.
        figures: n dicts of what else is known of each network, by column name.
        failures: evaluations that failed: `iteration`, `index`, `status`, `error`.
        retries: lines of the log of evaluations that were started again.
        events: what the search recorded about its progress, see `search.events`.
        rescores: accuracies of chosen networks on images that the search did not see.
    """

    axes: tuple[Axis, ...]
    history: list[HistoryEntry]
    iteration: np.ndarray
    figures: list[dict[str, Any]]
    failures: list[dict[str, Any]]
    retries: list[str]
    events: list[dict[str, Any]]
    rescores: list[Rescore]

    @property
    def name(self) -> str:
        """The folder's name, as legends show it."""
        return self.folder.resolve().name

    @property
    def title(self) -> str:
        """The name, and the folder of the data set where there is one."""
        data = os.path.basename(os.path.abspath(self.settings.get("data") or "/"))
        return f"{self.name}, data in {data}" if data else self.name

    @cached_property
    def expected(self) -> np.ndarray | None:
        """(n, 2) expected top-1 errors and standard deviations, as `post_search.py` chooses by.

        None where it chooses by what was measured.
        """
        if self.space is None or default_trust(self) == MEASURED:
            return None
        return expected_errors(self.stats.archive, self.vectors, self.space,
                               self.settings.get("seed", 0), images_of(self.settings))

    @cached_property
    def trusted(self) -> np.ndarray:
        """(n, m) objectives, all minimised; the error is the expected one where that is trusted."""
        first = self.minimised[:, :1] if self.expected is None else self.expected[:, :1]
        return np.hstack([first, self.minimised[:, 1:]])

    @cached_property
    def front(self) -> np.ndarray:
        """(n,) bool: the non-dominated architectures by the errors that are trusted."""
        return non_dominated(self.trusted)

    @cached_property
    def limits(self) -> list[tuple[int, Limit]]:
        """The limits of the search's constraint on objectives, each with the number of its axis.

        Raises:
            UserError: the settings hold no constraint but another text.
        """
        numbers = {ERROR: 0} | {axis.key: k for k, axis in enumerate(self.axes) if k}
        limits = parse_limits(self.settings.get("constraint"), lambda name, _: name)
        return [(numbers[limit.name], limit) for limit in limits if limit.name in numbers]

    def describe(self, index: int) -> str:
        """Returns one line about one network."""
        arch = self.archs[index]
        return archive.arch_key(arch) if self.space is None else self.space.describe(arch)

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

    def command(self, *indices: int) -> str:
        """Returns the `post_search.py` command that writes networks with their weights.

        Where the space has no weights it lists them. Without indices, `--pick ''` stands for those
        to come.
        """
        parts = [*calling("post_search.py"), "--expr", str(self.file), "--pick",
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
    """Reads a search, ours or the original's, with everything that a report shows.

    Args:
        path: its folder, or one of its `iter_<i>.stats`.
        search_space: see `search.finished.read_finished`.

    Raises:
        UserError: as `read_finished`, or another file of the search is damaged.
    """
    found = read_finished(path, search_space)
    folder = found.folder
    history, iteration = _history(found)
    keys = [archive.arch_key(arch) for arch in found.archs]
    rescores = read_rescores(folder, {key: i for i, key in enumerate(keys)})
    return RunData(
        **{each.name: getattr(found, each.name) for each in fields(found)}, axes=_axes(found),
        history=history, iteration=np.array([iteration.get(key, 0) for key in keys]),
        figures=_figures(found, history, rescores), failures=_failures(found),
        retries=read_log(folder / RETRIES), events=events.read(folder), rescores=rescores)


def picks(run: RunData) -> list[Pick]:
    """Returns the three networks that a report names: knee, cheapest near the best, best.

    Where some were scored on unseen images, it is these three of them by that accuracy: the one
    that the search measured chose them, and is too high. None is beyond the search's constraint,
    unless all are.

    The knee is the front's point with the smallest sum of the error and the mean of the other
    objectives, each scaled to 0..1 over the front: with two objectives the farthest from the line
    between the front's ends (Das 1999).
    """
    front, F = _candidates(run)
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


def distinct_picks(run: RunData) -> dict[int, list[Pick]]:
    """Returns the picks by the number of their network: one network can be several."""
    found: dict[int, list[Pick]] = {}
    for pick in picks(run):
        found.setdefault(pick.index, []).append(pick)
    return found


def _candidates(run: RunData) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers (k,) of the networks to choose from, and their minimised F (k, m)."""
    scored = {network.index: 100 - network.top1 for rescore in run.rescores[-1:]
              for network in rescore.networks if network.index is not None}
    numbers = np.array(sorted(scored)) if scored else np.arange(len(run.F))
    inside = np.ones(len(numbers), dtype=bool)
    for axis, limit in run.limits:
        inside &= limit.holds(run.F[numbers, axis] if axis else 100 - run.trusted[numbers, 0])
    numbers = numbers[inside | ~inside.any()]
    F = run.trusted[numbers]
    F[:, 0] = [scored.get(i, error) for i, error in zip(numbers.tolist(), F[:, 0], strict=True)]
    front = non_dominated(F)
    return numbers[front], F[front]


def _axes(found: FinishedSearch) -> tuple[Axis, ...]:
    described = {row["name"]: row for row in found.stats.objectives}
    axes = [Axis("top1_err", "top-1 error", "%")]
    for key in found.sec_obj.split("+"):
        row = described.get(key, {})
        name, unit = axis_parts(key, str(row.get("unit", "")))
        axes.append(Axis(key, name, unit, row.get("direction") == "max"))
    return tuple(axes)


def _history(found: FinishedSearch) -> tuple[list[HistoryEntry], dict[str, int]]:
    """Returns what each iteration up to the file's gave, and the iteration of each candidate.

    Of a large search most files are removed (see `search.archive.remove_previous`): the events say
    how large the archive was then, and its scores; predictions are not known.
    """
    stem = found.file.stem.removeprefix("iter_")
    if not stem.isdecimal():
        return [_entry(0, found.stats)], {}
    history: list[HistoryEntry] = []
    iteration: dict[str, int] = {}
    known = {each["iteration"]: each for each in events.read(found.folder)
             if each["event"] == "iteration" and type(each.get("n_evaluated")) is int
             and type(each.get("hv")) in (int, float)}
    n_before = 0
    for number in range(int(stem) + 1):
        path = archive.stats_path(found.folder, number)
        if number == int(stem) or path.exists():
            stats = found.stats if number == int(stem) else archive.read_stats(path)
            history.append(_entry(number, stats))
        elif number in known:
            stats = _recorded(found.stats, known[number], n_before)
            history.append(_entry(number, stats))
        else:
            continue
        new = stats.archive[n_before:] if n_before else []
        iteration |= {archive.arch_key(record.arch): number for record in (*new, *stats.candidates)}
        n_before = len(stats.archive)
    return history, iteration


def _recorded(last: archive.Stats, event: dict[str, Any], n_before: int) -> archive.Stats:
    """Returns the stats of an iteration by its event: a part of the last archive, and scores."""
    scores = {key: event[key] for key in archive.SURROGATE_SCORES
              if type(event.get(key)) in (int, float)}
    n = event["n_evaluated"]
    return replace(last, archive=last.archive[:n], candidates=last.archive[n_before:n],
                   hv=event["hv"], surrogate={**dict.fromkeys(archive.SURROGATE_SCORES), **scores})


def _entry(number: int, stats: archive.Stats) -> HistoryEntry:
    return HistoryEntry(number, len(stats.archive), stats.hv, stats.surrogate,
                        [record.top1_err for record in stats.candidates],
                        list(stats.surrogate.get("predicted") or []),
                        list(stats.surrogate.get("predicted_std") or []))


def _figures(found: FinishedSearch, history: Sequence[HistoryEntry],
             rescores: Sequence[Rescore]) -> list[dict[str, Any]]:
    """Returns what the space says of each network, and what its evaluations wrote."""
    unseen = {network.index: {UNSEEN: network.top1}
              for rescore in rescores for network in rescore.networks}
    folders = [found.folder / f"iter_{entry.number}" for entry in history]
    measured = {archive.arch_key(each.arch): each.stats for folder in folders if folder.is_dir()
                for each in archive.read_evaluations(folder)}
    figures = []
    for i, arch in enumerate(found.archs):
        stats = measured.get(archive.arch_key(arch), {})
        genes = {} if found.space is None else found.space.summary(arch)
        figures.append(unseen.get(i, {}) | apart(
            genes, {*COLUMNS, *found.sec_obj.split("+")}, "gene") | {
            key: stats[key] for key in FIGURES if stats.get(key) is not None})
    return figures


def _failures(found: FinishedSearch) -> list[dict[str, Any]]:
    records = RunFolder(found.folder).read_failed(check_arch=bool)
    return [{"iteration": iteration, "index": index, "status": each.status, "error": each.error}
            for (iteration, index), each in sorted(records.items())]
