import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from search.run_folder import RunFolder
from tests.conftest import ROOT
from tests.visualization.runs import ITERATIONS, N_DOE, N_ITER, make_run
from utils.pareto import normalized_hypervolume
from visualization.data import read_run
from visualization.report import payload, write_report
from visualization.shapes import blocks_of

N = N_DOE + ITERATIONS * N_ITER


@pytest.fixture(scope="module")
def content(finished_run):
    return payload([read_run(finished_run)])["runs"][0]


def test_the_page_is_one_file_that_names_no_other(tmp_path, finished_run):
    write_report(tmp_path / "report.html", [finished_run])
    text = (tmp_path / "report.html").read_text("utf-8")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert len(text) < 5e6
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=\"(?!data:)", text)
    assert "<!--" not in text
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert json.loads(data[1])["runs"][0]["failures"][0]["error"] == "took more than 60 s <b>&"


def test_equal_runs_give_equal_pages(tmp_path, finished_run):
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, [finished_run])
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_columns_have_one_value_for_each_network(content):
    columns = [*content["values"], content["iteration"], content["arch"], content["vectors"],
               content["drawings"]["networks"], *content["figures"].values()]
    assert {len(column) for column in columns} == {N}


def test_the_curve_of_the_hypervolume_meets_what_the_search_wrote(content):
    curve = dict(zip(content["hv"]["n"], content["hv"]["value"], strict=True))
    for entry in content["history"]:
        assert curve[entry["n"]] == pytest.approx(entry["hv"], abs=1e-5)
    assert (np.diff(content["hv"]["value"]) >= 0).all()


def test_several_runs_share_one_reference_point(tmp_path, finished_run):
    other = make_run(tmp_path / "run b", seed=1)
    runs = [read_run(finished_run), read_run(other)]
    first, second = payload(runs)["runs"]
    assert first["hv"]["reference"] == second["hv"]["reference"]
    reference = np.array(first["hv"]["reference"])
    worst = np.vstack([run.F[:N_DOE] for run in runs]).max(axis=0)
    np.testing.assert_allclose(reference, 1.01 * worst, rtol=1e-4)
    assert second["hv"]["value"][-1] == pytest.approx(
        normalized_hypervolume(runs[1].F, reference), abs=1e-4)


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    folders = [make_run(tmp_path / name / "run", iterations=0) for name in ("a", "b")]
    names = [run["name"] for run in payload([read_run(f) for f in folders])["runs"]]
    assert names == [str(folder) for folder in folders]


def test_vectors_say_which_genes_are_used(content, finished_run):
    run = read_run(finished_run)
    for index in (0, 1, 7):
        depth = run.archs[index]["d"][0]
        assert content["vectors"][index][1:5].count(".") == 4 - depth
    assert [len(word) for word in content["vectors"]] == [46] * N


def test_genes_of_one_kind_stand_together(content):
    kinds = [group["name"].split()[-1] for group in content["groups"]]
    assert sorted(set(kinds), key=kinds.index) == [
        kind for kind, before in zip(kinds, [None, *kinds], strict=False) if kind != before]
    assert sum(len(group["genes"]) for group in content["groups"]) == 46


def test_correlations_find_what_costs(content):
    by_name = {row["name"]: row["values"] for row in content["genes"]}
    accuracy, cost = by_name["resolution"]
    assert cost > 0.3
    assert accuracy > 0.2


def test_what_was_recorded_is_summed(content):
    assert content["device_hours"] == pytest.approx(N * 36 / 3600)
    assert set(content["phases"]) == {0, 1, 2, 3}
    assert content["command"][1] == "msunas.py"
    assert "numpy" in content["versions"]


def test_blocks_are_grouped_in_stages(finished_run):
    run = read_run(finished_run)
    blocks = blocks_of(run.layers(1))  # the largest
    assert [block.stage for block in blocks] == \
        ["stem"] * 2 + [str(stage) for stage in range(1, 6) for _ in range(4)] + ["head"] * 3
    assert {block.label for block in blocks[2:22]} == {"6"}
    assert blocks[2].channels == 6 * 16
    assert blocks[-1].out_channels == 1000


def test_the_command_writes_the_report(run_command, tmp_path, finished_run):
    done = run_command("scripts/report.py", finished_run, "--save", tmp_path / "r.html")
    assert done.returncode == 0, done.stderr
    assert "1 run, " in done.stdout
    done = run_command("scripts/report.py", finished_run, "--watch", "1",
                       "--save", tmp_path / "w.html")  # nothing is running: it ends at once
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "w.html").exists()


def test_a_running_search_is_watched_until_it_ends(tmp_path, finished_run):
    run, page_ = tmp_path / "run", tmp_path / "r.html"
    shutil.copytree(finished_run, run)
    (run / "iter_3.stats").rename(tmp_path / "later")
    with RunFolder(run).lock():
        watcher = subprocess.Popen([sys.executable, "scripts/report.py", run, "--watch", "7",
                                    "--save", page_], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert "after iter_2" in watcher.stdout.readline()
        assert 'data-refresh="7"' in page_.read_text("utf-8")
        (tmp_path / "later").rename(run / "iter_3.stats")
        assert "after iter_3" in watcher.stdout.readline()
    assert watcher.communicate(timeout=60)[0].startswith(f"{page_}: 1 run")
    assert 'data-refresh="0"' in page_.read_text("utf-8")


def test_a_folder_without_a_search_is_one_line(fails_clearly, tmp_path):
    fails_clearly("scripts/report.py", tmp_path, match="no iter_<i>.stats")
