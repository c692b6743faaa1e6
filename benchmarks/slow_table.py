"""A table as an evaluator that takes its time, so that faults come in the middle of its work."""

import time
from typing import Any

from evaluator.table import TableEvaluator
from search_space import Arch

SECONDS = 0.05


class SlowTable(TableEvaluator):
    """`--evaluator benchmarks.slow_table:SlowTable`."""

    def evaluate(self, arch: Arch, *, batch_scale: float = 1.0) -> dict[str, Any]:
        """Returns what the table says, after 0.05 s."""
        time.sleep(SECONDS)
        return super().evaluate(arch, batch_scale=batch_scale)
