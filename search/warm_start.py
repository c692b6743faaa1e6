"""Another search's archive as the start of a new one: its rows, or its best architectures.

An accuracy is taken over where it would be the same if it were measured again: the same evaluator
on the same supernet (or oracle, or table), data, split, seed and settings. Then all rows stand for
the initial sample, the exact objectives computed again, and nothing is evaluated before the first
iteration. Otherwise, as for another data set, the errors only tell which architectures are worth
evaluating first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from search.algorithm import Search
from search.archive import Record, Stats, objectives, read_stats
from search.constraints import Constraints, initial_sample
from search.evolution import survivors
from search.finished import encoded, read_settings
from search.objectives import Objective
from search_space import SearchSpace
from search_space.base import unique_rows
from utils.errors import UserError

# What decides an accuracy, besides the files and folders that are known by fingerprints.
_ANY = ("dataset", "n_classes", "vld_size", "test", "n_epochs", "trn_batch_size", "amp", "seed")
DECIDES: Mapping[str, tuple[str, ...]] = {"oracle": (), "table": ("accuracy", "genes")}
INPUTS = ("supernet_path", "oracle_path", "table", "vld_size", "data", "evaluator")


@dataclass(frozen=True)
class WarmStart:
    """The rows of another search, as far as a new one can use them.

    Attributes:
        path: the stats file.
        records: its rows with the objectives of the new search, where they are taken over.
        X, F: (n, n_var) its architectures and (n, m) their minimised objectives there, where they
            are evaluated again.
        reason: why they are; None where the rows are taken over.
    """

    path: Path
    records: list[Record]
    X: np.ndarray
    F: np.ndarray
    reason: str | None

    def describe(self, n_doe: int) -> str:
        """Returns a line for the plan of a search."""
        if self.reason is None:
            return f"starts from {len(self.records)} evaluated architectures of {self.path}"
        return (f"the initial sample of {n_doe} takes its architectures from {self.path} and "
                f"evaluates them: {self.reason}")

    def apply(self, search: Search) -> None:
        """Gives a search its start, which has neither evaluated nor restored anything.

        Raises:
            UserError: as `search.constraints.initial_sample`.
        """
        if self.reason is None:
            search.progress.n_planned += len(self.records) - search.n_doe
            search.progress.n_known += len(self.records)
            search.add(0, self.records, search.space.encode_many(
                row.arch for row in self.records))
        else:
            rng = np.random.default_rng([search.seed, 0])
            search.initial = self.sample(search.space, search.n_doe, search.constraints, rng)

    def sample(self, space: SearchSpace, n: int, constraints: Constraints,
               rng: np.random.Generator) -> np.ndarray:
        """Returns the (n, n_var) initial sample: the best by rank, then random ones."""
        within = constraints.exact_violation(self.X) <= 0
        X = self.X[within][survivors(self.F[within], n)]
        if len(X) < n:
            X = unique_rows(np.vstack([X, initial_sample(space, n, rng, constraints=constraints)]))
        return X[:n]


def read_warm_start(path: Path, space: SearchSpace, wanted: Sequence[Objective],
                    settings: Mapping[str, Any], inputs: Mapping[str, str],
                    reused: bool | None = None) -> WarmStart:
    """Reads another search's archive and decides what of it a new search can use.

    Args:
        path: its stats file.
        space, wanted: the space and the objectives of the new search.
        settings, inputs: of the new search: its flags and the fingerprints of what it reads.
        reused: what was decided before, where the search is resumed.

    Raises:
        UserError: a missing or damaged file, another search space, or no rows.
    """
    stats = read_stats(path)
    if stats.search_space not in (None, space.name):
        raise UserError(f"--warm_start {path}: of the search space {stats.search_space}, not "
                        f"{space.name}; a search starts from one in the same space")
    if len(stats.archive) < 2:
        raise UserError(f"--warm_start {path}: holds no two evaluated architectures")
    X = encoded(f"--warm_start {path}", stats, space)
    if reused is None:
        reason = difference(settings, inputs, read_settings(path.parent)) \
            or unknown_objective(wanted, stats)
    else:
        reason = None if reused else "as when the search was started"
    if reason is not None:
        return WarmStart(path, [], X, costs_of(stats, X, wanted), reason)
    measured = objectives(stats.archive)[:, 1:]
    columns = [objective.values(X) if objective.exact
               else measured[:, stats.names.index(objective.name)] for objective in wanted]
    records = [Record(record.arch, record.top1_err, float(first), tuple(map(float, further)))
               for record, first, *further in zip(stats.archive, *columns, strict=True)]
    return WarmStart(path, records, X[:0], np.zeros((0, 1)), None)


def difference(settings: Mapping[str, Any], inputs: Mapping[str, str],
               stored: Mapping[str, Any]) -> str | None:
    """Returns why accuracies of two searches cannot be compared; None where they can.

    Args:
        settings, inputs: of the new search.
        stored: `settings.json` of the other one; {} where it has none.
    """
    before, evaluator = stored.get("inputs"), settings["evaluator"]
    if not isinstance(before, dict):
        return "no file tells what its accuracies were measured on"
    names = ("evaluator", *DECIDES.get(evaluator, _ANY))
    changed = [name for name in names if stored.get(name) != settings[name]]
    changed += [name for name in INPUTS if before.get(name) != inputs.get(name)]
    return f"another --{', --'.join(dict.fromkeys(changed))}" if changed else None


def unknown_objective(wanted: Sequence[Objective], stats: Stats) -> str | None:
    """Returns which objective neither can be computed nor stands in the rows; None where none."""
    known = [(row.get("name"), row.get("source")) for row in stats.objectives]
    missing = [objective.name for objective in wanted
               if not objective.exact and (objective.name, objective.source) not in known]
    return f"it has not measured {', '.join(missing)}" if missing else None


def costs_of(stats: Stats, X: np.ndarray, wanted: Sequence[Objective]) -> np.ndarray:
    """Returns the (n, m) minimised objectives by which the rows are compared.

    The costs are the new search's where it can compute them, else those that were measured.
    """
    F = objectives(stats.archive, stats.signs)
    if not all(objective.exact for objective in wanted):
        return F
    return np.column_stack([F[:, 0], *(objective.sign * objective.values(X)
                                       for objective in wanted)])
