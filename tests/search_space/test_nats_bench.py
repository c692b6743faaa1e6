"""NATS-Bench: files as its own package writes them become a table."""

import pytest

from evaluator.table import TableEvaluator

CELLS = ("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|",
         "|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|")
SETS = {"cifar10-valid": ("x-valid", "ori-test"), "cifar10": ("ori-test",),
        "cifar100": ("x-valid", "x-test", "ori-test"),
        "ImageNet16-120": ("x-valid", "x-test", "ori-test")}


def accuracy(cell: int, epochs: int, dataset: str, part: str, seed: int) -> float:
    """Returns a figure that no other entry of the files has."""
    place = list(SETS).index(dataset)
    return 10 * place + 2 * SETS[dataset].index(part) + cell + epochs / 1000 + (seed - 777) / 100


def training(nats, cell: int, epochs: int, dataset: str, seed: int):
    """Returns one training as the package keeps it, with a curve that grows to `accuracy`."""
    result = nats.ResultsCount(dataset, None, {}, {}, 0.1, 10.0, {"arch_str": CELLS[cell]}, seed,
                               epochs, None)
    curve = {epoch: float(epoch) for epoch in range(epochs)}
    result.update_train_info(curve, curve, curve, curve)
    for part in SETS[dataset]:
        last = accuracy(cell, epochs, dataset, part, seed)
        accuracies = {f"{part}@{epoch}": last - epochs + 1 + epoch for epoch in range(epochs)}
        result.update_eval(accuracies, accuracies, accuracies)
    return result


@pytest.fixture(scope="module", params=["folder", "file"])
def published(request, tmp_path_factory):
    """The two forms in which NATS-tss is published, of two cells."""
    nats = pytest.importorskip("nats_bench.api_utils")
    infos = {}
    for cell, text in enumerate(CELLS):
        infos[cell] = {}
        for epochs, seeds in ((12, [777]), (200, [777, 888])):
            results = nats.ArchResults(cell, text)
            for dataset in SETS:
                for seed in seeds:
                    results.update(dataset, seed, training(nats, cell, epochs, dataset, seed))
            infos[cell][str(epochs)] = results.state_dict()
    path = tmp_path_factory.mktemp("nats") / "NATS-tss-v1_0-3ffb9-simple"
    if request.param == "file":
        whole = {"meta_archs": list(CELLS), "arch2infos": infos, "evaluated_indexes": {0, 1}}
        nats.pickle_save(whole, f"{path}.pickle")
        return f"{path}.pickle.pbz2"
    path.mkdir()
    nats.pickle_save({"meta_archs": list(CELLS)}, path / "meta.pickle")
    for cell, content in infos.items():
        nats.pickle_save(content, path / f"{cell:06d}.pickle")
    return path


def test_the_published_files_are_a_table(published, run_command, tmp_path):
    table = tmp_path / "cells.csv.gz"
    done = run_command("scripts/convert_nasbench.py", "nats", published, "--out", table)
    assert done.returncode == 0 and "2 architectures" in done.stdout, done.stderr
    for cell, text in enumerate(CELLS):
        stats = TableEvaluator("nasbench201", {"table": str(table)}).evaluate({"arch": text})
        both = [accuracy(cell, 200, "cifar10", "ori-test", seed) for seed in (777, 888)]
        assert stats["top1"] == pytest.approx(sum(both) / 2)
        assert stats["cifar10_valid_top1_12epochs"] == accuracy(
            cell, 12, "cifar10-valid", "x-valid", 777)
        assert stats["imagenet16_120_test_top1_12epochs"] == accuracy(
            cell, 12, "ImageNet16-120", "x-test", 777)
        assert len(stats) == 2 + 12


def test_a_damaged_folder_is_named(tmp_path, fails_clearly):
    pytest.importorskip("nats_bench")
    (tmp_path / "meta.pickle.pbz2").write_bytes(b"BZh9")
    fails_clearly("scripts/convert_nasbench.py", "nats", tmp_path, "--out", tmp_path / "a.csv",
                  match="nats_bench cannot read it")
    assert not (tmp_path / "a.csv").exists()
