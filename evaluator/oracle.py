"""The accuracy predictor of the OFA authors as an evaluator: a benchmark's ground truth.

No network is run: top-1 accuracies are what an MLP learned from measured ImageNet accuracies of
the MobileNetV3 supernet (w1.0, 1,000 classes). Every stats dict says so (`"evaluator": "oracle"`).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from evaluator.base import Evaluator
from evaluator.costs import CostModel, millions
from search_space import Arch, OFASearchSpace
from utils.errors import UserError

RESOLUTIONS = np.arange(112, 225, 16)
N_LAYERS = 20
HIDDEN = (400, 400, 400)
# Digits kept of an accuracy in percent, so that it does not depend on the size of a batch.
DIGITS = 6


class OracleEvaluator(Evaluator):
    """Answers with predicted accuracies, behind the same contract as a supernet's evaluator.

    Args:
        oracle_path: weights of the predictor: input 20 x 3 one-hot kernel sizes, 20 x 3 one-hot
            expansions (zeros beyond a stage's depth), 8 one-hot resolutions; three hidden layers
            of 400 with ReLU; output top-1 as a fraction.
        ignored: options of other evaluators.

    Raises:
        UserError: the file is missing or damaged, or holds another network.
    """

    def __init__(self, oracle_path: str | None = None, **ignored: Any) -> None:
        if oracle_path is None:
            raise UserError("the oracle needs its weights: give --oracle_path FILE")
        self.weights = read_mlp(oracle_path)
        self._costs: dict[int, CostModel] = {}

    def evaluate(self, arch: Arch, *, batch_scale: float = 1.0) -> dict[str, Any]:
        """Returns the stats of one architecture; always the same for the same architecture.

        Args:
            arch: an architecture of the space `mbv3`, resolution 112 or more.
            batch_scale: part of the contract, without influence.
        """
        top1 = float(self.evaluate_many([arch])[0])
        resolution = arch["r"]
        if resolution not in self._costs:
            self._costs[resolution] = CostModel(OFASearchSpace(resolutions=[resolution]))
        costs = self._costs[resolution].of_arch(arch)
        return {"params": millions(costs["params"]), "flops": millions(costs["flops"]),
                "gpu": None, "cpu": None, "loss": None, "top1": top1, "top5": None,
                "resolution": resolution, "evaluator": "oracle"}

    def evaluate_many(self, archs: Sequence[Arch]) -> np.ndarray:
        """Returns the top-1 accuracies (n,) in percent of many architectures.

        Raises:
            UserError: one is no architecture of the space `mbv3`, or its resolution is below 112.
        """
        resolutions = {arch.get("r") for arch in archs if isinstance(arch, dict)}
        valid = sorted(r for r in resolutions if isinstance(r, int) and r >= RESOLUTIONS[0])
        if len(valid) < len(resolutions):
            raise UserError(f"the oracle knows resolutions from {RESOLUTIONS[0]} px up, not "
                            f"{', '.join(str(r) for r in resolutions if r not in valid)}")
        space = OFASearchSpace(resolutions=valid or RESOLUTIONS.tolist())
        return self.predict(space, np.array([space.encode(arch) for arch in archs], dtype=int)
                            .reshape(-1, space.n_var))

    def predict(self, space: OFASearchSpace, X: np.ndarray) -> np.ndarray:
        """Returns the top-1 accuracies (n,) in percent of (n, 46) vectors of `space`.

        Between two listed resolutions the two answers are interpolated linearly; above the last
        one the last one holds.
        """
        r = np.clip(space.resolutions_of(X), RESOLUTIONS[0], RESOLUTIONS[-1])
        low = np.minimum(np.searchsorted(RESOLUTIONS, r, side="right") - 1, len(RESOLUTIONS) - 2)
        share = (r - RESOLUTIONS[low]) / (RESOLUTIONS[low + 1] - RESOLUTIONS[low])
        layers = one_hot_layers(space, X)
        below, above = (self._forward(layers, index) for index in (low, low + 1))
        return np.round(100 * ((1 - share) * below + share * above), DIGITS)

    def _forward(self, layers: np.ndarray, resolution_index: np.ndarray) -> np.ndarray:
        hidden = np.hstack([layers, np.eye(len(RESOLUTIONS))[resolution_index]])
        for weight, bias in self.weights[:-1]:
            hidden = np.maximum(hidden @ weight.T + bias, 0)
        weight, bias = self.weights[-1]
        return (hidden @ weight.T + bias)[:, 0]


def one_hot_layers(space: OFASearchSpace, X: np.ndarray) -> np.ndarray:
    """Returns (n, 120) inputs: one-hot kernel sizes, then expansions, zeros beyond the depth."""
    kernels, expansions, used = space.choices(X)
    return np.hstack([(np.eye(3)[choice] * used[..., None]).reshape(len(X), 3 * N_LAYERS)
                      for choice in (kernels, expansions)])


def read_mlp(path: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Reads the predictor; returns (weight, bias) of each linear layer, in float64.

    Raises:
        UserError: the file is missing or damaged, or holds a network of other shapes.
    """
    from networks import load_checkpoint

    state = load_checkpoint(path)
    sizes = (6 * N_LAYERS + len(RESOLUTIONS), *HIDDEN, 1)
    expected: dict[str, tuple[int, ...]] = {}
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        expected |= {f"{2 * i}.weight": (outputs, inputs), f"{2 * i}.bias": (outputs,)}
    if {key: tuple(tensor.shape) for key, tensor in state.items()} != expected:
        raise UserError(f"{path}: not the accuracy predictor of the OFA MobileNetV3 space; an MLP "
                        f"of sizes {'-'.join(map(str, sizes))} was expected, its keys "
                        f"{', '.join(expected)}")
    arrays = [state[key].double().numpy() for key in expected]
    return list(zip(arrays[::2], arrays[1::2], strict=True))
