"""Spaces whose architectures are lists of numbers, each one of a few options: all but the tables.

A space says which choices there are (`_all_choices`); the encoding follows from that.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from search_space.base import Arch, Gene, SearchSpace
from search_space.layers import Layer, Slot
from search_space.values import (
    check_keys,
    checked_resolutions,
    entries,
    position,
    without_wrapping,
)

Genes = Mapping[int, int] | Sequence[int]
Needs = tuple[int, int] | None


@dataclass(frozen=True)
class Choice:
    """One number of an architecture.

    Attributes:
        key: of the architecture that it stands under: `d` (depth of a stage), `r`, ...
        stage: what its depth is.
        options: the possible values; with one alone there is no gene, except for `r`.
        name, group: for people, see `Gene`.
        place: it is used where the depth of its stage is above this.
        values: what the options mean, where they are indices.
        gene: its position in the vector, or None.
        needs: see `Gene.needs`.
    """

    key: str
    stage: int
    options: tuple[Any, ...]
    name: str
    group: str
    place: int = -1
    values: tuple[Any, ...] = ()
    gene: int | None = None
    needs: Needs = None

    def pick(self, genes: Genes) -> Any:
        """Returns the value that positions, by gene, choose."""
        return self.options[0 if self.gene is None else genes[self.gene]]

    def used(self, genes: Genes) -> bool:
        """Whether its stage is deep enough."""
        return is_there(self.needs, genes)

    def needed(self, place: int) -> Needs:
        """Returns what a block at a place of the stage needs of this depth; see `Gene.needs`."""
        least = sum(option <= place for option in self.options)
        return (self.gene, least) if least and self.gene is not None else None


def is_there(needs: Needs, genes: Genes) -> bool:
    """Whether positions, by gene, have what something needs."""
    return needs is None or genes[needs[0]] >= needs[1]


class ChoiceSpace(SearchSpace):
    """Architectures of lists under `keys`, and the resolution under `r`.

    Args:
        resolutions: the input resolutions in pixels, ascending.

    Attributes:
        keys: of its architectures, in their order.
        lists_unused: whether lists have entries for blocks beyond a stage's depth, too.
        by_key: the choices, in the order of the lists.
    """

    options: ClassVar[tuple[str, ...]] = ("resolutions",)
    keys: ClassVar[tuple[str, ...]]
    lists_unused: ClassVar[bool] = False

    def __init__(self, resolutions: Sequence[int]) -> None:
        self.resolutions = checked_resolutions(resolutions)
        choices = _numbered([*self._all_choices(), Choice(
            "r", -1, tuple(self.resolutions), "resolution", "resolution")])
        self.by_key = {key: [choice for choice in choices if choice.key == key]
                       for key in self.keys}
        self._genes = tuple(Gene(c.name, c.values or c.options, c.group, needs=c.needs)
                            for c in choices if c.gene is not None)
        self.upper = np.array([len(gene.values) - 1 for gene in self._genes])
        self.lower = np.zeros_like(self.upper)

    @abstractmethod
    def _all_choices(self) -> list[Choice]:
        """Returns the choices in the order of the encoding, without the resolution's."""

    @property
    def genes(self) -> tuple[Gene, ...]:
        """What each integer stands for."""
        return self._genes

    def encode(self, arch: Arch) -> np.ndarray:
        """Returns the canonical (n_var,) integer vector; raises UserError for an invalid arch."""
        arch = without_wrapping(arch)
        check_keys(arch, self.keys)
        x = [0] * self.n_var
        for key in sorted(self.keys, key="d".__ne__):  # depths first: they decide what is used
            listed = [c for c in self.by_key[key] if self.lists_unused or c.used(x)]
            values = [arch[key]] if key == "r" else \
                entries({key: self._without_unused(arch[key], key, x)}, key, len(listed))
            for choice, value in zip(listed, values, strict=True):
                index = position(key, value, choice.options)
                if choice.gene is not None and choice.used(x):
                    x[choice.gene] = index
        return np.array(x)

    def _without_unused(self, values: Any, key: str, x: Sequence[int]) -> Any:
        """Returns a list of the `ofa` package, of all layers, without those that are not used."""
        choices = self.by_key[key]
        if self.lists_unused or not isinstance(values, list | tuple) or len(values) != len(choices):
            return values
        return [value for value, choice in zip(values, choices, strict=True) if choice.used(x)]

    def decode(self, x: np.ndarray) -> Arch:
        """Returns the architecture of an (n_var,) vector; raises UserError for an invalid vector.

        Where unused entries are listed, they hold the first option.
        """
        genes = self.check(x).tolist()
        arch: Arch = {key: [c.pick(genes) if c.used(genes) else c.options[0] for c in choices
                            if self.lists_unused or c.used(genes)]
                      for key, choices in self.by_key.items()}
        return {**arch, "r": arch["r"][0]}

    def choices(self, X: np.ndarray) -> dict[str, np.ndarray]:
        """Returns what (n, n_var) vectors choose, in the order of the lists at full length.

        Returns:
            Positions of the options by key, (n, k) each; `used` (n, layers), whether each layer is
            there.
        """
        X = np.asarray(X)
        genes: dict[str, Any] = {key: [choice.gene for choice in choices]
                                 for key, choices in self.by_key.items()}
        return {key: X[:, own] for key, own in genes.items()} | {
            "used": self.active(X)[:, genes["e"]]}

    def resolutions_of(self, X: np.ndarray) -> np.ndarray:
        """Returns the input resolutions (n,) in pixels of (n, n_var) vectors."""
        return np.array(self.resolutions)[np.asarray(X)[:, -1]]

    def _slot(self, choices: Sequence[Choice], build: Callable[[Genes], tuple[Layer, ...]],
              needs: Needs = None) -> Slot:
        """Returns a part of the network that some choices, and the resolution, decide.

        Args:
            choices: those about it.
            build: takes positions by gene and returns the layers.
            needs: as `Gene.needs`: where it is left out.
        """
        genes = [*(needs[:1] if needs else ()),
                 *(choice.gene for choice in choices if choice.gene is not None), self.n_var - 1]

        def layers(*values: int) -> tuple[Layer, ...]:
            chosen = dict(zip(genes, values, strict=True))
            return build(chosen) if is_there(needs, chosen) else ()

        return Slot(tuple(genes), layers)


def _numbered(choices: Sequence[Choice]) -> list[Choice]:
    """Gives the choices their genes, and to those about a block the depth that it needs."""
    free = [choice for choice in choices if len(choice.options) > 1 or choice.key == "r"]
    genes = {id(choice): i for i, choice in enumerate(free)}
    numbered = [replace(choice, gene=genes.get(id(choice))) for choice in choices]
    depths = {choice.stage: choice for choice in numbered if choice.key == "d"}
    return [replace(choice, needs=depths[choice.stage].needed(choice.place))
            if choice.stage in depths else choice for choice in numbered]
