"""scripts/learn_latency.py: tables that exist, and a device that is a process with faults."""

import csv
import gzip
import json
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from evaluator.latency_model import LearnedLatency
from search_space import OFASearchSpace, get_search_space
from tests.conftest import ROOT

SCRIPT = "scripts/learn_latency.py"
# A device: the work of an architecture, and faults that begin at the third network.
DEVICE = """
import json, os, signal, sys, time
arch, fault, log = json.load(open(sys.argv[1])), sys.argv[2], sys.argv[3]
with open(log, "a") as file:
    file.write(json.dumps(arch) + "\\n")
number = sum(1 for line in open(log))
if number == 3 and fault == "hang":
    time.sleep(60)
if number == 3 and fault == "silent":
    sys.exit()
if number == 3 and fault == "text":
    sys.exit(print("hello"))
if number == 3 and fault == "exit":
    sys.exit("out of memory")
if number == 3 and fault == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if number >= 8 and fault == "lost":
    print("ssh: connect to host pi port 22: No route to host", file=sys.stderr)
    sys.exit(255)
if fault == "slow":
    time.sleep(0.3)
ms = 1 + sum(arch["d"]) / 2 + arch["r"] / 100
print(json.dumps({"ms": ms * (1.5 if fault == "drift" and number > 5 else 1), "mj": 2 * ms}))
"""


@pytest.fixture
def device(tmp_path):
    """Returns the flags of a measurement by a device with a fault."""
    (tmp_path / "device.py").write_text(DEVICE)

    def flags(fault="none", n=12):
        command = shlex.join([sys.executable, str(tmp_path / "device.py"), "{arch}", fault,
                              str(tmp_path / "log")])
        return [SCRIPT, "--command", command, "--n", n, "--retries", 0, "--timeout", 20,
                "--out", tmp_path / "pi.json", "--resolutions", "160", "192"]

    return flags


def measured(tmp_path):
    return json.loads((tmp_path / "pi.json").read_text())["measured"]


def table(path, space, n=60, gz=True):
    """A table of measurements; returns what is in it."""
    X = space.draw(n, np.random.default_rng(1))
    ms = 2 + X @ np.linspace(0.1, 0.3, space.n_var)
    with (gzip.open(path, "wt") if gz else open(path, "w", newline="")) as file:
        writer = csv.writer(file)
        writer.writerow(["arch", "pi"])
        for x, value in zip(X, ms, strict=True):
            arch = space.decode(x)
            writer.writerow([arch["arch"] if "arch" in arch else json.dumps(arch), value])
    return X, ms


@pytest.mark.parametrize(("name", "gz"), [("mbv3", True), ("nasbench201", False)])
def test_a_table_is_learned_from_and_tested_on(run_command, tmp_path, name, gz):
    path, out = tmp_path / ("t.csv.gz" if gz else "t.csv"), tmp_path / "pi.json"
    space = get_search_space(name)
    X, ms = table(path, space, 120, gz)
    flags = [SCRIPT, "--measured", path, "--column", "pi", "--n", 80, "--seed", 3]
    done, again = run_command(*flags, "--out", out), run_command(*flags)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert {"spearman", "mape", "within10", "n_train", "n_test"} <= set(line)
    assert line["n_train"] == 80 and line["n_test"] == 40 and line["spearman"] > 0.9
    assert done.stdout == again.stdout
    assert np.abs(LearnedLatency.read(out, space).values(X) / ms - 1).mean() < 0.05


def test_rows_without_a_latency_are_left_out(run_command, tmp_path):
    path = tmp_path / "t.csv"
    table(path, OFASearchSpace(), 60, gz=False)
    lines = path.read_text().splitlines()
    for row, value in ((3, "0"), (5, "nan"), (7, "-1")):
        lines[row] = lines[row].rpartition(",")[0] + f",{value}"
    path.write_text("\n".join(lines) + "\n")
    done = run_command(SCRIPT, "--measured", path, "--column", "pi", "--n", 40)
    assert json.loads(done.stdout)["n_test"] == 17
    assert "3 of 60 rows" in done.stderr


@pytest.mark.parametrize(("flags", "match"), [
    ((), "either a --command"), (("--measured", "x.csv"), "--column"),
    (("--measured", "x.csv", "--column", "a", "--timeout", "3"), "--timeout"),
    (("--command", "bench {model}"), "needs --out"),
    (("--command", "bench {model}", "--column", "a", "--out", "o.json"), "--column"),
    (("--command", "bench", "--out", "{tmp}/o.json"), "write {model}"),
    (("--measured", "{tmp}/t.csv", "--column", "mac"), "no column"),
    (("--measured", "{tmp}/t.csv", "--column", "pi", "--n", "60"), "none to test on"),
    (("--measured", "{tmp}/t.csv", "--column", "pi", "--n", "20", "--search_space", "resnet50"),
     "resnet50")])
def test_bad_input_is_one_line(fails_clearly, tmp_path, flags, match):
    table(tmp_path / "t.csv", OFASearchSpace(), 60, gz=False)
    fails_clearly(SCRIPT, *(flag.replace("{tmp}", str(tmp_path)) for flag in flags), match=match)


@pytest.mark.parametrize(("fault", "reason"), [
    ("hang", "no answer within 2 s"), ("silent", "printed nothing"), ("text", "no number above 0"),
    ("exit", "exit code 1: out of memory"), ("killed", "ended by SIGKILL")])
def test_a_fault_costs_one_line_and_one_network(run_command, device, tmp_path, fault, reason):
    flags = device(fault)
    flags[flags.index("--timeout") + 1] = 2
    done = run_command(*flags)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 1 and reason in done.stderr
    assert len(measured(tmp_path)) == 12


def test_a_lost_connection_stops_and_the_same_command_resumes(run_command, device, fails_clearly,
                                                              tmp_path):
    line = fails_clearly(*device("lost"), match="No route to host")
    assert "the same command resumes" in line
    before = measured(tmp_path)
    assert len(before) == 6  # and the reference network
    (tmp_path / "log").unlink()
    assert run_command(*device("lost")).returncode == 0
    assert measured(tmp_path)[:6] == before and len(measured(tmp_path)) == 12


def test_killed_in_the_middle_nothing_is_lost(device, run_command, tmp_path):
    process = subprocess.Popen([sys.executable, *map(str, device("slow"))], cwd=ROOT,
                               stdout=subprocess.PIPE, text=True)
    lines = [process.stdout.readline() for _ in range(4)]
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert lines[3].startswith("4 of 12")
    time.sleep(1)  # the command of the killed process ends by itself
    before = measured(tmp_path)
    done = run_command(*device("slow"))
    assert done.returncode == 0, done.stderr
    assert measured(tmp_path)[:len(before)] == before and len(before) >= 4
    archs = [json.dumps(row["arch"]) for row in measured(tmp_path)]
    assert len(set(archs)) == len(archs) == 12


def test_a_device_that_drifts_is_reported(run_command, device):
    done = run_command(*device("drift", n=22))
    assert done.returncode == 0 and "the device drifts" in done.stderr
    assert "50% more" in done.stderr


def test_all_figures_are_kept_and_each_can_be_learned(run_command, device, tmp_path):
    done = run_command(*device(), "--key", "mj")
    assert done.returncode == 0, done.stderr
    assert all(row["mj"] == 2 * row["ms"] for row in measured(tmp_path))
    X = OFASearchSpace([160, 192]).draw(50, np.random.default_rng(0))
    values = LearnedLatency.read(tmp_path / "pi.json", OFASearchSpace([160, 192])).values(X)
    depths = np.array([sum(OFASearchSpace([160, 192]).decode(x)["d"]) for x in X])
    assert np.corrcoef(values, depths)[0, 1] > 0.8


def test_another_command_does_not_continue_a_file(run_command, device, fails_clearly, tmp_path):
    assert run_command(*device()).returncode == 0
    before = (tmp_path / "pi.json").read_bytes()
    fails_clearly(*device("exit"), match="measured in another way (command")
    assert (tmp_path / "pi.json").read_bytes() == before


def test_a_damaged_file_is_one_line(run_command, device, fails_clearly, tmp_path):
    assert run_command(*device()).returncode == 0
    content = json.loads((tmp_path / "pi.json").read_text())
    for measured in (None, [{"ms": 3}], [4]):
        (tmp_path / "pi.json").write_text(json.dumps({**content, "measured": measured}))
        fails_clearly(*device(), match="damaged")


def test_ctrl_c_keeps_what_was_measured(device, tmp_path):
    process = subprocess.Popen([sys.executable, *map(str, device("slow"))], cwd=ROOT,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert [process.stdout.readline() for _ in range(3)][2].startswith("3 of 12")
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command resumes" in complaint
    assert "Traceback" not in complaint and len(measured(tmp_path)) >= 3


def test_networks_are_written_and_timed_by_onnxruntime(run_command, tmp_path):
    pytest.importorskip("onnxruntime")
    command = shlex.join([sys.executable, str(ROOT / "scripts" / "bench_onnx.py"), "{model}",
                          "--runs", "5"])
    done = run_command(SCRIPT, "--command", command, "--n", 10, "--resolutions", "32", "--width",
                       "0.35", "--n_classes", "10", "--out", tmp_path / "here.json")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "here.json").read_text())["measured"]
    assert len(rows) == 10 and all(0 < row["fastest"] <= row["ms"] for row in rows)
    assert all(row["batch"] == 1 and row["runs"] == 5 for row in rows)

