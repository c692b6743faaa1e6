import argparse
import csv
import io
import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import post_search
from cli import printers
from data_providers import DataProvider
from search import selection
from search.archive import Record, Stats, objectives, write_stats
from search.baseline import TEST, VALIDATION, Baseline, write_baselines
from search.finished import read_finished, read_settings
from search.subnets import check_targets, make_targets
from search_space import OFASearchSpace
from tests.visualization.runs import make_names_run
from utils.errors import UserError
from utils.locks import locked
from utils.pareto import non_dominated

SPACE = OFASearchSpace()
# The front, by cost: (30, 90) (20, 100) (13, 120) (12, 200) (10, 300); (25, 110) is dominated.
POINTS = [(10.0, 300.4), (25.0, 110.0), (12.0, 200.0), (30.0, 90.0), (20.0, 100.0), (13.0, 120.0)]
COSTS = [90.0, 100.0, 120.0, 200.0, 300.4]


def make_records(points):
    archs = SPACE.initialize(max(len(points), 2), rng=np.random.default_rng(0))
    return [Record(arch, *point) for arch, point in zip(archs, points, strict=False)]


def choose(points=POINTS, n=1, prefer=None, constraint=None, sec_obj="flops"):
    front = selection.front_within(make_records(points),
                                     selection.parse_constraints(constraint, sec_obj),
                                     sec_obj)
    wanted = selection.parse_preference(prefer, sec_obj)
    return [front[i] for i in selection.select(front, n, wanted, sec_obj)]


def costs(records):
    return [record.sec_obj for record in records]


# --------------------------------------------------------------------------------- golden choices


def test_the_front_is_sorted_by_cost():
    assert costs(selection.front_within(make_records(POINTS), [], "flops")) == COSTS


@pytest.mark.parametrize(("prefer", "n", "expected"), [
    # max(error / 20, cost / 150): 1.5, 1, 0.8, 1.33, 2.0
    ("top1#80+flops#150", 1, [120.0, 300.4]),
    ("flops#150+top1#80", 1, [120.0, 300.4]),
    (" top1 #80 + flops# 150", 2, [100.0, 120.0, 300.4]),
    ("top1#80+flops#150", 3, [100.0, 120.0, 200.0, 300.4]),
    # max(error / 10, cost / 300.4): the most accurate is the one wished for
    ("top1#90+flops#300.4", 1, [300.4]),
    # at an error of 13 the front has 120
    ("top1#87", 1, [120.0, 300.4]),
    # at a cost of 100 the front has an error of 20
    ("flops#100", 1, [100.0, 300.4]),
    ("top1#80+flops#150", 99, COSTS)])
def test_preferences_by_hand(prefer, n, expected):
    assert costs(choose(n=n, prefer=prefer)) == expected


@pytest.mark.parametrize("prefer", [None, "None", "none"])
def test_without_preferences_the_knee_is_chosen(prefer):
    # Scaled to 0..1, (13, 120) loses most for any gain.
    assert costs(choose(n=1, prefer=prefer)) == [120.0, 300.4]


@pytest.mark.parametrize(("constraint", "expected"), [
    ("flops<=200", [200.0]), ("flops<200", [120.0]), ("flops<=300,top1>=75", [200.0]),
    ("top1>=75 , flops <= 100", [100.0]), ("top1<=75", [90.0])])
def test_the_best_within_limits_is_always_chosen(constraint, expected):
    assert costs(choose(n=1, prefer="flops#1", constraint=constraint))[-1:] == expected


@pytest.mark.parametrize(("sec_obj", "name"), [
    ("params", "params"), ("cpu", "cpu"), ("gpu", "gpu"), ("gpu64", "gpu64"), ("gpu64", "gpu")])
def test_every_objective_is_matched_by_name(sec_obj, name):
    chosen = choose(n=1, prefer=f"{name}#150+top1#80", constraint=f"{name}<=250", sec_obj=sec_obj)
    assert costs(chosen) == [120.0, 200.0]


@pytest.mark.parametrize("text", ["top1", "top1#", "top1#x", "top1#-1", "top1#nan", "top1#inf", "",
                                  "top1#101", "top1#80+", "top1#80+top1#70", "params#5", "#5"])
def test_malformed_preferences_are_refused(text):
    with pytest.raises(UserError, match="--prefer"):
        selection.parse_preference(text, "flops")


@pytest.mark.parametrize("text", ["", "flops", "flops=3", "flops<=", "flops<=x", "flops<=300,",
                                  "params<=3", "<=3"])
def test_malformed_constraints_are_refused(text):
    with pytest.raises(UserError, match="constraint"):
        selection.parse_constraints(text, "flops")


def test_a_folder_that_would_not_be_read_is_refused(search_folder, fails_clearly, tmp_path):
    """The images of the digits are in a package; those of --data would not be read."""
    fails_clearly("post_search.py", "--expr", search_folder, "--save", tmp_path / "out",
                  "--supernet_path", "W", "--dataset", "digits", "--data", tmp_path,
                  match="would not be read, the images of digits are part of scikit-learn")
    with pytest.raises(UserError, match="--data pictures: would not be read"):
        DataProvider.of(argparse.Namespace(dataset="digits", data="pictures", typed={"data"}), 0)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(UserError, match="'params'; this search has top1, flops"):
        selection.parse_preference("top1#80+params#5", "flops")
    with pytest.raises(UserError, match="'params'; this search has top1, gpu64"):
        selection.parse_constraints("params<=5", "gpu64")


def test_limits_that_nothing_meets_say_what_there_is():
    with pytest.raises(UserError, match=r"has 5, from top1 70.00 at 90 to top1 90.00 at 300.4"):
        choose(constraint="flops<=50")


def test_the_limits_of_the_search_hold_where_none_are_typed(search_folder, run_command,
                                                            fails_clearly):
    """The search's own last candidates may miss what is known only when it has been measured."""
    def listed(limit: str, *flags: str) -> list[float]:
        (search_folder / "settings.json").write_text(json.dumps({"constraint": limit}))
        done = run_command("post_search.py", "--expr", search_folder, "--list", "--format", "json",
                           *flags)
        assert done.returncode == 0, done.stderr
        assert "every network" not in done.stderr
        return [row["flops"] for row in json.loads(done.stdout)]

    assert listed("params<=1000") == listed("flops<=400") == [90, 100, 120, 200, 300.4]
    assert listed("flops<=120") == listed("flops<=120:0.9,params<=5") == [90, 100, 120]
    assert listed("flops<=120", "--constraint", "flops<=200") == [90, 100, 120, 200]
    (search_folder / "settings.json").write_text(json.dumps({"constraint": "flops<=1"}))
    fails_clearly("post_search.py", "--expr", search_folder, "--list",
                  match="within the search's flops<=1 (--constraint 'top1>=0'")


@pytest.mark.parametrize(("values", "sec_obj", "expected"), [
    ([312.34], "flops", ["net-flops@312"]), ([15.21], "cpu", ["net-cpu@15.2"]),
    ([1234.5], "flops", ["net-flops@1234"]), ([5.478], "params", ["net-params@5.48"]),
    ([312.12, 312.34], "flops", ["net-flops@312.1", "net-flops@312.3"]),
    ([0.0], "gpu64", ["net-gpu64@0.00"])])
def test_folders_are_named_after_the_objective(values, sec_obj, expected):
    assert selection.folder_names(values, sec_obj) == expected


# ------------------------------------------------------------------------------------- properties

LEVELS = st.floats(0, 100).map(lambda v: round(v, 1))


@settings(max_examples=200, deadline=None)
@given(points=st.lists(st.tuples(LEVELS, LEVELS.map(lambda v: v * 7)), min_size=1, max_size=15),
       n=st.integers(1, 20), top1=LEVELS | st.none(), cost=LEVELS | st.none())
def test_what_is_chosen_is_non_dominated_and_has_the_most_accurate(points, n, top1, cost):
    parts = [f"{name}#{value}" for name, value in (("top1", top1), ("flops", cost))
             if value is not None]
    chosen = choose(points, n, "+".join(parts) or None)
    F = objectives(chosen)
    everything = np.array(points)
    assert non_dominated(F).all()
    assert F[:, 0].min() == everything[:, 0].min()
    n_front = non_dominated(everything).sum()
    assert min(n, n_front) <= len(chosen) <= min(n + 1, n_front)
    for point in F:
        assert not ((everything <= point).all(axis=1) & (everything < point).any(axis=1)).any()
    assert len(set(selection.folder_names(F[:, 1], "flops"))) == len(chosen)


# ----------------------------------------------------------------------------------- command line


@pytest.fixture
def search_folder(tmp_path):
    """A search of the original's kind: no settings, and the objective is not stated."""
    folder = tmp_path / "a search"
    records = make_records(POINTS)
    write_stats(folder / "iter_9.stats", Stats(records[:2], records[:2], 0.5))
    write_stats(folder / "iter_10.stats", Stats(records, records[:2], 0.7))
    return folder


def test_list_prints_the_latest_front_and_writes_nothing(search_folder, run_command):
    before = sorted(search_folder.rglob("*"))
    done = run_command("post_search.py", "--expr", search_folder, "--list", "-n", 1)
    assert done.returncode == 0, done.stderr
    header, *rows = [line.split() for line in done.stdout.splitlines()]
    assert header[:3] == ["top1", "top1_err", "flops"]
    assert [float(row[2]) for row in rows] == [90, 100, 120, 200, 300.4]
    assert [row[-1] for row in rows if row[-1].startswith("net-")] == ["net-flops@120",
                                                                        "net-flops@300"]
    assert sorted(search_folder.rglob("*")) == before


def test_networks_can_be_picked_by_their_number(search_folder, run_command, fails_clearly):
    command = ("post_search.py", "--expr", search_folder, "--list", "--format", "json", "--pick")
    rows = json.loads(run_command(*command, "1,0,1").stdout)  # 1 is not on the front
    assert [row["flops"] for row in rows] == [110.0, 300.4]
    assert [row["chosen"] for row in rows] == ["net-flops@110", "net-flops@300"]
    fails_clearly(*command, "6", match="holds networks 0..5")


def test_list_in_json_and_csv_agree(search_folder, run_command):
    command = ("post_search.py", "--expr", search_folder / "iter_10.stats", "--sec_obj", "cpu",
               "--list", "--constraint", "cpu<=200", "--format")
    as_json = json.loads(run_command(*command, "json").stdout)
    as_csv = list(csv.DictReader(io.StringIO(run_command(*command, "csv").stdout)))
    assert [row["cpu"] for row in as_json] == [90, 100, 120, 200]
    assert [float(row["cpu"]) for row in as_csv] == [90, 100, 120, 200]
    assert [json.loads(row["arch"]) for row in as_csv] == [row["arch"] for row in as_json]


def test_nothing_of_a_received_search_runs_in_a_terminal_or_a_spreadsheet(tmp_path, capsys):
    rows = [{"top1": 80.5, "\x1b[2J": "\x1b]0;pwned\x07", "@sum": "=cmd|' /C calc'!A0",
             "cost": -3.25, "note": "-1+1", "arch": {"op": "=1"}}]
    printers.print_text(rows)
    assert capsys.readouterr().out.splitlines()[0].split() == [
        "top1", r"\x1b[2J", "@sum", "cost", "note"]
    printers.print_text(rows)
    assert "\x1b" not in capsys.readouterr().out
    printers.print_csv(rows)
    head, cells = csv.reader(io.StringIO(capsys.readouterr().out))
    assert head[2] == "'@sum"
    assert cells[2:] == ["'=cmd|' /C calc'!A0", "-3.25", "'-1+1", '{"op": "=1"}']
    write_stats(tmp_path / "iter_0.stats", Stats(*2 * [make_records(POINTS)], 0.5))
    (tmp_path / "settings.json").write_text(json.dumps({"search_space": "a:\x1b[31mb"}))
    read_finished(tmp_path)
    assert "\x1b" not in capsys.readouterr().err


def test_genes_that_are_called_as_a_column_replace_none(tmp_path, capsys):
    run = make_names_run(tmp_path)
    run_post_search("--expr", run, "--pick", "3", "--list", "--format", "json")
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["top1_err"], row["top1_err (gene)"]) == (47.0, 3)
    assert (row["error"], row["iteration"], row["constructor"]) == (103.0, 27.0, 0)
    assert row["arch"]["arch"] == row["arch (gene)"] == "=1+1"
    (row,) = post_search.table_rows([Record({"a": 1}, 20.0, 7.0)], "top1_err", {}, None)
    assert (row["top1_err"], row["top1_err (objective)"]) == (20.0, 7.0)


def test_listing_loads_no_torch(search_folder, run_command):
    code = ("import sys, post_search; post_search.main(post_search.get_args_parser().parse_args("
            "sys.argv[1:])); assert 'torch' not in sys.modules")
    done = run_command("-c", code, "--expr", search_folder, "--list")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("arguments", "match"), [
    (["--prefer", "top1:80"], "write objective#value"),
    (["--prefer", "params#80"], "this search has top1, flops"),
    (["--constraint", "flops<=1"], "no network of the front"),
    (["-n", "0"], "must be 1 or more"),
    (["--sec_obj", "../x"], "no name of a second objective"),
    ([], "--supernet_path is needed"),
    (["--supernet_path", "missing"], "missing: no such checkpoint")])
def test_bad_requests_fail_clearly(search_folder, fails_clearly, tmp_path, arguments, match):
    fails_clearly("post_search.py", "--expr", search_folder, "--save", tmp_path / "out",
                  *arguments, match=match)
    assert not (tmp_path / "out").exists()


def test_limits_in_another_unit_are_named(search_folder, run_command):
    done = run_command("post_search.py", "--expr", search_folder, "--list", "--constraint",
                       "flops<=300000000,top1>=0.75,top1<=85")
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "warning: constraint flops<=3e+08: every network of the search is within it; flops is in "
        "millions", "warning: constraint top1>=0.75: every network of the search is within it; "
        "top1 is in percent"]


@pytest.mark.parametrize(("content", "match"), [
    (None, "no such stats file"), ("", "empty"), ("<html>", "HTML"), ("{", "truncated"),
    ('{"archive": []}', "'candidates' is missing")])
def test_bad_stats_files_fail_clearly(tmp_path, fails_clearly, content, match):
    if content is not None:
        (tmp_path / "iter_1.stats").write_text(content)
    fails_clearly("post_search.py", "--expr", tmp_path / "iter_1.stats", "--list", match=match)


def test_a_folder_that_holds_another_network_is_left_alone(tmp_path):
    first, second = make_records(POINTS)[:2]
    folder = tmp_path / "net-flops@300"
    folder.mkdir()
    (folder / "net.subnet").write_text(json.dumps(first.arch))
    check_targets(make_targets(tmp_path, [folder.name], [first], None))
    with pytest.raises(UserError, match="holds another network"):
        check_targets(make_targets(tmp_path, [folder.name], [second], None))


def test_the_flag_goes_before_what_the_search_stored():
    args = SimpleNamespace(supernet_path="mine", dataset=None, data=None, n_classes=None,
                           download=False, typed={"supernet_path"})
    stored = {"supernet_path": "w", "dataset": "digits", "seed": 3, "n_classes": 10}
    resolved = post_search.resolve(args, stored)
    assert (resolved["supernet_path"], resolved["dataset"], resolved["seed"]) == (
        "mine", "digits", 3)
    assert resolved["n_classes"] is None
    assert post_search.resolve(args, {**stored, "evaluator": "oracle"})["dataset"] is None


# ------------------------------------------------------------------------------- writing networks

REBUILD = """
import json, sys, torch
from networks import build_from_config, load_weights, read_config
config = read_config(sys.argv[1] + "/net.config")
net = build_from_config(config).eval()
load_weights(net, sys.argv[1] + "/net.inherited")
r = config["resolution"]
with torch.inference_mode():
    print(json.dumps(net(torch.linspace(-1, 1, 3 * r * r).reshape(1, 3, r, r))[0].tolist()))
"""


@pytest.fixture(scope="module")
def digits_search(tmp_path_factory):
    """A finished search on the digits over a small random supernet, of real evaluations."""
    import torch

    from evaluator.accuracy import SupernetEvaluator
    from networks import build_supernet, save_weights

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("a search of digits")
    supernet = folder / "ofa_w0.35"
    torch.manual_seed(0)
    save_weights(build_supernet(10, 0.35, dropout=0.0), supernet)
    options = {"supernet_path": str(supernet), "dataset": "digits", "seed": 5, "n_epochs": 0}
    evaluator = SupernetEvaluator.from_options(options)
    archs = OFASearchSpace(resolutions=[32, 36]).sample(3, d=[2], e=[3, 4],
                                                         rng=np.random.default_rng(1))
    measured = [evaluator.evaluate(arch) for arch in archs]
    records = [Record(arch, 100 - stats["top1"], stats["flops"])
               for arch, stats in zip(archs, measured, strict=True)]
    write_stats(folder / "search" / "iter_1.stats", Stats(records, records, 0.5, sec_obj="flops"))
    (folder / "search" / "settings.json").write_text(json.dumps({**options, "n_gpus": 0}))
    return SimpleNamespace(folder=folder / "search", records=records, evaluator=evaluator,
                           supernet=supernet)


def run_post_search(*flags):
    post_search.main(post_search.get_args_parser().parse_args([*map(str, flags)]))


def test_chosen_networks_repeat_their_accuracy_and_logits(digits_search, tmp_path, capsys,
                                                          run_command):
    import torch

    import validation
    from networks import load_checkpoint

    save = tmp_path / "chosen ones"
    run_post_search("-n", 9, "--expr", digits_search.folder, "--save", save, "--format", "json")
    rows = json.loads(capsys.readouterr().out)
    assert sorted(row["chosen"] for row in rows) == sorted(path.name for path in save.iterdir())
    recorded = {json.dumps(record.arch): record for record in digits_search.records}
    for row in rows:
        net = save / row["chosen"]
        assert sorted(path.name for path in net.iterdir()) == ["hub", "net.config",
                                                               "net.inherited", "net.subnet"]
        assert json.loads((net / "net.subnet").read_text()) == row["arch"]
        record = recorded[json.dumps(row["arch"])]
        validation.main(validation.get_args_parser().parse_args([
            "--dataset", "digits", "--split", "valid", "-j", "0", "--device", "cpu", "--model",
            str(net / "net.config"), "--pretrained", str(net / "net.inherited")]))
        result = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert result["top1_err"] == pytest.approx(record.top1_err, abs=1e-6)
        assert (result["flops"], result["resolution"]) == (record.sec_obj, record.arch["r"])
        assert result["transform"] == "squash"
    subnet, r = digits_search.evaluator.calibrated(rows[0]["arch"]), rows[0]["resolution"]
    with torch.inference_mode():
        expected = subnet(torch.linspace(-1, 1, 3 * r * r).reshape(1, 3, r, r))[0].tolist()
    written = load_checkpoint(save / rows[0]["chosen"] / "net.inherited")
    assert all(written[key].equal(value) for key, value in subnet.state_dict().items())
    done = run_command("-c", REBUILD, save / rows[0]["chosen"])
    assert json.loads(done.stdout) == pytest.approx(expected, abs=1e-4), done.stderr


def test_rescoring_measures_on_the_test_images(digits_search, tmp_path, capsys):
    import validation

    save = tmp_path / "chosen"
    run_post_search("-n", 9, "--expr", digits_search.folder, "--save", save, "--format", "json",
                    "--rescore")
    captured = capsys.readouterr()
    rows = json.loads(captured.out)
    report = json.loads((save / "rescore.json").read_text())
    assert report["n_images"] == 600
    assert [each["name"] for each in report["networks"]] == [row["chosen"] for row in rows]
    for row, each in zip(rows, report["networks"], strict=True):
        low, high = each["interval"]
        assert low <= each["top1"] <= high
        assert each["top1"] == pytest.approx(row["unseen_top1"], abs=1e-3)
        labels = digits_search.evaluator.provider.images("test").targets
        assert np.average(each["by_class"], weights=np.bincount(labels)) == pytest.approx(
            each["top1"])
    assert report["classes"] == [*"0123456789"]
    assert len(report["neighbours"]) == len(rows) - 1
    for pair in report["neighbours"]:
        assert pair["distinct"] == (pair["p_value"] < 0.05)
        assert ("cannot be told apart" in captured.err) or pair["distinct"]
    net = save / rows[0]["chosen"]
    validation.main(validation.get_args_parser().parse_args([
        "--dataset", "digits", "-j", "0", "--device", "cpu", "--model", str(net / "net.config"),
        "--pretrained", str(net / "net.inherited")]))
    measured = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert measured["top1"] == pytest.approx(report["networks"][0]["top1"], abs=1e-6)
    card = (net / "hub" / "README.md").read_text()
    assert f"| test images | 600 | {measured['top1']:.2f} % |" in card
    assert "place on the front | 1 of" in card
    pairs = [line for line in captured.err.splitlines() if " against " in line]
    assert f"Unseen images: {pairs[0]}." in card
    assert card.count("Unseen images: ") == 1
    middle = (save / rows[1]["chosen"] / "hub" / "README.md").read_text()
    assert all(f"Unseen images: {pair}." in middle for pair in pairs[:2])
    assert "python msunas.py" in card
    run_post_search("-n", 1, "--expr", digits_search.folder, "--save", save)
    assert not (save / "rescore.json").exists()  # of other networks; the cards say nothing of it


def test_a_baseline_is_compared_in_the_table_and_the_cards(digits_search, tmp_path, capsys):
    network = Baseline("a net alone", {"flops": 31.3}, {VALIDATION: 82.5, TEST: 81.0},
                       {VALIDATION: 300, TEST: 600})
    write_baselines(tmp_path / "b.json", [network])
    save = tmp_path / "chosen"
    run_post_search("-n", 1, "--expr", digits_search.folder, "--save", save, "--format", "json",
                    "--rescore", "--baseline", tmp_path / "b.json")
    *rows, last = json.loads(capsys.readouterr().out)
    assert rows and all(row["chosen"].startswith("net-flops") for row in rows)
    assert {**rows[0], **last} == last, "the same columns"
    assert (last["chosen"], last["top1"], last["unseen_top1"], last["flops"], last["arch"]) == (
        "a net alone", 82.5, 81.0, 31.3, None)
    for row in rows:
        card = (save / row["chosen"] / "hub" / "README.md").read_text()
        assert f"For comparison: {network.line()}." in card


def test_rescoring_is_refused_where_the_search_saw_the_test_images(digits_search, tmp_path):
    seen = tmp_path / "seen"
    write_stats(seen / "iter_1.stats", Stats(digits_search.records, [], 0.5, sec_obj="flops"))
    (seen / "settings.json").write_text(json.dumps({
        "supernet_path": str(digits_search.supernet), "dataset": "digits", "n_epochs": 0,
        "n_gpus": 0, "test": True}))
    with pytest.raises(UserError, match="scored on the test images"):
        run_post_search("--expr", seen, "--save", tmp_path / "out", "--rescore")
    assert not (tmp_path / "out").exists()
    (seen / "settings.json").unlink()
    with pytest.raises(UserError, match="give --dataset"):
        run_post_search("--expr", seen, "--save", tmp_path / "out", "--rescore",
                        "--supernet_path", digits_search.supernet)


def test_scores_tell_networks_apart_where_the_images_do():
    from evaluator.rescore import Scores

    rng = np.random.default_rng(0)
    draw = rng.random(1000)
    scores = Scores(["a", "b", "c"], np.array([draw < 0.8, draw < 0.802, draw < 0.95]))
    same, better = scores.report()["neighbours"]
    assert not same["distinct"]
    assert better["distinct"]
    assert better["points"] == pytest.approx(14.8, abs=3)
    lines = scores.lines()
    assert lines[-1].startswith("c against b: +")
    assert lines[-1].endswith("told apart")
    assert lines[-2].endswith("cannot be told apart")


def test_the_old_naming_holds_the_same_network(digits_search, tmp_path, capsys):
    import torch

    from networks import build_from_config, load_weights, read_config

    for name, flags in (("new", []), ("old", ["--old_naming"])):
        run_post_search("--expr", digits_search.folder, "--save", tmp_path / name, *flags)
    folders = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert folders == sorted(path.name for path in (tmp_path / "old").iterdir())
    old, new = (tmp_path / name / folders[0] for name in ("old", "new"))
    assert "mobile_inverted_conv" in (old / "net.config").read_text()
    keys = torch.load(old / "net.inherited", weights_only=True)["state_dict"]
    assert any("mobile_inverted_conv" in key for key in keys)
    states = []
    for folder in (old, new):
        net = build_from_config(read_config(folder / "net.config"))
        load_weights(net, folder / "net.inherited")
        states.append(net.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])


def test_without_a_data_set_the_supernets_statistics_are_kept(digits_search, tmp_path, capsys):
    from networks import cut_subnet, load_checkpoint, load_supernet

    write_stats(tmp_path / "iter_1.stats", Stats(digits_search.records, [], 0.5))
    run_post_search("--expr", tmp_path, "--save", tmp_path / "out", "--n_classes", 10,
                    "--supernet_path", digits_search.supernet)
    assert "keeps the supernet's batch-norm statistics" in capsys.readouterr().err
    folder = min((tmp_path / "out").iterdir())
    arch = json.loads((folder / "net.subnet").read_text())
    expected = cut_subnet(load_supernet(digits_search.supernet), arch).state_dict()
    written = load_checkpoint(folder / "net.inherited")
    assert all(written[key].equal(value) for key, value in expected.items())


def test_a_second_run_repeats_the_files_and_spares_those_of_others(digits_search, tmp_path, capsys):
    flags = ("--expr", digits_search.folder, "--save", tmp_path / "out")
    run_post_search(*flags)
    files = {path: path.read_bytes() for path in (tmp_path / "out").rglob("net.*")}
    run_post_search(*flags)
    assert files == {path: path.read_bytes() for path in (tmp_path / "out").rglob("net.*")}
    subnet = next(path for path in files if path.name == "net.subnet")
    subnet.write_text(json.dumps(OFASearchSpace(resolutions=[64]).extremes()[0]))
    with pytest.raises(UserError, match="holds another network"):
        run_post_search(*flags)


def test_other_weights_are_said_and_leave_no_older_folder_for_timm(digits_search, tmp_path, capsys):
    flags = ("--expr", digits_search.folder, "--save", tmp_path / "out")
    run_post_search(*flags)
    run_post_search(*flags)
    assert "replaced by" not in capsys.readouterr().err
    hubs = [*(tmp_path / "out").glob("net-*/hub/config.json")]
    write_stats(tmp_path / "iter_1.stats", Stats(digits_search.records, [], 0.5))
    run_post_search("--expr", tmp_path, "--save", tmp_path / "out", "--n_classes", 10,
                    "--supernet_path", digits_search.supernet)
    assert "net.inherited: replaced by other weights than before" in capsys.readouterr().err
    assert hubs and not any(hub.exists() for hub in hubs)


def test_two_selections_do_not_write_into_one_folder(digits_search, tmp_path):
    with locked(tmp_path / post_search.LOCK, "it"), \
            pytest.raises(UserError, match=r"in use by another process .*; choose another --save"):
        run_post_search("--expr", digits_search.folder, "--save", tmp_path)
    assert not [*tmp_path.glob("net-*")]


class Malice:
    """Unpickles by creating a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_supernet_that_carries_code_is_refused(digits_search, tmp_path):
    with open(tmp_path / "ofa_w1.0", "wb") as file:
        pickle.dump(Malice(tmp_path / "created"), file)
    with pytest.raises(UserError, match=r"ofa_w1\.0: carries code"):
        run_post_search("--expr", digits_search.folder, "--save", tmp_path / "out",
                        "--supernet_path", tmp_path / "ofa_w1.0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ofa_w1.0"]


@pytest.mark.parametrize("settings", [{"seed": "x"}, {"dataset": 3}, {"n_workers": True}])
def test_damaged_settings_are_refused(search_folder, settings):
    (search_folder / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"settings\.json: .* must be of type"):
        read_settings(search_folder)
    with pytest.raises(UserError, match="must be of type"):
        run_post_search("--expr", search_folder, "--supernet_path", "w")


def test_networks_are_not_written_through_a_link(search_folder, tmp_path):
    first = read_finished(search_folder).stats.archive[0]
    (name,) = selection.folder_names([first.sec_obj], "flops")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / "elsewhere")
    args = post_search.get_args_parser().parse_args(
        ["--expr", str(search_folder), "--save", str(tmp_path / "out"), "--pick", "0"])
    with pytest.raises(UserError, match="a link"):
        post_search.main(args)
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(("flags", "match"), [
    (("--pick", "0", "--constraint", "top1>=99", "-n", 2), "-n, --constraint: have no meaning"),
    (("--pick", "0", "--prefer", "top1#99"), "--prefer: has no meaning next to --pick"),
    (("--list", "--rescore"), "--rescore: has no meaning next to --list")])
def test_flags_that_would_do_nothing_are_refused(fails_clearly, search_folder, flags, match):
    fails_clearly("post_search.py", "--expr", search_folder, *flags, match=match)
