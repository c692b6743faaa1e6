"""How near a search on a table came to the best that the table holds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluator.table import TableEvaluator
from search.objectives import Objective
from utils.pareto import hypervolume, non_dominated, reference_point


@dataclass(frozen=True)
class TableReport:
    """A search on a table, compared with the whole table.

    Attributes:
        share: hypervolume of what was found, as a part of the true front's. The reference point is
            1.01 x the worst of each objective on the true front, or in the whole table where the
            front is a single point.
        regret: the table's best accuracy less the best one found, in percent.
        best: the best accuracy found, in percent.
        n_found: points of the true front that were found.
        n_front: points of the true front.
    """

    share: float
    regret: float
    best: float
    n_found: int
    n_front: int

    def __str__(self) -> str:
        points = "point" if self.n_front == 1 else "points"
        return (f"found {100 * self.share:.2f} % of the true front's hypervolume, {self.n_found} "
                f"of its {self.n_front} {points}; best accuracy {self.best:.2f} %, regret "
                f"{self.regret:.2f} %")


def true_values(evaluator: TableEvaluator, objectives: Sequence[Objective]) -> np.ndarray:
    """Returns (rows, m) minimised values of the whole table: the error, then the objectives.

    Raises:
        UserError: an objective is neither counted nor a column of numbers.
    """
    X = evaluator.space.rows
    columns = [100 - evaluator.figures("top1")]
    for objective in objectives:
        values = objective.values(X) if objective.exact else evaluator.figures(objective.key)
        columns.append(objective.sign * values)
    return np.column_stack(columns)


def table_report(evaluator: TableEvaluator, objectives: Sequence[Objective],
                 F: np.ndarray) -> TableReport:
    """Compares a search with the table that it searched.

    Args:
        evaluator: of the table.
        objectives: of the search, besides the error.
        F: (n, m) minimised values of what the search evaluated.

    Raises:
        UserError: as `true_values`.
    """
    whole = true_values(evaluator, objectives)
    front = whole[non_dominated(whole)]
    reference = reference_point(front if len(front) > 1 else whole)
    found = {tuple(row) for row in np.round(F, 9).tolist()}
    return TableReport(
        share=hypervolume(F, reference) / hypervolume(front, reference),
        regret=float(F[:, 0].min() - whole[:, 0].min()), best=float(100 - F[:, 0].min()),
        n_found=sum(tuple(row) in found for row in np.round(front, 9).tolist()),
        n_front=len(front))
