"""From a device to chosen networks: are they as fast as predicted where they are deployed?

    python benchmarks/device.py [--n 60] [--command '... {model}'] [--work FOLDER] [--save FILE]

The device is a process of lower priority that owns one core, reached by a command. Its latency is
learned from `--n` networks of the digits supernet, `ehvi` searches within half of the range that
was measured, and the device measures the networks that post_search.py chooses. Everything is run
by the commands that users type; what a folder holds already is not done again.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, benchmark_parser, machine, moment, publish, table

from cli.scripts import run_script
from evaluator.latency_model import agreement

SUPERNET = "data/ofa_digits_d234_e346_k357_w0.35"
SIZES = ("32", "36", "40", "44", "48")
NICE, CORE, PROBABILITY = "15", "1", 0.9


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    bench = [sys.executable, str(ROOT / "scripts" / "bench_onnx.py"), "{model}", "--runs", "3000",
             "--seconds", "1"]
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("--command", default=shlex.join(["nice", "-n", NICE, "taskset", "-c", CORE,
                                                    *bench]), help="reaches the device")
    p.add_argument("--n", type=int, default=60, help="networks to learn from")
    p.add_argument("--chosen", type=int, default=6, help="networks to choose")
    p.add_argument("--n_doe", type=int, default=40, help="of the search")
    p.add_argument("--iterations", type=int, default=4, help="of the search")
    p.add_argument("--work", type=Path, default=Path("runs/device"), help="folder")
    p.add_argument("--save", help="file for the table as well")
    return p


def call(*words: object) -> str:
    """Runs a command of the project; returns what it printed."""
    return subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, check=True, text=True,
                          stdout=subprocess.PIPE).stdout


def learn(args: argparse.Namespace, path: Path) -> dict[str, Any]:
    """Learns the latency of the device; returns what its file holds."""
    call("scripts/learn_latency.py", "--command", args.command, "--n", args.n, "--out", path,
         "--width", 0.35, "--n_classes", 10, "--resolutions", *SIZES)
    return dict(json.loads(path.read_text()))


def search(args: argparse.Namespace, path: Path, limit: float, run: Path) -> None:
    """Searches within a limit of the device, or resumes."""
    if (run / "settings.json").exists():
        call("msunas.py", "--resume", run)
        return
    call("msunas.py", "--dataset", "digits", "--supernet_path", SUPERNET, "--lut", f"pi={path}",
         "--sec_obj", "cpu@pi", "--constraint", f"cpu@pi<={limit:.4f}:{PROBABILITY}",
         "--strategy", "ehvi", "--n_doe", args.n_doe, "--iterations", args.iterations,
         "--n_gpus", 0, "--cpu_workers", 1, "--save", run)


def choose(args: argparse.Namespace, run: Path) -> list[dict[str, Any]]:
    """Chooses networks and has the device measure them; returns what post_search.py prints."""
    return list(json.loads(call(
        "post_search.py", "--expr", run, "-n", args.chosen, "--command", args.command,
        "--save", args.work / "chosen", "--format", "json")))


def main(args: argparse.Namespace) -> None:
    """Prints the table."""
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    content = learn(args, args.work / "pi.json")
    ms = np.array([row["ms"] for row in content["measured"]])
    limit = float(ms.min() + ms.max()) / 2
    search(args, args.work / "pi.json", limit, args.work / "run")
    rows = choose(args, args.work / "run")
    predicted, measured = (np.array([row[name] for row in rows], dtype=float)
                           for name in ("predicted_ms", "measured_ms"))
    found, known = agreement(predicted, measured), content["error"]
    drift = np.array(content["reference"]) / content["reference"][0] - 1
    cells = [[row["chosen"], f"{row['top1']:.2f}", f"{p:.4f}", f"{m:.4f}", f"{p / m - 1:+.1%}"]
             for row, p, m in zip(rows, predicted, measured, strict=True)]
    publish(
        f"{machine()}; {moment()}; `{args.command.replace(str(ROOT), '.')}`\n\n"
        f"Learned from {len(ms)} networks of {ms.min():.3f} to {ms.max():.3f} ms; cross-validated: "
        f"Spearman {known['spearman']:.3f}, mean error {known['mape']:.1%}, within 10 % "
        f"{known['within10']:.0%}; the reference network changed by {drift.min():+.1%} to "
        f"{drift.max():+.1%}. Search within {limit:.3f} ms with a probability of {PROBABILITY}.\n\n"
        f"{table(['network', 'top-1 (%)', 'predicted (ms)', 'measured (ms)', 'off'], cells)}\n\n"
        f"Mean error {found['mape']:.1%}, within 10 %: {found['within10']:.0%}; within the limit: "
        f"{np.sum(measured <= limit)} of {len(measured)}\n", args.save)


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
