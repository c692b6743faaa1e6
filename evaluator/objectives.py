"""The second objective of a search: counted, looked up in a latency table, or measured."""

import re

import numpy as np

from evaluator.costs import CostModel, objective_values
from evaluator.latency import LookUpTable
from search_space import SearchSpace
from utils.errors import UserError

COUNTED = ("flops", "params", "macs")
OBJECTIVES = f"{', '.join(COUNTED)} (in millions), cpu, gpu<batch> (in ms)"
_LATENCY = re.compile(r"(cpu|gpu)([1-9]\d{0,4})?")


class SecondObjective:
    """What the search minimises beside the top-1 error.

    Args:
        name: `flops`, `params`, `macs`, `cpu`, or a measured `gpu<batch>` or `cpu<batch>`.
        space: the search space.
        n_classes: outputs of the classifier.
        width_mult: width multiplier of the supernet.
        lut: path of a latency table for `cpu`; without one the latency is measured.

    Attributes:
        measured: whether the value comes from the worker instead of a closed form.
        device: `cpu` or `gpu`, where a latency is measured.
        batch_size: of that measurement.

    Raises:
        UserError: an unknown name, or a table that lacks layers of the space.
    """

    def __init__(self, name: str, space: SearchSpace, n_classes: int = 1000,
                 width_mult: float = 1.0, lut: str | None = None) -> None:
        latency = _LATENCY.fullmatch(name)
        if not latency and name not in COUNTED:
            raise UserError(f"unknown second objective {name!r}; choose from {OBJECTIVES}")
        self.name = name
        self.measured = bool(latency) and (lut is None or name != "cpu")
        self.device, batch = latency.groups() if latency else (None, None)
        self.batch_size = int(batch or 1)
        table = LookUpTable.read(lut) if latency and not self.measured else None
        self._costs = CostModel(space, n_classes, width_mult, lut=table)

    @property
    def unit(self) -> str:
        """The unit of the values."""
        return "ms" if self.device else "M"

    def values(self, X: np.ndarray) -> np.ndarray:
        """Returns the (n,) exact values of (n, n_var) vectors; not for a measured objective."""
        return objective_values(self._costs.evaluate(X), self.name)

    def work(self, X: np.ndarray) -> np.ndarray:
        """Returns the (n,) multiply-accumulates of one image: how long evaluations will take."""
        return self._costs.evaluate(X)["macs"]
