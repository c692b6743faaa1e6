"""The evaluator of tables: figures of a row, clear refusals."""

import json
from pathlib import Path

import pytest

from evaluator import build_evaluator
from evaluator.table import TableEvaluator
from search_space import get_search_space
from tests.search_space.tables import write_cells, write_csv, write_graphs, write_table
from utils.errors import UserError

MAKERS = {"table": write_table, "nasbenchgraph": write_graphs, "nasbench201": write_cells}


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_every_row_is_answered_with_its_figures(tmp_path, name):
    options = MAKERS[name](tmp_path)
    space = get_search_space(name, **options)
    evaluator = build_evaluator("table", {"search_space": name, "space_options": options,
                                          "dataset": "imagenet", "data": None})
    top1 = evaluator.evaluate_many([space.decode(x) for x in space.rows])
    figure = {"nasbench201": "seconds"}.get(name, "latency_ms")
    for i in (0, len(space.rows) // 2, len(space.rows) - 1):
        stats = evaluator.evaluate(space.decode(space.rows[i]), batch_scale=0.5)
        assert json.loads(json.dumps(stats, allow_nan=False)) == stats
        assert stats["top1"] == top1[i] == evaluator.figures("top1")[i]
        assert stats[figure] == evaluator.figures(figure)[i]
        assert stats["evaluator"] == "table"
    assert top1.shape == (len(space.rows),)


def test_texts_are_no_figures(tmp_path):
    evaluator = TableEvaluator("table", write_table(tmp_path))
    stats = evaluator.evaluate(evaluator.space.decode(evaluator.space.rows[3]))
    assert "remark" not in stats and "op" not in stats
    with pytest.raises(UserError, match="remark"):
        evaluator.figures("remark")
    with pytest.raises(UserError, match="no column 'energy'"):
        evaluator.figures("energy")


def test_a_worker_tells_which_rows_it_has_read(tmp_path):
    (tmp_path / "moved").mkdir()
    options, moved = write_table(tmp_path), write_table(tmp_path / "moved")
    found = TableEvaluator("table", options).fingerprint()
    assert found and TableEvaluator("table", moved).fingerprint() == found
    path = Path(moved["table"])
    *rows, last = path.read_text().splitlines()
    path.write_text("\n".join([*rows, f"{last} "]) + "\n")
    assert TableEvaluator("table", moved).fingerprint() != found


def test_figures_of_the_benchmarks(shared_data):
    """Two cells and a network whose rows stand in the published files."""
    path = str(shared_data / "nasbench201_200epochs.csv.gz")
    arch = {"arch": "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+"
                    "|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"}
    for column, expected in (("cifar10_test_top1", 85.8633), ("imagenet16_120_test_top1", 26.6333)):
        evaluator = TableEvaluator("nasbench201", {"table": path, "accuracy": column})
        assert evaluator.evaluate(arch)["top1"] == expected
    path = str(shared_data / "nasbenchgraph_cora.csv.gz")
    evaluator = TableEvaluator("nasbenchgraph", {"table": path})
    stats = evaluator.evaluate({"links": "0000", "op1": "gat", "op2": "gat", "op3": "gat",
                                "op4": "gcn"})
    assert (stats["top1"], stats["latency_ms"], stats["params_m"]) == (77.2667, 5.64814, 1.736199)


@pytest.mark.parametrize(("name", "change", "match"), [
    ("mbv3", {}, "is no table"), ("table", {"accuracy": None}, "--accuracy"),
    ("table", {"accuracy": "best"}, "no column 'best'"),
    ("table", {"accuracy": "remark"}, "'note', which is no number"),
    ("nasbench201", {"table": None, "accuracy": None}, "--table FILE"),
    ("nasbench201", {"accuracy": "cifar100_test_top1"}, "no column 'arch'")])
def test_what_cannot_be_looked_up_is_refused(tmp_path, name, change, match):
    with pytest.raises(UserError, match=match):
        TableEvaluator(name, {**write_table(tmp_path), **change})


def test_architectures_without_a_row_are_refused(tmp_path):
    evaluator = TableEvaluator("table", write_table(tmp_path))
    for arch in ({}, {"depth": 9, "rate": 0.1, "width": 8, "op": "conv"}, None):
        with pytest.raises(UserError):
            evaluator.evaluate(arch)


def test_accuracies_are_percent(tmp_path):
    path = write_csv(tmp_path / "t.csv", ["a", "top1"], [[1, 50], [2, 101]])
    with pytest.raises(UserError, match="'101', not an accuracy"):
        TableEvaluator("table", {"table": str(path), "genes": "a", "accuracy": "top1"})
    path = write_csv(tmp_path / "t.csv", ["a", "top1"], [[1, 0.5], [2, 0.9]])
    with pytest.raises(UserError, match="as if they were fractions; multiply them by 100"):
        TableEvaluator("table", {"table": str(path), "genes": "a", "accuracy": "top1"})
