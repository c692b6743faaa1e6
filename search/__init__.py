"""The search, free of torch and of command lines: what to evaluate next, and what came of it.

Names are imported on first use: a command that only prints its help needs none of them.
"""

import importlib
from typing import Any

_MODULES = {
    "algorithm": ("Batch", "Iteration", "Search"),
    "archive": ("Record", "Stats"),
    "constraints": ("Constraints",),
    "evaluation": ("Engine", "Failure"),
    "objectives": ("SpaceCosts", "Objective", "make_objectives"),
    "progress": ("Progress",),
    "settings": ("Settings",),
    "strategies": ("STRATEGIES", "Strategy", "Task", "get_strategy"),
    "surrogate": ("Surrogate",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Imports the module that defines `name`."""
    if name not in _HOME:
        raise AttributeError(f"module 'search' has no attribute {name!r}")
    return getattr(importlib.import_module(f"search.{_HOME[name]}"), name)
