"""The search as an object: stepped in memory, in a folder, constrained, with several objectives."""

import json
import re

import numpy as np
import pytest

from evaluator.latency import LookUpTable
from search import Failure, Progress, Record, Search, SpaceCosts, Strategy, Task, make_objectives
from search import archive as archives
from search.constraints import Constraints, initial_sample
from search.run_folder import RunFolder
from search.runner import foreign_tables, make_parts, print_plan
from search.settings import DEFAULT_LUT, contradictions, resolve
from search_space import OFASearchSpace
from tests.data_providers import layouts
from tests.search.engines import direct
from tests.search.evaluators import top1
from tests.search.toy import Baker, Cakes
from tests.search_space.tables import write_cells, write_table
from utils.errors import UserError

SPACE = OFASearchSpace()


def formula(arch):
    return {"top1": top1(SPACE, arch)}


def make(sec_obj="flops", **options):
    options = {"n_doe": 52, "iterations": 2, "n_iter": 4, "engine": direct(formula),
               "costs": SpaceCosts(SPACE)} | options
    return Search(SPACE, make_objectives(sec_obj, options["costs"]),
                  progress=Progress(0, quiet=True), **options)


def test_ask_and_tell_are_what_run_does():
    ran, stepped = make(), make()
    ran.run()
    while (batch := stepped.ask()) is not None:
        again = stepped.ask()
        np.testing.assert_array_equal(batch.X, again.X)
        values = stepped.objectives[0].values(batch.X)
        stepped.tell(batch, [Record(arch, 100 - formula(arch)["top1"], float(value))
                             for arch, value in zip(batch.archs, values, strict=True)])
    assert stepped.archive == ran.archive and len(ran.archive) == 60
    assert ran.front() == stepped.front()


def test_a_search_in_a_folder_goes_on_from_there(tmp_path):
    make(folder=tmp_path / "a").run()
    half = make(folder=tmp_path / "b", iterations=1)
    half.run()
    rest = make(folder=tmp_path / "b")
    rest.run()
    assert (tmp_path / "a/iter_2.stats").read_bytes() == (tmp_path / "b/iter_2.stats").read_bytes()


def test_each_architecture_is_encoded_once():
    """A search keeps the vectors of its archive: 100 + 10 x 24 evaluations."""
    n_calls = 0

    class Counting(OFASearchSpace):
        def encode(self, arch):
            nonlocal n_calls
            n_calls += 1
            return super().encode(arch)

    space = Counting()
    search = Search(space, make_objectives("flops", SpaceCosts(space)), engine=direct(formula),
                    iterations=10, n_iter=24, progress=Progress(quiet=True))
    search.run()
    assert len(search.archive) == 340 and n_calls <= 340
    np.testing.assert_array_equal(search.X, SPACE.encode_many(search.archs))


def test_failures_are_told_and_a_batch_without_a_result_is_an_error():
    search = make(engine=None)
    batch = search.ask()
    outcomes = [Failure("failed", "no"), *(Record(a, 30.0, 100.0 + i)
                                           for i, a in enumerate(batch.archs[1:]))]
    iteration = search.tell(batch, outcomes)
    assert len(iteration.failures) == 1 and search.failed == batch.archs[:1]
    with pytest.raises(UserError, match="all 4 evaluations of iteration 1 failed"):
        search.tell(search.ask(), [Failure("failed", "no")] * 4)
    with pytest.raises(UserError, match="without an engine"):
        search.run()


def test_random_search_has_no_surrogate():
    search = make(strategy="random")
    search.run()
    assert len({json.dumps(arch) for arch in search.archs}) == 60


def test_a_uniform_sample_leaves_the_extremes_out():
    rng = np.random.default_rng(0)
    X = initial_sample(SPACE, 300, rng, uniform=True)
    assert len(np.unique(X, axis=0)) == 300
    smallest, largest = (SPACE.encode(arch) for arch in SPACE.extremes())
    assert not ((X == smallest).all(1) | (X == largest).all(1)).any()
    with_extremes = initial_sample(SPACE, 300, np.random.default_rng(0))
    assert (with_extremes[0] == smallest).all() and (with_extremes[1] == largest).all()


# ------------------------------------------------------------------------------- many objectives


def test_three_counted_objectives_are_all_exact():
    search = make("flops+params")
    search.run()
    assert search.F.shape == (60, 3)
    costs = SpaceCosts(SPACE)
    X = search.X
    for column, name in enumerate(("flops", "params"), 1):
        np.testing.assert_array_equal(search.F[:, column], costs.counted(name)(X))


def test_two_tables_are_two_objectives(tmp_path):
    space = OFASearchSpace(resolutions=[32])
    tables = {}
    for tag, scale in (("pi", 3.0), ("server", 1.0)):
        tables[tag] = tmp_path / f"{tag}.yaml"
        layers = {layer.key for slot in space.slots(10, 0.35)
                  for option in slot.options(space.lower, space.upper) for layer in option}
        tables[tag].write_text("\n".join(
            f'"{key}": {{mean: {scale * (1 + i % 7)}}}' for i, key in enumerate(sorted(
                key for key in layers if key))))
        assert LookUpTable.read(tables[tag]).entries
    objectives = make_objectives("cpu@pi+cpu@server", SpaceCosts(
        space, 10, 0.35, {tag: str(path) for tag, path in tables.items()}))
    X = space.draw(20, np.random.default_rng(0))
    np.testing.assert_allclose(objectives[0].values(X), 3 * objectives[1].values(X))
    with pytest.raises(UserError, match="--lut phone=FILE"):
        make_objectives("cpu@phone", SpaceCosts(space))


@pytest.mark.parametrize(("text", "match"), [
    ("speed", "unknown second objective 'speed'"), ("flops+flops", "flops is given twice"),
    ("top1", "unknown second objective"), ("", "unknown second"), ("flops+", "unknown second"),
    ("no.such:thing", "no such objective"), ("builtins:id", "must return a search.Objective")])
def test_unknown_objectives_are_named(text, match):
    with pytest.raises(UserError, match=match):
        make_objectives(text, SpaceCosts(SPACE))


def test_a_maximised_objective_is_negated():
    objectives = make_objectives("energy+sweetness:max", SpaceCosts(Cakes()), reported=True)
    assert [objective.sign for objective in objectives] == [1, -1]
    assert [objective.exact for objective in objectives] == [False, False]
    search = Search(Cakes(), objectives, engine=direct(Baker().evaluate), n_doe=20, iterations=2,
                    n_iter=4, progress=Progress(0, quiet=True))
    search.run()
    assert (search.F[:, 2] <= -1).all()
    best = max(record.further[0] for record in search.archive)
    assert best in [record.further[0] for record in search.front()]


# ------------------------------------------------------------------------------------ constraints


def test_nothing_beyond_a_constraint_on_costs_is_evaluated():
    costs = SpaceCosts(SPACE, luts={"a": DEFAULT_LUT})
    ms = np.quantile(costs.latency("a")(SPACE.draw(500, np.random.default_rng(0))), 0.2).round(3)
    search = make(constraints=f"flops<=200,params<=4.5,cpu@a<={ms}", costs=costs)
    search.run()
    X = search.X
    assert len(search.archive) == 60
    assert (costs.counted("flops")(X) <= 200).all() and (costs.counted("params")(X) <= 4.5).all()
    assert (costs.latency("a")(X) <= ms).all()


def test_a_tight_constraint_still_has_an_initial_sample():
    costs = SpaceCosts(SPACE)
    constraints = Constraints("flops<=96", make_objectives("flops", costs), costs)
    X = initial_sample(SPACE, 40, np.random.default_rng(0), constraints=constraints)
    assert len(np.unique(X, axis=0)) == 40
    assert (costs.counted("flops")(X) <= 96).all()


@pytest.mark.parametrize(("text", "lines"), [
    ("flops<=300000000", ["flops<=3e+08: every architecture is within it; flops is in millions"]),
    ("params<=5e6", ["params<=5e+06: every architecture is within it; params is in millions"]),
    ("top1>=0.75", ["top1>=0.75: every architecture is within it; top1 is in percent"]),
    ("peak_memory_int8<=320", ["every architecture is within it; peak_memory_int8 is in MB"]),
    ("cpu@a<=30000,flops<=300", ["cpu@a<=30000: every architecture is within it; cpu@a is in ms"]),
    ("flops<=300,params<=5,top1>=75", []), ("top1<=1", [])])
def test_a_limit_that_excludes_nothing_names_its_unit(text, lines):
    costs = SpaceCosts(SPACE, luts={"a": DEFAULT_LUT})
    found = Constraints(text, make_objectives("flops", costs), costs).idle(SPACE)
    assert len(found) == len(lines) and all(map(str.endswith, found, lines))


def test_an_unsatisfiable_constraint_names_the_nearest_value():
    with pytest.raises(UserError, match=r"nearest .* is flops<=90.69"):
        make(constraints="flops<=50").ask()
    with pytest.raises(UserError, match="a constraint of this search can name activations, flops"):
        make(constraints="energy<=50")


def test_a_predicted_constraint_steers_the_search():
    search = make(constraints="top1>=80", iterations=4)
    search.run()
    later = np.array([100 - record.top1_err for record in search.archive[52:]])
    assert (later >= 79).mean() > 0.8


# --------------------------------------------------------------------------------------- strategy


class Halves(Strategy):
    """Takes the vectors between two members of the front."""

    name = "halves"
    default_predictor = None

    def propose(self, task: Task, k: int, rng: np.random.Generator) -> np.ndarray:
        pairs = task.X[rng.integers(len(task.X), size=(2, 10 * k))]
        return task.top_up(task.fresh(task.space.canonical(pairs.sum(axis=0) // 2)), k, rng)[:k]


def test_a_strategy_of_ones_own_is_an_object_or_a_name():
    runs = [make(strategy=strategy) for strategy in (Halves(), "tests.search.test_search:Halves")]
    for search in runs:
        search.run()
    assert runs[0].archive == runs[1].archive and len(runs[0].archive) == 60
    with pytest.raises(UserError, match="must be a class derived from Strategy"):
        make(strategy="tests.search.toy:Cakes")


# ---------------------------------------------------------------------------------------- session


def test_what_contradicts_the_supernet_is_said(tmp_path):
    import torch

    path = tmp_path / "own_w0.35"
    torch.save({"state_dict": {}, "meta": {"resolutions": [32, 40], "dataset": "digits",
                                           "search_space": "mbv3"}}, path)
    typed = {"supernet_path": str(path), "dataset": "digits"}
    settings = resolve(typed)
    assert settings.resolutions == [32, 40] and settings.n_epochs == 0
    assert contradictions(settings) == []
    lines = contradictions(resolve({**typed, "resolutions": [192], "n_epochs": 5}))
    assert "trained at 32,40 px" in lines[0] and "trains a new classifier" in lines[1]
    (line,) = contradictions(resolve({**typed, "dataset": "cifar10"}))
    assert "trained on digits" in line


def test_a_folder_that_would_not_be_read_is_refused(tmp_path):
    import torch

    path = tmp_path / "own_w0.35"
    torch.save({"state_dict": {}, "meta": {"dataset": "digits"}}, path)
    for values in ({"dataset": "digits"}, {"supernet_path": str(path)}):
        resolve({**values, "data": "pictures"})  # a stored folder is no dead end
        with pytest.raises(UserError, match=r"--data pictures: would not be .*--dataset folder"):
            resolve({**values, "data": "pictures"}, ["data", *values])
    assert resolve({"data": "pictures"}, ["data"]).dataset == "imagenet"


def planned(capsys, tmp_path, **values):
    print_plan(resolve({"cpu_workers": 1, "n_gpus": 0, "save": str(tmp_path / "run"), **values},
                       values), RunFolder(tmp_path / "run"))
    return capsys.readouterr().out


def test_the_plan_counts_the_pictures(tmp_path, capsys):
    for part, n in (("train", 15), ("val", 5)):
        layouts.class_folders(tmp_path / "own" / part, 3, n)
    own = {"dataset": "folder", "data": str(tmp_path / "own"), "resolutions": [32]}
    text = planned(capsys, tmp_path, **own, n_epochs=0)
    assert "45 images to train or calibrate on, 15 to score on\n" in text
    assert "an accuracy of 80 % on 15 images has a standard deviation of 10.33 points\n" in text
    assert "passes about 60 images" in text and f"folder in {own['data']}, scored on the t" in text
    text = planned(capsys, tmp_path, **own, n_epochs=2, vld_size=9)
    assert "36 images to train or calibrate on, 9 to score on\n" in text
    assert f"passes about {36 + 9 + 3 * 2 * 36} images" in text
    text = planned(capsys, tmp_path, dataset="folder", n_classes=4)
    assert "folder in a folder that --data is still to name" in text
    assert "an unknown number of images to train or calibrate on" in text
    text = planned(capsys, tmp_path, vld_size=10_000)
    assert "1271167 images to train or calibrate on, 10000 to score on (not counted" in text
    text = planned(capsys, tmp_path, dataset="digits")
    assert "digits in the package scikit-learn" in text and "897 images to train" in text
    with pytest.raises(UserError, match="45"):
        planned(capsys, tmp_path, **own, vld_size=45)


def test_the_plan_has_the_range_of_objectives_and_latencies(tmp_path, capsys):
    text = planned(capsys, tmp_path)
    assert "flops (M): 90.69 for the smallest network, 743.05 for the largest" in text
    space = OFASearchSpace()
    least, most = SpaceCosts(space, luts={"": DEFAULT_LUT}).latency("")(
        space.encode_many(space.extremes()))
    assert f"cpu (ms): {least:.5g} for the smallest network, {most:.5g} for the largest" in text
    assert 0 < 2 * least < most
    assert "; 1000 classes" in text
    text = planned(capsys, tmp_path, lut=["measure"], sec_obj="flops+cpu")
    assert "cpu (ms):" not in text and "flops (M): 90.69" in text


def test_the_plan_of_a_table_has_no_classes_and_no_images(tmp_path, capsys):
    text = planned(capsys, tmp_path, search_space="table", sec_obj="latency_ms",
                   **write_table(tmp_path))
    assert "classes" not in text and "images" not in text
    assert "latency_ms: 1 to 257 in the table" in text
    text = planned(capsys, tmp_path, search_space="nasbench201", **write_cells(tmp_path))
    assert re.search(r"flops \(M\): [\d.]+ to [\d.]+ in the table", text)


def test_a_table_of_another_machine_is_said(tmp_path):
    table = tmp_path / "lut.yaml"
    layers = {layer.key for slot in SPACE.slots() for option in slot.options(
        SPACE.lower, SPACE.upper) for layer in option if layer.key}
    table.write_text("# device: cpu\n# device_name: Raspberry Pi 4\n"
                     + "\n".join(f'"{key}": {{mean: 1.0}}' for key in sorted(layers)))
    costs = SpaceCosts(SPACE, luts={"": str(table)})
    make_objectives("cpu", costs)
    (line,) = foreign_tables(costs)
    assert "measured on Raspberry Pi 4, this machine has" in line


def test_a_table_that_nothing_asks_for_is_said(capsys):
    make_parts(resolve({"lut": ["absent.yaml"], "constraint": "params<=5"}))
    assert "--lut absent.yaml: no objective or limit is a latency" in capsys.readouterr().err
    for lut, asked in ((DEFAULT_LUT, {}), (f"a={DEFAULT_LUT}", {"sec_obj": "cpu@a"}),
                       (f"a={DEFAULT_LUT}", {"constraint": "cpu@a<=30"})):
        assert list(make_parts(resolve({"lut": [lut], **asked})).costs.used_luts.values()) == [
            DEFAULT_LUT] * bool(asked)
    assert "changes nothing" not in capsys.readouterr().err


@pytest.mark.parametrize(("typed", "match"), [
    ({"search_space": "nasbenchgraph", "resolutions": [32]}, "--resolutions: has no meaning"),
    ({"table": "x.csv"}, "--table: has no meaning for the search space mbv3"),
    ({"strategy": "random", "predictor": "gp"}, "the strategy random uses none"),
    ({"strategy": "random", "constraint": "top1>=70"}, "top1>=70: known by evaluation only")])
def test_a_setting_that_nothing_obeys_is_refused(typed, match):
    with pytest.raises(UserError, match=match):
        make_parts(resolve(typed))


def test_durations_are_expected_to_be_above_nothing():
    """A network without convolutions must not end the estimate."""

    class Idle(OFASearchSpace):
        def slots(self, n_classes=1000, width_mult=1.0):
            return []

    costs = SpaceCosts(Idle())
    assert costs.work(Idle().draw(3, np.random.default_rng(0))).tolist() == [1, 1, 1]


def test_what_an_evaluator_raises_in_this_process_is_a_failure():
    """An engine without workers judges as a worker does."""
    first = OFASearchSpace().extremes()[0]

    def faulty(arch):
        if arch == first:
            raise ValueError("the oven is cold")
        return {"top1": float("nan")} if arch["d"] == [2] * 5 else formula(arch)

    search = make(engine=direct(faulty), iterations=1)
    search.run()
    assert first in search.failed and len(search.archive) + len(search.failed) == 56
    assert first not in search.archs


def test_stats_that_could_not_be_read_again_are_failures_when_they_are_told(tmp_path):
    """A search with them ends, and so does one that is resumed, with the same files."""
    odd = [{"per_class": [0.5, float("nan")]}, {"loss": -0.3}, {"params": "12M"}]

    def run(**options):
        engine = direct(lambda arch: formula(arch) | (odd + [{}] * 6)[arch["r"] // 4 % 9])
        search = make(folder=tmp_path, engine=engine, strategy="random", **options)
        search.run()
        failed = search.folder.read_failed(SPACE.encode).values()
        return {each.status for each in failed}, {
            path: path.read_bytes() for path in tmp_path.glob("iter_*.stats")}

    first = run()
    assert first[0] == {"nan", "failed"} and len(first[1]) == 3
    for options in ({}, {"retry_failed": True}):
        for path in first[1]:
            path.unlink()
        assert run(**options) == first


def test_of_a_large_archive_every_tenth_file_and_the_last_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "KEEP_ALL", 54)
    plan = {"strategy": "random", "n_iter": 1, "iterations": 23}

    def numbers(folder):
        return sorted(int(path.stem.removeprefix("iter_")) for path in folder.glob("iter_*.stats"))

    make(folder=tmp_path / "a", **plan).run()
    assert numbers(tmp_path / "a") == [0, 1, 2, 10, 20, 23]
    make(folder=tmp_path / "b", **plan | {"iterations": 14}).run()
    assert numbers(tmp_path / "b") == [0, 1, 2, 10, 14]
    left = tmp_path / "b" / "iter_13.stats"  # what a kill between the two steps leaves
    left.write_bytes((tmp_path / "b" / "iter_14.stats").read_bytes())
    make(folder=tmp_path / "b", **plan).run()
    for path in (tmp_path / "a").glob("iter_*.stats"):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert numbers(tmp_path / "b") == numbers(tmp_path / "a")


def test_more_evaluations_than_an_archive_holds_are_refused_before_the_search():
    with pytest.raises(UserError, match="1000052 evaluations are more than an archive can hold"):
        make(iterations=10**6, n_iter=1)
    make(iterations=99_948, n_iter=1)
