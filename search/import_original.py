"""Folders of the original program, and folders of networks, as the start of a search."""

import numpy as np

from search import archive as archives
from search.algorithm import Search
from search.archive import Evaluation, Record
from search_space.base import rows_in
from utils.errors import UserError
from utils.pareto import reference_point


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
    numbers = {int(entry.stem.removeprefix("iter_")) for entry in path.glob("iter_*")
               if entry.stem.removeprefix("iter_").isdecimal()}
    last = max(numbers, default=0)
    search.restore()
    if search.folder.iteration(last).exists():
        return
    folders = [path, *(path / f"iter_{i}" for i in sorted(numbers))]
    evaluations = [each for folder in folders if folder.is_dir()
                   for each in archives.read_evaluations(folder, search.space.encode)]
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


def _records(search: Search, evaluations: list[Evaluation], X: np.ndarray) -> list[Record]:
    """Returns the records of finished evaluations with the objectives of the search."""
    columns = [objective.values(X).tolist() if objective.exact
               else [each.value(objective.key) for each in evaluations]
               for objective in search.objectives]
    return [Record(each.arch, each.top1_err, float(first), tuple(map(float, further)))
            for each, first, *further in zip(evaluations, *columns, strict=True)]
