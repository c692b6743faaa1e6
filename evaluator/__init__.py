"""Architecture -> objectives: accuracy from a supernet (or a table), exact costs, latency."""

import importlib
from typing import Any

from utils.errors import UserError

# name -> "module:class". Imported when a worker builds it: the search itself never loads torch.
# Each class has `__init__(**options)` and `evaluate(arch, *, batch_scale=1.0) -> dict` of stats.
EVALUATORS = {
    "ofa": "evaluator.accuracy:SupernetEvaluator",
    "oracle": "evaluator.oracle:OracleEvaluator",
}


def build_evaluator(name: str, options: dict[str, Any]) -> Any:
    """Imports and constructs the evaluator called `name`; raises UserError for unknown names."""
    if name not in EVALUATORS:
        raise UserError(f"unknown evaluator {name!r}; choose from {', '.join(sorted(EVALUATORS))}")
    module, attribute = EVALUATORS[name].split(":")
    return getattr(importlib.import_module(module), attribute)(**options)


def __getattr__(attribute: str) -> Any:
    """Makes `from evaluator import OFAEvaluator` work without importing torch beforehand."""
    if attribute == "OFAEvaluator":
        return importlib.import_module("evaluator.accuracy").OFAEvaluator
    raise AttributeError(f"module 'evaluator' has no attribute {attribute!r}")
