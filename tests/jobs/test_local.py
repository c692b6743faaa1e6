"""Worker processes of this machine: what they are given, and that none is ever left behind."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from evaluator.jobs import (
    Devices,
    EvaluatorSpec,
    Job,
    WorkerError,
    get_engine,
    plan,
    plan_slots,
    scheduler,
)
from tests.conftest import ROOT
from utils.errors import UserError

SPEC = EvaluatorSpec("tests.jobs.evaluators:Obedient")


def job(name, do, argument=None, **options):
    return Job(name, {"do": do, "with": argument}, **options)


def descendants():
    return {child.pid for child in psutil.Process().children(recursive=True)}


def gone(pids, within=5.0):
    """Whether all processes end (zombies, which only their parent can bury, count as ended)."""
    _, alive = psutil.wait_procs([psutil.Process(p) for p in pids if psutil.pid_exists(p)], within)
    return not [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def shared_memory():
    """Names in shared memory, less the semaphores that joblib makes and removes in any process."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith("sem.loky-")}


@pytest.fixture(autouse=True)
def nothing_left():
    processes, shared = descendants(), shared_memory()
    yield
    assert descendants() <= processes
    assert shared_memory() <= shared


def test_workers_stay_alive_between_jobs_and_runs():
    with get_engine("local", SPEC, slots=[Devices()] * 2) as engine:
        runs = [list(engine.run([job(f"j{i}", "sleep", 0.02) for i in range(6)]))
                for _ in range(3)]
        workers = {result.stats["pid"] for run in runs for result in run}
        assert len(workers) <= 2
        assert max(result.stats["jobs"] for run in runs for result in run) >= 9
    assert gone(workers, within=0)


def test_a_job_costs_little_more_than_its_evaluation():
    with get_engine("local", SPEC, slots=[Devices()]) as engine:
        list(engine.run([job("warm-up", "seeded", 0)]))
        began = time.perf_counter()
        list(engine.run([job(f"j{i}", "seeded", i) for i in range(200)]))
        assert (time.perf_counter() - began) / 200 < 0.005


def test_results_depend_neither_on_the_worker_nor_on_the_order():
    jobs = [job(f"j{i}", "seeded", i, expected=i % 7) for i in range(30)]
    accuracies = []
    for n_slots, order in ((1, jobs), (3, jobs[::-1])):
        with get_engine("local", SPEC, slots=[Devices()] * n_slots) as engine:
            accuracies.append({r.job.name: r.stats["top1"] for r in engine.run(order)})
    assert accuracies[0] == accuracies[1] and len(accuracies[0]) == 30


def test_a_worker_sees_its_own_devices(tmp_path):
    slots = [Devices(("3", "GPU-ab"), threads=2)]
    spec = EvaluatorSpec(SPEC.name, {"dataset": "digits", "device": "overridden"})
    with get_engine("local", spec, slots=slots) as engine:
        (result,) = engine.run([job("a", "environment")])
    assert result.stats["environment"] == {
        "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE", "CUDA_VISIBLE_DEVICES": "3,GPU-ab"}
    assert result.stats["options"] == {"dataset": "digits", "device": "cuda:0", "gpus": [0, 1],
                                       "threads": 2}


def test_a_worker_on_the_cpu_sees_no_gpu():
    with get_engine("local", SPEC, slots=[Devices()]) as engine:
        (result,) = engine.run([job("a", "environment")])
    assert result.stats["environment"] == {
        "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "CUDA_VISIBLE_DEVICES": ""}
    assert result.stats["options"] == {"device": "cpu", "gpus": [], "threads": 1}


def test_eight_gpus_of_which_three_are_bad(tmp_path, monkeypatch, capsys):
    """Each worker sees its own GPU; what the bad ones lose or answer costs no architecture."""
    monkeypatch.setattr(plan, "visible_gpus", lambda: ("cuda", [str(i) for i in range(8)]))
    slots = plan_slots(8, threads=1)
    spec = EvaluatorSpec("tests.jobs.evaluators:OnAGpu", {"data": str(tmp_path)})
    with get_engine("local", spec, slots=slots) as engine:
        results = list(engine.run([job(f"j{i}", "seeded", i) for i in range(60)]))
    assert sorted(r.job.name for r in results) == sorted(f"j{i}" for i in range(60))
    assert all(r.ok and r.stats["device"] == "cuda:0" for r in results)
    assert {r.job.name: r.stats["top1"] for r in results} == {
        f"j{i}": (i * 7919 % 1000) / 10 + 0.1 for i in range(60)}
    came = Counter((tmp_path / "notes").read_text().split())
    assert {r.stats["visible"] for r in results} <= set("01467"), "the good ones did it all"
    assert came["2"] == 0
    assert all(came[bad] <= 3 for bad in "35"), came
    assert "slot 2 is given up, the others continue: the device" in capsys.readouterr().err


def test_what_a_dead_worker_said_last_is_in_the_log(tmp_path):
    logs = tmp_path / "logs of 'ä\n search"
    with get_engine("local", SPEC, slots=[Devices()], log_dir=logs, retries=0) as engine:
        (result,) = engine.run([job("a", "die_once", str(tmp_path / "mark"))])
    assert (result.status, result.log) == ("lost", "last words\n")
    assert result.error == "the worker was killed by signal 9"
    assert (logs / "worker_0.log").read_text() == "last words\n"


def test_half_an_answer_and_garbage_end_as_lost_and_the_rest_goes_on():
    jobs = [job("half", "half_an_answer"), job("garbage", "garbage"), job("good", "seeded", 1)]
    with get_engine("local", SPEC, slots=[Devices()] * 2, retries=1) as engine:
        results = {r.job.name: r for r in engine.run(jobs)}
    assert {name: r.status for name, r in results.items()} == {
        "half": "lost", "garbage": "lost", "good": "ok"}
    assert "in the middle of an answer" in results["half"].error
    assert "not an answer" in results["garbage"].error
    assert results["half"].attempts == results["garbage"].attempts == 2


def test_a_memory_limit_ends_as_oom_or_with_half_the_batch():
    limit = 3 * 2**29
    jobs = [job("fits halved", "memory", 2 * 2**30), job("never fits", "memory", 2**34),
            job("fits", "memory", 2**20)]
    with get_engine("local", SPEC, slots=[Devices()], memory_limit=limit) as engine:
        results = {r.job.name: r for r in engine.run(jobs)}
    assert {name: (r.status, r.attempts) for name, r in results.items()} == {
        "fits halved": ("ok", 2), "never fits": ("oom", 2), "fits": ("ok", 1)}
    assert results["fits halved"].stats["got"] == 2**30
    assert "MemoryError" in results["never fits"].log


def test_a_memory_limit_too_low_for_the_set_up_is_said():
    spec = EvaluatorSpec("tests.jobs.evaluators:Hungry")
    with get_engine("local", spec, slots=[Devices()], memory_limit=2**32) as engine, \
            pytest.raises(UserError, match="raise its memory limit"):
        list(engine.run([job("a", "seeded", 1)]))


def test_latency_jobs_on_the_cpu_never_overlap_another():
    jobs = [Job(f"l{i}", {"with": 0.1}, "latency") for i in range(2)]
    jobs += [job(f"a{i}", "sleep", 0.1) for i in range(5)]
    with get_engine("local", SPEC, slots=[Devices()] * 2) as engine:
        spans = {r.job.name: (r.stats["began"], r.stats["ended"]) for r in engine.run(jobs)}
    for name in ("l0", "l1"):
        for other in spans.keys() - {name}:
            assert spans[name][1] <= spans[other][0] or spans[other][1] <= spans[name][0]


@pytest.mark.parametrize(("do", "status"), [
    ("hang_with_child", "timeout"), ("die_with_child", "lost"),
    ("hang_with_distant_child", "timeout"), ("die_with_distant_child", "lost")])
def test_a_worker_is_ended_with_its_children(tmp_path, do, status):
    with get_engine("local", SPEC, slots=[Devices()], timeout=1, retries=0) as engine:
        (result,) = engine.run([job("a", do, str(tmp_path))])
        assert result.status == status
        assert gone(noted(tmp_path, 1))


def test_workers_killed_at_random_moments_change_nothing():
    done, killed = threading.Event(), []

    def kill_now_and_then():
        rng = random.Random(0)
        while len(killed) < 6 and not done.wait(rng.uniform(0.2, 0.6)):
            workers = [child for child in psutil.Process().children()
                       if "evaluator.jobs.worker" in "".join(child.cmdline())]
            if workers:
                killed.append(rng.choice(workers))
                killed[-1].kill()

    jobs = [job(f"j{i}", "seeded", i) for i in range(40)]
    jobs += [job(f"s{i}", "sleep", 0.2) for i in range(10)]
    thread = threading.Thread(target=kill_now_and_then)
    with get_engine("local", SPEC, slots=[Devices()] * 2, retries=6) as engine:
        thread.start()
        try:
            results = {r.job.name: r for r in engine.run(jobs)}
        finally:
            done.set()
            thread.join()
    assert len(killed) >= 2
    assert [(r.status, r.error) for r in results.values() if not r.ok] == []
    assert [results[f"j{i}"].stats["top1"] for i in range(40)] == [
        (i * 7919 % 1000) / 10 + 0.1 for i in range(40)]
    assert len(results) == 50


PARENT = """
import sys
from evaluator.jobs import EvaluatorSpec, Job, Devices, get_engine
folder = sys.argv[1]
jobs = [Job(f"j{i}", {"do": do, "with": folder})
        for i, do in enumerate(["hang_with_child", "hang_with_distant_child"])]
spec = EvaluatorSpec("tests.jobs.evaluators:Obedient")
with get_engine("local", spec, slots=[Devices()] * 2) as engine:
    list(engine.run(jobs))
"""


def noted(folder: Path, n: int) -> list[int]:
    """Waits until `n` processes have noted their ids."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            lines = (folder / "notes").read_text().splitlines()
            if len(lines) == n:
                return [int(line) for line in lines]
        time.sleep(0.05)
    raise AssertionError("the jobs did not start")


@pytest.fixture
def parent(tmp_path):
    """A process with two hanging workers, each with a child; and the ids of all below it."""
    process = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], cwd=ROOT,
                               start_new_session=True, stderr=subprocess.PIPE, text=True)
    noted(tmp_path, 2)
    below = psutil.Process(process.pid).children(recursive=True)
    assert len(below) == 5  # two workers, their children, the watchdog
    yield process, [p.pid for p in below]
    for left in [process, *below]:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_when_the_parent_is_killed(parent, number):
    process, below = parent
    process.send_signal(number)
    process.wait(5)
    assert gone(below)


def test_workers_die_with_the_parent_even_without_the_watchdog(parent):
    process, _ = parent
    children = psutil.Process(process.pid).children()
    (watchdog,) = [p for p in children if "watchdog.py" in p.cmdline()[-1]]
    watchdog.kill()
    process.kill()
    process.wait(5)
    assert gone([p.pid for p in children])


def test_ctrl_c_ends_everything_within_five_seconds(parent):
    process, below = parent
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    process.wait(5)
    assert "KeyboardInterrupt" in process.stderr.read()
    assert gone(below, within=0)


def test_the_parent_stays_light_and_free_of_torch(run_command):
    script = """
import sys
from pathlib import Path
from evaluator.jobs import EvaluatorSpec, Job, get_engine, plan_slots
spec = EvaluatorSpec("tests.jobs.evaluators:Obedient")
with get_engine("local", spec, slots=plan_slots(0, cpu_workers=1)) as engine:
    (result,) = engine.run([Job("a", {"do": "torch_threads"})])
assert result.stats["threads"] == 1, result
assert "torch" not in sys.modules
status = Path("/proc/self/status").read_text()  # ru_maxrss would count the parent's memory too
print(int(status.split("VmHWM:")[1].split()[0]) // 1024)
"""
    done = run_command("-c", script)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 300


SUSPENDED = """
import sys
from evaluator.jobs import EvaluatorSpec, Job, Devices, get_engine
with get_engine("local", EvaluatorSpec("tests.jobs.evaluators:Obedient"), slots=[Devices()],
                timeout=2) as engine:
    list(engine.run([Job("warm-up", {"do": "seeded", "with": 0})]))
    print("ready", flush=True)
    for result in engine.run([Job("a", {"do": "sleep", "with": 1.0})]):
        print(result.status, result.error, flush=True)
"""


def test_a_job_that_ended_while_the_search_was_suspended_is_no_timeout():
    process = subprocess.Popen([sys.executable, "-c", SUSPENDED], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=30)[0] == "ok \n"


def test_workers_do_not_run_what_lies_in_the_current_folder(tmp_path):
    for name in ("json", "torch", "psutil", "numpy"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    code = (f"import sys; sys.path[0] = {str(ROOT)!r}\n"
            "from evaluator.jobs import EvaluatorSpec, Job, Devices, get_engine\n"
            "spec = EvaluatorSpec('tests.jobs.evaluators:Obedient')\n"
            "sys.path.append('')\n"
            "with get_engine('local', spec, slots=[Devices()]) as engine:\n"
            "    print(*(r.status for r in engine.run([Job('a', {'do': 'seeded', 'with': 1})])))")
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, text=True,
                          capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.stdout == "ok\n", done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_worker_log_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "worker_0.log").symlink_to(tmp_path / "precious")
    with get_engine("local", SPEC, slots=[Devices()], log_dir=tmp_path / "logs") as engine, \
            pytest.raises(UserError, match="not a log file"):
        list(engine.run([job("a", "seeded", 1)]))
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize(("timeout", "limit"), [(3e6, None), (1e9, 2**70)])
def test_very_long_timeouts_and_large_limits_work(timeout, limit):
    with get_engine("local", SPEC, slots=[Devices()], timeout=timeout,
                    memory_limit=limit) as engine:
        assert [r.status for r in engine.run([job("a", "sleep", 0.2)])] == ["ok"]


@pytest.mark.parametrize(("stats", "status"), [
    ({"top1": 100.00000000000001}, "ok"), ({"top1": 100.000000001}, "ok"),
    ({"top1": 100.5}, "failed"), ({"top1": -1.0}, "failed"),
    ({"top1": 50.0, "top5": 1e3}, "failed")])
def test_percentages_are_in_their_range(stats, status):
    spec = EvaluatorSpec("tests.jobs.evaluators:NotADict")
    with get_engine("local", spec, slots=[Devices()]) as engine:
        (result,) = engine.run([job("a", "odd", stats)])
    assert result.status == status
    assert result.stats.get("top1", 0) <= 100


def test_a_fault_of_the_hardware_is_not_one_of_the_architecture(tmp_path):
    with get_engine("local", SPEC, slots=[Devices()]) as engine:
        (result,) = engine.run([job("a", "ecc_once", str(tmp_path / "mark"))])
    assert (result.status, result.attempts) == ("ok", 2)
    assert "lost: AcceleratorError: CUDA error: uncorrectable ECC" in result.retried[0]


def test_what_evaluators_print_is_kept_in_memory_and_only_its_end(monkeypatch, tmp_path):
    """20 MB, with no file anywhere: a full folder of temporary files is no failure."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    with get_engine("local", SPEC, slots=[Devices()], retries=0) as engine:
        (good, dead) = engine.run([job("a", "prints", 2e7, expected=2),
                                   job("b", "print_and_die", 2e7)])
    assert (good.status, good.stats["files"], dead.status) == ("ok", [], "lost")
    assert dead.log.endswith("x the end\n") and len(dead.log) <= 4000


def test_a_full_disk_is_no_failure_of_an_architecture(tmp_path):
    with get_engine("local", SPEC, slots=[Devices()]) as engine:
        (passing,) = engine.run([job("a", "full_disk", str(tmp_path / "mark"))])
        assert (passing.status, passing.attempts) == ("ok", 2)
        with pytest.raises(UserError, match=r"b: /scratch/weights: the disk is full.*resume"):
            list(engine.run([job("b", "full_disk")]))


def test_an_evaluator_reads_nothing_from_stdin(monkeypatch):
    monkeypatch.delenv("PYTHONBREAKPOINT", raising=False)  # Ray names its own debugger there
    with get_engine("local", SPEC, slots=[Devices()], timeout=20) as engine:
        results = {r.job.name: r for r in engine.run([job("a", "reads_stdin"),
                                                      job("b", "breakpoint"),
                                                      job("c", "seeded", 1)])}
    assert results["a"].stats["read"] == "" and results["a"].stats["child"] == "0\n"
    assert results["b"].status == "failed" and "BdbQuit" in results["b"].error
    assert results["c"].ok


def test_an_evaluator_that_exits_gives_its_reason_and_costs_one_worker():
    with get_engine("local", SPEC, slots=[Devices()]) as engine:
        (result,) = engine.run([job("a", "leaves", "bad arch")])
    assert (result.status, result.error, result.attempts) == (
        "failed", "SystemExit: bad arch", 1)
    with get_engine("local", EvaluatorSpec("tests.jobs.evaluators:Leaving"),
                    slots=[Devices()]) as engine, pytest.raises(WorkerError, match="no licence"):
        list(engine.run([job("a", "seeded", 1)]))


def test_a_long_error_is_cut():
    with get_engine("local", SPEC, slots=[Devices()]) as engine:
        (result,) = engine.run([job("a", "long_error", 4 * 2**20)])
    assert result.status == "failed" and result.error.startswith("ValueError: xxx")
    assert result.error.endswith("the end") and len(result.error) < 1100
    assert "long_error" in result.log and len(result.log) < 21_000


def test_the_timeout_covers_the_set_up(monkeypatch):
    monkeypatch.setattr(scheduler, "_LEAST_FOR_SETUP", 2.0)
    with get_engine("local", EvaluatorSpec("tests.jobs.evaluators:Endless"), slots=[Devices()],
                    timeout=1) as engine, pytest.raises(WorkerError, match="not built within 2 s"):
        list(engine.run([job("a", "seeded", 1)]))


def test_a_worker_that_reads_other_inputs_ends_the_run(tmp_path):
    """A replaced worker lists the data again: they must be what the others have."""
    (tmp_path / "data").write_text("40 images")
    spec = EvaluatorSpec("tests.jobs.evaluators:Listing", {"data": str(tmp_path / "data")})
    with get_engine("local", spec, slots=[Devices()]) as engine:
        assert [r.status for r in engine.run([job("a", "fail", "x"), job("b", "seeded", 1)])] == [
            "failed", "ok"]
        list(engine.run([job("c", "fail", "x")]))
        (tmp_path / "data").write_text("41 images")
        with pytest.raises(UserError, match="lists other images"):
            list(engine.run([job("d", "seeded", 1)]))
