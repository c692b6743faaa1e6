"""Asynchronous searches: the virtual clock decides, whatever the devices do."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from evaluator.jobs import InProcess, Job, JobStream, Scheduler
from evaluator.jobs.base import Outcome
from search import Failure, Progress, Record, SpaceCosts, make_objectives
from search.asynchronous import AsynchronousSearch
from search.runner import describe_devices, make_parts
from search.settings import resolve, resume
from search.virtual_clock import VirtualClock, busy_share
from search_space import OFASearchSpace
from search_space.base import unique_rows
from tests.conftest import ROOT
from tests.jobs.simulated import SimulatedSlots
from tests.search.engines import direct
from tests.search.evaluators import top1
from tests.search.runs import command, contents
from tests.search.runs import resume as resume_command
from tests.search.toy import Baker, Cakes
from utils.errors import UserError

SPACE = OFASearchSpace()


def formula(arch):
    return {"top1": top1(SPACE, arch)}


def make(**options):
    options = {"n_doe": 20, "iterations": 3, "n_iter": 6, "devices": 4, "strategy": "nsga2",
               "costs": SpaceCosts(SPACE)} | options
    return AsynchronousSearch(SPACE, make_objectives("flops", options["costs"]),
                              progress=Progress(0, quiet=True), **options)


def step(search, seed, failing=()):
    """Tells outcomes in a random order; returns the proposals and the most that were under way."""
    rng, waiting, proposed, most = np.random.default_rng(seed), {}, [], 0
    while not search.complete:
        while (batch := search.ask()) is not None:
            values = search.objectives[0].values(batch.X)
            for i, (arch, value) in enumerate(zip(batch.archs, values, strict=True)):
                number = batch.first + i
                waiting[number] = Failure("failed", "no") if number in failing else Record(
                    arch, 100 - formula(arch)["top1"], float(value))
            proposed += list(batch.X)
            most = max(most, len(search._clock))
        if waiting:
            number = int(rng.choice(list(waiting)))
            search.tell(number, waiting.pop(number))
    return np.array(proposed), most


def test_jobs_start_in_turn_and_end_by_their_durations():
    clock = VirtualClock(2)
    for number, duration in enumerate([3.0, 1.0, 1.0, 5.0]):
        clock.start(number, duration)
    assert clock.under_way == [0, 1, 2, 3]
    assert [(clock.advance(), clock.now) for _ in range(3)] == [(1, 1.0), (2, 2.0), (0, 3.0)]
    clock.start(4, 0.5)  # at 3, when a device is free
    assert (clock.advance(), clock.now, clock.first) == (4, 3.5, 3)


def test_the_busy_share_of_a_batch():
    assert busy_share([1, 1, 1, 1], 4) == 1.0
    assert busy_share([2, 1, 1], 2) == 1.0
    assert busy_share([1, 1], 8) == 0.25


@pytest.mark.parametrize("strategy", ["nsga2", "evolution", "msunas", "ehvi"])
def test_the_order_in_which_results_arrive_changes_nothing(strategy):
    failing = (3, 22)
    first, second = make(strategy=strategy), make(strategy=strategy)
    proposed, most = step(first, 1, failing)
    again, _ = step(second, 2, failing)
    np.testing.assert_array_equal(proposed, again)
    assert first.archive == second.archive and len(first.archive) == 38 - len(failing)
    assert len(unique_rows(proposed)) == len(proposed) == 38
    assert most == 20 and len(first.failed_X) == 2 and first.next_iteration == 4


def test_what_is_under_way_is_bounded_after_the_initial_sample():
    search = make(n_doe=5, devices=8, strategy="random")
    _, most = step(search, 0)
    assert most == search.room == 8 + 2 + 1  # the devices, a backlog, two at a time


def test_a_proposal_knows_what_has_counted_and_what_is_under_way():
    tasks = []

    class Spy:
        name, default_predictor, objective_predictor, needs_std = "spy", "nngp", "nngp", False

        def propose(self, task, k, rng):
            tasks.append((len(task.X), len(task.known), np.isfinite(task.F).all()))
            return task.top_up(task.X[:0], k, rng)[:k]

    search = make(strategy=Spy(), devices=4)
    step(search, 0, failing=(1,))
    assert all(known == n + failed for n, known, failed in
               zip([t[0] for t in tasks], [t[1] for t in tasks], [t[1] - t[0] for t in tasks],
                   strict=True))
    assert {known - n for n, known, _ in tasks} <= {0, 1} and all(t[2] for t in tasks)
    assert tasks[0][1] > 20 - 5  # the others are under way, and count as predicted


class Dying:
    """An engine that ends after some results, as a search that is killed."""

    def __init__(self, n):
        self.n, self.engine = n, direct(formula)

    def run(self, jobs):
        for n, result in enumerate(self.engine.run(jobs), start=1):
            yield result
            if n == self.n:
                raise KeyboardInterrupt


def test_a_search_that_was_stopped_anywhere_ends_with_the_same_files(tmp_path):
    options = {"strategy": "ehvi"}
    make(folder=tmp_path / "whole", engine=direct(formula), **options).run()
    whole = contents(tmp_path / "whole")
    assert {"iter_0.stats", "iter_3.stats", "iter_3/net_5.stats"} <= set(whole)
    for n in (3, 26, 37):
        folder = tmp_path / str(n)
        with pytest.raises(KeyboardInterrupt):
            make(folder=folder, engine=Dying(n), **options).run()
        make(folder=folder, engine=direct(formula), **options).run()
        assert contents(folder) == whole


def test_more_iterations_are_as_if_asked_for_at_once(tmp_path):
    for folder, n in (("long", (4,)), ("short", (2, 4))):
        for iterations in n:
            make(folder=tmp_path / folder, engine=direct(formula), iterations=iterations).run()
    assert contents(tmp_path / "long") == contents(tmp_path / "short")


def test_a_space_without_more_architectures_ends_the_search():
    space = Cakes()
    search = AsynchronousSearch(
        space, make_objectives("energy", SpaceCosts(space), reported=True), "random",
        engine=InProcess(Baker()), n_doe=200, iterations=600, n_iter=4, devices=3,
        progress=Progress(0, quiet=True))
    space.draw = lambda n, rng, draw=space.draw: draw(n, np.random.default_rng(int(
        rng.integers(40))))  # few to draw
    search.run()
    assert search.complete and 200 <= len(search.archive) < 2600
    assert len(unique_rows(search.X)) == len(search.X)


def test_an_iteration_without_a_result_is_an_error():
    with pytest.raises(UserError, match="all 20 evaluations of iteration 0 failed"):
        step(make(), 0, failing=range(20))


def test_failures_and_lost_workers_count_at_their_virtual_end(tmp_path):
    def run(seed):
        rng = np.random.default_rng(seed)

        def script(job, _):
            bad = {"iter_0/net_3": "lost", "iter_1/net_2": "failed"}.get(job.name)
            return float(rng.uniform(0.1, 5.0)), (
                Outcome(bad, error="no") if bad else Outcome("ok", formula(job.arch)))

        search = make(folder=tmp_path / str(seed),
                      engine=Scheduler(SimulatedSlots(4, script), retries=0))
        search.run()
        return search, contents(tmp_path / str(seed))

    (first, files), (_, again) = run(0), run(1)
    assert files == again and {"failed/it_0_net_3", "failed/it_1_net_2"} < {*files}
    assert len(first.failed_X) == 2 and len(first.archive) == 36
    stepped = make()
    step(stepped, 0, failing=(3, 22))
    assert first.archs == stepped.archs


def test_a_main_process_that_is_too_slow_proposes_larger_batches(monkeypatch, capsys):
    make(engine=direct(formula)).run()
    assert "note:" not in capsys.readouterr().err
    monkeypatch.setattr("search.asynchronous.TOO_SLOW", 0.0)
    monkeypatch.setattr("search.asynchronous.MOMENT", 0.0)
    make(engine=direct(formula)).run()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: proposals took ")
    assert line.endswith("a larger --n_iter than 6 proposes more at a time")


def test_scores_are_those_of_a_surrogate_that_has_not_seen_the_iteration(tmp_path):
    search, seen, fitted_on = make(strategy="ehvi", folder=tmp_path), [], {}
    fit, scores = search._fit, search._scores

    def noted(n, seed):
        surrogate = fit(n, seed)
        fitted_on[surrogate.error] = n
        return surrogate

    def spied(surrogate, n_new):
        if surrogate is not None:
            seen.append((fitted_on[surrogate.error], len(search.archive) - n_new))
        return scores(surrogate, n_new)

    search._fit, search._scores = noted, spied
    step(search, 0)
    assert len(seen) == 3 and all(0 < fitted <= before for fitted, before in seen)


def test_an_error_of_the_strategy_ends_the_run():
    class Broken:
        name, default_predictor, objective_predictor, needs_std = "broken", None, "rbf", False

        def propose(self, task, k, rng):
            return np.zeros((k, 3))

    with pytest.raises(UserError, match="the strategy broken proposed an array"):
        make(strategy=Broken(), engine=direct(formula)).run()


def test_engines_run_jobs_that_come_later():
    stream = JobStream()
    stream.put([Job("0", {}), Job("1", {})])
    slots = SimulatedSlots(2, lambda job, _: (1.0 + int(job.name), Outcome("ok", {"top1": 1.0})))
    names = []
    for result in Scheduler(slots).run(stream):
        names.append(result.job.name)
        if len(names) == 1:
            stream.put([Job("2", {}), Job("3", {})])
            stream.close()
    assert names == ["0", "1", "2", "3"]
    closed = JobStream.of([Job("a", {})])
    engine = InProcess(SimpleNamespace(evaluate=lambda arch, batch_scale: {"top1": 1.0}))
    assert [result.job.name for result in engine.run(closed)] == ["a"] and closed.ended


def test_a_kill_and_other_durations_change_no_byte(tmp_path):
    flags = ("--asynchronous", "--cpu_workers", 3, "--no_report")
    runs = []
    for name, seconds, kill in (("a", "0.01", False), ("b", "0.15", True)):
        save, environment = tmp_path / name, {**os.environ, "MSUNAS_TEST_SLEEP": seconds}
        process = subprocess.Popen([sys.executable, *command(save, *flags)], cwd=ROOT,
                                   env=environment, stdout=subprocess.DEVNULL)
        if kill:
            deadline = time.monotonic() + 90
            while not (save / "iter_0/net_9.stats").exists():
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
            process.wait()
            process = subprocess.Popen([sys.executable, *resume_command(save), "--cpu_workers",
                                        "2"], cwd=ROOT, stdout=subprocess.DEVNULL)
        assert process.wait(timeout=120) == 0
        runs.append(contents(save))
    assert runs[0] == runs[1]


# ----------------------------------------------------------------------------------- the settings


def test_a_search_stays_asynchronous_or_not(tmp_path):
    stored = resolve({"asynchronous": True, "devices": 4}).to_json()
    assert resume({}, stored, "a").devices == 4
    with pytest.raises(UserError, match="--asynchronous is True, was False"):
        resume({"asynchronous": True}, stored | {"asynchronous": False}, "a")


def test_a_latency_that_is_measured_would_make_devices_wait():
    costs = SpaceCosts(SPACE)
    with pytest.raises(UserError, match="--asynchronous: a latency is measured while nothing"):
        AsynchronousSearch(SPACE, make_objectives("gpu8", costs), devices=2, costs=costs)


def test_the_plan_names_the_share_of_time_in_which_devices_are_busy(tmp_path):
    settings = resolve({"n_iter": 8, "evaluator": "tests.search.evaluators:Formula"})
    parts = make_parts(settings)
    (line,) = describe_devices(settings, parts, 64)
    assert "in iterations of 8 on 64; --asynchronous, or --n_iter 512, keeps them busy" in line
    (line,) = describe_devices(settings, parts, 4)
    assert line.startswith("devices busy about 9") and line.endswith("in iterations of 8 on 4")
    assert describe_devices(settings, parts, 1) == []
