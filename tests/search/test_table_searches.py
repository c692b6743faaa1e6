"""Searches on tables from the command line: gaps, resuming, and the report at the end."""

import json
import re

import pytest

from search_space import get_search_space
from tests.search_space.tables import write_cells, write_graphs, write_table

MAKERS = {"table": (write_table, "latency_ms"), "nasbenchgraph": (write_graphs, "latency_ms"),
          "nasbench201": (write_cells, "flops+seconds")}


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_search_on_a_table(run_command, tmp_path, name):
    make, objectives = MAKERS[name]
    options = make(tmp_path)
    save = tmp_path / "run"
    flags = [f"--{key}={value}" for key, value in options.items()]
    common = ("--n_doe", 15, "--n_iter", 5, "--cpu_workers", 1, "--n_gpus", 0)
    done = run_command("msunas.py", "--search_space", name, *flags, "--sec_obj", objectives,
                       "--save", save, "--iterations", 1, *common)
    assert done.returncode == 0, done.stderr
    done = run_command("msunas.py", "--resume", save, "--iterations", 2)
    assert done.returncode == 0, done.stderr
    report = re.search(r"found ([\d.]+) % of the true front's hypervolume, \d+ of its \d+ points; "
                       r"best accuracy ([\d.]+) %, regret ([\d.]+) %", done.stdout)
    assert report and 30 < float(report[1]) <= 100
    stats = json.loads((save / "iter_2.stats").read_text())
    assert len(stats["archive"]) == 25 and not (save / "failed" / "it_1_net_0").exists()
    space = get_search_space(name, **options)
    for arch, error, *_ in stats["archive"]:
        assert space.contains(space.encode(arch)[None]).all()
        assert 0 <= error <= 100
    assert float(report[2]) == pytest.approx(100 - min(row[1] for row in stats["archive"]),
                                             abs=0.005)
    done = run_command("post_search.py", "--expr", save, "--save", tmp_path / "chosen")
    assert done.returncode == 0 and "builds no networks" in done.stderr, done.stderr
    done = run_command("post_search.py", "--expr", save, "--save", tmp_path / "no", "--rescore")
    assert done.returncode == 2 and "builds no networks" in done.stderr
    for path in (tmp_path / "chosen").rglob("net.subnet"):
        chosen = json.loads(path.read_text())
        assert chosen.pop("search_space") == name and chosen in [row[0] for row in stats["archive"]]


@pytest.mark.parametrize(("flags", "match"), [
    ((), "--table FILE"), (("--table", "{table}"), "--genes"),
    (("--table", "{table}", "--genes", "depth,nothing"), "nothing"),
    (("--table", "nowhere.csv", "--genes", "depth"), "nowhere.csv")])
def test_bad_flags_of_a_table(fails_clearly, tmp_path, flags, match):
    table = write_table(tmp_path)["table"]
    fails_clearly("msunas.py", "--search_space", "table", "--save", tmp_path / "run",
                  *(flag.format(table=table) for flag in flags), match=match)
