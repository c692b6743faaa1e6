"""What an evaluation costs besides its forward passes: alone, two at a time, and repeated.

    python benchmarks/evaluation_speed.py --data CIFAR10_FOLDER [--only loop workers ...]

`loop`: one worker against bare loops on preloaded tensors that run only the same forward passes
(calibration with batch statistics, validation), or plain ones. `workers`: two workers against one.
`processes`: two workers against the original program's way, a process for each job, in waves of
two. `cache`: images decoded, and results with and without the cache. `folding`: evaluations as they
are, against the same in ofa's own form. `forward`: variants of the forward pass. `memory`: what
workers take. Both sides are measured in turns, so that a busy machine slows both.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from common import ROOT, benchmark_parser, machine, table

from cli.scripts import run_script
from evaluator.costs import CostModel
from evaluator.jobs import Devices, EvaluatorSpec, Job, get_engine
from search_space import Arch, OFASearchSpace
from utils.errors import UserError
from utils.files import write_json, write_text

RESOLUTION, N_IMAGES, BATCH = 64, 2000, 200
N_FOLDING = 10_000
DIGITS = {"dataset": "digits", "supernet_path": str(ROOT / "data/ofa_digits_d234_e346_k357_w0.35")}
DIGITS_RESOLUTIONS = [32, 36, 40, 44, 48]
N_WAVES = 6
SMALLEST = {"ks": [3] * 10, "e": [3] * 10, "d": [2] * 5}


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("--data", help="folder of CIFAR-10 images, train/<class>/ and test/<class>/; "
                   "all but processes and memory need it")
    p.add_argument("--oracle", help="accuracy predictor; memory measures a worker that asks it")
    p.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS),
                   help="what to measure")
    p.add_argument("--device", default="cpu", help="of loop: cpu, or cuda:0 for the first GPU")
    p.add_argument("--n_nets", type=int, default=4, help="subnets of loop and workers")
    p.add_argument("--n_digits", type=int, default=50, help="subnets of cache")
    p.add_argument("--seed", type=int, default=0, help="of the subnets")
    p.add_argument("--save", default="benchmarks/results/evaluation_speed.md",
                   help="file for the tables")
    return p


def main(args: argparse.Namespace) -> None:
    """Measures, prints and writes what was chosen."""
    import torch

    torch.set_num_threads(1)
    texts = [f"`python benchmarks/evaluation_speed.py`: {machine()}"]
    print(texts[0], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only:
            texts.append(SECTIONS[name](args, Path(folder)))
            print(f"\n{texts[-1]}", flush=True)
    write_text(args.save, "\n\n".join(texts) + "\n")


# -------------------------------------------------------------------------------------- equipment


def cifar_options(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Returns the options of an evaluator of a random supernet of width 1.0 on CIFAR-10."""
    import torch

    from networks import build_supernet, save_weights

    if args.data is None:
        raise UserError("give --data, the folder of CIFAR-10, or choose others with --only")
    supernet = folder / "random_w1.0"
    if not supernet.exists():
        with torch.random.fork_rng():
            torch.manual_seed(args.seed)
            save_weights(build_supernet(10), supernet)
    return {"supernet_path": str(supernet), "dataset": "cifar10", "data": args.data,
            "vld_size": N_IMAGES, "n_epochs": 0, "cache_dir": str(folder / "cache")}


def draw(n: int, seed: int, resolutions: Sequence[int] = (RESOLUTION,)) -> list[Arch]:
    """Returns random architectures whose resolutions alternate."""
    space = OFASearchSpace(resolutions=list(resolutions))
    archs = space.sample(n, rng=np.random.default_rng(seed))
    return [{**arch, "r": resolutions[i % len(resolutions)]} for i, arch in enumerate(archs)]


def jobs_of(archs: Sequence[Arch]) -> list[Job]:
    """Returns a job for each, with what it is expected to take, as a search makes them."""
    costs = CostModel(OFASearchSpace(resolutions=sorted({arch["r"] for arch in archs})))
    return [Job(str(i), arch, expected=costs.of_arch(arch)["macs"])
            for i, arch in enumerate(archs)]


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Returns the seconds that a call takes, and its result."""
    began = time.perf_counter()
    result = function()
    return time.perf_counter() - began, result


def clocked(function: Callable[[], Any]) -> tuple[float, float]:
    """Returns the seconds, and the CPU seconds of this process and its children, of a call."""
    before = cpu_seconds()
    return timed(function)[0], cpu_seconds() - before


def cpu_seconds() -> float:
    """Returns the CPU seconds used so far by this process and the children that it has now."""
    me = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in [me, *me.children()])


def stats_of(engine: Any, archs: Sequence[Arch]) -> list[dict[str, Any]]:
    """Evaluates and returns the stats in the order of `archs`."""
    results = {result.job.name: result for result in engine.run(jobs_of(archs))}
    for result in results.values():
        if not result.ok:
            raise UserError(f"an evaluation failed: {result.error}\n{result.log}")
    return [results[str(i)].stats for i in range(len(archs))]


@contextmanager
def workers(n: int, options: dict[str, Any], first: Arch, device: str = "cpu"):
    """Starts an engine of `n` workers that have all answered a job like `first`."""
    slots = [Devices(gpus=() if device == "cpu" else (device.rpartition(":")[2],))] * n
    with get_engine("local", EvaluatorSpec("ofa", options), slots=slots) as engine:
        stats_of(engine, [first] * n)
        yield engine


def same(left: Any, right: Any, what: str) -> None:
    """Raises RuntimeError where results differ that must be equal to the last digit."""
    if left != right:
        raise RuntimeError(f"{what}: {left} and {right} differ")


# ------------------------------------------------------------------------------------ measurements


def measure_loop(args: argparse.Namespace, folder: Path) -> str:
    """One worker, job by job, against bare loops over the same subnet."""
    options = cifar_options(args, folder)
    seconds = []
    bare = bare_loops(options, args.device)
    with workers(1, options, {**SMALLEST, "r": RESOLUTION}, args.device) as engine:
        for i, arch in enumerate(draw(args.n_nets, args.seed)):
            runs = {"worker": lambda arch=arch: stats_of(engine, [arch]), **bare(arch)}
            order = list(runs) if i % 2 else list(runs)[::-1]
            took = {name: clocked(runs[name]) for name in order}
            seconds.append([took[name] for name in runs])
    worker, *loops = np.transpose(seconds, (1, 2, 0))  # of each contestant: (wall, CPU), subnets
    rows = [(name, rate(loop[0]), rate(worker[0]), f"{sum(loop[0]) / sum(worker[0]):.3f}",
             f"{sum(loop[1]) / sum(worker[1]):.3f}")
            for name, loop in zip(list(runs)[1:], loops, strict=True)]
    return (f"One worker ({args.device}) against bare loops on tensors: {args.n_nets} subnets, "
            f"{N_IMAGES} + {N_IMAGES} images of CIFAR-10 at {RESOLUTION} px, width 1.0. "
            "Next to the ratio of wall times is that of CPU seconds, which other programs on the "
            "machine disturb less.\n\n"
            + table(("loop", "loop, evaluations/h", "worker, evaluations/h", "ratio",
                     "ratio of CPU time"), rows))


def rate(seconds: Sequence[float]) -> str:
    """Returns evaluations per hour."""
    return f"{3600 * len(seconds) / sum(seconds):.0f}"


def bare_loops(options: dict[str, Any], device: str) -> Callable[[Arch], dict[str, Callable]]:
    """Returns what makes, of an architecture, functions that run nothing but its passes."""
    import torch

    from networks import cut_subnet

    evaluator = evaluator_of(options, device)
    calibration, valid = tensors(evaluator)

    def prepare(arch: Arch) -> dict[str, Callable]:
        net = cut_subnet(evaluator.supernet, arch).to(device, memory_format=torch.channels_last)

        @torch.inference_mode()
        def run(batch_statistics: bool) -> None:
            for training, batches in ((batch_statistics, calibration), (False, valid)):
                net.train(training)
                for images in batches:
                    logits = net(images)
            logits.cpu()  # waits for the device

        return {"the same passes": partial(run, True), "without batch statistics":
                partial(run, False)}

    return prepare


def evaluator_of(options: dict[str, Any], device: str = "cpu") -> Any:
    """Returns the evaluator of a worker, in this process."""
    from evaluator.accuracy import SupernetEvaluator

    return SupernetEvaluator.from_options({**options, "device": device, "threads": 1})


def tensors(evaluator: Any) -> tuple[list[Any], list[Any]]:
    """Returns the calibration and the validation batches as the networks take them."""
    provider, device = evaluator.provider, evaluator.device
    valid = provider.eval_batches("valid", RESOLUTION, BATCH, device=device)
    return (list(provider.calibration_batches(RESOLUTION, N_IMAGES, BATCH, device=device)),
            [images for images, _ in valid])


def measure_workers(args: argparse.Namespace, folder: Path) -> str:
    """Two workers of one thread against one, on the same jobs; results equal to the last digit."""
    options, first = cifar_options(args, folder), {**SMALLEST, "r": RESOLUTION}
    archs, seconds = draw(args.n_nets, args.seed), {1: [], 2: []}
    with workers(1, options, first) as one, workers(2, options, first) as two:
        for order in ((1, 2), (2, 1)):
            stats = {}
            for n in order:
                took, stats[n] = timed(lambda n=n: stats_of({1: one, 2: two}[n], archs))
                seconds[n].append(took)
            same(stats[1], stats[2], "one worker and two")
    rows = [(len(archs), *(f"{3600 * len(archs) * 2 / sum(seconds[n]):.0f}" for n in (1, 2)),
             f"{sum(seconds[1]) / sum(seconds[2]):.2f}")]
    return ("Two workers against one, a thread each; every result equal to the last digit.\n\n"
            + table(("subnets", "one, evaluations/h", "two, evaluations/h", "ratio"), rows))


def measure_processes(args: argparse.Namespace, folder: Path) -> str:
    """Two workers, started for it, against waves of two processes that decode for themselves."""
    archs = draw(2 * N_WAVES, args.seed, DIGITS_RESOLUTIONS)
    options = DIGITS | {"cache_dir": str(folder / "cache")}
    ours, theirs = [], []
    with get_engine("local", EvaluatorSpec("ofa", options), slots=[Devices()] * 2) as engine:
        for start in range(0, len(archs), 2):
            pair = archs[start:start + 2]
            took, stats = timed(lambda pair=pair: stats_of(engine, pair))
            ours.append(took)
            took, others = timed(lambda pair=pair: wave(pair, folder))
            theirs.append(took)
            same(stats, others, "workers and processes")
    rows = [("from the start", f"{sum(theirs):.1f}", f"{sum(ours):.1f}",
             f"{sum(theirs) / sum(ours):.1f}"),
            ("once the workers run", f"{sum(theirs[1:]):.1f}", f"{sum(ours[1:]):.1f}",
             f"{sum(theirs[1:]) / sum(ours[1:]):.1f}")]
    return (f"{len(archs)} subnets on digits: two workers against a process for each, two at a "
            "time; every result equal to the last digit. The first evaluations of the workers fill "
            "the cache.\n\n"
            + table(("counted", "processes, s", "workers, s", "ratio"), rows))


def wave(archs: Sequence[Arch], folder: Path) -> list[dict[str, Any]]:
    """Evaluates each architecture in a process of its own, all at once."""
    flags = ["--dataset", "digits", "--supernet_path", DIGITS["supernet_path"], "--threads", "1",
             "--n_workers", "0", "--cache_gb", "0"]
    running = []
    for i, arch in enumerate(archs):
        write_json(folder / f"{i}.subnet", arch)
        running.append(subprocess.Popen(
            [sys.executable, "-m", "evaluator", "--subnet", str(folder / f"{i}.subnet"), *flags],
            cwd=ROOT, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise UserError("an evaluation in a process of its own failed; its message is above")
    return [json.loads(output) for output in outputs]


def measure_cache(args: argparse.Namespace, folder: Path) -> str:
    """Images decoded by the second evaluation; results of digits with and without the cache."""
    options = cifar_options(args, folder) | {"cache_dir": str(folder / "new"), "vld_size": 300}
    arch, counts = {**SMALLEST, "r": 32}, []
    for _ in range(2):  # an evaluator, and another that finds its files
        evaluator = evaluator_of(options)
        for _ in range(2):
            evaluator.evaluate(arch)
            counts.append(evaluator.provider.image_count_decoded)
    rows = [("of a new data set", counts[0]), ("of the same again", counts[1] - counts[0]),
            ("of a later worker", counts[2])]
    archs = draw(args.n_digits, args.seed, DIGITS_RESOLUTIONS)
    cached = evaluator_of(DIGITS | {"cache_dir": str(folder / "new")})
    plain = evaluator_of(DIGITS | {"cache_gb": 0})
    seconds = {"cached": 0.0, "plain": 0.0}
    for arch in archs:
        stats = {}
        for name, evaluator in (("cached", cached), ("plain", plain)):
            took, stats[name] = timed(lambda e=evaluator, a=arch: e.evaluate(a))
            seconds[name] += took
        same(stats["cached"], stats["plain"], f"cached and not: {arch}")
    return ("Images decoded from files (CIFAR-10, 2,000 for calibration, 300 for validation):\n\n"
            + table(("evaluation", "decoded"), rows)
            + f"\n\n{len(archs)} subnets on digits at {DIGITS_RESOLUTIONS} px: loss and accuracies "
            "with and without the cache are equal to the last digit; "
            f"{seconds['cached'] / len(archs):.2f} s and {seconds['plain'] / len(archs):.2f} s "
            "each.")


def measure_forward(args: argparse.Namespace, folder: Path) -> str:
    """The same subnet's pass over the validation images in several forms."""
    import torch

    from networks import cut_subnet, recalibrate_bn
    from networks.folding import folded

    evaluator = evaluator_of(cifar_options(args, folder))
    calibration, valid = tensors(evaluator)
    valid = valid[:3]
    (arch,) = draw(1, args.seed)
    last = torch.channels_last
    net, plain, batch = (cut_subnet(evaluator.supernet, arch).to(memory_format=last)
                         for _ in range(3))
    recalibrate_bn(net, calibration)
    plain.to(memory_format=torch.contiguous_format)
    batch.train()
    fused = folded(net).to(memory_format=last)
    images = [x.contiguous() for x in valid]
    variants = {
        "channels_last, inference_mode": (net, valid, torch.inference_mode()),
        "the same with no_grad": (net, valid, torch.no_grad()),
        "the same with batch statistics (calibration)": (batch, valid, torch.inference_mode()),
        "folded: no batch norm, faster activations": (fused, valid, torch.inference_mode()),
        "contiguous memory": (plain, images, torch.inference_mode())}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(4):
        for name, (variant, batches, mode) in variants.items():
            with mode:
                seconds[name].append(timed(lambda v=variant, b=batches: [v(x) for x in b])[0])
    base, *_ = (median := {name: statistics.median(s[1:]) for name, s in seconds.items()}).values()
    with torch.inference_mode():
        change = (fused(valid[0]) - net(valid[0])).abs().max().item()
    rows = [(name, f"{sum(map(len, valid)) / value:.0f}", f"{value / base:.2f}")
            for name, value in median.items()]
    return (f"Forward passes of a subnet of width 1.0 at {RESOLUTION} px on one thread. Folding "
            f"changes the logits by up to {change:.0e} here.\n\n"
            + table(("form", "images/s", "relative time"), rows))


def plain_evaluation(evaluator: Any, arch: Arch) -> dict[str, Any]:
    """Cuts, calibrates and validates a subnet in ofa's own form, batch normalisation and all."""
    from networks import cut_subnet, recalibrate_bn
    from training.loops import evaluate

    net = cut_subnet(evaluator.supernet, arch)
    recalibrate_bn(net, evaluator.provider.calibration_batches(arch["r"]))
    return evaluate(net, evaluator.provider.eval_batches("valid", arch["r"]))


def measure_folding(args: argparse.Namespace, folder: Path) -> str:
    """Evaluations as they are, against the same in ofa's own form; and whether the top-1 agrees."""
    evaluator = evaluator_of({**cifar_options(args, folder), "vld_size": N_FOLDING})
    archs = draw(args.n_nets, args.seed)
    for _ in (plain_evaluation(evaluator, archs[0]), evaluator.evaluate(archs[0])):
        pass  # fills the cache
    ways = {"plain": partial(plain_evaluation, evaluator), "folded": evaluator.evaluate}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for i, arch in enumerate(archs):
        for name in list(ways)[::1 if i % 2 else -1]:
            seconds[name].append(clocked(lambda way=ways[name], arch=arch: way(arch))[1])
    ratios = [plain / fast for plain, fast in zip(*seconds.values(), strict=True)]
    rows = [(name, f"{statistics.mean(values):.1f}", f"{3600 / statistics.mean(values):.0f}")
            for name, values in seconds.items()]
    digits = evaluator_of({**DIGITS, "n_epochs": 0, "cache_dir": str(folder / "cache")})
    pairs = [(plain_evaluation(digits, arch), digits.evaluate(arch))
             for arch in draw(args.n_digits, args.seed, DIGITS_RESOLUTIONS)]
    other = sum(plain["top1"] != fast["top1"] for plain, fast in pairs)
    change = max(abs(plain["loss"] - fast["loss"]) for plain, fast in pairs)
    return (f"One worker of one thread, {len(archs)} subnets of width 1.0 at {RESOLUTION} px, "
            f"2,000 calibration and {N_FOLDING:,} validation images, the two ways in turns; CPU "
            "seconds:\n\n" + table(("form", "s for each", "evaluations an hour"), rows)
            + f"\n\nThe ratio of each pair: {min(ratios):.2f} to {max(ratios):.2f}, mean "
            f"{statistics.mean(ratios):.2f}. On {len(pairs)} subnets of the digits supernet the "
            f"top-1 differs {other} times, the loss by up to {change:.0e}.")


def measure_memory(args: argparse.Namespace, folder: Path) -> str:
    """The greatest resident memory of a worker after an evaluation."""
    cases = {"digits": ("ofa", DIGITS | {"cache_dir": str(folder / "cache")}, DIGITS_RESOLUTIONS)}
    if args.data:
        cases["CIFAR-10, width 1.0"] = ("ofa", cifar_options(args, folder), [RESOLUTION])
    if args.oracle:
        cases["oracle"] = ("oracle", {"oracle_path": args.oracle}, [192, 224])
    rows = []
    for name, (kind, options, resolutions) in cases.items():
        with get_engine("local", EvaluatorSpec(kind, options), slots=[Devices()]) as engine:
            stats_of(engine, draw(len(resolutions), args.seed, resolutions))
            peak = max(map(peak_mib_of, psutil.Process().children()))
            rows.append((name, ", ".join(map(str, resolutions)), f"{peak:.0f}"))
    return "Peak resident memory of a worker:\n\n" + table(("evaluator", "px", "MiB"), rows)


def peak_mib_of(process: psutil.Process) -> float:
    """Returns the peak resident memory of a process in MiB (Linux)."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")),
                math.nan)


SECTIONS: dict[str, Callable[[argparse.Namespace, Path], str]] = {
    "loop": measure_loop, "workers": measure_workers, "processes": measure_processes,
    "cache": measure_cache, "folding": measure_folding, "forward": measure_forward,
    "memory": measure_memory}

if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
