"""What a folder of the original recorded is compared with what the search that adopts it counts."""

import json
import shutil

import numpy as np
import pytest
import yaml

from evaluator.costs import CostModel
from search import SpaceCosts, make_objectives
from search.archive import Record, Stats, read_stats, write_stats
from search.import_original import check_recorded
from search.settings import DEFAULT_LUT
from search_space import OFASearchSpace
from tests.search.runs import command, contents
from utils.errors import UserError
from utils.files import write_json

SPACE = OFASearchSpace()


def costs(lut, n_classes=1000):
    return SpaceCosts(SPACE, n_classes, luts={"": str(lut)})


@pytest.fixture(scope="module")
def other_table(tmp_path_factory):
    """The latencies of a machine that is faster in an own way: not in the same order."""
    table = yaml.safe_load(open(DEFAULT_LUT))
    path = tmp_path_factory.mktemp("lut") / "other.yaml"
    path.write_text(yaml.safe_dump({name: row | {"mean": row["mean"] * (0.8 + len(name) % 5 / 10)}
                                    for name, row in table.items()}))
    return path


@pytest.fixture(params=["networks", "archive"])
def original(request, tmp_path, other_table):
    """A folder of the original's search of `cpu`, by another table, rounded as it rounds."""
    folder, archs = tmp_path / "original", SPACE.initialize(52, rng=np.random.default_rng(0))
    X = SPACE.encode_many(archs)
    cpu = costs(other_table).latency("")(X).round(2)
    flops = CostModel(SPACE).evaluate(X)["flops"] / 1e6
    if request.param == "archive":
        records = [Record(arch, 30.0 + i / 10, ms)
                   for i, (arch, ms) in enumerate(zip(archs, cpu, strict=True))]
        write_stats(folder / "iter_0.stats", Stats(records, records, 0.5))
    for i, arch in enumerate(archs if request.param == "networks" else ()):
        write_json(folder / f"iter_0/net_{i}.subnet", arch)
        write_json(folder / f"iter_0/net_{i}.stats", {
            "top1": 70 - i / 10, "cpu": cpu[i], "flops": round(flops[i], 2), "params": None})
    return folder


def check(folder, lut, sec_obj="cpu", n_classes=1000):
    with_lut = costs(lut, n_classes)
    check_recorded(folder, SPACE, make_objectives(sec_obj, with_lut), with_lut)


def test_latencies_of_another_table_are_refused_with_the_way_out(original, other_table):
    with pytest.raises(UserError, match=r"\d\d of 52 recorded values of cpu differ") as error:
        check(original, DEFAULT_LUT)
    assert "--lut FILE" in str(error.value) and "--accept_changed_inputs" in str(error.value)
    check(original, other_table)
    check(original, DEFAULT_LUT, "flops")  # what was a latency cannot be one of FLOPs


def test_costs_of_other_networks_are_refused(tmp_path):
    archs = SPACE.initialize(5, rng=np.random.default_rng(0))
    params = CostModel(SPACE, 10).evaluate(SPACE.encode_many(archs))["params"] / 1e6
    records = [Record(arch, 30.0, round(value, 2))
               for arch, value in zip(archs, params, strict=True)]
    write_stats(tmp_path / "iter_0.stats", Stats(records, records, 0.5))
    check(tmp_path, DEFAULT_LUT, "params", n_classes=10)
    check(tmp_path, DEFAULT_LUT)  # an archive of parameters, resumed for latency
    with pytest.raises(UserError, match="name the supernet and the classes of that search"):
        check(tmp_path, DEFAULT_LUT, "params", n_classes=1000)


def test_the_command_refuses_before_it_writes_and_takes_the_flag(finished, tmp_path, run_command,
                                                                 fails_clearly):
    old = tmp_path / "old"
    shutil.copytree(finished[0] / "iter_0", old / "iter_0")
    for path in (old / "iter_0").glob("net_*.stats"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"cpu": 5.89}))
    before = contents(old)
    words = [*command(tmp_path / "new"), "--resume", old, "--sec_obj", "cpu", "--iterations", 1]
    fails_clearly(*words, match="5.89 is ")
    assert contents(old) == before and not (tmp_path / "new").exists()
    done = run_command(*words, "--accept_changed_inputs")
    assert done.returncode == 0, done.stderr
    assert 5.89 not in [r.sec_obj for r in read_stats(tmp_path / "new/iter_1.stats").archive]
