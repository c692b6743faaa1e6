"""The search in a notebook: its folder opened again, as a table, as figures, as HTML."""

import json
import re
import sys
from types import SimpleNamespace

import pytest

from evaluator.jobs import EvaluatorSpec
from search import Failure, Progress, Record, SpaceCosts, make_objectives
from search.archive import read_stats
from search.run_folder import SETTINGS
from search.settings import ONLY_IN_PYTHON
from search_space import OFASearchSpace
from tests.search.engines import direct
from tests.search.evaluators import Formula
from tests.search.runs import EVALUATOR
from tests.search.toy import Baker, Cakes
from utils import errors
from utils.errors import UserError
from visualization.notebook import Search, draw, plot_front, plot_progress

SPACE = Cakes()
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def program(monkeypatch):
    """Messages are those for a program that imports msunas_cli."""
    monkeypatch.setattr(errors, "_for_programs", True)


def cakes(objectives="energy", **options):
    options = {"n_doe": 8, "iterations": 2, "n_iter": 3, "engine": direct(Baker().evaluate)} \
        | options
    return Search(SPACE, make_objectives(objectives, SpaceCosts(SPACE), reported=True),
                  progress=Progress(quiet=True), **options)


class Known:
    """An engine that names its evaluator, as that of `get_engine` does."""

    spec = EvaluatorSpec(EVALUATOR, {})

    def run(self, jobs):
        return direct(Formula().evaluate).run(jobs)


def networks(folder, **options):
    space = options.pop("space", OFASearchSpace())
    costs = SpaceCosts(space, **options.pop("costs", {}))
    options = {"engine": Known(), "n_doe": 52, "iterations": 2, "n_iter": 4} | options
    return Search(space, make_objectives("flops", costs), costs=costs, folder=folder,
                  progress=Progress(quiet=True), **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook") / "run"
    search = networks(folder)
    search.run()
    return folder, search


@pytest.mark.parametrize(("changed", "match"), [
    ({"seed": 1}, "seed is 1, was 0"), ({"n_doe": 60}, "n_doe is 60, was 52"),
    ({"costs": {"width_mult": 1.2}}, "width_mult is 1.2, was 1.0"),
    ({"strategy": "random"}, "strategy is random, was msunas"),
    ({"space": OFASearchSpace([224])}, "resolutions is 224, was 192,196"),
    ({"engine": direct(Formula().evaluate)}, "evaluator is outside, was tests"),
    ({"constraints": "flops<=900"}, "constraint")])
def test_a_cell_with_other_settings_is_refused_in_the_same_folder(finished, program, changed,
                                                                  match):
    folder, search = finished
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    other = networks(folder, **changed)
    for step in (Search.ask, Search.run, Search.ask):
        with pytest.raises(UserError, match=match) as error:
            step(other)
        assert "--" not in str(error.value)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    again = networks(folder)
    again.run()
    assert again.archive == search.archive


def test_a_folder_of_other_files_is_refused(tmp_path, program):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="not empty; choose another folder for the search"):
        networks(tmp_path).run()


def test_a_folder_is_opened_by_its_name(finished):
    folder, search = finished
    opened = Search.open(folder)
    assert (opened.archive, opened.history()) == (search.archive, search.history())
    assert len(opened.history()) == 3 and opened.history()[2].tau is not None
    assert opened.ask() is None and opened.front() == search.front()
    with pytest.raises(UserError, match="no search to resume"):
        Search.open(folder / "elsewhere")


def test_an_unfinished_folder_is_opened_and_finished(finished, tmp_path):
    networks(tmp_path, iterations=1).ask()
    assert Search.open(tmp_path).archive == []
    networks(tmp_path, iterations=1).run()
    stored = json.loads((tmp_path / SETTINGS).read_text())
    (tmp_path / SETTINGS).write_text(json.dumps({**stored, "iterations": 2}))
    opened = Search.open(tmp_path, Known())
    opened.progress.quiet = True
    opened.run()
    assert opened.archive == finished[1].archive


def test_msunas_resumes_selects_and_reports_a_notebooks_search(finished, tmp_path, run_command):
    networks(tmp_path / "run", iterations=1).run()
    done = run_command("msunas.py", "--resume", tmp_path / "run", "--iterations", 2, "--evaluator",
                       EVALUATOR, "--cpu_workers", 1)
    assert done.returncode == 0, done.stderr
    assert read_stats(tmp_path / "run/iter_2.stats").archive == finished[1].archive
    done = run_command("post_search.py", "--expr", tmp_path / "run", "--list")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/report.html").exists()


def test_a_search_that_was_told_is_resumed_by_its_program_alone(tmp_path, fails_clearly):
    cakes(folder=tmp_path, engine=None).ask()
    fails_clearly("msunas.py", "--resume", tmp_path,
                  match="only it can resume it: it has evaluated the architectures itself")


@pytest.mark.parametrize(("changed", "reason"), [
    ({"engine": None}, "evaluated the architectures itself"),
    ({"seed": 3}, "its evaluator has the seed 0, the search 3"),
    ({"strategy": type("Own", (Cakes,), {"__module__": "__main__", "needs_std": False,
                                         "default_predictor": None, "name": "own"})()},
     "its strategy is defined in the program, __main__:Own")])
def test_why_msunas_cannot_resume_is_stored(tmp_path, changed, reason):
    search = networks(tmp_path, **changed)
    search.ask()
    assert reason in json.loads((tmp_path / SETTINGS).read_text())[ONLY_IN_PYTHON]


def test_msunas_resumes_what_was_told_before_once_it_is_in_the_archive(tmp_path):
    search = networks(tmp_path)
    known = OFASearchSpace().extremes()
    search.tell_known(known, [Formula().evaluate(arch) for arch in known])
    assert "told what had been measured" in json.loads(search.folder.settings.read_text())[
        ONLY_IN_PYTHON]
    search.iterations = 0
    search.run()
    networks(tmp_path, iterations=0).ask()
    assert ONLY_IN_PYTHON not in json.loads(search.folder.settings.read_text())


def test_code_that_a_folder_names_must_be_named(tmp_path, program):
    search = cakes(folder=tmp_path)
    search.run()
    name = "tests.search.toy:Cakes"
    with pytest.raises(UserError, match=f"give it again: search_space='{name}'"):
        Search.open(tmp_path)
    opened = Search.open(tmp_path, search_space=name)
    assert opened.archive == search.archive and opened.objectives[0].source == "reported"


# ------------------------------------------------------------------------------ tables and figures


def test_columns_are_objectives_and_genes(finished, monkeypatch):
    _, search = finished
    columns = search.columns()
    assert list(columns)[:4] == ["top1_err", "flops", "front", "stage 1: depth"]
    assert {len(column) for column in columns.values()} == {60} and len(columns) == 3 + 46
    assert columns["flops"] == [record.sec_obj for record in search.archive]
    assert sum(columns["front"]) == len(search.front())
    for i, arch in enumerate(search.archs):
        assert columns["stage 1: depth"][i] == arch["d"][0]
        assert columns["stage 1, layer 3: kernel"][i] == (
            arch["ks"][2] if arch["d"][0] > 2 else None)
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=dict, __spec__=True))
    assert search.to_frame() == columns
    monkeypatch.setitem(sys.modules, "pandas", None)


def test_a_table_needs_pandas(finished, monkeypatch):
    monkeypatch.setattr("utils.packages.is_installed", lambda module: module != "pandas")
    with pytest.raises(UserError, match="needs the package pandas, which is not installed; run: "
                                        "pip install pandas"):
        finished[1].to_frame()


def test_figures_are_shown_by_jupyter_and_need_no_pyplot(finished):
    _, search = finished
    figures = [plot_front(search), plot_progress(search),
               draw(*(record.arch for record in search.front()[:2]))]
    assert all(figure._repr_png_().startswith(PNG) for figure in figures)
    front, progress, _ = (figure.axes for figure in figures)
    assert front[0].get_title().startswith("60 evaluated, hypervolume 0.")
    assert progress[0].lines[0].get_xdata().tolist() == [52, 56, 60]
    assert "matplotlib.pyplot" not in sys.modules


def test_a_maximised_objective_is_drawn_as_it_is():
    search = cakes("sweetness:max")
    search.run()
    lines = {line.get_label(): line for line in plot_front(search).axes[0].lines}
    points = set(zip(lines["front"].get_xdata(), lines["front"].get_ydata(), strict=True))
    assert points == {(record.sec_obj, record.top1_err) for record in search.front()}
    assert min(search.columns()["sweetness"]) >= 1


def test_what_a_cell_shows_is_the_front_escaped():
    search = cakes(engine=None)
    assert search._repr_html_() == "<p>Search in tests.search.toy:Cakes: 0 evaluated</p>"
    for function in (plot_front, plot_progress):
        with pytest.raises(UserError, match="evaluated nothing yet"):
            function(search)
    batch = search.ask()
    search.tell(batch, [Failure("failed", ""), *(Record(arch, 30.0 - i, 1.0 + i)
                                                 for i, arch in enumerate(batch.archs[1:]))])
    assert repr(search) == "Search in tests.search.toy:Cakes: 7 evaluated, 7 on the front"
    search.space = SimpleNamespace(name="<b>", describe=lambda arch: "<script>&")
    shown = search._repr_html_()
    assert "&lt;script&gt;&amp;" in shown and "<script" not in shown
    assert "&lt;b&gt;" in shown and "<b>" not in shown
    assert len(re.findall("<tr>", shown)) == 1 + 7 and 'src="data:image/png;base64,' in shown


def test_draw_needs_an_architecture():
    with pytest.raises(UserError, match="draw needs an architecture"):
        draw()
    assert draw(SPACE.decode(SPACE.lower), space=SPACE).axes[0].texts
