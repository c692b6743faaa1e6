"""A search of one's own supernet takes what the checkpoint knows, and names what contradicts it."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from evaluator import build_evaluator
from networks import build_supernet, load_supernet, save_weights
from networks.supernet_info import SupernetInfo
from search.runner import make_parts
from search.settings import resolve
from tests.conftest import ROOT
from tests.data_providers.layouts import class_folders


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Three classes of pictures and a supernet that says it was trained on them."""
    root = tmp_path_factory.mktemp("own")
    for part in ("train", "val"):
        class_folders(root / "data" / part, 3, 8, ".png")
    meta = SupernetInfo(search_space="mbv3", dataset="folder", resolutions=[32, 40], vld_size=6,
                        n_classes=3, class_names=["a", "b", "c"], mean=[0.5] * 3, std=[0.2] * 3,
                        transform="squash")
    save_weights(build_supernet(3, 0.35, dropout=0.0), root / "ofa_own_w0.35",
                 meta=meta.to_json())
    return root


def plan(run_command, own, *flags) -> tuple[str, str]:
    done = run_command("msunas.py", "--supernet_path", own / "ofa_own_w0.35", "--data",
                       own / "data", "--save", own / "run", "--dry_run", *flags)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_the_plan_is_that_of_the_checkpoint(run_command, own):
    plan_text, errors = plan(run_command, own)
    assert "32 to 40 px (2)" in plan_text and f"data set folder in {own / 'data'}" in plan_text
    assert "3 classes" in plan_text and "6 images split off" in plan_text
    assert "0 epochs of fine-tuning" in plan_text and str(own / "ofa_own_w0.35") in plan_text
    assert not errors


@pytest.mark.parametrize(("flags", "warning"), [
    (["--resolutions", "192", "224"], "--resolutions 192,224: the supernet"),
    (["--n_epochs", "5"], "--n_epochs 5: each evaluation trains a new classifier"),
    (["--search_space", "proxyless"], "--search_space proxyless: the supernet")])
def test_a_contradiction_is_printed(run_command, own, flags, warning):
    plan_text, errors = plan(run_command, own, *flags)
    assert "plan:" in plan_text and warning in errors


@pytest.mark.parametrize(("flags", "unseen"), [
    ((), True), (("--vld_size", 6), True), (("--test",), False),
    (("--dataset", "folder", "--data", "OTHER"), False)])
def test_a_search_that_leaves_no_unseen_images_says_so_at_its_start(run_command, own, tmp_path,
                                                                    flags, unseen):
    shutil.copytree(own / "data", tmp_path / "data")  # train, val: val is the test set
    plain = tmp_path / "ofa_plain_w0.35"  # records no split
    save_weights(build_supernet(3, 0.35, dropout=0.0), plain)
    flags = [str(tmp_path / "data") if flag == "OTHER" else flag for flag in flags]
    path = plain if "--dataset" in flags else own / "ofa_own_w0.35"
    _, errors = plan(run_command, own, *flags, "--supernet_path", path)
    assert ("--rescore will have no unseen ones" not in errors) == unseen
    if "--dataset" in flags:  # folders for all three
        shutil.copytree(own / "data" / "val", tmp_path / "data" / "test")
        _, errors = plan(run_command, own, *flags, "--supernet_path", path)
        assert "--rescore" not in errors


def test_a_missing_default_supernet_says_where_it_comes_from(fails_clearly, tmp_path):
    line = fails_clearly("msunas.py", "--data", tmp_path, "--save", tmp_path / "run", "--n_epochs",
                         0, match="no such checkpoint of a supernet")
    for word in ("--supernet_path", "31 MB", "https://", "train_supernet.py"):
        assert word in line


def test_evaluations_normalise_as_the_training_did(own):
    """The pictures' own mean is another one than the checkpoint's."""
    options = {"supernet_path": str(own / "ofa_own_w0.35"), "dataset": "folder",
               "data": str(own / "data"), "vld_size": 6, "n_epochs": 0, "cache_gb": 0}
    info = build_evaluator("ofa", options).provider.info
    assert (info.mean, info.std) == ((0.5,) * 3, (0.2,) * 3)
    own_choice = build_evaluator("ofa", {**options, "mean": [0.1] * 3, "std": [0.3] * 3})
    assert own_choice.provider.info.mean == (0.1,) * 3


def test_costs_are_of_the_width_that_the_checkpoint_says(own, tmp_path):
    """A renamed file says nothing of its width."""
    settings = {"dataset": "folder", "data": str(own / "data")}
    named = resolve({**settings, "supernet_path": str(own / "ofa_own_w0.35")})
    path = tmp_path / "mine"
    save_weights(build_supernet(3, 0.35, dropout=0.0), path, meta=SupernetInfo(
        dataset="folder", resolutions=[32, 40], width=0.35).to_json())
    X = make_parts(named).space.draw(5, np.random.default_rng(0))
    values = [make_parts(resolve({**settings, "supernet_path": str(file)})).objectives[0].values(X)
              for file in (own / "ofa_own_w0.35", path)]
    assert values[0].tolist() == values[1].tolist()
    assert load_supernet(path).width_mult == 0.35


# Prints how often the file that its first argument names is opened while a command runs.
COUNT_OPENS = """
import sys
name, *sys.argv = sys.argv[1:]
opens = []
sys.addaudithook(lambda event, args: event == "open" and str(args[0]).endswith(name)
                 and opens.append(name))
import msunas
from cli.scripts import run_script
code = run_script(msunas.main, msunas.get_args_parser())
print(len(opens))
sys.exit(code)
"""


@pytest.mark.parametrize("named", [True, False])
def test_a_plan_opens_the_supernet_at_most_twice(tmp_path, named):
    """Once to look for damage, where it was typed, and once to read what it records."""
    supernet = "data/ofa_digits_d234_e346_k357_w0.35"
    flags = ["--supernet_path", supernet] if named else []
    done = subprocess.run(
        [sys.executable, "-c", COUNT_OPENS, supernet, "msunas.py", "--dataset", "digits",
         "--dry_run", "--save", tmp_path / "run", *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "plan: 340 evaluations" in done.stdout
    assert 1 <= int(done.stdout.splitlines()[-1]) <= 2


@pytest.mark.slow
def test_the_search_runs_as_planned(run_command, own):
    done = run_command("msunas.py", "--supernet_path", own / "ofa_own_w0.35", "--data",
                       own / "data", "--save", own / "search", "--n_doe", 6, "--iterations", 0,
                       "--cpu_workers", 1, "--n_workers", 0)
    assert done.returncode == 0, done.stderr
    settings = json.loads((own / "search" / "settings.json").read_text())
    assert (settings["dataset"], settings["n_epochs"], settings["n_classes"]) == ("folder", 0, 3)
    stats = json.loads((own / "search" / "iter_0" / "net_0.stats").read_text())
    assert stats["resolution"] in (32, 40)
