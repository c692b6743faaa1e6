"""A learned latency as an objective, as a limit, and in the expected improvement."""

import json

import numpy as np
import pytest
from scipy.special import ndtr

from evaluator.costs import CostModel
from evaluator.latency_model import KIND
from search.constraints import Constraints
from search.objectives import SpaceCosts, make_objectives
from search.selection import parse_constraints
from search.surrogate import Surrogate
from search_space import OFASearchSpace
from utils.errors import UserError

SPACE = OFASearchSpace(resolutions=[160, 192])


@pytest.fixture(scope="module")
def learned_file(tmp_path_factory):
    """A file of 40 networks whose latency follows their FLOPs, with an energy in half of them."""
    path = tmp_path_factory.mktemp("latency") / "pi.json"
    X = SPACE.draw(40, np.random.default_rng(0))
    flops = CostModel(SPACE).values(X, "flops")
    noise = np.exp(0.05 * np.random.default_rng(1).standard_normal(len(X)))
    rows = [{"arch": SPACE.decode(x), "ms": value / 20 * factor, "mj": value / 5}
            for x, value, factor in zip(X, flops, noise, strict=True)]
    path.write_text(json.dumps({
        "kind": KIND, "search_space": "mbv3", "width_mult": 1.0, "n_classes": 1000, "key": "ms",
        "measured": rows, "error": {"mape": 0.05}}))
    return path


def costs_of(path):
    return SpaceCosts(SPACE, luts={"pi": str(path)})


def test_it_is_an_objective_with_a_standard_deviation(learned_file):
    costs, X = costs_of(learned_file), SPACE.draw(30, np.random.default_rng(2))
    latency, energy = make_objectives("cpu@pi+mj@pi", costs)
    assert (latency.source, latency.unit, energy.unit) == ("learned", "ms", "mj")
    flops = CostModel(SPACE).values(X, "flops")
    assert np.abs(latency.values(X) / (flops / 20) - 1).mean() < 0.08
    assert np.abs(energy.values(X) / (flops / 5) - 1).mean() < 0.08
    assert costs.used_luts == {"pi": str(learned_file)} and costs.tables() == []
    assert "40 networks" in costs.learned_files()[0].describe()
    archive = SPACE.draw(30, np.random.default_rng(3))
    F = np.column_stack([np.random.default_rng(4).uniform(20, 30, 30), latency.values(archive)])
    surrogate = Surrogate(SPACE, [latency], "nngp", archive, F, 0)
    mean, std = surrogate.predict_std(X)
    assert np.array_equal(mean[:, 1], latency.values(X)) and (std[:, 1] > 0).all()
    assert np.array_equal(std[:, 1], latency.std_values(X))


def test_a_limit_may_ask_for_a_probability(learned_file):
    costs, X = costs_of(learned_file), SPACE.draw(300, np.random.default_rng(5))
    (latency,) = make_objectives("cpu@pi", costs)
    bound = float(np.median(latency.values(X)))
    within = {text: Constraints(text, [], costs_of(learned_file)).exact_violation(X) <= 0
              for text in (f"cpu@pi<={bound}", f"cpu@pi<={bound}:0.95", f"cpu@pi>={bound}:0.95")}
    plain, cautious, above = within.values()
    certain = ndtr((bound - latency.values(X)) / latency.std_values(X))
    assert (cautious == (certain >= 0.95)).all() and (above == (certain <= 0.05)).all()
    assert 0 < cautious.sum() < plain.sum()


@pytest.mark.parametrize(("text", "match"), [
    ("flops<=300:0.9", "only a learned latency"), ("top1>=75:0.9", "only a learned latency"),
    ("cpu@pi<=3:1.5", "between 0 and 1"), ("cpu@pi<=3:0", "between 0 and 1"),
    ("cpu@pi<=3:", "must be a number"), ("cpu@phone<=3", "cpu@pi")])
def test_bad_probabilities_are_one_line(learned_file, text, match):
    (latency,) = make_objectives("cpu@pi", costs_of(learned_file))
    with pytest.raises(UserError, match=match):
        Constraints(text, [latency], costs_of(learned_file))


def test_a_selection_takes_no_probability():
    with pytest.raises(UserError, match="of a search"):
        parse_constraints("cpu@pi<=3:0.9", "cpu@pi")


@pytest.mark.parametrize(("name", "match"), [
    ("kb@pi", "kb"), ("cpu@phone", "'phone'"), ("mj@phone", "'phone'")])
def test_a_figure_that_no_file_holds_is_one_line(learned_file, name, match):
    with pytest.raises(UserError, match=match):
        make_objectives(name, costs_of(learned_file))


@pytest.mark.parametrize("strategy", ["ehvi", "msunas"])
def test_a_search_holds_a_learned_limit(run_command, learned_file, tmp_path, strategy, shared_data):
    done = run_command(
        "msunas.py", "--evaluator", "oracle", "--oracle_path",
        shared_data / "ofa_mbv3_acc_predictor.pth", "--strategy", strategy, "--resolutions",
        "160", "192", "--lut", f"pi={learned_file}", "--sec_obj", "cpu@pi", "--constraint",
        "cpu@pi<=15:0.9", "--n_doe", 12, "--n_iter", 4, "--iterations", 1, "--n_gpus", 1,
        "--save", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    stats = json.loads((tmp_path / "run" / "iter_1.stats").read_text())
    X = SPACE.encode_many([row[0] for row in stats["archive"]])
    (latency,) = make_objectives("cpu@pi", costs_of(learned_file))
    assert [row[2] for row in stats["archive"]] == pytest.approx(latency.values(X).tolist())
    assert (latency.values(X) + 1.2816 * latency.std_values(X) <= 15.001).all()
