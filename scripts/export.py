"""Exports a network for other runtimes and compares it with the original, or an archive for Optuna.

    python scripts/export.py net.config net.inherited --to onnx pt2 --dataset digits --int8
    python scripts/export.py runs/flops --to optuna
"""

import argparse
import math
import os
import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cli.progress import add_threads_flag, announce, share_processors
from cli.scripts import Parser, add_flags, run_script
from cli.types import amount, count
from data_providers.flags import DATA_FLAGS
from data_providers.table import DATASETS
from networks import choose_resolution, read_config, recorded_resolution
from networks.configs import choose_transform
from networks.export import FORMATS, get_format
from networks.preprocessing import Preprocessing
from networks.supernet_info import TUNE_FIRST, SupernetInfo, check_classes
from utils.errors import UserError, one_line, warn
from utils.files import own_folder, write_json
from utils.flags import refuse_idle
from utils.invocation import program

if TYPE_CHECKING:
    from data_providers import DataProvider
    from evaluator.exported import Comparison
    from networks.export import Format, Runner

OPTUNA = "optuna"
TOLERANCE = 1e-4
CALIBRATION_IMAGES = 500
SPLITS = ("test", "valid")
# Flags that mean nothing without another one.
OF_THE_IMAGES = ("--data", "--download", "--split", "--vld_size", "--seed", "--workers",
                 "--batch-size")
OF_AN_ARCHIVE = {"source", "to", "save", "weights"}


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the command-line parser."""
    examples = (__doc__ or "").replace("python scripts/export.py", program("scripts/export.py"))
    p = Parser(prog="scripts/export.py", description=examples,
               formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("source", help="net.config of the network; with --to optuna the folder or the "
                   "stats file of a search")
    p.add_argument("weights", nargs="?", help="its weights: net.inherited, net.init, a checkpoint")
    p.add_argument("--to", nargs="+", required=True, metavar="FORMAT",
                   help=f"{', '.join(FORMATS)}, module:Class of your own, or {OPTUNA}")
    p.add_argument("--save", metavar="DIR",
                   help="folder of the files (default: export/ next to the source)")
    p.add_argument("--use-ema", action="store_true", help="take the averaged weights")
    p.add_argument("--img-size", type=count(8, 4096),
                   help="input resolution (default: the config's)")
    p.add_argument("--skip_latency", action="store_true", help="measure no latencies")
    add_threads_flag(p)
    p.add_argument("--tolerance", type=amount, default=TOLERANCE,
                   help="largest difference of a logit, times the largest absolute logit of the "
                   "network where that is above 1 (default: %(default)s)")
    g = p.add_argument_group("real images")
    g.add_argument("--dataset", choices=sorted(DATASETS),
                   help="data set to compare on (default: none, random images alone)")
    add_flags(g, DATA_FLAGS, "--data", "--download", "--vld_size", "--seed")
    g.add_argument("--split", choices=SPLITS, default="test",
                   help="images of the accuracy (default: %(default)s)")
    g.add_argument("-j", "--workers", type=count(0, 1024), default=0,
                   help="data-loading processes (default: 0)")
    g.add_argument("-b", "--batch-size", type=count(1), default=100,
                   help="images in a batch (default: %(default)s)")
    g.add_argument("--int8", action="store_true",
                   help="with --to onnx: quantise to 8 bits as well, and compare")
    g.add_argument("--calibration", type=count(1), default=CALIBRATION_IMAGES, metavar="N",
                   help="training images that --int8 sees (default: %(default)s)")
    return p


def main(args: argparse.Namespace) -> None:
    """Exports to every format that was asked for; ends with an error where one differs."""
    if OPTUNA in args.to:
        export_archive(args)
        return
    if args.threads:  # without, threads wait actively: latencies are measured
        share_processors(args.threads)
    check_flags(args)
    announce(f"loading {args.source}" + (" and the images" if args.dataset else ""))
    formats = {name: get_format(name) for name in args.to}
    folder = Path(args.save) if args.save else own_folder(Path(args.source).parent / "export")
    if any("\ud800" <= letter <= "\udfff" for letter in str(folder)):  # how Python reads them
        raise UserError(f"{folder}: not UTF-8, and the libraries of the formats take no such path; "
                        "name another folder with --save")
    network = load_network(args)
    report: dict[str, Any] = {}
    comparisons: dict[str, Comparison] = {}
    for name, form in formats.items():
        report[name], found = export(network, name, form, folder, args)
        if found is not None:
            comparisons[name] = found
    if args.int8:
        report["onnx int8"] = export_int8(network, folder, args)
    write_json(folder / "export.json", finite(report), indent=1)
    for name, found in comparisons.items():
        check_difference(name, found, args.tolerance, report[name]["file"])


def check_difference(name: str, comparison: "Comparison", tolerance: float, file: str) -> None:
    """Raises UserError where logits differ by more than rounding explains.

    Args:
        name: of the format.
        comparison: with the original; each kind of images is judged by its own logits.
        tolerance: of --tolerance.
        file: that was compared.
    """
    from evaluator.exported import allowed_difference

    for kind, difference in comparison.differences.items():
        logit = comparison.logits[kind]
        allowed = allowed_difference(tolerance, logit)
        if difference > allowed:
            raise UserError(f"{name}: its logits differ by {difference:.2g} on {kind} images, more "
                            f"than the {allowed:.2g} that --tolerance {tolerance:g} allows for "
                            f"logits of up to {logit:.3g}; do not use {file}")


def check_flags(args: argparse.Namespace) -> None:
    """Raises UserError where flags are missing or contradict each other."""
    if args.weights is None:
        raise UserError("name the weights of the network behind its net.config")
    if args.int8 and ("onnx" not in args.to or args.dataset is None):
        raise UserError("--int8 needs --to onnx, and --dataset for the images that it calibrates "
                        "with")
    refuse_idle(args.typed, ({} if args.int8 else {"without --int8": ("--calibration",)}) | (
        {} if args.dataset else {"without --dataset": OF_THE_IMAGES}))


def export_archive(args: argparse.Namespace) -> None:
    """Writes the archive of a search as an Optuna study."""
    if args.to != [OPTUNA] or args.weights or args.typed - OF_AN_ARCHIVE:
        raise UserError("--to optuna takes the folder of a search and --save, and no other format "
                        "or flag")
    from search.finished import read_finished
    from search.optuna_study import write_study

    found = read_finished(args.source)
    if found.space is None:
        raise UserError(f"{found.file}: its search space is code of your own, so its genes have "
                        "no names")
    path = Path(args.save or found.folder) / "study.db"
    title = one_line(found.folder.resolve().name)  # which may be no UTF-8
    write_study(found.stats, found.sec_obj.split("+"), found.space, path, title)
    print(f"{path}: study {title!r} with {len(found.stats.archive)} trials; look at it with "
          f"{shlex.join(['optuna-dashboard', f'sqlite:///{path}'])}")


@dataclass(frozen=True)
class ExportedNetwork:
    """A network to export, and the images to compare on.

    Attributes:
        net: in eval mode, on the CPU.
        images: what they go through, and the names of the classes.
        provider: of the real images, or None.
    """

    net: Any
    images: Preprocessing
    provider: "DataProvider | None" = None

    def runner(self, threads: int | None = None) -> "Runner":
        """Returns what runs the original."""
        from networks.export.torch_files import torch_runner

        return torch_runner(self.net, threads)

    def batches(self, split: str, batch_size: int) -> Any:
        """Returns the (images, labels) batches of a split."""
        assert self.provider is not None
        return self.provider.eval_batches(split, self.images.resolution, batch_size)


def load_network(args: argparse.Namespace) -> ExportedNetwork:
    """Returns the network with its images, normalised as its file says, else the data set's row.

    Raises:
        UserError: a wrong config, weights of another network, or other classes than the data's.
    """
    config = read_config(args.source)
    facts = SupernetInfo.of_config(config, args.source)
    resolution = choose_resolution(args.img_size, recorded_resolution(config), args.source)
    from networks import build_from_config, load_weights

    net = build_from_config(config)
    load_weights(net, args.weights, args.use_ema, report=warn)
    mean, std = facts.mean and tuple(facts.mean), facts.std and tuple(facts.std)
    transform = choose_transform(None, config, args.dataset, args.source)
    names, n_classes = facts.class_names or [], net.classifier.out_features
    provider = None
    if args.dataset is not None:
        from data_providers import DataProvider

        provider = DataProvider.of(args, args.workers, transform=transform, mean=mean, std=std)
        check_classes(args.source, n_classes, provider.n_classes, TUNE_FIRST)
        transform, mean, std = provider.info.eval_resize, provider.info.mean, provider.info.std
        names = names or provider.facts()["class_names"]
    images = Preprocessing(resolution, transform, mean, std,
                           tuple(names) if len(names) == n_classes else ())
    return ExportedNetwork(net.eval(), images, provider)


def export(network: ExportedNetwork, name: str, form: "Format", folder: Path,
           args: argparse.Namespace) -> tuple[dict[str, Any], "Comparison | None"]:
    """Writes one format, compares it, prints the comparison and returns it.

    Returns:
        what `export.json` says of it, and the comparison; None where this system cannot run it.
    """
    path = folder / f"net{form.suffix}"
    announce(f"writing {path}")
    form.write(network.net, path, network.images)
    print(f"{path}: {form.notes}")
    try:
        form.load(path, None)
    except UserError as error:  # this system cannot run it
        print(f"  {error}")
        return {"file": str(path), "notes": form.notes, "largest": None}, None
    comparison = compare(network, name, lambda threads: form.load(path, threads), args,
                         sum(os.path.getsize(each) for each in form.written(path)))
    return {"file": str(path), "notes": form.notes, "largest": comparison.largest,
            **asdict(comparison)}, comparison


def finite(value: Any) -> Any:
    """Returns plain values with None for the infinities, which JSON lacks."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def export_int8(network: ExportedNetwork, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Quantises the ONNX file, compares it with the original, and returns plain values."""
    from evaluator.exported import calibration_arrays
    from networks.export.onnx_file import Onnx, quantise

    source, path = folder / "net.onnx", folder / "net.int8.onnx"
    announce(f"writing {path}")
    images = calibration_arrays(network.batches("train", args.batch_size), args.calibration)
    quantise(source, path, images)
    print(f"{path}: 8-bit integers, calibrated on {sum(map(len, images))} training images")
    return {"file": str(path), **asdict(compare(
        network, "int8", lambda n: Onnx().load(path, n), args, os.path.getsize(path)))}


def compare(network: ExportedNetwork, name: str, load: Any, args: argparse.Namespace,
            size: int) -> "Comparison":
    """Prints and returns the comparison of the original with what `load(threads)` runs."""
    from evaluator.exported import Comparison, gap, latencies, random_images, real_images, top1

    announce(f"comparing {name} with the original" + (
        "" if args.skip_latency else ", and measuring the latencies of both"))
    resolution, cores = network.images.resolution, os.cpu_count() or 1
    own, other = network.runner(), load(None)
    gaps = {"random": gap(own, other, random_images(resolution))}
    accuracy, n_images = dict[str, float](), 0
    if network.provider:
        images = real_images(network.batches(args.split, args.batch_size))
        gaps["real"] = gap(own, other, images)
        accuracy, n_images = top1({"torch": own, name: other},
                                  network.batches(args.split, args.batch_size))
    latency = {} if args.skip_latency else latencies(
        {"torch": network.runner, name: load}, resolution, sorted({1, cores}))
    found = Comparison({kind: each.difference for kind, each in gaps.items()}, accuracy, n_images,
                       latency, {"torch": os.path.getsize(args.weights), name: size},
                       {kind: each.logit for kind, each in gaps.items()})
    show(found, name)
    return found


def show(comparison: "Comparison", name: str) -> None:
    """Prints a comparison as a small table."""
    for kind, difference in comparison.differences.items():
        print(f"  largest difference of a logit on {kind} images: {difference:.2g}")
    for who in ("torch", name):
        cells = [f"{comparison.sizes[who] / 1e6:.2f} MB"]
        if comparison.top1:
            cells.append(f"top1 {comparison.top1[who]:.3f} on {comparison.n_images} images")
        cells += [f"{ms:.2f} ms with {threads} thread(s)"
                  for threads, ms in comparison.latency.get(who, {}).items()]
        print(f"  {who:<12}{', '.join(cells)}")


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
