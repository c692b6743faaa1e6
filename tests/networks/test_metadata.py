"""Metadata of supernets: read without torch, and never trusted."""

import pickle
import subprocess
import sys
import zipfile

import pytest

from networks import build_supernet, load_supernet, save_weights
from networks.metadata import SupernetMeta, read_supernet_meta
from tests.conftest import ROOT

META = SupernetMeta(search_space="mbv3", dataset="folder", resolutions=[32, 40], vld_size=100,
                    n_classes=3, classes=["a", "b", "c"], mean=[0.5, 0.4, 0.3],
                    std=[0.2, 0.2, 0.2], transform="crop")


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    path = tmp_path_factory.mktemp("meta") / "ofa_w0.35"
    save_weights(build_supernet(3, 0.35, dropout=0.0), path, meta=META.to_json())
    return path


def test_metadata_come_back_with_and_without_torch(supernet):
    assert read_supernet_meta(supernet) == META
    assert SupernetMeta.of(load_supernet(supernet).meta) == META


def test_reading_loads_no_torch(supernet):
    code = ("import sys; from networks.metadata import read_supernet_meta; "
            f"read_supernet_meta({str(supernet)!r}); sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_other_files_say_nothing(tmp_path):
    save_weights(build_supernet(3, 0.35, dropout=0.0), tmp_path / "plain")
    (tmp_path / "text").write_text("no checkpoint")
    for path in (tmp_path / "plain", tmp_path / "text", tmp_path / "missing", tmp_path, None):
        assert read_supernet_meta(path) == SupernetMeta()


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    with zipfile.ZipFile(tmp_path / "hostile", "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({"meta": {"n_classes": 3}, "y": Hostile()}))
    assert read_supernet_meta(tmp_path / "hostile").n_classes == 3
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("values", [
    {"resolutions": [32.5]}, {"resolutions": []}, {"resolutions": [4]}, {"n_classes": True},
    {"mean": [0.1, 0.2]}, {"std": [float("nan")] * 3}, {"classes": [1]}, {"dataset": ""}, None, 3])
def test_parts_of_another_form_count_as_missing(values):
    assert SupernetMeta.of(values) == SupernetMeta()
