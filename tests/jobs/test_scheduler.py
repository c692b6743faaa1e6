"""The policy alone, on a simulated clock: no process is started."""

import math
import time

import numpy as np
import pytest

from evaluator.jobs import Job, Scheduler, WorkerError
from evaluator.jobs.base import BROKEN, READY, REFUSED, Outcome, Slots
from tests.jobs.simulated import SimulatedSlots
from utils.errors import UserError

OK = Outcome("ok", {"top1": 50.0})


def engine(n, script, **options):
    slots = SimulatedSlots(n, script, setup_seconds=options.pop("setup_seconds", 0.0))
    return Scheduler(slots, **options), slots


def job(name, expected=1.0, kind="accuracy"):
    return Job(name, {"ks": [], "e": [], "d": [], "r": 192}, kind, expected)


def test_longest_first_and_the_moment_a_slot_is_free():
    runner, slots = engine(2, lambda job, _: (job.expected, OK))
    names = [r.job.name for r in runner.run([job("a", 1), job("b", 4), job("c", 2), job("d", 2)])]
    assert slots.history == [(0, 0, "b"), (0, 1, "c"), (2, 1, "d"), (4, 0, "a")]
    assert names == ["c", "b", "d", "a"]  # as they end, not as they were given


def test_results_stream_while_others_run():
    runner, slots = engine(2, lambda job, _: (job.expected, OK))
    results = runner.run([job("long", 100), job("short", 1)])
    assert next(results).job.name == "short"
    assert slots.now() == 1
    assert next(results).seconds == 100


def test_workers_start_only_when_needed_and_stay():
    runner, slots = engine(8, lambda *_: (1, OK), setup_seconds=5)
    list(runner.run([job("a"), job("b")]))
    assert slots.now() == 6
    list(runner.run([job("c"), job("d")]))
    assert slots.now() == 7, "the second run found its workers ready"
    assert {slot for _, slot, _ in slots.history} == {0, 1}


def test_a_thousand_jobs_on_64_slots_end_near_the_lower_bound_at_little_cost():
    durations = np.random.default_rng(0).lognormal(3, 0.7, 1000)
    jobs = [job(f"j{i}", d) for i, d in enumerate(durations)]
    runner, slots = engine(64, lambda job, _: (job.expected, OK))
    began = time.process_time()
    results = list(runner.run(jobs))
    cost = (time.process_time() - began) / len(jobs)
    assert sorted(r.job.name for r in results) == sorted(j.name for j in jobs)
    assert slots.now() <= 1.03 * max(durations.max(), durations.sum() / 64)
    assert cost < 0.005


def test_healthy_but_slow_jobs_are_never_killed_without_a_timeout():
    runner, _ = engine(2, lambda job, _: (job.expected, OK))
    results = list(runner.run([job("slow", 10_000), *(job(f"j{i}") for i in range(20))]))
    assert all(r.ok and r.attempts == 1 for r in results)


def test_a_timeout_kills_the_hanging_job_alone():
    runner, _ = engine(2, lambda job, _: (job.expected, OK), timeout=10, setup_seconds=60)
    results = {r.job.name: r for r in runner.run([job("hangs", math.inf), job("a", 9),
                                                  job("b", 8), job("c", 8)])}
    assert results["hangs"].status == "timeout"
    assert (results["hangs"].attempts, results["hangs"].seconds) == (1, 10)
    assert "10 s" in results["hangs"].error
    assert [results[name].status for name in "abc"] == ["ok"] * 3


def test_time_in_set_up_does_not_count_as_time_of_the_job():
    runner, _ = engine(1, lambda *_: (5, OK), timeout=6, setup_seconds=100)
    assert [r.seconds for r in runner.run([job("a")])] == [5]


def test_lost_workers_are_retried_to_the_limit():
    lost = Outcome("lost", error="killed")
    runner, _ = engine(2, lambda job, n: (1, OK if n > 2 and job.name == "passing" else lost))
    results = {r.job.name: r for r in runner.run([job("passing"), job("poison")])}
    assert (results["passing"].status, results["passing"].attempts) == ("ok", 3)
    assert (results["poison"].status, results["poison"].attempts) == ("lost", 3)
    assert results["poison"].error == "killed"


def test_memory_that_ran_out_is_retried_once_at_half_the_batch():
    scales = []

    class Recording(SimulatedSlots):
        def start(self, slot, job, batch_scale):
            scales.append(batch_scale)
            super().start(slot, job, batch_scale)

    slots = Recording(1, lambda job, n: (1, OK if n == 2 and job.name == "a" else Outcome("oom")))
    results = list(Scheduler(slots, retries=5).run([job("a", 2), job("b", 1)]))
    assert [(r.status, r.attempts) for r in results] == [("ok", 2), ("oom", 2)]
    assert scales == [1.0, 0.5, 1.0, 0.5]


@pytest.mark.parametrize("status", ["failed", "nan"])
def test_what_would_fail_again_is_not_retried(status):
    runner, _ = engine(1, lambda *_: (1, Outcome(status, error="why", log="where")), retries=5)
    (result,) = runner.run([job("a")])
    assert (result.status, result.attempts, result.error, result.log) == (status, 1, "why", "where")
    assert not result.ok and result.stats == {}


def test_an_exception_costs_the_worker_a_nan_does_not():
    opened = []

    class Recording(SimulatedSlots):
        def open(self, slot):
            opened.append(slot)
            super().open(slot)

    slots = Recording(1, lambda job, _: (1, Outcome(job.name.split("_")[0], {})))
    list(Scheduler(slots).run([job("nan_1", 3), job("nan_2", 2), job("failed_1", 1),
                               job("ok_1", 0)]))
    assert len(opened) == 2


def intervals(slots, seconds):
    return {name: (start, start + seconds) for start, _, name in slots.history}


def test_latency_jobs_run_alone():
    runner, slots = engine(3, lambda *_: (2, OK), setup_seconds=1)
    jobs = [job(f"l{i}", 9, "latency") for i in range(3)] + [job(f"a{i}") for i in range(7)]
    assert len(list(runner.run(jobs))) == 10
    spans = intervals(slots, 2)
    for name in ("l0", "l1", "l2"):
        for other in spans.keys() - {name}:
            assert spans[name][1] <= spans[other][0] or spans[other][1] <= spans[name][0]


def test_no_worker_loads_while_a_latency_is_measured():
    calls = []

    class Recording(SimulatedSlots):
        def open(self, slot):
            self._schedule(slot, 10 if slot == 0 else 1000, Outcome(READY))

        def start(self, slot, job, batch_scale):
            calls.append((job.name, slot))
            super().start(slot, job, batch_scale)

        def stop(self, slot):
            calls.append(("stop", slot))
            super().stop(slot)

    slots = Recording(2, lambda *_: (2, OK))
    list(Scheduler(slots).run([job("a"), job("b"), job("l", kind="latency")]))
    assert calls == [("a", 0), ("b", 0), ("stop", 1), ("l", 0)]
    assert slots.now() == 16


def test_a_run_given_up_leaves_nothing_running():
    runner, _ = engine(2, lambda job, _: (job.expected, OK))
    results = runner.run([job("a", 1), job("b", 50), job("c", 50)])
    next(results)
    with pytest.raises(RuntimeError, match="one run at a time"):
        next(runner.run([job("d")]))
    results.close()
    assert [r.job.name for r in runner.run([job("d", 1)])] == ["d"]


def test_no_jobs_no_results():
    runner, slots = engine(2, lambda *_: (1, OK))
    assert list(runner.run([])) == [] and slots.history == []


def test_names_are_unique():
    runner, _ = engine(1, lambda *_: (1, OK))
    with pytest.raises(ValueError, match="'a'"):
        list(runner.run([job("a"), job("a")]))


class SetupScript(Slots):
    """Answers every `open` with the next outcome of a list; jobs are ok at once."""

    n = 1

    def __init__(self, outcomes):
        self.outcomes, self.events = list(outcomes), []

    def open(self, slot):
        self.events.append((slot, self.outcomes.pop(0)))

    def start(self, slot, job, batch_scale):
        self.events.append((slot, OK))

    def wait(self, timeout):
        events, self.events = self.events, []
        return events

    def stop(self, slot):
        pass

    def close(self):
        pass

    def now(self):
        return 0.0


def test_a_refused_set_up_is_the_users_error_at_once():
    with pytest.raises(UserError, match="no such supernet"):
        list(Scheduler(SetupScript([Outcome(REFUSED, error="no such supernet")])).run([job("a")]))


def test_a_broken_set_up_shows_the_workers_traceback():
    broken = Outcome(BROKEN, error="ZeroDivisionError", log="Traceback: line 7")
    with pytest.raises(WorkerError, match="line 7"):
        list(Scheduler(SetupScript([broken])).run([job("a")]))


def test_workers_lost_in_set_up_are_replaced_a_few_times_only():
    lost, ready = Outcome("lost", error="signal 9"), Outcome(READY)
    (result,) = Scheduler(SetupScript([lost, lost, ready]), retries=2).run([job("a")])
    assert result.ok and result.attempts == 1
    with pytest.raises(WorkerError, match="signal 9"):
        list(Scheduler(SetupScript([lost, lost, lost]), retries=2).run([job("a")]))


def test_a_slot_whose_workers_cannot_start_is_given_up_while_others_work():
    opened = []

    class OneBad(SimulatedSlots):
        def open(self, slot):
            opened.append(slot)
            self._schedule(slot, 1, Outcome("lost") if slot == 0 else Outcome(READY))

    runner = Scheduler(OneBad(2, lambda *_: (10, OK)), retries=2)
    assert all(r.ok for r in runner.run([job(f"j{i}") for i in range(5)]))
    assert opened.count(0) == 3
    assert all(r.ok for r in runner.run([job("a"), job("b")]))
    assert opened.count(0) > 3, "the next run gives it another chance"


class OddSlots(SimulatedSlots):
    """Some slots answer their set-up otherwise than READY."""

    def __init__(self, n, script, odd):
        super().__init__(n, script, setup_seconds=5)
        self.odd, self.opened = odd, []

    def open(self, slot):
        self.opened.append(slot)
        self._schedule(slot, 1 if slot in self.odd else 5, self.odd.get(slot, Outcome(READY)))


@pytest.mark.parametrize("status", [REFUSED, BROKEN])
def test_a_slot_that_cannot_be_used_is_given_up_and_the_others_go_on(status, capsys):
    slots = OddSlots(8, lambda *_: (1, OK), {3: Outcome(status, error="GPU 3 is broken")})
    runner = Scheduler(slots)
    for _ in range(3):
        assert all(r.ok for r in runner.run([job(f"j{i}") for i in range(40)]))
    assert slots.opened.count(3) == 1, "it is not asked again"
    assert capsys.readouterr().err.count("slot 3 is given up, the others continue: GPU 3") == 1


@pytest.mark.parametrize("n_jobs", [1, 20])
def test_what_all_slots_refuse_ends_the_run_soon(n_jobs):
    slots = OddSlots(8, lambda *_: (1, OK),
                     {slot: Outcome(REFUSED, error="no such supernet") for slot in range(8)})
    with pytest.raises(UserError, match="no such supernet"):
        list(Scheduler(slots).run([job(f"j{i}") for i in range(n_jobs)]))
    assert len(slots.opened) <= max(2, n_jobs)


def test_a_slot_that_loses_one_job_after_the_other_is_given_up(capsys):
    class Failing(SimulatedSlots):
        def start(self, slot, job, batch_scale):
            super().start(slot, job, batch_scale)
            if slot == 2:
                self._schedule(slot, 0.1, Outcome("lost", error="CUDA error: ECC"))

    slots = Failing(8, lambda *_: (1, OK))
    results = list(Scheduler(slots).run([job(f"j{i}") for i in range(60)]))
    assert all(r.ok for r in results)
    assert sum(slot == 2 for _, slot, _ in slots.history) == 3
    assert "slot 2 is given up" in capsys.readouterr().err


def test_time_in_which_everything_was_suspended_is_nobodys():
    class Suspended(SimulatedSlots):
        slept = False

        def wait(self, timeout):
            if timeout is None or self.slept:
                return super().wait(timeout)
            self.slept = True  # as if the machine had, workers and all
            self._clock += 100
            self._events = [(time + 100, *rest) for time, *rest in self._events]
            return []

    slots = Suspended(2, lambda job, _: (job.expected, OK))
    results = list(Scheduler(slots, timeout=10).run([job("a", 9), job("b", 3)]))
    assert slots.slept
    assert {r.job.name: r.status for r in results} == {"a": "ok", "b": "ok"}


def test_a_job_that_was_lost_is_tried_on_another_slot():
    class Deadly(SimulatedSlots):
        def start(self, slot, job, batch_scale):
            super().start(slot, job, batch_scale)
            if slot == 0:
                self._schedule(slot, 0.1, Outcome("lost", error="CUDA error: ECC"))

    for n_slots, n_jobs in ((2, 1), (2, 2), (3, 9)):
        results = list(Scheduler(Deadly(n_slots, lambda *_: (1, OK)), retries=1).run(
            [job(f"j{i}") for i in range(n_jobs)]))
        assert all(r.ok for r in results) and len(results) == n_jobs
