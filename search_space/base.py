"""What every search space offers: bounds, sampling, and the way from architecture to integers."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from search_space.layers import Layer, Slot
from utils.errors import UserError
from utils.flags import short

Arch = dict[str, Any]

MAX_DRAWS = 100


@dataclass(frozen=True)
class Gene:
    """What one integer of the encoding stands for.

    Attributes:
        name: for people: "stage 3, layer 2: kernel".
        values: what the integers from the lower to the upper bound mean.
        group: genes of one group may share a weight in a surrogate: "stage 3 kernel".
        ordered: whether the values have an order; False for a choice of operations.
        needs: (i, k) where it is used only if gene i has at least its k-th value, counted from 0:
            the kernel of a layer needs a stage of that depth. None where it is always used.
    """

    name: str
    values: tuple[Any, ...]
    group: str
    ordered: bool = True
    needs: tuple[int, int] | None = None


class SearchSpace(ABC):
    """A finite set of architectures and their integer encoding.

    Policy: a vector may hold genes that its architecture does not use; `canonical` sets them to
    their lower bound, and `encode` always returns the canonical vector. Two vectors are the same
    architecture exactly when their canonical forms are equal. Randomness comes from the generator
    that is passed in. Architectures are dicts that JSON can hold.

    A space of your own must have `name`, `lower`, `upper`, `encode` and `decode`. It adds `genes`
    with their `needs`, or `active`, where genes can be unused, and `layers` or (faster) `slots`
    where the costs of its networks are counted; nothing else needs them.

    Attributes:
        name: key in `search_space.SEARCH_SPACES`, or any name for a space of your own.
        default_evaluator: the row of `evaluator.EVALUATORS` that answers unless another is named.
        options: settings that the constructor takes as keywords. A space with "resolutions" among
            them has the resolution under the key `r` of its architectures.
        sequential: whether the layers run one after another, so that the memory that a network
            needs can be counted.
        default_width: width multiplier of the supernet, where nothing else names one.
        family: row of `networks.FAMILIES` that builds its networks; None where there is none.
        lower, upper: (n_var,) int arrays, the inclusive bounds of every gene.
    """

    name: str
    options: ClassVar[tuple[str, ...]] = ()
    family: ClassVar[str | None] = None
    default_evaluator: ClassVar[str] = "ofa"
    default_width: ClassVar[float] = 1.0
    sequential: ClassVar[bool] = True
    lower: np.ndarray
    upper: np.ndarray

    @property
    def settings(self) -> dict[str, Any]:
        """The `options` of the constructor with which this space was made; None: not known."""
        return {option: getattr(self, option, None) for option in self.options}

    @property
    def n_var(self) -> int:
        """Number of genes."""
        return len(self.lower)

    @property
    def genes(self) -> tuple[Gene, ...]:
        """What each integer stands for; by default, integers within its bounds."""
        return tuple(Gene(f"gene {i}", tuple(range(low, high + 1)), f"gene {i}")
                     for i, (low, high) in enumerate(zip(self.lower.tolist(), self.upper.tolist(),
                                                         strict=True)))

    @property
    def features(self) -> tuple[Gene, ...]:
        """What a surrogate sees of an architecture: by default, its genes."""
        return self.genes

    def featurize(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the features of (n, n_var) canonical vectors.

        Returns:
            (n, k) positions in the `values` of each feature, and (n, k) bool: which are used.
        """
        return X - self.lower, self.active(X)

    @abstractmethod
    def encode(self, arch: Arch) -> np.ndarray:
        """Returns the canonical (n_var,) integer vector; raises UserError for an invalid arch."""

    def encode_many(self, archs: Iterable[Arch]) -> np.ndarray:
        """Returns the canonical (n, n_var) vectors of n architectures; see `encode`."""
        return np.array([self.encode(arch) for arch in archs], dtype=int).reshape(-1, self.n_var)

    @abstractmethod
    def decode(self, x: np.ndarray) -> Arch:
        """Returns the architecture of an (n_var,) integer vector, canonical or not.

        Raises:
            UserError: wrong length, not integers, or a gene outside its bounds.
        """

    def extremes(self) -> list[Arch]:
        """Returns the smallest and the largest architecture: all genes at one of their bounds."""
        return [self.decode(self.lower), self.decode(self.upper)]

    def active(self, X: np.ndarray) -> np.ndarray:
        """Returns an (n, n_var) bool array: the genes in use, see `Gene.needs`."""
        deciding, least = self._conditions
        return np.asarray(X)[..., deciding] >= least

    @cached_property
    def _conditions(self) -> tuple[np.ndarray, np.ndarray]:
        """For each gene, the gene that decides whether it is used, and from which integer on."""
        needs = [gene.needs or (i, 0) for i, gene in enumerate(self.genes)]
        deciding = np.array([i for i, _ in needs])
        return deciding, self.lower[deciding] + [k for _, k in needs]

    def canonical(self, X: np.ndarray) -> np.ndarray:
        """Returns a copy of the (n, n_var) integer array, unused genes at their lower bound.

        DEVIATION unused-genes: the original leaves them as they are, and evaluates equal networks.
        """
        X = np.asarray(X, dtype=int)
        return np.where(self.active(X), X, self.lower)

    def contains(self, X: np.ndarray) -> np.ndarray:
        """Returns an (n,) bool array: which (n, n_var) vectors name an architecture that exists.

        All do, unless a space is a table with gaps; `canonical` turns others into one that exists.
        """
        return np.ones(len(X), dtype=bool)

    def enumerate(self) -> np.ndarray | None:
        """Returns all architectures, (n, n_var) canonical vectors, where they are few; else None.

        A strategy may then compare all of them instead of searching among them.
        """
        return None

    def describe(self, arch: Arch) -> str:
        """Returns one line about an architecture, for people."""
        return ", ".join(f"{key} {short(value)}" for key, value in arch.items())

    def summary(self, arch: Arch) -> dict[str, int | float | str]:
        """Returns what tables show of an architecture, by column: {"resolution": 224}."""
        resolution = self.resolution(arch)
        return {} if resolution is None else {"resolution": resolution}

    def resolution(self, arch: Arch) -> int | None:
        """Returns the input resolution in pixels; None where the space has no such choice."""
        return arch["r"] if "resolutions" in self.options else None

    def slots(self, n_classes: int = 1000, width_mult: float = 1.0) -> list[Slot]:
        """Returns the parts of the network in the order of the forward pass.

        The layers of an architecture are those that its slots pick, joined.

        Args:
            n_classes: outputs of the classifier.
            width_mult: width multiplier of the supernet.

        Raises:
            UserError: what the networks of this space consist of is not known, or a bad argument.
        """
        if type(self).layers is SearchSpace.layers:
            raise UserError(f"the search space {self.name} does not define the layers of its "
                            "networks, so their costs are unknown")

        def build(*values: int) -> tuple[Layer, ...]:
            return tuple(self.layers(self.decode(np.array(values)), n_classes, width_mult))

        return [Slot(tuple(range(self.n_var)), build)]

    def layers(self, arch: Arch, n_classes: int = 1000, width_mult: float = 1.0) -> list[Layer]:
        """Returns the layers of one network, from the input to the classifier.

        Args:
            arch: an architecture of this space.
            n_classes, width_mult: as in `slots`.

        Raises:
            UserError: as `slots`, or `arch` does not belong to the space.
        """
        slots, x = self.slots(n_classes, width_mult), self.encode(arch)
        return [layer for slot in slots for layer in slot.pick(x)]

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
        X = self.encode_many(self.extremes())
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
