"""`Search.ask` and `Search.tell`: what is refused, parts of a batch, and what was known before."""

import numpy as np
import pytest

from search import Failure, Progress, Record, Search, SpaceCosts, make_objectives
from search.run_folder import RunFolder
from tests.search.engines import direct
from tests.search.toy import Baker, Cakes
from utils.errors import UserError

SPACE = Cakes()
OBJECTIVES = make_objectives("energy", SpaceCosts(SPACE), reported=True)


def bake(arch):
    return Baker().evaluate(arch)


def make(**options):
    return Search(SPACE, OBJECTIVES, **{"n_doe": 8, "iterations": 2, "n_iter": 3} | options,
                  progress=Progress(quiet=True))


def complete(search):
    while (batch := search.ask()) is not None:
        search.tell(batch, [bake(arch) for arch in batch.archs])
    return search


def state(search):
    return (list(search.archive), search.X.tolist(), search.failed_X.tolist(),
            search.next_iteration, search.ask().X.tolist())


@pytest.fixture
def ran():
    search = make(engine=direct(bake))
    search.run()
    return search


def test_stats_that_are_told_are_what_an_engine_gives(ran):
    assert complete(make()).archive == ran.archive and len(ran.archive) == 14


@pytest.mark.parametrize("folder", [False, True])
def test_a_batch_is_told_in_parts_and_in_any_order(ran, tmp_path, folder):
    search = make(folder=tmp_path if folder else None)
    rng = np.random.default_rng(0)
    while (batch := search.ask()) is not None:
        order = rng.permutation(len(batch.archs)).tolist()
        for i in order[1:]:
            assert search.tell([batch.archs[i]], [bake(batch.archs[i])]) is None
        (last,) = search.ask().archs
        assert last == batch.archs[order[0]]
        assert search.tell([last], [bake(last)]).number == batch.iteration
    assert search.archive == ran.archive


@pytest.mark.parametrize(("outcome", "match"), [
    (None, "is None"), ("good", "is 'good'"), (91.5, r'is 91.5; tell stats as \{"top1": 71.5\}'),
    (Record({}, float("nan"), 1.0), "not finite: top1"),
    (Record({}, "5 %", 1.0), "top1: must be a finite number"),
    (Record({}, -1.0, 1.0), "in 0..100"), (Record({}, 101.0, 1.0), "in 0..100"),
    (Record({}, 5.0, float("nan")), "energy"), (Record({}, 5.0, "much"), "energy"),
    (Record({}, 5.0, 1.0, (2.0,)), "2 objectives besides the error, but the search has 1"),
    (Failure("ok", ""), "the status of a failure is one of failed")])
@pytest.mark.parametrize("n_before", [0, 3])
def test_an_outcome_that_is_none_is_refused_and_changes_nothing(outcome, match, n_before):
    search = make()
    first = search.ask()
    search.tell(first.archs[:n_before], [bake(arch) for arch in first.archs[:n_before]])
    batch = search.ask()
    before = state(search)
    outcomes = [bake(arch) for arch in batch.archs]
    with pytest.raises(UserError, match=match):
        search.tell(batch, [*outcomes[:-1], outcome])
    assert state(search) == before
    assert search.tell(batch, outcomes).number == 0


@pytest.mark.parametrize(("stats", "status"), [
    ({"top1": float("nan")}, "nan"), ({"top1": None}, "nan"), ({}, "nan"),
    ({"top1": 50.0, "energy": float("inf")}, "nan"), ({"top1": -1}, "failed"),
    ({"top1": 101}, "failed"), ({"top1": "good", "energy": 1}, "failed"), ({"top1": 50}, "failed"),
    ({"top1": 50, "energy": object()}, "failed")])
def test_stats_with_a_fault_are_a_recorded_failure(stats, status, tmp_path, capsys):
    search = make(folder=tmp_path)
    batch = search.ask()
    iteration = search.tell(batch, [stats, *map(bake, batch.archs[1:])])
    assert [failure.status for failure in iteration.failures] == [status]
    assert search.failed == batch.archs[:1] and len(search.archive) == 7
    assert f"outcome 0 {status}" in capsys.readouterr().err
    record = RunFolder(tmp_path).read_failed(SPACE.encode)[0, 0]
    assert (record.arch, record.status) == (batch.archs[0], status)
    assert make(folder=tmp_path).restore().failed == batch.archs[:1]


def test_numbers_of_numpy_are_numbers():
    search = make()
    batch = search.ask()
    search.tell(batch, [{key: np.float32(value) for key, value in bake(arch).items()}
                        for arch in batch.archs])
    assert all(type(record.top1_err) is float for record in search.archive)


def test_each_architecture_of_the_batch_is_told_once():
    search = make()
    batch = search.ask()
    outcomes = [bake(arch) for arch in batch.archs]
    with pytest.raises(UserError, match="7 outcomes for 8 architectures"):
        search.tell(batch, outcomes[1:])
    with pytest.raises(UserError, match="architecture 1 was told before"):
        search.tell([batch.archs[0]] * 2, outcomes[:2])
    search.tell(batch.archs[:2], outcomes[:2])
    for archs in (batch, batch.archs[:1]):
        with pytest.raises(UserError, match="architecture 0 was told before"):
            search.tell(archs, outcomes[:len(getattr(archs, "archs", archs))])
    search.tell(batch.archs[2:], outcomes[2:])
    with pytest.raises(UserError, match="architecture 0 was told before"):
        search.tell(batch, outcomes)
    other = next(arch for arch in SPACE.sample(100, rng=np.random.default_rng(1))
                 if arch not in search.archs + search.ask().archs)
    with pytest.raises(UserError, match="architecture 0 is not of the batch of iteration 1"):
        search.tell([other], [bake(other)])
    for archs, outcomes in ((None, []), (batch, None), (batch.archs[0], [{"top1": 1}]),
                            (batch.archs[:1], {"top1": 1}), (batch, "outcomes")):
        with pytest.raises(UserError, match="must be a list, not"):
            search.tell(archs, outcomes)
    with pytest.raises(UserError, match="no cake"):
        search.tell([{"temperature": 1}], [bake(other)])
    assert search.next_iteration == 1 and len(search.archive) == 8
    with pytest.raises(UserError, match="waits for no outcome"):
        complete(search).tell([other], [bake(other)])


def test_a_batch_of_failures_alone_can_be_told_again(tmp_path):
    search = make(folder=tmp_path)
    batch = search.ask()
    search.tell(batch.archs[:4], [Failure("failed", "no power")] * 4)
    before = state(search)
    with pytest.raises(UserError, match=r"all 8 evaluations of iteration 0 failed.*no power"):
        search.tell(batch.archs[4:], [{"top1": float("nan")}] * 4)
    assert state(search) == before
    assert search.tell(batch.archs[4:], list(map(bake, batch.archs[4:]))).number == 0


def test_what_was_told_of_a_batch_survives_the_process(ran, tmp_path):
    search = make(folder=tmp_path)
    batch = search.ask()
    search.tell(batch.archs[2:5], list(map(bake, batch.archs[2:5])))
    again = make(folder=tmp_path)
    assert again.ask().archs == [*batch.archs[:2], *batch.archs[5:]]
    assert complete(again).archive == ran.archive


@pytest.mark.parametrize("folder", [False, True])
def test_an_engine_finishes_a_batch_that_was_told_in_part(ran, tmp_path, folder):
    asked = []
    search = make(folder=tmp_path if folder else None,
                  engine=direct(lambda arch: asked.append(arch) or bake(arch)))
    batch = search.ask()
    search.tell(batch.archs[:3], list(map(bake, batch.archs[:3])))
    search.run()
    assert search.archive == ran.archive and len(asked) == 11


def test_what_is_known_stands_for_a_part_of_the_initial_sample(tmp_path):
    known = SPACE.sample(3, rng=np.random.default_rng(5))
    for _ in range(2):  # the second time, as a cell of a notebook that is run again
        search = make(folder=tmp_path)
        search.tell_known(known, list(map(bake, known)))
        complete(search)
        assert search.archs[:3] == known and len(search.archive) == 14
        assert len({str(arch) for arch in search.archs}) == 14
    with pytest.raises(UserError, match="the search has begun"):
        search.tell_known(SPACE.sample(9, rng=np.random.default_rng(6)), [{"top1": 1}] * 9)


def test_a_known_archive_can_be_the_whole_initial_sample():
    known = SPACE.sample(20, rng=np.random.default_rng(5))
    known = [arch for i, arch in enumerate(known) if arch not in known[:i]]
    search = make()
    search.tell_known(known, list(map(bake, known)))
    assert search.ask().iteration == 1
    assert len(complete(search).archive) == len(known) + 6


@pytest.mark.parametrize(("archs", "outcomes", "match"), [
    (2, 1, "1 outcomes for 2"), (1, [{"top1": float("nan")}], "outcome 0 is no measurement"),
    (1, [Failure("lost", "gone")], "outcome 0 is no measurement: gone")])
def test_what_is_known_was_measured(archs, outcomes, match):
    search = make()
    known = SPACE.sample(archs, rng=np.random.default_rng(5))
    outcomes = list(map(bake, known[:outcomes])) if isinstance(outcomes, int) else outcomes
    with pytest.raises(UserError, match=match):
        search.tell_known(known, outcomes)
    search.tell_known(known, list(map(bake, known)))
    with pytest.raises(UserError, match="told before"):
        search.tell_known(known, list(map(bake, known)))
