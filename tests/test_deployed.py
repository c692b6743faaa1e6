"""From a device to chosen networks: learned, searched within a limit, measured at the end."""

import json
import re
import shlex
import sys

import numpy as np
import pytest

from evaluator.latency_model import LearnedLatency
from search.archive import read_stats
from search_space import OFASearchSpace
from tests.conftest import ROOT

DIGITS = ROOT / "data" / "ofa_digits_d234_e346_k357_w0.35"
SIZES = ("32", "36", "40", "44", "48")
# A device: its latency follows the size of the file and the resolution.
DEVICE = """
import json, os, sys
size, r, factor = os.path.getsize(sys.argv[1]), int(sys.argv[2]), float(open(sys.argv[3]).read())
if factor == 0:
    sys.exit("no route to host")
print(json.dumps({"ms": [factor * (1 + size / 1e6 + (r / 40) ** 2)] * 3}))
"""


@pytest.fixture
def device(tmp_path):
    """The command that reaches a device; the file `factor` makes it slower."""
    (tmp_path / "device.py").write_text(DEVICE)
    (tmp_path / "factor").write_text("1")
    return shlex.join([sys.executable, str(tmp_path / "device.py"), "{model}", "{r}",
                       str(tmp_path / "factor")])


def test_a_search_for_a_device_ends_with_its_measurements(run_command, device, tmp_path):
    pytest.importorskip("onnx")
    done = run_command("scripts/learn_latency.py", "--command", device, "--n", 24, "--out",
                       tmp_path / "pi.json", "--width", 0.35, "--n_classes", 10, "--resolutions",
                       *SIZES)
    assert done.returncode == 0, done.stderr
    done = run_command("msunas.py", "--dataset", "digits", "--evaluator", "oracle",
                       "--oracle_path", ROOT / "data" / "digits_predictor.json", "--lut",
                       f"pi={tmp_path / 'pi.json'}", "--sec_obj", "cpu@pi", "--constraint",
                       "cpu@pi<=3.5:0.9", "--n_doe", 40, "--n_iter", 4, "--iterations", 1,
                       "--cpu_workers", 1, "--n_gpus", 0, "--save", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    choose = ("post_search.py", "--expr", tmp_path / "run", "--save", tmp_path / "chosen", "-n", 2,
              "--supernet_path", DIGITS, "--dataset", "digits", "--command", device)
    done = run_command(*choose, "--format", "json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "chosen" / "device.json").read_text())
    stated = json.loads((tmp_path / "pi.json").read_text())["error"]["mape"]
    assert report["stated_error"] == stated and report["objective"] == "cpu@pi"
    rows = json.loads(done.stdout)
    assert len(rows) == len(report["networks"]) >= 1
    for row, network in zip(rows, report["networks"], strict=True):
        assert row["measured_ms"] == network["measured_ms"] <= 3.51
        assert abs(row["predicted_ms"] / row["measured_ms"] - 1) < 0.1
        assert row["predicted_ms"] == pytest.approx(row["cpu@pi"], abs=1e-4)
        card = (tmp_path / "chosen" / network["name"] / "hub" / "README.md").read_text()
        assert f"{network['measured_ms']:.4g} ms" in card and "predicted by cpu@pi" in card
    kept = tmp_path / "run" / "device_pi.json"
    assert [row["ms"] for row in json.loads(kept.read_text())["measured"]] == pytest.approx(
        [row["measured_ms"] for row in rows], abs=1e-4)
    (tmp_path / "factor").write_text("1.5")
    done = run_command(*choose)
    assert done.returncode == 0 and "measured_ms" in done.stdout
    assert len(re.findall(r"warning: cpu@pi is 3[345]% off", done.stderr)) == 1, done.stderr
    (tmp_path / "factor").write_text("0")
    done = run_command(*choose)
    assert done.returncode == 2 and "failed for every network" in done.stderr
    assert "no route to host" in done.stderr and (tmp_path / "chosen" / "device.json").exists()
    done = run_command(*choose, "--list")
    assert done.returncode == 2 and "--command" in done.stderr
    search_learns_from_what_is_kept(run_command, tmp_path, kept)


def search_learns_from_what_is_kept(run_command, tmp_path, kept):
    """A resumed search has the latencies that are learned with it, as learn_latency.py has."""
    file = tmp_path / "pi.json"
    space = OFASearchSpace(resolutions=[int(size) for size in SIZES])
    alone = LearnedLatency.read(file, space, 10, 0.35)
    both = LearnedLatency.read(file, space, 10, 0.35, None, kept)
    done = run_command("msunas.py", "--resume", tmp_path / "run", "--iterations", 2)
    assert done.returncode == 0, done.stderr
    assert f"{kept}: pi is learned from what a device has measured since, too" in done.stdout
    found = read_stats(tmp_path / "run" / "iter_2.stats").archive
    X = space.encode_many(record.arch for record in found)
    values = [record.sec_obj for record in found]
    assert values == pytest.approx(both.values(X).tolist(), rel=1e-9)
    assert not np.allclose(values, alone.values(X), rtol=1e-4)
    done = run_command("scripts/learn_latency.py", "--add", kept, "--out", file)
    assert done.returncode == 0 and ", 24 before" in done.stdout, done.stderr
    again = LearnedLatency.read(file, space, 10, 0.35)
    assert again.values(X) == pytest.approx(both.values(X), rel=1e-9)
    kept.write_text(kept.read_text().replace('"width_mult": 0.35', '"width_mult": 1.0'))
    done = run_command("scripts/learn_latency.py", "--add", kept, "--out", file)
    assert done.returncode == 2 and "another width_mult" in done.stderr
