"""Gives every reader of files and of small languages a great many hostile inputs.

    python benchmarks/fuzz.py [--inputs 20000] [--seed 0] [--reader NAME [--first I]]

Random bytes, random JSON, and mutations of valid files; the number of an input and the seed decide
it, so that `--reader NAME --first I --inputs 1` repeats one (checkpoints in torch's old format
excepted: it writes memory addresses). A reader must return an object that can be used, or raise
`UserError`. Anything else is counted as `other`: another exception, a crash, more than five seconds
of work, more memory than the limit, a file that was not there before.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from common import ROOT, benchmark_parser, machine, peak_mib, publish, table
from hostile import (
    checkpoint_inputs,
    damage,
    picture_inputs,
    string_inputs,
    text_inputs,
    yaml_inputs,
)

from cli.scripts import run_script
from data_providers.pictures import DAMAGED, MAX_PIXELS, picture_size, read_picture
from evaluator import build_evaluator
from evaluator.costs import network_costs
from evaluator.latency import LookUpTable, read_header
from evaluator.layers import read_config_layers
from msunas import get_args_parser as search_parser
from msunas import prepare
from post_search import get_args_parser as post_parser
from post_search import resolve as post_resolve
from search import events
from search.archive import Record, Stats, read_net_stats, read_stats, write_stats
from search.finished import read_finished
from search.progress import Progress
from search.run_folder import EVENTS, SETTINGS, RunFolder
from search.runner import make_parts
from search.selection import front_within, parse_constraints, parse_preference, select
from search_space import OFASearchSpace, read_arch
from train_imagenet import checked
from train_imagenet import get_args_parser as train_parser
from utils.errors import UserError, one_line
from utils.files import read_yaml
from visualization.data import read_run
from visualization.report import payload

INPUT, MEMORY, SECONDS = "input", 2 * 2**30, 5.0
SHOWN = 5
KINDS = ("accepted", "refused", "other")
SPACE = OFASearchSpace()
# Spaces that are tables, and a column with accuracies.
TABLES = {"table": "top1", "nasbench201": "cifar10_top1", "nasbenchgraph": "valid_top1",
          "nasbench101": "e108_valid_top1"}
SMALL, LARGE = SPACE.extremes()


class Reader(NamedTuple):
    """What is fuzzed: `make(rng) -> bytes`, the file they go to, and what reads that file."""

    make: Callable[[random.Random], bytes]
    read: Callable[[Path], Any]
    file: str = INPUT


class Found(NamedTuple):
    """What became of the inputs of one reader."""

    counts: Counter
    faults: list[str]
    slowest: float
    mib: float


# --------------------------------------------------------------------------- the readers, with use


def use_stats(path: Path) -> None:
    """Reads a stats file as the search and post_search do, and chooses from it."""
    read_stats(path, SPACE.encode)
    search = read_finished(path)
    select(front_within(search.stats.archive, [], search.sec_obj), 2, {}, search.sec_obj)


@cache
def parsed(make_parser: Callable[[], argparse.ArgumentParser], *flags: str) -> argparse.Namespace:
    """Returns the parsed flags, which nobody changes."""
    return make_parser().parse_args(flags)


def use_settings(path: Path) -> None:
    """Resumes a search with these settings, and selects from it."""
    _, _, settings = prepare(parsed(search_parser, "--resume", str(path.parent)))
    make_parts(settings)
    post_resolve(parsed(post_parser, "--expr", "x", "--supernet_path", "x"), settings.to_json())


def use_failed(path: Path) -> None:
    """Reads the failures of a search."""
    RunFolder(path.parent.parent).read_failed(SPACE.encode)


def use_events(path: Path) -> None:
    """Reads what a search recorded of itself, as its report does, and adds a line to it."""
    found = events.read(path.parent)
    json.dumps([found, events.phases(found), events.device_hours(found)], allow_nan=False)
    Progress(folder=RunFolder(path.parent)).event("end")
    if events.read(path.parent)[-1]["event"] != "end":
        raise RuntimeError("a line that was added is not read")


def use_report(path: Path) -> None:
    """Shows a search with these settings."""
    if not (path.parent / "iter_0.stats").exists():
        records = [Record(SMALL, 30.25, 90.69), Record(LARGE, 20.5, 1200.0)]
        write_stats(path.parent / "iter_0.stats", Stats(records, records, 0.75))
    json.dumps(payload([read_run(path.parent)]), allow_nan=False)


def use_table(path: Path) -> None:
    """Takes the file for the table of each benchmark, and asks it for an architecture."""
    refused = []
    for name, accuracy in TABLES.items():
        options = {"table": str(path), "genes": "depth,op", "accuracy": accuracy}
        try:
            evaluator = build_evaluator("table", {"search_space": name, "space_options": options})
            space = evaluator.space  # type: ignore[attr-defined]
            stats = evaluator.evaluate(space.extremes()[0])
            if not 0 <= stats["top1"] <= 100:
                raise RuntimeError(f"accepted an accuracy of {stats['top1']}")
        except UserError as error:
            refused.append(error)
    if len(refused) == len(TABLES):
        raise refused[0]


def use_safetensors(path: Path) -> None:
    """Builds the network of a file of weights with its config in the header."""
    from networks.export.torch_files import read_safetensors

    read_safetensors(path)


def use_config(path: Path) -> None:
    """Reads a net.config, counts its costs, and builds the network, without memory for weights."""
    import torch

    from networks import build_from_config, read_config

    layers, _ = read_config_layers(path, 224)
    network_costs(layers)
    with torch.device("meta"):
        build_from_config(read_config(path))


def use_lut(path: Path) -> None:
    """Reads a latency table and asks it for a layer."""
    lut = LookUpTable.read(path)
    lut.missing([])
    if not all(0 < mean < float("inf") for mean in lut.entries.values()):
        raise RuntimeError("accepted a latency out of range")


def use_checkpoint(path: Path) -> None:
    """Loads weights into a network, a training state, and the oracle's weights."""
    import torch

    from evaluator.oracle import read_mlp
    from networks import load_training_state, load_weights

    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    refused = []
    for read in (partial(load_weights, net), partial(load_weights, net, ema=True),
                 load_training_state, read_mlp):
        try:
            read(path)
        except UserError as error:
            refused.append(error)
    if len(refused) == 4:
        raise refused[0]


def use_flags(path: Path) -> None:
    """Takes the file for the defaults of all flags of train_imagenet.py."""
    try:
        args = train_parser().parse_args([str(path.parent), "--model-config", "x", "-c", str(path)])
    except SystemExit as end:
        raise UserError(f"exit code {end.code}") from None
    checked(args)


def use_yaml(path: Path) -> None:
    """Reads YAML, and the comments of a latency table; what comes out can be written in full."""
    value = read_yaml(path, "YAML file", object)
    if len(repr(value)) > 10**8:
        raise RuntimeError("accepted what grows without bounds")
    text = "".join(f"# {line}\n" for line in path.read_text("utf-8").splitlines())
    path.write_text(text + "a: 1\n")
    read_header(path)


def use_picture(path: Path) -> None:
    """Decodes a picture; what is no picture must be told by the errors that the loaders expect."""
    try:
        picture_size(path)
        image = read_picture(path)
    except DAMAGED as error:
        raise UserError(f"damaged: {error or type(error).__name__}") from None
    if image.mode != "RGB" or image.width * image.height > MAX_PIXELS:
        raise RuntimeError(f"accepted {image.mode}, {image.size}")


def use_text(parse: Callable[[str], Any], path: Path) -> None:
    """Parses what would stand on a command line."""
    parse(os.fsdecode(path.read_bytes()))


def use_preference(text: str) -> None:
    """Parses --prefer and chooses by it."""
    records = [Record(SMALL, 30.0, 100.0), Record(LARGE, 20.0, 400.0)]
    select(records, 1, parse_preference(text, "flops"), "flops")


def use_constraint(text: str) -> None:
    """Parses --constraint and applies it."""
    for limit in parse_constraints(text, "cpu1"):
        limit.holds(np.arange(3.0))


def use_resolutions(text: str) -> None:
    """Parses --resolutions and makes the space."""
    (action,) = (each for each in search_parser()._actions if each.dest == "resolutions")
    try:
        OFASearchSpace(sorted(set(action.type(text)))).extremes()
    except (ValueError, argparse.ArgumentTypeError) as error:  # what argparse turns into a line
        raise UserError(str(error)) from None


# --------------------------------------------------------------------------------- the valid inputs


def valid_networks() -> tuple[list[dict], list[dict]]:
    """Returns net.config dicts of both namings, and state dicts, of small networks."""
    import torch

    from networks import build_supernet, cut_subnet
    from networks.configs import check_config, to_old_naming

    torch.manual_seed(0)
    config = check_config(cut_subnet(build_supernet(10, 0.35), {**SMALL, "r": 32}).config)
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    net(torch.ones(4, 2)).sum().backward()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    optimizer.step()
    state = net.state_dict()
    return [{**config, "resolution": 32}, to_old_naming(config)], [
        state, {"state_dict": state, "state_dict_ema": state, "epoch": 3, "args": {"lr": 0.1},
                "optimizer": optimizer.state_dict()}]


def safetensors_of(config: dict[str, Any]) -> bytes:
    """Returns a network of random weights in one file."""
    from networks import build_from_config
    from networks.export import Preprocessing
    from networks.export.torch_files import SafeTensors

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.safetensors"
        SafeTensors().write(build_from_config(config), path, Preprocessing(32, None, None, None))
        return path.read_bytes()


TABLE_TEXTS = (
    "depth,op,top1,ms\n1,conv,60.5,3\n2,conv,61.5,4\n2,pool,59.25,2.5\n",
    "arch,cifar10_top1\n" + "".join(
        f"|{a}~0|+|{b}~0|{a}~1|+|{a}~0|{b}~1|{b}~2|,{top1}\n" for a, b, top1 in (
            ("none", "skip_connect", 10.5), ("nor_conv_3x3", "avg_pool_3x3", 90.25))),
    "links,op1,op2,op3,op4,valid_top1\n0012,gat,gcn,fc,skip,70.5\n0000,gat,gat,gat,gat,71.5\n",
    "hash,encoding,e108_valid_top1\n" + "".join(
        f"{name},{code},{top1}\n" for name, code, top1 in (
            ("a", "0" * 5 + "1" + "0" * 20, 90.5), ("b", "1" * 26, 91.5))))


@cache
def readers() -> dict[str, Reader]:
    """Returns every reader, by name; forked processes have them already."""
    import torch

    torch.set_num_threads(1)
    configs, states = valid_networks()
    failed = {**SMALL, "status": "failed", "error": "ValueError: no"}
    archive = [[SMALL, 30.25, 90.69], [LARGE, 20.5, 1200.0]]
    surrogate = {"model": "rbf", "name": "rbf", "winner": "rbf", "rmse": 0.5, "rho": 0.9,
                 "tau": float("nan")}
    old = {"archive": archive, "candidates": archive[1:], "hv": 0.75, "surrogate": surrogate}
    ours = {**old, "surrogate": {**surrogate, "tau": 0.8}, "sec_obj": "flops",
            "reference_point": [31.0, 1212.0]}
    net_stats = {"params": 4.5, "flops": 312.0, "gpu": None, "cpu": 15.2, "loss": 1.1, "top1": 75.5,
                 "top5": 92.0, "resolution": 224}
    _, _, settings = prepare(search_parser().parse_args(["--save", "new"]))
    flags = vars(train_parser().parse_args(["data"]))
    flags = {key: value for key, value in flags.items() if key not in ("data", "config", "typed")}
    recorded = [{"event": "start", "time": 1.5, "command": ["python"], "slots": 2,
                 "versions": {"torch": "2"}, "python": "3", "machine": "x"},
                {"event": "evaluation", "time": 2.5, "iteration": 0, "index": 1, "seconds": 0.5,
                 "status": "ok"},
                {"event": "iteration", "time": 3.5, "iteration": 1, "seconds": {"fit": 0.5}}]
    weights = [safetensors_of(configs[0])]
    lut = {"MBConv-input:8x8x8-output:8x8x8-expand:3-kernel:3-stride:1-idskip:1-se:0":
           {"mean": 0.25, "var": 0.01, "count": 20}, "classifier-input:1280-output:1000":
           {"mean": 1, "var": 0}}
    return {
        "subnet file": Reader(text_inputs(SMALL, LARGE), read_arch),
        "net.config": Reader(text_inputs(*configs), use_config),
        "stats of an iteration": Reader(text_inputs(ours, old), use_stats),
        "stats of a network": Reader(text_inputs(net_stats), read_net_stats),
        "settings of a search": Reader(text_inputs(settings.to_json()), use_settings, SETTINGS),
        "record of a failure": Reader(text_inputs(failed), use_failed, "failed/it_0_net_3"),
        "events of a search": Reader(text_inputs(*recorded), use_events, "run/" + EVENTS),
        "settings, for a report": Reader(text_inputs(settings.to_json()), use_report,
                                         "run/" + SETTINGS),
        "table of a benchmark": Reader(string_inputs(TABLE_TEXTS, (
            "depth", "op", "top1", ",", "\n", "1", "0012", "gat", "nan", "1e999", '"', "x", "\0",
            "101", "-1", "9" * 400, "\ufeff", "\r")), use_table),
        "weights in safetensors": Reader(lambda rng: damage(rng.choice(weights), rng),
                                         use_safetensors),
        "latency table": Reader(text_inputs(lut, dump=lambda value: "# device: cpu\n# threads: 1\n"
                                            + yaml.dump(value)), use_lut),
        "YAML of training flags": Reader(text_inputs(flags, dump=yaml.dump), use_flags),
        "YAML, deep and repeated": Reader(yaml_inputs(), use_yaml),
        "picture": Reader(picture_inputs(), use_picture),
        "checkpoint": Reader(checkpoint_inputs(states), use_checkpoint),
        "--prefer": Reader(string_inputs(("top1#80+flops#150", "flops#300", "none"), (
            "top1", "flops", "cpu", "#", "+", "80", "1e400", "nan", " ", "-1", "é")),
            partial(use_text, use_preference)),
        "--constraint": Reader(string_inputs(("cpu<=300,top1>=75", "cpu1<20.5"), (
            "top1", "cpu", "cpu1", "<=", ">=", "<", ",", "80", "1e400", "nan", " ", "\n")),
            partial(use_text, use_constraint)),
        "--resolutions": Reader(string_inputs(("192:256:4", "192,224,256", "32:48:4"), (
            "192", ":", ",", "256", "0", "-4", "9" * 12, "9" * 5000, " ", "4", "_", "٣")),
            partial(use_text, use_resolutions)),
    }


# ----------------------------------------------------------------------------------------- the run


def outcome_of(reader: Reader, path: Path, files: list[str]) -> str:
    """Returns `accepted`, `refused`, or what went wrong."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        reader.read(path)
        outcome = "accepted"
    except UserError as error:
        outcome = "refused" if one_line(error) else "an empty message"
    except Exception as error:  # any other exception is a fault of the reader: it is counted
        outcome = f"{type(error).__name__}: {one_line(error)[:200]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    left = [name for name in os.listdir() if name not in files]
    for name in left:
        os.rmdir(name) if os.path.isdir(name) else os.unlink(name)
    return f"left {left}" if left else outcome


def input_of(reader: Reader, name: str, seed: int, number: int) -> bytes:
    """Returns the input with this number."""
    return reader.make(random.Random(f"{seed} {name} {number}"))


def run_reader(name: str, seed: int, numbers: range) -> Found:
    """Fuzzes one reader in this process, which is a fresh one."""
    reader = readers()[name]
    signal.signal(signal.SIGPROF, too_slow)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)
    before, slowest, counts, faults = peak_mib(), 0.0, Counter(), []
    with (tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder),
          open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere)):
        path = Path(folder) / reader.file
        path.parent.mkdir(exist_ok=True)
        files = [reader.file.split("/")[0]]
        for number in numbers:
            path.write_bytes(input_of(reader, name, seed, number))
            begin = time.process_time()
            outcome = outcome_of(reader, path, files)
            slowest = max(slowest, time.process_time() - begin)
            kind = outcome if outcome in ("accepted", "refused") else "other"
            counts[kind] += 1
            if kind == "other":
                faults.append(f"input {number}: {outcome}")
    return Found(counts, faults, slowest, peak_mib() - before)


def too_slow(*_signal: Any) -> None:
    """Ends a read that takes too long."""
    raise TimeoutError(f"not finished after {SECONDS:g} s")


def fuzz(name: str, seed: int, numbers: range) -> Found:
    """Fuzzes one reader in a process of its own, which may crash."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        try:
            return pool.submit(run_reader, name, seed, numbers).result()
        except BrokenProcessPool:
            return Found(Counter(other=1), ["the process crashed"], 0.0, 0.0)


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("--inputs", type=int, default=20_000, help="inputs for each reader")
    p.add_argument("--seed", type=int, default=0, help="of all inputs")
    p.add_argument("--reader", help="only this one; None: all")
    p.add_argument("--first", type=int, default=0, help="number of the first input")
    p.add_argument("--save", default=str(ROOT / "benchmarks" / "results" / "fuzz.md"),
                   help="file for the table, where all readers are fuzzed")
    return p


def main(args: argparse.Namespace) -> None:
    """Fuzzes the readers, prints the table and writes it."""
    known = readers()
    if args.reader not in (None, *known):
        raise UserError(f"--reader {args.reader!r}: choose from {', '.join(known)}")
    rows, numbers, total = [], range(args.first, args.first + args.inputs), 0
    for name in [args.reader] if args.reader else known:
        begin = time.perf_counter()
        found = fuzz(name, args.seed, numbers)
        seconds = time.perf_counter() - begin
        rows.append((name, len(numbers), *(found.counts[kind] for kind in KINDS),
                     f"{1000 * found.slowest:.0f}", f"{found.mib:.0f}", f"{seconds:.0f}"))
        total += found.counts["other"]
        print(f"{name}: {dict(found.counts)} in {seconds:.0f} s", flush=True)
        for fault in found.faults[:SHOWN]:
            print(f"  {fault}", flush=True)
    header = ("reader", "inputs", *KINDS, "slowest ms", "peak MiB more",
              "seconds")
    text = f"`python benchmarks/fuzz.py`: {machine()}; seed {args.seed}\n\n{table(header, rows)}\n"
    publish(text, None if args.reader else args.save)
    if total:
        raise UserError(f"{total} inputs ended as neither an object nor a clear error")


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
