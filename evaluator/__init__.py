"""Architecture -> objectives: accuracy from a supernet (or a table), exact costs, latency."""

import importlib
from typing import Any

from evaluator.base import Evaluator
from utils.registry import load_class

# name -> "module:Class", an `evaluator.base.Evaluator`. Imported when a worker builds it: the
# search itself never loads torch.
EVALUATORS = {
    "ofa": "evaluator.accuracy:SupernetEvaluator",
    "oracle": "evaluator.oracle:OracleEvaluator",
}


def build_evaluator(name: str, options: dict[str, Any]) -> Evaluator:
    """Imports and constructs an evaluator.

    Args:
        name: a key of `EVALUATORS`, or `module:Class` for one of your own.
        options: see `Evaluator.from_options`.

    Raises:
        UserError: no such evaluator, or options that it cannot work with.
    """
    evaluator: type[Evaluator] = load_class(EVALUATORS, name, "evaluator", Evaluator)
    return evaluator.from_options(options)


def __getattr__(attribute: str) -> Any:
    """Makes `from evaluator import OFAEvaluator` work without importing torch beforehand."""
    if attribute == "OFAEvaluator":
        return importlib.import_module("evaluator.accuracy").OFAEvaluator
    raise AttributeError(f"module 'evaluator' has no attribute {attribute!r}")
