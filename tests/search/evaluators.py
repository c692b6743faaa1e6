"""A torch-free evaluator for tests of the search: accuracy by a formula, faults on demand.

Workers are fresh interpreters, so faults are asked for in the environment: MSUNAS_TEST_FAULTS is a
JSON object {"<encoded architecture>" or "*": fault}, MSUNAS_TEST_SLEEP seconds per evaluation.
"""

import json
import os
import time

import numpy as np

from evaluator.costs import CostModel, millions
from search_space import OFASearchSpace


def top1(space: OFASearchSpace, arch: dict) -> float:
    """A smooth accuracy in percent: capacity with diminishing returns, and some interaction."""
    x = space.encode(arch) / np.maximum(space.upper, 1)
    weights = np.cos(np.arange(len(x))) ** 2 + 0.2
    return float(60 + 30 * (1 - np.exp(-3 * (x @ weights) / weights.sum())) + x[5] * x[20])


class Formula:
    """Evaluates by `top1`; options as any evaluator's, most of them unused."""

    def __init__(self, **options) -> None:
        self.faults = json.loads(os.environ.get("MSUNAS_TEST_FAULTS", "{}"))
        if "setup" in self.faults:
            raise RuntimeError("the set-up fails, as the test wants")

    def evaluate(self, arch: dict, *, batch_scale: float = 1.0) -> dict:
        time.sleep(float(os.environ.get("MSUNAS_TEST_SLEEP", "0")))
        space = OFASearchSpace(resolutions=[arch["r"]])
        key = json.dumps(arch, sort_keys=True)
        fault = self.faults.get(key) or self.faults.get("*")
        if fault == "raise":
            raise ValueError("the evaluation fails, as the test wants")
        full = OFASearchSpace(resolutions=range(192, 257, 4))
        costs = CostModel(space).of_arch(arch)
        return {"params": millions(costs["params"]), "flops": millions(costs["flops"]),
                "gpu": None, "cpu": None, "loss": 1.0,
                "top1": float("nan") if fault == "nan" else top1(full, arch), "top5": 99.0}

    def latency(self, arch: dict) -> dict:
        costs = CostModel(OFASearchSpace(resolutions=[arch["r"]])).of_arch(arch)
        return {"cpu": costs["macs"] / 1e7}
