"""Chooses networks from the front of a finished search and writes them with inherited weights."""

import argparse
import csv
import json
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cli.startup  # noqa: F401  # before what takes time to import

import numpy as np

from cli.commands import command_line
from cli.progress import add_threads_flag, progress_bar, share_processors
from cli.scripts import Parser, run_script
from cli.types import DOWNLOAD, count, integers
from search.archive import Record, Stats, objectives, read_stats, stats_file
from search.constraints import Limit, parse_limits, parse_number
from search.run_folder import SETTINGS
from search.settings import read_stored
from search_space import DEFAULT as DEFAULT_SPACE
from search_space import (
    SPACE_KEY,
    Arch,
    SearchSpace,
    check_arch,
    get_search_space,
    search_space_class,
)
from utils.errors import UserError
from utils.files import own_folder, read_json, write_json
from utils.flags import refuse_idle
from utils.locks import Lock, locked
from utils.pareto import asf, high_tradeoff, non_dominated

if TYPE_CHECKING:
    from torch import nn

    from evaluator.accuracy import SupernetEvaluator
    from evaluator.model_card import Card
    from evaluator.rescore import Scores

FIRST_OBJECTIVE = "top1"
SIGNIFICANT_DIGITS = 3
LOCK = ".selection.lock"
# What writing takes from the settings of a search: type and default.
STORED = {"supernet_path": (str, None), "dataset": (str, None), "data": (str, None),
          "vld_size": (int, None), "seed": (int, 0), "n_workers": (int, 0), "n_epochs": (int, None),
          "n_gpus": (int, 8), "cache_dir": (str, None)}
# What would do nothing beside a flag.
IDLE = {"pick": {"beside --pick, which names the networks": ("-n", "--prefer", "--constraint")},
        "list": {"beside --list, which writes nothing": ("--rescore", "--old_naming")}}


class Found(NamedTuple):
    """What is read of a search.

    Attributes:
        stats: the latest archive.
        sec_obj: names of its objectives beside the error, joined by `+`.
        settings: the flags of the search; empty for one of the original's.
        space: its search space; None where that is code which nobody typed.
        space_name: the name of that space; None where no file says one (the original's).
    """

    stats: Stats
    sec_obj: str
    settings: dict[str, Any]
    space: SearchSpace | None
    space_name: str | None


# ------------------------------------------------------------------------------------- the queries


def match_objective(name: str, sec_obj: str, place: str) -> str:
    """Returns the objective that `name` means: `top1`, or one of `sec_obj`, its batch optional.

    Raises:
        UserError: neither; the message lists the known names.
    """
    known = sec_obj.split("+")
    found = [full for full in known if name in (full, full.rstrip("0123456789"))]
    if name != FIRST_OBJECTIVE and not found:
        raise UserError(f"{place}: unknown objective {name!r}; this search has "
                        f"{', '.join([FIRST_OBJECTIVE, *known])}")
    return found[0] if found else name


def parse_preference(text: str | None, sec_obj: str) -> dict[str, float]:
    """Returns {objective: preferred value} of `top1#80+flops#150`; {} for None and `None`.

    Objectives are matched by name, in any order; each may be left out.

    Raises:
        UserError: malformed, an unknown or repeated name, or a value out of range.
    """
    if text is None or text.strip().lower() == "none":
        return {}
    wanted: dict[str, float] = {}
    for part in text.split("+"):
        name, separator, value = part.strip().partition("#")
        if not separator:
            raise UserError(f"--prefer {text!r}: write objective#value, joined by +, as "
                            f"{FIRST_OBJECTIVE}#80+{sec_obj.split('+')[0]}#150")
        name = match_objective(name.strip(), sec_obj, f"--prefer {text!r}")
        if name in wanted:
            raise UserError(f"--prefer {text!r}: {name} is given twice")
        wanted[name] = parse_number(value, f"--prefer {text!r}")
    if wanted.get(FIRST_OBJECTIVE, 0) > 100:
        raise UserError(f"--prefer {text!r}: {FIRST_OBJECTIVE} is an accuracy in percent, 0..100")
    return wanted


def parse_constraints(text: str | None, sec_obj: str) -> list[Limit]:
    """Returns the limits of `flops<=300,top1>=75`; [] for None.

    Raises:
        UserError: malformed, or an unknown name.
    """
    return parse_limits(text, lambda name, place: match_objective(name, sec_obj, place),
                        sec_obj.split("+")[0])


def front_within(records: Sequence[Record], limits: Sequence[Limit], sec_obj: str,
                 signs: np.ndarray | None = None) -> list[Record]:
    """Returns the non-dominated records within the limits, by ascending second objective.

    Args:
        records: of the archive.
        limits: of `parse_constraints`.
        sec_obj: names of the objectives.
        signs: (m,) what makes them minimised; None where they are.

    Raises:
        UserError: there is none; the message says what the front offers.
    """
    values = objectives(records)
    front = np.flatnonzero(non_dominated(values if signs is None else values * signs))
    front = front[np.argsort(values[front, 1], kind="stable")]
    columns = dict(zip(sec_obj.split("+"), values[front, 1:].T, strict=True))
    columns[FIRST_OBJECTIVE] = top1 = 100 - values[front, 0]
    inside = np.ones(len(front), dtype=bool)
    for limit in limits:
        inside &= limit.holds(columns[limit.name])
    if not len(front):
        raise UserError("the archive holds no evaluated architecture")
    if not inside.any():
        first, last = (", ".join(f"{record:g}" for record in values[i, 1:])
                       for i in front[[0, -1]])
        raise UserError(f"no network of the front is within the --constraint; it has {len(front)}, "
                        f"from top1 {top1[0]:.2f} at {first} to top1 {top1[-1]:.2f} at {last}")
    return [records[i] for i in front[inside]]


def picked(records: Sequence[Record], numbers: Sequence[int]) -> list[Record]:
    """Returns the records of an archive with these numbers, by ascending second objective.

    Raises:
        UserError: the archive has no such number.
    """
    unknown = [number for number in numbers if number >= len(records)]
    if unknown:
        raise UserError(f"--pick {unknown[0]}: the archive holds networks 0..{len(records) - 1}")
    return sorted((records[number] for number in sorted(set(numbers))), key=lambda r: r.sec_obj)


def preferred_point(F: np.ndarray, wanted: dict[str, float], names: Sequence[str]) -> np.ndarray:
    """Returns the (m,) point that is preferred: the error, then the objectives.

    Of two objectives, the one without a preference gets the value that the front `F` (n, 2;
    ascending second objective) has, between its points, where the other one is as preferred. Of
    more, those without a preference get the front's median.
    """
    given = [100 - wanted[FIRST_OBJECTIVE] if FIRST_OBJECTIVE in wanted else None,
             *(wanted.get(name) for name in names)]
    if len(given) == 2 and given[0] is None:
        given[0] = np.interp(given[1], F[:, 1], F[:, 0])
    if len(given) == 2 and given[1] is None:
        given[1] = np.interp(given[0], F[::-1, 0], F[::-1, 1])
    return np.array([np.median(F[:, i]) if value is None else value
                     for i, value in enumerate(given)])


def select(front: Sequence[Record], n: int, wanted: dict[str, float], sec_obj: str,
           signs: np.ndarray | None = None) -> list[int]:
    """Returns the indices of the chosen records of a front, ascending.

    With preferences: the `n` smallest achievement scalarising values. Without: the `n` highest
    trade-offs. The most accurate one is always added, so `n + 1` may come back.

    Args:
        front: non-dominated records by ascending second objective.
        n: how many.
        wanted: {objective: preferred value}, may be empty.
        sec_obj: names of the objectives.
        signs: see `front_within`.
    """
    values = objectives(front)
    if wanted:
        point = preferred_point(values, wanted, sec_obj.split("+"))
        chosen = np.argsort(asf(_costs(values, point, signs), point), kind="stable")[:n]
    else:
        chosen = high_tradeoff(values if signs is None else values * signs, n)
    return sorted({*chosen.tolist(), most_accurate(front)})


def most_accurate(records: Sequence[Record]) -> int:
    """Returns the index of the record with the least error."""
    return int(np.argmin([record.top1_err for record in records]))


def _costs(values: np.ndarray, point: np.ndarray, signs: np.ndarray | None) -> np.ndarray:
    """Returns (n, m) values to be minimised against `point`; of maximised ones the reciprocal."""
    if signs is None:
        return values
    reciprocal = point**2 / np.where(values > 0, values, 1e-10)
    return np.where(signs < 0, reciprocal, values)


def folder_names(values: Sequence[float], sec_obj: str) -> list[str]:
    """Returns `net-<objective>@<value>` for each value, three digits or as many as tell them apart.

    `net-flops@312`, `net-cpu@15.2`. Equal values, which more than two objectives allow, are told
    apart by a number.
    """
    name, digits, names = sec_obj.split("+")[0], SIGNIFICANT_DIGITS, list[str]()
    while len(set(names)) < len(set(values)):
        names = [f"net-{name}@{_rounded(value, digits)}" for value in values]
        digits += 1
    return [each if names.index(each) == i else f"{each}-{names[:i].count(each) + 1}"
            for i, each in enumerate(names)]


def _rounded(value: float, digits: int) -> str:
    whole = len(f"{value:.0f}")
    return f"{value:.{max(0, digits - whole)}f}"


# ----------------------------------------------------------------------------------- input, output


def read_search(path: str, sec_obj: str | None, search_space: str | None = None) -> Found:
    """Reads a stats file, or the latest one of a search's folder, and the settings beside it.

    Args:
        path: the file or folder.
        sec_obj: names of the objectives where the file does not say.
        search_space: name of the space where the file does not say; code of the user's is
            imported only if it is named here.

    Raises:
        UserError: no such search, a damaged file, or other objectives or another search space.
    """
    file = stats_file(path)
    settings = read_stored(file.parent)
    stated = read_json(file, "stats file", allow_nan=True).get("search_space")
    stored = stated or settings.get("search_space")
    if search_space and stored and search_space != stored:
        raise UserError(f"{file}: its search space is {stored}, not {search_space}; leave "
                        "--search_space out")
    space, check = _space(search_space or stored, settings, typed=search_space is not None)
    stats = read_stats(file, check)
    stated = stats.sec_obj or settings.get("sec_obj")
    if sec_obj and stated and sec_obj != stated:
        raise UserError(f"{file}: its second objective is {stated}, not {sec_obj}; leave "
                        "--sec_obj out")
    name = stated or sec_obj or "flops"
    if not isinstance(name, str) or not all(re.fullmatch(r"[A-Za-z_][\w@]*", part, re.ASCII)
                                            for part in name.split("+")):
        raise UserError(f"{file}: {str(name)[:60]!r} is no name of a second objective, such "
                        "as flops, params, cpu, gpu64")
    return Found(stats, name, settings, space, search_space or stored)


def _space(name: Any, settings: dict[str, Any],
           typed: bool) -> tuple[SearchSpace | None, Callable[[dict[str, Any]], object] | None]:
    """Returns the search space called `name`, and what checks that architectures are its own."""
    if name is not None and not isinstance(name, str):
        raise UserError(f"{str(name)[:60]!r} is no name of a search space")
    if ":" in (name or "") and not typed:
        print(f"note: the search space {name} is code of your own, which --search_space {name} "
              "would load; its architectures are not checked", file=sys.stderr)
        return None, None
    if name is None or "resolutions" in search_space_class(name).options:  # of any resolution
        return get_search_space(name or DEFAULT_SPACE), lambda arch: check_arch(arch, name)
    space = get_search_space(name, **settings)
    return space, space.encode


def table_rows(records: Sequence[Record], sec_obj: str, names: dict[int, str],
               space: SearchSpace | None) -> list[dict[str, Any]]:
    """Returns what is printed of each record; `names` are the folders of those that are chosen."""
    return [{"top1": round(100 - record.top1_err, 4), "top1_err": round(record.top1_err, 4),
             **dict(zip(sec_obj.split("+"), record.values, strict=True)),
             **({} if space is None else space.summary(record.arch)),
             "chosen": names.get(i, ""), "arch": record.arch}
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


def write_architectures(folders: Sequence[Path], records: Sequence[Record],
                        space: str | None) -> None:
    """Writes `net.subnet` alone, for a search space that builds no networks."""
    check_targets(folders, records, space)
    for folder, record in zip(folders, records, strict=True):
        write_json(folder / "net.subnet", subnet_file(record.arch, space))
    print("note: only net.subnet is written: the search space builds no networks", file=sys.stderr)


def write_networks(folders: Sequence[Path], records: Sequence[Record], cutter: "Cutter",
                   old_naming: bool, space: str | None = None) -> list["nn.Module"]:
    """Writes `net.subnet`, `net.config` and `net.inherited` of each record into its folder.

    Args:
        folders, records: of equal length.
        cutter: makes the networks.
        old_naming: write what the original program reads.
        space: name of the search space.

    Returns:
        The networks.
    """
    from networks import save_weights, write_config
    from networks.hub import HUB, withdraw

    extra = cutter.evaluator.provider.facts() if cutter.evaluator else {}
    extra |= {SPACE_KEY: space} if space not in (None, DEFAULT_SPACE) else {}
    nets = []
    for folder, record in progress_bar([*zip(folders, records, strict=True)], "network"):
        nets.append(subnet := cutter.cut(record.arch))
        withdraw(folder / HUB)  # of the weights that are now replaced
        write_json(folder / "net.subnet", subnet_file(record.arch, space))
        write_config(subnet, folder / "net.config", old_naming, resolution=record.arch["r"],
                     **extra)
        weights = folder / "net.inherited"
        before = weights.read_bytes() if weights.is_file() else None
        save_weights(subnet, weights, old_naming)
        if before not in (None, weights.read_bytes()):
            print(f"note: {weights}: written anew, with other weights than before: the supernet "
                  "or the flags are not the same; what was tuned of it is older", file=sys.stderr)
    return nets


def score_unseen(names: Sequence[str], records: Sequence[Record], nets: Sequence["nn.Module"],
                 evaluator: "SupernetEvaluator") -> "Scores":
    """Returns the accuracy of the networks on the test images, which the search did not see.

    Args:
        names, records, nets: of the networks; where the search fine-tuned, they are fine-tuned
            again as it did.
        evaluator: what the search scored with.
    """
    from evaluator.rescore import finished_net, rescore

    if evaluator.n_epochs:
        nets = [finished_net(evaluator, record.arch) for record in records]
    sized = [(net, record.arch["r"]) for net, record in zip(nets, records, strict=True)]
    scores = rescore(names, progress_bar(sized, "network scored"), evaluator.provider)
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

        found["search"] = command_line("msunas.py", msunas.get_args_parser(), settings)
    found["selection"] = command_line("post_search.py", get_args_parser(), vars(args))
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
        supernet = load_supernet(settings["supernet_path"], settings["n_classes"],
                                 search_space_class(settings["search_space"]).family)
        return Cutter(lambda arch: cut_subnet(supernet, arch), None)
    if settings["n_epochs"]:
        print(f"note: the search fine-tuned each network for {settings['n_epochs']} epochs; "
              "net.inherited holds the supernet's weights, to be fine-tuned", file=sys.stderr)
    from evaluator.accuracy import SupernetEvaluator
    from evaluator.options import EvaluationOptions

    evaluator = SupernetEvaluator(EvaluationOptions.of(
        {**settings, "n_classes": None, "device": "cpu" if settings["n_gpus"] == 0 else None}))
    return Cutter(evaluator.calibrated, evaluator)


def resolve(args: argparse.Namespace, stored: dict[str, Any],
            space: str | None = None) -> dict[str, Any]:
    """Returns what writing needs: the flags, else what the search stored, else `STORED`'s default.

    `n_classes` is the flag alone: the search's is the data set's, that of the supernet can differ.
    `space` is the name of the search space.

    Raises:
        UserError: no supernet is known, or a stored value has another type.
    """
    settings: dict[str, Any] = {"n_classes": args.n_classes, "download": args.download,
                                "search_space": space or DEFAULT_SPACE}
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


def subnet_file(arch: Arch, space: str | None) -> dict[str, Any]:
    """Returns what a net.subnet file holds: the architecture, and its space where not mbv3."""
    return {**arch, SPACE_KEY: space} if space not in (None, DEFAULT_SPACE) else arch


def check_targets(folders: Sequence[Path], records: Sequence[Record],
                  space: str | None = None) -> None:
    """Raises UserError where a folder already holds another network."""
    for folder, record in zip(folders, records, strict=True):
        subnet = folder / "net.subnet"
        if subnet.exists() and read_json(subnet, "subnet file") != subnet_file(record.arch, space):
            raise UserError(f"{folder}: holds another network; choose another --save")


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser; flags of the original keep their names."""
    p = Parser(prog="post_search.py", description=__doc__)
    p.add_argument("--expr", required=True, help="stats file of a search, or the folder of one "
                   "(its latest iteration is taken); ours or the original's")
    p.add_argument("--save", default=".tmp", help="folder for the chosen networks (default: .tmp)")
    p.add_argument("-n", type=count(1), default=1,
                   help="how many to choose; the most accurate is added "
                   "where it is not among them; 1 with a --constraint and no --prefer: the most "
                   "accurate within it (default: 1)")
    p.add_argument("--prefer", help="preferred point, as top1#80+flops#150: names in any order, "
                   "one may be left out (default: None, the highest trade-offs)")
    p.add_argument("--constraint", help="limits, as 'flops<=300,top1>=75' (default: none)")
    p.add_argument("--pick", **integers(0), help="numbers of networks in the archive, as a report "
                   "shows them: 3,17; instead of a choice from the front (default: none)")
    p.add_argument("--sec_obj", help="second objective where the stats file does not say "
                   "(default: flops)")
    p.add_argument("--search_space", help="search space where the stats file does not say, or code "
                   "of your own as module:Class (default: the search's)")
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
    p.add_argument("--download", action="store_true", help=DOWNLOAD)
    p.add_argument("--rescore", action="store_true",
                   help="score the chosen networks on the test images, which the search did not "
                   "see: 95 %% intervals, and which neighbours cannot be told apart; in "
                   "rescore.json, too (default: off)")
    p.add_argument("--old_naming", action="store_true",
                   help="write files that the original program reads")
    add_threads_flag(p)
    return p


def main(args: argparse.Namespace) -> None:
    """Prints the front, or the chosen networks after writing them."""
    share_processors(args.threads)
    for flag in sorted(IDLE.keys() & args.typed):
        refuse_idle(args.typed, IDLE[flag])
    found = read_search(args.expr, args.sec_obj, args.search_space)
    signs = found.stats.signs if found.stats.objectives else None
    wanted = parse_preference(args.prefer, found.sec_obj)
    limits = parse_constraints(args.constraint, found.sec_obj)
    front = front_within(found.stats.archive, limits, found.sec_obj, signs)
    chosen = select(front, args.n, wanted, found.sec_obj, signs)
    if limits and args.n == 1 and not wanted:
        chosen = [most_accurate(front)]
    if args.pick:
        front = picked(found.stats.archive, args.pick)
        chosen = list(range(len(front)))
    names = dict(zip(chosen, folder_names([front[i].sec_obj for i in chosen], found.sec_obj),
                     strict=True))
    if args.list:
        PRINTERS[args.format](table_rows(front, found.sec_obj, names, found.space))
        return
    scores = hand_over(args, found, front, names)
    rows = table_rows([front[i] for i in chosen], found.sec_obj,
                      dict(enumerate(names.values())), found.space)
    PRINTERS[args.format](rows if scores is None else with_scores(rows, scores))


def hand_over(args: argparse.Namespace, found: Found, front: Sequence[Record],
              names: dict[int, str]) -> "Scores | None":
    """Writes the chosen networks; returns what `--rescore` found, or None.

    Args:
        args: the flags.
        found: what was read of the search.
        front: the front.
        names: the folder of each chosen network, by its index in the front.

    Raises:
        UserError: a folder is a link; another process writes there; or as `resolve`,
            `check_targets`, `make_cutter`, `evaluator.rescore.check_unseen`.
    """
    records = [front[i] for i in names]
    folders = [own_folder(Path(args.save) / name) for name in names.values()]
    if found.space is None or found.space.family is None:
        if args.rescore or args.supernet_path:
            raise UserError(f"--rescore, --supernet_path: the search space {found.space_name} "
                            "builds no networks; leave them out")
        with alone(args.save):
            write_architectures(folders, records, found.space_name)
        return None
    settings = resolve(args, found.settings, found.space_name)
    if args.rescore and settings["dataset"] is None:
        raise UserError("--rescore needs the images: give --dataset")
    check_targets(folders, records, found.space_name)
    cutter = make_cutter(settings)
    evaluator, scores = cutter.evaluator, None
    if args.rescore:
        from evaluator.rescore import check_unseen

        check_unseen(evaluator.provider, bool(found.settings.get("test")))
    with alone(args.save):
        check_targets(folders, records, found.space_name)  # again, now that nobody else writes
        scores_file = Path(args.save) / "rescore.json"
        scores_file.unlink(missing_ok=True)  # of networks that are now written anew, or not chosen
        nets = write_networks(folders, records, cutter, args.old_naming, found.space_name)
        if args.rescore:
            scores = score_unseen([*names.values()], records, nets, evaluator)
            write_json(scores_file, scores.report(), indent=1)
        if evaluator and not evaluator.n_epochs:  # else the weights are still to be fine-tuned
            from search.cards import search_cards, with_accuracies

            cards = search_cards([*names.values()], front, [*names], found.sec_obj, settings,
                                 commands_of(args, found.settings), by_hand=bool(args.pick))
            cards = with_accuracies(cards, records, evaluator.provider.n_valid, scores)
            write_hubs(folders, records, nets, cards, evaluator)
    return scores


def alone(save: str) -> AbstractContextManager[Lock]:
    """Inside, no other selection writes into the folder `save`."""
    return locked(Path(save) / LOCK, f"{save}: the selection", "choose another --save")


def with_scores(rows: Sequence[dict[str, Any]], scores: "Scores") -> list[dict[str, Any]]:
    """Returns the printed rows with the accuracy on unseen images and its 95 % interval."""
    return [{"unseen_top1": round(top1, 4), "low": round(low, 4), "high": round(high, 4), **row}
            for row, top1, (low, high) in zip(rows, scores.top1, scores.intervals(), strict=True)]


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
