"""The search, free of torch and of command lines: what to evaluate next, and what came of it.

Names are imported on first use: a command that only prints its help needs none of them.
"""

from utils.registry import lazy_names

_MODULES = {
    "algorithm": ("Batch", "Iteration", "Search"),
    "archive": ("Record", "Stats"),
    "asynchronous": ("AsynchronousSearch",),
    "constraints": ("Constraints",),
    "evaluation": ("Engine", "Failure"),
    "objectives": ("SpaceCosts", "Objective", "make_objectives"),
    "progress": ("Progress",),
    "settings": ("Settings",),
    "strategies": ("STRATEGIES", "Strategy", "Task", "get_strategy"),
    "surrogate": ("Surrogate",),
}

__all__ = sorted(name for names in _MODULES.values() for name in names)
__getattr__ = lazy_names(__name__, _MODULES)
