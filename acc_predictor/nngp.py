"""`nngp`: a Gaussian process with the kernel of an infinitely wide ReLU network."""

import copy
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from scipy.linalg import cho_solve, solve_triangular
from scipy.linalg.lapack import dpotrf, dpotri
from scipy.optimize import minimize

from acc_predictor.base import AccPredictor
from acc_predictor.features import GeneFeatures

N_LAYERS = 3
MAX_ITERATIONS = 60
# Hyperparameters are learned from at most so many points, drawn from the seed.
MAX_POINTS = 600
# Logarithms of standard deviations: what is likely before any data, and how likely.
WEIGHT, BIAS, SCALE, NOISE = (0.3, 1.0), (1.0, 1.0), (1.0, 1.0), (0.05, 1.0)
PRIOR_REACH = 6  # the search for hyperparameters ends so many standard deviations away
CONSTANT = 1.0  # variance of the mean
JITTER, MAX_JITTERS = 1e-8, 12


class Features(Protocol):
    """What turns (n, d) vectors into (n, p) columns; (p,) `group` says which share a weight."""

    @property
    def group(self) -> np.ndarray:
        """The (p,) group of each column."""

    def __call__(self, X: np.ndarray) -> np.ndarray:
        """Returns the (n, p) columns of (n, d) vectors."""


class NNGP(AccPredictor):
    """Gaussian process regression on the steps of the genes, with a learned weight for each group.

    Inputs: `GeneFeatures`, centred. The genes of one group (all kernel sizes of a stage) share a
    weight, which is learned, and so is the noise. The kernel is that of a network of ReLU layers:
    mostly additive, with interactions of all genes, as accuracies are.

    Hyperparameters: the maximum of the posterior density under weak log-normal priors, by L-BFGS
    with analytic gradients.

    Source: Cho and Saul, "Kernel methods for deep learning" (2009), Equation 7, applied once for
    each layer; Lee et al., "Deep neural networks as Gaussian processes" (2018).

    Args:
        n_layers: hidden layers of the network.
        least_noise: standard deviation in percent that the noise of the targets has at least. Few
            points that are far apart do not tell noise from interactions of genes.
        options: see `AccPredictor`.
    """

    name = "nngp"
    max_points = 2500
    gives_std = True

    def __init__(self, *, n_layers: int = N_LAYERS, least_noise: float = 0.0,
                 **options: Any) -> None:
        super().__init__(**options)
        self.n_layers, self.least_noise = n_layers, least_noise

    def _fit(self, X: np.ndarray, y: np.ndarray) -> None:
        whole = self._whole(X)
        self._features = self._make_features(whole)
        columns, group = self._features(whole), self._features.group
        self._centre = columns.mean(axis=0)
        norms = np.bincount(group, ((columns - self._centre) ** 2).mean(axis=0))
        self._norm = np.sqrt(np.where(norms > 0, norms, 1.0))[group]
        self._mean, self._std = y.mean(), y.std()
        self._posterior = self._learn(self._inputs(X), (y - self._mean) / self._std)

    def _make_features(self, X: np.ndarray) -> Features:
        """Returns what turns vectors into inputs, given the (n, d) vectors of the training."""
        return (GeneFeatures.of_data(X) if self.space is None
                else GeneFeatures.of_space(self.space, X))

    def _learn(self, Z: np.ndarray, z: np.ndarray,
               noisiness: np.ndarray | float = 1.0) -> "Posterior":
        """Returns the process that has seen (n, p) inputs and (n,) standardised targets.

        `noisiness` is the factor of each target's noise variance, (n,), or one for all.
        """
        part = np.arange(len(Z))
        if len(Z) > MAX_POINTS:
            part = np.random.default_rng(self.seed).choice(part, MAX_POINTS, replace=False)
        h = _Evidence(Z[part], self._features.group, z[part], self.n_layers,
                      np.broadcast_to(noisiness, len(Z))[part]).maximise(
                          self.least_noise / self._std)
        return Posterior.of(Z, z, h, self.n_layers, noisiness)

    def _predict(self, X: np.ndarray) -> np.ndarray:
        return self._posterior.mean(self._inputs(X)) * self._std + self._mean

    def _predict_std(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, std = self._posterior.mean_std(self._inputs(X))
        return mean * self._std + self._mean, std * self._std

    def _condition_on(self, X: np.ndarray, y: np.ndarray | None) -> Self:
        model = copy.copy(self)
        model._posterior = self._posterior.extended(
            self._inputs(X), None if y is None else (y - self._mean) / self._std)
        return model

    def _inputs(self, X: np.ndarray) -> np.ndarray:
        """Returns (n, p) features, centred, each group with a mean square of 1 in training."""
        return (self._features(self._whole(X)) - self._centre) / self._norm


class Hyperparameters(NamedTuple):
    """Variances: of each column's (p,) weight, the biases, the network, and the noise."""

    weight: np.ndarray
    bias: float
    scale: float
    noise: float


class _Evidence:
    """How well hyperparameters explain (n, p) inputs `Z` and (n,) standardised targets `z`.

    A negative log posterior density; `group` (p,) is of each column.
    """

    def __init__(self, Z: np.ndarray, group: np.ndarray, z: np.ndarray, n_layers: int,
                 noisiness: np.ndarray | float = 1.0) -> None:
        self.Z, self.group, self.z, self.n_layers = Z, group, z, n_layers
        self.noisiness = noisiness
        priors = [WEIGHT] * (group.max() + 1) + [BIAS, SCALE, NOISE]
        self.likely = np.log([prior[0] for prior in priors])
        self.spread = np.array([prior[1] for prior in priors])

    def maximise(self, least_noise: float = 0.0) -> Hyperparameters:
        """Returns the most probable hyperparameters that L-BFGS finds, the noise at least this."""
        reach = PRIOR_REACH * self.spread
        lower, upper = self.likely - reach, self.likely + reach
        if least_noise > 0:
            lower[-1] = np.clip(np.log(least_noise), lower[-1], upper[-1])
        found = minimize(self.loss, np.maximum(self.likely, lower), jac=True, method="L-BFGS-B",
                         bounds=np.column_stack([lower, upper]),
                         options={"maxiter": MAX_ITERATIONS, "ftol": 1e-6})
        return self.hyperparameters(found.x)

    def hyperparameters(self, theta: np.ndarray) -> Hyperparameters:
        """Returns the variances for (g + 3,) logarithms of standard deviations."""
        variances = np.exp(2 * theta)
        return Hyperparameters(variances[:-3][self.group], *variances[-3:].tolist())

    def loss(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Returns the negative log density, up to a constant, and its (g + 3,) gradient."""
        h = self.hyperparameters(theta)
        size = (self.Z ** 2) @ h.weight + h.bias
        dot = (self.Z * h.weight) @ self.Z.T + h.bias
        network = relu_kernel_gradient(dot, size, size, self.n_layers)
        K = h.scale * network.kernel + CONSTANT
        K[np.diag_indices_from(K)] += h.noise * self.noisiness + JITTER
        factor, failed = dpotrf(K, lower=1, clean=1)
        off = (theta - self.likely) / self.spread
        if failed:
            return 1e10, np.zeros_like(theta)
        alpha = cho_solve((factor, True), self.z)
        inverse = np.tril(dpotri(factor, lower=1)[0])
        inverse += np.tril(inverse, -1).T
        W = inverse - np.outer(alpha, alpha)  # twice the derivative of the loss by K
        loss = 0.5 * self.z @ alpha + np.log(factor.diagonal()).sum() + 0.5 * off @ off
        by_dot, by_size = h.scale * W * network.by_dot, h.scale * W * network.by_size
        by_size = 2 * by_size.sum(axis=1)  # a size decides its row and its column
        by_weight = np.bincount(self.group, h.weight * (
            (self.Z * (by_dot @ self.Z)).sum(axis=0) + by_size @ self.Z ** 2))
        by_bias = h.bias * (by_dot.sum() + by_size.sum())
        by_noise = h.noise * np.trace(W * self.noisiness)
        return loss, off / self.spread + np.concatenate(
            [by_weight, [by_bias, h.scale * (W * network.kernel).sum(), by_noise]])


class Posterior(NamedTuple):
    """A Gaussian process conditioned on (n, p) inputs.

    Attributes:
        h, n_layers: of the kernel.
        Z: (n, p) inputs.
        factor: (n, n) lower Cholesky factor of their covariance with noise.
        alpha: (n,) inverse covariance times targets.
    """

    h: Hyperparameters
    n_layers: int
    Z: np.ndarray
    factor: np.ndarray
    alpha: np.ndarray

    @classmethod
    def of(cls, Z: np.ndarray, z: np.ndarray, h: Hyperparameters, n_layers: int,
           noisiness: np.ndarray | float = 1.0) -> Self:
        """Conditions on (n, p) inputs and (n,) standardised targets; see `NNGP._learn`."""
        empty = cls(h, n_layers, Z, np.empty((0, 0)), np.empty(0))
        factor = _cholesky(empty.covariance(Z, Z), h.noise * noisiness)
        return empty._replace(factor=factor, alpha=cho_solve((factor, True), z))

    def extended(self, Z: np.ndarray, z: np.ndarray | None = None) -> Self:
        """Returns the process conditioned on (k, p) more inputs.

        `z` holds their (k,) standardised targets; None takes the process's own predictions.
        """
        across = solve_triangular(self.factor, self.covariance(self.Z, Z), lower=True)
        corner = _cholesky(self.covariance(Z, Z) - across.T @ across, self.h.noise)
        factor = np.block([[self.factor, np.zeros(across.shape)], [across.T, corner]])
        alpha = np.append(self.alpha, np.zeros(len(Z)))
        if z is not None:
            surprise = np.append(np.zeros(len(self.Z)), z - self.mean(Z))
            alpha += cho_solve((factor, True), surprise)
        return self._replace(Z=np.vstack([self.Z, Z]), factor=factor, alpha=alpha)

    def mean(self, Z: np.ndarray) -> np.ndarray:
        """Returns the (k,) means of (k, p) inputs."""
        return self.covariance(Z, self.Z) @ self.alpha

    def mean_std(self, Z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the (k,) means and standard deviations, without noise, of (k, p) inputs."""
        across = self.covariance(self.Z, Z)
        explained = solve_triangular(self.factor, across, lower=True, check_finite=False)
        prior = self.h.scale * self.size(Z) + CONSTANT
        variance = prior - (explained ** 2).sum(axis=0)
        return across.T @ self.alpha, np.sqrt(np.maximum(variance, JITTER))

    def covariance(self, A: np.ndarray, B: np.ndarray) -> np.ndarray:
        """Returns the (a, b) prior covariance of (a, p) and (b, p) inputs, without noise."""
        dot = (A * self.h.weight) @ B.T + self.h.bias
        return self.h.scale * relu_kernel(dot, self.size(A), self.size(B),
                                          self.n_layers) + CONSTANT

    def size(self, Z: np.ndarray) -> np.ndarray:
        """Returns the (k,) squared lengths of weighted inputs with their bias."""
        return (Z ** 2) @ self.h.weight + self.h.bias


def _cholesky(K: np.ndarray, noise: np.ndarray | float) -> np.ndarray:
    """Returns the lower factor of (n, n) `K` with noise on its diagonal, and more where needed.

    Rounding can leave a covariance of very alike points without a factor.

    Raises:
        numpy.linalg.LinAlgError: no positive definite matrix is near; `K` holds NaN, say.
    """
    for jitter in JITTER * 10.0 ** np.arange(MAX_JITTERS):
        try:
            factor: np.ndarray = np.linalg.cholesky(K + (noise + jitter) * np.eye(len(K)))
        except np.linalg.LinAlgError:
            continue
        return factor
    raise np.linalg.LinAlgError(f"no factor of a {K.shape} covariance")


class KernelGradient(NamedTuple):
    """The kernel of a network, and its derivatives by dot products and by the first sizes."""

    kernel: np.ndarray
    by_dot: np.ndarray
    by_size: np.ndarray


def relu_kernel(dot: np.ndarray, u: np.ndarray, v: np.ndarray, n_layers: int) -> np.ndarray:
    """Returns the kernel of infinitely wide ReLU layers; a layer keeps the size of its inputs.

    Args:
        dot: (a, b) inner products.
        u, v: (a,) and (b,) squared lengths, positive.
        n_layers: how often.
    """
    length = np.sqrt(np.outer(u, v))
    cosine = _cosine(dot, length)
    for _ in range(n_layers):
        cosine = _layer(cosine)[0]
    return length * cosine


def relu_kernel_gradient(dot: np.ndarray, u: np.ndarray, v: np.ndarray,
                         n_layers: int) -> KernelGradient:
    """Returns `relu_kernel` with its derivatives.

    It is `length g(dot / length)`; its derivatives are `g'` by the dot product and `g - cosine g'`
    by the length.
    """
    length, ratio = np.sqrt(np.outer(u, v)), np.sqrt(np.divide.outer(1 / u, 1 / v))
    start = cosine = _cosine(dot, length)
    by_dot = np.ones_like(dot)
    for _ in range(n_layers):
        cosine, slope = _layer(cosine)
        by_dot *= slope
    return KernelGradient(length * cosine, by_dot, 0.5 * ratio * (cosine - start * by_dot))


def _cosine(dot: np.ndarray, length: np.ndarray) -> np.ndarray:
    return np.clip(dot / length, -1.0, 1.0)


def _layer(cosine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns what one layer makes of the cosine of an angle, and the slope of that.

    `(sqrt(1 - t^2) + (pi - arccos t) t) / pi`, whose slope is `(pi - arccos t) / pi`.
    """
    slope = 1 - np.arccos(cosine) / np.pi
    return np.sqrt(1 - cosine ** 2) / np.pi + slope * cosine, slope
