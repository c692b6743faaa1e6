"""The contract of every search space; a new one joins by its row in `SEARCH_SPACES`."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluator.costs import CostModel, network_costs
from search_space import (
    SEARCH_SPACES,
    Gene,
    SearchSpace,
    check_arch,
    get_search_space,
    name_of,
    read_arch,
    space_of,
)
from search_space.base import rows_in, unique_rows
from tests.conftest import ROOT
from tests.search_space.tables import write_graphs, write_table
from utils.errors import UserError

# Keys whose lists have entries for layers that are not there.
UNUSED_ENTRIES = {"resnet50": "e"}
# name -> makes the settings that it is tested with; a folder is given
SETTINGS = {"table": write_table, "nasbenchgraph": write_graphs}
# Of the spaces `timm:NAME`: one and two kernels in a block, hidden channels of any ratio.
NAMES = sorted([*SEARCH_SPACES, "timm:mobilenetv4_conv_small", "timm:tf_mobilenetv3_small_100"])


@pytest.fixture(scope="module", params=NAMES)
def space(request, tmp_path_factory):
    make = SETTINGS.get(request.param, lambda folder: {})
    return get_search_space(request.param, **make(tmp_path_factory.mktemp(request.param)))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def any_vectors(space, rng):
    """Vectors within the bounds, canonical or not."""
    return rng.integers(space.lower, space.upper, size=(200, space.n_var), endpoint=True)


def test_it_is_found_by_its_name(space):
    assert name_of(space) in NAMES and space.name == name_of(space)


def test_genes_say_what_the_integers_mean(space):
    genes = space.genes
    assert len(genes) == space.n_var == len(space.lower) == len(space.upper)
    assert len({gene.name for gene in genes}) == space.n_var
    for gene, low, high in zip(genes, space.lower, space.upper, strict=True):
        assert isinstance(gene, Gene) and gene.name and gene.group
        assert len(gene.values) == high - low + 1
    for group in {gene.group for gene in genes}:
        assert len({(gene.values, gene.ordered) for gene in genes if gene.group == group}) == 1


def test_decode_inverts_encode(space, rng):
    for arch in space.sample(100, rng=rng):
        assert space.decode(space.encode(arch)) == arch


def test_encode_inverts_decode_up_to_the_canonical_form(space, any_vectors):
    for x, expected in zip(any_vectors, space.canonical(any_vectors), strict=True):
        np.testing.assert_array_equal(space.encode(space.decode(x)), expected)


def test_canonical_is_idempotent_and_leaves_its_input_alone(space, any_vectors):
    before = any_vectors.copy()
    canonical = space.canonical(any_vectors)
    np.testing.assert_array_equal(any_vectors, before)
    np.testing.assert_array_equal(space.canonical(canonical), canonical)
    assert (canonical >= space.lower).all() and (canonical <= space.upper).all()


def test_active_says_which_genes_matter(space, any_vectors, rng):
    active = space.active(any_vectors)
    assert active.shape == any_vectors.shape and active.dtype == bool
    np.testing.assert_array_equal(active, space.active(space.canonical(any_vectors)))
    other = rng.integers(space.lower, space.upper, any_vectors.shape, endpoint=True)
    changed = np.where(active, any_vectors, other)
    np.testing.assert_array_equal(space.canonical(changed), space.canonical(any_vectors))
    canonical = space.canonical(any_vectors)
    unused = np.broadcast_to(space.lower, canonical.shape)[~active]
    np.testing.assert_array_equal(canonical[~active], unused)


def test_what_a_surrogate_sees_lies_within_its_traits(space, any_vectors):
    values, used = space.featurize(space.canonical(any_vectors))
    assert values.shape == used.shape == (len(any_vectors), len(space.features))
    assert len({feature.name for feature in space.features}) == len(space.features)
    assert (values >= 0).all()
    assert (values < [len(feature.values) for feature in space.features]).all()


def test_drawn_vectors_are_canonical_and_within_the_bounds(space, rng):
    X = space.draw(500, rng)
    assert X.shape == (500, space.n_var) and X.dtype.kind == "i"
    assert (X >= space.lower).all() and (X <= space.upper).all()
    np.testing.assert_array_equal(space.canonical(X), X)


def test_what_is_drawn_exists_and_canonical_leads_there(space, any_vectors, rng):
    assert space.contains(space.draw(50, rng)).all()
    assert space.contains(space.canonical(any_vectors)).all()


def test_a_space_that_lists_its_architectures_lists_each_once(space, rng):
    everything = space.enumerate()
    if everything is not None:
        assert len(unique_rows(everything)) == len(everything)
        np.testing.assert_array_equal(space.canonical(everything[:200]), everything[:200])
        assert rows_in(space.draw(100, rng), everything).all()


def test_every_value_of_every_gene_is_drawn(space, rng):
    X = space.draw(3000, rng)
    for gene, low, high in zip(X.T, space.lower, space.upper, strict=True):
        assert set(gene) == set(range(low, high + 1))


def test_the_initial_sample_is_distinct_and_starts_with_the_extremes(space, rng):
    archs = space.initialize(40, rng=rng)
    assert len(archs) == 40 == len(unique_rows(np.array([space.encode(arch) for arch in archs])))
    assert archs[:2] == space.extremes()


def test_the_same_seed_draws_the_same_architectures(space):
    draws = [space.sample(5, rng=np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_architectures_are_plain_json(space, rng):
    for arch in [*space.extremes(), *space.sample(20, rng=rng)]:
        assert json.loads(json.dumps(arch, allow_nan=False)) == arch
        assert space.decode(space.encode(json.loads(json.dumps(arch)))) == arch


def test_people_can_read_about_an_architecture(space, rng):
    lines = set()
    for arch in space.sample(20, rng=rng):
        line = space.describe(arch)
        assert line.strip() and "\n" not in line
        lines.add(line)
        summary = space.summary(arch)
        assert all(isinstance(value, int | float | str) for value in summary.values())
        resolution = space.resolution(arch)
        assert resolution is None or isinstance(resolution, int)
        assert summary.get("resolution") == resolution
    assert len(lines) > 10


@pytest.mark.parametrize("wrong", ["short", "long", "low", "high", "fraction"])
def test_invalid_vectors_are_refused(space, wrong):
    x = space.upper.astype(float)
    vector = {"short": x[:-1], "long": np.append(x, 0), "low": space.lower - 1.0, "high": x + 1,
              "fraction": x - 0.5}[wrong]
    with pytest.raises(UserError):
        space.decode(vector)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=25) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=30)


@given(value=JSON)
def test_foreign_json_is_refused(space, value):
    with pytest.raises(UserError):
        space.encode(value)


@given(data=st.data())
def test_an_architecture_with_one_value_replaced_is_another_or_refused(space, data):
    x = np.array([data.draw(st.integers(int(low), int(high)))
                  for low, high in zip(space.lower, space.upper, strict=True)])
    arch = space.decode(x)
    key = data.draw(st.sampled_from(sorted(arch)))
    if isinstance(arch[key], list) and arch[key] and data.draw(st.booleans()):
        arch[key][data.draw(st.integers(0, len(arch[key]) - 1))] = data.draw(JSON)
    else:
        arch[key] = data.draw(JSON)
    try:
        found = space.encode(arch)
    except UserError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert key == UNUSED_ENTRIES.get(space.name) or space.decode(found)[key] == arch[key]


@pytest.mark.parametrize(("n_classes", "width"), [(1000, 1.0), (10, 0.5)])
def test_slots_agree_with_layers_and_costs_with_both(space, any_vectors, n_classes, width):
    try:
        slots = space.slots(n_classes, width)
    except UserError as error:
        assert "costs are unknown" in str(error)
        return
    costs = CostModel(space, n_classes, width).evaluate(any_vectors[:20])
    for i, x in enumerate(any_vectors[:20]):
        layers = space.layers(space.decode(x), n_classes, width)
        assert layers == [layer for slot in slots for layer in slot.pick(x)]
        expected = network_costs(layers)
        assert tuple(costs[name][i] for name in expected._fields) == expected


def test_files_hold_an_architecture_of_the_space(space, tmp_path, rng):
    path = tmp_path / "net.subnet"
    (arch,) = space.sample(1, rng=rng)
    path.write_text(json.dumps({**arch, "search_space": space.name}))
    assert read_arch(path, space) == arch
    path.write_text(json.dumps({**arch, "search_space": "module:Class"}))
    with pytest.raises(UserError, match=r"net\.subnet.*module:Class"):
        read_arch(path, space)


def test_the_command_line_counts_or_says_why_not(space, tmp_path, run_command, rng):
    path = tmp_path / "net.subnet"
    (arch,) = space.sample(1, rng=rng)
    path.write_text(json.dumps(arch))
    done = run_command("-m", "evaluator.costs", path, "--search_space", space.name)
    try:
        layers = space.layers(arch, width_mult=space.default_width)
    except UserError:
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    else:
        row = json.loads(done.stdout)
        assert (row["params_count"], row["resolution"]) == (network_costs(layers).params,
                                                            space.resolution(arch))


# ------------------------------------------------------------------- the registry, own spaces


class Switches(SearchSpace):
    """A space from outside with only what the contract demands: three switches, no costs."""

    name = "switches"
    options = ("n_switches",)

    def __init__(self, n_switches: int = 3) -> None:
        self.lower, self.upper = np.full(n_switches, 1), np.full(n_switches, 2)

    def encode(self, arch):
        try:
            return self.check(arch["switches"])
        except (TypeError, KeyError):
            raise UserError("an architecture is a dict with the key switches") from None

    def decode(self, x):
        return {"switches": self.check(x).tolist()}

    def extremes(self):
        return [self.decode(self.lower), self.decode(self.upper)]


OWN = f"{__name__}:Switches"


def test_an_own_space_is_named_by_its_module_and_class(rng):
    space = get_search_space(OWN, n_switches=4, resolutions=[32], dataset="digits")
    assert space.n_var == 4 and name_of(space) == OWN
    assert {arch["switches"][0] for arch in space.sample(20, rng=rng)} == {1, 2}
    assert space.genes[1] == Gene("gene 1", (1, 2), "gene 1")
    assert space.describe({"switches": [1, 2]}) == "switches 1 2"
    assert space.resolution(space.extremes()[0]) is None and space.family is None
    with pytest.raises(UserError, match="switches does not define the layers"):
        CostModel(space)


def test_a_setting_without_value_is_the_class_s_default():
    assert get_search_space(OWN, n_switches=None).n_var == 3


def test_layers_alone_are_enough_for_costs(rng):
    mbv3 = get_search_space("mbv3")

    class Plain(Switches):
        def layers(self, arch, n_classes=1000, width_mult=1.0):
            sizes = arch["switches"]
            return mbv3.layers(mbv3.extremes()[sizes[0] - 1], n_classes, width_mult)[:sizes[1]]

    for space in (Plain(3), Plain(40)):  # 2**40 variants are counted when asked
        X = space.draw(40, rng)
        costs = CostModel(space).evaluate(X)
        assert costs["params"].tolist() == [network_costs(space.layers(space.decode(x))).params
                                            for x in X]
        assert len(set(costs["flops"])) == 4


@pytest.mark.parametrize(("name", "match"), [
    ("darts", r"choose from .*mbv3.*module:Class"), ("no_module:Space", "no_module"),
    (f"{__name__}:Nothing", "Nothing"), (f"{__name__}:OWN", "no search space"),
    ("utils.errors:UserError", "derived from SearchSpace"), (":", "choose from"),
    ("a:", "choose from"), (".a:b", "no search space")])
def test_unknown_names_are_refused(name, match):
    with pytest.raises(UserError, match=match):
        get_search_space(name)


def test_a_file_may_name_its_space_but_code_must_be_typed(tmp_path):
    path = tmp_path / "net.subnet"
    path.write_text(json.dumps({"switches": [1, 2, 1], "search_space": OWN}))
    assert read_arch(path, OWN) == {"switches": [1, 2, 1]}
    with pytest.raises(UserError, match=r"names code.*type --search_space"):
        read_arch(path)
    assert isinstance(space_of({}, OWN), Switches)
    with pytest.raises(UserError, match="mbv3"):
        read_arch(path, "mbv3")
    with pytest.raises(UserError, match="name of a search space"):
        check_arch({"search_space": ["mbv3"]})


@pytest.mark.parametrize("name", NAMES)
def test_a_row_of_the_registry_loads_no_torch(name):
    code = ("import sys; from search_space import search_space_class as c; "
            f"c({name!r}); sys.exit(' '.join({{'torch', 'pandas'}} & set(sys.modules)) or 0)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
