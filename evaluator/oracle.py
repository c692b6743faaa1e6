"""Accuracy predictors as evaluators: those of the OFA authors, a benchmark's ground truth.

No network is run: top-1 accuracies are what an MLP learned from measured ImageNet accuracies of
the MobileNetV3 (w1.0) or ResNet50 supernet with 1,000 classes. Every stats dict is marked
(`"evaluator": "oracle"`). A predictor that was exported from a search (`python -m acc_predictor`)
answers in the same way.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from acc_predictor.exported import ExportedPredictor, is_exported
from evaluator.base import Evaluator, digest_of
from evaluator.costs import CostModel, millions
from search_space import SEARCH_SPACES, Arch, get_search_space
from utils.errors import UserError

HIDDEN = (400, 400, 400)
# Digits kept of an accuracy in percent, so that it does not depend on the size of a batch.
DIGITS = 6


@dataclass(frozen=True)
class Encoding:
    """How one predictor sees the architectures of a space, and how its file names its weights.

    Attributes:
        space: name of the search space.
        resolutions: those that it was trained with, in pixels, ascending.
        n_inputs: length of an encoded architecture.
        features: (space, (n, n_var) vectors, (n,) indices of resolutions) -> (n, n_inputs).
        layer: name of a hidden layer, by its number.
        last: names of the last layer's weight and bias.
    """

    space: str
    resolutions: np.ndarray
    n_inputs: int
    features: Callable[[Any, np.ndarray, np.ndarray], np.ndarray]
    layer: str
    last: tuple[str, str]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the key and shape of every weight: weight and bias of each layer in turn."""
        shapes: dict[str, tuple[int, ...]] = {}
        for i, (inputs, outputs) in enumerate(pairwise((self.n_inputs, *HIDDEN))):
            name = self.layer.format(i, 2 * i)
            shapes |= {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
        weight, bias = self.last
        return shapes | {weight: (1, HIDDEN[-1]), bias: (1,)}


def one_hot(indices: np.ndarray, used: np.ndarray | None = None) -> np.ndarray:
    """Returns (n, 3 * m) one-hot codes of (n, m) indices below 3; zeros where not `used`."""
    codes = np.eye(3)[indices]
    if used is not None:
        codes = codes * used[..., None]
    return codes.reshape(len(indices), 3 * indices.shape[1])


def mobile_features(space: Any, X: np.ndarray, resolution_index: np.ndarray) -> np.ndarray:
    """Returns (n, 128): 20 kernel sizes, 20 expansions, zeros beyond the depth; 8 resolutions."""
    chosen = space.choices(X)
    kernels, expansions, used = chosen["ks"], chosen["e"], chosen["used"]
    return np.hstack([one_hot(kernels, used), one_hot(expansions, used),
                      np.eye(8)[resolution_index]])


def resnet_features(space: Any, X: np.ndarray, resolution_index: np.ndarray) -> np.ndarray:
    """Returns (n, 82): 8 resolutions, the stem's depth, 6 widths, 18 expansions.

    Source: `ofa.nas.accuracy_predictor.ResNetArchEncoder`.
    """
    choices = space.choices(X)
    return np.hstack([np.eye(8)[resolution_index], np.eye(2)[choices["d"][:, 0]],
                      one_hot(choices["w"]), one_hot(choices["e"], choices["used"])])


ENCODINGS = (
    Encoding("mbv3", np.arange(112, 225, 16), 128, mobile_features, "{1}",
             ("6.weight", "6.bias")),
    Encoding("resnet50", np.array([128, 144, 160, 176, 192, 224, 240, 256]), 82, resnet_features,
             "layers.{0}.0", ("layers.3.weight", "base_acc")),
)


class PredictorEvaluator(Evaluator):
    """Answers with what a predictor of an earlier search expects, see `python -m acc_predictor`.

    The stats are `top1` and what the evaluator of that search reported, all predicted.

    Args:
        oracle_path: the exported predictor.
        search_space, space_options: the space of the search, which must be the predictor's.
        ignored: options of other evaluators.

    Raises:
        UserError: a damaged file, or a predictor of another space.
    """

    def __init__(self, oracle_path: str, search_space: str = "mbv3",
                 space_options: dict[str, Any] | None = None, **ignored: Any) -> None:
        exported = ExportedPredictor.read(oracle_path)
        trained = exported.meta.get("search_space") or search_space
        options = dict(space_options or {})
        if exported.meta.get("resolutions"):
            options["resolutions"] = exported.meta["resolutions"]
        self.space = get_search_space(search_space, **options)
        if trained not in (search_space, self.space.name):
            raise UserError(f"{oracle_path}: predicts the search space {str(trained)[:60]}, not "
                            f"{search_space}; name it with --search_space")
        self._digest = digest_of([repr(exported).encode()])
        try:
            self._models = exported.fit(self.space)
        except UserError as error:
            raise UserError(f"{oracle_path}: {error}") from None

    def fingerprint(self) -> str:
        """See `Evaluator.fingerprint`: of the content of the file."""
        return self._digest

    def evaluate(self, arch: Arch, *, batch_scale: float = 1.0) -> dict[str, Any]:
        """See `Evaluator.evaluate`; `batch_scale` is without influence.

        `arch` belongs to the predictor's space, at a resolution of its search.
        """
        values = {name: float(column[0]) for name, column in self._predict([arch]).items()}
        top1 = 100 - values.pop("top1_err")
        return {**values, "top1": top1, "evaluator": "oracle"}

    def evaluate_many(self, archs: Sequence[Arch]) -> np.ndarray:
        """Returns the predicted top-1 accuracies (n,) in percent of many architectures.

        Raises:
            UserError: one is no architecture of the predictor's space.
        """
        return 100 - self._predict(archs)["top1_err"]

    def _predict(self, archs: Sequence[Arch]) -> dict[str, np.ndarray]:
        """Predicts one at a time: the last bits can depend on how many are asked for together."""
        X = self.space.encode_many(archs)
        found = {name: np.array([model.predict(x[None])[0, 0] for x in X])
                 for name, model in self._models.items()}
        return found | {"top1_err": np.clip(found["top1_err"], 0, 100)}


class OracleEvaluator(Evaluator):
    """Returns predicted accuracies, under the same contract as a supernet's evaluator.

    Args:
        oracle_path: weights of a predictor, whose shapes show its search space: an MLP with three
            hidden layers of 400 and ReLU; its output is the top-1 accuracy as a fraction.
        ignored: options of other evaluators.

    Attributes:
        encoding: how the predictor sees architectures.
        weights: (weight, bias) of each layer.

    Raises:
        UserError: the file is missing or damaged, or holds another network.
    """

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Any:
        """Constructs the evaluator that reads the kind of file that `oracle_path` is."""
        path = options.get("oracle_path")
        return PredictorEvaluator(**options) if path and is_exported(path) else cls(**options)

    def __init__(self, oracle_path: str | None = None, search_space: str | None = None,
                 **ignored: Any) -> None:
        if oracle_path is None:
            raise UserError("the oracle needs its weights: give --oracle_path FILE")
        self.encoding, self.weights = read_mlp(oracle_path)
        if search_space in SEARCH_SPACES and search_space != self.encoding.space:
            raise UserError(f"{oracle_path}: predicts accuracies of the space "
                            f"{self.encoding.space}, not of {search_space}; choose it with "
                            f"--search_space {self.encoding.space}")
        self._costs: dict[int, CostModel] = {}

    def fingerprint(self) -> str:
        """See `Evaluator.fingerprint`: of the weights."""
        return digest_of(array.tobytes() for layer in self.weights for array in layer)

    def evaluate(self, arch: Arch, *, batch_scale: float = 1.0) -> dict[str, Any]:
        """See `Evaluator.evaluate`; `batch_scale` is without influence.

        `arch` belongs to the predictor's space, at no resolution below its smallest.
        """
        top1 = float(self.evaluate_many([arch])[0])
        resolution = arch["r"]
        if resolution not in self._costs:
            space = get_search_space(self.encoding.space, resolutions=[resolution])
            self._costs[resolution] = CostModel(space)
        costs = self._costs[resolution].of_arch(arch)
        return {"params": millions(costs["params"]), "flops": millions(costs["flops"]),
                "gpu": None, "cpu": None, "loss": None, "top1": top1, "top5": None,
                "resolution": resolution, "evaluator": "oracle"}

    def evaluate_many(self, archs: Sequence[Arch]) -> np.ndarray:
        """Returns the top-1 accuracies (n,) in percent of many architectures.

        Raises:
            UserError: one is no architecture of the predictor's space, or its resolution is below
                the smallest of the predictor.
        """
        listed = self.encoding.resolutions
        resolutions = {arch.get("r") for arch in archs if isinstance(arch, dict)}
        valid = sorted(r for r in resolutions if isinstance(r, int) and r >= listed[0])
        if len(valid) < len(resolutions):
            raise UserError(f"the oracle predicts resolutions from {listed[0]} px up, not "
                            f"{', '.join(str(r) for r in resolutions if r not in valid)}")
        space = get_search_space(self.encoding.space, resolutions=valid or listed.tolist())
        return self.predict(space, np.array([space.encode(arch) for arch in archs], dtype=int)
                            .reshape(-1, space.n_var))

    def predict(self, space: Any, X: np.ndarray) -> np.ndarray:
        """Returns the top-1 accuracies (n,) in percent of (n, n_var) vectors of `space`.

        Between two listed resolutions the two answers are interpolated linearly; above the last
        one the last one holds.
        """
        listed = self.encoding.resolutions
        r = np.clip(space.resolutions_of(X), listed[0], listed[-1])
        low = np.minimum(np.searchsorted(listed, r, side="right") - 1, len(listed) - 2)
        share = (r - listed[low]) / (listed[low + 1] - listed[low])
        below, above = (self._forward(self.encoding.features(space, X, index))
                        for index in (low, low + 1))
        return np.round(100 * ((1 - share) * below + share * above), DIGITS)

    def _forward(self, hidden: np.ndarray) -> np.ndarray:
        for weight, bias in self.weights[:-1]:
            hidden = np.maximum(hidden @ weight.T + bias, 0)
        weight, bias = self.weights[-1]
        return (hidden @ weight.T + bias)[:, 0]


def read_mlp(path: str) -> tuple[Encoding, list[tuple[np.ndarray, np.ndarray]]]:
    """Reads a predictor; returns its encoding and (weight, bias) of each layer, in float64.

    Raises:
        UserError: the file is missing or damaged, or holds a network of other shapes.
    """
    from networks import load_checkpoint

    state: Mapping[str, Any] = load_checkpoint(path)
    found = {key: tuple(tensor.shape) for key, tensor in state.items()}
    for encoding in ENCODINGS:
        expected = encoding.shapes()
        if found == expected:
            arrays = [state[key].double().numpy() for key in expected]
            return encoding, list(zip(arrays[::2], arrays[1::2], strict=True))
    known = "; ".join(f"{encoding.space}: {encoding.n_inputs} inputs, keys "
                      f"{', '.join(encoding.shapes())}" for encoding in ENCODINGS)
    raise UserError(f"{path}: not an accuracy predictor of the OFA authors; known are {known}")
