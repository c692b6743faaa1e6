"""The real command on a tiny budget: files, seeds, kills, resume, faults, bad input."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from evaluator.costs import CostModel
from search.archive import objectives, read_stats
from search_space import OFASearchSpace
from tests.conftest import ROOT
from tests.search.runs import command, contents, resume
from utils.pareto import non_dominated


def wait_for(path: Path, process: subprocess.Popen) -> None:
    """Waits until a file of a running search is there."""
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, "the search ended before the moment of the test"
        assert time.monotonic() < deadline, f"no {path.name} after a minute"
        time.sleep(0.005)


def test_the_files_are_those_of_the_original(finished):
    save, _ = finished
    names = set(contents(save))
    expected = {f"iter_{i}.stats" for i in range(3)}
    expected |= {f"iter_0/net_{j}.{kind}" for j in range(52) for kind in ("subnet", "stats")}
    expected |= {f"iter_{i}/net_{j}.{kind}" for i in (1, 2) for j in range(4)
                 for kind in ("subnet", "stats")}
    assert names == expected
    stats = json.loads((save / "iter_2.stats").read_text())
    assert {"archive", "candidates", "hv", "surrogate"} <= set(stats)
    assert len(stats["archive"]) == 60 and len(stats["candidates"]) == 4
    assert stats["archive"][-4:] == stats["candidates"]
    assert {"model", "name", "winner", "rmse", "rho", "tau"} <= set(stats["surrogate"])
    net = json.loads((save / "iter_1" / "net_0.stats").read_text())
    assert {"params", "flops", "gpu", "cpu", "loss", "top1", "top5"} <= set(net)
    arch, error, _ = stats["candidates"][0]
    subnets = [json.loads((save / "iter_2" / f"net_{j}.subnet").read_text()) for j in range(4)]
    assert arch in subnets
    assert error == 100 - json.loads((save / f"iter_2/net_{subnets.index(arch)}.stats")
                                     .read_text())["top1"]


def test_the_archive_is_clean_and_the_hypervolume_grows(finished):
    save, output = finished
    stats = [read_stats(save / f"iter_{i}.stats", OFASearchSpace().encode) for i in range(3)]
    space = OFASearchSpace()
    keys = {space.encode(record.arch).tobytes() for record in stats[2].archive}
    assert len(keys) == 60
    assert stats[0].hv <= stats[1].hv <= stats[2].hv and stats[0].hv < stats[2].hv
    F = objectives(stats[2].archive)
    assert non_dominated(F).sum() >= 5
    assert stats[0].reference_point == pytest.approx(1.01 * F[:52].max(axis=0))
    assert output.count("hypervolume") == 3 and "device-hours" in output


def test_the_same_seed_gives_the_same_bytes_whatever_the_workers(finished, tmp_path, run_command):
    for name, flags in [("same", ["--cpu_workers", 1]), ("other", ["--seed", 1])]:
        assert run_command(*command(tmp_path / name, *flags)).returncode == 0
    assert contents(tmp_path / "same") == contents(finished[0])
    assert (tmp_path / "other/iter_2.stats").read_bytes() != \
        (finished[0] / "iter_2.stats").read_bytes()


@pytest.mark.parametrize("moment", ["iter_0/net_20.stats", "iter_0.stats", "iter_1/net_1.stats",
                                    "iter_2/net_2.stats"])
def test_a_killed_run_resumes_to_the_same_bytes(finished, tmp_path, run_command, moment):
    save = tmp_path / "run"
    process = subprocess.Popen([sys.executable, *command(save)], cwd=ROOT,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               env={**os.environ, "MSUNAS_TEST_SLEEP": "0.01"})
    wait_for(save / moment, process)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive, "workers die with their parent"
    done = run_command(*resume(save))
    assert done.returncode == 0, done.stderr
    assert contents(save) == contents(finished[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_stops_quickly_and_says_how_to_go_on(finished, tmp_path, run_command, number):
    save = tmp_path / "run"
    process = subprocess.Popen([sys.executable, *command(save)], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env={**os.environ, "MSUNAS_TEST_SLEEP": "0.2"})
    wait_for(save / "iter_0/net_3.stats", process)
    children = psutil.Process(process.pid).children(recursive=True)
    start = time.monotonic()
    process.send_signal(number)
    _, error = process.communicate(timeout=20)
    assert time.monotonic() - start < 5
    assert process.returncode == 130
    assert f"--resume {save}" in error and "Traceback" not in error
    assert not psutil.wait_procs(children, timeout=5)[1]
    assert run_command(*resume(save)).returncode == 0
    assert contents(save) == contents(finished[0])


def test_resume_with_more_iterations_extends_a_finished_run(finished, tmp_path, run_command):
    done = run_command(*resume(finished[0]), "--save", tmp_path / "more", "--iterations", 3)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "more/iter_3.stats").exists() and not (finished[0] / "iter_3").exists()


def test_failures_are_recorded_never_scored_and_never_proposed_again(finished, tmp_path,
                                                                     run_command):
    archs = [json.loads((finished[0] / "iter_0" / f"net_{j}.subnet").read_text()) for j in (3, 7)]
    faults = {json.dumps(arch, sort_keys=True): fault
              for arch, fault in zip(archs, ("raise", "nan"), strict=True)}
    done = run_command(*command(tmp_path / "run"),
                       env={**os.environ, "MSUNAS_TEST_FAULTS": json.dumps(faults)})
    assert done.returncode == 0, done.stderr
    failed = [json.loads((tmp_path / f"run/failed/it_0_net_{j}").read_text()) for j in (3, 7)]
    assert [f["status"] for f in failed] == ["failed", "nan"]
    log = (tmp_path / "run/failed/it_0_net_3.log").read_text()
    assert "Traceback" in log and "as the test wants" in log
    stats = read_stats(tmp_path / "run/iter_2.stats")
    assert len(stats.archive) == 58
    assert not [record for record in stats.archive if record.arch in archs]


@pytest.mark.parametrize(("fault", "message"), [
    ({"*": "raise"}, "as the test wants"), ({"setup": "raise"}, "as the test wants")])
def test_a_set_up_fault_stops_at_once_with_its_reason(tmp_path, run_command, fault, message):
    done = run_command(*command(tmp_path / "run"),
                       env={**os.environ, "MSUNAS_TEST_FAULTS": json.dumps(fault)})
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1 and message in errors[0]
    assert "Traceback" not in done.stderr


def test_a_full_disk_is_one_line_and_the_run_goes_on_after_it(finished, tmp_path, run_command):
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,nr_inodes=90", "none", small],
                      capture_output=True).returncode:
        pytest.skip("this machine does not let the test mount a file system")
    try:
        done = run_command(*command(small / "run"))
        assert done.returncode == 2
        errors = [line for line in done.stderr.splitlines() if "error:" in line]
        assert len(errors) == 1 and "disk is full" in errors[0], done.stderr
        shutil.copytree(small / "run", tmp_path / "run", ignore=shutil.ignore_patterns("*.lock"))
    finally:
        subprocess.run(["umount", small], check=True)
    assert run_command(*resume(tmp_path / "run")).returncode == 0
    assert contents(tmp_path / "run") == contents(finished[0])


def test_a_mistyped_path_can_be_corrected_in_the_same_folder(tmp_path, fails_clearly):
    for _ in range(2):
        fails_clearly(*command(tmp_path / "run"), "--evaluator", "ofa", "--dataset", "digits",
                      "--supernet_path", "absent", match="absent")
    assert not list((tmp_path / "run").rglob("*.stats"))


def test_two_runs_in_one_folder_are_refused(tmp_path, fails_clearly):
    save = tmp_path / "run"
    process = subprocess.Popen([sys.executable, *command(save)], cwd=ROOT,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               env={**os.environ, "MSUNAS_TEST_SLEEP": "0.5"})
    try:
        wait_for(save / "iter_0", process)
        fails_clearly(*resume(save), match=f"pid {process.pid}")
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("flags", "message"), [
    (["--seed", 5], "--seed is 5, was 0"), (["--n_iter", 8], "--n_iter is 8, was 4"),
    (["--sec_obj", "params"], "--sec_obj is params, was flops")])
def test_resume_refuses_flags_that_change_results(finished, fails_clearly, flags, message):
    before = contents(finished[0])
    fails_clearly(*resume(finished[0]), *flags, match=message)
    assert contents(finished[0]) == before


def test_a_non_empty_save_is_refused(finished, fails_clearly):
    before = contents(finished[0])
    fails_clearly(*command(finished[0]), match="not empty")
    assert contents(finished[0]) == before


@pytest.mark.parametrize(("flags", "message"), [
    (["--resume", "no/such"], "no search"), (["--sec_obj", "speed"], "flops"),
    (["--predictor", "tree"], "unknown predictor 'tree'; choose from as, carts"),
    (["--strategy", "luck"], "unknown strategy 'luck'; choose from ehvi"),
    (["--search_space", "cells"], "unknown search space 'cells'; choose from mbv3"),
    (["--dataset", "mnist"], "invalid choice"),
    (["--n_doe", 1], "2 or more"), (["--n_doe", "x"], "invalid integer"),
    (["--n_doe", 10**12], "1000000 or less"), (["--seed", -1], "0 or more"),
    (["--timeout", "inf"], "above 0"), (["--cache_gb", "nan"], "above 0"),
    (["--memory_limit", 0], "above 0"), (["--resolutions", f"192:{10**15}:1"], "4096 or less"),
    (["--n_classes", 7], "1000 classes"),
    (["--resolutions", "big"], "--resolutions: invalid list value"),
    (["--evaluator", "oracle"], "--oracle_path"), (["--evaluator", "magic"], "magic"),
    (["--sec_obj", "cpu", "--lut", "absent.yaml"], "absent.yaml"),
    (["--evaluator", "oracle", "--oracle_path", "absent.pth"], "absent.pth"),
    (["--evaluator", "ofa", "--dataset", "digits", "--supernet_path", "absent"], "absent"),
])
def test_bad_flags_are_named(tmp_path, fails_clearly, flags, message):
    fails_clearly(*command(tmp_path / "run"), *flags, match=message)


@pytest.mark.parametrize("content", [b"", b"{", b"<html>no</html>", b"[1]", b'{"archive": []}'])
def test_a_damaged_stats_file_is_named_and_kept(finished, tmp_path, fails_clearly, content):
    shutil.copytree(finished[0], tmp_path / "run")
    (tmp_path / "run/iter_2.stats").write_bytes(content)
    fails_clearly(*resume(tmp_path / "run"), "--iterations", 3,
                  match="iter_2.stats")
    assert (tmp_path / "run/iter_2.stats").read_bytes() == content


@pytest.mark.parametrize(("change", "message"), [
    ({"n_doe": "many"}, "n_doe cannot be 'many'"), ({"n_iter": 0}, "n_iter cannot be '0'"),
    ({"test": 1}, "test cannot be '1'"), ({"dataset": ["digits"]}, "dataset cannot be"),
    ({"seed": None}, "seed cannot be 'None'"), ({"sec_obj": 3}, "sec_obj cannot be"),
    ({"resolutions": [192, 10**9]}, "resolutions cannot be"),
    ({"data": "\ud800"}, "data cannot be"),
    ({"data": "a\0b"}, "data cannot be")])
def test_damaged_settings_are_named(finished, tmp_path, fails_clearly, change, message):
    shutil.copytree(finished[0], tmp_path / "run")
    path = tmp_path / "run/settings.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    fails_clearly(*resume(tmp_path / "run"), match=message)


def test_too_few_points_for_the_predictor_is_said(tmp_path, fails_clearly):
    fails_clearly(*command(tmp_path / "run"), "--n_doe", 2, match="at least")


def test_a_folder_of_the_original_is_continued(finished, tmp_path, run_command):
    """The original leaves iter_<i>.stats, net files, and no settings; failures cost 1000."""
    old = tmp_path / "old"
    shutil.copytree(finished[0], old)
    (old / "settings.json").unlink()
    for name in ("iter_0.stats", "iter_2.stats"):
        (old / name).unlink()
    stats = json.loads((old / "iter_1.stats").read_text())
    stats = {key: stats[key] for key in ("archive", "candidates", "hv", "surrogate")}
    stats["archive"].append([OFASearchSpace().sample(1)[0], 100, 1000])
    (old / "iter_1.stats").write_text(json.dumps(stats))
    before = contents(old)
    done = run_command(*command(tmp_path / "new"), "--resume", old, "--iterations", 3)
    assert done.returncode == 0, done.stderr
    assert contents(old) == before
    # iter_2 held four finished networks that no stats file had: they are kept.
    assert len(read_stats(tmp_path / "new/iter_2.stats").archive) == 60
    assert len(read_stats(tmp_path / "new/iter_3.stats").archive) == 64


def original_folder(finished, tmp_path, change=lambda stats: stats):
    """A folder as the original leaves it: no settings, and no name of the objective."""
    old = tmp_path / "old"
    shutil.copytree(finished, old)
    (old / "settings.json").unlink()
    for path in old.glob("iter_*.stats"):
        stats = json.loads(path.read_text())
        keys = ("archive", "candidates", "hv", "surrogate")
        path.write_text(json.dumps(change({key: stats[key] for key in keys})))
    return old


def test_the_objective_of_an_adopted_archive_is_computed_anew(finished, tmp_path, run_command):
    """An archive of FLOPs, resumed for parameters, must not keep FLOPs beside them."""
    old = original_folder(finished[0], tmp_path)
    done = run_command(*command(tmp_path / "new"), "--resume", old, "--iterations", 3,
                       "--sec_obj", "params")
    assert done.returncode == 0, done.stderr
    stats = read_stats(tmp_path / "new/iter_3.stats")
    assert len(stats.archive) == 64
    space = OFASearchSpace()
    X = np.array([space.encode(record.arch) for record in stats.archive])
    expected = CostModel(space).evaluate(X)["params"] / 1e6
    assert [record.sec_obj for record in stats.archive] == pytest.approx(expected, abs=0.006)
    again = run_command(*resume(tmp_path / "new"), "--iterations", 4)
    assert again.returncode == 0, again.stderr
    assert read_stats(tmp_path / "new/iter_4.stats").archive[:64] == stats.archive


def test_an_adopted_archive_of_an_unknown_objective_is_refused(finished, tmp_path, fails_clearly):
    old = original_folder(finished[0], tmp_path)
    before = contents(old)
    fails_clearly(*command(tmp_path / "new"), "--resume", old, "--iterations", 3, "--sec_obj",
                  "cpu", "--lut", "measure", match="cpu cannot be computed")
    assert contents(old) == before


def test_a_folder_of_networks_is_an_initial_archive(finished, tmp_path, run_command):
    done = run_command(*command(tmp_path / "new"), "--resume", finished[0] / "iter_0",
                       "--iterations", 1)
    assert done.returncode == 0, done.stderr
    assert len(read_stats(tmp_path / "new/iter_1.stats").archive) == 56


def test_a_measured_objective_comes_from_the_worker(tmp_path, run_command):
    done = run_command(*command(tmp_path / "run"), "--sec_obj", "cpu", "--lut", "measure",
                       "--iterations", 1)
    assert done.returncode == 0, done.stderr
    stats = read_stats(tmp_path / "run/iter_1.stats")
    net = json.loads((tmp_path / "run/iter_1/net_0.stats").read_text())
    assert stats.sec_obj == "cpu"
    assert net["cpu"] in [record.sec_obj for record in stats.candidates]


def test_random_search_is_a_search_without_iterations(tmp_path, run_command):
    done = run_command(*command(tmp_path / "run"), "--iterations", 0)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "run").glob("*.stats")) == ["iter_0.stats"]
    assert done.stdout.startswith(f"search of 52 evaluations in {tmp_path / 'run'}: starting, ")


def test_dry_run_writes_nothing(tmp_path, run_command):
    done = run_command(*command(tmp_path / "run"), "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "60 evaluations" in done.stdout and "device-hours" in done.stdout
    assert not (tmp_path / "run").exists()


def cpu_seconds_of_children():
    """Of those that have ended; other programs on the machine change them little."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_is_quick_and_states_the_defaults(run_command):
    times = [cpu_seconds_of_children()]
    for _ in range(3):
        done = run_command("msunas.py", "--help")
        times.append(cpu_seconds_of_children())
    assert min(np.diff(times)) < 1.0
    for default in ("(default: .tmp)", "(default: flops)", "(default: 30)", "(default: 100)",
                    "(default: 8)", "(default: rbf)", "(default: 1)", "(default: imagenet)",
                    "(default: 4)", "(default: 200)"):
        assert default in " ".join(done.stdout.split()), default


def test_an_unknown_published_search_is_named():
    done = subprocess.run(["sh", "scripts/search.sh", "mnist-flops"], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 2 and "mnist-flops" in done.stderr
