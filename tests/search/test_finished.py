"""The one reader of a search's files: what it takes and refuses, and that all programs use it."""

import json
import re

import numpy as np
import pytest

from search.archive import Record, Stats, write_stats
from search.finished import read_finished, read_settings
from search.objectives import SpaceCosts
from search.settings import DEFAULT_LUT, Settings
from search_space import OFASearchSpace, get_search_space
from tests.search.toy import Cakes
from utils.errors import UserError

OWN = "tests.search.test_finished:ShortName"


class ShortName(Cakes):
    """A space of one's own whose files name it shortly."""

    name = "cakes"


def write_search(folder, space, n=6, settings=None, **stats):
    """Writes the archive of a search with two objectives and its settings."""
    archs = [space.decode(x) for x in space.draw(n, np.random.default_rng(0))]
    records = [Record(arch, 30.0 - i, 100.0 + i) for i, arch in enumerate(archs)]
    write_stats(folder / "iter_0.stats", Stats(records, records, 0.5, **stats))
    if settings is not None:
        (folder / "settings.json").write_text(json.dumps(settings))
    return records


def test_everything_is_there_and_encoded_once(tmp_path):
    space = OFASearchSpace([32, 40, 48])
    records = write_search(tmp_path, space, settings={"seed": 3, "resolutions": [32, 40, 48]},
                           sec_obj="params", search_space="mbv3")
    found = read_finished(tmp_path)
    assert (found.file, found.folder) == (tmp_path / "iter_0.stats", tmp_path)
    assert (found.sec_obj, found.space_name, found.settings["seed"]) == ("params", "mbv3", 3)
    assert found.archs == [record.arch for record in records]
    np.testing.assert_array_equal(found.vectors, [space.encode(arch) for arch in found.archs])
    assert found.F.tolist() == [[record.top1_err, record.sec_obj] for record in records]
    assert found.minimised.tolist() == found.F.tolist()
    assert found.front.all()


def test_a_maximised_objective_is_minimised_by_its_sign(tmp_path):
    described = [{"name": "speed", "direction": "max", "unit": "1/s", "source": "reported"}]
    write_search(tmp_path, OFASearchSpace(), sec_obj="speed", objectives=described)
    found = read_finished(tmp_path)
    assert (found.minimised[:, 1] == -found.F[:, 1]).all()
    assert found.front.sum() == 1, "the last one has the least error and the most speed"


def test_what_no_file_says_can_be_typed_and_has_a_default(tmp_path):
    write_search(tmp_path, OFASearchSpace([32, 40]))
    found = read_finished(tmp_path)
    assert (found.sec_obj, found.space_name, found.settings) == ("flops", None, {})
    assert set(found.space.resolutions) <= {32, 40}, "those of the archive"
    assert read_finished(tmp_path, "mbv3", "cpu").sec_obj == "cpu"
    with pytest.raises(UserError, match=r"iter_0\.stats: archive\[0\]: "):
        read_finished(tmp_path, "resnet50")


@pytest.mark.parametrize(("name", "width", "n_classes"), [
    ("flops", 1.0, 1000), ("flops", 1.2, 10), ("params", 1.0, 1000), ("params", 1.2, 1000),
    ("params", 1.0, 10), ("cpu", 1.0, 1000)])
def test_an_objective_without_a_name_is_known_by_its_values(tmp_path, capsys, name, width,
                                                            n_classes):
    space = OFASearchSpace()
    costs = SpaceCosts(space, n_classes, width, {"": DEFAULT_LUT})
    values = costs.latency("") if name == "cpu" else costs.counted(name)
    X = space.draw(30, np.random.default_rng(0))
    records = [Record(space.decode(x), 30.0 + i / 10, round(value, 2))
               for i, (x, value) in enumerate(zip(X, values(X).tolist(), strict=True))]
    write_stats(tmp_path / "iter_30.stats", Stats(records, records, 0.5))
    assert read_finished(tmp_path).sec_obj == {"cpu": "unnamed"}.get(name, name)
    note = capsys.readouterr().err
    assert bool(note) == (name != "flops") and (name == "flops" or f"--sec_obj {name}" in note)
    assert read_finished(tmp_path, None, name).sec_obj == name
    if name != "cpu":
        with pytest.raises(UserError, match=f"its --sec_obj is {name}, not gpu64"):
            read_finished(tmp_path, None, "gpu64")


def test_what_is_typed_and_contradicts_the_files_is_refused(tmp_path):
    write_search(tmp_path, OFASearchSpace(), sec_obj="flops", search_space="mbv3")
    with pytest.raises(UserError, match="its --search_space is mbv3, not proxyless"):
        read_finished(tmp_path, "proxyless")
    with pytest.raises(UserError, match="its --sec_obj is flops, not cpu; leave --sec_obj out"):
        read_finished(tmp_path, sec_obj="cpu")


@pytest.mark.parametrize("names", ["flops+params", "a+b+c"])
def test_each_objective_needs_its_name(tmp_path, names):
    write_search(tmp_path, OFASearchSpace())
    with pytest.raises(UserError, match=re.escape(f"1 of them, not {names}")):
        read_finished(tmp_path, sec_obj=names)


def test_ones_own_space_is_found_under_its_short_name(tmp_path, capsys):
    write_search(tmp_path, ShortName(), search_space="cakes", settings={"search_space": OWN})
    found = read_finished(tmp_path)
    assert found.space is None and found.vectors.shape == (6, 0)
    assert f"--search_space {OWN} would load" in capsys.readouterr().err
    found = read_finished(tmp_path, OWN)
    assert (found.space.name, found.space_name, found.vectors.shape) == ("cakes", OWN, (6, 6))
    (tmp_path / "settings.json").unlink()
    assert read_finished(tmp_path, OWN).space.name == "cakes"


@pytest.mark.parametrize("r", ["32", [32, 36], [[1]], 3, 10**6, None])
def test_a_resolution_that_is_none_is_refused_by_its_place(tmp_path, r):
    write_search(tmp_path, OFASearchSpace([32]))
    stats = json.loads((tmp_path / "iter_0.stats").read_text())
    stats["archive"][1][0]["r"] = r
    (tmp_path / "iter_0.stats").write_text(json.dumps(stats))
    with pytest.raises(UserError, match=r"iter_0\.stats: archive\[1\]"):
        read_finished(tmp_path)


def test_an_option_of_the_space_goes_before_the_stored_one(tmp_path):
    write_search(tmp_path, OFASearchSpace([32]), settings={"resolutions": [64]})
    with pytest.raises(UserError, match=r"archive\[0\]"):
        read_finished(tmp_path)
    assert read_finished(tmp_path, resolutions=[32]).space.resolutions == [32]


def test_the_settings_of_a_search_are_read_as_they_were_written(tmp_path):
    for settings in (Settings(), Settings(resolutions=[32], lut=["a", "b=c"], timeout=3, amp=True)):
        (tmp_path / "settings.json").write_text(json.dumps(settings.to_json()))
        assert Settings(**read_settings(tmp_path)) == settings
    assert read_settings(tmp_path / "none") == {}


@pytest.mark.parametrize("name", sorted({*Settings.names()} - {"download"}))
def test_every_setting_has_one_type(tmp_path, name):
    (tmp_path / "settings.json").write_text(json.dumps({name: {"a": 1}}))
    with pytest.raises(UserError, match=rf"settings\.json: '{name}' must be of type .* not "):
        read_settings(tmp_path)


@pytest.mark.parametrize("command", [
    ("post_search.py", "--list", "--expr"), ("scripts/report.py",), ("scripts/animate.py",),
    ("scripts/draw.py",), ("scripts/export.py", "--to", "optuna", "--save", "x", "--"),
    ("-m", "acc_predictor", "--save", "x")])
def test_every_program_refuses_the_same_damaged_settings(tmp_path, fails_clearly, command):
    write_search(tmp_path, get_search_space("nasbench201"), search_space="nasbench201",
                 settings={"seed": "x"})
    fails_clearly(*command, tmp_path, match="settings.json: 'seed' must be of type int, not 'x'")
