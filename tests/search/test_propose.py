"""One step of the search as a function: what it proposes, and the corner cases."""

from types import SimpleNamespace

import numpy as np
import pytest

from search.objectives import SpaceCosts, make_objectives
from search.strategies import Task
from search.strategies.msunas import MSuNAS, select_subset
from search_space import OFASearchSpace
from search_space.base import rows_in, unique_rows

K = 8


@pytest.fixture(scope="module")
def step():
    """A space, an archive, and a linear predictor in place of a fitted one."""
    space = OFASearchSpace()
    (objective,) = make_objectives("flops", SpaceCosts(space))
    archs = space.initialize(60, rng=np.random.default_rng(0))
    X = np.array([space.encode(a) for a in archs])
    weights = np.random.default_rng(1).random(space.n_var)

    def predict(V):
        return 40 - (np.asarray(V) @ weights)[:, None] * 0.2

    F = np.column_stack([predict(X)[:, 0], objective.values(X)])
    surrogate = SimpleNamespace(
        predict=lambda V: np.column_stack([predict(V)[:, 0], objective.values(V)]))
    return SimpleNamespace(space=space, surrogate=surrogate, X=X, F=F)


def run(step, known=None, seed=0, k=K):
    task = Task(step.space, step.X, step.F, step.X if known is None else known, step.surrogate)
    return MSuNAS().propose(task, k, np.random.default_rng(seed))


def test_proposals_are_new_distinct_and_canonical(step):
    X = run(step)
    assert X.shape == (K, step.space.n_var)
    assert len(unique_rows(X)) == K
    assert not rows_in(X, step.X).any()
    np.testing.assert_array_equal(step.space.canonical(X), X)


def test_the_seed_decides(step):
    np.testing.assert_array_equal(run(step, seed=3), run(step, seed=3))
    assert (run(step, seed=3) != run(step, seed=4)).any()


def test_proposals_improve_the_predicted_front(step):
    X = run(step)
    F = step.surrogate.predict(X)
    dominated = ((step.F[None] <= F[:, None]).all(axis=2)
                 & (step.F[None] < F[:, None]).any(axis=2)).any(axis=1)
    assert not dominated.any(), "the archive dominates none of them by the model"


def test_what_failed_is_never_proposed_again(step):
    first = run(step)
    known = np.vstack([step.X, first])
    assert not rows_in(run(step, known=known), known).any()


def test_an_exhausted_space_gives_what_is_left_and_then_nothing():
    space = SimpleNamespace(draw=lambda n, rng: rng.integers(0, 2, size=(n, 3)))
    everything = np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)])
    none = np.zeros((0, 3), dtype=int)
    rng = np.random.default_rng(0)
    left = Task(space, none, none, everything[:5], None).top_up(none, 8, rng)
    assert {tuple(x) for x in left} == {tuple(x) for x in everything[5:]}
    assert Task(space, none, none, everything, None).top_up(none, 8, rng).shape == (0, 3)


def test_a_subset_is_chosen_for_even_gaps():
    front = np.array([0.0, 100.0])
    candidates = np.array([1.0, 25.0, 26.0, 50.0, 75.0, 99.0])
    assert select_subset(candidates, front, 3, seed=0).tolist() == [1, 3, 4]


def test_the_genetic_subset_selection_comes_close_to_the_best():
    rng = np.random.default_rng(0)
    front = np.array([0.0, 1.0])
    candidates = np.sort(rng.random(40))

    def deviation(chosen):
        return np.std(np.diff(np.sort(np.concatenate([front, candidates[chosen]]))))

    chosen = select_subset(candidates, front, K, seed=0)
    assert len(set(chosen)) == K
    random = [deviation(rng.choice(40, K, replace=False)) for _ in range(2000)]
    assert deviation(chosen) < min(random)


@pytest.mark.parametrize("m", [0, 3, K])
def test_no_more_candidates_than_wanted_are_all_taken(m):
    assert select_subset(np.arange(float(m)), np.array([0.0]), K, 0).tolist() == list(range(m))
