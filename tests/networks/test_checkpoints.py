"""Checkpoints from anywhere: what is read, and what is refused before it can do harm."""

import argparse
import io
import os
import pickle
import resource
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import networks
from tests.conftest import ROOT
from utils.errors import UserError

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.num_batches_tracked": torch.tensor(3)}


def equal(state, expected=STATE) -> bool:
    return state.keys() == expected.keys() and all(torch.equal(state[k], expected[k])
                                                   for k in expected)


class Attack:
    """Unpickling it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.parametrize("content", [
    STATE, {"state_dict": STATE, "epoch": 3}, {"model": STATE}, {"net": STATE},
    {"state_dict": {f"module.{k}": v for k, v in STATE.items()}},
    {"model": {f"module._orig_mod.{k}": v for k, v in STATE.items()}}])
@pytest.mark.parametrize("zipped", [True, False])
def test_every_wrapping_and_both_file_formats(tmp_path, content, zipped):
    torch.save(content, tmp_path / "w", _use_new_zipfile_serialization=zipped)
    assert equal(networks.load_checkpoint(tmp_path / "w"))


def test_averaged_weights(tmp_path):
    ema = {k: v + 1 for k, v in STATE.items()}
    torch.save({"state_dict": STATE, "state_dict_ema": ema}, tmp_path / "w")
    assert equal(networks.load_checkpoint(tmp_path / "w"))
    assert equal(networks.load_checkpoint(tmp_path / "w", ema=True), ema)
    torch.save(STATE, tmp_path / "w")
    with pytest.raises(UserError, match="no averaged"):
        networks.load_checkpoint(tmp_path / "w", ema=True)


def test_odd_paths(tmp_path):
    path = tmp_path / "a 'quoted'\n\"ñame\" w"
    torch.save(STATE, path)
    assert equal(networks.load_checkpoint(path))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"state_dict": x}, lambda x: [x],
                                  lambda x: {"state_dict": STATE, "args": x}])
def test_code_is_refused_and_not_run(tmp_path, zipped, wrap):
    target = tmp_path / "created"
    torch.save(wrap(Attack(target)), tmp_path / "w", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"w: carries code \(it would run posix.system\)"):
        networks.load_checkpoint(tmp_path / "w")
    assert not target.exists()


@pytest.mark.parametrize("value", [SimpleNamespace(a=1), np.ones(2), np.dtype("O"),
                                   np.datetime64("2020-01-01"), torch.nn.Linear(1, 1)])
def test_objects_are_refused_by_name(tmp_path, value):
    torch.save({"state_dict": STATE, "args": value}, tmp_path / "w")
    with pytest.raises(UserError, match="carries code"):
        networks.load_checkpoint(tmp_path / "w")


@pytest.mark.parametrize("value", [np.float64(93.5), np.float32(93.5), np.int64(7),
                                   np.bool_(True), np.array(2.0, ">f8")[()]])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("module", ["numpy._core.multiarray", "numpy.core.multiarray"])
def test_numbers_of_numpy_are_no_code(tmp_path, value, zipped, module):
    """A training script's `best_acc`, of NumPy 1 or 2, is read as the plain number it is."""
    content = {"state_dict": STATE, "epoch": 3, "optimizer": {}, "best_acc": value, "metric": value}
    torch.save(content, tmp_path / "w", _use_new_zipfile_serialization=False)
    data = (tmp_path / "w").read_bytes().replace(b"cnumpy._core.multiarray\n",
                                                 f"c{module}\n".encode())
    (tmp_path / "w").write_bytes(data)
    if zipped:
        torch.save(content, tmp_path / "w")
    assert equal(networks.load_checkpoint(tmp_path / "w"))
    read = networks.load_training_state(tmp_path / "w")
    assert read["best_acc"] == read["metric"] == value
    assert type(read["metric"]) in (float, int, bool), "plain Python, as --resume wants it"


def test_what_stands_for_numpy_does_nothing_else(tmp_path):
    """The names that are let through build numbers alone, whatever a file passes to them."""
    for text in ("cnumpy\ndtype\n(S'O8'\ntR", "c_codecs\nencode\n(S'x'\nI1\nI2\ntR",
                 "cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(Vf8\ntRcnumpy\ndtype\n"
                 "(Vf8\ntRtR"):
        with zipfile.ZipFile(tmp_path / "w", "w") as archive:
            archive.writestr("w/data.pkl", f"\x80\x02{text}.".encode("latin1"))
            archive.writestr("w/version", "3\n")
        with pytest.raises(UserError, match=r"carries code|no checkpoint, or a truncated"):
            networks.load_checkpoint(tmp_path / "w")


def test_averaged_weights_next_to_raw_ones_are_named_once(tmp_path):
    net, lines = torch.nn.Linear(2, 2), []
    state = dict(net.state_dict())
    for content, expected in (
            ({"state_dict": state, "state_dict_ema": state}, ["state_dict_ema"]),
            ({"model": state, "model_ema": state}, ["model_ema"]),
            ({"state_dict": state}, []), ({"state_dict_ema": state}, []), (state, [])):
        torch.save(content, tmp_path / "w")
        networks.load_weights(net, tmp_path / "w", report=lines.append)
        assert [key in line and "--use-ema takes them" in line
                for key, line in zip(expected, lines, strict=True)] == [True] * len(expected)
        lines.clear()
    torch.save({"state_dict": state, "state_dict_ema": state}, tmp_path / "w")
    networks.load_weights(net, tmp_path / "w", ema=True, report=lines.append)
    assert not lines


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_never_replace_good_ones(tmp_path, bad):
    """The one place that writes weights guards every training."""
    net = torch.nn.Linear(2, 2)
    networks.save_weights(net, tmp_path / "w")
    networks.save_training_state(tmp_path / "s", state_dict=net.state_dict(), epoch=1)
    before = (tmp_path / "w").read_bytes(), (tmp_path / "s").read_bytes()
    with torch.no_grad():
        net.weight[1, 0] = bad
    good = {"weight": torch.zeros(2, 2)}
    with pytest.raises(UserError, match="w: not written, 'weight' became NaN or infinite"):
        networks.save_weights(net, tmp_path / "w")
    for states in ({"state_dict": net.state_dict()},
                   {"state_dict": good, "state_dict_ema": net.state_dict()}):
        with pytest.raises(UserError, match="s: not written"):
            networks.save_training_state(tmp_path / "s", epoch=2, **states)
    assert before == ((tmp_path / "w").read_bytes(), (tmp_path / "s").read_bytes())


def test_checkpoints_of_timms_own_script_are_read(tmp_path):
    torch.save({"state_dict": STATE, "args": argparse.Namespace(lr=0.1), "epoch": 3,
                "optimizer": {}}, tmp_path / "w")
    assert equal(networks.load_checkpoint(tmp_path / "w"))
    assert networks.load_training_state(tmp_path / "w")["epoch"] == 3


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_pickles_of_every_protocol(tmp_path, protocol, zipped):
    content = pickle.dumps(Attack(tmp_path / "created"), protocol)
    if zipped:
        with zipfile.ZipFile(tmp_path / "w", "w") as archive:
            archive.writestr("w/data.pkl", content)
            archive.writestr("w/version", "3\n")
    else:
        (tmp_path / "w").write_bytes(content)
    with pytest.raises(UserError, match=r"w: carries code \(it would run posix.system\)"):
        networks.load_checkpoint(tmp_path / "w")
    assert not (tmp_path / "created").exists()


@pytest.mark.parametrize("content, match", [
    (b"", "empty"), (b"   \n ", "empty"),
    (b"<!DOCTYPE html><html>404</html>", "HTML"), (b"\n <html>", "HTML"),
    (b"\x00\x01\x02 nonsense", "no checkpoint"), (b"PK\x03\x04 nothing", "truncated or damaged"),
    (b"GIF89a", "no checkpoint")])
def test_files_of_another_kind(tmp_path, content, match):
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(UserError, match=match):
        networks.load_checkpoint(tmp_path / "w")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UserError, match="no such checkpoint"):
        networks.load_checkpoint(tmp_path / "w")
    with pytest.raises(UserError, match="a folder"):
        networks.load_checkpoint(tmp_path)
    with pytest.raises(UserError, match="null"):
        networks.load_checkpoint("a\0b")


@pytest.mark.parametrize("content, match", [
    (torch.zeros(2), "a dict of tensors was expected, not Tensor"), ([STATE], "not list"),
    ({}, "holds no weights"), ({"state_dict": {}}, "holds no weights"),
    ({"a": 1}, "'a' holds a int"), ({3: torch.zeros(1)}, "'3' holds a Tensor"),
    ({"a": torch.tensor([1.0, float("nan")])}, "'a' holds NaN"),
    ({"a": torch.tensor([float("inf")])}, "'a' holds NaN or infinite"),
    ({"a": torch.eye(2).to_sparse()}, "'a' is no plain tensor"),
    ({"a": torch.zeros(2, dtype=torch.complex64)}, "'a' is no plain tensor")])
def test_contents_that_are_no_weights(tmp_path, content, match):
    torch.save(content, tmp_path / "w")
    with pytest.raises(UserError, match=match):
        networks.load_checkpoint(tmp_path / "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_every_truncation_is_one_clear_error(tmp_path, zipped):
    torch.save(STATE, tmp_path / "whole", _use_new_zipfile_serialization=zipped)
    data = (tmp_path / "whole").read_bytes()
    for length in range(1, len(data), 37):
        (tmp_path / "w").write_bytes(data[:length])
        with pytest.raises(UserError, match="w: "):
            networks.load_checkpoint(tmp_path / "w")


def zip_bomb(path, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("w/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("w/data/0", bytes(50_000_000))


def test_compressed_archives_are_refused_before_they_unpack(tmp_path):
    zip_bomb(tmp_path / "w", compression=zipfile.ZIP_DEFLATED)
    assert (tmp_path / "w").stat().st_size < 100_000
    with pytest.raises(UserError, match="absurd size"):
        networks.load_checkpoint(tmp_path / "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_that_build_without_end_are_refused_within_little_memory(tmp_path, zipped):
    """A byte of such a pickle makes a list of 56."""
    whole, many = tmp_path / "whole", b"\x80\x02" + b"]" * 20_000_000 + b"."
    torch.save(STATE, whole, _use_new_zipfile_serialization=zipped)
    if zipped:
        with zipfile.ZipFile(whole) as old, zipfile.ZipFile(tmp_path / "w", "w") as new:
            for entry in old.infolist():
                pickled = entry.filename.endswith("data.pkl")
                new.writestr(entry.filename, many if pickled else old.read(entry))
    else:
        with open(whole, "rb") as file:
            for _ in range(3):  # what torch writes before the state dict
                pickle.load(file)
            (tmp_path / "w").write_bytes(whole.read_bytes()[:file.tell()] + many)
    tracemalloc.start()
    with pytest.raises(UserError, match=r"absurd size|more than 1000000 steps"):
        networks.load_checkpoint(tmp_path / "w")
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def overstated(zipped: bool, numel: int) -> bytes:
    """A checkpoint whose only tensor claims `numel` elements, its data left as it was."""
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(70_000)}, buffer, _use_new_zipfile_serialization=zipped)
    small, big = b"J" + struct.pack("<i", 70_000), b"\x8a\x06" + numel.to_bytes(6, "little")
    if not zipped:
        assert buffer.getvalue().count(small) == 2
        return buffer.getvalue().replace(small, big)
    out = io.BytesIO()
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry).replace(small, big))
    return out.getvalue()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("numel", [10**9, 10**13])
def test_absurd_tensor_sizes_are_refused_within_little_memory(tmp_path, zipped, numel):
    (tmp_path / "w").write_bytes(overstated(zipped, numel))
    code = ("import resource, sys, networks.checkpoints as c\n"
            "from utils.errors import UserError\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "try:\n    c.load_checkpoint(sys.argv[1])\n"
            "except UserError as error:\n    print(error)\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)")
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "w"], cwd=ROOT, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    message, grown_kib = done.stdout.splitlines()
    assert "w: " in message
    assert int(grown_kib) < 100_000


def test_a_view_larger_than_its_file(tmp_path):
    torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "w")
    with pytest.raises(UserError, match="'a' claims the absurd shape"):
        networks.load_checkpoint(tmp_path / "w")


def test_saving_is_atomic_and_keeps_what_stands_beside(tmp_path):
    net = torch.nn.Linear(2, 2)
    networks.save_weights(net, tmp_path / "w", resolution=32)
    assert torch.load(tmp_path / "w", weights_only=True)["resolution"] == 32
    before = (tmp_path / "w").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = torch.nn.Linear(2000, 200)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="large"):
            networks.save_weights(big, tmp_path / "w")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "w").read_bytes() == before
    assert os.listdir(tmp_path) == ["w"]


@settings(max_examples=150, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.booleans())
def test_damaged_bytes_never_raise_anything_else(tmp_path, data, zipped):
    torch.save(STATE, tmp_path / "whole", _use_new_zipfile_serialization=zipped)
    content = bytearray((tmp_path / "whole").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "w").write_bytes(content)
    try:
        state = networks.load_checkpoint(tmp_path / "w")
    except UserError:
        return
    assert state
    assert all(isinstance(value, torch.Tensor) for value in state.values())


@settings(max_examples=100, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
@example(b"PK\x05\x06" + bytes(18))
@example(pickle.dumps({}))
def test_any_bytes(tmp_path, content):
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(UserError, match="w: "):
        networks.load_checkpoint(tmp_path / "w")


ODD_DTYPES = [name for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e8m0fnu",
                                "float4_e2m1fn_x2", "bits8", "bits16", "quint4x2", "complex64")
              if hasattr(torch, name)]


@pytest.mark.parametrize("name", ODD_DTYPES)
def test_tensors_of_kinds_that_weights_do_not_come_in_are_refused(tmp_path, name):
    dtype = getattr(torch, name)
    tensor = torch.zeros(8, dtype=torch.uint8)
    try:
        torch.save({"state_dict": {"a": tensor.view(dtype)}, "epoch": 1, "optimizer": {}},
                   tmp_path / "w")
    except (RuntimeError, TypeError):
        torch.save({"state_dict": {"a": torch.zeros(8).to(dtype)}, "epoch": 1, "optimizer": {}},
                   tmp_path / "w")
    for read in (networks.load_checkpoint, networks.load_training_state):
        with pytest.raises(UserError, match="w: "):
            read(tmp_path / "w")


def test_nested_tensors_are_refused(tmp_path):
    for layout in (torch.strided, torch.jagged):
        nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=layout)
        try:
            torch.save({"a": nested}, tmp_path / "w")
        except (RuntimeError, NotImplementedError, AttributeError):
            continue
        with pytest.raises(UserError, match="w: "):
            networks.load_checkpoint(tmp_path / "w")


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool])
def test_integers_do_not_pass_for_weights(tmp_path, dtype):
    net = torch.nn.Linear(2, 2)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    torch.save({key: value.to(dtype) for key, value in before.items()}, tmp_path / "w")
    with pytest.raises(UserError, match="'weight' is torch"):
        networks.load_weights(net, tmp_path / "w")
    assert all((net.state_dict()[key] == value).all() for key, value in before.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_other_widths_are_weights(tmp_path, dtype):
    net = torch.nn.Linear(2, 2)
    torch.save({key: value.to(dtype) for key, value in net.state_dict().items()}, tmp_path / "w")
    networks.load_weights(torch.nn.Linear(2, 2), tmp_path / "w")


def test_a_device_or_a_pipe_is_no_checkpoint(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", tmp_path / "pipe"):
        with pytest.raises(UserError, match="a device or a pipe"):
            networks.load_checkpoint(path)
