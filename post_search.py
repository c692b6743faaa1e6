"""Chooses networks from the front of a finished search and writes them with inherited weights."""

import argparse
import csv
import json
import operator
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cli.commands import command_line
from cli.scripts import Parser, run_script
from cli.types import count
from search.archive import Record, Stats, latest_stats, objectives, read_stats
from search.run_folder import SETTINGS
from search_space import Arch, check_arch
from utils.errors import UserError
from utils.files import read_json, write_json
from utils.pareto import asf, high_tradeoff, non_dominated

if TYPE_CHECKING:
    from torch import nn

    from evaluator.accuracy import SupernetEvaluator
    from evaluator.model_card import Card
    from evaluator.rescore import Scores

FIRST_OBJECTIVE = "top1"
COMPARISONS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
SIGNIFICANT_DIGITS = 3
# What writing takes from the settings of a search: type and default.
STORED = {"supernet_path": (str, None), "dataset": (str, None), "data": (str, None),
          "vld_size": (int, None), "seed": (int, 0), "n_workers": (int, 0), "n_epochs": (int, None),
          "n_gpus": (int, 8), "cache_dir": (str, None)}


class Search(NamedTuple):
    """What is read of a search.

    Attributes:
        stats: the latest archive.
        sec_obj: name of its second objective.
        settings: the flags of the search; empty for one of the original's.
    """

    stats: Stats
    sec_obj: str
    settings: dict[str, Any]


class Limit(NamedTuple):
    """One part of `--constraint`: `values` of the objective `name` (n,) -> (n,) bool."""

    name: str
    holds: Callable[[np.ndarray], np.ndarray]


# ------------------------------------------------------------------------------------- the queries


def parse_number(text: str, place: str) -> float:
    """Returns a finite number >= 0; raises UserError naming the `place` for anything else."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UserError(f"{place}: {text!r} must be a number >= 0, as 150 or 15.2")
    return value


def match_objective(name: str, sec_obj: str, place: str) -> str:
    """Returns the objective that `name` means: `top1`, or `sec_obj`, with or without its batch.

    Raises:
        UserError: neither; the message lists the known names.
    """
    if name in (sec_obj, sec_obj.rstrip("0123456789")):
        return sec_obj
    if name != FIRST_OBJECTIVE:
        raise UserError(f"{place}: unknown objective {name!r}; this search has {FIRST_OBJECTIVE}, "
                        f"{sec_obj}")
    return name


def parse_preference(text: str | None, sec_obj: str) -> dict[str, float]:
    """Returns {objective: preferred value} of `top1#80+flops#150`; {} for None and `None`.

    Objectives are matched by name, in any order; each may be left out.

    Raises:
        UserError: malformed, an unknown or repeated name, or a value out of range.
    """
    if text is None or text.strip().lower() == "none":
        return {}
    wanted = {}
    for part in text.split("+"):
        name, separator, value = part.strip().partition("#")
        if not separator:
            raise UserError(f"--prefer {text!r}: write objective#value, joined by +, as "
                            f"{FIRST_OBJECTIVE}#80+{sec_obj}#150")
        name = match_objective(name.strip(), sec_obj, f"--prefer {text!r}")
        if name in wanted:
            raise UserError(f"--prefer {text!r}: {name} stands there twice")
        wanted[name] = parse_number(value, f"--prefer {text!r}")
    if wanted.get(FIRST_OBJECTIVE, 0) > 100:
        raise UserError(f"--prefer {text!r}: {FIRST_OBJECTIVE} is an accuracy in percent, 0..100")
    return wanted


def parse_constraints(text: str | None, sec_obj: str) -> list[Limit]:
    """Returns the limits of `flops<=300,top1>=75`; [] for None.

    Raises:
        UserError: malformed, or an unknown name.
    """
    limits = []
    for part in text.split(",") if text is not None else []:
        parts = re.fullmatch(r"\s*(\w+)\s*(<=|>=|<|>)(.*)", part, re.DOTALL)
        if not parts:
            raise UserError(f"--constraint {text!r}: write objective, <= or >=, and a value, joined"
                            f" by commas, as {sec_obj}<=300,{FIRST_OBJECTIVE}>=75")
        name = match_objective(parts[1], sec_obj, f"--constraint {text!r}")
        bound, compare = parse_number(parts[3], f"--constraint {text!r}"), COMPARISONS[parts[2]]
        limits.append(Limit(name, lambda values, c=compare, b=bound: c(values, b)))
    return limits


def front_within(records: Sequence[Record], limits: Sequence[Limit]) -> list[Record]:
    """Returns the non-dominated records within the limits, by ascending second objective.

    Raises:
        UserError: there is none; the message says what the front offers.
    """
    F = objectives(records)
    front = np.flatnonzero(non_dominated(F))
    front = front[np.argsort(F[front, 1], kind="stable")]
    top1, sec_obj = 100 - F[front, 0], F[front, 1]
    inside = np.ones(len(front), dtype=bool)
    for limit in limits:
        inside &= limit.holds(top1 if limit.name == FIRST_OBJECTIVE else sec_obj)
    if not len(front):
        raise UserError("the archive holds no evaluated architecture")
    if not inside.any():
        raise UserError(f"no network of the front is within the --constraint; it has {len(front)}, "
                        f"from top1 {top1[0]:.2f} at {sec_obj[0]:g} to top1 {top1[-1]:.2f} at "
                        f"{sec_obj[-1]:g}")
    return [records[i] for i in front[inside]]


def weights_of(F: np.ndarray, wanted: dict[str, float], sec_obj: str) -> np.ndarray:
    """Returns the (2,) point that is preferred: (error, second objective).

    An objective without a preference gets the value that the front `F` (n, 2; ascending second
    objective) has, between its points, where the other one is as preferred.
    """
    error, cost = None, wanted.get(sec_obj)
    if FIRST_OBJECTIVE in wanted:
        error = 100 - wanted[FIRST_OBJECTIVE]
    if error is None:
        error = np.interp(cost, F[:, 1], F[:, 0])
    if cost is None:
        cost = np.interp(error, F[::-1, 0], F[::-1, 1])
    return np.array([error, cost])


def select(front: Sequence[Record], n: int, wanted: dict[str, float], sec_obj: str) -> list[int]:
    """Returns the indices of the chosen records of a front, ascending.

    With preferences: the `n` smallest achievement scalarising values. Without: the `n` highest
    trade-offs. The most accurate one is always added, so `n + 1` may come back.

    Args:
        front: non-dominated records by ascending second objective.
        n: how many.
        wanted: {objective: preferred value}, may be empty.
        sec_obj: name of the second objective.
    """
    F = objectives(front)
    if wanted:
        chosen = np.argsort(asf(F, weights_of(F, wanted, sec_obj)), kind="stable")[:n]
    else:
        chosen = high_tradeoff(F, n)
    return sorted({*chosen.tolist(), int(F[:, 0].argmin())})


def folder_names(values: Sequence[float], sec_obj: str) -> list[str]:
    """Returns `net-<objective>@<value>` for each value, three digits or as many as tell them apart.

    `net-flops@312`, `net-cpu@15.2`. The values are different, as on a front.
    """
    digits, names = SIGNIFICANT_DIGITS, []
    while len(set(names)) < len(values):
        names = [f"net-{sec_obj}@{_rounded(value, digits)}" for value in values]
        digits += 1
    return names


def _rounded(value: float, digits: int) -> str:
    whole = len(f"{value:.0f}")
    return f"{value:.{max(0, digits - whole)}f}"


# ----------------------------------------------------------------------------------- input, output


def read_search(path: str, sec_obj: str | None) -> Search:
    """Reads a stats file, or the latest one of a search's folder, and the settings beside it.

    Raises:
        UserError: no such search, a damaged file, or another second objective than `sec_obj`.
    """
    stats_file = latest_stats(path) if Path(path).is_dir() else Path(path)
    stats = read_stats(stats_file, check_arch)
    settings_file = stats_file.parent / SETTINGS
    settings = read_json(settings_file, "settings file") if settings_file.exists() else {}
    stated = stats.sec_obj or settings.get("sec_obj")
    if sec_obj and stated and sec_obj != stated:
        raise UserError(f"{stats_file}: its second objective is {stated}, not {sec_obj}; leave "
                        "--sec_obj out")
    name = stated or sec_obj or "flops"
    if not isinstance(name, str) or not re.fullmatch(r"[a-z]+\d*", name):
        raise UserError(f"{stats_file}: {str(name)[:60]!r} is no name of a second objective, such "
                        "as flops, params, cpu, gpu64")
    return Search(stats, name, settings)


def table_rows(records: Sequence[Record], sec_obj: str,
               names: dict[int, str]) -> list[dict[str, Any]]:
    """Returns what is printed of each record; `names` are the folders of those that are chosen."""
    return [{"top1": round(100 - record.top1_err, 4), "top1_err": round(record.top1_err, 4),
             sec_obj: record.sec_obj, "resolution": record.arch["r"],
             "layers": sum(record.arch["d"]), "chosen": names.get(i, ""), "arch": record.arch}
            for i, record in enumerate(records)]


def print_text(rows: Sequence[dict[str, Any]]) -> None:
    """Prints rows as an aligned table."""
    rows = [{key: value for key, value in row.items() if key != "arch"} for row in rows]
    table = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(map(str.rjust, line, widths)))


def print_json(rows: Sequence[dict[str, Any]]) -> None:
    """Prints rows as one JSON list."""
    print(json.dumps(rows, indent=1))


def print_csv(rows: Sequence[dict[str, Any]]) -> None:
    """Prints rows as comma-separated values with a header; architectures as JSON."""
    writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "arch": json.dumps(row["arch"])} for row in rows)


PRINTERS = {"table": print_text, "json": print_json, "csv": print_csv}


def _cell(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


# ----------------------------------------------------------------------------------------- writing


def write_networks(folders: Sequence[Path], records: Sequence[Record], cutter: "Cutter",
                   old_naming: bool) -> list["nn.Module"]:
    """Writes `net.subnet`, `net.config` and `net.inherited` of each record into its folder.

    Args:
        folders, records: of equal length.
        cutter: makes the networks.
        old_naming: write what the original program reads.

    Returns:
        The networks.
    """
    from networks import save_weights, write_config

    extra = {"transform": cutter.evaluator.provider.info.eval_resize} if cutter.evaluator else {}
    nets = []
    for folder, record in zip(folders, records, strict=True):
        nets.append(subnet := cutter.cut(record.arch))
        write_json(folder / "net.subnet", record.arch)
        write_config(subnet, folder / "net.config", old_naming, resolution=record.arch["r"],
                     **extra)
        save_weights(subnet, folder / "net.inherited", old_naming)
    return nets


def score_unseen(names: Sequence[str], records: Sequence[Record], nets: Sequence["nn.Module"],
                 evaluator: "SupernetEvaluator", test: bool) -> "Scores":
    """Returns the accuracy of the networks on the test images, which the search did not see.

    Args:
        names, records, nets: of the networks; where the search fine-tuned, they are fine-tuned
            again as it did.
        evaluator: what the search scored with.
        test: whether the search scored on the test images.

    Raises:
        UserError: no images are left that the search did not see.
    """
    from evaluator.rescore import check_unseen, finished_net, rescore

    check_unseen(evaluator.provider, test)
    if evaluator.n_epochs:
        nets = [finished_net(evaluator, record.arch) for record in records]
    scores = rescore(names, [(net, record.arch["r"])
                             for net, record in zip(nets, records, strict=True)],
                     evaluator.provider)
    print("\n".join(scores.lines()), file=sys.stderr)
    return scores


def write_hubs(folders: Sequence[Path], records: Sequence[Record], nets: Sequence["nn.Module"],
               cards: Sequence["Card"], evaluator: "SupernetEvaluator") -> None:
    """Writes `hub/`, which timm loads, into each folder; says why where it cannot.

    Args:
        folders, records, nets, cards: of the networks.
        evaluator: names the transform of the images.
    """
    from evaluator.model_card import HUB, Preprocessing, give_to_timm

    info = evaluator.provider.info
    for folder, record, net, card in zip(folders, records, nets, cards, strict=True):
        images = Preprocessing(record.arch["r"], info.eval_resize, info.mean, info.std)
        reason = give_to_timm(net, folder / HUB, images, card)
        if reason:
            print(f"note: no {folder / HUB}: {reason}", file=sys.stderr)


def commands_of(args: argparse.Namespace, settings: dict[str, Any]) -> dict[str, str]:
    """Returns the command of the search, where its settings are known, and of the selection."""
    found = {}
    if settings:
        import msunas

        found["search"] = command_line("python msunas.py", msunas.get_args_parser(), settings)
    found["selection"] = command_line("python post_search.py", get_args_parser(), vars(args))
    return found


class Cutter(NamedTuple):
    """From architecture to subnet, with what scores it: None without a data set."""

    cut: Callable[[Arch], "nn.Module"]
    evaluator: "SupernetEvaluator | None"


def make_cutter(settings: dict[str, Any]) -> Cutter:
    """Returns what makes the subnets.

    With a data set they have the BN statistics that the search evaluated them with.

    Raises:
        UserError: the supernet or the data set is missing, or does not fit.
    """
    from networks import cut_subnet, load_supernet

    if settings["dataset"] is None:
        print("note: no --dataset, so net.inherited keeps the supernet's batch-norm statistics; "
              "fine-tune the networks before validating them", file=sys.stderr)
        supernet = load_supernet(settings["supernet_path"], settings["n_classes"])
        return Cutter(lambda arch: cut_subnet(supernet, arch), None)
    if settings["n_epochs"]:
        print(f"note: the search fine-tuned each network for {settings['n_epochs']} epochs; "
              "net.inherited holds the supernet's weights, to be fine-tuned", file=sys.stderr)
    import torch

    from evaluator.accuracy import SupernetEvaluator
    from evaluator.options import EvaluationOptions

    on_gpu = torch.cuda.is_available() and settings["n_gpus"] != 0
    evaluator = SupernetEvaluator(EvaluationOptions.of(
        {**settings, "n_classes": None, "device": "cuda:0" if on_gpu else "cpu"}))
    return Cutter(evaluator.calibrated, evaluator)


def resolve(args: argparse.Namespace, stored: dict[str, Any]) -> dict[str, Any]:
    """Returns what writing needs: the flags, else what the search stored, else `STORED`'s default.

    `n_classes` is the flag alone: the search's is the data set's, that of the supernet can differ.

    Raises:
        UserError: no supernet is known, or a stored value has another type.
    """
    settings: dict[str, Any] = {"n_classes": args.n_classes}
    if stored.get("evaluator", "ofa") != "ofa":  # a benchmark's answers came from no images
        stored = {**stored, "dataset": None}
    for key, (kind, default) in STORED.items():
        value = getattr(args, key, None)
        settings[key] = stored.get(key, default) if value is None else value
        if settings[key] is not None and type(settings[key]) is not kind:
            raise UserError(f"{SETTINGS} of the search: {key!r} must be of type {kind.__name__}, "
                            f"not {str(settings[key])[:60]!r}")
    if settings["supernet_path"] is None:
        raise UserError("--supernet_path is needed: the search's folder has no settings file that "
                        "names its supernet")
    return settings


def check_targets(folders: Sequence[Path], records: Sequence[Record]) -> None:
    """Raises UserError where a folder already holds another network."""
    for folder, record in zip(folders, records, strict=True):
        subnet = folder / "net.subnet"
        if subnet.exists() and read_json(subnet, "subnet file") != record.arch:
            raise UserError(f"{folder}: holds another network; choose another --save")


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser; flags of the original keep their names."""
    p = Parser(prog="post_search.py", description=__doc__)
    p.add_argument("--expr", required=True, help="stats file of a search, or the folder of one "
                   "(its latest iteration is taken); ours or the original's")
    p.add_argument("--save", default=".tmp", help="folder for the chosen networks (default: .tmp)")
    p.add_argument("-n", type=count(1), default=1,
                   help="how many to choose; the most accurate is added "
                   "where it is not among them (default: 1)")
    p.add_argument("--prefer", help="preferred point, as top1#80+flops#150: names in any order, "
                   "one may be left out (default: None, the highest trade-offs)")
    p.add_argument("--constraint", help="limits, as 'flops<=300,top1>=75' (default: none)")
    p.add_argument("--sec_obj", help="second objective where the stats file does not say "
                   "(default: flops)")
    p.add_argument("--list", action="store_true", help="print the front and write nothing")
    p.add_argument("--format", choices=sorted(PRINTERS), default="table",
                   help="of what is printed (default: table)")
    p.add_argument("--supernet_path", help="checkpoint to take the weights from (default: the "
                   "search's)")
    p.add_argument("--n_classes", type=count(1),
                   help="classes that the supernet must have, without a "
                   "--dataset (default: those of the checkpoint)")
    p.add_argument("--dataset", help="data set to recompute the batch-norm statistics on (default: "
                   "the search's; without one they stay the supernet's)")
    p.add_argument("--data", help="folder of the data set (default: the search's)")
    p.add_argument("--rescore", action="store_true",
                   help="score the chosen networks on the test images, which the search did not "
                   "see: 95 %% intervals, and which neighbours cannot be told apart; in "
                   "rescore.json, too (default: off)")
    p.add_argument("--old_naming", action="store_true",
                   help="write files that the original program reads")
    return p


def main(args: argparse.Namespace) -> None:
    """Prints the front, or the chosen networks after writing them."""
    search = read_search(args.expr, args.sec_obj)
    wanted = parse_preference(args.prefer, search.sec_obj)
    limits = parse_constraints(args.constraint, search.sec_obj)
    front = front_within(search.stats.archive, limits)
    chosen = select(front, args.n, wanted, search.sec_obj)
    names = dict(zip(chosen, folder_names([front[i].sec_obj for i in chosen], search.sec_obj),
                     strict=True))
    if args.list:
        PRINTERS[args.format](table_rows(front, search.sec_obj, names))
        return
    scores = hand_over(args, search, front, names)
    rows = table_rows([front[i] for i in chosen], search.sec_obj, dict(enumerate(names.values())))
    PRINTERS[args.format](rows if scores is None else with_scores(rows, scores))


def hand_over(args: argparse.Namespace, search: Search, front: Sequence[Record],
              names: dict[int, str]) -> "Scores | None":
    """Writes the chosen networks; returns what `--rescore` found, or None.

    Args:
        args: the flags.
        search: what was read of the search.
        front: the front.
        names: the folder of each chosen network, by its index in the front.

    Raises:
        UserError: see `resolve`, `check_targets`, `make_cutter`, `score_unseen`.
    """
    settings = resolve(args, search.settings)
    if args.rescore and settings["dataset"] is None:
        raise UserError("--rescore needs the images: give --dataset")
    records, folders = [front[i] for i in names], [Path(args.save) / n for n in names.values()]
    check_targets(folders, records)
    cutter = make_cutter(settings)
    nets = write_networks(folders, records, cutter, args.old_naming)
    evaluator, scores = cutter.evaluator, None
    if args.rescore:
        scores = score_unseen([*names.values()], records, nets, evaluator,
                              bool(search.settings.get("test")))
        write_json(Path(args.save) / "rescore.json", scores.report(), indent=1)
    if evaluator and not evaluator.n_epochs:  # else the weights are still to be fine-tuned
        from search.cards import search_cards, with_accuracies

        cards = search_cards([*names.values()], front, [*names], search.sec_obj, settings,
                             commands_of(args, search.settings))
        cards = with_accuracies(cards, records, evaluator.provider.n_valid, scores)
        write_hubs(folders, records, nets, cards, evaluator)
    return scores


def with_scores(rows: Sequence[dict[str, Any]], scores: "Scores") -> list[dict[str, Any]]:
    """Returns the printed rows with the accuracy on unseen images and its 95 % interval."""
    return [{"unseen_top1": round(top1, 4), "low": round(low, 4), "high": round(high, 4), **row}
            for row, top1, (low, high) in zip(rows, scores.top1, scores.intervals(), strict=True)]


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
