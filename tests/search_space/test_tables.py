"""Spaces that are tables: gaps, isomorphic networks, published figures."""

import gzip
import itertools
import os
from collections import Counter

import numpy as np
import pytest

from evaluator.costs import CostModel
from search_space import get_search_space
from search_space.base import unique_rows
from search_space.table import parse_number, parse_numbers, read_table
from tests.search_space.tables import SHAPES, write_cells, write_csv, write_table
from utils.errors import UserError


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def space(tmp_path):
    return get_search_space("table", **write_table(tmp_path))


def test_numbers_are_ordered_genes_and_texts_are_choices(space):
    assert [(gene.name, gene.ordered) for gene in space.genes] == [
        ("depth", True), ("rate", True), ("width", True), ("op", False)]
    assert space.genes[1].values == (0.1, 0.5, 2.0)
    assert space.genes[2].values == (8, 16, 32, 64)
    assert space.genes[3].values == ("0012", "conv", "pool", "skip", "x,y")
    arch = space.decode(space.rows[0])
    assert list(arch) == ["depth", "rate", "width", "op"]
    assert space.summary(arch) == arch


def test_a_gap_stands_for_the_nearest_row(space):
    X = np.array(list(itertools.product(*(range(u + 1) for u in space.upper))))
    exists = space.contains(X)
    assert 0.4 < exists.mean() < 0.6 and exists.sum() == len(space.rows)
    nearest = space.canonical(X)
    np.testing.assert_array_equal(nearest[exists], X[exists])
    assert space.contains(nearest).all()
    span = np.maximum(space.upper, 1)
    for x, found in zip(X[~exists], nearest[~exists], strict=True):
        apart = np.abs(space.rows - x) / span
        apart[:, 3] = space.rows[:, 3] != x[3]
        own = np.abs(found - x) / span
        own[3] = found[3] != x[3]
        assert own.sum() == pytest.approx(apart.sum(axis=1).min())
    gaps_of = Counter(row.tobytes() for row in nearest[~exists])
    assert max(gaps_of.values()) < 12  # no row is the answer to every tie


def test_architectures_without_a_row_are_refused(space):
    X = np.array(list(itertools.product(*(range(u + 1) for u in space.upper))))
    gap = X[~space.contains(X)][0]
    arch = {gene.name: gene.values[i] for gene, i in zip(space.genes, gap, strict=True)}
    with pytest.raises(UserError, match=r"no row with depth 0, rate"):
        space.encode(arch)


def test_draws_cover_the_table_evenly(space, rng):
    X = space.draw(30 * len(space.rows), rng)
    assert len(unique_rows(X)) == len(space.rows)
    counts = Counter(x.tobytes() for x in X)
    assert max(counts.values()) < 75


def test_the_whole_table_is_a_sample_and_more_is_refused(space, rng):
    archs = space.initialize(len(space.rows), rng=rng)
    assert len({str(arch) for arch in archs}) == len(space.rows) and archs[:2] == space.extremes()
    with pytest.raises(UserError, match="smaller initial sample"):
        space.initialize(len(space.rows) + 1, rng=rng)


@pytest.mark.parametrize(("genes", "match"), [
    (None, "--genes"), ("depth,height", "no column 'height'"), ("depth,rate", "two rows with"),
    ("", "--genes")])
def test_bad_genes_are_refused(tmp_path, genes, match):
    with pytest.raises(UserError, match=match):
        get_search_space("table", **{**write_table(tmp_path), "genes": genes})


@pytest.mark.parametrize(("content", "match"), [
    (b"", "not a readable table"), (b"a,b\n", "at least one row"), (b"a,a\n1,2\n", "different"),
    (b"a,b\n1\n", "row 2 has 1 cells"), (b"\xff\xfe", "not a readable table"),
    (b"a,b\n1,2\n1.0,2\n", "same numbers")])
def test_bad_tables_are_refused(tmp_path, content, match):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=match):
        get_search_space("table", table=str(path), genes="a")


@pytest.mark.parametrize("content", [b"plain", gzip.compress(b"a,b\n1,2\n", mtime=0)[:-9]])
def test_damaged_archives_are_refused(tmp_path, content):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"t\.csv\.gz: not a readable"):
        read_table(path)
    with pytest.raises(UserError, match="missing"):
        read_table(tmp_path / "missing.csv")


def test_a_changed_file_is_read_again(tmp_path):
    path = write_csv(tmp_path / "t.csv", ["a"], [[1]])
    assert read_table(path).columns == {"a": ("1",)} and read_table(path) is read_table(path)
    import os

    write_csv(path, ["a"], [[2]])
    os.utime(path, ns=(1, 1))
    assert read_table(path).columns == {"a": ("2",)}


@pytest.mark.parametrize(("content", "columns"), [
    ("k;f\n1;2,5\n2;-3\n", {"k": ("1", "2"), "f": ("2.5", "-3")}),
    ("k;op\n1;2,5\n2;3,x\n", {"k": ("1", "2"), "op": ("2,5", "3,x")}),
    ("k\tf\n1\t2,5\n", {"k": ("1",), "f": ("2,5",)}),
    (",k,f\n0,1,2\n1,2,3\n", {"k": ("1", "2"), "f": ("2", "3")}),
    ('"a;b;c",f\n1,2\n\n', {"a;b;c": ("1",), "f": ("2",)})])
def test_separators_and_an_index_are_read(tmp_path, capsys, content, columns):
    path = tmp_path / "t.csv"
    path.write_text(content)
    assert read_table(path).columns == columns
    assert ("2,5 of f is 2.5" in capsys.readouterr().err) == ("2.5" in columns.get("f", ""))


def test_a_wrong_cell_is_named_with_its_row(tmp_path):
    path = write_csv(tmp_path / "t.csv", ["k", "f"], [[1, "2.5"], [2, "1.234,5"], [3, "x"]])
    with pytest.raises(UserError, match=r"row 3: the column f holds '1.234,5', which is no number "
                                        r"\(2 of 3 rows\); write numbers with a decimal point"):
        parse_numbers(read_table(path), "f")
    np.testing.assert_array_equal(parse_numbers(read_table(path), "k"), [1, 2, 3])


def test_texts_that_are_numbers():
    assert [parse_number(text) for text in ("0", "-3", "1.5", "1e3", "0.10")] == [
        0, -3, 1.5, 1000.0, 0.1]
    assert [parse_number(text) for text in ("", "0012", "nan", "1e999", " 1", "1_0", "x", "+1")] \
        == [None] * 8


# ------------------------------------------------------------------------- NAS-Bench-Graph


@pytest.fixture(scope="module")
def graphs(shared_data):
    return get_search_space("nasbenchgraph", table=str(shared_data / "nasbenchgraph_cora.csv.gz"))


def test_every_graph_network_has_one_row_or_joins_its_input(graphs, rng):
    assert len(graphs.rows) == 26206
    assert graphs.genes[0].values == SHAPES
    X = np.array(list(itertools.product(*(range(u + 1) for u in graphs.upper))))
    X = X[rng.permutation(len(X))[:6000]]
    exists = graphs.contains(X)
    for x, has_row in zip(X, exists, strict=True):
        (_, copies_of_input, _) = graphs._class(x)
        assert has_row == (copies_of_input == 0)
    np.testing.assert_array_equal(graphs.canonical(graphs.rows[::100]), graphs.rows[::100])
    assert len(graphs._by_class) == 26206


def test_isomorphic_graph_networks_are_one(graphs):
    def row(links, *operations):
        x = [graphs.genes[0].values.index(links)]
        x += [graphs.genes[1].values.index(operation) for operation in operations]
        return graphs.decode(np.array(x))

    assert row("0000", "gat", "gcn", "gin", "fc") == row("0000", "fc", "gin", "gcn", "gat")
    # a skip that another layer reads is the layer before it
    assert row("0123", "gat", "skip", "gcn", "gin") == row("0123", "gat", "gcn", "gin", "skip")
    assert row("0123", "gat", "gcn", "gin", "fc") != row("0123", "gcn", "gat", "gin", "fc")


def test_rows_that_are_isomorphic_look_alike(tmp_path):
    path = tmp_path / "both.csv"
    path.write_text("links,op1,op2,op3,op4,valid_top1\n0123,gat,skip,fc,skip,70\n"
                    "0123,gat,fc,skip,skip,71\n0123,fc,gat,skip,skip,72\n")
    space = get_search_space("nasbenchgraph", table=str(path))
    (values, _) = space.featurize(space.canonical(space.rows))
    assert values.any(axis=1).all() and len(values) == 3
    assert len(np.unique(values, axis=0)) == 2


def test_a_surrogate_sees_what_isomorphic_graph_networks_share(graphs):
    def seen(links, *operations):
        x = np.array([graphs.genes[0].values.index(links),
                      *(graphs.genes[1].values.index(operation) for operation in operations)])
        (values,), (used,) = graphs.featurize(graphs.canonical(x[None]))
        assert used.all()
        return {feature.name: value for feature, value in zip(graphs.features, values, strict=True)
                if value}

    one = {"shape: layers": 1, "shape: longest path": 1, "shape: joined": 1, "shape: outputs": 1,
           "operations: gat": 1, "operations of outputs: gat": 1, "operations at depth 1: gat": 1}
    assert seen("0123", "gat", "skip", "skip", "skip") == one
    assert seen("0123", "skip", "skip", "skip", "gat") == one
    assert seen("0001", "fc", "gat", "gcn", "gat") == {
        "shape: layers": 4, "shape: longest path": 2, "shape: joined": 3, "shape: outputs": 3,
        "operations: fc": 1, "operations: gat": 2, "operations: gcn": 1,
        "operations of outputs: gat": 2, "operations of outputs: gcn": 1,
        "operations at depth 1: fc": 1, "operations at depth 1: gat": 1,
        "operations at depth 1: gcn": 1, "operations at depth 2: gat": 1}


# --------------------------------------------------------------------------- NAS-Bench-201


@pytest.mark.parametrize(("arch", "params", "flops"), [
    ("|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+"
     "|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|", 1531546, 220119690),
    ("|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+"
     "|nor_conv_1x1~0|skip_connect~1|skip_connect~2|", 129306, 15647370),
    ("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|", 73306, 7783050)])
def test_published_costs_of_cells(arch, params, flops):
    """As the benchmark prints them for CIFAR-10: 0.129306 M and 15.64737 M of the second."""
    space = get_search_space("nasbench201")
    costs = CostModel(space).of_arch({"arch": arch})
    assert (costs["params"], costs["flops"]) == (params, flops)


@pytest.mark.parametrize(("accuracy", "size", "classes"), [
    ("cifar10_test_top1", 32, 10), ("cifar100_valid_top1", 32, 100),
    ("imagenet16_120_test_top1", 16, 120)])
def test_costs_are_those_of_a_real_network(accuracy, size, classes, rng):
    torch = pytest.importorskip("torch")
    space = get_search_space("nasbench201", accuracy=accuracy)
    for x in space.draw(5, rng):
        net = cell_network(torch, [space.genes[0].values[i] for i in x], classes)
        macs = conv_macs(torch, net, size)
        costs = CostModel(space).of_arch(space.decode(x))
        assert costs["params"] == sum(p.numel() for p in net.parameters())
        assert costs["macs"] == macs
        assert costs["flops"] == macs + classes


def conv_macs(torch, net, size):
    macs = []
    for module in net.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_hook(
                lambda m, _, out: macs.append(out[0].numel() * m.weight[0].numel()))
    with torch.inference_mode():
        net(torch.zeros(1, 3, size, size))
    return sum(macs)


def cell_network(torch, operations, classes):
    """A NAS-Bench-201 network as the paper describes it."""
    nn = torch.nn

    def conv(inputs, outputs, kernel, stride=1):
        return nn.Sequential(nn.ReLU(), nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2,
                                                  bias=False), nn.BatchNorm2d(outputs))

    class Cell(nn.Module):
        def __init__(self, width):
            super().__init__()
            make = {"none": lambda: None, "skip_connect": nn.Identity,
                    "avg_pool_3x3": lambda: nn.AvgPool2d(3, 1, 1),
                    "nor_conv_1x1": lambda: conv(width, width, 1),
                    "nor_conv_3x3": lambda: conv(width, width, 3)}
            self.edges = nn.ModuleList([make[name]() for name in operations])

        def forward(self, x):
            nodes, edges = [x], iter(self.edges)
            for _ in range(3):
                outputs = [0 * node if edge is None else edge(node)
                           for node, edge in zip(nodes, edges, strict=False)]
                nodes.append(sum(outputs))
            return nodes[-1]

    class Residual(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.main = nn.Sequential(conv(inputs, outputs, 3, 2), conv(outputs, outputs, 3))
            self.shortcut = nn.Sequential(nn.AvgPool2d(2, 2),
                                          nn.Conv2d(inputs, outputs, 1, bias=False))

        def forward(self, x):
            return self.main(x) + self.shortcut(x)

    body = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)]
    for width in (16, 32, 64):
        body += [] if width == 16 else [Residual(width // 2, width)]
        body += [Cell(width) for _ in range(5)]
    return nn.Sequential(*body, nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(64, classes)).eval()


def test_all_cells_of_the_benchmark(shared_data):
    path = str(shared_data / "nasbench201_200epochs.csv.gz")
    space = get_search_space("nasbench201", table=path)
    assert len(space.rows) == 15625 == len(unique_rows(space.rows))
    assert set(map(tuple, space.rows.tolist())) == set(
        map(tuple, get_search_space("nasbench201").rows.tolist()))


def test_cells_that_a_table_lacks_are_never_proposed(tmp_path, rng):
    space = get_search_space("nasbench201", **write_cells(tmp_path))
    assert len(space.rows) == 200
    X = rng.integers(space.lower, space.upper, (50, 6), endpoint=True)
    assert not space.contains(X).all() and space.contains(space.canonical(X)).all()


@pytest.mark.parametrize("text", ["", "|conv~0|+|none~0|none~1|+|none~0|none~1|none~2|", 3, None,
                                  "|none~0|+|none~1|none~0|+|none~0|none~1|none~2|"])
def test_other_cells_are_refused(text):
    with pytest.raises(UserError, match="no cell of NAS-Bench-201"):
        get_search_space("nasbench201").encode({"arch": text})
    with pytest.raises(UserError, match="data set"):
        get_search_space("nasbench201", accuracy="svhn_test")


@pytest.mark.parametrize(("row", "n"), [(b"a" * 2**20, 4), (b"1,2\n" * 2**10, 8), (b"\n", 300)])
def test_a_small_archive_of_a_huge_table_is_not_read(tmp_path, monkeypatch, row, n):
    monkeypatch.setattr("search_space.table.MAX_CELLS", 10_000)
    monkeypatch.setattr("search_space.table.MAX_TEXT_BYTES", 200)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"a,b\n" + row * n))
    with pytest.raises(UserError, match="more than"):
        read_table(tmp_path / "t.csv.gz")


def test_a_pipe_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(UserError, match="a device or a pipe"):
        read_table(tmp_path / "t.csv")


def test_a_table_with_the_old_time_is_read_again(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n")
    status = path.stat()
    assert read_table(path).column("b") == ("2",)
    path.write_text("\ufeffa,b\n1,3\n")  # as spreadsheets write it
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert read_table(path).column("b") == ("3",) and list(read_table(path).columns) == ["a", "b"]


@pytest.mark.parametrize("links", ["[[[", "0-0-0-0", "0100", "0200", "01234", "1000"])
def test_links_that_are_no_graph_are_refused(tmp_path, links):
    path = write_csv(tmp_path / "t.csv", ["links", "op1", "op2", "op3", "op4", "valid_top1"],
                     [["0000", "gat", "gat", "gat", "gat", 50], [links, *["gcn"] * 4, 60]])
    if links != "0100":
        with pytest.raises(UserError, match="the column links holds"):
            get_search_space("nasbenchgraph", table=str(path))
    else:
        assert len(get_search_space("nasbenchgraph", table=str(path)).rows) == 2


@pytest.mark.parametrize(("accuracy", "dataset"), [
    ("cifar10-valid_x-valid", "cifar10"), ("ImageNet16-120_x-test", "imagenet16_120"),
    ("cifar100_test_top1", "cifar100")])
def test_accuracy_columns_of_nats_name_their_data_set(accuracy, dataset):
    assert get_search_space("nasbench201", accuracy=accuracy).dataset == dataset
