"""Folders of the original program, and folders of networks, as the start of a search."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from search import archive as archives
from search.algorithm import Search
from search.archive import Evaluation, Record
from search.objectives import Objective, SpaceCosts, recorded_cost
from search_space import SearchSpace
from search_space.base import rows_in
from utils.errors import UserError
from utils.pareto import reference_point

# Within which a recorded value is the computed one: the original rounds to two digits.
DIGIT, ROUNDING = 0.01, 1e-3


def adopt(search: Search) -> None:
    """Takes over the folder of the original program: its archive and its finished networks.

    What no `iter_<i>.stats` holds yet, of the highest iteration in the folder, is written as that
    iteration's archive; the search resumes with the next one.

    Raises:
        UserError: a damaged file, nothing evaluated, or an objective that was not measured.
    """
    if search.folder is None:
        raise UserError("a search without a folder has nothing to take over")
    path = search.folder.path
    last = max(_numbers(path), default=0)
    search.restore()
    if search.folder.iteration(last).exists():
        return
    evaluations = _evaluations(path, search.space)
    X = search.space.encode_many(each.arch for each in evaluations)
    new = ~rows_in(X, search.X)
    records = [record for record, is_new in zip(_records(search, evaluations, X), new, strict=True)
               if is_new]
    if not records and not search.archive:
        raise UserError(f"{path}: holds no evaluated architecture to resume from")
    if search.reference is None:
        F = archives.objectives(records, search.signs)
        search.reference = reference_point(F)
    search.add(last, records, X[new])


def check_recorded(path: Path, space: SearchSpace, objectives: Sequence[Objective],
                   costs: SpaceCosts) -> None:
    """Compares what a folder of the original recorded with what this search computes instead.

    A latency by another table, or costs of other networks, would give another front.

    Args:
        path: the folder.
        space, objectives, costs: of the search that would adopt it.

    Raises:
        UserError: a value differs by more than its rounding; or a damaged file.
    """
    evaluations = _evaluations(path, space)
    recorded = {objective: [(each.arch, each.value(objective.key)) for each in evaluations
                            if each.stats.get(objective.key) is not None]
                for objective in objectives if objective.exact}
    if any(path.glob("iter_*.stats")):
        stats = archives.read_stats(path := archives.latest_stats(path), space.encode)
        names = stats.names or [_name(stats, space, objectives[0], costs) or ""]
        for objective in (each for each in recorded if each.name in names):
            column = names.index(objective.name)
            recorded[objective] += [(row.arch, row.values[column]) for row in stats.archive]
    for objective, rows in recorded.items():
        found = objective.values(space.encode_many(arch for arch, _ in rows))
        shown = [f"{was:g} is {now:.4g} here" for (_, was), now in zip(rows, found, strict=True)
                 if abs(was - now) > DIGIT + ROUNDING * now]
        if shown:
            way = "name the table that they were taken from with --lut FILE" if \
                objective.source == "table" else "name the supernet and the classes of that search"
            raise UserError(f"{path}: {len(shown)} of {len(rows)} recorded values of "
                            f"{objective.name} differ from those of this search "
                            f"({'; '.join(shown[:3])}); {way}, or take this search's with "
                            "--accept_changed_inputs")


def _name(stats: archives.Stats, space: SearchSpace, objective: Objective,
          costs: SpaceCosts) -> str:
    """Returns what the second objective of an archive without names is; empty: not known."""
    found = recorded_cost(np.array([record.sec_obj for record in stats.archive]),
                          space.encode_many(record.arch for record in stats.archive), costs)
    return found or (objective.name if objective.source == "table" else "")


def _numbers(path: Path) -> list[int]:
    """Returns the numbers of the iterations in a folder, ascending."""
    return sorted({int(entry.stem.removeprefix("iter_")) for entry in path.glob("iter_*")
                   if entry.stem.removeprefix("iter_").isdecimal()})


def _evaluations(path: Path, space: SearchSpace) -> list[Evaluation]:
    """Returns the finished networks of a folder and of its iterations."""
    folders = [path, *(path / f"iter_{i}" for i in _numbers(path))]
    return [each for folder in folders if folder.is_dir()
            for each in archives.read_evaluations(folder, space.encode)]


def _records(search: Search, evaluations: list[Evaluation], X: np.ndarray) -> list[Record]:
    """Returns the records of finished evaluations with the objectives of the search."""
    columns = [objective.values(X).tolist() if objective.exact
               else [each.value(objective.key) for each in evaluations]
               for objective in search.objectives]
    return [Record(each.arch, each.top1_err, float(first), tuple(map(float, further)))
            for each, first, *further in zip(evaluations, *columns, strict=True)]
