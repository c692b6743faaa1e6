"""Strategies: from what is known to what is evaluated next. A new one is a file and a row."""

from typing import TYPE_CHECKING

from utils.registry import lazy_names, load_class

if TYPE_CHECKING:
    from search.strategies.base import Strategy, Task

__all__ = ["STRATEGIES", "Strategy", "Task", "get_strategy"]
__getattr__ = lazy_names(__name__, {"base": ("Strategy", "Task")})

# name -> "module:class", a `Strategy`
STRATEGIES = {
    "ehvi": "search.strategies.ehvi:EHVI",
    "evolution": "search.strategies.baselines:RegularisedEvolution",
    "msunas": "search.strategies.msunas:MSuNAS",
    "nsga2": "search.strategies.baselines:NSGA2",
    "random": "search.strategies.baselines:RandomSearch",
}


def get_strategy(name: str) -> "Strategy":
    """Returns the strategy called `name`, or a class of your own as `module:Class`.

    Raises:
        UserError: no such strategy; the message lists the known ones.
    """
    from search.strategies.base import Strategy

    return load_class(STRATEGIES, name, "strategy", Strategy)()
