"""Latency that is learned: of all networks of a space, from those that a device has run.

Sums over the layers of a table miss what a device does between layers: fused operations, kernels
that wait for each other, a GPU that is idle. A model of whole networks, learned from a hundred of
them, does not.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from scipy.linalg import solve_triangular

from acc_predictor.features import GeneFeatures
from acc_predictor.nngp import NNGP, Posterior
from evaluator.costs import CostModel
from search_space import Gene, SearchSpace, get_search_space, name_of
from search_space.base import rows_in, unique_rows
from utils.errors import UserError
from utils.files import read_json
from utils.metrics import spearman

KIND = "latency learned from measured networks"
MIN_NETWORKS = 5
BEGINNING = 200  # bytes of a file in which its kind is named
# Candidates among which the model looks for what it is unsure about.
POOL = 1000
# Degrees of freedom of the noise, and how often its weights are found again.
NU, ROUNDS, SETTLED = 2.0, 6, 0.1
# Logarithms farther from their median than so many spreads are moved there before any fit.
FAR, TINY = 8.0, 1e-9
# How much heavier than other inputs what another device answers begins.
PRIOR_WEIGHT = 6.0
FOLDS = 5


@dataclass(frozen=True)
class LatencyFeatures:
    """What latency depends on: genes, counts of layers, logarithms of costs, and another device.

    Counts are sums of the columns that mean the same for several genes: how many layers there are,
    how many have a kernel of 5 or more. The genes share one weight, and so only correct the trend
    that counts and costs make.

    Source: the counts are those of nn-Meter (Zhang et al., MobiSys 2021) and BRP-NAS (Dudziak et
    al., NeurIPS 2020) in their simplest form; a known device as the input of a new one as in HELP
    (Lee et al., NeurIPS 2021).

    Attributes:
        genes: of the space.
        pooling: (p, q) which columns of the genes each count adds up.
        costs: of the space; None where its layers are not known.
        prior: of another device, or None.
    """

    genes: GeneFeatures
    pooling: np.ndarray
    costs: CostModel | None
    prior: "LatencyModel | None"

    @classmethod
    def of_space(cls, space: SearchSpace, X: np.ndarray, costs: CostModel | None,
                 prior: "LatencyModel | None") -> Self:
        """Returns the features of a space; `X` (n, n_var) are the vectors of the training."""
        genes = GeneFeatures.of_space(space, X)
        return cls(genes, _pooling(genes, space.features), costs, prior)

    def __call__(self, X: np.ndarray) -> np.ndarray:
        """Returns the (n, p) features of (n, n_var) vectors."""
        genes = self.genes(X)
        parts = [genes, genes @ self.pooling]
        if self.costs is not None:
            counted = self.costs.evaluate(X.astype(int), self._names)
            parts.append(np.log(np.maximum(np.column_stack(list(counted.values())), 1)))
        if self.prior is not None:
            parts.append(self.prior.predict(X))
        return np.column_stack(parts)

    @property
    def group(self) -> np.ndarray:
        """The (p,) group of each column: one for all genes, one for each of the others."""
        others = self.pooling.shape[1] + len(self._names) + (self.prior is not None)
        return np.append(np.zeros(len(self.genes.gene), dtype=int), np.arange(1, others + 1))

    @property
    def emphasis(self) -> np.ndarray:
        """The (p,) factors of the standardised columns."""
        factors = np.ones(len(self.group))
        factors[-1] = 1.0 if self.prior is None else PRIOR_WEIGHT
        return factors

    @property
    def _names(self) -> list[str]:
        if self.costs is None:
            return []
        return ["flops", "params", *(["activations"] if self.costs.space.sequential else [])]


def _pooling(genes: GeneFeatures, traits: Sequence[Gene]) -> np.ndarray:
    """Returns (p, q) 0 or 1: the columns of genes that choose from the same values, by meaning."""
    meanings = [(traits[gene].values, kind, level) for gene, kind, level
                in zip(genes.gene.tolist(), genes.kind.tolist(), genes.level.tolist(), strict=True)]
    shared = [each for each in dict.fromkeys(meanings) if meanings.count(each) > 1]
    return np.array([[meaning == each for each in shared] for meaning in meanings], dtype=float)


class LatencyModel(NNGP):
    """A Gaussian process from architectures to the logarithm of a latency, which bears outliers.

    The noise has heavy tails: it is Student's t, as a Gaussian whose variance each measurement has
    for itself. What the process predicts of a measurement from all others decides about it, so
    that a few networks cannot hide an outlier by fitting it.

    Source: the weights of expectation-maximisation for Student's t (Lange, Little and Taylor,
    "Robust statistical modeling using the t distribution", 1989), here with residuals that leave
    the measurement out.

    Args:
        costs: of the space; None where its layers are not known.
        prior: what was learned on another device.
        options: see `AccPredictor`.

    Attributes:
        training: (n, n_var) vectors and (n,) logarithms of latencies that it learned from.
    """

    name = "latency"
    min_points = MIN_NETWORKS
    _features: LatencyFeatures

    def __init__(self, *, costs: CostModel | None = None, prior: "LatencyModel | None" = None,
                 **options: Any) -> None:
        super().__init__(n_layers=1, **options)
        self.costs, self.prior = costs, prior

    def anew(self) -> Self:
        """Returns a model with the same settings that has seen nothing."""
        return type(self)(costs=self.costs, prior=self.prior, space=self.space, seed=self.seed)

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """See `AccPredictor.fit`; (n,) `y` are logarithms of latencies."""
        self.training = X, y
        return super().fit(X, y)

    def _fit(self, X: np.ndarray, y: np.ndarray) -> None:
        middle = np.median(y)
        reach = FAR * max(_spread(y - middle), TINY)
        super()._fit(X, np.clip(y, middle - reach, middle + reach))

    def _make_features(self, X: np.ndarray) -> LatencyFeatures:
        assert self.space is not None
        return LatencyFeatures.of_space(self.space, X, self.costs, self.prior)

    def _inputs(self, X: np.ndarray) -> np.ndarray:
        return super()._inputs(X) * self._features.emphasis

    def _learn(self, Z: np.ndarray, z: np.ndarray,
               noisiness: np.ndarray | float = 1.0) -> Posterior:
        noisiness = np.broadcast_to(noisiness, len(z))
        for _ in range(ROUNDS):
            posterior = super()._learn(Z, z, noisiness)
            before, noisiness = noisiness, _noisiness(posterior, noisiness)
            if np.abs(np.log(noisiness / before)).max() < SETTLED:
                break
        return posterior


def _noisiness(posterior: Posterior, noisiness: np.ndarray) -> np.ndarray:
    """Returns the (n,) factors of the noise that the left-out residuals of a process speak for."""
    inverse = solve_triangular(posterior.factor, np.eye(len(noisiness)), lower=True)
    precision = (inverse ** 2).sum(axis=0)  # of each target, given all others
    noise = posterior.h.noise
    variance = 1 / precision - noise * noisiness + noise  # were its noise as that of the others
    residual = posterior.alpha / precision / np.sqrt(variance)
    return (NU + (residual / max(_spread(residual), TINY)) ** 2) / (NU + 1)


def _spread(residuals: np.ndarray) -> float:
    """Returns the standard deviation of normal values whose absolute values have this median."""
    return 1.4826 * float(np.median(np.abs(residuals)))


def learn_latency(space: SearchSpace, X: np.ndarray, latency: np.ndarray, n_classes: int = 1000,
                  width_mult: float = 1.0, prior: LatencyModel | None = None) -> LatencyModel:
    """Returns the model of (n,) latencies of (n, n_var) vectors.

    Args:
        space: of the networks.
        X: their canonical vectors.
        latency: above 0, in any unit.
        n_classes, width_mult: of the networks, for their costs.
        prior: what was learned on another device.

    Raises:
        UserError: a latency that is not above 0, or too few networks.
    """
    latency = np.asarray(latency, dtype=float)
    if len(X) < MIN_NETWORKS:
        raise UserError(f"{len(X)} measured networks are too few to learn a latency from; measure "
                        f"at least {MIN_NETWORKS}")
    if not (np.isfinite(latency) & (latency > 0)).all():
        raise UserError("a latency must be a finite number above 0; leave out what is not")
    try:
        costs = CostModel(space, n_classes, width_mult)
    except UserError:  # a space that does not say which layers its networks have
        costs = None
    model = LatencyModel(space=space, costs=costs, prior=prior)
    return model.fit(X, np.log(latency))


def agreement(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """Returns how well (n,) predictions agree with measurements.

    Returns:
        Spearman's rho; the mean absolute error relative to the measurement; the parts of the
        networks within 5 and 10 % of it.
    """
    off = np.abs(predicted / measured - 1)
    return {"spearman": spearman(predicted, measured), "mape": float(off.mean()),
            "within5": float((off <= 0.05).mean()), "within10": float((off <= 0.1).mean())}


def cross_validated(model: LatencyModel, seed: int = 0) -> dict[str, float]:
    """Returns the agreement of a model's measurements with what the others teach, by fifths.

    Args:
        model: fitted.
        seed: of the fifths.
    """
    X, y = model.training
    predicted = np.empty(len(X))
    for fold in np.array_split(np.random.default_rng(seed).permutation(len(X)), FOLDS):
        known = np.setdiff1d(np.arange(len(X)), fold)
        predicted[fold] = model.anew().fit(X[known], y[known]).predict(X[fold]).ravel()
    return agreement(np.exp(predicted), np.exp(y))


def unsure_about(model: LatencyModel, known: np.ndarray, n: int,
                 rng: np.random.Generator) -> np.ndarray:
    """Returns (n, n_var) vectors that a model is most unsure about, as if each were then known.

    Args:
        model: of the networks that were measured so far.
        known: their (m, n_var) vectors, which are not returned.
        n: how many, at most.
        rng: draws the candidates.
    """
    space = model.space
    assert space is not None
    pool = unique_rows(space.draw(POOL, rng))
    pool = pool[~rows_in(pool, known)]
    chosen: list[np.ndarray] = []
    for _ in range(min(n, len(pool))):
        most = int(model.predict(pool, return_std=True)[1].argmax())
        chosen.append(pool[most])
        model, pool = model.condition_on(pool[most:most + 1]), np.delete(pool, most, axis=0)
    return np.array(chosen).reshape(-1, space.n_var)


def with_measured(content: Mapping[str, Any], other: Mapping[str, Any],
                  source: str | os.PathLike) -> dict[str, Any]:
    """Returns the content of a file with the networks of another one, which replace its own.

    Args:
        content: of the file.
        other: of the other one, `source`, with networks of the same space, width and figure.

    Raises:
        UserError: it is of other networks, or damaged.
    """
    try:
        differing = [name for name in ("kind", "search_space", "width_mult")
                     if content[name] != other[name]]
        rows = {json.dumps(row["arch"], sort_keys=True): row for each in (content, other)
                for row in each["measured"] if content["key"] in row}
    except (KeyError, TypeError) as error:
        raise UserError(f"{source}: not a whole file of measured networks ({error})") from None
    if differing:
        raise UserError(f"{source}: its networks have another {', '.join(differing)}")
    return {**content, "measured": list(rows.values())}


def stated_mape(content: Mapping[str, Any]) -> float | None:
    """Returns the mean error that a file of learned latencies states; None where it states none."""
    error = content.get("error")
    mape = error.get("mape") if isinstance(error, dict) else None
    return float(mape) if isinstance(mape, int | float) else None


def is_learned(path: str | os.PathLike) -> bool:
    """Whether a file holds learned latencies, by its first bytes; a latency table is YAML."""
    try:
        with open(path, "rb") as file:
            return KIND.encode() in file.read(BEGINNING)
    except OSError:
        return False  # reading it as a table gives the message


class LearnedLatency:
    """The latency of one device, from a file of `scripts/learn_latency.py`.

    Attributes:
        path: the file.
        content: what it holds.
        space: whose vectors `values` takes.
        key: the figure that is learned, such as `ms`.
        model: learned from the networks of the file, in a space with the resolutions of both.
    """

    def __init__(self, path: str | os.PathLike, content: Mapping[str, Any], space: SearchSpace,
                 n_classes: int = 1000, width_mult: float = 1.0, key: str | None = None) -> None:
        self.path, self.space = Path(path), space
        self.content = content if key is None else {**content, "key": key}
        try:
            self.key = str(self.content["key"])
            self.model = _model_of(self.content, space, n_classes, width_mult)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: not a whole file of learned latencies ({error}); make it "
                            "again with scripts/learn_latency.py") from None
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    @classmethod
    def read(cls, path: str | os.PathLike, space: SearchSpace, n_classes: int = 1000,
             width_mult: float = 1.0, key: str | None = None,
             further: str | os.PathLike | None = None) -> Self:
        """Reads a file and learns from its measurements, for networks of these costs.

        Args:
            path: the file.
            space: of the networks.
            n_classes, width_mult: of the networks.
            key: another figure of the measured networks than the one that the file was made for.
            further: a file of networks that were measured since.

        Raises:
            UserError: it is missing, damaged, of another space or width, or holds too few networks.
        """
        content = read_json(path, KIND)
        if further is not None:
            content = with_measured(content, read_json(further, KIND), further)
        return cls(path, content, space, n_classes, width_mult, key)

    def describe(self) -> str:
        """Returns a line on the file."""
        mape = stated_mape(self.content)
        error = "" if mape is None else f", mean error {mape:.1%}"
        return (f"{self.key} learned from {len(self.content['measured'])} networks of "
                f"{self.path}{error}")

    def values(self, X: np.ndarray) -> np.ndarray:
        """Returns the (n,) expected latencies of (n, n_var) vectors, in the unit of the file."""
        return np.exp(self.model.predict(self._translated(X)).ravel())

    def std(self, X: np.ndarray) -> np.ndarray:
        """Returns the (n,) standard deviations of `values`, without the noise of a measurement."""
        mean, std = self.model.predict(self._translated(X), return_std=True)
        return (np.exp(mean) * std).ravel()

    def _translated(self, X: np.ndarray) -> np.ndarray:
        own = self.model.space
        assert own is not None
        if np.array_equal(own.upper, self.space.upper):
            return np.asarray(X)
        return np.array([own.encode(self.space.decode(x)) for x in X])


def _model_of(content: Mapping[str, Any], space: SearchSpace, n_classes: int,
              width_mult: float) -> LatencyModel:
    """Returns what the networks of a file teach."""
    if content.get("kind") != KIND:
        raise UserError("not a file of latencies that were learned; scripts/learn_latency.py "
                        "makes one")
    for name, own in (("search_space", name_of(space)), ("width_mult", width_mult)):
        if content[name] != own:
            raise UserError(f"latencies of networks with the {name} {str(content[name])[:60]}, "
                            f"not {own}")
    archs, key = [row["arch"] for row in content["measured"]], content["key"]
    joint = joint_space(space, archs)
    prior = content.get("prior")
    return learn_latency(
        joint, np.array([joint.encode(arch) for arch in archs]).reshape(-1, joint.n_var),
        np.array([row[key] for row in content["measured"]], dtype=float), n_classes, width_mult,
        prior and _model_of(prior, joint, n_classes, width_mult))


def joint_space(space: SearchSpace, archs: Sequence[Mapping[str, Any]]) -> SearchSpace:
    """Returns a space like `space` that also has the resolutions of some architectures."""
    if "resolutions" not in space.options:
        return space
    own: Sequence[int] = getattr(space, "resolutions", ())
    return get_search_space(name_of(space), resolutions=sorted({*own, *(a["r"] for a in archs)}))
