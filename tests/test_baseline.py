"""scripts/baseline.py: the whole network alone, trained as its supernet was."""

import json
from dataclasses import replace

import pytest
import torch

import train_supernet
from networks import load_supernet
from scripts import baseline
from search.baseline import TEST, VALIDATION, read_baselines, write_baselines

FLAGS = ("--dataset", "digits", "--batch_size", 300, "--n_random", 1, "--threads", 1, "--lr",
         "0.003", "--epochs", 1, 0, 0, 1)


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    """The checkpoint of a short training."""
    path = tmp_path_factory.mktemp("supernet") / "ofa_digits_w0.1"
    call(train_supernet, "--save", path, "--resolutions", 16, 24, *FLAGS)
    return path


def call(script, *words) -> None:
    torch.set_num_threads(1)
    script.main(script.get_args_parser().parse_args([*map(str, words)]))


def test_the_network_is_trained_alone_with_the_flags_of_the_supernet(supernet, tmp_path, capsys,
                                                                     monkeypatch):
    folder, trained = tmp_path / "alone", []
    run = train_supernet.run
    monkeypatch.setattr(train_supernet, "run", lambda args: trained.append(args) or run(args))
    call(baseline, supernet, "--save", folder, "--threads", 1)
    networks = read_baselines(folder / "baseline.json")
    assert [network.name for network in networks] == [f"mbv3 alone, {r} px" for r in (16, 24)]
    assert [network.n_images for network in networks] == 2 * [{VALIDATION: 300, TEST: 600}]
    small, large = (network.costs for network in networks)
    assert small["flops"] < large["flops"] and small["params"] == large["params"]
    assert small["cpu"] > 0 and large["cpu"] > 0
    printed = capsys.readouterr().out
    for network, resolution in zip(networks, (16, 24), strict=True):
        assert f"test images: largest {network.top1[TEST]:.2f} %" in printed
        assert network.line() in printed
        net = load_supernet(folder / f"{resolution}px_w0.1")
        assert net.meta["epochs"] == [2, 0, 0, 0] and net.meta["resolutions"] == [resolution]
    asked = {(args.lr, args.batch_size, args.vld_size, args.dataset) for args in trained}
    assert asked == {(0.003, 300, None, "digits")}

    write_baselines(folder / "baseline.json", networks[1:])  # as if stopped before its scores
    call(baseline, supernet, "--save", folder, "--threads", 1)
    assert len(trained) == 3 and trained[2].resume and trained[2].resolutions == [16]
    again = read_baselines(folder / "baseline.json")
    assert again[0] == networks[1], "what was done stays"
    assert replace(again[1], costs={}) == replace(networks[0], costs={}), "latency is measured anew"
    call(baseline, supernet, "--save", folder, "--resolutions", 24)
    assert len(trained) == 3, "nothing is left to train"


def test_without_the_state_of_a_training_one_line_says_so(fails_clearly, tmp_path):
    fails_clearly("scripts/baseline.py", tmp_path / "none_w0.1", "--save", tmp_path / "alone",
                  match="no such state of a training")
    (tmp_path / "b.json").write_text(json.dumps({"networks": [{"name": "a"}]}))
    fails_clearly("scripts/report.py", tmp_path, "--baseline", tmp_path / "b.json",
                  match="b.json: no baseline file")
