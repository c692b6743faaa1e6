"""Folders of searches for the tests: real architectures, accuracy by a formula."""

from pathlib import Path

import numpy as np

from evaluator.costs import CostModel, millions
from evaluator.rescore import Scores
from search.archive import (
    Record,
    Stats,
    latest_stats,
    objectives,
    read_stats,
    write_stats,
)
from search.progress import Progress
from search.run_folder import RunFolder
from search_space import OFASearchSpace, get_search_space
from tests.search_space.tables import write_csv
from utils.files import read_json, write_json, write_text
from utils.pareto import normalized_hypervolume, reference_point

SPACE = OFASearchSpace()
N_DOE, ITERATIONS, N_ITER = 30, 3, 5


def make_records(n: int, seed: int = 0) -> list[Record]:
    """Different architectures; the error falls with their FLOPs, with noise."""
    rng = np.random.default_rng(seed)
    archs = SPACE.initialize(n, rng=rng)
    flops = CostModel(SPACE).evaluate(np.array([SPACE.encode(arch) for arch in archs]))["flops"]
    errors = 40 - 4 * np.log(flops / 1e6) + rng.normal(0, 0.5, n)
    return [Record(arch, round(float(error), 4), millions(float(cost)))
            for arch, error, cost in zip(archs, errors, flops, strict=True)]


def make_run(folder: Path, seed: int = 0, iterations: int = ITERATIONS,
             n_doe: int = N_DOE) -> Path:
    """Writes the folder of a search with a failure, predictions and recorded times."""
    records = make_records(n_doe + iterations * N_ITER, seed)
    write_json(folder / "settings.json", {
        "sec_obj": "flops", "seed": seed, "dataset": "imagenet", "n_classes": 1000,
        "search_space": "mbv3", "resolutions": list(SPACE.resolutions), "predictor": "gp",
        "supernet_path": "data/ofa mbv3_w1.0"})
    progress = Progress(n_slots=2, quiet=True, folder=RunFolder(folder))
    progress.start(["python", "msunas.py", "--save", str(folder)])
    reference = reference_point(objectives(records[:n_doe]))
    for i in range(iterations + 1):
        end = n_doe + i * N_ITER
        candidates = records[end - N_ITER if i else 0:end]
        for j, record in enumerate(candidates):
            write_json(folder / f"iter_{i}" / f"net_{j}.subnet", record.arch)
            write_json(folder / f"iter_{i}" / f"net_{j}.stats", {
                "params": 5.0 + j, "flops": record.sec_obj, "gpu": None, "cpu": None, "loss": 1.5,
                "top1": 100 - record.top1_err, "top5": 90.0})
            progress.evaluated(i, j, seconds=36.0, status="ok")
        scores = {"model": "as", "name": "gp", "winner": ["gp", "rbf"][i % 2], "rmse": 0.5,
                  "rho": 0.9, "tau": 0.8 + 0.01 * i, "predicted_std": [0.2] * len(candidates),
                  "predicted": [r.top1_err + 0.1 for r in candidates]} if i else {}
        hv = normalized_hypervolume(objectives(records[:end]), reference)
        stats = Stats(records[:end], candidates, hv, scores, sec_obj="flops",
                      reference_point=reference.tolist())
        write_stats(folder / f"iter_{i}.stats", stats)
        with progress.phase("evaluate"):
            pass
        progress.iteration(i, iterations, stats)
    failed = SPACE.sample(1, rng=np.random.default_rng(99))[0]
    write_json(folder / "failed" / "it_1_net_5", {
        **failed, "status": "timeout", "error": "took more than 60 s <b>&"})
    write_text(folder / "failed" / "it_1_net_5.log", "timeout\n")
    write_text(folder / "retries.log", "iter_0/net_3: worker was killed\n")
    return folder


def with_settings(run: Path, **changed) -> Path:
    """Changes the settings of a run."""
    write_json(run / "settings.json", read_json(run / "settings.json", "settings") | changed)
    return run


def make_cells_run(folder: Path, n: int = 40) -> Path:
    """Writes the initial sample of a search over cells with three objectives."""
    space, rng = get_search_space("nasbench201"), np.random.default_rng(0)
    costs = rng.uniform(10, 200, (n, 2)).round(3).tolist()
    records = [Record(arch, round(60 - flops / 10 + params / 100, 4), flops, (params,))
               for arch, (flops, params) in zip(space.sample(n, rng=rng), costs, strict=True)]
    F = objectives(records)
    write_stats(folder / "iter_0.stats", Stats(
        records, records, normalized_hypervolume(F, reference_point(F)), {},
        sec_obj="flops+params", search_space=space.name,
        reference_point=reference_point(F).tolist()))
    return folder


def make_names_run(folder: Path) -> Path:
    """Writes a search over a table whose genes and objectives are called as other things are."""
    folder.mkdir(exist_ok=True)
    genes = ["constructor", "__proto__", "top1_err", "loss", "arch"]
    rows = [[i % 3, i % 2, i, i % 4, "=1+1"] for i in range(12)]
    table = write_csv(folder / "table.csv", [*genes, "acc", "error", "iteration"],
                      [[*row, 50 + i, 100 + i, 30 - i] for i, row in enumerate(rows)])
    settings = {"table": str(table), "genes": ",".join(genes), "accuracy": "acc"}
    records = [Record(dict(zip(genes, row, strict=True)), 50.0 - i, 100.0 + i, (30.0 - i,))
               for i, row in enumerate(rows)]
    write_stats(folder / "iter_0.stats", Stats(
        records, records, 0.5, sec_obj="error+iteration", search_space="table"))
    write_json(folder / "settings.json", {"search_space": "table", **settings})
    return folder


def write_rescore(run: Path, numbers: list[int], hits: np.ndarray, **known) -> dict:
    """Writes what `post_search.py --rescore --save RUN/selected` leaves of a report.

    Args:
        run: the folder of the search.
        numbers: of the networks in its archive.
        hits: (networks, images) bool, which answers are right.
        known: `labels` and `classes` of `Scores`.
    """
    archive = read_stats(latest_stats(run)).archive
    names = [f"net-flops@{archive[i].sec_obj:g}" for i in numbers]
    for name, number in zip(names, numbers, strict=True):
        write_json(run / "selected" / name / "net.subnet", archive[number].arch)
    report = Scores(names, hits, **known).report()
    write_json(run / "selected" / "rescore.json", report)
    return report
