"""Golden figures of the search spaces; their contract is in `test_contract.py`."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluator.costs import COUNTED
from search_space import (
    SEARCH_SPACES,
    OFASearchSpace,
    check_arch,
    get_search_space,
    read_arch,
)
from search_space.backbones import MOBILENET_V3, make_divisible, width_from_name
from search_space.base import rows_in
from tests.conftest import ROOT
from utils.errors import UserError


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_more_than_the_space_holds_is_refused():
    space = OFASearchSpace(resolutions=[32])
    with pytest.raises(UserError, match="2 or more"):
        space.initialize(1)


def test_rows_in_finds_rows(rng):
    X = rng.integers(0, 3, size=(50, 4))
    found = rows_in(X, X[::2])
    assert found[::2].all()
    for row, is_found in zip(X, found, strict=True):
        assert is_found == any((row == other).all() for other in X[::2])


# ----------------------------------------------------------------------- OFA MobileNetV3


def test_golden_encodings(shared_data):
    space = OFASearchSpace()
    rows = json.loads((shared_data / "reference_costs.json").read_text())
    assert len(rows) == 30
    for row in rows:
        assert space.encode(row["arch"]).tolist() == row["encoded"]
        assert space.decode(row["encoded"]) == row["arch"]


def test_bounds_of_the_ofa_space():
    space = OFASearchSpace()
    assert space.n_var == 46
    assert space.upper.tolist() == [2] * 45 + [16]
    assert space.resolutions == list(range(192, 257, 4))


def test_extremes_of_the_ofa_space_are_its_bounds(rng):
    space = OFASearchSpace()
    smallest, largest = space.initialize(2, rng=rng)
    np.testing.assert_array_equal(space.encode(smallest), np.zeros(space.n_var))
    np.testing.assert_array_equal(space.encode(largest), space.upper)
    X = rng.integers(space.lower, space.upper, size=(200, space.n_var), endpoint=True)
    assert (X != space.canonical(X)).any(), "some random vectors have unused genes"


def test_genes_of_the_ofa_space_have_names():
    space = OFASearchSpace(resolutions=[192, 224])
    names = [gene.name for gene in space.genes]
    assert names[:2] == ["stage 1: depth", "stage 1, layer 1: kernel"]
    assert (names[44], names[45]) == ("stage 5, layer 4: expansion", "resolution")
    assert space.genes[45].values == (192, 224) and space.genes[1].group == "stage 1 kernel"
    assert space.describe(space.extremes()[0]) == "192 px: " + " | ".join(["k3e3 k3e3"] * 5)
    assert space.summary(space.extremes()[1]) == {"resolution": 224, "layers": 20}


def test_sample_honours_the_choices():
    space = OFASearchSpace(seed=3)
    for arch in space.sample(20, ks=[5], e=[3, 6], d=[2], r=[224]):
        assert set(arch["ks"]) == {5} and set(arch["e"]) <= {3, 6}
        assert arch["d"] == [2] * 5 and arch["r"] == 224
    with pytest.raises(UserError, match="kernel size"):
        space.sample(1, ks=[9])


GOOD = {"ks": [3] * 10, "e": [4] * 10, "d": [2] * 5, "r": 224}


@pytest.mark.parametrize(("change", "message"), [
    ({"ks": [3] * 9}, "list of 10"), ({"ks": "3"}, "list of 10"), ({"e": [5] * 10}, "3, 4, 6"),
    ({"d": [2] * 4}, "list of 5"), ({"d": [1] * 5}, "2, 3, 4"), ({"r": 225}, "192"),
    ({"ks": [True] * 10}, "3, 5, 7"), ({"ks": [3.0] * 10}, "3, 5, 7"), ({"r": None}, "192"),
    ({"d": [[2]] * 5}, "2, 3, 4"), ({"r": [224, 192]}, "192"),
])
def test_invalid_architectures_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        OFASearchSpace().encode({**GOOD, **change})


def test_missing_keys_are_named():
    with pytest.raises(UserError, match="lacks d, r"):
        OFASearchSpace().encode({"ks": [], "e": []})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=25) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=30)


@given(arch=json_values | st.fixed_dictionaries(
    {"ks": st.lists(st.sampled_from([3, 5, 7, 4]), max_size=21) | json_values,
     "e": st.lists(st.sampled_from([3, 4, 6]), max_size=21) | json_values,
     "d": st.lists(st.sampled_from([2, 3, 4]), min_size=4, max_size=6) | json_values,
     "r": st.sampled_from([192, 224, 1]) | json_values}))
def test_any_json_is_an_architecture_or_a_clear_error(arch):
    space = OFASearchSpace()
    try:
        x = space.encode(arch)
    except UserError:
        return
    assert space.decode(x)["d"] == arch["d"]


@given(content=st.binary(max_size=200))
def test_any_bytes_as_a_subnet_file(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.subnet"
    path.write_bytes(content)
    with pytest.raises(UserError):
        read_arch(path)


def test_read_arch_keeps_foreign_resolutions(tmp_path):
    path = tmp_path / "net.subnet"
    path.write_text(json.dumps({**GOOD, "r": 100}))
    assert read_arch(path)["r"] == 100
    with pytest.raises(UserError, match=r"net\.subnet.*'r'"):
        read_arch(path, OFASearchSpace())


# --------------------------------------------------------------------------- backbones


def test_widths_follow_the_rounding_rule():
    assert [make_divisible(s.width * 1.2) for s in MOBILENET_V3.stages] == [32, 48, 96, 136, 192]
    assert [make_divisible(v) for v in (1, 8, 11, 12, 20, 960 * 1.2)] == [8, 8, 16, 16, 24, 1152]


@pytest.mark.parametrize(("name", "width"), [
    ("ofa_mbv3_d234_e346_k357_w1.0", 1.0), ("data/ofa_mbv3_d234_e346_k357_w1.2", 1.2),
    ("ofa_digits_w0.35", 0.35), ("ofa_digits_w0.35.pth", 0.35), ("ofa_w1", 1.0),
    ("dir_w3/supernet", 1.0)])
def test_the_width_stands_in_the_name(name, width):
    assert width_from_name(name) == width


# ------------------------------------------------------------------------------- documentation


def test_the_reference_names_every_space_and_every_counted_cost():
    text = (ROOT / "docs" / "spaces.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)
    assert named == [*SEARCH_SPACES, *COUNTED]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| search spaces \|.*", readme, flags=re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row)) == {*SEARCH_SPACES}


# ------------------------------------------------------- architectures of other programs


def costs_of(capsys, *args):
    from evaluator.costs.__main__ import get_args_parser, main

    main(get_args_parser().parse_args([str(arg) for arg in args]))
    return json.loads(capsys.readouterr().out.splitlines()[0])


def test_a_dict_of_the_ofa_package_is_cut_by_stage():
    arch = {"d": [3, 2, 2, 3, 2], "ks": [7, 3, 3, 5, 3, 7, 3, 7, 3, 7, 3, 3],
            "e": [3, 6, 6, 6, 3, 6, 6, 4, 6, 4, 3, 6], "r": 224}
    lists = {key: iter(arch[key]) for key in ("ks", "e")}
    padded = {key: [next(values) if position < depth else 3 + 4 * (key == "ks")
                    for depth in arch["d"] for position in range(4)]
              for key, values in lists.items()}
    theirs = {"wid": None, "d": arch["d"], "r": [224], **padded}
    assert check_arch(theirs) == arch
    assert theirs["r"] == [224]  # a copy was checked
    assert check_arch(theirs, OFASearchSpace()) == arch
    with pytest.raises(UserError, match="a list of 12 numbers, not 19 entries"):
        check_arch({**theirs, "ks": theirs["ks"][:-1]})


def test_the_single_block_of_proxyless_stays_when_lists_are_cut():
    space = get_search_space("proxyless", resolutions=[224])
    arch = space.extremes()[0]
    padded = {key: [arch[key][0], arch[key][1], 7, 7] * 5 + [arch[key][-1]] for key in ("ks", "e")}
    assert len(padded["ks"]) == 21
    assert check_arch({**arch, **padded, "r": [224]}, space) == arch


@pytest.mark.parametrize(("key", "value", "match"), [
    ("w", 1.2, "width multiplier.*--supernet_path"), ("wid", 1.2, "width multiplier"),
    ("t", [1, 0.2], "early exits"), ("resolution", 160, "has the key r"),
    ("kz", [3], "'kz' of the architecture is unknown here: the space has ks, e, d, r"),
    ("r", [192, 224], "must be an integer in"), ("r", "224", "not '224'")])
def test_what_an_architecture_holds_besides_is_refused(key, value, match):
    arch = OFASearchSpace().extremes()[0]
    with pytest.raises(UserError, match=match):
        check_arch({**arch, key: value})


def test_every_space_refuses_unknown_keys():
    for name in ("mbv3", "proxyless", "resnet50", "nasbench101", "nasbench201"):
        space = get_search_space(name)
        arch = space.extremes()[0]
        assert check_arch({**arch, "search_space": name}, space) == arch
        with pytest.raises(UserError, match="'other' of the architecture is unknown"):
            space.encode({**arch, "other": 1})


def test_architectures_of_public_bug_reports(shared_data, tmp_path, capsys):
    folder = shared_data / "wild" / "subnets"
    for name in ("padded", "right"):
        found = costs_of(capsys, folder / f"ofa_tutorial_{name}.subnet")
        assert (found["macs_count"], found["params_count"]) == (244_945_104, 4_536_768)
        assert found["resolution"] == 224
    for name, match in (("nat_m4_width_key", "'w'.*width multiplier"),
                        ("cnas_early_exit", "'t'.*early exits")):
        with pytest.raises(UserError, match=match):
            costs_of(capsys, folder / f"{name}.subnet")
    arch = json.loads((folder / "nat_m4_width_key.subnet").read_text())
    width = arch.pop("w")
    plain = tmp_path / "net.subnet"
    plain.write_text(json.dumps(arch))
    assert costs_of(capsys, plain, "--width", width)["flops"] == 604.52
    text = shared_data / "wild" / "text"
    assert read_arch(text / "bom.subnet")["r"] == 224
    with pytest.raises(UserError, match=r"r_string\.subnet: 'r', .* not '224'"):
        read_arch(text / "r_string.subnet")
