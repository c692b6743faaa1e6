"""Whole runs of train_imagenet.py, in this process: readers, losses and intervals together."""

import csv
import tarfile
from pathlib import Path

import pytest
import torch

from data_providers import DATASETS
from networks import read_config
from tests.fine_tuning import SIZE, make_images, make_networks, only_run
from train_imagenet import get_args_parser, main
from training.run import epoch_seed
from training.sources import ImageSource
from training.timm_loaders import make_loaders
from training.world import World


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    make_images(folder / "images")
    make_networks(folder)
    for split in ("train", "val"):
        with tarfile.open(folder / f"{split}.tar", "w") as archive:
            archive.add(folder / "images" / split, ".")
    return folder


def run(data: Path, files: Path, output: Path, *words) -> Path:
    args = get_args_parser().parse_args([str(word) for word in (
        data, "--model-config", files / "net.config", "-b", 8, "-j", 0, "--device", "cpu", "--lr",
        0.01, "--output", output, "--threads", 1, *words)])
    main(args)
    return only_run(output)


@pytest.mark.slow
def test_an_archive_with_splits_mirror_images_and_rare_evaluations(files, tmp_path, caplog):
    caplog.set_level("INFO", "train")
    folder = run(files, files, tmp_path / "out", "--epochs", 3, "--val-interval", 2, "--aug-splits",
                 2, "--jsd", "--aa", "rand-m9-mstd0.5", "--tta", 2, "--model-ema")
    rows = list(csv.DictReader((folder / "summary.csv").open()))
    assert [bool(row["eval_top1"]) for row in rows] == [False, True, True]
    config = read_config(folder / "net.config")
    assert config["class_names"] == ["class0", "class1", "class2"]
    assert (config["resolution"], config["transform"]) == (SIZE, "crop")
    for text in ("net.inherited, next to the config", "before training: top1",
                 "0:00:00 left", f"output: {folder}"):
        assert text in caplog.text


@pytest.mark.slow
def test_class_folders_with_binary_loss_and_agc_can_be_extended(files, tmp_path):
    words = ["--bce-loss", "--mixup", 0.2, "--clip-grad", 0.1, "--clip-mode", "agc", "--opt",
             "adamw", "--sched", "cosine", "--layer-decay", 0.9]
    folder = run(files / "images", files, tmp_path / "out", "--epochs", 1, *words)
    assert run(files / "images", files, tmp_path / "out", "--epochs", 2, *words, "--resume",
               folder / "last.pth.tar") == folder
    rows = list(csv.DictReader((folder / "summary.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert float(rows[1]["lr"]) > 0


def test_seeds_of_all_epochs_are_seeds_of_every_library():
    for seed in (0, 42, 2**31 - 1):
        for epoch in (0, 1, 10**6):
            assert 0 <= epoch_seed(seed, epoch) < 2**32 - 2**16
    assert epoch_seed(42, 1) != epoch_seed(42, 0) == 42


def test_no_more_loading_processes_than_cores(files, monkeypatch):
    monkeypatch.setattr("data_providers.loading.cpu_count", lambda: 3)
    args = get_args_parser().parse_args(["x", "-j", "100000"])
    images = torch.utils.data.TensorDataset(torch.zeros(64, 1))
    source = ImageSource(images, images, DATASETS["imagenet"])
    train, valid = make_loaders(args, source, SIZE, World(torch.device("cpu")), 10)
    assert train.batches.loader.num_workers == valid.loader.num_workers == 3
