"""What every search space offers: bounds, sampling, and the way from architecture to integers."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from utils.errors import UserError

Arch = dict[str, Any]

MAX_DRAWS = 100


class SearchSpace(ABC):
    """A finite set of architectures and their integer encoding.

    Policy: a vector may hold genes that its architecture does not use; `canonical` sets them to 0,
    and `encode` always returns the canonical vector. Two vectors are the same architecture exactly
    when their canonical forms are equal. Randomness comes from the generator that is passed in.

    Attributes:
        name: key in `search_space.SEARCH_SPACES`.
        lower, upper: (n_var,) int arrays, the inclusive bounds of every gene.
    """

    name: str
    lower: np.ndarray
    upper: np.ndarray

    @property
    def n_var(self) -> int:
        """Number of genes."""
        return len(self.lower)

    @abstractmethod
    def encode(self, arch: Arch) -> np.ndarray:
        """Returns the canonical (n_var,) integer vector; raises UserError for an invalid arch."""

    @abstractmethod
    def decode(self, x: np.ndarray) -> Arch:
        """Returns the architecture of an (n_var,) integer vector, canonical or not.

        Raises:
            UserError: wrong length, not integers, or a gene outside its bounds.
        """

    @abstractmethod
    def canonical(self, X: np.ndarray) -> np.ndarray:
        """Returns a copy of the (n, n_var) integer array with all unused genes set to 0."""

    @abstractmethod
    def extremes(self) -> list[Arch]:
        """Returns the smallest and the largest architecture."""

    def check(self, x: np.ndarray) -> np.ndarray:
        """Returns `x` as an (n_var,) int array; raises UserError where it is no valid vector."""
        vector = np.asarray(x)
        if vector.shape != (self.n_var,):
            raise UserError(f"an encoded architecture of the space {self.name} has {self.n_var} "
                            f"genes, not the shape {vector.shape}")
        if vector.dtype.kind not in "iuf" or not np.all(np.equal(np.mod(vector, 1), 0)):
            raise UserError(f"an encoded architecture holds whole numbers, not {x!r}")
        vector = vector.astype(int)
        outside = np.flatnonzero((vector < self.lower) | (vector > self.upper))
        if len(outside):
            i = outside[0]
            raise UserError(f"gene {i} of the encoded architecture is {vector[i]}, but must lie in "
                            f"{self.lower[i]}..{self.upper[i]}")
        return vector

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Returns (n, n_var) canonical vectors, every gene uniform; duplicates can occur."""
        X = rng.integers(self.lower, self.upper, size=(n, self.n_var), endpoint=True)
        return self.canonical(X)

    def sample(self, n_samples: int = 1, *, rng: np.random.Generator) -> list[Arch]:
        """Draws `n_samples` architectures independently and uniformly, gene by gene."""
        return [self.decode(x) for x in self.draw(n_samples, rng)]

    def initialize(self, n_doe: int, *, rng: np.random.Generator) -> list[Arch]:
        """Returns the initial sample: the smallest, the largest, then distinct random ones.

        Raises:
            UserError: fewer than 2 asked for, or more than the space could give.
        """
        if n_doe < 2:
            raise UserError(f"the initial sample holds at least the smallest and the largest "
                            f"architecture: n_doe must be 2 or more, not {n_doe}")
        X = np.array([self.encode(arch) for arch in self.extremes()])
        for _ in range(MAX_DRAWS):
            X = unique_rows(np.vstack([X, self.draw(n_doe, rng)]))[:n_doe]
            if len(X) == n_doe:
                return [self.decode(x) for x in X]
        raise UserError(f"no {n_doe} different architectures found in the space {self.name}; "
                        "choose a smaller initial sample")


def unique_rows(X: np.ndarray) -> np.ndarray:
    """Returns the distinct rows of a 2-d array in the order of their first appearance."""
    _, first = np.unique(X, axis=0, return_index=True)
    return X[np.sort(first)]


def rows_in(X: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns an (n,) bool array: which rows of `X` (n, d) also stand in `others` (m, d)."""
    known = {row.tobytes() for row in np.ascontiguousarray(others, dtype=np.int64)}
    rows = np.ascontiguousarray(X, dtype=np.int64)
    return np.fromiter((row.tobytes() in known for row in rows), dtype=bool, count=len(rows))
