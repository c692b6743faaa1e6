import json
from string import printable

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from search.archive import (
    Record,
    Stats,
    latest_stats,
    objectives,
    read_evaluations,
    read_net_stats,
    read_stats,
    stats_path,
    write_stats,
)
from search_space import OFASearchSpace
from utils.errors import UserError

SPACE = OFASearchSpace()
SMALL, LARGE = SPACE.extremes()
RECORDS = [Record(SMALL, 30.25, 90.69), Record(LARGE, 20.5, 1200.0)]
SURROGATE = {"model": "rbf", "name": "rbf", "winner": "rbf", "rmse": 0.5, "rho": 0.9, "tau": 0.8}
OURS = Stats(RECORDS, RECORDS[1:], 0.75, SURROGATE, "flops", [30.5525, 1212.0], {"seed": 3})
FAST = settings(max_examples=150, deadline=None,
                suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(printable, max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["archive", "candidates", "hv", "surrogate", "sec_obj", "ks", "r", "top1",
                         "reference_point"]), inner, max_size=6), max_leaves=20)
ORIGINAL = {"archive": [[SMALL, 30.25, 90.69], [LARGE, 20.5, 1200]],
            "candidates": [[LARGE, 20.5, 1200]], "hv": 0.75, "surrogate": SURROGATE}


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_written_stats_are_read_back_and_equal_stats_give_equal_bytes(tmp_path):
    first, second = stats_path(tmp_path, 1), stats_path(tmp_path, 2)
    write_stats(first, OURS)
    assert first.name == "iter_1.stats"
    assert read_stats(first, SPACE.encode) == OURS
    write_stats(second, read_stats(first))
    assert first.read_bytes() == second.read_bytes()
    assert list(json.loads(first.read_text()))[:4] == ["archive", "candidates", "hv", "surrogate"]


def test_numpy_scalars_are_written_as_numbers(tmp_path):
    records = [Record(SMALL, np.float64(1.5), np.float32(2))]
    write_stats(tmp_path / "a.stats", Stats(records, [], np.float64(0.1)))
    assert read_stats(tmp_path / "a.stats").archive == [Record(SMALL, 1.5, 2.0)]


def test_the_originals_files_lose_their_failures_and_repetitions(tmp_path, capsys):
    value = {**ORIGINAL, "archive": [*ORIGINAL["archive"], [LARGE, 100, 1000], [SMALL, 30, 90.69]]}
    stats = read_stats(write(tmp_path / "iter_1.stats", value), SPACE.encode)
    assert stats.archive == RECORDS
    assert stats.sec_obj is None
    assert "left out 2 of 4 records" in capsys.readouterr().err


def test_scores_of_constant_predictions_may_be_nan(tmp_path):
    scores = {"rmse": 0.5, "rho": float("nan"), "tau": float("nan")}
    stats = read_stats(write(tmp_path / "a", {**ORIGINAL, "surrogate": SURROGATE | scores}))
    assert stats.surrogate == SURROGATE | {"rmse": 0.5, "rho": None, "tau": None}
    write_stats(tmp_path / "b", stats)
    assert read_stats(tmp_path / "b") == stats


@pytest.mark.parametrize(("change", "message"), [
    ({"hv": float("nan")}, "hv: must be a finite number"),
    ({"archive": [[SMALL, float("nan"), 3]]}, "top-1 error: must be a finite number"),
    ({"surrogate": {"rmse": float("inf")}}, "rmse: must be a finite number"),
    ({"surrogate": {"other": float("nan")}}, "NaN or infinity"),
    ({"extra": [1, {"a": float("inf")}]}, "NaN or infinity"),
    ({"reference_point": [float("nan"), 1]}, "reference_point: must be a finite number"),
    ({"hv": "high"}, "hv: must be a number, not 'high'"),
    ({"hv": -1}, "hv: must be a finite number in 0..inf, not -1"),
    ({"archive": {}}, "archive: must be a list"),
    ({"archive": [[SMALL, 3]]}, r"archive\[0\]: must be a list of 3"),
    ({"archive": [[SMALL, 101, 3]]}, r"archive\[0\], top-1 error: .*0..100, not 101"),
    ({"archive": [[SMALL, True, 3]]}, "must be a number, not True"),
    ({"archive": [[SMALL, 3, 10**400]]}, r"archive\[0\], second objective: must be a finite"),
    ({"archive": [[[1], 3, 4]]}, r"archive\[0\]: an architecture is a dict"),
    ({"archive": [[{**SMALL, "ks": [3]}, 3, 4]]}, "'ks' of the architecture must be a list of 10"),
    ({"archive": [[{"ks": [[[0.5]]]}, 3, 4]]}, r"'ks' of the architecture holds \[0.5\]"),
    ({"candidates": None}, "candidates: must be a list, not None"),
    ({"surrogate": []}, "surrogate: must be a dict"),
    ({"surrogate": {"tau": "x"}}, "surrogate: tau: must be a number"),
    ({"sec_obj": 3}, "'sec_obj' must be the name"),
    ({"sec_obj": "flops", "archive": [[SMALL, 3, 4], [SMALL, 4, 4]]}, r"archive\[1\].*twice"),
    ({"reference_point": [1]}, "reference_point: must be a list of 2"),
])
def test_damaged_stats_are_refused_by_place(tmp_path, change, message):
    path = write(tmp_path / "iter_1.stats", {**ORIGINAL, **change})
    with pytest.raises(UserError, match=message) as caught:
        read_stats(path, SPACE.encode)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("key", ["archive", "candidates", "hv", "surrogate"])
def test_a_missing_key_is_named(tmp_path, key):
    path = write(tmp_path / "a", {k: v for k, v in ORIGINAL.items() if k != key})
    with pytest.raises(UserError, match=f"'{key}' is missing"):
        read_stats(path)


@pytest.mark.parametrize("text", ["", "{", "<html></html>", '{"hv": NaN}', "[1]", '{"a":1,"a":2}'])
def test_texts_that_are_no_stats_are_refused(tmp_path, text):
    with pytest.raises(UserError):
        read_stats(write(tmp_path / "a", text))


@FAST
@given(st.binary(max_size=60) | JSON.map(lambda v: json.dumps(v).encode()))
def test_any_input_gives_stats_or_a_clear_error(tmp_path, content):
    path = tmp_path / "any"
    path.write_bytes(content)
    for reader in (read_stats, read_net_stats):
        try:
            assert isinstance(reader(path), Stats | dict)
        except UserError as error:
            assert str(path) in str(error)


@FAST
@given(JSON, st.sampled_from(["archive", "candidates", "hv", "surrogate", "reference_point"]))
@example([[SMALL, 1e999, 3]], "archive")
def test_any_value_in_any_place_gives_stats_or_a_clear_error(tmp_path, value, key):
    path = write(tmp_path / "any", {**ORIGINAL, key: value})
    try:
        stats = read_stats(path, SPACE.encode)
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert np.isfinite(objectives(stats.archive)).all()
        assert 0 <= stats.hv < np.inf


def test_latest_stats_counts_in_numbers(tmp_path):
    for name in ("iter_9.stats", "iter_10.stats", "iter_11.stats.bak", "xiter_12.stats"):
        (tmp_path / name).touch()
    assert latest_stats(tmp_path) == tmp_path / "iter_10.stats"
    with pytest.raises(UserError, match="not a folder"):
        latest_stats(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no iter_<i>\.stats"):
        latest_stats(tmp_path / "empty")


def test_evaluations_are_pairs_in_order(tmp_path):
    for j, (arch, top1) in enumerate([(SMALL, 70.0), (LARGE, 80.0)]):
        write(tmp_path / f"net_{j}.subnet", arch)
        write(tmp_path / f"net_{j}.stats", {"top1": top1, "flops": 90.5, "cpu": None})
    write(tmp_path / "net_2.subnet", SMALL)
    found = read_evaluations(tmp_path, SPACE.encode)
    assert [(each.arch, each.top1_err, each.value("flops")) for each in found] == [
        (SMALL, 30.0, 90.5), (LARGE, 20.0, 90.5)]
    with pytest.raises(UserError, match="'cpu' was not measured; known are flops"):
        found[0].value("cpu")


@pytest.mark.parametrize(("value", "message"), [
    ({}, "'top1'"), ({"top1": 101}, "top1: must be a finite number in 0..100"),
    ({"top1": 50, "flops": "9M"}, "flops: must be a number")])
def test_damaged_net_stats_are_refused(tmp_path, value, message):
    with pytest.raises(UserError, match=message):
        read_net_stats(write(tmp_path / "net_0.stats", value))


def test_objectives_of_no_records_keep_their_shape():
    assert objectives([]).shape == (0, 2)
    assert objectives(RECORDS).tolist() == [[30.25, 90.69], [20.5, 1200.0]]


@pytest.mark.slow
def test_an_archive_of_100_000_architectures_is_read_again(tmp_path):
    records = [Record({"ks": [3] * 20, "e": [6] * 20, "d": [4] * 5, "r": 224, "i": i}, 20.0, 5.0)
               for i in range(100_000)]
    write_stats(tmp_path / "iter_1.stats", Stats(records, records[:8], 0.5, sec_obj="flops"))
    assert read_stats(tmp_path / "iter_1.stats").archive == records
