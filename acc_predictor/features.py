"""Genes as the inputs of a regression: what a model of many small choices can add up."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from search_space import SearchSpace

# An ordered gene with more values than this is one column, not one for each step.
MAX_STEPS = 32


@dataclass(frozen=True)
class GeneFeatures:
    """Columns of 0 and 1 for (n, n_var) vectors; all columns of an unused gene are 0.

    An ordered gene has a column for each step that it reaches (`x >= level`), so that the effect
    of a value is the sum of the steps below it and neighbouring values are alike. A gene without
    order has a column for each value (`x == level`). A gene that can be unused has one more, which
    is 1 where it is used. An ordered gene of very many values is one column, scaled to 0..1.

    Attributes:
        gene, level, group: (p,) of each column.
        kind: (p,) `step`, `value`, `used` or `scaled`.
        span: (p,) the range of the gene.
        featurize: (n, n_var) vectors -> (n, k) values of the genes, or of what stands for them, and
            which of them are used.
    """

    gene: np.ndarray
    level: np.ndarray
    group: np.ndarray
    kind: np.ndarray
    span: np.ndarray
    featurize: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

    @classmethod
    def of_space(cls, space: SearchSpace, X: np.ndarray) -> "GeneFeatures":
        """Returns the features of a space; genes that training vectors `X` always use always are.

        Columns of one group of genes (`Gene.group`) are one group here.
        """
        features = space.features
        names = list(dict.fromkeys(feature.group for feature in features))
        optional = np.logical_not(np.all(space.featurize(X.astype(int))[1], axis=0)).tolist()
        columns = [column for i, feature in enumerate(features)
                   for column in _columns(i, np.arange(len(feature.values)), feature.ordered,
                                          optional[i], names.index(feature.group))]
        return cls._join(columns, lambda asked: space.featurize(asked.astype(int)))

    @classmethod
    def of_data(cls, X: np.ndarray) -> "GeneFeatures":
        """Returns the features of vectors of any origin: ordered genes, each its own group."""
        columns = [column for i, values in enumerate(X.T)
                   for column in _columns(i, np.unique(values), True, False, i)]
        return cls._join(columns, lambda asked: (asked, np.ones(asked.shape, dtype=bool)))

    @classmethod
    def _join(cls, columns: Sequence[tuple[int, float, int, str, float]],
              featurize: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]) -> "GeneFeatures":
        gene, level, group, kind, span = zip(*columns, strict=True)
        return cls(np.array(gene), np.array(level), np.unique(group, return_inverse=True)[1],
                   np.array(kind), np.array(span), featurize)

    def __call__(self, X: np.ndarray) -> np.ndarray:
        """Returns the (n, p) features of (n, n_var) vectors."""
        values, used = (part[:, self.gene] for part in self.featurize(X))
        columns = np.select(
            [self.kind == "step", self.kind == "value", self.kind == "used"],
            [values >= self.level, values == self.level, np.ones(values.shape)],
            (values - self.level) / self.span)
        return np.where(used, columns, 0.0)


def _columns(gene: int, values: np.ndarray, ordered: bool, optional: bool,
             group: int) -> list[tuple[int, float, int, str, float]]:
    """Returns (gene, level, group, kind, span) of each column of one gene."""
    span = float(np.ptp(values)) or 1.0
    kind = "step" if ordered else "value"
    levels = values[1:] if ordered else values
    if ordered and len(values) > MAX_STEPS:
        kind, levels = "scaled", values[:1]
    used = [(gene, 0.0, group, "used", span)] if optional else []
    return used + [(gene, float(level), group, kind, span) for level in levels]
