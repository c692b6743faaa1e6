"""What a checkpoint says of itself, read without torch and without running anything."""

import ast
import os
import subprocess
import sys

import pytest
import torch

from networks.supernet_info import SupernetInfo, read_supernet_info
from tests.conftest import ROOT
from utils.errors import UserError

META = {"resolutions": [32, 36], "dataset": "digits", "mean": [0.5, 0.5, 0.5], "width": 0.35}


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("was_run",)


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "net_w0.35"
    torch.save({"state_dict": {"a.weight": torch.ones(3, 4)}, "meta": META}, path)
    return path


def test_the_meta_of_a_checkpoint_is_read_without_torch(checkpoint):
    code = ("import sys; from networks.supernet_info import read_supernet_info; "
            "print(read_supernet_info(sys.argv[1]).to_json()); sys.exit('torch' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code, checkpoint], cwd=ROOT, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    assert ast.literal_eval(done.stdout) == {**SupernetInfo().to_json(), **META}


@pytest.mark.parametrize(("state", "n_classes"), [
    ({"classifier.linear.weight": torch.ones(7, 4), "classifier.linear.bias": torch.ones(7)}, 7),
    ({"classifier.linear.linear.weight": torch.ones(3, 4)}, 3), ({}, None), (5, None),
    ({"classifier.weight": 5}, None), ({"x.classifier.weight": torch.ones(3, 4)}, None)])
def test_the_outputs_of_the_classifier_are_counted(tmp_path, state, n_classes):
    torch.save({"state_dict": state}, tmp_path / "net")
    assert read_supernet_info(tmp_path / "net") == SupernetInfo(n_outputs=n_classes)
    assert read_supernet_info(tmp_path / "absent").n_outputs is None


def test_a_checkpoint_without_meta_has_none():
    assert read_supernet_info(ROOT / "data/ofa_digits_d234_e346_k357_w0.35") == \
        SupernetInfo(n_outputs=10)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no zip at all", b"PK" * 200])
def test_damaged_files_have_none(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    assert read_supernet_info(tmp_path / "x") == SupernetInfo()
    assert read_supernet_info(tmp_path / "absent") == SupernetInfo() == read_supernet_info(tmp_path)


def test_nothing_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "meta": {"dataset": Harmful()}}, "harmful")
    read_supernet_info("harmful")
    assert not (tmp_path / "was_run").exists()


def test_every_cut_of_a_checkpoint_is_read_or_has_none(checkpoint, tmp_path):
    whole = checkpoint.read_bytes()
    for length in range(0, len(whole), 37):
        (tmp_path / "cut").write_bytes(whole[:length])
        assert read_supernet_info(tmp_path / "cut") == SupernetInfo()


@pytest.mark.parametrize("values", [
    {"resolutions": [32.5]}, {"resolutions": []}, {"resolutions": [4]}, {"n_classes": True},
    {"mean": [0.1, 0.2]}, {"std": [float("nan")] * 3}, {"class_names": [1]}, {"dataset": ""},
    None, 3])
def test_parts_of_another_form_count_as_missing(values):
    assert SupernetInfo.of(values) == SupernetInfo()


def test_a_network_file_with_a_part_of_another_form_is_refused():
    assert SupernetInfo.of_config({"mean": [0.5] * 3}, "net.config").mean == [0.5] * 3
    with pytest.raises(UserError, match="'mean' cannot be"):
        SupernetInfo.of_config({"mean": [0.5]}, "net.config")


def test_a_supernet_that_was_cut_is_named_before_anything_is_planned(tmp_path, fails_clearly):
    whole = (ROOT / "data/ofa_digits_d234_e346_k357_w0.35").read_bytes()
    (tmp_path / "cut_w0.35").write_bytes(whole[:len(whole) // 2])
    fails_clearly("msunas.py", "--supernet_path", tmp_path / "cut_w0.35", "--dry_run",
                  match="cut_w0.35: a truncated or damaged checkpoint; copy it again")
