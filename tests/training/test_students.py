"""The network that learns: its weights, its classifier, what its config says."""

import json
import logging
from argparse import Namespace
from pathlib import Path

import pytest
import torch

import train_cifar
import train_imagenet
from networks import read_config
from tests.fine_tuning import SIZE, make_networks
from training.students import (
    initial_weights,
    load_networks,
    load_student,
    load_teacher,
    write_pair,
)
from training.tune import load_all
from utils.errors import UserError

LOG = "train"


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("net")
    make_networks(folder)
    return folder


def flags(folder: Path, *words) -> Namespace:
    return train_cifar.get_args_parser().parse_args(
        ["--model-config", str(folder / "net.config"), *map(str, words)])


def test_inherited_weights_beside_the_config_are_taken_and_said(files, caplog):
    with caplog.at_level("INFO", LOG):
        assert initial_weights(flags(files)) == str(files / "net.inherited")
    assert "net.inherited" in caplog.text
    net = load_networks(flags(files), read_config(files / "net.config"), 3).student
    inherited = torch.load(files / "net.inherited")["state_dict"]
    assert torch.equal(net.state_dict()["first_conv.conv.weight"],
                       inherited["first_conv.conv.weight"])


def test_no_weights_are_said_plainly(files, tmp_path, caplog):
    (tmp_path / "net.config").write_text((files / "net.config").read_text())
    assert initial_weights(flags(tmp_path)) is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "random weights" in caplog.text


@pytest.mark.parametrize(("words", "expected"), [
    (["--initial-checkpoint", "none"], None), (["--initial-checkpoint", "W"], "W"),
    (["--resume", "last.pth.tar"], None)])
def test_a_typed_checkpoint_is_obeyed(files, words, expected, caplog):
    assert initial_weights(flags(files, *words)) == expected
    assert not caplog.records


def test_resolution_is_the_configs_unless_typed(files, caplog):
    config = read_config(files / "net.config")
    assert load_networks(flags(files), config, 3).resolution == SIZE
    assert "--img-size" not in caplog.text
    assert load_networks(flags(files, "--img-size", 48), config, 3).resolution == 48
    assert f"records {SIZE}; using --img-size 48" in caplog.text


def test_transform_mean_and_std_are_the_configs_unless_typed(files, tmp_path, caplog):
    config = json.loads((files / "net.config").read_text())
    config |= {"transform": "crop", "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6],
               "classifier": {**config["classifier"], "out_features": 10}}
    (tmp_path / "net.config").write_text(json.dumps(config))
    words = ("--dataset", "digits", "--initial-checkpoint", "none")
    provider, networks = load_all(flags(tmp_path, *words), train_cifar.open_data)
    assert provider.info.eval_resize == "crop"
    assert (provider.info.mean, provider.info.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    provider, _ = load_all(flags(tmp_path, *words, "--transform", "squash", "--mean", 0.5, 0.5,
                                 0.5), train_cifar.open_data)
    assert provider.info.eval_resize == "squash"
    assert provider.info.mean == (0.5, 0.5, 0.5)
    assert "records crop; using --transform squash" in caplog.text
    assert "using --mean 0.5 0.5 0.5" in caplog.text
    write_pair(networks.student, tmp_path / "out", networks, provider.facts())
    written = read_config(tmp_path / "out" / "net.config")
    assert (written["transform"], written["mean"]) == ("squash", [0.5, 0.5, 0.5])
    assert written["class_names"] == [str(digit) for digit in range(10)]


def test_without_a_transform_in_the_config_it_is_squash(files):
    provider, _ = load_all(flags(files, "--dataset", "digits"), train_cifar.open_data)
    assert provider.info.eval_resize == "squash"


def test_what_stands_beside_the_layers_is_written_again(files, tmp_path):
    config = read_config(files / "net.config") | {"search_space": "other",
                                                  "class_names": ["a", "b", "c"]}
    same = load_networks(flags(files), config, 3)
    assert same.extra["search_space"] == "other"
    assert same.extra["class_names"] == ["a", "b", "c"]
    assert "class_names" not in load_networks(flags(files), config, 5).extra
    write_pair(same.student, tmp_path, same, {"class_names": ["x"] * 9})
    written = read_config(tmp_path / "net.config")
    assert written["search_space"] == "other"
    assert "class_names" not in written, "nine names are not those of three classes"


@pytest.mark.parametrize(("names", "told"), [
    (["cat", "dog", "cow"], False), (["cat", "cow", "dog"], True), (["cat", "dog"], False),
    ([], False)])
def test_other_classes_in_the_config_are_said(files, caplog, names, told):
    config = read_config(files / "net.config") | {"class_names": ["cat", "dog", "cow"]}
    load_networks(flags(files), config, 3, names)
    assert ("its class 1 is dog, but the data's is cow" in caplog.text) == told


def test_a_new_classifier_is_said_or_asked_for(files, caplog):
    path, weights = files / "net.config", str(files / "net.inherited")
    old = torch.load(weights)["state_dict"]["classifier.linear.weight"]
    kept = load_student(str(path), weights, 3)
    assert torch.equal(kept.state_dict()["classifier.linear.weight"], old)
    with caplog.at_level("INFO", LOG):
        reset = load_student(str(path), weights, 3, reset=True)
    assert not torch.equal(reset.state_dict()["classifier.linear.weight"], old)
    assert "a new classifier of 3 classes" in caplog.text


def test_batch_normalisation_can_be_changed(files):
    net = load_student(str(files / "net.config"), None, 3, bn=(0.2, 1e-4))
    assert (net.config["bn"]["momentum"], net.config["bn"]["eps"]) == (0.2, 1e-4)
    layer = next(m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert (layer.momentum, layer.eps) == (0.2, 1e-4)
    net = load_student(str(files / "net.config"), None, 3, bn=(None, 1e-4))
    assert net.config["bn"]["eps"] == 1e-4


def test_a_best_epoch_chosen_by_the_test_images_gives_a_warning(caplog):
    images = object()
    train_cifar.warn_about_the_best(Namespace(images=lambda split: images))
    assert "chosen by the test images" in caplog.text
    caplog.clear()
    train_cifar.warn_about_the_best(Namespace(images=lambda split: object()))
    assert not caplog.records


NO_NETWORK = "Name or service not known"


def test_a_teacher_whose_weights_cannot_be_fetched_is_one_line(monkeypatch):
    """What the hub raises without a network is an OSError without a number."""
    def fail(*args, **options):
        raise FileNotFoundError(f"{NO_NETWORK}\nand a second line")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fail)
    monkeypatch.setattr("timm.models._builder.has_hf_hub", lambda **_: True)
    with pytest.raises(UserError, match=NO_NETWORK) as raised:
        load_teacher("resnet18", None, 1000)
    assert "\n" not in str(raised.value)
    assert "--teacher-checkpoint" in str(raised.value)


@pytest.mark.parametrize(("who", "match"), [
    ("mobilenetv3_large_075", "No pretrained weights"),
    ("resnet18.nonsense", "Invalid pretrained")])
def test_a_teacher_without_weights_is_refused(who, match):
    with pytest.raises(UserError, match=match):
        load_teacher(who, None, 1000)


@pytest.mark.parametrize(("script", "words"), [
    (train_cifar, ()), (train_imagenet, (".",))])
def test_a_wrong_teacher_is_refused_before_the_images_are_read(files, monkeypatch, script, words):
    def fail(*args, **options):
        raise AssertionError("the images were read")

    monkeypatch.setattr("data_providers.DataProvider", fail)
    monkeypatch.setattr("training.sources.open_source", fail)
    for flags, match in ((("no_such_model",), "a model that timm knows"),
                         (("resnet18", "--teacher-checkpoint", "no_such_file"), "no such file")):
        args = script.get_args_parser().parse_args(
            [*words, "--model-config", str(files / "net.config"), "--teacher", *flags])
        with pytest.raises(UserError, match=match):
            load_all(args, script.open_data)
