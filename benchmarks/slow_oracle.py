"""The oracle as an evaluator that takes its time, so that kills come in the middle of its work."""

import time
from typing import Any

from evaluator.oracle import OracleEvaluator
from search_space import Arch

SECONDS = 0.05


class SlowOracle(OracleEvaluator):
    """`--evaluator benchmarks.slow_oracle:SlowOracle`."""

    def evaluate(self, arch: Arch, *, batch_scale: float = 1.0) -> dict[str, Any]:
        """Returns what the oracle says, after 0.05 s."""
        time.sleep(SECONDS)
        return super().evaluate(arch, batch_scale=batch_scale)
