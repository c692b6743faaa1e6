"""Problems of EvoXBench as search spaces, on a miniature of its data in its own schema."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from evaluator import build_evaluator
from search.archive import read_stats
from search_space import check_arch, get_search_space, name_of
from tests.conftest import ROOT
from tests.evaluator.evoxbench_data import INPUT_TO_OUTPUT, ONE_VERTEX
from utils.errors import UserError
from utils.registry import names_code

pytestmark = pytest.mark.skipif(
    find_spec("evoxbench") is None,
    reason="needs evoxbench, which has an environment of its own (requirements-peers.txt)")
MOBILE, GRAPHS = "evoxbench:in1kmop7", "evoxbench:c10mop1"
PROPOSED = [1] * 21 + [0, 1, 2, 0, 1]  # 21 edges, which NAS-Bench-101 lacks


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The environment of a user who has the data; the package is set up by it, once a process."""
    folder = tmp_path_factory.mktemp("evoxbench")
    subprocess.run([sys.executable, str(ROOT / "tests/evaluator/evoxbench_data.py"), str(folder)],
                   check=True, capture_output=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder / "home"))
        yield dict(os.environ)


@pytest.fixture(params=[MOBILE, GRAPHS])
def space(request, home):
    return get_search_space(request.param)


def test_it_keeps_the_contract_of_a_space(space):
    X = np.random.default_rng(0).integers(space.lower, space.upper, (200, space.n_var),
                                          endpoint=True)
    canonical = space.canonical(X)
    np.testing.assert_array_equal(space.canonical(canonical), canonical)
    assert (canonical >= space.lower).all() and (canonical <= space.upper).all()
    assert len(space.genes) == space.n_var == len({gene.name for gene in space.genes})
    for x, expected in zip(X, canonical, strict=True):
        arch = space.decode(x)
        np.testing.assert_array_equal(space.encode(arch), expected)
        assert check_arch(arch, space) == arch
    assert name_of(space) == space.name and not names_code(space.name)


def test_a_skipped_block_comes_last_in_its_stage(home):
    space = get_search_space(MOBILE)
    x = np.array([0, *[1, 2, 0, 5] * 5])
    assert space.canonical(x[None])[0].tolist() == [0, *[1, 2, 5, 0] * 5]
    depths = space.problem.search_space.decode(space.canonical(x[None]))[0]["d"]
    assert depths == [3] * 5


def test_every_graph_is_one_of_nas_bench_101(home):
    from evoxbench.benchmarks.nb101 import NASBench101Graph

    space = get_search_space(GRAPHS)
    X = np.vstack([PROPOSED, [0] * 26, space.draw(100, np.random.default_rng(1))])
    for arch in space.problem.search_space.decode(space.canonical(X)):
        assert NASBench101Graph(**arch).is_valid()
    kept = space.canonical(np.array([INPUT_TO_OUTPUT, ONE_VERTEX]))
    edges, expected = kept[:, :21].sum(axis=1).tolist(), [1, 3]
    assert edges == expected, "what is in the benchmark stays what it is"


@pytest.mark.parametrize("x", ["a list", [0, 1], [0.5] * 21, [9] * 21, None])
def test_what_is_no_vector_of_the_problem_is_refused(home, x):
    with pytest.raises(UserError):
        get_search_space(MOBILE).encode({"x": x})


def test_noise_depends_on_the_seed_and_the_architecture_alone(home):
    space = get_search_space(MOBILE)
    archs = space.sample(20, rng=np.random.default_rng(2))
    first, again, other = (build_evaluator("evoxbench", {"search_space": MOBILE, "seed": seed})
                           for seed in (0, 0, 1))
    before = np.random.get_state()[1].tolist()
    found = [first.evaluate(arch) for arch in archs]
    assert [again.evaluate(arch) for arch in archs[::-1]] == found[::-1]
    assert np.random.get_state()[1].tolist() == before
    assert [other.evaluate(arch) for arch in archs] != found
    assert found[0].keys() == {"top1", "params", "evaluator"}
    true = 100 * (1 - np.array([stats["err"] for stats in space.problem.evaluator.evaluate(
        space.problem.search_space.decode(space.encode_many(archs)), true_eval=True)]))
    assert 0 < np.abs(true - [stats["top1"] for stats in found]).max() < 1


def test_figures_and_the_hypervolume_of_rows_of_the_database(home):
    evaluator = build_evaluator("evoxbench", {"search_space": GRAPHS})
    space = evaluator.space
    X = space.canonical(np.array([INPUT_TO_OUTPUT, ONE_VERTEX]))
    stats = [evaluator.evaluate(space.decode(x)) for x in X]
    assert [one["params"] for one in stats] == [10, 1000]
    assert stats[0]["top1"] in (pytest.approx(48), pytest.approx(52))
    assert evaluator.names == ["params"]
    # test errors 0.5 and 0.1; the true front spans 0..1 and 0..2000 parameters
    assert evaluator.hypervolume(X) == pytest.approx(0.9 * 0.5 + 0.5 * (0.5 - 0.005))
    with pytest.raises(Exception, match="does not exist"):
        evaluator.evaluate(space.decode(np.array(PROPOSED)))


@pytest.mark.slow
def test_a_search_is_run_and_resumed_by_its_problem_alone(home, run_command, tmp_path):
    def search(folder, *flags):
        done = run_command("msunas.py", *flags, env=home)
        assert done.returncode == 0, done.stderr
        return [(record.arch, record.top1_err, record.values)
                for record in read_stats(folder / "iter_2.stats").archive]

    words = ("--search_space", MOBILE, "--sec_obj", "params", "--strategy", "ehvi", "--n_doe", 6,
             "--n_iter", 2, "--cpu_workers", 1)
    whole = search(tmp_path / "a", *words, "--iterations", 2, "--save", tmp_path / "a")
    run_command("msunas.py", *words, "--iterations", 1, "--save", tmp_path / "b", env=home)
    assert search(tmp_path / "b", "--resume", tmp_path / "b", "--iterations", 2) == whole
    assert len(whole) == 10
    chosen = run_command("post_search.py", "--expr", tmp_path / "a", "-n", 2, "--save",
                         tmp_path / "chosen", env=home)
    assert chosen.returncode == 0, chosen.stderr
    assert next((tmp_path / "chosen").glob("*/net.subnet")).exists()


@pytest.mark.parametrize(("flags", "match"), [
    (("--search_space", "evoxbench:in1kmop12"), "they are c10mop1 to c10mop9, in1kmop1"),
    (("--search_space", "evoxbench:c10mop8"), "data are needed.*valid_acc_predictor"),
    (("--search_space", MOBILE, "--sec_obj", "flops"), "has params besides the accuracy"),
    (("--evaluator", "evoxbench"), "needs --search_space evoxbench:PROBLEM, not mbv3")])
def test_what_a_problem_cannot_do_is_one_line(home, run_command, tmp_path, flags, match):
    done = run_command("msunas.py", *flags, "--save", tmp_path / "s", env=home)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert re.search(match, done.stderr.splitlines()[-1])


@pytest.mark.slow
def test_the_table_of_problems(home, run_command, tmp_path):
    done = run_command("benchmarks/evox.py", "--problems", "in1kmop7", "--strategies", "random",
                       "ehvi", "--seeds", "0-1", "--budgets", 42, 50, "--workers", 1, "--save",
                       tmp_path / "evoxbench.md", env=home)
    assert done.returncode == 0, done.stderr
    rows = [line for line in (tmp_path / "evoxbench.md").read_text().splitlines()
            if line.startswith("| in1kmop7")]
    assert len(rows) == 2 and all("0.8596 | 0.8954 | 0.9198" in row for row in rows)
    assert all(" ± " in row for row in rows)
