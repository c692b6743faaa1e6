"""`--lut pi='command:...'`: a search whose candidates a device measures, and its faults."""

import json
import shlex
import sys

import pytest

from evaluator.measurements import MAX_FAILED
from search.archive import read_stats
from tests.conftest import ROOT

# A device: figures of an architecture, and faults that a file names.
DEVICE = """
import json, os, sys, time
arch, folder = json.load(open(sys.argv[1])), sys.argv[2]
fault = open(f"{folder}/fault").read()
with open(f"{folder}/log", "a") as file:
    file.write(json.dumps(arch) + "\\n")
number = sum(1 for line in open(f"{folder}/log"))
if fault == "once" and number == 4:
    sys.exit("out of memory")
if fault == "hang" and number == 4:
    time.sleep(60)
if fault == "lost" and number > 6:
    sys.exit("ssh: connect to host pi port 22: No route to host")
ms = 1 + sum(arch["d"]) / 2 + arch["r"] / 100
print(json.dumps({"ms": ms} if fault == "no energy" else {"ms": ms, "mj": 100 / ms}))
"""


@pytest.fixture
def device(tmp_path):
    """Returns the flags of a search by a device; the file `fault` names what is wrong with it."""
    (tmp_path / "device.py").write_text(DEVICE)
    (tmp_path / "fault").write_text("none")

    def flags(*more, lut=True):
        command = shlex.join([sys.executable, str(tmp_path / "device.py"), "{arch}", str(tmp_path)])
        return ["msunas.py", "--dataset", "digits", "--evaluator", "oracle", "--oracle_path",
                ROOT / "data" / "digits_predictor.json", "--sec_obj", "cpu@pi+mj@pi", "--n_doe",
                12, "--n_iter", 3, "--iterations", 1, "--cpu_workers", 1, "--n_gpus", 0,
                "--retries", 0, "--save", tmp_path / "run",
                *(["--lut", f"pi=command:{command}"] if lut else []), *more]

    return flags


def measured(tmp_path):
    return json.loads((tmp_path / "run" / "device_pi.json").read_text())["measured"]


def archive(tmp_path, iteration=1):
    return read_stats(tmp_path / "run" / f"iter_{iteration}.stats").archive


def test_figures_of_a_command_are_objectives(run_command, fails_clearly, device, tmp_path):
    done = run_command(*device())
    assert done.returncode == 0, done.stderr
    rows = archive(tmp_path)
    assert len(rows) == 15
    for row in rows:
        ms, mj = row.values
        assert ms == pytest.approx(1 + sum(row.arch["d"]) / 2 + row.arch["r"] / 100)
        assert mj == pytest.approx(100 / ms)
    found = measured(tmp_path)
    assert sorted(map(str, (row["arch"] for row in found))) == sorted(str(row.arch) for row in rows)
    stats = json.loads((tmp_path / "run" / "iter_1" / "net_0.stats").read_text())
    assert {"cpu@pi", "mj@pi"} <= set(stats)
    objectives = json.loads((tmp_path / "run" / "iter_1.stats").read_text())["objectives"]
    assert [(o["name"], o["unit"], o["source"]) for o in objectives] == [
        ("cpu@pi", "ms", "command"), ("mj@pi", "mj", "command")]
    # the settings of a folder run no command
    resume = ("msunas.py", "--resume", tmp_path / "run", "--iterations", 2)
    line = fails_clearly(*resume, match="name code, which would be run")
    lut = shlex.split(line.partition("type again: ")[2])
    n = len((tmp_path / "log").read_text().splitlines())
    done = run_command(*resume, *lut)
    assert done.returncode == 0, done.stderr
    assert len(archive(tmp_path, 2)) == 18 == len(measured(tmp_path))
    assert n + 3 <= len((tmp_path / "log").read_text().splitlines()) <= n + 4  # and the reference
    # and what was measured is a learned latency of the next search
    done = run_command(*device("--lut", f"pi={tmp_path / 'run' / 'device_pi.json'}", "--save",
                               tmp_path / "next", lut=False))
    assert done.returncode == 0, done.stderr


def test_a_lost_connection_stops_the_search_and_resume_measures_nothing_again(
        run_command, fails_clearly, device, tmp_path):
    (tmp_path / "fault").write_text("lost")
    line = fails_clearly(*device(), match="No route to host")
    assert f"{MAX_FAILED} networks one after another failed" in line
    command = shlex.split(line.partition("resume with: ")[2])
    before = measured(tmp_path)
    assert len(before) == 5  # and the reference network
    assert not list((tmp_path / "run" / "failed").glob("it_*"))
    (tmp_path / "fault").write_text("none")
    (tmp_path / "log").unlink()
    done = run_command(*command[1:])
    assert done.returncode == 0, done.stderr
    assert measured(tmp_path)[:5] == before and len(archive(tmp_path)) == 15
    assert len((tmp_path / "log").read_text().splitlines()) == 11  # and the reference network


@pytest.mark.parametrize(("fault", "reason"), [
    ("once", "exit code 1: out of memory"), ("hang", "no answer within 3 s")])
def test_a_network_that_fails_is_recorded_and_not_evaluated(run_command, device, tmp_path, fault,
                                                            reason):
    (tmp_path / "fault").write_text(fault)
    done = run_command(*device("--timeout", 3))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(reason) == 1
    assert len(archive(tmp_path)) == 14 and len(measured(tmp_path)) == 14
    (record,) = (tmp_path / "run" / "failed").glob("it_0_net_*.log")
    assert reason in record.read_text()


def test_a_figure_that_the_command_does_not_print_stops_the_search(fails_clearly, device,
                                                                   tmp_path):
    (tmp_path / "fault").write_text("no energy")
    fails_clearly(*device(), match="no number above 0 for 'mj'")


@pytest.mark.parametrize(("flags", "match"), [
    (("--sec_obj", "flops"), "no objective is measured by it"),
    (("--lut", "command:bench {arch}"), "give the device a name"),
    (("--lut", "phone=command:bench"), "no objective is measured by it"),
    (("--lut", "phone=command:bench", "--sec_obj", "cpu@pi+cpu@phone"), "write {model}"),
    (("--asynchronous",), "--asynchronous"), (("--constraint", "kb@pi<=3"), "unknown objective")])
def test_what_makes_no_sense_is_refused(fails_clearly, device, tmp_path, flags, match):
    fails_clearly(*device(*flags), match=match)
    assert not (tmp_path / "log").exists()


def test_a_limit_on_a_measured_figure_is_predicted(run_command, device, tmp_path):
    done = run_command(*device("--constraint", "cpu@pi<=8", "--dry_run"))
    assert done.returncode == 0 and "cpu@pi (ms) measured by" in done.stdout, done.stderr
    assert not (tmp_path / "log").exists()
    done = run_command(*device("--constraint", "cpu@pi<=8"))
    assert done.returncode == 0, done.stderr
    assert max(row.sec_obj for row in archive(tmp_path)[12:]) <= 8.5


