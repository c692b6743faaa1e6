import json
import re
import shlex
import shutil

import numpy as np
import pytest

from search.archive import read_stats
from tests.visualization.runs import ITERATIONS, N_DOE, N_ITER, SPACE, make_run, write_rescore
from utils.errors import UserError
from utils.files import write_json
from visualization.data import picks, read_run
from visualization.report import page, payload

N = N_DOE + ITERATIONS * N_ITER


def test_a_run_is_read_whole(finished_run):
    run = read_run(finished_run)
    assert run.name == "run a"
    assert run.F.shape == (N, 2)
    assert [axis.label for axis in run.axes] == ["top-1 error (%)", "FLOPs (millions)"]
    assert np.bincount(run.iteration).tolist() == [N_DOE] + [N_ITER] * ITERATIONS
    assert [entry.n_evaluated for entry in run.history] == [N_DOE, 35, 40, 45]
    assert run.history[0].predicted == []
    np.testing.assert_allclose(run.history[2].predicted, np.array(run.history[2].measured) + 0.1)
    assert run.figures[0]["params"] == 5.0
    assert run.figures[0]["resolution"] == run.archs[0]["r"]
    assert [(f["iteration"], f["index"], f["status"]) for f in run.failures] == [(1, 5, "timeout")]
    assert run.retries == ["iter_0/net_3: worker was killed"]
    assert run.layers(0)[-1].name == "classifier"


def test_an_earlier_iteration_can_be_read(finished_run):
    run = read_run(finished_run / "iter_1.stats")
    assert len(run.archs) == N_DOE + N_ITER
    assert [entry.number for entry in run.history] == [0, 1]


def test_a_file_of_the_original_is_read_without_settings(tmp_path, finished_run):
    stats = json.loads((finished_run / "iter_2.stats").read_text())
    own = {key: stats[key] for key in ("archive", "candidates", "hv", "surrogate")}
    write_json(tmp_path / "iter_2.stats", own)
    run = read_run(tmp_path)
    assert run.axes[1].key == "flops"
    assert run.stats.reference_point is None
    assert (run.iteration == 2).sum() == N_ITER
    assert "--supernet_path" not in run.command(0)


def test_picks_lie_on_the_front_and_keep_what_they_promise(finished_run):
    run = read_run(finished_run)
    knee, cheapest, best = picks(run)
    assert run.front[[knee.index, cheapest.index, best.index]].all()
    assert run.F[best.index, 0] == run.F[:, 0].min()
    near = run.F[run.F[:, 0] <= run.F[:, 0].min() + 1]
    assert run.F[cheapest.index, 1] == near[:, 1].min()
    # the knee: no point of the front is farther from the line between its ends
    front = run.F[run.front]
    front = front[np.argsort(front[:, 1])]
    scaled = (front - front.min(axis=0)) / np.ptp(front, axis=0)
    distance = (1 - scaled.sum(axis=1)) / np.sqrt(2)
    assert run.F[knee.index].tolist() == front[distance.argmax()].tolist()


def test_a_run_of_one_network_has_all_picks(tmp_path):
    run = read_run(make_run(tmp_path / "one", iterations=0, n_doe=2) / "iter_0.stats")
    assert {pick.name for pick in picks(run)} == {"knee", "cheapest near the best", "best"}


def test_commands_survive_a_shell(finished_run):
    words = shlex.split(read_run(finished_run).command(7))
    assert words[:2] == ["python", "post_search.py"]
    assert words[words.index("--supernet_path") + 1] == "data/ofa mbv3_w1.0"
    assert words[words.index("--pick") + 1] == "7"


def test_bad_input_is_one_line(tmp_path, finished_run):
    with pytest.raises(UserError, match=re.escape("no iter_<i>.stats")):
        read_run(tmp_path)
    stats = json.loads((finished_run / "iter_0.stats").read_text())
    stats["archive"][0][0]["ks"][0] = 4
    write_json(tmp_path / "iter_0.stats", stats)
    with pytest.raises(UserError, match=r"archive\[0\].*"):
        read_run(tmp_path)


def test_code_of_the_users_is_not_imported_by_reading_a_folder(tmp_path, finished_run, capsys):
    for name in ("settings.json", "iter_0.stats"):
        (tmp_path / name).write_bytes((finished_run / name).read_bytes())
    settings = json.loads((tmp_path / "settings.json").read_text())
    write_json(tmp_path / "settings.json", {**settings, "search_space": "antigravity:Space"})
    run = read_run(tmp_path)
    assert run.space is None
    assert run.layers(0) == []
    assert json.loads(run.describe(0)) == read_stats(tmp_path / "iter_0.stats").archive[0].arch
    assert "--search_space antigravity:Space" in capsys.readouterr().err


def test_vectors_are_those_of_the_space(finished_run):
    run = read_run(finished_run)
    assert (run.vectors[3] == SPACE.encode(run.archs[3])).all()


@pytest.mark.parametrize(("file", "key", "value"), [
    ("settings.json", "search_space", 5), ("settings.json", "n_classes", [1]),
    ("settings.json", "supernet_path", True), ("settings.json", "resolutions", "x:y"),
    ("settings.json", "resolutions", [32.5]), ("settings.json", "table", {"a": 1}),
    ("iter_3.stats", "surrogate", {"predicted": "abc"}),
    ("iter_3.stats", "surrogate", {"predicted_std": [None]})])
def test_values_of_another_type_are_refused(finished_run, tmp_path, file, key, value):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    write_json(run / file, {**json.loads((run / file).read_text()), key: value})
    with pytest.raises(UserError, match=re.escape(file)):
        page(payload([read_run(run)]))


@pytest.mark.parametrize("name", ["retries.log", "events.jsonl"])
def test_a_link_to_a_file_elsewhere_is_not_shown(finished_run, tmp_path, name):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to("/etc/hostname")
    with pytest.raises(UserError, match="a link"):
        read_run(run)


def test_accuracies_on_unseen_images_are_read(finished_run, tmp_path):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    hits = np.arange(100) < np.array([[90], [91], [60]])
    report = write_rescore(folder, [4, 2, 7], hits)
    (tmp_path / "run" / "selected" / report["networks"][2]["name"] / "net.subnet").unlink()
    run = read_run(folder)
    (rescore,) = run.rescores
    assert [network.index for network in rescore.networks] == [4, 2, None]
    assert [network.top1 for network in rescore.networks] == pytest.approx([90, 91, 60])
    assert [pair.distinct for pair in rescore.pairs] == [False, True]
    assert [run.figures[i].get("unseen_top1") for i in (4, 2, 7)] == [90, 91, None]


@pytest.mark.parametrize("text", [
    "", "[]", "{}", '{"images": 1, "n_images": "x", "networks": [], "neighbours": []}',
    '{"images": "a", "n_images": 1e999, "networks": [], "neighbours": []}',
    '{"images": "a", "n_images": 5, "networks": 3, "neighbours": []}',
    '{"images": "a", "n_images": 5, "networks": [{"name": "n", "top1": 1, "interval": [1]}],'
    ' "neighbours": []}'])
def test_a_damaged_record_of_rescore_is_named(finished_run, tmp_path, text):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    (folder / "selected").mkdir()
    (folder / "selected" / "rescore.json").write_text(text)
    with pytest.raises(UserError, match=r"selected/rescore\.json"):
        read_run(folder)
