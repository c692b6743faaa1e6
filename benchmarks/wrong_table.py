"""What a latency table of another runtime costs: accuracy at equal deployed latency.

    python benchmarks/wrong_table.py [--oracle FILE --width 1.0 --n_classes 1000
        --resolutions 160 192 224] [--seeds 3] [--work FOLDER] [--save FILE]

The networks are deployed with onnxruntime, on one thread. Searches for accuracy against the
latency of a table of PyTorch, of a table of onnxruntime, and of FLOPs find fronts, whose networks
onnxruntime then runs, all in turns. At each deployed latency the best network of a front within it
counts. Accuracies are those of an accuracy predictor, so that no noise of images is in them; by
default of the digits supernet in data/, else of `--oracle`.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from common import ROOT, benchmark_parser, machine, moment, publish, table

from cli.scripts import run_script
from evaluator.jobs import InProcess
from evaluator.latency import LookUpTable
from evaluator.oracle import OracleEvaluator
from evaluator.runtimes import ONNXRUNTIME, TORCH, measure_networks
from evaluator.timing import Conditions
from search import Search
from search.archive import Record
from search.objectives import SpaceCosts, make_objectives
from search_space import get_search_space
from utils.metrics import kendall

RUNTIMES = (ONNXRUNTIME, TORCH)
COLUMNS = {ONNXRUNTIME: f"cpu@{ONNXRUNTIME}", TORCH: f"cpu@{TORCH}", "FLOPs": "flops"}
N_DOE, N_ITER, ITERATIONS = 100, 8, 15
N_RANDOM, N_LATENCIES = 60, 50
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


def front(args: argparse.Namespace, costs: SpaceCosts, name: str, seed: int) -> list[Record]:
    """Returns the front that a search finds by a latency."""
    options = {"oracle_path": args.oracle, "search_space": "mbv3",
               "space_options": {"resolutions": args.resolutions}}
    search = Search(costs.space, make_objectives(COLUMNS[name], costs), "ehvi", None,
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
    files = measure_tables(args)
    space = get_search_space("mbv3", resolutions=args.resolutions)
    costs = SpaceCosts(space, args.n_classes, args.width, files)
    fronts = {(name, seed): front(args, costs, name, seed)
              for name in COLUMNS for seed in range(args.seeds)}
    random = space.sample(N_RANDOM, rng=np.random.default_rng(0))
    archs = {str(arch): arch for arch in [
        *random, *(record.arch for found in fronts.values() for record in found)]}
    measured = measure_networks([space.layers(arch, args.n_classes, args.width)
                                 for arch in archs.values()], ONNXRUNTIME, UNDER)
    ms = {key: each.median for key, each in zip(archs, measured, strict=True)}
    curves = {key: (np.array([100 - record.top1_err for record in found]),
                    np.array([ms[str(record.arch)] for record in found]))
              for key, found in fronts.items()}
    limits = np.geomspace(max(found.min() for _, found in curves.values()),
                          min(found.max() for _, found in curves.values()), N_LATENCIES)
    best = {name: np.mean([best_within(*curves[name, seed], limits)
                           for seed in range(args.seeds)], axis=0) for name in COLUMNS}
    publish(
        f"{machine()}; {moment()}; deployed with onnxruntime, 1 thread, batch 1; {args.oracle}, "
        f"width {args.width}, {', '.join(map(str, args.resolutions))} px; {args.seeds} searches of "
        f"{N_DOE + N_ITER * ITERATIONS} evaluations; deployed latencies of {limits[0]:.3f} to "
        f"{limits[-1]:.3f} ms\n\n{costs_table(best, limits)}\n\n"
        f"{sums_table(files, random, ms, costs)}\n", args.save)


def costs_table(best: dict[str, np.ndarray], limits: np.ndarray) -> str:
    """Returns what each latency costs against that of the runtime that is deployed."""
    middle = len(limits) // 2
    places = (0, middle // 2, middle, middle + middle // 2, len(limits) - 1)
    return table(["searched by", *(f"{limits[i]:.3f} ms" for i in places), "mean loss",
                  "largest loss"],
                 [[name, *(f"{found[i]:.3f}" for i in places),
                   f"{np.mean(best[ONNXRUNTIME] - found):.3f}",
                   f"{np.max(best[ONNXRUNTIME] - found):.3f}"] for name, found in best.items()])


def sums_table(files: dict[str, str], random: list[dict], ms: dict[str, float],
               costs: SpaceCosts) -> str:
    """Returns how the sums of each table agree with what is deployed, on random networks."""
    deployed, rows = np.array([ms[str(arch)] for arch in random]), []
    layers = [costs.space.layers(arch, costs.n_classes, costs.width_mult) for arch in random]
    for runtime, path in files.items():
        lut = LookUpTable.read(path)
        sums = np.array([lut.latency(each) for each in layers])
        rows.append([runtime, f"{sums.mean():.3f}", f"{deployed.mean():.3f}",
                     f"{np.mean(sums / deployed):.2f}", f"{kendall(sums, deployed):.3f}"])
    return table(["table", "mean sum (ms)", "mean deployed (ms)", "ratio", "Kendall tau"], rows)


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
