"""`carts`: an ensemble of regression trees, grown and queried in bulk."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from acc_predictor.base import AccPredictor
from utils.errors import UserError

N_TREES = 5000
TREES_PER_BLOCK = 50
ROWS_PER_BLOCK = 64
TIE = 1e-9  # splits whose gains differ by less than this, relatively, are equally good
NO_GAIN = 1e-30  # lifts splits that reduce no variance above none at all


class CARTs(AccPredictor):
    """The mean of 5,000 regression trees (NSGANetV2, Section 3.2).

    Each tree sees all points and a random subset, of random size, of the genes. It is a plain CART
    (Breiman et al., 1984): at each node the split with the largest reduction of variance, ties
    broken by a random order of the tree's genes, threshold in the middle between the neighbouring
    values, until a node is pure.

    Genes take few values, so all splits of a node come from one histogram, and the histograms of
    all nodes of a level, over a block of trees, from one sparse matrix product.

    Args:
        n_tree: how many trees.
        options: see `AccPredictor`.

    Raises:
        UserError: no trees.
    """

    name = "carts"
    max_points = 1500

    def __init__(self, *, n_tree: int = N_TREES, **options: Any) -> None:
        super().__init__(**options)
        if n_tree < 1:
            raise UserError(f"n_tree must be 1 or more, not {n_tree}")
        self.n_tree = n_tree

    def _fit(self, X: np.ndarray, y: np.ndarray) -> None:
        self._mean = y.mean()
        splits = _Splits.of(X, y - self._mean)
        blocks = range(0, self.n_tree, TREES_PER_BLOCK)
        sizes = [min(TREES_PER_BLOCK, self.n_tree - first) for first in blocks]
        seeds = np.random.SeedSequence(self.seed).spawn(len(sizes))
        with ThreadPoolExecutor(self.n_jobs) as pool:
            forests = list(pool.map(lambda n, seed: _random_block(
                splits, n, np.random.default_rng(seed)), sizes, seeds))
        self._forest = _Forest.join(forests)

    def _predict(self, X: np.ndarray) -> np.ndarray:
        blocks = [X[i:i + ROWS_PER_BLOCK] for i in range(0, len(X), ROWS_PER_BLOCK)]
        return self._mean + np.concatenate([self._forest.predict(rows) for rows in blocks])


@dataclass(frozen=True)
class _Splits:
    """The training set, and every split that it allows: left where `X[:, feature] <= value`.

    Attributes:
        X, y: (n, d) points and (n,) centred targets.
        feature, value: (c,) the gene of each split and the value that it splits at.
        table: (n, 2c + 1) whether a point goes left, that times its target, and its target.
    """

    X: np.ndarray
    y: np.ndarray
    feature: np.ndarray
    value: np.ndarray
    table: np.ndarray

    @classmethod
    def of(cls, X: np.ndarray, y: np.ndarray) -> "_Splits":
        values = [np.unique(column)[:-1] for column in X.T]
        left = np.hstack([X[:, [f]] <= value for f, value in enumerate(values)])
        feature = np.repeat(np.arange(X.shape[1]), [len(value) for value in values])
        table = np.hstack([left, left * y[:, None], y[:, None]])
        return cls(X, y, feature, np.concatenate(values), table)


@dataclass(frozen=True)
class _Forest:
    """Trees as flat arrays over nodes; the children of node i are `child[2 i]` and `[2 i + 1]`.

    A leaf is its own child. `value` is the mean target of a node's points.
    """

    roots: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    child: np.ndarray
    value: np.ndarray

    @classmethod
    def join(cls, forests: list["_Forest"]) -> "_Forest":
        sizes = [len(forest.value) for forest in forests]
        first = np.cumsum([0, *sizes[:-1]], dtype=np.int32)
        return cls(
            np.concatenate([f.roots + i for f, i in zip(forests, first, strict=True)]),
            np.concatenate([f.feature for f in forests]),
            np.concatenate([f.threshold for f in forests]),
            np.concatenate([f.child + i for f, i in zip(forests, first, strict=True)]),
            np.concatenate([f.value for f in forests]))

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Returns the (n,) mean over the trees of the leaves that (n, d) rows fall into."""
        X = X.astype(np.float32)
        node = np.repeat(self.roots, len(X))
        row = np.tile(np.arange(len(X)), len(self.roots))
        moving = np.arange(len(node))
        while len(moving):
            at = node[moving]
            right = X[row[moving], self.feature[at]] > self.threshold[at]
            to = self.child[2 * at + right]
            node[moving] = to
            moving = moving[to != at]
        return self.value[node].reshape(len(self.roots), len(X)).mean(axis=0)


@dataclass(frozen=True)
class _Level:
    """Some nodes of one depth; node j holds the points `sample[start[j]:start[j + 1]]`.

    Attributes:
        tree: (m,) the tree of each node within its block.
        sample: points, node after node.
        start: (m + 1,) where the points of each node begin.
    """

    tree: np.ndarray
    sample: np.ndarray
    start: np.ndarray

    @property
    def size(self) -> np.ndarray:
        return np.diff(self.start)

    def reduce(self, ufunc: np.ufunc, values: np.ndarray) -> np.ndarray:
        """Returns the (m,) reduction over each node's points of one value for each point."""
        return ufunc.reduceat(values, self.start[:-1])

    def only(self, chosen: np.ndarray) -> "_Level":
        """Returns the nodes of an (m,) mask."""
        points = np.repeat(chosen, self.size)
        return _Level(self.tree[chosen], self.sample[points], _starts(self.size[chosen]))


def _starts(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)])


def _random_block(splits: _Splits, n: int, rng: np.random.Generator) -> _Forest:
    """Grows a block of `n` trees, each on a random subset, of random size, of the genes."""
    d = splits.X.shape[1]
    ranks = rng.random((n, d)).argsort(axis=1)
    return _grow(splits, ranks < rng.integers(1, d + 1, (n, 1)), rng)


def _grow(splits: _Splits, genes: np.ndarray, rng: np.random.Generator) -> _Forest:
    """Grows trees level by level, all nodes of a level at once; tree t may use `genes` (t, d)."""
    n = len(splits.X)
    preference = np.where(genes, 1 + TIE * rng.random(genes.shape), -1)[:, splits.feature]
    trees = np.arange(len(genes), dtype=np.int32)
    level = _Level(trees, np.tile(np.arange(n), len(trees)), _starts(np.full(len(trees), n)))
    features, thresholds, children, values, first = [], [], [], [], 0
    while len(level.tree):
        y = splits.y[level.sample]
        m = len(level.tree)
        feature, threshold = np.zeros(m, dtype=np.int16), np.zeros(m, dtype=np.float32)
        child = np.repeat(np.arange(first, first + m, dtype=np.int32), 2)
        values.append(level.reduce(np.add, y) / level.size)
        split = level.reduce(np.maximum, y) > level.reduce(np.minimum, y)
        open_nodes = level.only(split)
        column = _best_splits(splits, open_nodes, preference)
        split[split] = column >= 0
        level, cut = _divide(splits, open_nodes.only(column >= 0), column[column >= 0])
        feature[split], threshold[split] = splits.feature[column[column >= 0]], cut
        first += m
        child[np.repeat(split, 2)] = first + np.arange(len(level.tree))
        features.append(feature)
        thresholds.append(threshold)
        children.append(child)
    return _Forest(trees, *(np.concatenate(each)
                            for each in (features, thresholds, children, values)))


def _best_splits(splits: _Splits, level: _Level, preference: np.ndarray) -> np.ndarray:
    """Returns the (m,) best split of each node, as an index into `splits`; -1 where none divides.

    With `d = sum of the left targets - left size x mean`, the reduction of the sum of squares is
    `d^2 x size / (left size x right size)`. The (t, c) `preference` of each tree multiplies it: a
    little more than 1, by which ties are broken, or -1 for genes that the tree may not use.
    """
    m, c = len(level.tree), len(splits.feature)
    if not m:
        return np.empty(0, dtype=int)
    members = csr_matrix((np.ones(len(level.sample)), level.sample, level.start),
                         shape=(m, len(splits.X)))
    sums = members @ splits.table
    size = level.size[:, None]
    n_left, sum_left, mean = sums[:, :c], sums[:, c:2 * c], sums[:, 2 * c:] / size
    divisor = n_left * (size - n_left)
    gain = sum_left - n_left * mean
    gain *= gain
    gain += NO_GAIN
    gain /= np.maximum(divisor, 1)
    gain *= preference[level.tree]
    gain[divisor == 0] = -1
    column = gain.argmax(axis=1)
    return np.where(gain[np.arange(m), column] > 0, column, -1)


def _divide(splits: _Splits, level: _Level, column: np.ndarray) -> tuple[_Level, np.ndarray]:
    """Returns the level below, left and right child of each node in turn, and (m,) thresholds."""
    m = len(level.tree)
    if not m:
        return level, np.empty(0)
    node = np.repeat(np.arange(m), level.size)
    x = splits.X[level.sample, splits.feature[column][node]]
    left = x <= splits.value[column][node]
    low = level.reduce(np.maximum, np.where(left, x, -np.inf))
    high = level.reduce(np.minimum, np.where(left, np.inf, x))
    n_left = level.reduce(np.add, left.astype(int))
    start = _starts(np.column_stack([n_left, level.size - n_left]).ravel())
    sample = level.sample[np.argsort(2 * node + ~left, kind="stable")]
    return _Level(np.repeat(level.tree, 2), sample, start), (low + high) / 2
