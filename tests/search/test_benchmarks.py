"""The benchmarks of search quality and of the price of a front, on curves that are there."""

import json
import sys

import numpy as np
import pytest

from search import Progress, Search, SpaceCosts, make_objectives
from search.comparison import evaluations_to, mean_and_error
from search.strategies import STRATEGIES
from search_space import get_search_space
from tests.conftest import ROOT
from tests.search.engines import direct

sys.path.insert(0, str(ROOT / "benchmarks"))
from peers import PROPOSALS, BudgetSpentError, Counter
from quality import (
    BENCHMARKS,
    BUDGETS,
    PEERS,
    TEXTBOOK,
    against_others,
    against_textbook,
    curves_of,
    report,
    seeds_of,
    strategy_of,
)
from warm_start import saved


@pytest.fixture
def curves(tmp_path):
    """A folder with two seeds of one strategy: a straight line to 0.40, and to 0.38."""
    lines = {f"mbv3/ehvi/{seed}": (0.3 + (np.array(BUDGETS) - 60) / 280 * gain).tolist()
             for seed, gain in ((10, 0.10), (11, 0.08))}
    lines["mbv3/random/10"] = [0.3] * len(BUDGETS)
    (tmp_path / "quality.json").write_text(json.dumps({"curves": lines}))
    return tmp_path


def test_the_price_is_the_product_of_both_factors(curves, run_command):
    done = run_command("benchmarks/price.py", curves / "quality.json", "--seconds", 12, 8,
                       "--save", curves / "price.md")
    assert done.returncode == 0, done.stderr
    row = next(line for line in (curves / "price.md").read_text().splitlines() if "ehvi" in line)
    strategy, seeds, needed, fewer, _, cheaper, spent, both = (
        cell.strip() for cell in row.strip("|").split("|"))
    assert (strategy, seeds, cheaper) == ("ehvi", "2", "1.50")
    exact = 60 + 280 * (0.3614 - 0.3) / 0.09
    assert int(needed) == np.ceil(exact)
    assert float(fewer) == pytest.approx(340 / exact, abs=0.02)
    assert float(both) == pytest.approx(340 * 12 / (float(needed) * 8), abs=0.01)
    assert int(spent) == int(needed) * 8
    assert "more than 340" in done.stdout, "random search never gets there"


def test_where_a_curve_reaches_a_value():
    curve = np.linspace(0, 7, len(BUDGETS))
    assert evaluations_to(0.0, BUDGETS, curve) == 60
    assert evaluations_to(1.5, BUDGETS, curve) == 120
    assert evaluations_to(7.1, BUDGETS, curve) is None


def test_curves_that_are_known_are_not_computed_again(curves, run_command):
    done = run_command("benchmarks/quality.py", curves / "no data", "--strategies", "ehvi",
                       "--seeds", "10-11", "--save", curves)
    assert done.returncode == 0, done.stderr
    text = (curves / "quality.md").read_text()
    assert "| ehvi | 2 | 0.3000 ± 0.0000 |" in text and "0.3900 ± 0.0100" in text
    assert (curves / "quality_mbv3.png").stat().st_size > 1000


def test_missing_data_is_said_at_once(curves, fails_clearly):
    fails_clearly("benchmarks/quality.py", curves, "--benchmarks", "mbv3", "resnet50", "--save",
                  curves, match="lacks ofa_mbv3_acc_predictor.pth, ofa_resnet50_acc_predictor.pth")


def test_seeds_are_one_or_a_range_and_errors_those_of_the_mean():
    assert seeds_of("7") == [7] and seeds_of("10-12") == [10, 11, 12]
    mean, error = mean_and_error(np.array([[1.0, 2.0], [3.0, 2.0]]))
    assert mean.tolist() == [2, 2] and error.tolist() == [1, 0]
    assert mean_and_error(np.array([[1.0]]))[1].tolist() == [0]
    assert not curves_of({"curves": {"other/ehvi/1": [0.0]}}, "mbv3")


@pytest.mark.parametrize("name", sorted({*BENCHMARKS} - {  # one of each kind of table is enough
    f"graph-{name}-params" for name in ("arxiv", "computers", "cs")}))
def test_every_benchmark_starts(name, shared_data):
    benchmark = BENCHMARKS[name]
    search = benchmark.search(shared_data, "ehvi", seed=0)
    search.iterations, search.n_doe = 0, 12
    search.run()
    assert len(search.archive) == 12
    assert (search.F < benchmark.reference).all(axis=1).any()
    assert "ehvi" in STRATEGIES


def test_the_textbook_has_a_column_of_its_own():
    curves = {f"mbv3/{column}/10": [value] * len(BUDGETS)
              for column, value in (("ehvi", 0.4), (TEXTBOOK, 0.3))}
    found = curves_of({"curves": curves}, "mbv3")
    assert {column: values[0, 0] for column, values in found.items()} == {"ehvi": 0.4,
                                                                          TEXTBOOK: 0.3}
    assert strategy_of(TEXTBOOK).std_scale == 1
    assert strategy_of("ehvi").std_scale < 1


def test_ehvi_is_compared_with_the_best_other_and_with_the_textbooks_on_the_same_seeds():
    n = len(BUDGETS)
    known = {"curves": {
        "mbv3/ehvi/1": [0.30] * n, "mbv3/ehvi/2": [0.32] * n, "mbv3/ehvi/3": [0.34] * n,
        f"mbv3/{TEXTBOOK}/2": [0.31] * n, f"mbv3/{TEXTBOOK}/3": [0.31] * n,
        "mbv3/msunas/1": [0.25] * n, "mbv3/msunas/2": [0.27] * n,
        f"mbv3/{PEERS[0]}/1": [0.35], "mbv3/random/1": [0.20] * n}}
    row = against_others(known).splitlines()[-1]
    error = np.hypot(0.02 / 3**0.5, 0.01)  # of three and of two seeds
    assert row.startswith("| mbv3 | 3 | -0.0300 (")
    assert row.count(f"| +0.0600 ({0.06 / error:+.1f}) msunas") == n - 1, "a peer that was cut"
    assert against_textbook(known).splitlines()[-1] == "| mbv3 | 2 | " + " | ".join(
        ["+200.0 ± 100.0"] * n) + " |"


def test_a_curve_that_was_cut_leaves_cells_empty():
    known = {"curves": {f"mbv3/{PEERS[0]}/{seed}": [0.1, 0.2][:length]
                        for seed, length in ((1, 2), (2, 2))}}
    assert np.isnan(curves_of(known, "mbv3")[PEERS[0]][:, 2:]).all()
    row = next(line for line in report(known).splitlines() if PEERS[0] in line)
    assert row == f"| {PEERS[0]} | 2 | 0.1000 ± 0.0000 | 0.2000 ± 0.0000 |" + "  |" * 6


def test_a_peer_pays_once_for_an_architecture_and_ends():
    space = get_search_space("nasbench201")
    search = Search(space, make_objectives("flops", SpaceCosts(space)), "random", n_doe=2,
                    engine=direct(lambda arch: {"top1": 50.0}), progress=Progress(0, quiet=True))
    evaluate = Counter(search, budget=2)
    first = evaluate(space.lower)
    assert evaluate(space.lower).tolist() == first.tolist() and len(evaluate.X) == 1
    assert first[0] == 50 and first[1] == search.objectives[0].values(space.lower[None])[0]
    for _ in range(2 * PROPOSALS - 2):
        assert not evaluate.done
        evaluate(space.lower)
    assert evaluate.done, "a peer that proposes the same for ever"
    with pytest.raises(BudgetSpentError):
        evaluate(space.lower)


def test_layers_that_a_tracer_takes_compute_what_timms_do():
    import timm
    import torch
    from fastnas import traceable

    net = timm.create_model("tf_efficientnet_lite0", num_classes=4).eval()
    images = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        expected = net(images)
        torch.testing.assert_close(traceable(net)(images), expected)
    assert not {"Conv2dSame", "BatchNormAct2d"} & {type(part).__name__ for part in net.modules()}


def test_what_a_warm_start_saves():
    from warm_start import BUDGETS as NEW

    cold = np.linspace(0, 1, len(NEW))
    assert saved(cold, cold + 1) == str(NEW[0])
    assert saved(cold, cold) == str(NEW[-1])
    assert saved(cold, cold - 0.1) == f"more than {NEW[-1]}"
