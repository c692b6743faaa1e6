"""How a search on a table is compared with the whole table."""

import numpy as np
import pytest

from evaluator.table import TableEvaluator
from search.objectives import SpaceCosts, make_objectives
from search.strategies import Task
from search.strategies.msunas import MSuNAS, best_predicted
from search.table_report import table_report, true_values
from search_space.base import rows_in, unique_rows
from tests.search_space.tables import write_cells, write_table
from utils.errors import UserError
from utils.pareto import hypervolume, non_dominated, reference_point


@pytest.fixture
def evaluator(tmp_path):
    return TableEvaluator("table", write_table(tmp_path))


def objectives_of(evaluator, text):
    return make_objectives(text, SpaceCosts(evaluator.space), reported=True)


def test_the_whole_table_leaves_nothing_to_find(evaluator):
    objectives = objectives_of(evaluator, "latency_ms")
    report = table_report(evaluator, objectives, true_values(evaluator, objectives))
    assert (report.share, report.regret, report.n_found) == (1, 0, report.n_front)
    assert "100.00 % of the true front" in str(report)


def test_a_part_of_the_table(evaluator):
    objectives = objectives_of(evaluator, "latency_ms")
    whole = true_values(evaluator, objectives)
    front = whole[non_dominated(whole)]
    part = np.vstack([front[::2], whole[:5]])
    report = table_report(evaluator, objectives, part)
    reference = reference_point(front)
    assert report.share == hypervolume(part, reference) / hypervolume(front, reference) < 1
    assert report.regret == pytest.approx(part[:, 0].min() - whole[:, 0].min())
    assert len(front[::2]) <= report.n_found < report.n_front == len(front)


def test_a_front_of_one_point_is_measured_in_the_box_of_the_whole_table(evaluator, monkeypatch):
    objectives = objectives_of(evaluator, "latency_ms")
    whole = np.array([[40.0, 9.0], [20.0, 3.0], [30.0, 5.0]])
    monkeypatch.setattr("search.table_report.true_values", lambda *_: whole)
    report = table_report(evaluator, objectives, whole[2:])
    box = np.array([40.4, 9.09])
    assert report.share == pytest.approx(np.prod(box - [30, 5]) / np.prod(box - [20, 3]))
    assert "0 of its 1 point;" in str(report) and report.share > 0.2


def test_maximised_and_counted_objectives(tmp_path, evaluator):
    whole = true_values(evaluator, objectives_of(evaluator, "latency_ms:max"))
    assert (whole[:, 1] < 0).all()
    cells = TableEvaluator("nasbench201", write_cells(tmp_path))
    whole = true_values(cells, objectives_of(cells, "flops+seconds"))
    assert whole.shape == (200, 3) and whole[:, 1].max() > 100
    with pytest.raises(UserError, match="energy"):
        true_values(evaluator, objectives_of(evaluator, "energy"))


def test_the_paper_s_strategy_compares_a_whole_table(evaluator):
    space, objectives = evaluator.space, objectives_of(evaluator, "latency_ms")
    whole = true_values(evaluator, objectives)
    known = np.arange(len(whole)) % 5 == 0

    class Truth:
        def predict(self, X):
            order = {row.tobytes(): i for i, row in enumerate(space.rows)}
            return whole[[order[x.tobytes()] for x in np.asarray(X, dtype=np.int64)]]

    task = Task(space, space.rows[known], whole[known], space.rows[known], Truth())
    chosen = MSuNAS().propose(task, 6, np.random.default_rng(0))
    assert len(unique_rows(chosen)) == 6 and not rows_in(chosen, space.rows[known]).any()
    candidates = best_predicted(task, task.fresh(space.rows))
    assert rows_in(chosen, candidates).all()
    front = space.rows[~known][non_dominated(whole[~known])]
    assert rows_in(front, candidates).all() and len(candidates) < 100
