import os
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from search.archive import Record, Stats, write_stats
from search.finished import read_finished
from search.optuna_study import write_study
from search_space import OFASearchSpace, get_search_space
from utils.errors import UserError
from utils.pareto import non_dominated

optuna = pytest.importorskip("optuna")


@pytest.fixture
def stats():
    space = OFASearchSpace([32, 40, 48])
    archs = space.sample(8, rng=np.random.default_rng(0))
    rng = np.random.default_rng(1)
    records = [Record(arch, *rng.uniform(1, 50, 2).round(2).tolist()) for arch in archs]
    return Stats(records, [], 0.5, sec_obj="flops")


def test_a_study_holds_every_architecture(stats, tmp_path):
    path = tmp_path / "a folder" / "study.db"
    write_stats(tmp_path / "iter_0.stats", stats)
    space = read_finished(tmp_path / "iter_0.stats").space
    assert space.resolutions == [32, 40, 48]
    for _ in range(2):  # the second one replaces the first
        write_study(stats, ["flops"], space, path, "mine")
    assert [each.name for each in path.parent.iterdir()] == ["study.db"]
    study = optuna.load_study(study_name="mine", storage=f"sqlite:///{path}")
    assert study.metric_names == ["top1_err", "flops"]
    assert [each.name for each in study.directions] == ["MINIMIZE", "MINIMIZE"]
    assert len(study.trials) == len(stats.archive)
    for trial, record in zip(study.trials, stats.archive, strict=True):
        assert trial.values == [record.top1_err, record.sec_obj]
        assert trial.user_attrs["arch"] == record.arch
        used = space.active(space.encode(record.arch)[None]).sum()
        assert len(trial.params) == used
        assert record.arch["r"] in trial.params.values()
    F = np.array([[record.top1_err, record.sec_obj] for record in stats.archive])
    assert {t.number for t in study.best_trials} == set(np.flatnonzero(non_dominated(F)).tolist())


def test_an_objective_to_be_maximised_is_one_there(stats, tmp_path):
    described = [{"name": "speed", "direction": "max", "unit": "1/s", "source": "measured"}]
    other = Stats(stats.archive, [], 0.5, sec_obj="speed", objectives=described)
    write_study(other, ["speed"], OFASearchSpace([32, 40, 48]), tmp_path / "s.db", "s")
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path / 's.db'}")
    assert [each.name for each in study.directions] == ["MINIMIZE", "MAXIMIZE"]


def test_an_empty_archive_is_refused(tmp_path):
    with pytest.raises(UserError, match="no evaluated architecture"):
        write_study(Stats([], [], 0.0), ["flops"], get_search_space("mbv3"), tmp_path / "s.db", "s")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a?b.db", "100%41.db", "#.db", "a b&c=d.db"])
def test_any_name_of_a_file_will_do(stats, tmp_path, name):
    write_study(stats, ["flops"], OFASearchSpace([32, 40, 48]), tmp_path / name, "s")
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_a_full_disk_is_one_line(stats, tmp_path, small_disk, fails_clearly):
    write_stats(tmp_path / "iter_1.stats", stats)
    fails_clearly("scripts/export.py", tmp_path, "--to", "optuna", "--save", small_disk / "o",
                  match="SQLite cannot write it (database or disk is full); is the disk full?")
    assert not [*(small_disk / "o").iterdir()]


def test_the_command(stats, tmp_path, run_command, fails_clearly):
    folder = tmp_path / "läufe" / "a search"
    write_stats(folder / "iter_1.stats", stats)
    done = run_command("scripts/export.py", folder, "--to", "optuna")
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert "study 'a search' with 8 trials" in done.stdout
    hint = done.stdout.partition("look at it with ")[2]
    assert shlex.split(hint) == ["optuna-dashboard", f"sqlite:///{folder / 'study.db'}"]
    assert len(optuna.load_study(study_name=None, storage=f"sqlite:///{folder / 'study.db'}")
               .trials) == 8
    fails_clearly("scripts/export.py", tmp_path, "--to", "optuna", match="no iter_<i>.stats")


def test_a_folder_that_is_no_utf8_gives_its_study_a_name(stats, tmp_path, run_command):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/run \xff"))
    folder.mkdir()
    write_stats(folder / "iter_0.stats", stats)
    done = run_command("scripts/export.py", folder, "--to", "optuna")
    assert done.returncode == 0, done.stderr
    copy = shutil.copy(folder / "study.db", tmp_path / "study.db")
    assert optuna.get_all_study_names(f"sqlite:///{copy}") == [r"run \udcff"]
