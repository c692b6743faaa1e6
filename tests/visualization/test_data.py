import json
import re
import shlex
import shutil

import numpy as np
import pytest

from search.archive import arch_key, read_stats
from search.selection import front_within, trusted
from tests.visualization.runs import (
    ITERATIONS,
    N_DOE,
    N_ITER,
    SPACE,
    make_names_run,
    make_run,
    with_settings,
    write_rescore,
)
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


def test_picks_are_those_of_the_unseen_images(finished_run, tmp_path):
    """The search's figure favours the larger two; unseen images tell the small one apart."""
    folder = shutil.copytree(finished_run, tmp_path / "run")
    found = read_run(folder)
    small, middle, large = sorted(np.flatnonzero(found.front), key=lambda i: found.F[i, 1])[-3:]
    write_rescore(folder, [int(small), int(middle), int(large)],
                  np.arange(600) < np.array([[585], [571], [589]]))
    knee, cheapest, best = picks(read_run(folder))
    assert (cheapest.index, best.index) == (small, large)
    assert knee.index in (small, large), "the middle one is dominated on unseen images"
    (folder / "selected" / "rescore.json").unlink()
    assert picks(read_run(folder))[2].index == found.F[:, 0].argmin()


def test_no_pick_is_beyond_the_constraint_unless_all_are(finished_run, tmp_path):
    run = with_settings(shutil.copytree(finished_run, tmp_path / "run"), constraint="flops<=300")
    found = read_run(run)
    assert all(found.F[pick.index, 1] <= 300 for pick in picks(found))
    assert [(axis, limit.bound) for axis, limit in found.limits] == [(1, 300)]
    within = read_run(with_settings(run, constraint="top1>=84,params<=7"))
    assert [(axis, limit.bound) for axis, limit in within.limits] == [(0, 84)]
    assert all(within.F[pick.index, 0] <= 16 for pick in picks(within))
    assert picks(read_run(with_settings(run, constraint="flops<=1"))) == picks(
        read_run(with_settings(run, constraint=None)))
    with pytest.raises(UserError, match="constraint 'flops'"):
        payload([read_run(with_settings(run, constraint="flops"))])


def test_a_network_is_recommended_once_and_the_data_are_named(finished_run, tmp_path):
    run = with_settings(shutil.copytree(finished_run, tmp_path / "run"), data="my/pictures/")
    write_rescore(run, [4], np.arange(100)[None] < 90)
    (content,) = payload([read_run(run)])["runs"]
    (pick,) = content["picks"]
    assert (pick["index"], pick["names"]) == (4, ["knee", "cheapest near the best", "best"])
    title = re.search("<title>(.*)</title>", page({"runs": [content]}))
    assert title[1] == "Search report: run, data in pictures"


def test_the_command_of_a_received_run_is_quoted(finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    words = ["python", "msunas.py", "--constraint", "params<=7,flops<=400", "--save", "$(touch p)"]
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    (run / "events.jsonl").write_text("".join(
        json.dumps(line | ({"command": words} if line["event"] == "start" else {})) + "\n"
        for line in lines))
    (content,) = payload([read_run(run)])["runs"]
    assert shlex.split(content["command_line"]) == words
    assert "'params<=7,flops<=400' --save '$(touch p)'" in content["command_line"]


def test_genes_that_are_called_as_a_figure_keep_both(tmp_path):
    run = read_run(make_names_run(tmp_path))
    assert run.figures[5] == {"constructor": 2, "__proto__": 1, "top1_err": 5, "loss (gene)": 1,
                              "arch": "=1+1"}


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
    assert rescore.classes == [] and rescore.networks[0].by_class == []
    assert [run.figures[i].get("unseen_top1") for i in (4, 2, 7)] == [90, 91, None]


@pytest.mark.parametrize("text", [
    "", "[]", "{}", '{"images": 1, "n_images": "x", "networks": [], "neighbours": []}',
    '{"images": "a", "n_images": 1e999, "networks": [], "neighbours": []}',
    '{"images": "a", "n_images": 5, "networks": 3, "neighbours": []}',
    '{"images": "a", "n_images": 5, "networks": [{"name": "n", "top1": 1, "interval": [1]}],'
    ' "neighbours": []}',
    '{"images": "a", "n_images": 5, "classes": ["a", "b"], "networks": [{"name": "n", "top1": 1,'
    ' "interval": [1, 2], "by_class": [1]}], "neighbours": []}'])
def test_a_damaged_record_of_rescore_is_named(finished_run, tmp_path, text):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    (folder / "selected").mkdir()
    (folder / "selected" / "rescore.json").write_text(text)
    with pytest.raises(UserError, match=r"selected/rescore\.json"):
        read_run(folder)


def test_iterations_whose_files_were_removed_are_known_by_their_events(finished_run, tmp_path):
    """As in the folder of a large search, see `search.archive.remove_previous`."""
    folder, whole = tmp_path / "run", read_run(finished_run)
    shutil.copytree(finished_run, folder)
    (folder / "iter_2.stats").unlink()
    lines = [json.dumps({"event": "iteration", "iteration": entry.number, "seconds": {}, "hv":
                         entry.hv, "n_evaluated": entry.n_evaluated, "tau": 0.5, "winner": "rbf"})
             for entry in whole.history]
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n")
    run = read_run(folder)
    assert run.iteration.tolist() == whole.iteration.tolist()
    assert [(e.number, e.n_evaluated, e.hv, e.measured) for e in run.history] == [
        (e.number, e.n_evaluated, e.hv, e.measured) for e in whole.history]
    assert (run.history[2].predicted, run.history[2].surrogate["tau"]) == ([], 0.5)
    (folder / "events.jsonl").unlink()
    assert [entry.number for entry in read_run(folder).history] == [0, 1, 3]
    assert read_run(folder).n_initial == whole.n_initial
    assert page(payload([read_run(folder)]))


def test_the_front_and_the_picks_are_those_that_post_search_delivers(tmp_path):
    run = with_settings(make_run(tmp_path / "run", n_doe=100), vld_size=1000)
    assert payload([read_run(run)])["runs"][0]["expected"] is None
    found = read_run(with_settings(run, evaluator="ofa", strategy="ehvi"))
    believed, expected = trusted(found.stats.archive, found.vectors, found.space, 0, 1000)
    delivered = front_within(believed, [], "flops")
    assert {arch_key(found.archs[i]) for i in np.flatnonzero(found.front)} == {
        arch_key(record.arch) for record in delivered}
    measured = read_run(with_settings(run, strategy="msunas"))
    assert measured.expected is None
    assert (measured.front != found.front).any()
    best = picks(found)[2].index
    assert found.trusted[best, 0] == found.trusted[:, 0].min() > found.F[:, 0].min()
    content = payload([read_run(with_settings(run, strategy="ehvi"))])["runs"][0]
    errors, stds = content["expected"]
    assert [100 - errors[best], stds[best]] == pytest.approx(
        expected[arch_key(found.archs[best])], abs=1e-4)
    assert content["values"][0] == pytest.approx(found.F[:, 0])  # as measured
    # a limit on the accuracy holds for what is expected, too
    bound = float(np.median(100 - found.trusted[found.front, 0]))
    within = read_run(with_settings(run, constraint=f"top1>={bound}"))
    assert all(100 - within.trusted[pick.index, 0] >= bound for pick in picks(within))


def test_too_few_networks_for_a_model_are_chosen_as_measured(tmp_path):
    run = read_run(with_settings(make_run(tmp_path / "run", iterations=0, n_doe=3),
                                 evaluator="ofa", strategy="ehvi"))
    assert run.expected is None
    assert len(picks(run)) == 3
