"""Times the engine that runs the evaluations: simulated scale, and the cost of one job.

    python benchmarks/scheduler.py [--ray] [--save benchmarks/results/scheduler.md]

Simulated: 1,000 jobs of random duration on 64 slots, against the lower bound
max(longest job, total / slots); `real` is what the scheduler itself costs. Real: jobs that do
nothing, so all that is measured is the way to the worker and back.
"""

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
from common import benchmark_parser, machine, peak_mib, publish, table

from cli.scripts import run_script
from evaluator.jobs import Devices, EvaluatorSpec, Job, Scheduler, get_engine
from evaluator.jobs.base import Outcome
from tests.jobs.simulated import SimulatedSlots

N_JOBS, N_SLOTS, N_SEEDS = 1000, 64, 10
LOSS, N_EMPTY = 0.02, 1000

DURATIONS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "uniform 10..100 s": lambda rng: rng.uniform(10, 100, N_JOBS),
    "exponential, mean 30 s": lambda rng: rng.exponential(30, N_JOBS),
    "log-normal, sigma 0.7": lambda rng: rng.lognormal(3, 0.7, N_JOBS),
    "a tenth 10 x slower": lambda rng: rng.uniform(20, 40, N_JOBS) * rng.choice(
        [1, 10], N_JOBS, p=[0.9, 0.1]),
}


class Idle:
    """An evaluator that does nothing."""

    def __init__(self, **options) -> None:
        self.options = options

    def evaluate(self, arch: dict, *, batch_scale: float = 1.0) -> dict:
        """Returns a constant."""
        return {"top1": 50.0}


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("--ray", action="store_true", help="the real part with Ray, too")
    p.add_argument("--save", help="file for the figures as well")
    return p


def simulate(durations: np.ndarray, rng: np.random.Generator, known: bool,
             loss: float = 0.0) -> tuple[float, float]:
    """Runs jobs on a simulated clock; a share `loss` of the attempts ends with a lost worker.

    Returns:
        Simulated seconds as a multiple of the lower bound, and real milliseconds per job.
    """
    lost = Outcome("lost", error="simulated")

    def script(job: Job, _attempt: int) -> tuple[float, Outcome]:
        seconds = durations[int(job.name)]
        if rng.random() < loss:
            return rng.random() * seconds, lost
        return seconds, Outcome("ok", {"top1": 50.0})

    slots = SimulatedSlots(N_SLOTS, script)
    jobs = [Job(str(i), {}, expected=d if known else 1.0) for i, d in enumerate(durations)]
    began = time.perf_counter()
    results = list(Scheduler(slots, retries=9).run(jobs))
    real = time.perf_counter() - began
    if not all(result.ok for result in results) or len(results) != N_JOBS:
        raise RuntimeError("jobs were lost")
    return slots.now() / max(durations.max(), durations.sum() / N_SLOTS), 1000 * real / N_JOBS


def simulated_rows() -> list[list[str]]:
    """Measures each distribution: the worst of all seeds."""
    cases = [("longest first", True, 0.0), ("durations unknown", False, 0.0),
             (f"{LOSS:.0%} of the workers lost", True, LOSS)]
    rows = []
    for name, draw in DURATIONS.items():
        for case, known, loss in cases:
            runs = []
            for seed in range(N_SEEDS):
                rng = np.random.default_rng(seed)
                runs.append(simulate(draw(rng), rng, known, loss))
            ratios, costs = zip(*runs, strict=True)
            rows.append([name, case, f"{max(ratios):.4f}", f"{max(costs):.3f}"])
    return rows


def real_row(backend: str) -> list[str]:
    """Measures a backend with two workers: start, cost of a job, end."""
    spec = EvaluatorSpec("benchmarks.scheduler:Idle")
    began = time.perf_counter()
    with get_engine(backend, spec, slots=[Devices()] * 2) as engine:
        list(engine.run([Job("first", {})]))
        start = time.perf_counter() - began
        began = time.perf_counter()
        list(engine.run([Job(str(i), {}) for i in range(N_EMPTY)]))
        each = (time.perf_counter() - began) / N_EMPTY
        began = time.perf_counter()
    end = time.perf_counter() - began
    return [backend, f"{start:.2f}", f"{1000 * each:.2f}", f"{end:.2f}", f"{peak_mib():.0f}"]


def main(args: argparse.Namespace) -> None:
    """Prints both tables."""
    text = "\n\n".join([
        f"`python benchmarks/scheduler.py`: {machine()}",
        f"{N_JOBS} jobs on {N_SLOTS} simulated slots, the worst of {N_SEEDS} seeds:",
        table(["durations", "case", "end / lower bound", "real ms per job"], simulated_rows()),
        "Jobs that do nothing, two workers:",
        table(["backend", "first result s", "ms per job", "end s", "parent MiB"],
              [real_row(backend) for backend in ["local", *(["ray"] if args.ray else [])]])])
    publish(text + "\n", args.save)


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
