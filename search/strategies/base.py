"""The contract of a strategy: it proposes architectures to evaluate."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from search.surrogate import Surrogate
from search_space import SearchSpace
from search_space.base import rows_in, unique_rows

ROUNDS = 20  # of drawing or breeding, until enough is new


@dataclass(frozen=True)
class Task:
    """What a strategy decides on.

    Attributes:
        space: the search space.
        X: (a, n_var) canonical vectors of the archive.
        F: (a, m) measured objectives, all minimised: the top-1 error in percent, then the others.
        known: (b, n_var) vectors that must not be proposed: the archive and what failed.
        surrogate: fitted on the archive; None where the strategy wants none.
        violation: (n, n_var) vectors -> (n,) how far they are beyond the constraints of the
            search, 0 within them; None where there are no constraints.
    """

    space: SearchSpace
    X: np.ndarray
    F: np.ndarray
    known: np.ndarray
    surrogate: Surrogate | None
    violation: Callable[[np.ndarray], np.ndarray] | None = None

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Returns the (n, m) objectives of (n, n_var) vectors as the surrogate predicts them."""
        if self.surrogate is None:
            raise RuntimeError("a strategy without default_predictor has no surrogate")
        return self.surrogate.predict(X)

    def fresh(self, X: np.ndarray) -> np.ndarray:
        """Returns the distinct rows of (n, n_var) vectors that may be evaluated."""
        X = unique_rows(X)
        X = X[~rows_in(X, self.known)]
        if self.violation is not None and len(X):
            X = X[self.violation(X) <= 0]
        return X

    def top_up(self, X: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
        """Returns at least `k` fresh vectors, if the space has them: `X`, then random ones."""
        return self.collect(X, lambda: self.space.draw(4 * k, rng), k)

    def collect(self, X: np.ndarray, breed: Callable[[], np.ndarray], k: int,
                rounds: int = ROUNDS) -> np.ndarray:
        """Returns `X` and what is fresh of what `breed` gives, until there are `k` vectors."""
        for _ in range(rounds):
            if len(X) >= k:
                break
            X = self.fresh(np.vstack([X, breed()]))
        return X


class Strategy(ABC):
    """Proposes what to evaluate next.

    Policy: a proposal is fresh (`Task.fresh`); all randomness comes from the generator passed in,
    so that a search that was killed proposes the same again; a strategy keeps no state between
    two proposals. `propose` must not evaluate anything.

    Attributes:
        name: key in `STRATEGIES`.
        default_predictor: the accuracy predictor that it works best with; None where it needs no
            surrogate.
        objective_predictor: what predicts objectives that are known by evaluation only.
        needs_std: whether the predictors must give standard deviations.
    """

    name: ClassVar[str]
    default_predictor: ClassVar[str | None] = "rbf"
    objective_predictor: ClassVar[str] = "rbf"
    needs_std: ClassVar[bool] = False

    @abstractmethod
    def propose(self, task: Task, k: int, rng: np.random.Generator) -> np.ndarray:
        """Returns up to `k` vectors to evaluate, (<= k, n_var) canonical ints.

        Fewer only where the space (within the constraints) holds no more.
        """
