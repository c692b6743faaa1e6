"""What a program that imports msunas_cli reads: errors without flags."""

import json

from tests.conftest import ROOT

START = f"""
import json, sys
sys.path.insert(0, {str(ROOT)!r})
from msunas_cli import (EvaluatorSpec, Search, SpaceCosts, UserError, get_engine,
                        get_search_space, make_objectives, plan_slots)
import evaluator.jobs.plan
evaluator.jobs.plan.visible_gpus = lambda: ("cuda", ["0"])
space = get_search_space("mbv3")
costs = SpaceCosts(space)
flops = make_objectives("flops", costs)
found = []
for code in json.loads(sys.argv[1]):
    try:
        found.append(str(eval(code)))
    except UserError as error:
        found.append(f"{{error}}")
print(json.dumps(found))
"""
MESSAGES = {
    'Search(space, flops, n_doe=10**9)': "choose fewer (n_doe, iterations, n_iter)",
    'Search(space, flops, constraints="flops<=1").ask()': "no architecture of the space",
    'make_objectives("cpu@pi", costs)': "add one: luts={'pi': FILE} of SpaceCosts",
    'get_search_space("table")': "needs a table, as table FILE, and the columns",
    'get_engine("local", EvaluatorSpec("ofa"), slots=[], ray_address="x")':
        "ray_address has no meaning with backend local",
    'plan_slots(2, 3, 1)': "lower gpus_per_job or raise n_gpus",
    'Search(space, flops, folder="thesis").run()': "without an engine",
    'Search(space, flops, folder="thesis").ask()': "not empty; choose another folder for the",
    'Search.open("thesis")': "not the folder of a search (no settings.json of one, no "
                             "iter_<i>.stats); name the folder of a search"}


def test_errors_name_arguments(tmp_path, run_command):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").touch()
    done = run_command("-c", START, json.dumps([*MESSAGES]), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for found, expected in zip(json.loads(done.stdout), MESSAGES.values(), strict=True):
        assert expected in found and "--" not in found
