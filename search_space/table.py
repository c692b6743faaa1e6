"""Search spaces that are tables: every architecture is a row of a CSV file with its figures."""

import csv
import gzip
import io
import math
import os
import re
import sys
import zlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import IO, Any, ClassVar

import numpy as np

from search_space.base import Arch, Gene, SearchSpace, rows_in
from search_space.values import check_keys, position
from utils.errors import UserError
from utils.files import MAX_TEXT_BYTES, open_regular

# Predicting as many rows takes a few seconds.
MAX_ENUMERATED = 50_000
# NAS-Bench-101, the largest table, has 423,624 rows of 13 cells.
MAX_CELLS, MAX_LINE = 10_000_000, 2**20
SEPARATORS = ",;\t"
_COMMA = re.compile(r"-?(0|[1-9]\d*),\d+", re.ASCII)
_GROUPED = re.compile(r"-?\d+([,.' ]\d+)+", re.ASCII)
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class Table:
    """A CSV file as text.

    Attributes:
        path: the file.
        columns: name -> one text for each row, in the order of the file.
    """

    path: str
    columns: dict[str, tuple[str, ...]]

    def column(self, name: str) -> tuple[str, ...]:
        """Returns a column; raises UserError where the table lacks it."""
        if name not in self.columns:
            raise UserError(f"{self.path}: no column {name[:60]!r}; it has "
                            f"{', '.join(self.columns):.400}")
        return self.columns[name]

    def keys(self, names: Sequence[str]) -> list[tuple[str, ...]]:
        """Returns the texts of some columns, row by row.

        Raises:
            UserError: a column is missing, or two rows are equal in all of them.
        """
        rows = list(zip(*(self.column(name) for name in names), strict=True))
        if len(set(rows)) < len(rows):
            twice = next(row for row, count in Counter(rows).items() if count > 1)
            raise UserError(f"{self.path}: two rows with {', '.join(names)} = "
                            f"{', '.join(twice)[:120]}; each architecture has one row")
        return rows


def read_table(path: str | os.PathLike) -> Table:
    """Reads a table (`.csv` or `.csv.gz`); a second call for an unchanged file is free.

    Commas, semicolons or tabs separate its cells. In a file with semicolons, a comma within a
    number is a decimal comma. A first column without a name, an index, is left out.

    Raises:
        UserError: the file is missing, damaged or empty, or rows differ in length.
    """
    try:
        status = os.stat(path)
        return _read_table(os.fspath(path), (status.st_ino, status.st_size, status.st_mtime_ns,
                                             status.st_ctime_ns))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"{path}: not a readable table (CSV): {reason}") from None


@lru_cache(maxsize=4)
def _read_table(path: str, stamp: tuple[int, ...]) -> Table:
    """Reads a table; `stamp` is what changes whenever the file does."""
    rows: list[list[str]] = []
    n_cells = 0
    with open_regular(path) as raw, (gzip.open(raw) if path.endswith(".gz") else raw) as content:
        lines = _lines(io.TextIOWrapper(content, "utf-8-sig", newline=""))
        first = next(lines, "")
        separator = max(SEPARATORS, key=lambda mark: len(next(csv.reader([first], delimiter=mark))))
        for row in csv.reader(chain([first], lines), delimiter=separator, strict=True):
            rows += [row] if row else []
            n_cells += len(row)
            if n_cells > MAX_CELLS:
                raise ValueError(f"more than {MAX_CELLS} cells")
    if not rows:
        raise ValueError("empty")
    if not rows[0][0]:  # the column without a name that pandas writes, numbers of the rows
        rows = [row[1:] for row in rows]
    header, rows = rows[0], rows[1:]
    if not rows or len(set(header)) < len(header) or not all(header):
        raise UserError(f"{path}: a table has a header of different names and at least one row")
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise UserError(f"{path}: row {number} has {len(row)} cells, the header "
                            f"{len(header)}")
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    return Table(path, _with_points(path, columns) if separator == ";" else columns)


def _with_points(path: str, columns: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Returns the columns of a file with semicolons, its decimal commas replaced by points."""
    found = {name: tuple(text.replace(",", ".") for text in cells)
             for name, cells in columns.items() if any(map(_COMMA.fullmatch, cells))
             and all(_COMMA.fullmatch(text) or parse_number(text) is not None for text in cells)}
    for name in [*found][:1]:
        text = next(filter(_COMMA.fullmatch, columns[name]))
        print(f"note: {path}: semicolons separate its cells, so commas are decimal commas: {text} "
              f"of {name} is {text.replace(',', '.')}", file=sys.stderr)
    return columns | found


def _lines(file: IO[str]) -> Iterator[str]:
    """Gives the lines of a text that is not longer than any table: it may be compressed."""
    n_read = 0
    while line := file.readline(MAX_LINE):
        n_read += len(line)
        if len(line) == MAX_LINE or n_read > MAX_TEXT_BYTES:
            raise ValueError(f"more than {MAX_LINE} characters in a line, or {MAX_TEXT_BYTES} in "
                             "all")
        yield line


def parse_number(text: str) -> int | float | None:
    """Returns the finite number that a cell holds; None for other text, and for "0012"."""
    if not _NUMBER.fullmatch(text):
        return None
    number = float(text)
    if not math.isfinite(number):
        return None
    return int(text) if text.lstrip("-").isdecimal() else number


def parse_numbers(table: Table, name: str) -> np.ndarray:
    """Returns a column of numbers (rows,), in the order of the file.

    Raises:
        UserError: the table lacks it, or a cell holds no finite number; the message names the row.
    """
    texts = table.column(name)
    numbers = [parse_number(text) for text in texts]
    bad = [row for row, number in enumerate(numbers) if number is None]
    if bad:
        text = texts[bad[0]]
        advice = "complete the row, or remove it from the table"
        if _GROUPED.fullmatch(text):
            advice = ("write numbers with a decimal point and without a separator of thousands, as "
                      "13045 or 13.045")
        raise UserError(f"{table.path}: row {bad[0] + 2}: the column {name[:60]} holds "
                        f"{text[:40]!r}, which is no number ({len(bad)} of "
                        f"{len(texts)} rows); {advice}")
    return np.array(numbers, dtype=float)


class TabularSpace(SearchSpace):
    """A space whose architectures are rows of a table.

    Policy: a vector within the bounds that no row has stands for the nearest row, by the number of
    genes that differ (ordered genes: by how far), with ties decided by the vector itself. So the
    operators of a search need not know which combinations exist: `canonical` gives those alone.

    Attributes:
        table: path of the table; None where the space is known without it.
        accuracy: its column with the top-1 accuracy in percent.
        key_columns: its columns that identify the architecture of a row.
        rows: (n, n_var) canonical vectors of all architectures; (0, n_var) where they are not
            listed, and every normal vector is one.
    """

    default_evaluator: ClassVar[str] = "table"
    options: ClassVar[tuple[str, ...]] = ("table", "accuracy")
    key_columns: tuple[str, ...]
    default_accuracy: ClassVar[str | None] = None
    table: str | None
    rows: np.ndarray

    def __init__(self, table: str | None = None, accuracy: str | None = None) -> None:
        self.table = table
        self.accuracy = accuracy or self.default_accuracy
        self._nearest: dict[bytes, int] = {}
        self._known: dict[bytes, int] | None = None

    @abstractmethod
    def key(self, arch: Arch) -> tuple[str, ...]:
        """Returns what the `key_columns` of the architecture's row hold."""

    def normal(self, X: np.ndarray) -> np.ndarray:
        """Returns (n, n_var) vectors where equivalent ones are equal, before rows are looked up."""
        return np.array(X, dtype=np.int64)

    def contains(self, X: np.ndarray) -> np.ndarray:
        """Returns an (n,) bool array: which vectors have a row of their own."""
        return rows_in(self.normal(X), self.rows)

    def canonical(self, X: np.ndarray) -> np.ndarray:
        """Returns, for each of (n, n_var) vectors, its row or the nearest one."""
        X = self.normal(X)
        if not len(self.rows):
            return X
        if self._known is None:
            self._known = {row.tobytes(): i for i, row in enumerate(self.rows)}
        found = [self._known.get(x.tobytes(), -1) for x in X]
        chosen = [self._closest(x) if i < 0 else i for i, x in zip(found, X, strict=True)]
        canonical: np.ndarray = self.rows[np.array(chosen, dtype=int)]
        return canonical.reshape(X.shape)

    def enumerate(self) -> np.ndarray | None:
        """Returns all rows, unless they are unknown or too many to predict each of them."""
        return self.rows if 0 < len(self.rows) <= MAX_ENUMERATED else None

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Returns (n, n_var) canonical vectors, every row equally likely; duplicates can occur."""
        if not len(self.rows):
            return super().draw(n, rng)
        return self.rows[rng.integers(len(self.rows), size=n)]

    def extremes(self) -> list[Arch]:
        """Returns the rows nearest to the lower and the upper bounds of all genes."""
        first, last = self.canonical(np.vstack([self.lower, self.upper]))
        if (first == last).all():
            last = self.rows[int(np.argmax(self._distances(first)))]
        return [self.decode(first), self.decode(last)]

    def initialize(self, n_doe: int, *, rng: np.random.Generator) -> list[Arch]:
        """See `SearchSpace.initialize`; the whole table is a sample, too."""
        if n_doe == len(self.rows) >= 2:
            ends = self.encode_many(self.extremes())
            rest = rng.permutation(self.rows[~rows_in(self.rows, ends)])
            return [self.decode(x) for x in [*ends, *rest]]
        return super().initialize(n_doe, rng=rng)

    def _distances(self, x: np.ndarray) -> np.ndarray:
        """Returns the distance (n,) of every row to a vector; it lies in 0..n_var."""
        span = np.maximum(self.upper - self.lower, 1)
        apart = np.abs(self.rows - x) / span
        ordered = np.array([gene.ordered for gene in self.genes])
        return np.where(ordered, apart, self.rows != x).sum(axis=1)

    def _closest(self, x: np.ndarray) -> int:
        """Returns the nearest row's number; of equally near ones, the vector's bytes choose."""
        key = x.tobytes()
        if key not in self._nearest:
            distances = self._distances(x)
            ties = np.flatnonzero(distances <= distances.min() + 1e-9)
            self._nearest[key] = int(ties[zlib.crc32(key) % len(ties)])
        return self._nearest[key]


class TableSearchSpace(TabularSpace):
    """Any table: architectures `{column: value}` of the columns that are genes.

    A column whose cells are all numbers is an ordered gene, every other one a choice.

    Args:
        table: a CSV file, `.csv` or `.csv.gz`, with a header.
        genes: its columns that make an architecture: names, or one text joined by commas.
        accuracy: its column with the top-1 accuracy in percent.

    Raises:
        UserError: nothing given, a file that cannot be read, or columns that it lacks.
    """

    name = "table"
    options: ClassVar[tuple[str, ...]] = ("table", "genes", "accuracy")

    def __init__(self, table: str | None = None, genes: str | Sequence[str] | None = None,
                 accuracy: str | None = None) -> None:
        super().__init__(table, accuracy)
        if not table or not genes:
            own = "" if genes else (", and the columns that make an architecture, as --genes "
                                    "links,op1,op2")
            raise UserError(f"the search space {self.name} needs a table, as --table FILE{own}")
        names = genes.split(",") if isinstance(genes, str) else list(genes)
        content = read_table(table)
        keys = content.keys(names)
        self.key_columns = tuple(names)
        self._genes = tuple(_gene(name, content.column(name)) for name in names)
        self.upper = np.array([len(gene.values) - 1 for gene in self._genes])
        self.lower = np.zeros_like(self.upper)
        columns = [_indices(gene, content.column(gene.name)) for gene in self._genes]
        self.rows = np.array(columns, dtype=np.int64).T.copy()
        self._texts = {row.tobytes(): key for row, key in zip(self.rows, keys, strict=True)}
        if len(self._texts) < len(keys):
            raise UserError(f"{table}: two rows hold the same numbers in {', '.join(names)}; each "
                            "architecture has one row")

    @property
    def settings(self) -> dict[str, Any]:
        """See `SearchSpace.settings`."""
        own = {"table": self.table, "genes": ",".join(self.key_columns), "accuracy": self.accuracy}
        return {option: own[option] for option in self.options}

    @property
    def genes(self) -> tuple[Gene, ...]:
        """What each integer stands for: a value of a column."""
        return self._genes

    def encode(self, arch: Arch) -> np.ndarray:
        """Returns the (n_var,) vector of a row; raises UserError where the table has none."""
        check_keys(arch, self.key_columns)
        x = np.array([position(gene.name, arch[gene.name], gene.values) for gene in self._genes])
        if x.astype(np.int64).tobytes() not in self._texts:
            raise UserError(f"{self.table}: no row with {self.describe(arch)[:200]}")
        return x

    def decode(self, x: np.ndarray) -> Arch:
        """Returns the architecture of a vector, that of the nearest row where none has it."""
        row = self.canonical(self.check(x)[None])[0]
        return {gene.name: gene.values[i] for gene, i in zip(self._genes, row, strict=True)}

    def key(self, arch: Arch) -> tuple[str, ...]:
        """Returns the cells of the architecture's row."""
        return self._texts[self.encode(arch).astype(np.int64).tobytes()]

    def summary(self, arch: Arch) -> dict[str, int | float | str]:
        """Returns the architecture itself: its genes are columns."""
        return {name: arch[name] for name in self.key_columns}


def _gene(name: str, texts: Sequence[str]) -> Gene:
    """Returns the gene of a column: its distinct numbers or texts, in ascending order."""
    numbers = [parse_number(text) for text in set(texts)]
    values: list[Any] = [number for number in numbers if number is not None]
    if len(values) < len(numbers):
        return Gene(name, tuple(sorted(set(texts))), name, ordered=False)
    if not all(isinstance(value, int) for value in values):
        values = [float(value) for value in values]
    return Gene(name, tuple(sorted(set(values))), name)


def _indices(gene: Gene, texts: Sequence[str]) -> list[int]:
    """Returns the position of each cell of a column among the values of its gene."""
    read = type(gene.values[0])
    index = {value: i for i, value in enumerate(gene.values)}
    return [index[read(text)] for text in texts]
