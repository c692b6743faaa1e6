"""A torch-free evaluator for tests of the search: accuracy by a formula, faults on demand.

Workers are fresh interpreters, so faults are asked for in the environment: MSUNAS_TEST_FAULTS is a
JSON object {"<architecture in JSON>" or "*": fault, a name in `FAULTS`}, MSUNAS_TEST_SLEEP seconds
per evaluation, MSUNAS_TEST_MARK a path that tells the processes of one test from all others.
"""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np

from evaluator.base import Evaluator
from evaluator.costs import CostModel, millions
from search_space import OFASearchSpace
from tests.jobs.evaluators import channel, grandchild


def fail() -> None:
    """An exception."""
    raise ValueError("the evaluation fails, as the test wants")


def hang() -> None:
    """Never ends, and neither does the process that it started."""
    grandchild()
    time.sleep(600)


def eat_memory() -> None:
    """Takes memory until there is none."""
    blocks = []
    while True:
        blocks.append(bytes(2**26))


def die() -> None:
    """Is killed."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_once() -> None:
    """Is killed the first time."""
    mark = Path(os.environ["MSUNAS_TEST_MARK"])
    if not mark.exists():
        mark.touch()
        die()


def answer_half() -> None:
    """Is killed in the middle of its answer."""
    os.write(channel(), b'{"status": "ok", "stats": {"top1": 99')
    die()


FAULTS = {"raise": fail, "nan": lambda: {"top1": float("nan")}, "hang": hang, "die": die,
          "memory": eat_memory, "die once": die_once, "half": answer_half,
          "slow": lambda: time.sleep(2)}


def top1(space: OFASearchSpace, arch: dict) -> float:
    """A smooth accuracy in percent: capacity with diminishing returns, and some interaction."""
    x = space.encode(arch) / np.maximum(space.upper, 1)
    weights = np.cos(np.arange(len(x))) ** 2 + 0.2
    return float(60 + 30 * (1 - np.exp(-3 * (x @ weights) / weights.sum())) + x[5] * x[20])


class Formula(Evaluator):
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
        changed = (FAULTS[fault]() if fault else None) or {}
        full = OFASearchSpace(resolutions=range(192, 257, 4))
        costs = CostModel(space).of_arch(arch)
        return {"params": millions(costs["params"]), "flops": millions(costs["flops"]),
                "gpu": None, "cpu": None, "loss": 1.0,
                "top1": top1(full, arch), "top5": 99.0} | changed

    def latency(self, arch: dict) -> dict:
        costs = CostModel(OFASearchSpace(resolutions=[arch["r"]])).of_arch(arch)
        return {"cpu": costs["macs"] / 1e7}
