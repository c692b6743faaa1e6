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
    assert done.stdout.count("--strategy ehvi suits a table best") == 1
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


WRONG = {"empty": "", "nan": "nan", "inf": "inf", "text": "n/a", "grouped": "13,045"}


@pytest.fixture
def plan(run_command, tmp_path):
    """Plans a search on rows of three columns, the last of which has the name `figure`."""
    def run(cells, *flags, figure="latency", separator=","):
        rows = [["k", "acc", figure], *([i, 70 + i, cell] for i, cell in enumerate(cells))]
        quote = [[f'"{cell}"' for cell in row] for row in rows]
        (tmp_path / "t.csv").write_text("\n".join(separator.join(row) for row in quote))
        return run_command("msunas.py", "--search_space", "table", "--table", tmp_path / "t.csv",
                           "--genes", "k", "--accuracy", "acc", "--sec_obj", figure,
                           "--save", tmp_path / "run", "--n_doe", 6, "--n_iter", 1,
                           "--iterations", 0, "--no_report", *flags)
    return run


@pytest.mark.parametrize("wrong", sorted(WRONG))
def test_a_cell_that_is_no_number_is_reported_before_the_search(plan, tmp_path, wrong):
    done = plan([1, 2, 3, WRONG[wrong], 5, 6, 7])
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    assert f"row 5: the column latency holds {WRONG[wrong]!r}, which is no number (1 of 7 rows); " \
        in done.stderr
    assert ("separator of thousands" in done.stderr) == (wrong == "grouped")
    done = plan([WRONG[wrong]] * 7)
    assert done.returncode == 2 and "row 2: the column latency" in done.stderr


@pytest.mark.parametrize(("figure", "name"), [
    ("Latency (ms)", "Latency_ms"), ("latency-gpu(ms)", "latency_gpu_ms"),
    ("Model Parameters", "Model_Parameters"), ("energy [mJ/img]", "energy_mJ_img")])
def test_columns_of_any_name_are_objectives(plan, run_command, tmp_path, figure, name):
    done = plan(range(1, 9), "--constraint", f"{name}<=7", figure=figure)
    assert done.returncode == 0, done.stderr
    stats = json.loads((tmp_path / "run" / "iter_0.stats").read_text())
    assert len(stats["archive"]) == 6 and stats["sec_obj"] == name
    assert all(value == arch["k"] + 1 <= 7 for arch, _, value in stats["archive"])
    done = run_command("post_search.py", "--expr", tmp_path / "run", "--list", "--constraint",
                       f"{name}<=3")
    assert done.returncode == 0 and name in done.stdout, done.stderr


def test_tables_of_public_bug_reports(shared_data, run_command, tmp_path):
    folder = shared_data / "wild"

    def run(table, genes, accuracy, objective):
        return run_command("msunas.py", "--search_space", "table", "--table", folder / table,
                           "--genes", genes, "--accuracy", accuracy, "--sec_obj", objective,
                           "--save", tmp_path / table.split("/")[1], "--n_doe", 6, "--iterations",
                           0, "--no_report")

    for table, match in (("csv/empty_latency.csv", "row 7: the column latency_ms holds ''"),
                         ("csv/thousands.csv", "row 2: the column latency_ms holds '13,045'")):
        done = run(table, "kernel,expand,depth", "top1", "latency_ms")
        assert done.returncode == 2 and match in done.stderr
    done = run("csv/nats_hyphen.csv", "arch_str", "cifar10-valid_x-valid", "latency-gpu(ms)")
    assert done.returncode == 0, done.stderr
    done = run("dynas/dynas_layout.csv", "Sub-network", "Top-1 Acc (%)",
               "Latency (ms)+Model Parameters")
    assert done.returncode == 0 and "regret 0.00 %" in done.stdout, done.stderr
