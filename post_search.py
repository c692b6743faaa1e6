"""Chooses networks from the front of a finished search and writes them with inherited weights."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# With `python -P` or PYTHONSAFEPATH=1, Python does not put a script's folder on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent))

import cli.startup  # noqa: F401  # before what takes time to import

from cli.printers import PRINTERS
from cli.progress import add_threads_flag, share_processors
from cli.scripts import Parser, run_script
from cli.types import DOWNLOAD, count, integers
from data_providers.table import get_dataset_info
from search import selection, subnets
from search.archive import Record, arch_key
from search.baseline import Baseline, read_baselines, with_baselines
from search_space import DEFAULT as DEFAULT_SPACE
from search_space import SearchSpace
from utils.errors import UserError, note
from utils.files import write_json
from utils.flags import refuse_idle
from utils.invocation import command_line
from utils.locks import locked

if TYPE_CHECKING:
    from evaluator.rescore import Scores
    from search.deployed import Deployed
    from search.finished import FinishedSearch

LOCK, DEVICE_FILE = ".selection.lock", "device.json"
# What writing takes from the settings of a search, and what stands for it where there are none.
STORED = {"supernet_path": None, "dataset": None, "data": None, "vld_size": None, "seed": 0,
          "n_workers": 0, "n_epochs": None, "n_gpus": 8, "cache_dir": None}
# What would do nothing next to a flag.
IDLE = {"pick": {"next to --pick, which names the networks": (
            "-n", "--prefer", "--constraint", "--trust")},
        "list": {"next to --list, which writes nothing": (
            "--rescore", "--old_naming", "--command")}}


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser; flags of the original keep their names."""
    p = Parser(prog="post_search.py", description=__doc__)
    p.add_argument("--expr", required=True, help="stats file of a search, or the folder of one "
                   "(its latest iteration is taken); of this program or the original's")
    p.add_argument("--save", default=".tmp", help="folder for the chosen networks (default: .tmp)")
    p.add_argument("-n", type=count(1), default=1,
                   help="how many to choose; the most accurate is added where it is not among "
                   "them; 1 with a --constraint and no --prefer: the most accurate within it "
                   "(default: 1)")
    p.add_argument("--prefer", help="preferred point, as top1#80+flops#150: names in any order, "
                   "one may be left out (default: None, the highest trade-offs)")
    p.add_argument("--constraint", help="limits, as 'flops<=300,top1>=75' (default: those of the "
                   "search on its objectives)")
    p.add_argument("--trust", choices=(selection.MEASURED, selection.MODEL),
                   help="accuracies to choose by: measured, or model: what a Gaussian process "
                   "expects from all measurements, which leaves out luck (default: measured for "
                   "the strategy msunas, and where no images were scored; else model)")
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
    p.add_argument("--n_classes", type=count(1), help="classes that the supernet must have, "
                   "without a --dataset (default: those of the checkpoint)")
    p.add_argument("--dataset", help="data set to recompute the batch-norm statistics on (default: "
                   "the search's; without one they stay the supernet's)")
    p.add_argument("--data", help="folder of the data set (default: the search's)")
    p.add_argument("--download", action="store_true", help=DOWNLOAD)
    p.add_argument("--rescore", action="store_true",
                   help="score the chosen networks on the test images, which the search did not "
                   "see: 95 %% intervals, and which neighbours cannot be told apart; in "
                   "rescore.json, too (default: off)")
    p.add_argument("--baseline", metavar="FILE", help="networks to compare with, as rows of the "
                   "table and in the model cards: what scripts/baseline.py writes (default: none)")
    p.add_argument("--command", metavar="TEXT",
                   help="measures the chosen networks on a device: prints the latency in ms; "
                   "{model} is an ONNX file ({model:pt2}: in that format), {arch} the architecture "
                   "in JSON, {r} the resolution; "
                   "in device.json, too (default: none)")
    p.add_argument("--old_naming", action="store_true",
                   help="write files that the original program reads")
    add_threads_flag(p)
    return p


def main(args: argparse.Namespace) -> None:
    """Prints the front, or the chosen networks after writing them."""
    from search.finished import read_finished  # not for --help: it takes half a second

    share_processors(args.threads)
    for flag in sorted(IDLE.keys() & args.typed):
        refuse_idle(args.typed, IDLE[flag])
    found = read_finished(args.expr, args.search_space, args.sec_obj)
    selection.check_names(found.sec_obj, str(found.file))
    front, chosen, expected = choose(args, found)
    records = [front[i] for i in chosen]
    baselines = read_baselines(args.baseline) if args.baseline else []
    names = selection.folder_names([record.sec_obj for record in records], found.sec_obj)
    scores = deployed = None
    if args.command is not None:
        from search.deployed import measure_chosen

        deployed = measure_chosen(args.command, found, records, names, args.supernet_path)
        print("".join(f"{line}\n" for line in deployed.warnings()), file=sys.stderr, end="")
    if args.list:
        rows = table_rows(front, found.sec_obj, dict(zip(chosen, names, strict=True)), found.space)
    else:
        targets = subnets.make_targets(args.save, names, records, found.space_name)
        scores = write(args, found, targets, selection.places(front, chosen, found.sec_obj,
                                                              bool(args.pick)), deployed,
                       baselines)
        rows = table_rows(records, found.sec_obj, dict(enumerate(names)), found.space)
    rows = with_expected(rows, expected)
    if deployed is not None:
        write_json(Path(args.save) / DEVICE_FILE, deployed.report(), indent=1)
        rows = [{**own, **row} for own, row in zip(deployed.rows(), rows, strict=True)]
    rows = rows if scores is None else with_scores(rows, scores)
    PRINTERS[args.format](with_baselines(rows, baselines, bool(found.settings.get("test"))))


def choose(args: argparse.Namespace, found: "FinishedSearch") -> tuple[
        list[Record], list[int], dict[str, tuple[float, float]]]:
    """Returns what there is to choose from, as measured, the indices of the chosen, and, where a
    model chose, the accuracy that it expects of each architecture (see `trusted`).
    """
    archive, signs = found.stats.archive, found.stats.signs
    if args.pick:
        records = selection.picked(archive, args.pick)
        return records, list(range(len(records))), {}
    wanted = selection.parse_preference(args.prefer, found.sec_obj)
    typed = args.constraint is not None
    limits = selection.parse_constraints(args.constraint, found.sec_obj) if typed else \
        selection.limits_of_search(found)
    records, expected = archive, {}
    if (args.trust or selection.default_trust(found)) == selection.MODEL:
        if found.space is None:
            raise UserError("--trust model: needs the search space; name its code with "
                            "--search_space")
        records, expected = selection.trusted(archive, found.vectors, found.space,
                                              found.settings.get("seed", 0),
                                              selection.images_of(found.settings))
    front = selection.front_within(records, limits, found.sec_obj, signs, typed)
    chosen = [selection.most_accurate(front)] if limits and args.n == 1 and not wanted else \
        selection.select(front, args.n, wanted, found.sec_obj, signs)
    measured = {arch_key(record.arch): record for record in archive}
    return [measured[arch_key(record.arch)] for record in front], chosen, expected


def write(args: argparse.Namespace, found: "FinishedSearch", targets: Sequence[subnets.Target],
          where: Sequence[str], deployed: "Deployed | None" = None,
          baselines: Sequence[Baseline] = ()) -> "Scores | None":
    """Writes the chosen networks; returns what `--rescore` found, or None.

    Args:
        args: the flags.
        found: what was read of the search.
        targets: what is written.
        where: the place of each on the front.
        deployed: latencies on a device, for the model cards.
        baselines: to compare with, for the model cards.

    Raises:
        UserError: another process writes there; or as `resolve`, `check_targets`, `make_cutter`,
            `evaluator.rescore.check_unseen`.
    """
    save = Path(args.save)
    alone = locked(save / LOCK, f"{save}: the selection", "choose another --save")
    if found.space is None or found.space.family is None:
        if args.rescore or args.supernet_path:
            raise UserError(f"--rescore, --supernet_path: the search space {found.space_name} "
                            "builds no networks; leave them out")
        with alone:
            subnets.check_targets(targets)
            for target in targets:
                target.write_subnet()
        note("only net.subnet is written: the search space builds no networks")
        return None
    settings = resolve(args, found.settings, found.space_name)
    if args.rescore and settings["dataset"] is None:
        raise UserError("--rescore needs the images: give --dataset")
    subnets.check_targets(targets)
    cutter, scores = subnets.make_cutter(settings), None
    evaluator = cutter.evaluator
    if args.rescore:
        from evaluator.rescore import check_unseen, rescore

        check_unseen(evaluator.provider, bool(found.settings.get("test")))
    with alone:
        subnets.check_targets(targets)  # again, now that nobody else writes
        scores_file = save / "rescore.json"
        (save / DEVICE_FILE).unlink(missing_ok=True)
        scores_file.unlink(missing_ok=True)  # of networks that are now replaced, or not chosen
        nets = subnets.write_subnets(targets, cutter, args.old_naming)
        if args.rescore:
            scores = rescore([target.name for target in targets],
                             [target.record.arch for target in targets], nets, evaluator)
            print("\n".join(scores.lines()), file=sys.stderr)
            write_json(scores_file, scores.report(), indent=1)
        if evaluator and not evaluator.n_epochs:  # else the weights are still to be fine-tuned
            from networks.supernet_info import read_supernet_info
            from search.model_cards import search_cards

            subnets.write_hubs(targets, nets, search_cards(
                {target.name: target.record for target in targets}, where, settings["dataset"],
                settings["supernet_path"],
                read_supernet_info(settings["supernet_path"]).pretrained,
                commands_of(args, found.settings), evaluator.provider.n_valid,
                scores, deployed, baselines), evaluator)
    return scores


def resolve(args: argparse.Namespace, stored: dict[str, Any],
            space: str | None = None) -> dict[str, Any]:
    """Returns what writing needs: the flags, else what the search stored, else `STORED`'s default.

    `n_classes` is the flag alone: the search's is the data set's, that of the supernet can differ.
    `space` is the name of the search space.

    Raises:
        UserError: no supernet is known, or a folder is typed that would not be read.
    """
    if stored.get("evaluator", "ofa") != "ofa":  # a benchmark's answers came from no images
        stored = {**stored, "dataset": None}
    typed = {key: getattr(args, key, None) for key in STORED}
    settings = {key: stored.get(key, default) if typed[key] is None else typed[key]
                for key, default in STORED.items()}
    if "data" in args.typed and settings["dataset"]:
        get_dataset_info(settings["dataset"]).refuse_folder(f"--data {args.data}")
    if settings["supernet_path"] is None:
        raise UserError("--supernet_path is needed: the search's folder has no settings file that "
                        "names its supernet")
    return settings | {"n_classes": args.n_classes, "download": args.download,
                       "search_space": space or DEFAULT_SPACE}


def commands_of(args: argparse.Namespace, settings: dict[str, Any]) -> dict[str, str]:
    """Returns the command of the search, where its settings are known, and of the selection."""
    found = {}
    if settings:
        import msunas

        found["search"] = command_line("msunas.py", msunas.get_args_parser(), settings)
    found["selection"] = command_line("post_search.py", get_args_parser(), vars(args))
    return found


# Columns that a gene of the same name must not replace.
COLUMNS = ("top1", "top1_err", "unseen_top1", "low", "high", "expected_top1", "std", "chosen",
           "arch")


def table_rows(records: Sequence[Record], sec_obj: str, names: dict[int, str],
               space: SearchSpace | None) -> list[dict[str, Any]]:
    """Returns what is printed of each record; `names` are the folders of those that are chosen."""
    objectives = sec_obj.split("+")
    own = {*COLUMNS, *objectives}
    return [{"top1": round(100 - record.top1_err, 4), "top1_err": round(record.top1_err, 4),
             **selection.apart(dict(zip(objectives, record.values, strict=True)), COLUMNS,
                               "objective"),
             **({} if space is None else selection.apart(space.summary(record.arch), own, "gene")),
             "chosen": names.get(i, ""), "arch": record.arch}
            for i, record in enumerate(records)]


def with_expected(rows: Sequence[dict[str, Any]],
                  expected: dict[str, tuple[float, float]]) -> list[dict[str, Any]]:
    """Returns the printed rows with what the model that chose expects, and how sure it is."""
    return [{"expected_top1": round(mean, 4), "std": round(std, 4), **row}
            for row in rows for mean, std in [expected[arch_key(row["arch"])]]] \
        if expected else list(rows)


def with_scores(rows: Sequence[dict[str, Any]], scores: "Scores") -> list[dict[str, Any]]:
    """Returns the printed rows with the accuracy on unseen images and its 95 % interval."""
    return [{"unseen_top1": round(top1, 4), "low": round(low, 4), "high": round(high, 4), **row}
            for row, top1, (low, high) in zip(rows, scores.top1, scores.intervals(), strict=True)]


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
