"""Where images come from: folders, tar archives, and timm's readers of the web's formats."""

import importlib.util
import json
import tarfile
from argparse import Namespace
from io import BytesIO
from pathlib import Path

import pytest
import torch

from tests.fine_tuning import N_CLASSES, SIZE, make_images
from train_imagenet import get_args_parser
from training.flags import check_loss
from training.loops import Mirrored, soft_cross_entropy
from training.losses import make_criterion
from training.sources import EveryNth, guess_name, open_source, part_of
from training.timm_loaders import Watched, make_loaders
from training.world import World
from utils.errors import UserError

CPU = World(torch.device("cpu"))
CONFIG = {"classifier": {"out_features": N_CLASSES}, "mean": [0.4, 0.4, 0.4]}
N_TRAIN, N_VAL = 36, 15


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("images")
    make_images(path)
    return path


def flags(data: Path, *words) -> Namespace:
    args = get_args_parser().parse_args([str(data), "-b", "4", "-j", "0", *map(str, words)])
    check_loss(args)
    return args


def first_batch(args: Namespace, source, world: World = CPU):
    train, valid = make_loaders(args, source, SIZE, world, N_CLASSES)
    train.set_epoch(0)
    return next(iter(train)), valid


def check_source(args: Namespace) -> None:
    """A source gives all its images, with labels, in both splits, as tensors of the right size."""
    source = open_source(args, CONFIG)
    assert (source.n_classes, source.n_train) == (N_CLASSES, N_TRAIN)
    (images, labels), valid = first_batch(args, source)
    assert images.shape == (4, 3, SIZE, SIZE)
    assert labels.max() < N_CLASSES
    seen = [label for _, batch in valid for label in batch.tolist()]
    assert sorted(seen) == sorted(list(range(N_CLASSES)) * (N_VAL // N_CLASSES))
    colours = {label: image.mean((1, 2)).argmax().item()
               for batch in valid for image, label in zip(batch[0], batch[1].tolist(), strict=True)}
    assert colours == {label: label for label in range(N_CLASSES)}, "each class is one colour"


def test_class_folders(folder):
    assert guess_name(folder, "train") == "folder"
    check_source(flags(folder))


def test_tar_archives(folder, tmp_path):
    for split in ("train", "val"):
        with tarfile.open(tmp_path / f"{split}.tar", "w") as archive:
            archive.add(folder / split, ".")
    assert guess_name(tmp_path, "train") == "tar"
    check_source(flags(tmp_path))
    check_source(flags(tmp_path, "--dataset", "tar"))
    other = open_source(flags(tmp_path), {"classifier": {"out_features": 9}})
    assert other.n_classes == N_CLASSES, "the archive's, not the network's"
    assert other.facts()["class_names"] == ["class0", "class1", "class2"]
    with pytest.raises(UserError, match=r"test.tar: no such file; --train-split and --val-split"):
        open_source(flags(tmp_path, "--val-split", "test"), CONFIG)


def test_webdataset(folder, tmp_path):
    pytest.importorskip("webdataset")
    splits = {}
    for split in ("train", "val"):
        with tarfile.open(tmp_path / f"{split}-0.tar", "w") as archive:
            for i, path in enumerate(sorted((folder / split).rglob("*.jpg"))):
                label = path.parent.name[-1].encode()
                for suffix, content in (("jpg", path.read_bytes()), ("cls", label)):
                    entry = tarfile.TarInfo(f"{i:04d}.{suffix}")
                    entry.size = len(content)
                    archive.addfile(entry, BytesIO(content))
        splits[split] = {"name": split, "num_samples": i + 1, "filenames": [f"{split}-0.tar"],
                         "shard_lengths": [i + 1]}
    (tmp_path / "_info.json").write_text(json.dumps({"splits": splits}))
    check_source(flags(tmp_path, "--dataset", "wds/images"))


def test_hugging_face_datasets(folder, tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    check_source(flags(tmp_path, "--dataset", f"hfds/{folder}", "--val-split", "validation"))


@pytest.mark.parametrize(("kind", "package"), [("hfds", "datasets"), ("wds", "webdataset")])
def test_missing_packages_are_named(folder, monkeypatch, kind, package):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"pip install {package}"):
        open_source(flags(folder, "--dataset", f"{kind}/x"), CONFIG)


def test_data_that_its_reader_cannot_read_is_one_line(tmp_path):
    pytest.importorskip("webdataset")
    with pytest.raises(UserError, match=r"--dataset wds/x, split 'train': .* cannot be read"):
        open_source(flags(tmp_path, "--dataset", "wds/x"), CONFIG)


def test_mean_and_std_are_typed_or_the_configs(folder):
    info = open_source(flags(folder), CONFIG).info
    assert info.mean == (0.4, 0.4, 0.4)
    info = open_source(flags(folder, "--mean", .1, .2, .3, "--std", 1, 2, 3), CONFIG).info
    assert (info.mean, info.std) == ((.1, .2, .3), (1.0, 2.0, 3.0))
    (images, _), _ = first_batch(flags(folder, "--mean", 0, 0, 0, "--std", 1, 1, 1),
                                 open_source(flags(folder, "--mean", 0, 0, 0, "--std", 1, 1, 1),
                                             CONFIG))
    assert images.min() >= 0
    assert images.max() <= 1


def test_parts_of_all_processes_are_the_whole():
    images = list(range(10))
    parts = [part_of(images, rank, 3) for rank in range(3)]
    assert sorted(part[i] for part in parts for i in range(len(part))) == images
    class Holder(list):
        transform = None

    holder = Holder(images)
    EveryNth(holder, 0, 2).transform = len
    assert holder.transform is len


def test_splits_of_augmentation_fill_the_batch(folder):
    args = flags(folder, "--aug-splits", 3, "--jsd", "--aa", "augmix-m3-w3", "--resplit")
    (images, labels), _ = first_batch(args, open_source(args, CONFIG))
    assert images.shape == (12, 3, SIZE, SIZE)
    assert torch.equal(labels[:4], labels[4:8])
    loss = make_criterion(args, False)(torch.randn(12, N_CLASSES), labels)
    assert torch.isfinite(loss)


def test_repeated_augmentation_needs_several_processes(folder):
    from train_imagenet import check_batch

    args = flags(folder, "--aug-repeats", 3)
    check_batch(args, 36, 2)
    with pytest.raises(UserError, match="works on several processes only"):
        check_batch(args, 36, 1)


def test_repeated_augmentation_gives_each_image_several_times(folder, monkeypatch):
    pytest.importorskip("timm", "1.0.31")  # an older sampler takes nothing of fewer than 256 images
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "is_available", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda *_: 2)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda *_: 0)
    args = flags(folder, "--aug-repeats", 3)
    train, _ = make_loaders(args, open_source(args, CONFIG), SIZE, World(CPU.device, 0, 2),
                            N_CLASSES)
    order = list(iter(train.batches.sampler))
    assert len(order) > len(set(order))


@pytest.mark.parametrize("words", [["--crop-pct", 1.0], ["--interpolation", "bicubic"]])
def test_the_evaluations_transform_can_be_timms(folder, words):
    own, timms = (first_batch(args, open_source(args, CONFIG))[1]
                  for args in (flags(folder), flags(folder, *words)))
    mine, theirs = (next(iter(loader))[0] for loader in (own, timms))
    assert mine.shape == theirs.shape
    assert not torch.allclose(mine, theirs)


def test_binary_cross_entropy_by_hand():
    logits, labels = torch.tensor([[1.0, -2.0, 0.5]]), torch.tensor([2])
    args = flags(Path("x"), "--bce-loss", "--smoothing", 0)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, torch.tensor([[0.0, 0.0, 1.0]]))
    torch.testing.assert_close(make_criterion(args, False)(logits, labels), expected)
    summed = make_criterion(flags(Path("x"), "--bce-loss", "--bce-sum", "--smoothing", 0), False)
    torch.testing.assert_close(summed(logits, labels), expected * 3)
    mixed = torch.tensor([[0.0, 0.4, 0.6]])
    hard = make_criterion(flags(Path("x"), "--bce-loss", "--bce-target-thresh", 0.5), True)
    torch.testing.assert_close(hard(logits, mixed), expected)
    weighted = make_criterion(
        flags(Path("x"), "--bce-loss", "--bce-pos-weight", 3, "--smoothing", 0), False)
    assert weighted(logits, labels) > expected


def test_smoothing_is_not_applied_twice():
    args = flags(Path("x"), "--smoothing", 0.3)
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    plain = torch.nn.functional.cross_entropy(logits, labels)
    mixed = torch.nn.functional.one_hot(labels, 3).float()
    torch.testing.assert_close(make_criterion(args, True)(logits, mixed), plain)
    smoothed = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.3)
    torch.testing.assert_close(make_criterion(args, False)(logits, labels), smoothed)


def test_temperature_keeps_the_size_of_the_gradient():
    """At a high temperature the gradient is that of matched logits, (s - t) / n (Hinton 2015)."""
    teacher = torch.tensor([[1.0, -1.0, 0.0]])
    student = torch.zeros(1, 3, requires_grad=True)
    soft_cross_entropy(student, teacher, 1000.0).backward()
    torch.testing.assert_close(student.grad, -teacher / 3, atol=1e-3, rtol=0)
    torch.testing.assert_close(soft_cross_entropy(student, teacher),
                               soft_cross_entropy(student, teacher, 1.0))


def test_mirror_images_have_the_same_logits():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    images = torch.randn(2, 3, 2, 2)
    mirrored = Mirrored(net)
    torch.testing.assert_close(mirrored(images), mirrored(images.flip(-1)))
    torch.testing.assert_close(mirrored(images), (net(images) + net(images.flip(-1))) / 2)


def test_damaged_images_do_not_end_a_tar(folder, tmp_path):
    for split in ("train", "val"):
        with tarfile.open(tmp_path / f"{split}.tar", "w") as archive:
            archive.add(folder / split, ".")
            entry = tarfile.TarInfo("class0/zz.jpg")
            entry.size = 3
            archive.addfile(entry, BytesIO(b"bad"))
    _, valid = first_batch(flags(tmp_path), open_source(flags(tmp_path), CONFIG))
    assert sum(len(labels) for _, labels in valid) == N_VAL + 1, "the next one stands in"


@pytest.mark.parametrize("n_workers", [0, 2])
def test_damaged_files_are_named_once_and_left_out_up_to_a_limit(tmp_path, capfd, monkeypatch,
                                                                 n_workers):
    monkeypatch.setenv("MSUNAS_CACHE", str(tmp_path / "cache"))
    make_images(tmp_path)
    for name in ("train/class0/1.jpg", "train/class1/2.jpg", "val/class2/0.jpg"):
        (tmp_path / name).write_bytes(b"\xff\xd8 no picture")
    args = flags(tmp_path, "-j", n_workers, "--max-damaged", 0.1)
    source = open_source(args, CONFIG)
    train, valid = make_loaders(args, source, SIZE, CPU, N_CLASSES)
    for _ in range(2):
        assert sum(len(labels) for _, labels in train) == N_TRAIN
        assert sum(len(labels) for _, labels in valid) == N_VAL - 1, "no other one stands in"
    said = capfd.readouterr().err
    for name in ("class0/1.jpg", "class1/2.jpg", "class2/0.jpg"):
        assert said.count(f"{name}: damaged image, left out") == 1
    with pytest.raises(UserError, match="2 of 36 images are damaged, more than 1 in 100"):
        list(Watched(train.batches, source.train, 0.01))


def test_each_process_evaluates_its_own_batches(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("MSUNAS_CACHE", str(tmp_path))
    labels, provider = [], open_source(flags(folder), CONFIG).provider
    for rank in range(3):
        valid = provider.eval_batches("valid", SIZE, 4, rank=rank, world_size=3)
        assert len(valid) == (2, 1, 1)[rank]
        labels += [label for _, batch in valid for label in batch.tolist()]
    assert sorted(labels) == sorted(list(range(N_CLASSES)) * (N_VAL // N_CLASSES))
