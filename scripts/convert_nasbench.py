"""Converts the published files of NAS-Bench-101 and NATS-Bench to tables for msunas.py --table."""

import argparse
import csv
import gzip
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cli.scripts import Parser, run_script
from evaluator.records import Training, read_nasbench101
from search_space.nasbench101 import NASBench101Space
from utils.errors import UserError
from utils.files import atomic_path
from utils.invocation import program
from utils.packages import require

# Column of a table -> data set of NATS-Bench, and what it calls the accuracy.
NATS_COLUMNS = {
    "cifar10_valid_top1": ("cifar10-valid", "valid-accuracy"),
    "cifar10_test_top1": ("cifar10", "test-accuracy"),
    "cifar100_valid_top1": ("cifar100", "valid-accuracy"),
    "cifar100_test_top1": ("cifar100", "test-accuracy"),
    "imagenet16_120_valid_top1": ("ImageNet16-120", "valid-accuracy"),
    "imagenet16_120_test_top1": ("ImageNet16-120", "test-accuracy"),
}
# Hyper-parameters of NATS-Bench, by epochs -> ending of the columns.
NATS_EPOCHS = {"200": "", "12": "_12epochs"}

Row = dict[str, Any]


def nasbench101_rows(path: str) -> Iterator[Row]:
    """Gives a row for each graph: its figures are means over the repeated trainings."""
    trainings: dict[str, list[Training]] = defaultdict(list)
    for training in read_nasbench101(path):
        trainings[training.graph_hash].append(training)
    space = NASBench101Space()
    for graph_hash, repeats in trainings.items():
        first = repeats[0]
        x = space.encode({"matrix": first.matrix.tolist(), "ops": first.operations})
        row: Row = {"hash": graph_hash, "encoding": "".join(map(str, x)),
                    "params": first.parameters}
        for epochs in sorted({training.epochs for training in repeats}):
            same = [training for training in repeats if training.epochs == epochs]
            for name in ("valid_top1", "test_top1", "seconds"):
                mean = np.mean([getattr(training, name) for training in same])
                row[f"e{epochs}_{name}"] = f"{mean:.4f}"
        yield row


def nats_rows(path: str) -> Iterator[Row]:
    """Gives a row for each cell of the topology space, read by the package `nats_bench`.

    Raises:
        UserError: the package is missing, or cannot read the files.
    """
    require("reading NATS-Bench", "nats_bench")
    from nats_bench import create

    try:
        api = create(path, "tss", fast_mode=Path(path).is_dir(), verbose=False)
    except Exception as error:
        raise UserError(f"{path}: nats_bench cannot read it: {str(error)[:200]}") from None
    yield from api_rows(api)


def api_rows(api: Any) -> Iterator[Row]:
    """Gives the rows of an opened NATS-Bench: accuracies after 200 and 12 epochs, by data set.

    Each is the mean over the repeated trainings; what the files lack is an empty cell.
    """
    for index in range(len(api)):
        row: Row = {"arch": api.arch(index)}
        for epochs, ending in NATS_EPOCHS.items():
            for column, (dataset, figure) in NATS_COLUMNS.items():
                info = api.get_more_info(index, dataset, hp=epochs, is_random=False)
                value = info.get(figure)
                row[column + ending] = "" if value is None else f"{value:.4f}"
        yield row


def write_rows(path: Path, rows: Iterable[Row]) -> int:
    """Writes a table, compressed where the name ends in .gz; returns the number of its rows.

    Raises:
        UserError: there are no rows.
    """
    count = 0
    with atomic_path(path) as temporary:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(temporary, "wt", encoding="utf-8", newline="") as file:
            for row in rows:
                if not count:
                    writer = csv.DictWriter(file, list(row))
                    writer.writeheader()
                writer.writerow(row)
                count += 1
        if not count:
            raise UserError("the file holds no architecture")
    return count


READERS: dict[str, Callable[[str], Iterator[Row]]] = {"nasbench101": nasbench101_rows,
                                                      "nats": nats_rows}


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the command line of this script."""
    p = Parser(description=(__doc__ or "").replace("msunas.py", program("msunas.py")),
               formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("benchmark", choices=sorted(READERS), help="nasbench101: nasbench_full.tfrecord "
                   "or nasbench_only108.tfrecord; nats: the folder or file of NATS-tss")
    p.add_argument("file", help="the published file or folder")
    p.add_argument("--out", type=Path, required=True, help="the table: .csv or .csv.gz")
    return p


def main(args: argparse.Namespace) -> None:
    """Converts and prints how many architectures there are."""
    if not Path(args.file).exists():
        raise UserError(f"{args.file}: no such file")
    print(f"{args.out}: {write_rows(args.out, READERS[args.benchmark](args.file))} architectures")


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
