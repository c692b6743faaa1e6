"""What a latency table of another runtime costs: accuracy at equal deployed latency.

    python benchmarks/wrong_table.py [--oracle FILE --width 1.0 --n_classes 1000
        --resolutions 160 192 224] [--seeds 3] [--work FOLDER] [--save FILE]

The networks are deployed with onnxruntime, on one thread. Searches for accuracy against the
latency of a table of PyTorch, of a table of onnxruntime, of what 60 networks teach, and of FLOPs
find fronts, whose networks onnxruntime then runs, all in turns. At each deployed latency the best
network of a front within it counts. Accuracies are those of an accuracy predictor, which have no
noise of images: that of the digits supernet in data/, or `--oracle`.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import ROOT, benchmark_parser, machine, moment, publish, table

from cli.scripts import run_script
from evaluator.jobs import InProcess
from evaluator.measurements import file_content
from evaluator.oracle import OracleEvaluator
from evaluator.runtimes import ONNXRUNTIME, TORCH, measure_networks
from evaluator.timing import Conditions
from search import Search
from search.archive import Record
from search.objectives import SpaceCosts, make_objectives
from search_space import Arch, SearchSpace, get_search_space
from utils.files import write_json
from utils.metrics import kendall

RUNTIMES = (ONNXRUNTIME, TORCH)
LEARNED, TABLE = "learned from networks", "table of {}"
OBJECTIVES = {LEARNED: "cpu@learned", "FLOPs": "flops",
              **{TABLE.format(runtime): f"cpu@{runtime}" for runtime in RUNTIMES}}
N_DOE, N_ITER, ITERATIONS = 100, 8, 15
N_LEARNED, N_RANDOM, N_LATENCIES = 60, 60, 50
# Of what is deployed; tables are measured with the defaults of their script.
UNDER = Conditions(rel_err=0.005, max_repeats=400)


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("--oracle", default="data/digits_predictor.json", help="accuracy predictor")
    p.add_argument("--width", type=float, default=0.35, help="of its supernet")
    p.add_argument("--n_classes", type=int, default=10, help="of its supernet")
    p.add_argument("--resolutions", type=int, nargs="+", default=[32, 36, 40, 44, 48], help="in px")
    p.add_argument("--seeds", type=int, default=3, help="searches by each latency")
    p.add_argument("--work", type=Path, default=Path("runs/wrong_table"), help="of the tables")
    p.add_argument("--save", help="file for the table as well")
    return p


def measure_tables(args: argparse.Namespace) -> dict[str, str]:
    """Measures what the tables lack; returns their files by runtime."""
    files = {runtime: str(args.work / f"{runtime}.yaml") for runtime in RUNTIMES}
    for runtime, path in files.items():
        subprocess.run([sys.executable, str(ROOT / "scripts" / "build_lut.py"), "--out", path,
                        "--runtime", runtime, "--width", str(args.width), "--n_classes",
                        str(args.n_classes), "--resolutions", *map(str, args.resolutions)],
                       check=True)
    return files


def learn(args: argparse.Namespace, space: SearchSpace, path: Path) -> str:
    """Writes the file of a latency that random networks teach; returns its path."""
    archs = space.sample(N_LEARNED, rng=np.random.default_rng(1))
    rows = [{"arch": arch, "ms": ms} for arch, ms in zip(archs, deployed(args, space, archs),
                                                         strict=True)]
    write_json(path, {**file_content(space, args.n_classes, args.width), "key": "ms",
                      "measured": rows})
    return str(path)


def deployed(args: argparse.Namespace, space: SearchSpace, archs: Sequence[Arch]) -> list[float]:
    """Returns the ms of networks where they are deployed."""
    layers = [space.layers(arch, args.n_classes, args.width) for arch in archs]
    return [each.median for each in measure_networks(layers, ONNXRUNTIME, UNDER)]


def front(args: argparse.Namespace, costs: SpaceCosts, name: str, seed: int) -> list[Record]:
    """Returns the front that a search finds by a latency."""
    options = {"oracle_path": args.oracle, "search_space": "mbv3",
               "space_options": {"resolutions": args.resolutions}}
    search = Search(costs.space, make_objectives(OBJECTIVES[name], costs), "ehvi", None,
                    InProcess(OracleEvaluator.from_options(options)), n_doe=N_DOE, n_iter=N_ITER,
                    iterations=ITERATIONS, seed=seed, costs=costs)
    search.progress.quiet = True
    search.run()
    return search.front()


def best_within(top1: np.ndarray, ms: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Returns the (l,) best of (n,) accuracies whose (n,) latencies are within each limit."""
    within = ms[None] <= limits[:, None]
    return np.where(within, top1, -np.inf).max(axis=1)


def main(args: argparse.Namespace) -> None:
    """Prints the tables."""
    args.work.mkdir(parents=True, exist_ok=True)
    space = get_search_space("mbv3", resolutions=args.resolutions)
    files = {**measure_tables(args), "learned": learn(args, space, args.work / "learned.json")}
    costs = SpaceCosts(space, args.n_classes, args.width, files)
    fronts = {(name, seed): front(args, costs, name, seed)
              for name in OBJECTIVES for seed in range(args.seeds)}
    random = space.sample(N_RANDOM, rng=np.random.default_rng(0))
    archs = {str(arch): arch for arch in [
        *random, *(record.arch for found in fronts.values() for record in found)]}
    ms = dict(zip(archs, deployed(args, space, [*archs.values()]), strict=True))
    curves = {key: (np.array([100 - record.top1_err for record in found]),
                    np.array([ms[str(record.arch)] for record in found]))
              for key, found in fronts.items()}
    limits = np.geomspace(max(found.min() for _, found in curves.values()),
                          min(found.max() for _, found in curves.values()), N_LATENCIES)
    best = {name: np.mean([best_within(*curves[name, seed], limits)
                           for seed in range(args.seeds)], axis=0) for name in OBJECTIVES}
    publish(
        f"{machine()}; {moment()}; deployed with onnxruntime, 1 thread, batch 1; {args.oracle}, "
        f"width {args.width}, {', '.join(map(str, args.resolutions))} px; {args.seeds} searches of "
        f"{N_DOE + N_ITER * ITERATIONS} evaluations; deployed latencies of {limits[0]:.3f} to "
        f"{limits[-1]:.3f} ms\n\n{costs_table(best, limits)}\n\n"
        f"{order_table(random, ms, costs)}\n", args.save)


def costs_table(best: dict[str, np.ndarray], limits: np.ndarray) -> str:
    """Returns what each latency costs against the best at each deployed latency."""
    most = np.max([*best.values()], axis=0)
    middle = len(limits) // 2
    places = (0, middle // 2, middle, middle + middle // 2, len(limits) - 1)
    return table(["searched by", *(f"{limits[i]:.3f} ms" for i in places), "mean loss",
                  "largest loss"],
                 [[name, *(f"{found[i]:.3f}" for i in places),
                   f"{np.mean(most - found):.3f}", f"{np.max(most - found):.3f}"]
                  for name, found in best.items()])


def order_table(random: Sequence[Arch], ms: dict[str, float], costs: SpaceCosts) -> str:
    """Returns how what each search goes by agrees with what is deployed, on random networks."""
    measured, rows = np.array([ms[str(arch)] for arch in random]), []
    X = costs.space.encode_many(random)
    for name, text in OBJECTIVES.items():
        values = make_objectives(text, costs)[0].values(X)
        ratio = "-" if text == "flops" else f"{np.mean(values / measured):.2f}"
        rows.append([name, ratio, f"{kendall(values, measured):.3f}"])
    return table(["on random networks", "predicted / deployed", "Kendall tau"], rows)


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
