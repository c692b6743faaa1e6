"""The published searches of scripts/search.sh: every name, on small copies of the real data."""

import itertools
import json
import os
import subprocess
import sys

import pytest
import torch

from networks import build_supernet, save_weights
from tests.conftest import ROOT
from tests.data_providers.layouts import LAYOUTS

NAMES = subprocess.run(["sh", "scripts/search.sh", "list"], cwd=ROOT, capture_output=True,
                       text=True, check=True).stdout.split()
# As published: predictor, and images split off the training set to score on.
PUBLISHED = {"imagenet": ("rbf", 10_000), "cifar10": ("as", 5_000), "cifar100": ("as", 5_000),
             "cinic10": ("as", 10_000), "stl10": ("as", 500), "aircraft": ("as", 500)}
TINY = ["--n_iter", "1", "--vld_size", "10", "--trn_batch_size", "16",
        "--n_workers", "0", "--cpu_workers", "1", "--cache_gb", "0.01"]
# The objectives that add nothing new to the evaluation of images are run without images.
FORMULA = ["--evaluator", "tests.search.evaluators:Formula"]


def search(*arguments, **environment) -> subprocess.CompletedProcess:
    """Runs scripts/search.sh."""
    return subprocess.run(["sh", "scripts/search.sh", *map(str, arguments)], cwd=ROOT, text=True,
                          capture_output=True, timeout=600,
                          env={**os.environ, "PYTHON": sys.executable, **environment})


@pytest.mark.parametrize("name", NAMES)
def test_every_published_search_can_be_planned(name, tmp_path):
    """The plan needs no data, but the latency table must hold every layer of the space."""
    done = search(name, "--data", tmp_path / "some data", "--dry_run")
    assert done.returncode == 0, done.stderr
    assert f"{350 if name.endswith('random') else 340} evaluations" in done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_the_flags_are_those_that_were_published(name):
    flags = search(name, "--data", "/some where/data", DRY="1").stdout.splitlines()
    value = dict(itertools.pairwise(flags))
    dataset, objective = name.rsplit("-", 1)
    assert value["--data"] == "/some where/data"
    assert value["--dataset"] == dataset
    assert value["--sec_obj"] == ("flops" if objective == "random" else objective)
    if dataset in PUBLISHED:
        predictor, vld_size = PUBLISHED[dataset]
        assert value["--vld_size"] == str(vld_size)
        assert value.get("--predictor", predictor) == predictor


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    """A narrow supernet with random weights and ImageNet's classes."""
    path = tmp_path_factory.mktemp("supernet") / "ofa_mbv3_d234_e346_k357_w0.35"
    torch.manual_seed(0)
    save_weights(build_supernet(1000, 0.35, dropout=0.0), path)
    return path


def budget(name: str) -> tuple[int, int, list[str]]:
    """Returns initial sample, iterations, and a predictor that learns from so few."""
    if name.endswith("random"):
        return 2, 0, []
    return (20, 1, []) if name == "cifar10-flops" else (6, 1, ["--predictor", "rbf"])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_one_iteration_of_every_published_search(name, supernet, tmp_path, monkeypatch):
    dataset, objective = name.rsplit("-", 1)
    # the checksums of the archives of CIFAR, STL-10 and Flowers cannot be those of a miniature
    layout = f"{dataset} folders" if dataset.startswith(("cifar", "stl", "flowers")) else dataset
    data = LAYOUTS[layout](tmp_path / "data", monkeypatch).root
    n_doe, iterations, predictor = budget(name)
    epochs = [] if dataset == "imagenet" else ["--n_epochs", "1"]
    evaluator = FORMULA if objective in ("params", "cpu") \
        else ["--supernet_path", supernet, "--resolutions", 32]
    done = search(name, "--data", data, "--save", tmp_path / "run", "--n_doe", n_doe,
                  "--iterations", iterations, *predictor, *TINY, *epochs, *evaluator)
    assert done.returncode == 0, done.stderr
    stats = json.loads((tmp_path / "run" / f"iter_{iterations}.stats").read_text())
    assert len(stats["archive"]) == n_doe + iterations
    assert all(0 <= error <= 100 and cost > 0 for _, error, cost in stats["archive"])
