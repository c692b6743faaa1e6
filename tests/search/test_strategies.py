"""What every strategy must do; a new one is one more row of `STRATEGIES`."""

import numpy as np
import pytest

from search import Failure, Progress, Record, Search, SpaceCosts, Task, make_objectives
from search.strategies import STRATEGIES, ehvi, get_strategy
from search.surrogate import Surrogate
from search_space import OFASearchSpace
from search_space.base import rows_in, unique_rows
from tests.search.engines import direct
from tests.search.evaluators import top1
from tests.search.toy import Baker, Cakes
from utils.errors import UserError
from utils.pareto import normalized_hypervolume

NAMES = sorted(STRATEGIES)
SPACE, K = OFASearchSpace(), 5


@pytest.fixture(autouse=True)
def small_budgets(monkeypatch):
    """Short inner searches: the contract does not depend on them."""
    monkeypatch.setattr(ehvi, "POPULATION", 20)
    monkeypatch.setattr(ehvi, "GENERATIONS", 5)


def cake_values(X):
    stats = [Baker().evaluate(Cakes().decode(x)) for x in X]
    return np.array([[100 - s["top1"], s["energy"], -s["sweetness"]] for s in stats])


def cake_task(name, n=30, objectives="energy+sweetness:max", known=None, violation=None):
    """A task with an archive of cakes; all objectives beside the error are known by evaluation."""
    space, strategy = Cakes(), get_strategy(name)
    X = unique_rows(space.draw(3 * n, np.random.default_rng(1)))[:n]
    F = cake_values(X)
    surrogate = None
    if strategy.default_predictor is not None:
        surrogate = Surrogate(space, make_objectives(objectives, SpaceCosts(space), reported=True),
                              strategy.default_predictor, X, F[:, :1 + objectives.count("+") + 1],
                              0, strategy.objective_predictor)
    F = F[:, :1 + objectives.count("+") + 1]
    return strategy, Task(space, X, F, X if known is None else known, surrogate, violation)


def flops_task(name, n=50, violation=None):
    """A task on the space of the paper: FLOPs are exact."""
    strategy = get_strategy(name)
    objectives = make_objectives("flops", SpaceCosts(SPACE))
    X = np.array([SPACE.encode(a) for a in SPACE.initialize(n, rng=np.random.default_rng(0))])
    F = np.column_stack([[100 - top1(SPACE, SPACE.decode(x)) for x in X], objectives[0].values(X)])
    surrogate = strategy.default_predictor and Surrogate(SPACE, objectives,
                                                         strategy.default_predictor, X, F, 0)
    return strategy, Task(SPACE, X, F, X, surrogate or None, violation)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [flops_task, cake_task])
def test_proposals_are_fresh_distinct_and_canonical(name, make):
    strategy, task = make(name)
    X = strategy.propose(task, K, np.random.default_rng(0))
    assert X.shape == (K, task.space.n_var)
    assert len(unique_rows(X)) == K
    assert not rows_in(X, task.known).any()
    np.testing.assert_array_equal(task.space.canonical(X), X)
    assert strategy.name == name


@pytest.mark.parametrize("name", NAMES)
def test_the_generator_decides(name):
    strategy, task = flops_task(name)
    first, again, other = (strategy.propose(task, K, np.random.default_rng(s)) for s in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert first.tolist() != other.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_constraints_hold(name):
    (flops,) = make_objectives("flops", SpaceCosts(SPACE))
    strategy, task = flops_task(name, violation=lambda X: np.maximum(flops.values(X) - 200, 0))
    X = strategy.propose(task, K, np.random.default_rng(0))
    assert len(X) == K
    assert (flops.values(X) <= 200).all()


@pytest.mark.parametrize("name", NAMES)
def test_an_exhausted_space_gives_no_more_than_it_holds(name):
    space = Cakes()
    vectors = np.indices(space.upper + 1).reshape(space.n_var, -1).T
    everything = unique_rows(space.canonical(vectors))
    strategy, task = cake_task(name, known=everything[::2])
    assert len(strategy.propose(task, K, np.random.default_rng(0))) == K
    strategy, task = cake_task(name, known=everything)
    assert not len(strategy.propose(task, K, np.random.default_rng(0)))


@pytest.mark.parametrize("name", NAMES)
def test_a_search_goes_on_to_the_same_bytes_and_never_proposes_a_failure_again(name, tmp_path):
    def make(folder, iterations):
        costs = SpaceCosts(SPACE)
        return Search(SPACE, make_objectives("flops", costs), name, costs=costs,
                      engine=direct(lambda arch: {"top1": top1(SPACE, arch)}), folder=folder,
                      n_doe=20, iterations=iterations, n_iter=3, progress=Progress(0, quiet=True))

    make(tmp_path / "a", 2).run()
    make(tmp_path / "b", 1).run()
    make(tmp_path / "b", 2).run()
    assert (tmp_path / "a/iter_2.stats").read_bytes() == (tmp_path / "b/iter_2.stats").read_bytes()
    search = make(None, 3)
    batch = search.ask()
    search.tell(batch, [Failure("failed", "no"), *(Record(a, 30.0 - i / 9, 100.0 + i)
                                                   for i, a in enumerate(batch.archs[1:]))])
    assert batch.archs[0] not in search.ask().archs


def test_a_strategy_that_needs_standard_deviations_refuses_predictors_without():
    objectives = make_objectives("flops", SpaceCosts(SPACE))
    with pytest.raises(UserError, match="'rbf' gives no standard deviation"):
        Search(SPACE, objectives, "ehvi", "rbf")
    assert Search(SPACE, objectives, "ehvi", "gp").predictor == "gp"


@pytest.mark.parametrize("objectives", ["energy", "energy+sweetness:max"])
def test_any_predictor_with_a_standard_deviation_and_any_objectives(objectives):
    _, task = cake_task("ehvi", objectives=objectives)
    surrogate = Surrogate(task.space,
                          make_objectives(objectives, SpaceCosts(task.space), reported=True), "gp",
                          task.X, task.F, 0, "nngp")
    task = Task(task.space, task.X, task.F, task.X, surrogate)
    X = get_strategy("ehvi").propose(task, K, np.random.default_rng(0))
    assert len(X) == K
    mean, std = surrogate.predict_std(X)
    assert np.allclose(mean, surrogate.predict(X), atol=1e-6)
    assert (std > 0).all(), "nothing is exact here"


def test_noise_is_taken_out_of_the_errors_and_exact_objectives_stay():
    objectives, rng = make_objectives("flops", SpaceCosts(SPACE)), np.random.default_rng(0)
    X = SPACE.draw(400, rng)
    truth = 30 - X @ rng.uniform(0.1, 0.3, SPACE.n_var)
    F = np.column_stack([truth + rng.normal(0, 0.5, len(X)), objectives[0].values(X)])
    denoised = ehvi.denoised(Surrogate(SPACE, objectives, "nngp", X, F, 0), X, F)
    np.testing.assert_array_equal(denoised[:, 1], F[:, 1])
    assert np.std(denoised[:, 0] - truth) < 0.8 * np.std(F[:, 0] - truth)


def test_proposals_add_more_than_random_ones_by_far():
    strategy, task = flops_task("ehvi")

    def volume(X):
        errors = [100 - top1(SPACE, SPACE.decode(x)) for x in X]
        F = np.column_stack([errors, task.surrogate.predict(X)[:, 1]])
        return normalized_hypervolume(np.vstack([task.F, F]), 1.01 * task.F.max(axis=0))

    before = normalized_hypervolume(task.F, 1.01 * task.F.max(axis=0))
    ours = volume(strategy.propose(task, K, np.random.default_rng(0)))
    random = volume(SPACE.draw(50, np.random.default_rng(0)))
    assert ours - before > 2 * (random - before)


def test_a_larger_scale_proposes_what_is_less_certain():
    _, task = flops_task("ehvi")
    small, large = (np.mean([
        task.surrogate.predict_std(ehvi.EHVI(std_scale).propose(
            task, K, np.random.default_rng(seed)))[1][:, 0].mean() for seed in range(3)])
        for std_scale in (0.1, 2.0))
    assert small < large
