"""Latency tables: format, checks, building, comparing; and measurement on this device."""

import json
import math
import os
import re
import shlex
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from data_providers.table import DATASETS
from evaluator.costs import CostModel
from evaluator.latency import LookUpTable, read_header
from evaluator.layers import build_module, build_network, input_shape, space_layers
from evaluator.runtimes import RUNTIMES
from evaluator.timing import (
    Conditions,
    device_name,
    measure,
    measure_latency,
    watched_processor,
)
from scripts import build_lut, check_lut
from search_space import OFASearchSpace
from tests.conftest import ROOT
from utils.errors import UserError

SMALL = ("--width", "0.35", "--n_classes", "10", "--resolutions", "32")
QUICK = ("--rel_err", "0.9", "--max_repeats", "3")


@pytest.fixture(scope="module")
def published(shared_data):
    return LookUpTable.read(shared_data / "i7-8700K_lut.yaml")


@pytest.fixture(scope="module")
def small_space():
    return OFASearchSpace(resolutions=[32])


def test_reference_latencies_of_the_original(shared_data, published):
    rows = json.loads((shared_data / "reference_costs.json").read_text())
    costs = CostModel(OFASearchSpace(), lut=published).evaluate(
        np.array([row["encoded"] for row in rows]))
    expected = np.array([row["i7_8700k_lut_ms"] for row in rows])
    assert len(rows) == 30
    assert np.abs(costs["cpu"] - expected).max() < 1e-9
    assert costs["params"].dtype == np.int64


def test_populations_agree_with_layer_lists(published):
    space = OFASearchSpace()
    archs = space.sample(30, rng=np.random.default_rng(0))
    X = np.array([space.encode(arch) for arch in archs])
    cpu = CostModel(space, lut=published).evaluate(X)["cpu"]
    assert cpu == pytest.approx([published.latency(space.layers(arch)) for arch in archs])


def test_the_published_table_covers_its_two_widths(published):
    space = OFASearchSpace()
    assert len(published.entries) == 4050
    assert published.header == {}
    assert published.missing(space_layers(space)) == []
    assert published.missing(space_layers(space, width_mult=1.2)) == []
    assert published.missing(space_layers(space, 10)) == ["classifier-input:1280-output:10"]


@pytest.mark.parametrize("info", [info for info in DATASETS.values() if info.n_classes],
                         ids=lambda info: info.name)
def test_the_table_that_comes_with_the_program_covers_every_data_set(info):
    table = LookUpTable.read(ROOT / "data" / "cpu_lut_mbv3.yaml")
    widths = (0.35,) if info.name == "digits" else (1.0, 1.2)
    for width in widths:
        space = OFASearchSpace(resolutions=info.resolutions)
        assert not table.missing(space_layers(space, info.n_classes, width))
    assert (table.header["device"], table.header["threads"]) == ("cpu", 1)
    assert table.header["device_name"]
    assert all(table.header[package] for package in RUNTIMES[table.runtime].packages)


def test_the_message_for_another_class_count_names_the_command_that_adds_it(tmp_path, capsys):
    """The command is run as it is printed; then the table holds every layer of the space."""
    table = tmp_path / "a table.yaml"
    smallest = ["--resolutions", "32", "--width", "0.35", "--max_repeats", "5"]
    build_lut.main(build_lut.get_args_parser().parse_args(
        ["--out", str(table), "--n_classes", "10", *smallest]))
    space = OFASearchSpace(resolutions=[32])
    with pytest.raises(UserError, match="lacks 1 layers") as error:
        LookUpTable.read(table).require_space(space, 55, 0.35)
    command = re.search(r"add them with: python scripts/build_lut.py (.*?); on another one measure",
                        str(error.value))
    build_lut.main(build_lut.get_args_parser().parse_args(shlex.split(command[1])))
    LookUpTable.read(table).require_space(space, 55, 0.35)


def test_many_missing_layers_are_listed_in_short(published, small_space):
    with pytest.raises(UserError) as error:
        published.require_space(small_space, 10, 0.35)
    message = str(error.value)
    assert "first_conv-input:32x32x3-output:16x16x8" in message and "more" in message
    assert message.endswith("build_lut.py --out my_lut.yaml --n_classes 10 --width 0.35 "
                            "--resolutions 32")


@pytest.mark.parametrize(("content", "match"), [
    ("", "empty"), ("a: {mean: 1", "not YAML"), ("- 1", "list"), ("<html></html>", "str"),
    ("a: 1.0", "expected a mean"), ("a: {var: 1.0}", "expected a mean"),
    ("a: {mean: -1.0}", "expected a mean"), ("a: {mean: 0}", "expected a mean"),
    ("a: {mean: .nan}", "expected a mean"), ("a: {mean: .inf}", "expected a mean"),
    ("a: {mean: fast}", "expected a mean"), ("a: {mean: true}", "expected a mean"),
    ("1: {mean: 1.0}", "expected a mean"), ("!!python/object:os.system {}", "not YAML"),
    ("# [\na: {mean: 1.0}", "comments"),
    ("a: {mean: 1.0}\na: {mean: 2.0}", "'a' is there twice")])
def test_bad_tables_are_refused(tmp_path, content, match):
    path = tmp_path / "lut.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=match):
        LookUpTable.read(path)


@given(st.binary(max_size=200) | st.text(alphabet="#a:{}[]mean .01-\n&*!|>'\"", max_size=60)
       .map(str.encode))
def test_any_bytes_are_a_table_or_an_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "lut.yaml"
    path.write_bytes(content)
    try:
        table = LookUpTable.read(path)
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert all(0 < mean < math.inf for mean in table.entries.values())


def test_measuring_stops_at_the_bound_and_skips_interruptions(monkeypatch):
    durations = [1.0, 1.1] * 6 + [50.0] + [1.0] * 100
    clock = iter(np.cumsum([step for d in durations for step in (0, d)]))
    monkeypatch.setattr("evaluator.timing.time.perf_counter", lambda: next(clock) / 1000)
    calls = []
    (latency,) = measure([lambda: calls.append(1)], rel_err=0.02)
    assert (latency.count, len(calls)) == (19, 20 + 4)
    assert (latency.median, latency.iqr) == pytest.approx((1.0, 0.1))
    assert latency.mean == pytest.approx((6 * 2.1 + 7) / 19)
    assert latency.rel_err == pytest.approx(math.sqrt(latency.var / 19) / latency.mean)
    assert latency.rel_err < 0.02


def test_measuring_stops_at_the_most_repeats(monkeypatch):
    clock = iter(np.cumsum(np.tile([0, 1.0, 0, 1.4], 100)))
    monkeypatch.setattr("evaluator.timing.time.perf_counter", lambda: next(clock))
    (latency,) = measure([lambda: None], rel_err=1e-6, max_repeats=31)
    assert latency.count == 35


def test_calls_take_turns():
    order = []
    measure([lambda: order.append("a"), lambda: order.append("b")], rel_err=1e-9, max_repeats=8)
    assert "".join(order) == ("a" * 6 + "b" * 6) * 2


def test_measuring_leaves_the_network_alone(small_space):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = build_network(small_space.layers(small_space.extremes()[0], 10, 0.35)).train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    threads = torch.get_num_threads()
    latency = measure_latency(net, 32, batch_size=2, rel_err=0.9, max_repeats=5)
    assert latency.mean > 0 and latency.count >= 3
    assert net.training and torch.get_num_threads() == threads
    after = net.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_built_layers_are_those_of_the_supernet(small_space):
    torch = pytest.importorskip("torch")
    layers = small_space.layers(small_space.extremes()[1], 10, 0.35)
    network = build_network(layers).eval()
    costs = CostModel(small_space, 10, 0.35).of_arch(small_space.extremes()[1])
    assert sum(p.numel() for p in network.parameters()) == costs["params"]
    with torch.inference_mode():
        for layer in layers:
            shape = build_module(layer).eval()(torch.zeros(input_shape(layer))).shape
            sizes = () if layer.kind == "linear" else (layer.out_size,) * 2
            assert shape == (1, layer.out_channels, *sizes)


def test_building_a_table_resumes_and_serves_a_search(run_command, tmp_path, small_space):
    path = tmp_path / "my table.yaml"
    build = ("scripts/build_lut.py", "--out", path, *SMALL, *QUICK)
    done = run_command(*build)
    assert done.returncode == 0, done.stderr
    rows = yaml.safe_load(path.read_text())
    assert set(rows) == {x.key for x in space_layers(small_space, 10, 0.35) if x.key}
    assert all(row["mean"] > 0 and row["var"] >= 0 and row["count"] > 0 for row in rows.values())
    header = read_header(path)
    assert (header["device_name"], header["threads"], header["batch_size"]) \
        == (device_name("cpu"), 1, 1)

    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-4 * 10]))
    kept = yaml.safe_load(path.read_text())
    done = run_command(*build)
    assert f"{len(rows)} distinct layers, 10 to measure" in done.stdout
    again = yaml.safe_load(path.read_text())
    assert again.keys() == rows.keys() and kept.items() <= again.items()

    X = small_space.draw(10, np.random.default_rng(0))
    table = LookUpTable.read(path)
    assert (CostModel(small_space, 10, 0.35, lut=table).evaluate(X)["cpu"] > 0).all()


def test_a_table_measured_beside_another_program_says_so(capsys):
    before = os.sched_getaffinity(0)
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        for pid in (0, busy.pid):
            os.sched_setaffinity(pid, {min(before)})
        for at_work in (True, False):
            with watched_processor(at_work):
                end = time.perf_counter() + 1
                while time.perf_counter() < end:
                    pass
            assert ("other programs had the processor" in capsys.readouterr().err) == at_work
    finally:
        os.sched_setaffinity(0, before)
        busy.kill()
        busy.wait()


def test_checking_a_table(run_command, tmp_path, small_space):
    path, picture = tmp_path / "lut.yaml", tmp_path / "check.png"
    path.write_text(yaml.dump({layer.key: {"mean": 0.1}
                               for layer in space_layers(small_space, 10, 0.35) if layer.key}))
    done = run_command("scripts/check_lut.py", path, "--n", "3", "--out", picture, *QUICK)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["width"], result["n_classes"], result["resolutions"]) == (0.35, 10, [32])
    assert "measuring 3 networks" in done.stderr and "3 of 3 measured" in done.stderr
    assert result["verdict"] == check_lut.verdict(result["kendall_tau"],
                                                  result["mean_error_percent"])
    assert -1 <= result["kendall_tau"] <= 1 and -1 <= result["pearson"] <= 1
    assert -1 <= result["spearman"] <= 1
    assert result["mean_absolute_error_percent"] > 0
    assert picture.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(("script", "flags", "match"), [
    ("build_lut", ("--device", "cuda:77"), "device"), ("build_lut", ("--threads", "0"), "threads"),
    ("build_lut", ("--threads", "99999999999999999999"), "threads"),
    ("check_lut", ("--batch_size", "4294967296"), "batch_size"),
    ("check_lut", ("--n", "1000000000"), "--n"), ("build_lut", ("--width", "nan"), "width"),
    ("build_lut", ("--rel_err", "2"), "rel_err"),
    ("build_lut", ("--config", "none"), "--n_classes, --width: have no meaning with --config"),
    ("build_lut", ("--width", "0"), "width"), ("build_lut", ("--resolutions", "0"), "resolutions"),
    ("check_lut", ("--n", "2"), "--n"), ("check_lut", ("--width", "1.0"), "build_lut.py")])
def test_bad_flags(fails_clearly, tmp_path, script, flags, match):
    path = tmp_path / "lut.yaml"
    path.write_text("a: {mean: 1.0}\n")
    place = (path,) if script == "check_lut" else ("--out", tmp_path / "new.yaml")
    fails_clearly(f"scripts/{script}.py", *place, *SMALL, *flags, match=match)
    assert not (tmp_path / "new.yaml").exists()


@pytest.mark.parametrize("condition", [
    {"threads": "many"}, {"threads": 10**9}, {"batch_size": 1.5}, {"batch_size": True},
    {"device": 3}, {"device": None}])
def test_conditions_from_a_table_are_checked(condition):
    with pytest.raises(UserError, match=next(iter(condition))):
        Conditions(**{"device": "cpu", "threads": 1, "batch_size": 1, "rel_err": 0.1,
                      "max_repeats": 5, **condition}).check()


def test_a_table_of_another_machine_is_not_extended(fails_clearly, tmp_path):
    path = tmp_path / "lut.yaml"
    path.write_text("# device_name: abacus\na: {mean: 1.0}\n")
    fails_clearly("scripts/build_lut.py", "--out", path, *SMALL, match="other conditions")
    assert path.read_text() == "# device_name: abacus\na: {mean: 1.0}\n"


@pytest.mark.parametrize(("tau", "bias", "expected"), [
    (0.95, -24, "good: .* 24 % too low"),
    (0.95, -67, "biased: .* 67 % too low .*limit in ms.*learn_latency"),
    (0.95, 67, "biased: .* 67 % too high"), (0.7, 1, "poor: .*below 0.8.*learn_latency.py"),
    (0.7, -67, "poor: .* 67 % too low")])
def test_the_verdict_has_a_bound_for_order_and_size(tau, bias, expected):
    assert re.match(expected, check_lut.verdict(tau, bias))


def test_layers_to_measure_are_those_of_a_supernet(tmp_path):
    path = tmp_path / "ofa_own_w0.2"
    torch.save({"state_dict": {"classifier.linear.weight": torch.zeros(7, 3)},
                "meta": {"resolutions": [40], "search_space": "mbv3", "dataset": "folder"}}, path)

    def keys(*flags):
        args = build_lut.get_args_parser().parse_args(["--out", "t.yaml", *flags])
        return {layer.key for layer in build_lut.wanted_layers(args)}

    def expected(resolutions, n_classes, width):
        space = OFASearchSpace(resolutions=resolutions)
        return {layer.key for layer in space_layers(space, n_classes, width)} - {None}

    supernet = ("--supernet_path", str(path))
    assert keys(*supernet) == expected([40], 7, 0.2)
    assert keys(*supernet, "--width", "0.5", "--n_classes", "3", "--resolutions", "32") == \
        expected([32], 3, 0.5)
    with pytest.raises(UserError, match="--supernet_path: has no meaning with --config"):
        keys(*supernet, "--config", "net.config")
    torch.save({"state_dict": {}, "meta": {"search_space": "mine:Space"}}, path)
    with pytest.raises(UserError, match="names code"):
        keys(*supernet)


def test_a_table_of_other_networks_is_named(tmp_path, small_space):
    path = tmp_path / "other.yaml"
    path.write_text("expanded_conv-input:7x7x8: {mean: 1.0}\n")
    with pytest.raises(UserError, match=r"none of its 1 entries is a layer of these networks.*"
                                        r"first entry: expanded_conv-input:7x7x8\); measure"):
        LookUpTable.read(path).require_space(small_space, 10, 0.35)


def test_a_table_of_the_ofa_package_is_named(shared_data):
    table = LookUpTable.read(shared_data / "wild" / "lut" / "ofa65_mobile_trim_like.yaml")
    with pytest.raises(UserError, match=r"none of its 5 entries .*Conv-input:224x224x3"):
        table.require_space(OFASearchSpace(), 1000, 1.0)
