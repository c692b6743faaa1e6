"""Architecture -> objectives: accuracy from a supernet (or a table), exact costs, latency."""

from collections.abc import Callable
from typing import Any

from evaluator.base import Evaluator
from utils.errors import UserError
from utils.registry import lazy_names, load_class

# name -> "module:Class", an `evaluator.base.Evaluator`. Imported when a worker builds it: the
# search itself never loads torch.
EVALUATORS = {
    "ofa": "evaluator.accuracy:SupernetEvaluator",
    "oracle": "evaluator.oracle:OracleEvaluator",
    "table": "evaluator.table:TableEvaluator",
    "evoxbench": "evaluator.evoxbench:EvoXBenchEvaluator",
}

# `from evaluator import OFAEvaluator`, as the original has it
__getattr__ = lazy_names(__name__, {"accuracy": ("OFAEvaluator",)})


def build_evaluator(name: str, options: dict[str, Any]) -> Evaluator:
    """Imports and constructs an evaluator.

    Args:
        name: a key of `EVALUATORS`, or `module:Class` for one of your own: a class derived from
            `Evaluator`, or any that is constructed with the options as keywords and has `evaluate`.
        options: see `Evaluator.from_options`.

    Raises:
        UserError: no such evaluator, or options that it cannot work with.
    """
    evaluator: Any = load_class(EVALUATORS, name, "evaluator")
    if not callable(getattr(evaluator, "evaluate", None)):
        raise UserError(f"{name!r} is no evaluator: it must be a class derived from Evaluator, or "
                        "have its method evaluate")
    make: Callable[..., Evaluator] = getattr(evaluator, "from_options", lambda o: evaluator(**o))
    return make(options)
