import argparse
import json
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import validation
from data_providers import DataProvider
from networks import (
    build_from_config,
    build_supernet,
    check_config,
    choose_resolution,
    cut_subnet,
    save_weights,
    write_config,
)
from networks.configs import choose_transform
from search_space import OFASearchSpace
from training.batch_log import BatchLog
from training.loops import evaluate
from utils.errors import UserError
from utils.flags import choose

SPACE = OFASearchSpace(resolutions=[32, 48])
SMALL = SPACE.extremes()[0]
LINE = re.compile(r"Test: \[ *\d+/\d+\]\tTime +\d+\.\d{3} \( *\d+\.\d{3}\)\tLoss \S+ \(\S+\)\t"
                  r"Acc@1 +[\d.]+ \( *[\d.]+\)\tAcc@5 +[\d.]+ \( *[\d.]+\)")


def test_a_batch_line_holds_the_batchs_values_and_the_means():
    lines = []
    log = BatchLog(12, 5, lines.append)
    for loss, top1, top5, n in [(10.0, 5, 10, 10)] * 11 + [(8.0, 4, 4, 4)]:
        log(torch.tensor([loss, top1, top5, n]))
    assert len(lines) == 3
    assert all(LINE.fullmatch(line) for line in lines)
    assert lines[0].startswith("Test: [ 5/12]\t")
    assert lines[-1].startswith("Test: [12/12]\t")
    assert "Loss 2.0000e+00 (1.0351e+00)\tAcc@1 100.00 ( 51.75)" in lines[-1]


@pytest.mark.parametrize(("recorded", "flag", "expected", "warns"), [
    (192, None, 192, ""), (192, 192, 192, ""), (192, 224, 224, "records 192; using --img-size 224"),
    (None, 160, 160, ""), (None, None, 224, "using 224")])
def test_a_typed_resolution_goes_first(capsys, recorded, flag, expected, warns):
    assert choose_resolution(flag, recorded, "net.config") == expected
    err = capsys.readouterr().err
    assert warns in err
    assert bool(err) == bool(warns)


@pytest.mark.parametrize(("recorded", "flag", "expected", "warns"), [
    (None, None, None, False), ("squash", None, "squash", False), ("squash", "crop", "crop", True),
    (None, "crop", "crop", False)])
def test_the_transforms_flag_goes_first(capsys, recorded, flag, expected, warns):
    assert choose("--transform", flag, recorded, "net.config") == expected
    assert bool(capsys.readouterr().err) == warns


@pytest.mark.parametrize("recorded", ["stretch", 3, ["crop"]])
def test_an_unknown_transform_is_refused(files, recorded):
    with pytest.raises(UserError, match="'transform' must be one of crop, squash"):
        check_config({**files.net.config, "transform": recorded})


@pytest.mark.parametrize("flags", [
    [], ["--model", "a"], ["--subnet", "a"], ["--model", "a", "--supernet_path", "b"],
    ["--model", "a", "--pretrained", "b", "--subnet", "c"]])
def test_one_complete_pair_of_files_is_needed(flags):
    args = validation.get_args_parser().parse_args(flags)
    with pytest.raises(UserError, match="either --model with --pretrained"):
        validation.check_sources(args)


# ----------------------------------------------------------------------- on the handwritten digits


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small random supernet for ten classes, and a network cut from it with its files."""
    folder = tmp_path_factory.mktemp("a net")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    supernet = build_supernet(10, 0.35, dropout=0.0).eval()
    save_weights(supernet, folder / "ofa_w0.35")
    net = cut_subnet(supernet, SMALL)
    write_config(net, folder / "net.config", resolution=32, transform="squash")
    save_weights(net, folder / "net.inherited")
    (folder / "net.subnet").write_text(json.dumps(SMALL))
    return argparse.Namespace(folder=folder, net=net, config=folder / "net.config",
                              weights=folder / "net.inherited", supernet=folder / "ofa_w0.35",
                              subnet=folder / "net.subnet")


def validate(*flags):
    one_process = () if {"--predict", "--pretrained"} <= set(flags) else ("-j", "0")
    args = validation.get_args_parser().parse_args(
        ["--dataset", "digits", *one_process, "--device", "cpu", *map(str, flags)])
    validation.main(args)


def last_json(capsys):
    lines = capsys.readouterr().out.splitlines()
    assert LINE.fullmatch(lines[-3])
    assert re.fullmatch(r" \* Acc@1 \d+\.\d{3} Acc@5 \d+\.\d{3}", lines[-2])
    return json.loads(lines[-1])


def test_the_last_line_is_the_result(files, capsys):
    validate("--model", files.config, "--pretrained", files.weights)
    result = last_json(capsys)
    assert list(result) == ["top1", "top1_err", "top5", "top5_err", "n_images", "params", "flops",
                            "resolution", "transform"]
    assert result["n_images"] == 600
    assert (result["resolution"], result["transform"]) == (32, "squash")
    assert result["top1"] + result["top1_err"] == pytest.approx(100)
    assert result["top5"] >= result["top1"]
    params = sum(p.numel() for p in files.net.parameters())
    assert result["params"] == pytest.approx(params / 1e6, abs=0.005)


def test_every_form_of_the_weights_gives_the_same_result(files, capsys, tmp_path):
    state = files.net.state_dict()
    worse = {key: torch.zeros_like(value) for key, value in state.items()}
    save_weights(files.net, tmp_path / "old", old_naming=True)
    write_config(files.net, tmp_path / "old.config", old_naming=True, resolution=32,
                 transform="squash")
    torch.save(state, tmp_path / "bare")
    torch.save({"state_dict": worse, "state_dict_ema": state}, tmp_path / "ema")
    results = []
    for config, flags in [(files.config, [files.weights]), (files.config, [tmp_path / "old"]),
                          (tmp_path / "old.config", [tmp_path / "old"]),
                          (files.config, [tmp_path / "bare"]),
                          (files.config, [tmp_path / "ema", "--use-ema"])]:
        validate("--model", config, "--pretrained", *flags)
        results.append(last_json(capsys))
    assert all(result == results[0] for result in results)


def test_a_subnet_is_calibrated(files, capsys):
    validate("--subnet", files.subnet, "--supernet_path", files.supernet, "--split", "valid")
    result = last_json(capsys)
    assert result["n_images"] == 300
    assert result["resolution"] == 32


def test_a_network_for_other_classes_is_refused(files, tmp_path):
    config = {**files.net.config, "classifier": {**files.net.config["classifier"],
                                                 "out_features": 3}}
    net = build_from_config(config)
    write_config(net, tmp_path / "net.config", resolution=32)
    save_weights(net, tmp_path / "net.init")
    with pytest.raises(UserError, match="for 3 classes, but the data set has 10"):
        validate("--model", tmp_path / "net.config", "--pretrained", tmp_path / "net.init")


@pytest.mark.parametrize(("flags", "match"), [
    (["--model", "missing", "--pretrained", "missing"], "missing: no such network config"),
    (["--model", "{weights}", "--pretrained", "{weights}"], "not a text file"),
    (["--subnet", "{config}", "--supernet_path", "{supernet}"], "must be an integer in 8..4096"),
    (["--model", "{config}", "--pretrained", "{weights}", "--dataset", "cifar10", "--split",
      "valid"], "--split valid needs --vld_size"),
    (["--subnet", "a", "--supernet_path", "b", "--use-ema"], "--use-ema: has no meaning with"),
    (["--model", "a", "--pretrained", "b", "--search_space", "mbv3"], "without --subnet; leave it"),
    (["--model", "a", "--pretrained", "b", "--seed", "0"], "without --subnet or --split valid"),
    (["--img-size", "4", "--model", "a", "--pretrained", "b"], "--img-size: must be 8 or more"),
    (["-b", "0"], "--batch-size: must be 1 or more")])
def test_bad_input_fails_clearly(files, fails_clearly, flags, match):
    flags = [flag.format(**vars(files)) for flag in flags]
    fails_clearly("validation.py", "--dataset", "digits", "--device", "cpu", *flags, match=match)


def test_bad_weights_fail_clearly(files, fails_clearly):
    fails_clearly("validation.py", "--dataset", "digits", "--model", files.config, "--pretrained",
                  files.config, match="net.config: no checkpoint")


class Malice:
    """Unpickles by creating a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("flags", [["--model", "{config}", "--pretrained", "{evil}"],
                                   ["--subnet", "{subnet}", "--supernet_path", "{evil}"]])
@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(
    pickle.dumps(value))])
def test_weights_that_carry_code_are_refused(files, tmp_path, flags, save):
    evil = tmp_path / "ofa_w0.35"
    save({"state_dict": Malice(tmp_path / "created")}, evil)
    with pytest.raises(UserError, match=r"ofa_w0\.35: "):
        validate(*[flag.format(evil=evil, **vars(files)) for flag in flags])
    assert not (tmp_path / "created").exists()


def test_the_transforms_are_those_of_the_data_providers():
    from data_providers.transforms import EVAL_RESIZES

    assert set(validation.TRANSFORMS) == set(EVAL_RESIZES)


@pytest.fixture
def pictures(tmp_path):
    """The first test digits as PNG files, one that is no picture, and what a network says."""
    provider = DataProvider("digits")
    images = provider.images("test")
    for i in range(4):
        images.read(i).save(tmp_path / f"digit_{i}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    return tmp_path


def predictions(capsys, *flags):
    validate(*flags)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_pictures_are_predicted_by_the_names_of_the_classes(files, pictures, tmp_path, capsys):
    """The labels are those that the network gives to the same images of the data set."""
    provider = DataProvider("digits")
    names = [f"digit {label} – Türkenbund 花" for label in range(10)]
    config = tmp_path / "net.config"
    write_config(files.net, config, resolution=32, **{**provider.facts(), "class_names": names})
    said = predictions(capsys, "--model", config, "--pretrained", files.weights, "--predict",
                       pictures)
    assert [row["path"][-11:] for row in said] == [f"digit_{i}.png" for i in range(4)]
    batch, _ = next(iter(provider.eval_batches("test", 32, batch_size=4)))
    expected = files.net.eval()(batch).softmax(dim=1)
    assert [row["class"] for row in said] == [names[i] for i in expected.argmax(dim=1).tolist()]
    assert [row["probability"] for row in said] == pytest.approx(
        expected.max(dim=1).values.tolist(), abs=1e-3)
    assert all(len(row["top5"]) == 5 for row in said)
    validate("--model", config, "--pretrained", files.weights, "--predict", pictures)
    assert f'"class": "{said[0]["class"]}"' in capsys.readouterr().out  # no escapes
    one = predictions(capsys, "-m", config, "--pretrained", files.weights, "--predict",
                      pictures / "digit_2.png", "--threads", 1)
    assert one == [said[2]]


def test_a_subnet_of_a_supernet_predicts_too(files, pictures, capsys):
    (said,) = predictions(capsys, "--subnet", files.subnet, "--supernet_path", files.supernet,
                          "--predict", pictures / "digit_0.png")
    assert said["class"] in "0123456789"


def test_a_folder_of_pictures_is_read_by_content_without_what_is_hidden(files, pictures, capfd):
    shutil.copy(pictures / "digit_0.png", pictures / "._digit_0.png")
    shutil.copy(pictures / "digit_0.png", pictures / "no_suffix")
    Image.open(pictures / "digit_1.png").save(pictures / "x.jfif", "JPEG")
    (pictures / "notes.txt").write_text("no picture")
    validate("--model", files.config, "--pretrained", files.weights, "--predict", pictures)
    done = capfd.readouterr()
    paths = [Path(json.loads(line)["path"]).name for line in done.out.splitlines()
             if line.startswith("{")]
    assert {"no_suffix", "x.jfif", "digit_0.png"} <= set(paths)
    assert "._digit_0.png" not in paths and "notes.txt" not in paths
    assert "files are not read, the first one" in done.err and "notes.txt" in done.err


@pytest.mark.parametrize(("path", "match"), [
    ("missing", "no such picture"), ("empty", "no picture in this folder"),
    ("broken.png", "none of 1 pictures can be read")])
def test_a_prediction_of_nothing_is_refused(files, pictures, path, match):
    (pictures / "empty").mkdir()
    with pytest.raises(UserError, match=match):
        validate("--model", files.config, "--pretrained", files.weights, "--predict",
                 pictures / path)


@pytest.mark.parametrize(("flags", "match"), [
    (["--seed", 1], "--seed: has no meaning with --predict; leave it out"),
    (["--seed", 0], "--seed: has no meaning"),
    (["--print-freq", 5, "--vld_size", 9],
     "--print-freq, --vld_size: have no meaning with --predict; leave them out"),
    (["--split", "valid"], "--split: has no meaning"), (["--no-amp"], "--amp: has no meaning"),
    (["--max_damaged", 0.5], "--max_damaged: has no"), (["--download"], "--download: has no"),
    (["--data", "."], "--data: has no meaning"), (["-j", 2], "--workers: has no meaning"),
    (["--dataset", "cifar100"], r"\S.*config: a network for 10 classes, but the data set has 100; "
     "--dataset cifar100 is not the data set that it was trained on")])
def test_a_prediction_refuses_what_it_would_not_obey(files, flags, match):
    with pytest.raises(UserError, match=match):
        validate("--model", files.config, "--pretrained", files.weights, "--predict", "a", *flags)


def test_a_prediction_of_a_subnet_reads_the_data_set(files, pictures, capsys):
    subnet = ("--subnet", files.subnet, "--supernet_path", files.supernet, "--predict",
              pictures / "digit_0.png")
    assert len(predictions(capsys, *subnet, "--seed", 1, "--vld_size", 400)) == 1
    with pytest.raises(UserError, match="--split: has no meaning"):
        validate(*subnet, "--split", "test")


def test_a_subnet_predicts_no_classes_of_another_data_set(files, monkeypatch):
    provider = argparse.Namespace(n_classes=7, info=argparse.Namespace(name="folder"))
    monkeypatch.setattr(validation, "open_data", lambda *args: provider)
    with pytest.raises(UserError, match="for 10 classes, but the data set has 7"):
        validate("--subnet", files.subnet, "--supernet_path", files.supernet, "--predict", "a")


def test_a_prediction_takes_the_batch_size(files, pictures, capsys, monkeypatch):
    from evaluator import predictions as module

    sizes = []
    predict = module.predict
    monkeypatch.setattr(module, "predict",
                        lambda *args: sizes.append(args[-1]) or predict(*args))
    known = ("--model", files.config, "--pretrained", files.weights, "--predict", pictures)
    first, second = predictions(capsys, *known), predictions(capsys, *known, "-b", 2)
    assert [row["class"] for row in first] == [row["class"] for row in second]
    assert sizes == [32, 2]


def test_the_networks_own_normalisation_is_used(files, tmp_path):
    def info(config):
        args = validation.get_args_parser().parse_args(
            ["--dataset", "digits", "-j", "0", "-m", str(config), "--pretrained",
             str(files.weights)])
        return validation.load_static(args)[1].info

    write_config(files.net, tmp_path / "net.config", resolution=32, mean=[0.4, 0.5, 0.6],
                 std=[0.1, 0.2, 0.3])
    own = info(tmp_path / "net.config")
    assert (own.mean, own.std) == ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    assert info(files.config).mean == (0.3053,) * 3, "without them: the data set's"


@pytest.fixture(scope="module")
def cifar(tmp_path_factory) -> Path:
    """Class folders in the place of CIFAR-10, whose pictures have a broad frame of noise."""
    root, generator = tmp_path_factory.mktemp("cifar10"), torch.Generator().manual_seed(0)
    for split in ("train", "test"):
        for label in range(10):
            (root / split / f"class{label}").mkdir(parents=True)
            pixels = torch.randint(256, (32, 32, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(root / split / f"class{label}" / "1.png")
    return root


@pytest.mark.parametrize(("recorded", "words", "expected", "line"), [
    (None, [], "squash", "has no transform; using squash, with which the paper's networks of cif"),
    (None, ["--transform", "crop"], "crop", ""), (None, ["--transform", "squash"], "squash", ""),
    ("crop", [], "crop", ""), ("squash", [], "squash", "")])
def test_a_cifar_network_as_published_is_scored_on_whole_images(files, cifar, tmp_path, capsys,
                                                                 recorded, words, expected, line):
    """The files of the paper's networks record no transform: the seed's first command."""
    extra = {} if recorded is None else {"transform": recorded}
    write_config(files.net, tmp_path / "net.config", resolution=32, **extra)
    validate("--dataset", "cifar10", "--data", cifar, "--model", tmp_path / "net.config",
             "--pretrained", files.weights, *words)
    out, err = capsys.readouterr()
    result = json.loads(out.splitlines()[-1])
    assert result["transform"] == expected
    assert ("has no transform" in err) == bool(line) and line in err
    provider = DataProvider("cifar10", cifar, transform=expected)
    assert f"Loss {evaluate(files.net, provider.eval_batches('test', 32))['loss']:.3e}"[:-5] in out


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "cinic10", "stl10", "digits", None])
def test_the_rule_for_published_files_is_one(dataset, capsys):
    """Of validation.py, export.py and both fine-tuning scripts; other data sets keep theirs."""
    found = choose_transform(None, {}, dataset, "net.config")
    small = dataset in ("cifar10", "cifar100", "cinic10")
    assert found == ("squash" if small else None)
    assert bool(capsys.readouterr().err) == small
    assert choose_transform(None, {"transform": "crop"}, dataset, "net.config") == "crop"


def test_it_says_at_once_what_is_done_and_which_weights_it_leaves_aside(files, tmp_path, capsys):
    state = files.net.state_dict()
    torch.save({"state_dict": state, "state_dict_ema": state}, tmp_path / "both")
    validate("--model", files.config, "--pretrained", tmp_path / "both")
    err = capsys.readouterr().err.splitlines()
    assert err[0] == f"loading {files.config} and the images"
    assert sum("--use-ema takes them" in line for line in err) == 1
    validate("--model", files.config, "--pretrained", tmp_path / "both", "--use-ema")
    assert "--use-ema" not in capsys.readouterr().err
