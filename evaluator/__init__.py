"""Architecture -> objectives: accuracy from a supernet (or a table), exact costs, latency."""

import importlib
from typing import Any

from utils.errors import UserError

# name -> "module:class". Imported when a worker builds it: the search itself never loads torch.
# Each class has `__init__(**options)` and `evaluate(arch, *, batch_scale=1.0) -> dict` of stats;
# with `latency(arch) -> dict` it can measure, too.
EVALUATORS = {
    "ofa": "evaluator.accuracy:SupernetEvaluator",
    "oracle": "evaluator.oracle:OracleEvaluator",
}


def build_evaluator(name: str, options: dict[str, Any]) -> Any:
    """Imports and constructs an evaluator.

    Args:
        name: a key of `EVALUATORS`, or `module:Class` for one of your own.
        options: keyword arguments of the class.

    Raises:
        UserError: no such evaluator; the message lists the known ones.
    """
    module, colon, attribute = EVALUATORS.get(name, name).partition(":")
    if not colon:
        raise UserError(f"unknown evaluator {name!r}; choose from {', '.join(sorted(EVALUATORS))}, "
                        "or name your own as module:Class")
    try:
        evaluator = getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        if name in EVALUATORS:
            raise
        raise UserError(f"no evaluator {name!r}: {error}") from None
    return evaluator(**options)


def __getattr__(attribute: str) -> Any:
    """Makes `from evaluator import OFAEvaluator` work without importing torch beforehand."""
    if attribute == "OFAEvaluator":
        return importlib.import_module("evaluator.accuracy").OFAEvaluator
    raise AttributeError(f"module 'evaluator' has no attribute {attribute!r}")
