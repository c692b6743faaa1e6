"""Rows of a table on standard output: aligned text, CSV, JSON."""

import csv
import json
import sys
from collections.abc import Sequence
from typing import Any

from utils.errors import one_line

# Characters that make a cell of a spreadsheet a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def print_text(rows: Sequence[dict[str, Any]]) -> None:
    """Prints rows as an aligned table."""
    rows = [{key: value for key, value in row.items() if key != "arch"} for row in rows]
    table = [[*map(one_line, rows[0])], *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(map(str.rjust, line, widths)))


def print_csv(rows: Sequence[dict[str, Any]]) -> None:
    """Prints rows as comma-separated values with a header; architectures as JSON.

    What a spreadsheet would run as a formula begins with an apostrophe.
    """
    lines = [[*rows[0]], *([*{**row, "arch": json.dumps(row["arch"])}.values()] for row in rows)]
    csv.writer(sys.stdout, lineterminator="\n").writerows(
        [f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell
         for cell in line] for line in lines)


PRINTERS = {"table": print_text, "csv": print_csv,
            "json": lambda rows: print(json.dumps(rows, indent=1))}


def _cell(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else one_line(value)
