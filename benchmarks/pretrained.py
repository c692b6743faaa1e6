"""What a supernet from pretrained weights reaches with few pictures, next to plain fine-tuning.

    python benchmarks/pretrained.py DATA WEIGHTS

DATA has train/CLASS/ and test/CLASS/ (CIFAR-10 as JPEG files); each draw takes four classes, their
training pictures and their test pictures, by its seed. WEIGHTS is what `train_supernet.py
--pretrained` takes. Each step is a command of the program, whose output is kept in --save; steps
that are done are not repeated. Seconds are CPU time. Accuracies are those of the test pictures,
which no training and no search saw.
"""

import argparse
import re
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from common import ROOT, benchmark_parser, machine, moment, publish, table

from cli.scripts import run_script
from search_space import get_search_space
from utils.errors import UserError
from utils.files import read_json, write_json

N_CLASSES, N_TEST = 4, 1000
SPACE = "timm:tf_efficientnet_lite0"
SIZES = (32, 48, 64, 96)  # of the baseline, in pixels
RANDOM_NETS, CHOSEN = 3, 4


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("data", help="folder with train/CLASS/ and test/CLASS/")
    p.add_argument("weights", help="as train_supernet.py --pretrained")
    p.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2], help="seeds of the draws")
    p.add_argument("--pictures", type=int, default=600, help="training pictures of a draw")
    p.add_argument("--vld_size", type=int, default=100, help="of them, for validation")
    p.add_argument("--epochs", type=int, default=8, help="epochs of the baseline, and from scratch")
    p.add_argument("--evaluations", type=int, default=40, help="of the search")
    p.add_argument("--steps", nargs="+", default=None,
                   help="only these, without a table: supernet, plain32, plain48, plain64, "
                        "plain96, search, random, scratch; None: all")
    p.add_argument("--save", default="runs/pretrained", help="folder for all that is made")
    p.add_argument("--out", default="benchmarks/results/pretrained.md", help="file for the table")
    return p


def main(args: argparse.Namespace) -> None:
    """Does the steps of each draw; prints and writes the table."""
    folders = [Path(args.save) / f"draw{draw}" for draw in args.draws]
    done = [do_steps(args, draw, folder) for draw, folder in zip(args.draws, folders, strict=True)]
    if args.steps:
        return
    found = [ways(*pair) for pair in zip(done, folders, strict=True)]
    classes = [" ".join(sorted(test.name for test in (folder / "data/test").iterdir()))
               for folder in folders]
    rows = []
    for way in dict.fromkeys(way for rows in found for way in rows):
        figures = [rows[way] for rows in found if way in rows]
        rows.append((way, *(spread([figure[key] for figure in figures if key in figure])
                            for key in ("mflops", "top1", "seconds"))))
    text = table(("way", "MFLOPs", "test pictures (%)", "CPU seconds"), rows)
    gains = [gain for rows in found for gain in against_plain(rows)]
    compared = f"Chosen networks minus plain fine-tuning at equal FLOPs (between two sizes: by " \
               f"their logarithm): {mean(gains):+.1f} points on average, {min(gains):+.1f} to " \
               f"{max(gains):+.1f}, {len(gains)} networks" if gains else ""
    publish(f"{args.pictures} pictures of {N_CLASSES} classes ({'; '.join(classes)}), "
            f"{args.vld_size} of them for validation; {N_TEST} test pictures.\n{machine()}; "
            f"{moment()}; one thread\n\n{text}\n\n{compared}\n", args.out)


def spread(values: Sequence[float]) -> str:
    """Returns the mean and, of several values, the standard deviation."""
    if not values:
        return "-"
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def do_steps(args: argparse.Namespace, draw: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Returns what the steps found, of one draw of pictures."""
    data = folder / "data"
    if not data.exists():
        draw_pictures(Path(args.data), data, args.pictures, np.random.default_rng(draw))
    images = ("--dataset", "folder", "--data", data, "--vld_size", args.vld_size)
    train = ("train_supernet.py", "--search_space", SPACE, *images, "--threads", 1)
    pretrained = ("--pretrained", args.weights)

    def adapt() -> dict[str, Any]:
        return test_accuracy(run(*train, *pretrained, "--save", folder / "supernet", log=folder))

    def plain(size: int) -> dict[str, Any]:
        return test_accuracy(run(
            *train, *pretrained, "--epochs", args.epochs, 0, 0, 0, "--resolutions", size,
            "--save", folder / f"plain{size}", log=folder))

    def search() -> dict[str, Any]:
        doe = args.evaluations // 2
        output = run("msunas.py", "--supernet_path", folder / "supernet", "--data", data, "--save",
                     folder / "search", "--n_doe", doe, "--n_iter", 4, "--iterations",
                     (args.evaluations - doe) // 4, "--n_workers", 0, "--cpu_workers", 1,
                     "--threads", 1, log=folder)
        return {"seconds": output["seconds"] + run(
            "post_search.py", "--expr", folder / "search", "-n", CHOSEN, "--save",
            folder / "chosen", "--rescore", "--threads", 1, log=folder)["seconds"]}

    def scratch() -> dict[str, Any]:
        return test_accuracy(run(*train, "--epochs", 0, 0, 0, args.epochs, "--batch_size", 32,
                                 "--resolutions", "48:64:8", "--crop_scale", 0.35, "--n_random", 1,
                                 "--save", folder / "scratch", log=folder))

    def random_subnets() -> dict[str, Any]:
        return drawn(folder, np.random.default_rng(draw))

    steps = {"supernet": adapt, **{f"plain{size}": lambda size=size: plain(size) for size in SIZES},
             "search": search, "random": random_subnets, "scratch": scratch}
    return {name: step_once(folder / f"{name}.json", step) for name, step in steps.items()
            if args.steps is None or name in args.steps}


def step_once(file: Path, step: Any) -> dict[str, Any]:
    """Returns what a step found, now or at an earlier time."""
    if not file.exists():
        write_json(file, step())
    found: dict[str, Any] = read_json(file, "file of a step")
    return found


def ways(done: dict[str, dict[str, Any]], folder: Path) -> dict[str, dict[str, float]]:
    """Returns the rows of the table, of one draw: of the steps that are done."""
    rows = {f"plain fine-tuning at {size} px":
            {**done[f"plain{size}"], "top1": done[f"plain{size}"]["largest"], "mflops": whole(size)}
            for size in SIZES if f"plain{size}" in done}
    for step, name in (("scratch", "from random weights"), ("supernet", "supernet")):
        if step in done:
            for end, mflops in zip(("smallest", "largest"), ends(folder / step), strict=True):
                seconds = {"seconds": done[step]["seconds"]} if end == "largest" else {}
                rows[f"{name}, {end}"] = {"top1": done[step][end], "mflops": mflops, **seconds}
    if "random" in done:
        rows["supernet, random"] = done["random"]
    if "search" in done:
        for i, score in enumerate(read_json(folder / "chosen/rescore.json", "scores")["networks"]):
            rows[f"search, network {i + 1}"] = {"top1": score["top1"],
                                                "mflops": float(score["name"].partition("@")[2])}
        rows["search, all of it"] = {"seconds": done["search"]["seconds"]}
    return rows


def against_plain(rows: dict[str, dict[str, float]]) -> list[float]:
    """Returns by how many points each chosen network is better than plain fine-tuning.

    Networks outside of the baseline's sizes are left out.
    """
    plain = [row for name, row in rows.items() if name.startswith("plain")]
    if not plain:
        return []
    mflops, top1 = zip(*sorted((row["mflops"], row["top1"]) for row in plain), strict=True)
    return [row["top1"] - float(np.interp(np.log(row["mflops"]), np.log(mflops), top1))
            for name, row in rows.items() if name.startswith("search, network")
            and mflops[0] <= row["mflops"] <= mflops[-1]]


def ends(supernet: Path) -> list[float]:
    """Returns the MFLOPs of the smallest and the largest subnet of a supernet."""
    resolutions = supernet_sizes(supernet)
    space = get_search_space(SPACE, resolutions=resolutions)
    return [flops(arch, resolutions) for arch in space.extremes()]


def flops(arch: dict[str, Any], resolutions: Sequence[int]) -> float:
    """Returns the MFLOPs of a subnet."""
    from evaluator.costs import network_costs

    space = get_search_space(SPACE, resolutions=resolutions)
    return network_costs(space.layers(arch, N_CLASSES)).flops / 1e6


def whole(size: int) -> float:
    """Returns the MFLOPs of the whole network."""
    return flops(get_search_space(SPACE, resolutions=[size]).extremes()[1], [size])


def supernet_sizes(path: Path) -> list[int]:
    """Returns the resolutions of a supernet."""
    from networks.supernet_info import read_supernet_info

    return list(read_supernet_info(path).resolutions or ())


def drawn(folder: Path, rng: np.random.Generator) -> dict[str, Any]:
    """Returns the mean accuracy and MFLOPs of random subnets."""
    resolutions = supernet_sizes(folder / "supernet")
    archs = get_search_space(SPACE, resolutions=resolutions).sample(RANDOM_NETS, rng=rng)
    top1 = []
    for i, arch in enumerate(archs):
        subnet, stats = folder / f"random{i}.subnet", folder / f"random{i}.stats"
        write_json(subnet, {**arch, "search_space": SPACE})
        run("-m", "evaluator", "--subnet", subnet, "--supernet_path", folder / "supernet",
            "--dataset", "folder", "--data", folder / "data", "--test", "--n_epochs", 0,
            "--n_workers", 0, "--threads", 1, "--save", stats, log=folder)
        top1.append(read_json(stats, "stats")["top1"])
    return {"top1": mean(top1), "mflops": mean(flops(arch, resolutions) for arch in archs)}


def draw_pictures(source: Path, target: Path, n: int, rng: np.random.Generator) -> None:
    """Links the pictures of four classes into a folder of their own."""
    names = sorted(folder.name for folder in (source / "train").iterdir())
    for name in sorted(rng.choice(names, N_CLASSES, replace=False)):
        for part, count in (("train", n), ("test", N_TEST)):
            files = sorted((source / part / name).iterdir())
            (target / part / name).mkdir(parents=True)
            for i in rng.choice(len(files), count // N_CLASSES, replace=False):
                (target / part / name / files[i].name).symlink_to(files[i].resolve())


def run(*words: object, log: Path) -> dict[str, Any]:
    """Runs a command of the program; returns its output and its CPU time in seconds."""
    before = cpu_seconds()
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    with open(log / "log.txt", "a") as file:
        file.write(f"$ {' '.join(map(str, words))}\n{done.stdout}{done.stderr}\n")
    if done.returncode:
        raise UserError(f"{words[0]} failed: {done.stderr.strip().splitlines()[-1]}")
    return {"output": done.stdout, "seconds": cpu_seconds() - before}


def cpu_seconds() -> float:
    """Returns the CPU time of all commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_accuracy(done: dict[str, Any]) -> dict[str, Any]:
    """Returns the accuracies that train_supernet.py prints last, by name, and the seconds."""
    line = re.findall(r"^test images: (.*)$", done["output"], re.M)[-1]
    pairs = re.findall(r"(smallest|largest)[^,]*? ([\d.]+) %", line)
    return {**{name: float(value) for name, value in pairs}, "seconds": done["seconds"]}


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
