"""Every family of networks through every command that takes one, on the handwritten digits."""

import argparse
import json

import pytest
import torch

import train_cifar
import validation
from evaluator import __main__ as evaluation
from evaluator import build_evaluator
from networks import (
    build_from_config,
    build_supernet,
    cut_subnet,
    load_weights,
    read_config,
    save_weights,
    write_config,
)
from search_space import get_search_space
from tests.networks.test_families import CASES
from training.students import load_teacher
from utils.errors import UserError

SIZE = 32


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module", params=sorted(CASES))
def files(request, tmp_path_factory):
    """A small random supernet of the family, and the files of a network cut from it."""
    name, (width, _) = request.param, CASES[request.param]
    folder = tmp_path_factory.mktemp(name)
    torch.manual_seed(0)
    supernet = build_supernet(10, width, 0.0, name).eval()
    save_weights(supernet, folder / f"ofa_w{width}")
    arch = get_search_space(name, resolutions=[SIZE]).extremes()[0]
    net = cut_subnet(supernet, arch)
    write_config(net, folder / "net.config", resolution=SIZE, transform="squash",
                 search_space=name)
    save_weights(net, folder / "net.inherited")
    named = {} if name == "mbv3" else {"search_space": name}
    (folder / "net.subnet").write_text(json.dumps({**arch, **named}))
    return argparse.Namespace(name=name, arch=arch, net=net, folder=folder,
                              supernet=folder / f"ofa_w{width}", cache=str(folder / "cache"))


def test_one_evaluation_by_every_path(files, capsys):
    """A worker's, the command's on a subnet and on its network, and validation.py's."""
    options = {"supernet_path": str(files.supernet), "search_space": files.name,
               "dataset": "digits", "vld_size": 300, "n_epochs": 0, "cache_dir": files.cache}
    evaluator = build_evaluator("ofa", options)
    stats = evaluator.evaluate(files.arch)
    assert stats["params"] == round(sum(p.numel() for p in files.net.parameters()) / 1e6, 2)
    assert stats == evaluator.evaluate(files.arch)
    flags = ["--dataset", "digits", "--n_workers", "0", "--vld_size", "300", "--cache_dir",
             files.cache]
    subnet = ["--subnet", str(files.folder / "net.subnet"), "--supernet_path", str(files.supernet)]
    network = ["--config", str(files.folder / "net.config"), "--init",
               str(files.folder / "net.inherited"), "--reset_running_statistics"]
    parser = evaluation.get_args_parser()
    for source in (subnet, network):
        assert evaluation.evaluate(parser.parse_args([*flags, *source])) == stats
    validation.main(validation.get_args_parser().parse_args(
        ["--dataset", "digits", "-j", "0", "--device", "cpu", "--split", "valid", *subnet]))
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {key: result[key] for key in ("top1", "top5", "params", "flops", "resolution")} == {
        key: stats[key] for key in ("top1", "top5", "params", "flops", "resolution")}


def test_a_fine_tuned_network_is_written_and_read_again(files, tmp_path, capsys):
    args = train_cifar.get_args_parser().parse_args(
        ["--dataset", "digits", "--model-config", str(files.folder / "net.config"),
         "--initial-checkpoint", str(files.folder / "net.inherited"), "--teacher",
         str(files.supernet), "--drop", "0.2", "--drop-path", "0.2", "--epochs", "1",
         "--batch-size", "300", "--threads", "1", "--save", str(tmp_path)])
    train_cifar.main(args)
    (run,) = tmp_path.iterdir()
    config = read_config(run / "net.config")
    assert config.get("search_space", "mbv3") == files.name
    assert config["resolution"] == SIZE
    net = build_from_config(config).eval()
    load_weights(net, run / "net.init")
    before = files.net.state_dict()
    assert any(not torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())


def test_a_supernet_teaches_at_its_full_size(files):
    teacher = load_teacher(str(files.supernet), None, 10)
    assert teacher.calibrate
    with pytest.raises(UserError, match="has weights of its own"):
        load_teacher(str(files.supernet), "weights", 10)
    largest = get_search_space(files.name, resolutions=[SIZE]).extremes()[1]
    supernet_params = sum(p.numel() for p in cut_subnet(
        build_supernet(10, CASES[files.name][0], 0.0, files.name), largest).parameters())
    assert sum(p.numel() for p in teacher.net.parameters()) == supernet_params


def test_another_family_is_named(files, fails_clearly):
    other = "resnet50" if files.name != "resnet50" else "proxyless"
    subnet = files.folder / "other.subnet"
    arch = get_search_space(other, resolutions=[SIZE]).extremes()[0]
    subnet.write_text(json.dumps(arch))
    fails_clearly("-m", "evaluator", "--dataset", "digits", "--subnet", subnet, "--search_space",
                  other, "--supernet_path", files.supernet,
                  match=f"a supernet of the family {files.name}, not {other}")


@pytest.mark.slow
def test_from_a_search_to_a_validated_network(files, run_command, tmp_path):
    """Search, selection and validation; the accuracy that the search recorded comes out again."""
    if files.name == "mbv3":
        pytest.skip("tests/search and tests/test_post_search.py do it for mbv3")
    run, chosen = tmp_path / "run", tmp_path / "chosen"
    search = ("msunas.py", "--search_space", files.name, "--supernet_path", files.supernet,
              "--dataset", "digits", "--resolutions", SIZE, "--vld_size", 60, "--cache_dir",
              files.cache, "--n_doe", 6, "--n_iter", 2, "--cpu_workers", 1,
              "--no_report")
    done = run_command(*search, "--iterations", 1, "--save", run)
    assert done.returncode == 0, done.stderr
    stats = json.loads((run / "iter_1.stats").read_text())
    assert stats["search_space"] == files.name and len(stats["archive"]) == 8
    done = run_command("post_search.py", "--expr", run, "--save", chosen, "--format", "json")
    assert done.returncode == 0, done.stderr
    row = next(row for row in json.loads(done.stdout) if row["chosen"])
    folder = chosen / row["chosen"]
    named = json.loads((folder / "net.subnet").read_text())
    assert named.get("search_space", "mbv3") == files.name
    config = json.loads((folder / "net.config").read_text())
    assert config.get("search_space", "mbv3") == files.name
    done = run_command("validation.py", "--dataset", "digits", "--split", "valid", "--vld_size", 60,
                       "--model", folder / "net.config", "--pretrained", folder / "net.inherited")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["top1"] == pytest.approx(row["top1"],
                                                                             abs=1e-3)
