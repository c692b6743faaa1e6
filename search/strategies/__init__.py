"""Strategies: from what is known to what is evaluated next. A new one is a file and a row."""

import importlib
from typing import TYPE_CHECKING, Any

from utils.registry import load_class

if TYPE_CHECKING:
    from search.strategies.base import Strategy, Task

__all__ = ["STRATEGIES", "Strategy", "Task", "get_strategy"]

# name -> "module:class", a `Strategy`
STRATEGIES = {
    "ehvi": "search.strategies.ehvi:EHVI",
    "evolution": "search.strategies.evolution:RegularisedEvolution",
    "msunas": "search.strategies.msunas:MSuNAS",
    "nsga2": "search.strategies.evolution:NSGA2",
    "random": "search.strategies.random:RandomSearch",
}


def get_strategy(name: str) -> "Strategy":
    """Returns the strategy called `name`, or a class of your own as `module:Class`.

    Raises:
        UserError: no such strategy; the message lists the known ones.
    """
    from search.strategies.base import Strategy

    strategy: Strategy = load_class(STRATEGIES, name, "strategy", Strategy)()
    return strategy


def __getattr__(name: str) -> Any:
    """Imports the contract on first use."""
    if name not in ("Strategy", "Task"):
        raise AttributeError(f"module 'search.strategies' has no attribute {name!r}")
    return getattr(importlib.import_module("search.strategies.base"), name)
