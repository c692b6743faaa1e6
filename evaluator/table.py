"""Tabular benchmarks: an evaluation is a row of a CSV file."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluator.base import Evaluator, digest_of
from search_space import Arch, get_search_space
from search_space.table import Table, TabularSpace, parse_number, parse_numbers, read_table
from utils.errors import UserError


class TableEvaluator(Evaluator):
    """Returns the figures of a table, under the same contract as a supernet's evaluator.

    The stats of an architecture are `top1`, the accuracy column in percent, and every other column
    of its row that holds a number, under the column's name: each can be an objective.

    Args:
        search_space: a space whose architectures are rows of a table.
        space_options: its settings, `table` and `accuracy` among them.
        ignored: options of other evaluators.

    Attributes:
        names: of the columns that can be objectives.

    Raises:
        UserError: the space is none, no table or accuracy is named, or the table lacks a column.
    """

    def __init__(self, search_space: str = "table", space_options: dict[str, Any] | None = None,
                 **ignored: Any) -> None:
        space = get_search_space(search_space, **(space_options or {}))
        if not isinstance(space, TabularSpace):
            raise UserError(f"--evaluator table: the search space {search_space} is no table")
        if not space.table or not space.accuracy:
            raise UserError("--evaluator table needs --table FILE and --accuracy, its column with "
                            "the top-1 accuracy in percent")
        self.space, self.table = space, read_table(space.table)
        keys = self.table.keys(space.key_columns)
        self._row = {key: i for i, key in enumerate(keys)}
        self.top1 = _accuracies(self.table, space.accuracy)
        self.names = [name for name, cells in self.table.columns.items()
                      if name not in space.key_columns
                      and any(parse_number(cell) is not None for cell in cells)]

    def fingerprint(self) -> str:
        """See `Evaluator.fingerprint`: of the names of the columns and all cells."""
        return digest_of("\0".join((name, *cells)).encode("utf-8", "surrogateescape")
                         for name, cells in self.table.columns.items())

    def evaluate(self, arch: Arch, *, batch_scale: float = 1.0) -> dict[str, Any]:
        """Returns the figures of one architecture.

        Args:
            arch: an architecture of the space.
            batch_scale: part of the contract, without influence.

        Raises:
            UserError: an invalid architecture, or one without a row.
        """
        row = self._row_number(self.space.decode(self.space.encode(arch)))
        figures = {name: parse_number(self.table.columns[name][row]) for name in self.names}
        return {**{name: figure for name, figure in figures.items() if figure is not None},
                "top1": float(self.top1[row]), "evaluator": "table"}

    def evaluate_many(self, archs: Sequence[Arch]) -> np.ndarray:
        """Returns the top-1 accuracies (n,) in percent of many architectures."""
        return self.top1[[self._row_number(arch) for arch in archs]]

    def figures(self, name: str) -> np.ndarray:
        """Returns a column of numbers (rows,), in the order of the space's rows.

        Raises:
            UserError: the table lacks it, or a cell of it holds no number.
        """
        rows = [self._row_number(self.space.decode(x)) for x in self.space.rows]
        if name == "top1":
            return self.top1[rows]
        return parse_numbers(self.table, name)[rows]

    def _row_number(self, arch: Arch) -> int:
        key = self.space.key(arch)
        if key not in self._row:
            raise UserError(f"{self.table.path}: no row with {', '.join(self.space.key_columns)} = "
                            f"{', '.join(key)[:200]}")
        return self._row[key]


def _accuracies(table: Table, name: str) -> np.ndarray:
    """Returns accuracies (rows,) in percent.

    Raises:
        UserError: a cell is none, or all of them are fractions.
    """
    accuracies = parse_numbers(table, name)
    for row in np.flatnonzero((accuracies < 0) | (accuracies > 100))[:1]:
        raise UserError(f"{table.path}: row {row + 2}: the column {name} holds "
                        f"{table.column(name)[row]!r}, not an accuracy in percent")
    if len(accuracies) > 1 and accuracies.max() <= 1:
        raise UserError(f"{table.path}: the column {name} holds no accuracy above 1 %, as if they "
                        "were fractions; multiply them by 100")
    return accuracies
