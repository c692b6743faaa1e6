"""A search as its files tell it: the one reader for all that look at what a search has found.

Reading runs no code that a folder names: a search space of the user's own is imported only where
the caller names it.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from search.archive import Stats, objectives, read_stats, stats_file
from search.objectives import SpaceCosts, recorded_cost
from search.run_folder import RunFolder
from search.settings import Settings
from search_space import DEFAULT, RESOLUTIONS, SearchSpace, get_search_space, search_space_class
from utils.errors import UserError, note, one_line
from utils.invocation import program
from utils.pareto import non_dominated
from utils.registry import names_code

# The second objective of a file that does not name it, where it is no larger a part of the FLOPs.
UNNAMED, LATENCY = "unnamed", 0.08


@dataclass(frozen=True)
class FinishedSearch:
    """What every program reads of a search.

    Attributes:
        file: the `iter_<i>.stats` that was read.
        settings: the flags of the search; {} for one of the original's.
        stats: its archive, of at least one architecture.
        space: its search space; None where that is code of the user's that the caller did not name.
        space_name: the name of that space; None where no file says one (the original's).
        sec_obj: names of the objectives besides the error, joined by `+`.
        vectors: (n, n_var) encoded architectures; (n, 0) without a space.
    """

    file: Path
    settings: dict[str, Any]
    stats: Stats
    space: SearchSpace | None
    space_name: str | None
    sec_obj: str
    vectors: np.ndarray

    @property
    def folder(self) -> Path:
        """The folder of the search."""
        return self.file.parent

    @cached_property
    def archs(self) -> list[dict[str, Any]]:
        """The n architectures in the order of evaluation."""
        return [record.arch for record in self.stats.archive]

    @cached_property
    def F(self) -> np.ndarray:  # noqa: N802
        """(n, m) objectives in their own units and directions; column 0 the error in percent."""
        return objectives(self.stats.archive)

    @cached_property
    def minimised(self) -> np.ndarray:
        """(n, m) objectives, all minimised."""
        return objectives(self.stats.archive, self.stats.signs)

    @cached_property
    def front(self) -> np.ndarray:
        """(n,) bool: the non-dominated architectures."""
        return non_dominated(self.minimised)


def read_finished(path: str | os.PathLike, search_space: str | None = None,
                  sec_obj: str | None = None, **options: Any) -> FinishedSearch:
    """Reads a search, ours or the original's, finished or still running.

    Args:
        path: its folder, or one of its `iter_<i>.stats`.
        search_space: the space where the files do not say; code of the user's must be named.
        sec_obj: names of the objectives where the files do not say; then `flops`.
        options: of the search space, in place of the stored ones; None leaves those.

    Raises:
        UserError: no search there, a damaged file, other objectives or another search space than
            the files name, or architectures of an unknown space.
    """
    file = stats_file(path)
    settings, stats = read_settings(file.parent), read_stats(file)
    if not stats.archive:
        raise UserError(f"{file}: the archive holds no evaluated architecture")
    names = _agreed(file, "sec_obj", sec_obj, stats.sec_obj or settings.get("sec_obj")) or "flops"
    n_objectives = len(stats.archive[0].values)
    if names.count("+") + 1 != n_objectives:
        raise UserError(f"{file}: --sec_obj must name each objective besides the error: "
                        f"{n_objectives} of them, not {names[:60]}")
    # A space of the user's own may write a short name; the settings say how it is imported.
    stored = settings.get("search_space") or stats.search_space
    if search_space and stored == search_space_class(search_space).name:
        stored = search_space
    name = _agreed(file, "search_space", search_space, stored)
    given = {key: value for key, value in options.items() if value is not None}
    space = None if names_code(name) and not search_space else \
        get_search_space(name or DEFAULT, **_with_resolutions(settings, stats) | given)
    if space is None:
        note(f"the search space {one_line(name)} is code of your own, which --search_space "
             f"{one_line(name)} would load; without it, architectures are neither checked nor "
             "decoded")
    vectors = encoded(str(file), stats, space)
    if space is not None and n_objectives == 1 and not (stats.sec_obj or settings.get("sec_obj")):
        names = _recorded_name(file, sec_obj, stats, SpaceCosts(space), vectors)
    return FinishedSearch(file, settings, stats, space, name, names, vectors)


def _recorded_name(file: Path, typed: str | None, stats: Stats, costs: SpaceCosts,
                   vectors: np.ndarray) -> str:
    """Returns the second objective of a file of the original, which does not name it.

    Raises:
        UserError: its values are another one than was typed.
    """
    values = np.array([record.sec_obj for record in stats.archive])
    found = recorded_cost(values, vectors, costs)
    if found or typed or not costs.available:
        if typed is None and found != "flops":
            note(f"{file}: does not name its second objective; its values are those of --sec_obj "
                 f"{found}")
        return _agreed(file, "sec_obj", typed, found) or "flops"
    if np.median(values / costs.counted("flops")(vectors)) > LATENCY:
        return "flops"
    note(f"{file}: does not name its second objective, whose values, as {values[0]:g}, are neither "
         f"FLOPs nor parameters in millions; name it, as {program('post_search.py')} --sec_obj cpu "
         "does")
    return UNNAMED


def _agreed(file: Path, flag: str, typed: str | None, stored: str | None) -> str | None:
    """Returns what was typed or is stored; raises UserError where the two differ."""
    if typed and stored and typed != stored:
        raise UserError(f"{file}: its --{flag} is {stored}, not {typed}; leave --{flag} out")
    return typed or stored


def _with_resolutions(settings: Mapping[str, Any], stats: Stats) -> dict[str, Any]:
    """Returns settings whose resolutions, where none are stored, are those of the archive."""
    found = {r for record in stats.archive if type(r := record.arch.get("r")) is int}
    return {**settings, "resolutions": settings.get("resolutions")
            or sorted(found & {*RESOLUTIONS}) or None}


def encoded(place: str, stats: Stats, space: SearchSpace | None) -> np.ndarray:
    """Returns the (n, n_var) vectors of an archive; (n, 0) without a space.

    Raises:
        UserError: an architecture of another space; the message begins with `place`.
    """
    rows: list[Any] = []
    for i, record in enumerate(stats.archive):
        try:
            rows.append([] if space is None else space.encode(record.arch))
        except UserError as error:
            raise UserError(f"{place}: archive[{i}]: {error}") from None
    return np.array(rows, dtype=int)


def read_settings(folder: str | os.PathLike) -> dict[str, Any]:
    """Returns the settings that a search has stored, each of the type of its flag.

    Returns:
        What `settings.json` holds, without the flags of one call; {} where there is none (a search
        of the original).

    Raises:
        UserError: the file is damaged, or a value has another type.
    """
    run = RunFolder(folder)
    stored = run.read_settings()
    for name, kind in get_type_hints(Settings).items():
        if name in stored and not _is_of(stored[name], kind):
            raise UserError(f"{run.settings}: {name!r} must be of type "
                            f"{getattr(kind, '__name__', kind)}, not {str(stored[name])[:60]!r}; "
                            "correct the file")
    return stored


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value of a JSON file is of the type of a setting, such as `list[int] | None`."""
    if isinstance(kind, UnionType):
        return any(_is_of(value, option) for option in get_args(kind))
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_is_of(item, *get_args(kind)) for item in value)
    return type(value) is kind or (kind is float and type(value) is int)
