"""Expected hypervolume improvement: each proposal is the one from which the front gains most."""

import numpy as np

from search.acquisition import Front, Gain
from search.evolution import evolve, neighbours
from search.strategies.base import Strategy, Task
from search.surrogate import Surrogate
from search_space.base import rows_in
from utils.pareto import non_dominated

# The inner searches: on the mean, and on the mean less this many standard deviations.
POPULATION, GENERATIONS, OPTIMISM = 100, 40, (0.0, 2.0)
# The part of a standard deviation that counts. The best of many candidates is often one whose
# standard deviation is too large: with all of it, few proposals improve the front.
BOLDNESS = 0.5
# Steps of the local search from the best candidate of the pool.
CLIMB = 10


class EHVI(Strategy):
    """Greedy batches of the largest expected hypervolume improvement.

    For each proposal in turn: candidates come from evolutionary searches on the surrogate's mean
    and on its lower confidence bound; the best of them climbs through its one-gene neighbours; it
    is then believed, as if its prediction had been measured, so that the next one goes elsewhere
    (the Kriging believer of Ginsbourger et al., 2010).

    Source: Emmerich et al., "Single- and multiobjective evolutionary optimization assisted by
    Gaussian random field metamodels" (2006). `docs/strategies.md` has the formulas.

    Args:
        boldness: all standard deviations are multiplied by it; 1 is the textbook's.
    """

    name = "ehvi"
    default_predictor = "nngp"
    objective_predictor = "nngp"
    needs_std = True

    def __init__(self, boldness: float = BOLDNESS) -> None:
        self.boldness = boldness

    def propose(self, task: Task, k: int, rng: np.random.Generator) -> np.ndarray:
        """See `Strategy.propose`."""
        surrogate = task.surrogate
        if surrogate is None:
            raise RuntimeError("a strategy with a default_predictor has a surrogate")
        front = Front.of(believed(surrogate, task.X, task.F))
        pool = candidates(task, surrogate, rng, self.boldness)
        chosen = pool[:0]
        while len(chosen) < k and len(pool):
            gain = Gain(surrogate, front, int(rng.integers(2**31)), self.boldness)
            x = climb(task, gain, pool, chosen)
            chosen = np.vstack([chosen, x])
            pool = pool[~rows_in(pool, chosen)]
            surrogate = surrogate.believe(x)
            front = front.add(surrogate.predict(x))
        return task.top_up(chosen, k, rng)[:k]


def believed(surrogate: Surrogate, X: np.ndarray, F: np.ndarray) -> np.ndarray:
    """Returns (a, m) objectives of the archive without the noise that the models have found."""
    return np.where(surrogate.exact, F, surrogate.predict(X))


def candidates(task: Task, surrogate: Surrogate, rng: np.random.Generator,
               boldness: float) -> np.ndarray:
    """Returns fresh vectors that are good by the mean or by a lower confidence bound."""
    start, pools = task.X[non_dominated(task.F)], []
    for optimism in (boldness * each for each in OPTIMISM):
        def bound(X: np.ndarray, optimism: float = optimism) -> np.ndarray:
            F = surrogate.predict(X) if not optimism else lower_bound(surrogate, X, optimism)
            return F if task.violation is None else penalised(F, task.violation(X))

        pools.append(evolve(task.space, bound, start, POPULATION, GENERATIONS, rng))
    return task.top_up(task.fresh(np.vstack(pools)), 1, rng)


def lower_bound(surrogate: Surrogate, X: np.ndarray, optimism: float) -> np.ndarray:
    """Returns the (n, m) predicted objectives less `optimism` standard deviations."""
    mean, std = surrogate.predict_std(X)
    return mean - optimism * std


def penalised(F: np.ndarray, violation: np.ndarray) -> np.ndarray:
    """Returns (n, m) objectives in which what violates constraints is worse than all that do not.

    Source: the constrained dominance of NSGA-II (Deb et al., 2002).
    """
    outside = violation > 0
    worst = F[~outside].max(axis=0) if (~outside).any() else F.max(axis=0)
    return np.where(outside[:, None], worst + 1 + violation[:, None], F)


def climb(task: Task, gain: Gain, pool: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Returns the (1, n_var) best of the pool, or what its neighbours lead to."""
    pool = gain.shortlist(pool)
    values = gain(pool)
    best, value = pool[[values.argmax()]], values.max()
    for _ in range(CLIMB):
        near = task.fresh(neighbours(task.space, best[0]))
        near = gain.shortlist(near[~rows_in(near, chosen)])
        if not len(near):
            break
        values = gain(near)
        if values.max() <= value:
            break
        best, value = near[[values.argmax()]], values.max()
    return best

