"""Random search: the baseline that every other strategy must beat."""

import numpy as np

from search.strategies.base import Strategy, Task


class RandomSearch(Strategy):
    """Proposes architectures drawn uniformly, gene by gene."""

    name = "random"
    default_predictor = None

    def propose(self, task: Task, k: int, rng: np.random.Generator) -> np.ndarray:
        """See `Strategy.propose`."""
        return task.top_up(task.known[:0], k, rng)[:k]
