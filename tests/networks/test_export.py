"""Exported files answer as the network that they come from, on random and on real images."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from data_providers import DataProvider
from data_providers.table import DIGITS_SUPERNET
from evaluator.exported import (
    Comparison,
    calibration_arrays,
    gap,
    random_images,
    real_images,
    top1,
)
from msunas_cli import load_script
from networks import cut_subnet, load_supernet, recalibrate_bn, save_weights, write_config
from networks.export import FORMATS, Format, Preprocessing, get_format
from networks.export.torch_files import read_safetensors, torch_runner
from scripts.export import finite
from search_space import OFASearchSpace
from tests.conftest import ROOT
from utils.errors import UserError

RESOLUTIONS = [32, 48]
# Formats whose package need not be here: the tests of the others must run.
OPTIONAL = {"openvino", "executorch", "coreml"}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def provider():
    return DataProvider("digits", cache_gb=0)


@pytest.fixture(scope="module")
def digits_nets(provider):
    """Five trained subnets of the digits, calibrated, each with its resolution."""
    space = OFASearchSpace(RESOLUTIONS)
    supernet = load_supernet(ROOT / DIGITS_SUPERNET)
    archs = [*space.extremes(), *space.sample(3, rng=np.random.default_rng(0))]
    nets = []
    for arch in archs:
        net = cut_subnet(supernet, arch)
        recalibrate_bn(net, provider.calibration_batches(arch["r"], 200))
        nets.append((net, arch["r"]))
    return nets


def make_format(name: str) -> Format:
    try:
        return get_format(name)
    except UserError as error:
        if name not in OPTIONAL:
            raise
        pytest.skip(str(error))


@pytest.mark.slow
def test_onnx_equals_torch_for_five_networks(digits_nets, provider, tmp_path):
    form = make_format("onnx")
    for i, (net, resolution) in enumerate(digits_nets):
        path = tmp_path / "a folder" / f"{i}.onnx"
        form.write(net, path, Preprocessing(resolution))
        own, other = torch_runner(net, 1), form.load(path, 1)
        real = real_images(provider.eval_batches("test", resolution), 64)
        assert len(real) == 64
        for images in (random_images(resolution), real):
            assert gap(own, other, images).difference < 1e-4
        accuracy, n = top1({"torch": own, "onnx": other}, provider.eval_batches("test", resolution))
        assert n == 600
        assert accuracy["torch"] == accuracy["onnx"] > 90


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FORMATS if name != "onnx"])
def test_every_format_equals_torch(name, digits_nets, provider, tmp_path):
    form, (net, resolution) = make_format(name), digits_nets[2]
    path = tmp_path / f"net{form.suffix}"
    form.write(net, path, Preprocessing(resolution, "squash", (0.5,) * 3, (0.5,) * 3))
    assert all(map(lambda each: (tmp_path / each).stat().st_size > 0, form.written(path)))
    try:
        other = form.load(path, 1)
    except UserError as error:
        pytest.skip(str(error))
    for n in (1, 5):
        real = real_images(provider.eval_batches("test", resolution), n)
        assert gap(torch_runner(net, 1), other, real).difference < 1e-4


def test_a_safetensors_file_is_a_network_and_nothing_else(digits_nets, tmp_path):
    net, resolution = digits_nets[0]
    path = tmp_path / "net.safetensors"
    get_format("safetensors").write(net, path, Preprocessing(resolution))
    read = read_safetensors(path)
    assert read.config == net.config
    assert all(read.state_dict()[key].equal(value) for key, value in net.state_dict().items())
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="no network in the form of"):
        read_safetensors(path)


def test_unknown_formats_and_missing_packages_are_named(monkeypatch):
    with pytest.raises(UserError, match="unknown export format 'tf'; choose from coreml, exec"):
        get_format("tf")
    with pytest.raises(UserError, match="no export format"):
        get_format("nowhere:Format")
    with pytest.raises(UserError, match="must be a class derived from Format"):
        get_format("json:JSONDecoder")
    from networks.export.torch_files import SafeTensors

    monkeypatch.setattr(SafeTensors, "packages", ("no_such_package",))
    with pytest.raises(UserError, match="needs the package no_such_package"):
        get_format("safetensors")


def test_differences_are_found_and_never_hidden():
    images = random_images(8, 3)

    def constant(value):
        return lambda batch: np.full((len(batch), 2), value)

    assert gap(constant(0.0), constant(-0.5), images).difference == 0.5
    assert gap(constant(0.0), constant(np.nan), images).difference == float("inf")
    assert Comparison({"random": 0.1, "real": 0.3}).largest == 0.3


@pytest.mark.parametrize(("size", "difference", "fails"), [
    (0.5, 9e-5, False), (0.5, 1.1e-4, True), (208, 1.4e-3, False), (208, 0.03, True),
    (np.inf, 1e-3, True), (208, np.nan, True)])
def test_a_difference_is_judged_by_the_size_of_the_logits(size, difference, fails):
    def constant(value):
        return lambda batch: np.full((len(batch), 2), value)

    check = load_script("msunas-export").check_difference
    found = gap(constant(size), constant(size + difference), random_images(8, 2))
    comparison = Comparison({"random": found.difference}, logits={"random": found.logit})
    with pytest.raises(UserError, match=r"that --tolerance 0\.0001 allows for logits of up to") \
            if fails else nullcontext():
        check("onnx", comparison, 1e-4, "net.onnx")


def test_large_logits_on_random_images_excuse_nothing_on_real_ones():
    comparison = Comparison({"random": 1e-3, "real": 1e-3}, logits={"random": 208, "real": 5.0})
    with pytest.raises(UserError, match=r"differ by 0\.001 on real images, more than the 0\.0005 "):
        load_script("msunas-export").check_difference("onnx", comparison, 1e-4, "net.onnx")


def test_a_difference_without_bounds_can_be_written():
    report = {"onnx": {"largest": float("inf"), "top1": {"torch": 12.5}, "file": "net.onnx"}}
    assert json.loads(json.dumps(finite(report), allow_nan=False)) == {
        "onnx": {"largest": None, "top1": {"torch": 12.5}, "file": "net.onnx"}}


def test_a_config_that_is_nested_without_end_is_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "net.safetensors", {"net.config": "[" * 100_000})
    with pytest.raises(UserError, match="no network in the form"):
        read_safetensors(tmp_path / "net.safetensors")


# ----------------------------------------------------------------------------------- command line


@pytest.fixture(scope="module")
def pair(digits_nets, tmp_path_factory):
    """net.config and net.inherited of a small network."""
    folder = tmp_path_factory.mktemp("a net")
    net, resolution = digits_nets[0]
    write_config(net, folder / "net.config", resolution=resolution, transform="squash")
    save_weights(net, folder / "net.inherited")
    return folder


@pytest.mark.slow
def test_the_command_exports_quantises_and_compares(pair, run_command):
    done = run_command("scripts/export.py", pair / "net.config", pair / "net.inherited", "--to",
                       "onnx", "safetensors", "--dataset", "digits", "--int8", "--calibration",
                       100, timeout=600)
    assert done.returncode == 0, done.stderr
    folder = pair / "export"
    assert {"net.onnx", "net.int8.onnx", "net.safetensors",
            "export.json"} == {path.name for path in folder.iterdir()}
    report = json.loads((folder / "export.json").read_text())
    onnx, int8 = report["onnx"], report["onnx int8"]
    assert onnx["largest"] < 1e-4
    assert onnx["top1"]["torch"] == onnx["top1"]["onnx"]
    assert int8["top1"]["int8"] > onnx["top1"]["torch"] - 10
    assert int8["sizes"]["int8"] < 0.5 * onnx["sizes"]["onnx"]
    assert all(ms > 0 for each in onnx["latency"].values() for ms in each.values())
    assert "opset 18" in done.stdout
    assert "on 600 images" in done.stdout


def test_a_difference_above_the_tolerance_fails(pair, fails_clearly, tmp_path):
    fails_clearly("scripts/export.py", pair / "net.config", pair / "net.inherited", "--to",
                  "tests.networks.test_export:Wrong", "--skip_latency", "--save", tmp_path,
                  match="its logits differ by 1")


class Wrong(Format):
    """A format whose runner answers wrongly."""

    suffix = ".wrong"

    def write(self, net, path, description):
        self.net = net
        path.write_text("")

    def load(self, path, threads=None):
        return lambda images: torch_runner(self.net, 1)(images) + 1


@pytest.mark.parametrize(("flags", "match"), [
    (["--to", "onnx"], "name the weights"),
    (["w", "--to", "tf"], "unknown export format 'tf'"),
    (["w", "--to", "safetensors", "--int8"], "--int8 needs --to onnx"),
    (["w", "--to", "safetensors", "--calibration", 9], "--calibration: has no meaning"),
    (["w", "--to", "safetensors", "--split", "test", "--data", "."],
     "--data, --split: have no meaning without --dataset"),
    (["absent", "--to", "safetensors"], "absent: no such checkpoint"),
    (["--to", "optuna", "--skip_latency"], "no other format or flag"),
    (["w", "--to", "optuna"], "--to optuna takes the folder of a search")])
def test_bad_requests_fail_clearly(pair, fails_clearly, flags, match):
    fails_clearly("scripts/export.py", pair / "net.config", *flags, match=match)


@pytest.mark.parametrize("form", ["pt2", "onnx", "safetensors"])
def test_a_folder_that_is_no_utf8_is_refused_at_once(pair, fails_clearly, tmp_path, form):
    """Of their libraries, one ended the process, one raised, one wrote what it could not read."""
    if form == "onnx":
        pytest.importorskip("onnx")
    save = os.fsdecode(os.fsencode(tmp_path) + b"/run \xff")
    fails_clearly("scripts/export.py", pair / "net.config", pair / "net.inherited", "--to", form,
                  "--skip_latency", "--save", save, match="not UTF-8")
    assert not os.path.exists(save)


@pytest.mark.parametrize("words", [(), ("--dataset", "digits")])
def test_the_file_says_the_networks_own_mean_and_std(digits_nets, tmp_path, words):
    net, resolution = digits_nets[0]
    write_config(net, tmp_path / "net.config", resolution=resolution, transform="squash",
                 mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    save_weights(net, tmp_path / "net.inherited")
    args = load_script("msunas-export").get_args_parser().parse_args(
        [str(tmp_path / "net.config"), str(tmp_path / "net.inherited"), "--to", "onnx", *words])
    network = load_script("msunas-export").load_network(args)
    names = tuple("0123456789") if words else ()
    assert network.images == Preprocessing(resolution, "squash", (0.1, 0.2, 0.3),
                                              (0.4, 0.5, 0.6), names)


@pytest.mark.slow
def test_an_onnx_file_names_its_classes_and_says_at_once_what_is_done(digits_nets, tmp_path,
                                                                      capfd):
    net, resolution = digits_nets[0]
    names = ["zero", "ünf", "a|b", *map(str, range(7))]
    write_config(net, tmp_path / "net.config", resolution=resolution, class_names=names)
    save_weights(net, tmp_path / "net.inherited")
    script = load_script("msunas-export")
    script.main(script.get_args_parser().parse_args(
        [str(tmp_path / "net.config"), str(tmp_path / "net.inherited"), "--to", "onnx",
         "--skip_latency"]))
    import onnx

    model = onnx.load(tmp_path / "export" / "net.onnx")
    assert json.loads({row.key: row.value for row in model.metadata_props}["class_names"]) == names
    err = capfd.readouterr().err
    places = [err.index(text) for text in (
        f"loading {tmp_path / 'net.config'}", f"writing {tmp_path / 'export' / 'net.onnx'}",
        "comparing onnx with the original")]
    assert places == sorted(places)


def test_names_for_another_number_of_classes_are_left_out(digits_nets, tmp_path):
    net, resolution = digits_nets[0]
    write_config(net, tmp_path / "net.config", resolution=resolution, class_names=["one", "two"])
    save_weights(net, tmp_path / "net.inherited")
    script = load_script("msunas-export")
    network = script.load_network(script.get_args_parser().parse_args(
        [str(tmp_path / "net.config"), str(tmp_path / "net.inherited"), "--to", "onnx"]))
    assert network.images.class_names == ()
    assert "class_names" not in network.images.as_text()


def test_a_calibration_takes_as_many_images_as_it_is_told():
    batches = [(torch.zeros(4, 3, 8, 8), None)] * 3
    assert [len(each) for each in calibration_arrays(batches, 6)] == [4, 2]
    assert [len(each) for each in calibration_arrays(batches, 99)] == [4, 4, 4]


def test_help_needs_neither_torch_nor_onnx():
    code = ("import sys; sys.argv = ['export.py', '--help']; sys.path.insert(0, 'scripts')\n"
            "import export\n"
            "try: export.get_args_parser().parse_args()\n"
            "except SystemExit: pass\n"
            "assert not {'torch', 'onnx', 'onnxruntime', 'optuna'} & set(sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "onnx, pt2, safetensors" in done.stdout
