"""hub/: what timm loads gives the logits, the pixels and the accuracy of our own program."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from data_providers import DataProvider
from data_providers.table import DIGITS_SUPERNET, get_dataset_info
from evaluator.model_card import Accuracy, Card, give_to_timm, render
from networks import (
    build_from_config,
    build_supernet,
    cut_subnet,
    load_supernet,
    read_config,
    recalibrate_bn,
)
from networks.hub import (
    Preprocessing,
    hub_config,
    timm_model,
    timm_preprocessing,
    to_timm,
    write_hub,
)
from search_space import OFASearchSpace, get_search_space
from tests.conftest import ROOT, loads_folders
from tests.data_providers.references import eval_transform
from training.loops import evaluate
from utils.errors import UserError

SPACE = OFASearchSpace([32, 48])


def images_for(net_resolution: int, n: int = 4) -> torch.Tensor:
    return torch.randn(n, 3, net_resolution, net_resolution,
                       generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def difference(net, other, images) -> float:
    expected = net(images)
    assert expected.abs().max() > 0.05, "a dead network shows nothing"
    return (expected - other(images)).abs().max().item()


@pytest.fixture(scope="module")
def digits():
    """A trained subnet of the digits, calibrated, its resolution, and the provider."""
    arch = SPACE.sample(1, rng=np.random.default_rng(4))[0]
    provider = DataProvider("digits", cache_gb=0)
    net = cut_subnet(load_supernet(ROOT / DIGITS_SUPERNET), arch)
    recalibrate_bn(net, provider.calibration_batches(arch["r"], 200))
    return net, arch["r"], provider


@pytest.fixture(scope="module")
def hub(digits, tmp_path_factory):
    net, resolution, provider = digits
    folder = tmp_path_factory.mktemp("a search") / "hub"
    info = provider.info
    write_hub(net, folder, Preprocessing(resolution, "squash", info.mean, info.std), "# card\n")
    return folder


def load(hub, **options):
    loads_folders()
    import msunas_timm  # noqa: F401

    return timm.create_model(f"local-dir:{hub}", pretrained=True, **options).eval()


@pytest.mark.parametrize("width", [0.35, 1.0, 1.2])
def test_random_subnets_become_timm_models(width):
    torch.manual_seed(0)
    supernet = build_supernet(10, width)
    for arch in [*SPACE.extremes(), *SPACE.sample(2, rng=np.random.default_rng(0))]:
        net = cut_subnet(supernet, arch)
        recalibrate_bn(net, [images_for(64, 8)])
        assert difference(net, to_timm(net), images_for(64)) < 1e-5


def test_published_networks_of_both_families_become_timm_models(shared_data):
    paths = sorted((shared_data / "ofa_specialized").glob("*.config"))
    names = set()
    for path in paths:
        torch.manual_seed(0)
        net = build_from_config(read_config(path)).eval()
        names.add(net.config["name"])
        recalibrate_bn(net, [images_for(64, 8)])
        assert difference(net, to_timm(net), images_for(64)) < 3e-5, path
    assert names == {"MobileNetV3", "ProxylessNASNets"}


def test_a_name_alone_is_the_smallest_subnet():
    from msunas_timm.models import SMALLEST_MBV3

    net = cut_subnet(build_supernet(10, 1.0), SPACE.extremes()[0])
    assert timm_model(net.config).args["arch_def"] == [list(stage) for stage in SMALLEST_MBV3]


def test_the_folder_gives_the_same_logits(digits, hub):
    net, resolution, _ = digits
    loaded = load(hub)
    images = images_for(resolution, 16)
    assert difference(to_timm(net), loaded, images) == 0
    with torch.inference_mode():
        expected, got = net(images), loaded(images)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6 * expected.abs().max().item())


def test_timm_adapts_the_folder(hub, digits):
    resolution = digits[1]
    images = images_for(resolution, 2)
    other = load(hub, num_classes=7)
    assert other(images).shape == (2, 7)
    own = load(hub)
    trunk = {key: value for key, value in own.state_dict().items() if "classifier" not in key}
    assert all(other.state_dict()[key].equal(value) for key, value in trunk.items())
    own.reset_classifier(3)
    assert own(images).shape == (2, 3)
    features = load(hub, features_only=True)
    maps = features(images)
    assert [m.shape[1] for m in maps] == features.feature_info.channels()
    assert features.feature_info.reduction() == [2, 4, 8, 16, 32]
    whole = load(hub).forward_features(images)
    torch.testing.assert_close(maps[-1], whole)


@pytest.mark.parametrize("transform", ["crop", "squash"])
@pytest.mark.parametrize("resolution", [32, 36, 44, 192, 208, 224, 236, 252, 256])
def test_timms_transform_gives_the_same_pixels(transform, resolution):
    info = get_dataset_info("dtd")
    words = timm_preprocessing(Preprocessing(resolution, transform, info.mean, info.std))
    from timm.data import create_transform

    theirs = create_transform(**words, is_training=False)
    ours = eval_transform(info, resolution, transform)
    rng = np.random.default_rng(resolution)
    for shape in ((300, 201, 3), (180, 333, 3)):
        image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
        torch.testing.assert_close(theirs(image), ours(image), rtol=0, atol=1e-6)


def test_timms_validation_loop_finds_our_accuracy(digits, hub, tmp_path):
    """What validate.py of timm does, with the bridge as its --device-modules."""
    net, resolution, provider = digits
    ours = evaluate(net, provider.eval_batches("test", resolution))
    images = provider.images("test")
    for i in range(len(images)):
        folder = tmp_path / "val" / str(images.targets[i])
        folder.mkdir(parents=True, exist_ok=True)
        images.read(i).save(folder / f"{i:04}.png")

    loads_folders()
    importlib.import_module("msunas_timm")
    model = timm.create_model(f"local-dir:{hub}", pretrained=True).eval()
    config = timm.data.resolve_data_config({}, model=model)
    dataset = timm.data.create_dataset("", root=str(tmp_path), split="validation")
    loader = timm.data.create_loader(dataset, input_size=config["input_size"], batch_size=64,
                                     interpolation=config["interpolation"], mean=config["mean"],
                                     std=config["std"], crop_pct=config["crop_pct"],
                                     crop_mode=config["crop_mode"], num_workers=0,
                                     device=torch.device("cpu"))
    hits = n = 0
    with torch.inference_mode():
        for batch, labels in loader:
            top1, _ = timm.utils.accuracy(model(batch), labels, topk=(1, 5))
            hits, n = hits + top1.item() * len(labels) / 100, n + len(labels)
    assert n == ours["n_images"] == 600
    assert 100 * hits / n == pytest.approx(ours["top1"], abs=1e-6)


def test_the_bridge_needs_timm_alone(hub, tmp_path):
    loads_folders()
    shutil.copytree(ROOT / "msunas_timm", tmp_path / "site" / "msunas_timm")
    code = ("import sys; sys.path.insert(0, sys.argv[1])\n"
            "import msunas_timm, timm\n"
            "net = timm.create_model('local-dir:' + sys.argv[2], pretrained=True)\n"
            "own = {'networks', 'utils', 'search_space', 'ofa', 'evaluator'} & set(sys.modules)\n"
            "assert not own, own\n"
            "print(net.num_classes)")
    done = subprocess.run([sys.executable, "-I", "-c", code, tmp_path / "site", hub], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.stdout == "10\n", done.stderr


def test_a_script_runs_with_the_models_registered(tmp_path, run_command):
    script = tmp_path / "a script.py"
    script.write_text("import sys, timm\n"
                      "print(timm.is_model('nsganetv2'), sys.argv[1:], __name__)")
    done = run_command("-m", "msunas_timm", script, "--model", "x")
    assert done.stdout == "True ['--model', 'x'] __main__\n", done.stderr
    done = run_command("-m", "msunas_timm", tmp_path / "absent.py")
    assert "no such script" in done.stderr
    assert done.returncode == 1


def test_config_json_says_what_timm_reads(hub, digits):
    config = json.loads((hub / "config.json").read_text())
    net, resolution, provider = digits
    assert config == json.loads(json.dumps(hub_config(
        net, Preprocessing(resolution, "squash", provider.info.mean, provider.info.std))))
    assert config["architecture"] == "nsganetv2"
    assert config["pretrained_cfg"]["input_size"] == [3, resolution, resolution]


def test_timm_gets_the_names_of_the_classes(digits, tmp_path):
    net, resolution, provider = digits
    images = Preprocessing.of(resolution, provider.facts() | {"class_names": list("abcdefghij")})
    write_hub(net, tmp_path / "hub", images, "# card\n")
    assert list(load(tmp_path / "hub").pretrained_cfg["label_names"]) == list("abcdefghij")
    for names in ([], ["a", "b"]):
        assert "label_names" not in hub_config(net, images._replace(class_names=names))


@pytest.mark.parametrize(("names", "row"), [
    (list("abcdefghij"), "| classes | 10: a, b, c, d, e, f, g, h, i, j |"),
    (["x|y", "two\nlines", *"cdefghij"], r"| classes | 10: x\|y, two\nlines, c, d,"),
    (["a"], "| classes | 10 |"), ([], "| classes | 10 |")])
def test_a_model_card_names_the_classes(digits, names, row):
    net, resolution, provider = digits
    images = Preprocessing.of(resolution, provider.facts() | {"class_names": names})
    assert row in render(Card("net", "digits"), net, images)


@pytest.mark.parametrize(("change", "match"), [
    (lambda c: c["blocks"][1]["conv"].update(mid_channels=25), "multiple of 8"),
    (lambda c: c["first_conv"].update(stride=1), "logits differ"),
    (lambda c: c["blocks"][1]["conv"].update(act_func="tanh"), "no activation 'tanh'")])
def test_what_timm_cannot_express_is_never_written(change, match, tmp_path, capsys):
    config = build_config()
    change(config)
    net = build_from_config(config).eval()
    with pytest.raises(UserError, match=match):
        write_hub(net, tmp_path / "hub", Preprocessing(32, "crop", (0.5,) * 3, (0.5,) * 3), "")
    assert not (tmp_path / "hub").exists()
    give_to_timm(net, tmp_path / "hub", Preprocessing(32, "crop", (0.5,) * 3, (0.5,) * 3),
                 Card("net", "digits"))
    note = capsys.readouterr().err
    assert f"no {tmp_path / 'hub'}: " in note and match in note
    assert not (tmp_path / "hub").exists()


def build_config():
    """The config of a small network without a shortcut around its second block."""
    net = cut_subnet(build_supernet(10, 0.35), SPACE.extremes()[0])
    config = json.loads(json.dumps(net.config))
    following = config["blocks"][1]["conv"]
    following["mid_channels"] = 24
    return config


def test_a_resnet_has_no_timm_form_and_the_reason_says_what_else(tmp_path):
    arch = get_search_space("resnet50").extremes()[0]
    net = cut_subnet(build_supernet(10, 0.35, family="resnet50"), arch)
    with pytest.raises(UserError, match=r"one inner width .* hubconf\.py .* scripts/export\.py"):
        write_hub(net, tmp_path / "hub", Preprocessing(64, "crop", (0.5,) * 3, (0.5,) * 3), "")
    assert not (tmp_path / "hub").exists()


def test_a_model_card_says_who_chose_by_the_images(digits):
    net, resolution, provider = digits
    card = Card("net-flops@1", "digits", {"place on the front": "2 of 9"},
                [Accuracy("test images", 600, 97.5, "nothing")], {"search": "python msunas.py"},
                ["A note."])
    text = render(card, net, Preprocessing(resolution, "squash", provider.info.mean,
                                           provider.info.std))
    for part in ("# net-flops@1\n", "| place on the front | 2 of 9 |", "local-dir:hub",
                 "| test images | 600 | 97.50 % | 95.92 to 98.48 % | nothing |",
                 "search:\n\n```sh\npython msunas.py\n```", "A note.", "ms for one image",
                 "conv + linear MACs", "Apache License 2.0"):
        assert part in text, part
    assert text.startswith("---\nlibrary_name: timm\n")


def test_nothing_of_a_received_search_is_markup_in_a_card(digits):
    net, resolution, provider = digits
    command = "python msunas.py --save 'a\n```\n# Owned\n````'"
    card = Card("net", "a\n# Owned", {"supernet": "w | <img src=x>\n\n# Owned `x` [a](b)"}, (),
                {"search": command})
    text = render(card, net, Preprocessing(resolution, "squash", provider.info.mean,
                                           provider.info.std))
    assert f"`````sh\n{command}\n`````\n" in text
    outside = text.replace(command, "")
    assert r"| supernet | w \| \<img src=x>\n\n# Owned \`x\` \[a\](b) |" in outside.replace(
        r"\\n", r"\n")
    assert "\n# Owned" not in outside


def test_a_hub_that_is_a_link_is_not_written(digits, tmp_path):
    net, resolution, provider = digits
    (tmp_path / "precious").mkdir()
    (tmp_path / "hub").symlink_to(tmp_path / "precious")
    images = Preprocessing(resolution, "squash", provider.info.mean, provider.info.std)
    with pytest.raises(UserError, match="a link"):
        write_hub(net, tmp_path / "hub", images, "# card\n")
    assert not list((tmp_path / "precious").iterdir())


@pytest.mark.parametrize("stopped_at", ["model.safetensors", "README.md", "config.json"])
def test_a_card_never_lies_beside_other_weights(digits, hub, tmp_path, monkeypatch, stopped_at):
    """Stopped between two of its files, the folder is no model rather than a mixture."""
    net, resolution, provider = digits
    shutil.copytree(hub, tmp_path / "hub")
    replace = os.replace

    def stop(source, target):
        if Path(target).name == stopped_at:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", stop)
    images = Preprocessing(resolution, "squash", provider.info.mean, provider.info.std)
    with pytest.raises(KeyboardInterrupt):
        write_hub(net, tmp_path / "hub", images, "# another card\n")
    card, config = tmp_path / "hub/README.md", tmp_path / "hub/config.json"
    assert not config.exists()
    assert card.read_text() == "# another card\n" if stopped_at == "config.json" else \
        not card.exists()
