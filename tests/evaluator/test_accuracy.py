"""One evaluation: repeatable, by every path the same, and clear about bad input."""

import copy
import json
import os
import pickle

import numpy as np
import pytest
import torch

import networks
from data_providers import DataProvider
from evaluator import OFAEvaluator, build_evaluator
from evaluator.__main__ import evaluate as evaluate_files
from evaluator.__main__ import get_args_parser
from evaluator.__main__ import main as evaluation_main
from evaluator.accuracy import NetEvaluator, arch_seed, parse_latency
from evaluator.base import Evaluator
from evaluator.options import EvaluationOptions, with_dataset
from networks.folding import folded, speed_up
from search_space import OFASearchSpace
from tests.data_providers import layouts
from training.loops import evaluate
from utils.errors import UserError

ARCH, OTHER = OFASearchSpace(resolutions=[32]).sample(2, rng=np.random.default_rng(0))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def supernet_path(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("supernet") / "ofa_test_w0.35"
    networks.save_weights(networks.build_supernet(10, width_mult=0.35), path)
    return str(path)


@pytest.fixture(scope="module")
def evaluator(supernet_path, cache):
    return build_evaluator("ofa", {
        "supernet_path": supernet_path, "dataset": "digits", "data": None, "n_classes": 10,
        "vld_size": 200, "seed": 1, "cache_dir": cache, "device": "cpu", "gpus": [], "threads": 1,
        "oracle_path": None, "latency_batch_size": 2, "latency_device": "cpu"})


def test_stats_of_an_evaluation(evaluator):
    stats = evaluator.evaluate(ARCH)
    assert list(stats) == ["params", "flops", "gpu", "cpu", "loss", "top1", "top5", "resolution",
                           "transform"]
    assert (stats["resolution"], stats["transform"]) == (32, "squash")
    assert stats["gpu"] is stats["cpu"] is None
    net = networks.cut_subnet(evaluator.supernet, ARCH)
    assert stats["params"] == round(sum(p.numel() for p in net.parameters()) / 1e6, 2)
    assert 0 <= stats["top1"] <= stats["top5"] <= 100
    json.dumps(stats, allow_nan=False)


def test_it_is_cut_calibrate_validate(evaluator, cache):
    """The same by hand, with a provider of its own."""
    provider = DataProvider("digits", vld_size=200, seed=1, cache_dir=cache)
    net = networks.cut_subnet(evaluator.supernet, ARCH)
    speed_up(net)
    assert networks.recalibrate_bn(net, provider.calibration_batches(32)) == provider.n_train
    expected = evaluate(folded(net), provider.eval_batches("valid", 32))
    assert expected.pop("n_images") == 200
    stats = evaluator.evaluate(ARCH)
    assert {key: stats[key] for key in expected} == expected


def test_repeatable_in_any_order(evaluator):
    first = [evaluator.evaluate(arch) for arch in (ARCH, OTHER)]
    again = [evaluator.evaluate(arch) for arch in (OTHER, ARCH)]
    assert first == again[::-1]
    assert first[0] != first[1]


def test_the_second_evaluation_decodes_nothing_and_the_cache_changes_nothing(
        supernet_path, tmp_path):
    """From files; with the cache, another worker on the same cache, and without."""
    data = layouts.folders(tmp_path / "data", "cifar10", 10, ("train",), "test", n_train=6)
    options = {"supernet_path": supernet_path, "dataset": data.name, "data": data.root,
               "vld_size": 20, "n_epochs": 0}
    cached, other, plain = (
        build_evaluator("ofa", {**options, **cache}) for cache in (
            {"cache_dir": tmp_path / "cache"}, {"cache_dir": tmp_path / "cache"}, {"cache_gb": 0}))
    archs = OFASearchSpace(resolutions=[32, 40]).sample(4, rng=np.random.default_rng(1))
    stats = [cached.evaluate(arch) for arch in archs]
    assert cached.provider.image_count_decoded == data.n_train
    assert stats == [cached.evaluate(arch) for arch in archs]
    assert cached.provider.image_count_decoded == data.n_train
    assert stats == [other.evaluate(arch) for arch in archs]
    assert other.provider.image_count_decoded == 0
    assert stats == [plain.evaluate(arch) for arch in archs]
    assert plain.provider.image_count_decoded == len(archs) * data.n_train


def test_smaller_batches_change_the_calibration_alone(evaluator, supernet_path, cache):
    stats = evaluator.evaluate(ARCH, batch_scale=0.5)
    assert stats.pop("batch_scale") == 0.5
    assert stats["loss"] == pytest.approx(evaluator.evaluate(ARCH)["loss"], rel=0.05)

    net = networks.cut_subnet(evaluator.supernet, ARCH)
    measured = [evaluator.score(copy.deepcopy(net), 32, recalibrate=False, batch_scale=scale)
                for scale in (1, 0.1)]
    for key in ("loss", "top1", "top5"):
        assert measured[0][key] == pytest.approx(measured[1][key], rel=1e-6)


def test_fine_tuning_replaces_the_classifier_and_is_repeatable(supernet_path, cache):
    options = {"dataset": "digits", "vld_size": 1000, "n_epochs": 1, "cache_dir": cache}
    tuned = build_evaluator("ofa", {"supernet_path": supernet_path, **options})
    stats = tuned.evaluate(ARCH)
    assert stats == tuned.evaluate(ARCH)
    other_seed = build_evaluator("ofa", {"supernet_path": supernet_path, **options, "seed": 1})
    assert stats["loss"] != other_seed.evaluate(ARCH)["loss"]
    net = networks.cut_subnet(tuned.supernet, ARCH)
    networks.replace_classifier(net, 7, torch.Generator().manual_seed(0))
    tuned.score(net, 36)
    assert net.classifier.out_features == 10
    assert not net.training


def test_test_images_and_mixed_precision(supernet_path, cache):
    scores = [build_evaluator("ofa", {"supernet_path": supernet_path, "dataset": "digits",
                                      "cache_dir": cache, **options}).evaluate(ARCH)["loss"]
              for options in ({}, {"test": True}, {"amp": True})]
    assert scores[0] != scores[1]
    assert scores[2] == pytest.approx(scores[0], rel=0.05)


def test_latency_is_measured_when_asked(evaluator):
    latency = evaluator.latency(ARCH)
    assert list(latency) == ["cpu", "latency"]
    assert latency["cpu"] > 0
    assert list(spread := latency["latency"]["cpu"]) == ["median", "iqr", "count"]
    assert 0 < spread["median"] < 2 * latency["cpu"] and spread["iqr"] >= 0


def test_options_that_cannot_work(supernet_path, tmp_path, cache):
    def build(**options):
        return build_evaluator("ofa", {"supernet_path": supernet_path, "dataset": "digits",
                                       "cache_dir": cache, **options})

    with pytest.raises(UserError, match="10 classes"):
        build(n_classes=11)
    with pytest.raises(UserError, match="digits_missing"):
        build(dataset="digits_missing")
    with pytest.raises(UserError, match="device 'tpu'"):
        build(device="tpu")
    with pytest.raises(UserError, match="'cuda:77' cannot be used"):
        build(device="cuda:77")
    with pytest.raises(UserError, match="GPU cannot be measured"):
        build(latency_device="gpu")
    with pytest.raises(UserError, match="1197 images"):
        build(vld_size=5000)
    path = tmp_path / "three_w0.35"
    networks.save_weights(networks.build_supernet(3, width_mult=0.35), path)
    with pytest.raises(UserError, match="a network for 3 classes, but the data set has 10"):
        build(supernet_path=str(path))
    assert build(supernet_path=str(path), n_epochs=1).n_epochs == 1
    with pytest.raises(UserError, match="'ks' of the architecture"):
        build().evaluate({**ARCH, "ks": [9] * len(ARCH["ks"])})
    with pytest.raises(UserError, match="a network for 4 classes, but the data set has"):
        net = networks.cut_subnet(build().supernet, ARCH)
        networks.replace_classifier(net, 4, torch.Generator())
        build().score(net, 32)


def test_the_original_s_interface(supernet_path, tmp_path, cache, evaluator):
    ofa = OFAEvaluator(n_classes=10, model_path=supernet_path)
    subnet, config = ofa.sample(ARCH)
    assert config == ARCH
    assert ofa.sample()[1]["d"]
    without_r, _ = ofa.sample({key: ARCH[key] for key in ("ks", "e", "d")})
    assert without_r.config == subnet.config
    with pytest.raises(UserError, match="'d' of the architecture"):
        ofa.sample({**ARCH, "d": [2]})
    with pytest.raises(UserError, match="10 classes, not 1000"):
        OFAEvaluator(model_path=supernet_path)
    ofa.save_net_config(tmp_path, subnet, "net.config", resolution=32)
    ofa.save_net(tmp_path, subnet, "net.inherited")
    rebuilt = networks.build_from_config(networks.read_config(tmp_path / "net.config")).eval()
    networks.load_weights(rebuilt, tmp_path / "net.inherited")
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(rebuilt(x), subnet(x))
    stats = OFAEvaluator.eval(rebuilt, None, dataset="digits", resolution=32, valid_size=200,
                              num_workers=0, is_test=False, log_dir=tmp_path / "log", seed=1,
                              measure_latency="cpu", cache_dir=cache)
    assert stats == json.loads((tmp_path / "log" / "net.stats").read_text())
    assert stats.pop("cpu") > 0
    assert stats.pop("latency")["cpu"]["median"] > 0
    expected = evaluator.evaluate(ARCH)
    assert expected.pop("cpu") is None
    assert stats == expected


@pytest.mark.parametrize("text, expected", [
    (None, []), ("cpu", [("cpu", 1)]), ("gpu64#cpu", [("gpu", 64), ("cpu", 1)])])
def test_latency_settings(text, expected):
    assert parse_latency(text) == expected


@pytest.mark.parametrize("text", ["tpu", "gpu0", "cpu-1", "cpu#", "gpu²"])
def test_latency_settings_that_are_wrong(text):
    with pytest.raises(UserError, match="gpu64#cpu"):
        parse_latency(text)


def test_seeds_depend_on_seed_and_architecture_alone():
    shuffled = {key: ARCH[key] for key in reversed(ARCH)}
    assert arch_seed(ARCH, 0) == arch_seed(shuffled, 0)
    assert len({arch_seed(ARCH, 0), arch_seed(ARCH, 1), arch_seed(OTHER, 0)}) == 3


# ------------------------------------------------------------------------------ python -m evaluator

COMMON = ["-m", "evaluator", "--dataset", "digits", "--n_workers", "0", "--threads", "1"]


@pytest.fixture(scope="module")
def files(evaluator, tmp_path_factory):
    folder = tmp_path_factory.mktemp("it's a folder")
    (folder / "net.subnet").write_text(json.dumps(ARCH))
    net = networks.cut_subnet(evaluator.supernet, ARCH)
    networks.write_config(net, folder / "net.config", old_naming=True, resolution=32)
    networks.save_weights(net, folder / "net.init", old_naming=True)
    return folder


def test_command_on_a_subnet_and_on_a_network(run_command, files, supernet_path, evaluator, cache):
    common = [*COMMON, "--cache_dir", cache, "--vld_size", "200", "--seed", "1"]
    save = files / "new" / "net.stats"
    done = run_command(*common, "--subnet", files / "net.subnet", "--supernet_path",
                       supernet_path, "--save", save)
    assert done.returncode == 0, done.stderr
    stats = json.loads(save.read_text())
    assert done.stdout == json.dumps(stats) + "\n"
    assert stats == evaluator.evaluate(ARCH)
    done = run_command(*common, "--config", files / "net.config", "--init", files / "net.init",
                       "--reset_running_statistics")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == stats


def test_a_typed_resolution_is_obeyed(files, supernet_path, evaluator, cache, capsys):
    flags = ["--dataset", "digits", "--n_workers", "0", "--cache_dir", cache, "--vld_size", "200",
             "--seed", "1", "--resolution", "40"]
    parser = get_args_parser()
    stats = evaluate_files(parser.parse_args(
        [*flags, "--subnet", str(files / "net.subnet"), "--supernet_path", supernet_path]))
    assert stats == evaluator.evaluate({**ARCH, "r": 40})
    assert "net.subnet records 32; using --resolution 40" in capsys.readouterr().err
    again = evaluate_files(parser.parse_args(
        [*flags, "--config", str(files / "net.config"), "--init", str(files / "net.init"),
         "--reset_running_statistics"]))
    assert again == stats
    assert "net.config records 32; using" in capsys.readouterr().err


def test_an_evaluator_of_one_s_own_keeps_to_the_contract():
    with pytest.raises(UserError, match="must be a class derived from Evaluator"):
        build_evaluator("tests.evaluator.test_accuracy:NoEvaluator", {})
    with pytest.raises(UserError, match="Constant measures no latency"):
        build_evaluator("tests.evaluator.test_accuracy:Constant", {"top1": 3}).latency(ARCH)
    with pytest.raises(UserError, match=r"choose from .*ofa, oracle"):
        build_evaluator("ofaa", {})
    with pytest.raises(UserError, match="needs its supernet: give --supernet_path"):
        build_evaluator("ofa", {"dataset": "digits"})


class NoEvaluator:
    """Has the methods, but does not say that it keeps to the contract."""


class Constant(Evaluator):
    """Knows one answer."""

    def __init__(self, top1):
        self.top1 = top1

    def evaluate(self, arch, *, batch_scale=1.0):
        return {"top1": self.top1}


def write_bad_files(folder):
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch '{folder / 'created'}'",)

    torch.save({"state_dict": Attack()}, folder / "attack_w0.35")
    (folder / "attack.pkl").write_bytes(pickle.dumps(Attack()))
    (folder / "html").write_text("<html>not found</html>")
    (folder / "truncated.json").write_text('{"ks": [3, 3')
    (folder / "foreign.subnet").write_text(json.dumps({**ARCH, "ks": [4] * len(ARCH["ks"])}))
    (folder / "file").write_text("x")
    config = json.loads((folder / "net.config").read_text())
    config["first_conv"]["out_channels"] = 10**9
    (folder / "absurd.config").write_text(json.dumps(config))


@pytest.mark.parametrize("arguments, match", [
    ([], "give either --subnet"), (["--config", "net.config"], "--config needs --init"),
    (["--subnet", "a", "--init", "b"], "--init: has no meaning with --subnet; leave it out"),
    (["--config", "a", "--init", "b", "--search_space", "mbv3"], "has no meaning with --config"),
    (["--subnet", "missing"], "missing: no such subnet file"),
    (["--subnet", "truncated.json"], "truncated"), (["--subnet", "html"], "HTML"),
    (["--subnet", "foreign.subnet"], "the space has 3, 5, 7"),
    (["--subnet", "net.subnet", "--supernet_path", "missing_w1.0"], "no such checkpoint"),
    (["--subnet", "net.subnet", "--supernet_path", "attack_w0.35"], "carries code"),
    (["--subnet", "net.subnet", "--vld_size", "0"], "--valid_size: must be 1 or more, not 0"),
    (["--subnet", "net.subnet", "--save", "file/net.stats"], "is a file"),
    (["--config", "absurd.config", "--init", "net.init"], "1..16384, not 1000000000"),
    (["--config", "net.config", "--init", "attack.pkl"], "carries code")])
def test_bad_input_on_the_command_line(fails_clearly, files, cache, arguments, match):
    write_bad_files(files)
    paths = [files / a if (files / a).exists() or a.startswith(("missing", "file/")) else a
             for a in arguments]
    fails_clearly(*COMMON, "--cache_dir", cache, *paths, match=match)
    assert not (files / "created").exists()


def test_a_network_evaluator_needs_no_supernet(cache, evaluator):
    alone = NetEvaluator(EvaluationOptions(dataset="digits", vld_size=200, seed=1,
                                           cache_dir=cache))
    net = networks.cut_subnet(evaluator.supernet, ARCH)
    assert alone.evaluate_net(net, 32) == evaluator.evaluate(ARCH)


def files_args(*flags):
    return get_args_parser().parse_args(["--dataset", "digits", "--n_workers", "0", "--vld_size",
                                         "100", *map(str, flags)])


def test_the_originals_names_of_flags_are_taken(supernet_path):
    args = get_args_parser().parse_args(
        "--num_workers 2 --valid_size 30 --log_dir d --drop_rate 0.1 --drop_connect_rate 0.3 "
        "--verbose --save_config".split())
    assert (args.n_workers, args.vld_size, args.log_dir) == (2, 30, "d")
    options = EvaluationOptions.of(vars(args))
    assert (options.drop_rate, options.drop_connect_rate, options.verbose) == (0.1, 0.3, True)
    assert args.device is None, "a GPU where there is one"


def test_the_tuned_network_is_kept_and_measures_the_same(supernet_path, cache, tmp_path,
                                                         monkeypatch, capsys):
    """--save_config: the pair, read again and evaluated without fine-tuning, repeats the stats."""
    monkeypatch.setenv("MSUNAS_CACHE", cache)
    subnet = tmp_path / "net.subnet"
    subnet.write_text(json.dumps(ARCH))
    run = tmp_path / "log"
    evaluation_main(files_args("--subnet", subnet, "--supernet_path", supernet_path, "--n_epochs",
                               1, "--save_config", "--log_dir", run, "--device", "cpu"))
    stats = json.loads(capsys.readouterr().out)
    assert {path.name for path in run.iterdir()} == {"net.config", "net.init", "net.stats"}
    assert json.loads((run / "net.stats").read_text()) == stats
    evaluation_main(files_args("--config", run / "net.config", "--init", run / "net.init",
                               "--device", "cpu"))
    again = json.loads(capsys.readouterr().out)
    assert {key: again[key] for key in ("top1", "top5", "resolution", "flops")} == \
        {key: stats[key] for key in ("top1", "top5", "resolution", "flops")}
    assert again["loss"] == pytest.approx(stats["loss"])


@pytest.mark.parametrize(("flag", "rate"), [("--drop_rate", 0.9), ("--drop_connect_rate", 0.9)])
def test_dropout_and_drop_path_reach_the_fine_tuning(supernet_path, cache, tmp_path, flag, rate,
                                                     monkeypatch):
    monkeypatch.setenv("MSUNAS_CACHE", cache)
    subnet = tmp_path / "net.subnet"
    subnet.write_text(json.dumps(ARCH))
    losses = [evaluate_files(files_args("--subnet", subnet, "--supernet_path", supernet_path,
                                        "--n_epochs", 1, "--device", "cpu", *more))["loss"]
              for more in ([], [flag, rate])]
    assert losses[0] != losses[1]


def test_the_fingerprint_is_that_of_the_images_and_the_weights(evaluator, supernet_path, cache):
    def fingerprint(**changed):
        return build_evaluator("ofa", {"dataset": "digits", "supernet_path": supernet_path,
                                       "vld_size": 200, "cache_dir": cache} | changed).fingerprint()

    assert fingerprint() == evaluator.fingerprint() == fingerprint(seed=2)
    assert fingerprint(vld_size=201) != fingerprint()
    other = build_evaluator("ofa", {"dataset": "digits", "supernet_path": supernet_path,
                                    "vld_size": 200, "cache_dir": cache})
    next(other.supernet.parameters()).data[0] += 1
    assert other.fingerprint() != fingerprint()
@pytest.mark.parametrize(("typed", "recorded", "expected"), [
    ((), None, "imagenet"), ((), "digits", "digits"), ((), "unknown", "imagenet"),
    (("--dataset", "cifar10"), "digits", "cifar10")])
@pytest.mark.parametrize("kind", ["config", "supernet"])
def test_what_a_file_records_decides_the_data_set(files, tmp_path, kind, typed, recorded, expected):
    path = tmp_path / "file"
    if kind == "config":
        config = json.loads((files / "net.config").read_text())
        path.write_text(json.dumps({**config, "dataset": recorded}))
    else:
        torch.save({"state_dict": {}, "meta": {"dataset": recorded}}, path)
    args = get_args_parser().parse_args([*typed])
    names = {"config": None, "supernet": None, kind: str(path)}
    assert with_dataset(args, **names).dataset == expected
    args = get_args_parser().parse_args([*typed, "--data", "pictures"])
    if expected != "digits":
        assert with_dataset(args, **names).dataset == expected
        return
    with pytest.raises(UserError, match=r"--data pictures: would not be read.*--dataset folder"):
        with_dataset(args, **names)
