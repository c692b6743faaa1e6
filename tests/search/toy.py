"""A search space, an evaluator and a strategy as a user writes them, outside the packages.

Ovens: a temperature, a time, and up to three layers of a cake. The evaluator reports two
objectives of its own, `energy` (kWh, less is better) and `sweetness` (more is better).
"""

import os
import time

import numpy as np

from search_space.base import Arch, SearchSpace
from utils.errors import UserError

TEMPERATURES, MINUTES, FILLINGS = (160, 180, 200, 220), (20, 30, 40, 50, 60), (0, 1, 2, 3)


class Cakes(SearchSpace):
    """`{"temperature": 180, "minutes": 30, "fillings": [0, 2]}`; genes: t, m, n, three fillings."""

    name = "tests.search.toy:Cakes"

    def __init__(self) -> None:
        self.lower = np.zeros(6, dtype=int)
        self.upper = np.array([3, 4, 2, 3, 3, 3])

    def encode(self, arch: Arch) -> np.ndarray:
        try:
            fillings = list(arch["fillings"])
            x = [TEMPERATURES.index(arch["temperature"]), MINUTES.index(arch["minutes"]),
                 len(fillings) - 1, *[*fillings, 0, 0, 0][:3]]
            return self.check(np.array(x))
        except (KeyError, ValueError, TypeError) as error:
            raise UserError(f"no cake: {error}") from None

    def decode(self, x: np.ndarray) -> Arch:
        x = self.check(x)
        return {"temperature": TEMPERATURES[x[0]], "minutes": MINUTES[x[1]],
                "fillings": [int(v) for v in x[3:4 + x[2]]]}

    def canonical(self, X: np.ndarray) -> np.ndarray:
        X = np.array(X, dtype=int)
        X[:, 3:] *= np.arange(3) <= X[:, 2:3]
        return X

    def extremes(self) -> list[Arch]:
        return [self.decode(self.lower), self.decode(self.upper)]


class Baker:
    """Bakes: accuracy peaks at 200 degrees and 40 minutes; fillings are sweet."""

    def __init__(self, **options) -> None:
        pass

    def evaluate(self, arch: Arch, *, batch_scale: float = 1.0) -> dict:
        time.sleep(float(os.environ.get("MSUNAS_TEST_SLEEP", "0")))
        hours = arch["minutes"] / 60
        top1 = 90 - abs(arch["temperature"] - 200) / 4 - abs(arch["minutes"] - 40) / 2
        return {"top1": top1 - 2 * len(arch["fillings"]),
                "energy": arch["temperature"] * hours / 100,
                "sweetness": 1.0 + sum(arch["fillings"])}
