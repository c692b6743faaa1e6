"""Expected hypervolume improvement: each proposal is the one that improves the front most."""

import numpy as np

from search.acquisition import ExpectedHypervolumeImprovement, Front
from search.evolution import evolve, neighbours
from search.strategies.base import Strategy, Task
from search.surrogate import Surrogate
from search_space.base import rows_in
from utils.pareto import non_dominated

# The inner searches: on the mean, and on the mean less this many standard deviations.
POPULATION, GENERATIONS, OPTIMISM = 100, 40, (0.0, 2.0)
# Standard deviations are multiplied by it. The best of many candidates is often one whose standard
# deviation is too large: at full scale, few proposals improve the front.
STD_SCALE = 0.5
# Steps of the local search from the best candidate of the pool.
CLIMB = 10


class EHVI(Strategy):
    """Greedy batches of the largest expected hypervolume improvement.

    For each proposal in turn: candidates come from evolutionary searches on the surrogate's mean
    and on its lower confidence bound; a local search through one-gene neighbours
    starts from the best of them. The surrogate is then conditioned on its own prediction of what
    was chosen, so that the next proposal lies elsewhere (the Kriging believer of Ginsbourger et
    al., 2010).

    Source: Emmerich et al., "Single- and multiobjective evolutionary optimization assisted by
    Gaussian random field metamodels" (2006). `docs/strategies.md` has the formulas.

    Args:
        std_scale: all standard deviations are multiplied by it; 1 is the textbook's.
    """

    name = "ehvi"
    default_predictor = "nngp"
    objective_predictor = "nngp"
    needs_std = True

    def __init__(self, std_scale: float = STD_SCALE) -> None:
        self.std_scale = std_scale

    def propose(self, task: Task, k: int, rng: np.random.Generator) -> np.ndarray:
        """See `Strategy.propose`."""
        surrogate = task.surrogate
        if surrogate is None:
            raise RuntimeError("a strategy with a default_predictor has a surrogate")
        front = Front.of(denoised(surrogate, task.X, task.F))
        pool = candidates(task, surrogate, rng, self.std_scale)
        chosen = pool[:0]
        while len(chosen) < k and len(pool):
            ehvi = ExpectedHypervolumeImprovement(surrogate, front, int(rng.integers(2**31)),
                                                  self.std_scale)
            x = climb(task, ehvi, pool, chosen)
            chosen = np.vstack([chosen, x])
            pool = pool[~rows_in(pool, chosen)]
            surrogate = surrogate.condition_on(x)
            front = front.add(surrogate.predict(x))
        return task.top_up(chosen, k, rng)[:k]


def denoised(surrogate: Surrogate, X: np.ndarray, F: np.ndarray) -> np.ndarray:
    """Returns (a, m) objectives of the archive without the noise that the models have found."""
    return np.where(surrogate.exact, F, surrogate.predict(X))


def candidates(task: Task, surrogate: Surrogate, rng: np.random.Generator,
               std_scale: float) -> np.ndarray:
    """Returns fresh vectors that are good by the mean or by a lower confidence bound."""
    start, pools = task.X[non_dominated(task.F)], []
    for optimism in (std_scale * each for each in OPTIMISM):
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


def climb(task: Task, ehvi: ExpectedHypervolumeImprovement, pool: np.ndarray,
          chosen: np.ndarray) -> np.ndarray:
    """Returns the (1, n_var) best of the pool, or what its neighbours lead to."""
    pool = ehvi.shortlist(pool)
    values = ehvi(pool)
    best, value = pool[[values.argmax()]], values.max()
    for _ in range(CLIMB):
        near = task.fresh(neighbours(task.space, best[0]))
        near = ehvi.shortlist(near[~rows_in(near, chosen)])
        if not len(near):
            break
        values = ehvi(near)
        if values.max() <= value:
            break
        best, value = near[[values.argmax()]], values.max()
    return best

