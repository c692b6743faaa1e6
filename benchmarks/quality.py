"""Search quality: hypervolume against evaluations, by benchmark, strategy and seed.

    python benchmarks/quality.py DATA [--benchmarks mbv3 resnet50] [--strategies ehvi msunas]
        [--seeds 10-29] [--save benchmarks/results]

DATA is a folder with the files that `BENCHMARKS` names: accuracy predictors of the OFA authors and
tables of measured architectures. A hypervolume is divided by the product of the reference point.
Every curve is kept in `quality.json` and not computed again, so a run can be stopped and resumed;
the tables contain the curves that are there. Seeds 0-9 are those that `ehvi` was tuned on (only on
`mbv3`). The searches are those of msunas.py, evaluated in this process.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, benchmark_parser, machine, processes
from direct import nsga2_front

from cli.scripts import run_script
from evaluator import build_evaluator
from evaluator.jobs import InProcess
from evaluator.oracle import OracleEvaluator
from search import Progress, Search, SpaceCosts, make_objectives
from search.comparison import Box, markdown, mean_and_error, mean_rows, paired
from search.strategies import STRATEGIES, get_strategy
from search.strategies.base import Strategy
from search.strategies.ehvi import EHVI, STD_SCALE
from search_space import OFASearchSpace, get_search_space
from utils.errors import UserError
from utils.files import read_json, write_json, write_text
from utils.pareto import normalized_hypervolume
from visualization.plots import plot_curves

BUDGETS = (60, 100, 140, 180, 220, 260, 300, 340)
BATCH = 8
# Initial samples: the paper's, and one of 40 for the others; random search is all initial sample.
N_DOE = {"msunas": 100, "random": BUDGETS[-1]}
SMALL_DOE = 40
# The original program on mbv3, mean of 5 seeds; the last has a standard deviation of 0.0024.
ORIGINAL = {140: 0.347, 180: 0.3535, 220: 0.356, 260: 0.358, 300: 0.360, 340: 0.3614}
DIRECT = (200, 400)  # population x generations = 80,000 evaluations
# A further column: the expected improvement of the textbook, all of the standard deviation.
TEXTBOOK = "ehvi-textbook"
# Further columns, which peers.py fills in an environment of its own.
PEERS = ("optuna-GPSampler", "optuna-TPESampler", "optuna-NSGAIISampler", "botorch-qLogEHVI",
         "pymoo-NSGA2", "dynast-LINAS", "dynast-NSGA2")
# (data, benchmark, column, seed) -> the hypervolume after each budget
Curve = Callable[[str, str, str, int], list[float]]


@dataclass(frozen=True)
class Benchmark:
    """A search whose evaluations answer at once.

    Attributes:
        file: in the folder of data.
        objective: besides the error.
        reference: point that bounds the hypervolume: error in percent, objective.
        space: name of the search space.
        settings: of the space.
        evaluator: row of `EVALUATORS`.
        n_classes, width: of the supernet, for the counted costs.
    """

    file: str
    objective: str
    reference: tuple[float, float]
    space: str = "mbv3"
    settings: dict[str, Any] = field(default_factory=dict)
    evaluator: str = "oracle"
    n_classes: int = 1000
    width: float = 1.0

    def search(self, data: Path, strategy: str, seed: int) -> Search:
        """Returns the search, ready to run."""
        path = str(data / self.file)
        settings = self.settings | ({} if self.evaluator == "oracle" else {"table": path})
        space = get_search_space(self.space, **settings)
        costs = SpaceCosts(space, self.n_classes, self.width)
        evaluator = build_evaluator(self.evaluator, {
            "oracle_path": path, "search_space": self.space, "space_options": settings})
        n_doe = N_DOE.get(strategy, SMALL_DOE)
        return Search(space, make_objectives(self.objective, costs, reported=True),
                      strategy_of(strategy), engine=InProcess(evaluator), n_doe=n_doe, n_iter=BATCH,
                      iterations=-(-(BUDGETS[-1] - n_doe) // BATCH), seed=seed, costs=costs,
                      uniform_sample=strategy == "random", progress=Progress(0, quiet=True))


def strategy_of(column: str) -> Strategy:
    """Returns the strategy of a column."""
    return EHVI(std_scale=1.0) if column == TEXTBOOK else get_strategy(column)


def _graph(name: str, objective: str, worst: float) -> Benchmark:
    return Benchmark(f"nasbenchgraph_{name}.csv.gz", objective, (100.0, worst), "nasbenchgraph",
                     {"accuracy": "valid_top1"}, "table")


def _cells(name: str, error: float) -> Benchmark:
    return Benchmark("nasbench201_200epochs.csv.gz", "flops", (error, 230.0), "nasbench201",
                     {"accuracy": f"{name}_test_top1"}, "table")


BENCHMARKS = {
    "mbv3": Benchmark("ofa_mbv3_acc_predictor.pth", "flops", (30.0, 600.0)),
    "mbv3-224": Benchmark("ofa_mbv3_acc_predictor.pth", "flops", (30.0, 600.0),
                          settings={"resolutions": [224]}),
    "resnet50": Benchmark("ofa_resnet50_acc_predictor.pth", "flops", (30.0, 6000.0), "resnet50"),
    # What a search of the digits supernet evaluated (test images), as `python -m acc_predictor`
    # exported it.
    "digits": Benchmark(str(ROOT / "data/digits_predictor.json"), "flops", (7.0, 10.0),
                        settings={"resolutions": list(range(32, 49, 4))}, n_classes=10, width=0.35),
    "nb201-cifar10": _cells("cifar10", 20.0),
    "nb201-cifar100": _cells("cifar100", 50.0),
    "nb201-imagenet16": _cells("imagenet16_120", 80.0),
    **{f"graph-{name}": _graph(name, "latency_ms", 60.0)
       for name in ("arxiv", "cora", "computers", "cs")},
    **{f"graph-{name}-params": _graph(name, "params_m", largest) for name, largest in
       (("arxiv", 0.3), ("cora", 3.5), ("computers", 0.12), ("cs", 1.1))},
}


def curve(data: str, benchmark: str, strategy: str, seed: int) -> list[float]:
    """Returns the hypervolume after each budget of one search."""
    search = BENCHMARKS[benchmark].search(Path(data), strategy, seed)
    search.run()
    return hypervolumes(search.F, benchmark)


def hypervolumes(F: np.ndarray, benchmark: str, most: int = BUDGETS[-1]) -> list[float]:
    """Returns the hypervolume of (a, 2) objectives after each budget of at most `most`."""
    box = Box(np.array(BENCHMARKS[benchmark].reference), np.zeros(2))
    return box.curve(F, [budget for budget in BUDGETS if budget <= most])


def direct_hypervolume(data: Path) -> float:
    """Returns the hypervolume of NSGA-II straight on the oracle `mbv3`."""
    benchmark = BENCHMARKS["mbv3"]
    space, oracle = OFASearchSpace(), OracleEvaluator(str(data / benchmark.file))
    (objective,) = make_objectives("flops", SpaceCosts(space))

    front = nsga2_front(space, lambda X: np.column_stack(
        [100 - oracle.predict(space, X), objective.values(X)]), *DIRECT)
    return normalized_hypervolume(front, benchmark.reference)


def seeds_of(text: str) -> list[int]:
    """Returns the numbers of `10` or `10-29`."""
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def common_flags(p: argparse.ArgumentParser) -> None:
    """Adds what the benchmarks of search quality share."""
    p.add_argument("data", type=Path, help="folder of predictors and tables")
    p.add_argument("--benchmarks", nargs="+", choices=sorted(BENCHMARKS), default=["mbv3"],
                   help="which")
    p.add_argument("--seeds", type=seeds_of, default="10-29", help="one seed, or first-last")
    p.add_argument("--workers", type=int, default=2, help="searches at a time")
    p.add_argument("--save", default="benchmarks/results", type=Path,
                   help="folder for curves, tables and pictures")


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    common_flags(p)
    p.add_argument("--strategies", nargs="+", choices=[*sorted(STRATEGIES), TEXTBOOK],
                   default=sorted(STRATEGIES), help="which")
    p.add_argument("--direct", action="store_true", help="also NSGA-II straight on the oracle mbv3")
    return p


def main(args: argparse.Namespace) -> None:
    """Runs the searches that are missing, and writes `quality.json`, `.md` and pictures."""
    fill(args, args.strategies, curve, args.direct)


def fill(args: argparse.Namespace, columns: Sequence[str], curve: Curve,
         direct: bool = False) -> None:
    """Computes the curves that are missing; writes `quality.json`, `.md` and pictures.

    Args:
        args: see `common_flags`.
        columns: strategies or peers.
        curve: computes one of them in a process of its own.
        direct: also NSGA-II straight on the oracle.
    """
    file = args.save / "quality.json"
    known = read_json(file, "curves") if file.exists() else {"curves": {}}
    missing = [(b, column, seed) for b in args.benchmarks for seed in args.seeds
               for column in columns if f"{b}/{column}/{seed}" not in known["curves"]]
    lacking = sorted({BENCHMARKS[b].file for b, _, _ in missing
                      if not (args.data / BENCHMARKS[b].file).exists()})
    if lacking:
        raise UserError(f"{args.data}: lacks {', '.join(lacking)}")
    args.save.mkdir(parents=True, exist_ok=True)
    with processes(args.workers) as pool:
        jobs = {pool.submit(curve, str(args.data), *job): "/".join(map(str, job))
                for job in missing}
        for done in as_completed(jobs):
            known["curves"][jobs[done]] = [round(value, 6) for value in done.result()]
            write_json(file, known)
            print(jobs[done], *(f"{value:.4f}" for value in done.result()), flush=True)
    if direct:
        known["direct"] = direct_hypervolume(args.data)
        write_json(file, known)
    write_text(args.save / "quality.md", report(known))
    for name in BENCHMARKS:
        if curves := curves_of(known, name):
            plot_curves(args.save / f"quality_{name}.png", BUDGETS, curves, name,
                        ("original program, 5 seeds", ORIGINAL) if name == "mbv3" else None)
    print(report(known))


def seeds_in(known: dict[str, Any], benchmark: str, column: str) -> dict[int, list[float]]:
    """Returns the curves of a strategy or peer by seed; NaN beyond the end of one that was cut."""
    prefix = f"{benchmark}/{column}/"
    return {int(key.removeprefix(prefix)): values + [np.nan] * (len(BUDGETS) - len(values))
            for key, values in sorted(known["curves"].items()) if key.startswith(prefix)}


def curves_of(known: dict[str, Any], benchmark: str) -> dict[str, np.ndarray]:
    """Returns, by strategy or peer, (seeds, budgets) curves."""
    found = {column: seeds_in(known, benchmark, column)
             for column in (*STRATEGIES, TEXTBOOK, *PEERS)}
    return {column: np.array([*rows.values()]) for column, rows in found.items() if rows}


def against_others(known: dict[str, Any]) -> str:
    """Returns by how much `ehvi` leads the best other: hypervolume, and in standard errors."""
    rows: list[tuple[object, ...]] = []
    for name in BENCHMARKS:
        curves = curves_of(known, name)
        ours = curves.pop("ehvi", None)
        curves.pop(TEXTBOOK, None)
        if ours is None or not curves:
            continue
        means, errors = map(np.array, zip(*map(mean_and_error, curves.values()), strict=True))
        means = np.where(np.isnan(means), -np.inf, means)
        best, at = means.argmax(axis=0), np.arange(len(BUDGETS))
        mean, error = mean_and_error(ours)
        lead = mean - means[best, at]
        unit = np.hypot(error, errors[best, at])
        rows.append((name, len(ours), *(
            f"{value:+.4f} ({f'{value / one:+.1f}' if one else '-'}) {list(curves)[other]}"
            for value, one, other in zip(lead, unit, best, strict=True))))
    return ("\n## `ehvi` against the best of the others at that number of evaluations\n\n"
            "Difference of the means, in brackets in standard errors of it; who is the best.\n\n"
            + markdown(("benchmark", "seeds", *BUDGETS), rows) + "\n")


def against_textbook(known: dict[str, Any]) -> str:
    """Returns what half of the standard deviations changes, on the same seeds."""
    rows: list[tuple[object, ...]] = []
    for name in BENCHMARKS:
        ours, textbook = (seeds_in(known, name, column) for column in ("ehvi", TEXTBOOK))
        if seeds := sorted(ours.keys() & textbook.keys()):
            mean, error = mean_and_error(paired(ours, textbook))
            rows.append((name, len(seeds), *(f"{m:+.1f} ± {e:.1f}" for m, e in
                                             zip(1e4 * mean, 1e4 * error, strict=True))))
    return (f"\n## `ehvi` less `{TEXTBOOK}` on the same seeds\n\nUnits of 0.0001 of hypervolume."
            "\n\n" + markdown(("benchmark", "seeds", *BUDGETS), rows) + "\n")


def report(known: dict[str, Any]) -> str:
    """Returns the tables of all benchmarks that have curves, in Markdown."""
    parts = [f"{machine()}. Mean ± standard error of the hypervolume; batches of {BATCH}; initial "
             f"sample {SMALL_DOE}, of msunas {N_DOE['msunas']}. `{TEXTBOOK}` counts all of a "
             f"standard deviation, `ehvi` {STD_SCALE:g} of it.\n"]
    for name, benchmark in BENCHMARKS.items():
        curves = curves_of(known, name)
        if not curves:
            continue
        rows = mean_rows(curves)
        if name == "mbv3":
            rows.append(("original program", 5, *(ORIGINAL.get(b, "") for b in BUDGETS)))
        error, value = benchmark.reference
        parts.append(f"\n## {name}\n\nError against {benchmark.objective}, reference point "
                     f"({error:g} %, {value:g}).\n\n"
                     + markdown(("strategy", "seeds", *BUDGETS), rows) + "\n")
        if name == "mbv3" and "direct" in known:
            parts.append(f"\nNSGA-II straight on the oracle, {DIRECT[0] * DIRECT[1]} evaluations: "
                         f"{known['direct']:.4f}\n")
    return "".join((*parts, against_others(known), against_textbook(known)))


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
