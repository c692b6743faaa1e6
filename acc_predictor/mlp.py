"""`mlp`: a multi-layer perceptron, trained in numpy.

The network is small: 0.2 million weights, a batch of a few hundred rows. torch would add little but
its import (seconds, 600 MB in the search's own process), and numbers that depend on its threads.
"""

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np

from acc_predictor.base import AccPredictor
from utils.errors import UserError

N_LAYERS, N_HIDDEN = 2, 300
DROPOUT = 0.2
EPOCHS = 2000
LEARNING_RATE = 8e-4
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
TRAIN_SHARE = 0.8
ADAM_SLICES = 16
SHARDS = 2  # parts of the batch, one for each of two threads


class MLP(AccPredictor):
    """1 + 2 hidden layers of 300 with ReLU, dropout before the last (NSGANetV2, Section 3.2).

    Adam with a cosine schedule on the whole batch, smooth L1 loss, 80 % of the points; the weights
    with the least loss on the other 20 % are kept.

    DEVIATION mlp-scale: genes and targets are standardised. On raw ones the dropout of an output
    around 25 percent drowns the signal: Kendall tau on measured ImageNet accuracies 0.38, against
    0.92.

    Args:
        n_layers: hidden layers beyond the first.
        n_hidden: units of each.
        drop: dropout before the last layer.
        epochs: of training.
        options: see `AccPredictor`.

    Raises:
        UserError: a size below 1, or a dropout outside 0..1.
    """

    name = "mlp"

    def __init__(self, *, n_layers: int = N_LAYERS, n_hidden: int = N_HIDDEN,
                 drop: float = DROPOUT, epochs: int = EPOCHS, **options: Any) -> None:
        super().__init__(**options)
        if n_layers < 0 or n_hidden < 1 or epochs < 1 or not 0 <= drop < 1:
            raise UserError(f"mlp: n_layers {n_layers}, n_hidden {n_hidden}, epochs {epochs} and "
                            f"drop {drop} cannot be")
        self.hidden, self.drop, self.epochs = (n_hidden,) * (1 + n_layers), drop, epochs

    def _fit(self, X: np.ndarray, y: np.ndarray) -> None:
        self._x_mean, self._x_std = X.mean(axis=0), X.std(axis=0)
        self._y_mean, self._y_std = y.mean(), y.std()
        X, y = self._scaled(X), ((y - self._y_mean) / self._y_std).astype(np.float32)[:, None]
        seeds = np.random.SeedSequence(self.seed).spawn(1 + SHARDS)
        rng = np.random.default_rng(seeds[0])
        order = rng.permutation(len(X))
        n_train = int(TRAIN_SHARE * len(X))
        parts = zip(np.array_split(order[:n_train], SHARDS),
                    np.array_split(order[n_train:], SHARDS), seeds[1:], strict=True)
        shards = [_Shard(X[train], y[train], X[valid], y[valid], self.hidden, self.drop,
                         np.random.default_rng(seed)) for train, valid, seed in parts]
        with ThreadPoolExecutor(SHARDS - 1) if self.n_jobs > 1 else nullcontext() as pool:
            self._weights = _train(_initial_weights(X.shape[1], self.hidden, rng), shards,
                                   self.epochs, pool)

    def _predict(self, X: np.ndarray) -> np.ndarray:
        values = _buffers(self._scaled(X), self.hidden)
        _forward(_layers(self._weights, X.shape[1], self.hidden), values)
        return values[-1] * self._y_std + self._y_mean

    def _scaled(self, X: np.ndarray) -> np.ndarray:
        return ((X - self._x_mean) / self._x_std).astype(np.float32)


class _Shard:
    """One part of the training and validation points, with its own stream of dropout masks.

    All arrays of a pass are allocated once: new ones would cost as much time as the arithmetic.
    """

    def __init__(self, X_train: np.ndarray, y_train: np.ndarray, X_valid: np.ndarray,
                 y_valid: np.ndarray, hidden: tuple[int, ...], drop: float,
                 rng: np.random.Generator) -> None:
        self.n_train, self.hidden, self.drop, self.rng = len(X_train), hidden, drop, rng
        self.y = np.vstack([y_train, y_valid])
        self.values = _buffers(np.vstack([X_train, X_valid]), hidden)
        self.deltas = _buffers(X_train, hidden)
        self.keep = np.ones((len(self.y), hidden[-1]), dtype=np.float32)

    def gradient(self, layers: list[np.ndarray], parts: list[np.ndarray]) -> float:
        """Writes the gradient of the summed training loss; returns the summed validation loss."""
        n = self.n_train
        draws = self.rng.random((n, self.hidden[-1]), dtype=np.float32)
        np.multiply(draws >= self.drop, 1 / (1 - self.drop), out=self.keep[:n],
                    casting="same_kind")
        _forward(layers, self.values, self.keep)
        error = self.values[-1] - self.y
        np.clip(error[:n], -1, 1, out=self.deltas[-1])
        for i in reversed(range(len(layers))):
            x, delta, below = self.values[i][:n], self.deltas[i + 1], self.deltas[i]
            np.matmul(x.T, delta, out=parts[i][:-1])
            np.sum(delta, axis=0, out=parts[i][-1])
            if i == len(self.hidden):  # one output: the product of a column and a row
                np.multiply(delta, layers[i][:-1].T, out=below)
                below *= self.keep[:n]
            elif i:
                np.matmul(delta, layers[i][:-1].T, out=below)
            if i:
                below *= x > 0
        return float(_smooth_l1(error[n:]).sum())


class _Adam:
    """Kingma and Ba, 2015, on flat weights, in slices that stay in the cache.

    On one thread: two would spend more time on handing over the interpreter than they save.
    """

    def __init__(self, weights: np.ndarray) -> None:
        self.weights, self.mean, self.square = weights, *np.zeros((2, *weights.shape), np.float32)
        self.gradients = np.empty((SHARDS, *weights.shape), dtype=weights.dtype)
        edges = np.linspace(0, len(weights), ADAM_SLICES + 1).astype(int)
        self.slices = [slice(*edge) for edge in itertools.pairwise(edges)]

    def step(self, t: int, rate: float, n: int) -> None:
        """Moves the weights along the gradient, a sum over n points, for the t-th time."""
        scale = math.sqrt(1 - BETA2 ** t)
        step, epsilon = rate * scale / (1 - BETA1 ** t), EPSILON * scale
        for part in self.slices:
            g, mean, square = self.gradients[0, part], self.mean[part], self.square[part]
            for other in self.gradients[1:, part]:
                g += other
            g *= 1 / n
            mean += (1 - BETA1) * (g - mean)
            np.multiply(g, g, out=g)
            g -= square
            g *= 1 - BETA2
            square += g
            np.sqrt(square, out=g)
            g += epsilon
            np.divide(mean, g, out=g)
            g *= step
            self.weights[part] -= g


def _gradients(shards: list[_Shard], layers: list[np.ndarray], parts: list[list[np.ndarray]],
               pool: ThreadPoolExecutor | None) -> float:
    """Lets every shard write its gradient, the first in this thread; returns the total loss."""
    if pool is None:
        return sum(shard.gradient(layers, part) for shard, part in zip(shards, parts, strict=True))
    others = [pool.submit(shard.gradient, layers, part)
              for shard, part in zip(shards[1:], parts[1:], strict=True)]
    return shards[0].gradient(layers, parts[0]) + sum(other.result() for other in others)


def _train(weights: np.ndarray, shards: list[_Shard], epochs: int,
           pool: ThreadPoolExecutor | None) -> np.ndarray:
    """Returns the weights with the least validation loss of all epochs."""
    n_train = sum(shard.n_train for shard in shards)
    adam = _Adam(weights)
    n_genes, hidden = shards[0].values[0].shape[1], shards[0].hidden
    layers = _layers(weights, n_genes, hidden)
    parts = [_layers(gradient, n_genes, hidden) for gradient in adam.gradients]
    best, best_loss = weights, math.inf
    for epoch in range(epochs + 1):
        loss = _gradients(shards, layers, parts, pool)
        if epoch and loss < best_loss:  # the loss of the weights before this epoch's step
            best, best_loss = weights.copy(), loss
        rate = LEARNING_RATE * (1 + math.cos(math.pi * epoch / epochs)) / 2
        adam.step(epoch + 1, rate, n_train)
    return best


def _sizes(n_genes: int, hidden: tuple[int, ...]) -> list[tuple[int, int]]:
    widths = (n_genes, *hidden, 1)
    return [(n_in + 1, n_out) for n_in, n_out in itertools.pairwise(widths)]


def _layers(weights: np.ndarray, n_genes: int, hidden: tuple[int, ...]) -> list[np.ndarray]:
    """Returns views of the flat weights: an (inputs + 1, outputs) matrix each, the bias last."""
    sizes = _sizes(n_genes, hidden)
    ends = np.cumsum([rows * columns for rows, columns in sizes])
    return [part.reshape(size) for part, size in zip(np.split(weights, ends[:-1]), sizes,
                                                     strict=True)]


def _initial_weights(n_genes: int, hidden: tuple[int, ...],
                     rng: np.random.Generator) -> np.ndarray:
    """Returns flat weights, uniform within 1 / sqrt(inputs); biases 0."""
    n_weights = sum(rows * columns for rows, columns in _sizes(n_genes, hidden))
    weights = np.zeros(n_weights, dtype=np.float32)
    for layer in _layers(weights, n_genes, hidden):
        bound = (len(layer) - 1) ** -0.5
        layer[:-1] = rng.uniform(-bound, bound, layer[:-1].shape)
    return weights


def _buffers(X: np.ndarray, hidden: tuple[int, ...]) -> list[np.ndarray]:
    """Returns the (n, d) rows, and room for n values behind each layer."""
    return [X, *(np.empty((len(X), width), dtype=X.dtype) for width in (*hidden, 1))]


def _forward(layers: list[np.ndarray], values: list[np.ndarray],
             keep: np.ndarray | float = 1.0) -> None:
    """Fills `values[1:]` from the rows in `values[0]`; `keep` is the dropout mask."""
    for layer, x, out in zip(layers, values, values[1:], strict=False):
        np.matmul(x, layer[:-1], out=out)
        out += layer[-1]
        if out is not values[-1]:
            np.maximum(out, 0, out=out)
        if out is values[-2]:
            out *= keep


def _smooth_l1(error: np.ndarray) -> np.ndarray:
    size = np.abs(error)
    return np.where(size < 1, 0.5 * size * size, size - 0.5)
