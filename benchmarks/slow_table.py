"""Evaluators that take their time, so that faults come in the middle of their work."""

import os
import time
from typing import Any

import numpy as np

from evaluator.oracle import OracleEvaluator
from evaluator.table import TableEvaluator
from search_space import Arch

SECONDS = 0.05


class SlowTable(TableEvaluator):
    """`--evaluator benchmarks.slow_table:SlowTable`."""

    def evaluate(self, arch: Arch, *, batch_scale: float = 1.0) -> dict[str, Any]:
        """Returns what the table says, after 0.05 s."""
        time.sleep(SECONDS)
        return super().evaluate(arch, batch_scale=batch_scale)


class SlowOracle(OracleEvaluator):
    """`--evaluator benchmarks.slow_table:SlowOracle`: takes as long as the FLOPs, about 3 s.

    The environment's JITTER_SEED draws a factor of each duration, uniform within 30 %.
    """

    def evaluate(self, arch: Arch, *, batch_scale: float = 1.0) -> dict[str, Any]:
        """Returns what the predictor says, after a while."""
        stats = super().evaluate(arch, batch_scale=batch_scale)
        seed = [int(os.environ.get("JITTER_SEED", "0")), int(stats["flops"] * 1000)]
        time.sleep(stats["flops"] / 100 * np.random.default_rng(seed).uniform(0.7, 1.3))
        return stats
