"""MSuNAS (NSGANetV2, ECCV 2020): search for the best trade-offs of accuracy and other objectives.

Algorithm 1 of the paper: an archive of evaluated architectures, a surrogate that predicts their
top-1 error, NSGA-II on the surrogate and the exact second objective, and in each iteration a few
candidates that are evaluated for real. This file is the command; the search is `search.Search`.
"""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

# With `python -P` or PYTHONSAFEPATH=1, Python does not put a script's folder on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent))

import cli.startup  # noqa: F401  # before what takes time to import

from acc_predictor import PREDICTORS
from cli.scripts import Parser, add_flags, run_script
from cli.types import Extend, amount, checked_values, count, integers
from evaluator import EVALUATORS
from evaluator.options import EVALUATION_FLAGS
from networks.supernet_info import check_supernet_file
from search.fingerprints import recorded_inputs
from search.run_folder import RunFolder, check_code, resume_command
from search.settings import (
    DEFAULT_LUT,
    DERIVED,
    ONLY_IN_PYTHON,
    Settings,
    check_typed,
    rebased,
    resolve,
    resume,
)
from search.strategies import STRATEGIES
from search_space import RESOLUTIONS
from utils.errors import UserError
from utils.files import in_use
from utils.invocation import program
from utils.packages import require
from utils.registry import listed

if TYPE_CHECKING:
    from search.runner import Ended

LOG_FORMATS = ("text", "json")
MAX_DEVICES = 100_000


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser; flags of the original keep their names and defaults."""
    p = Parser(prog="msunas.py", description=(__doc__ or "").partition("\n")[0])
    _add_run_flags(p)
    _add_search_flags(p)
    _add_data_flags(p)
    _add_device_flags(p)
    p.set_defaults(**{name: getattr(Settings, name) for name in Settings.names()
                      if name not in DERIVED})
    return p


def _add_run_flags(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("run")
    g.add_argument("--save", help="folder of the search; must be empty")
    g.add_argument("--resume", help="folder of a search to resume, ours or the original's; "
                   "with another --save it is copied there first")
    g.add_argument("--warm_start", help="a search in the same space, its folder or one of its "
                   "iter_<i>.stats, to start from: where an accuracy would be the same, its rows "
                   "replace the initial sample; else its best architectures are evaluated first")
    g.add_argument("--accept_changed_inputs", action="store_true", help="with --resume: "
                   "continue although the supernet, a table or the data have changed since, or "
                   "differ from those of an original's folder")
    add_flags(g, EVALUATION_FLAGS, "--seed")
    g.add_argument("--dry_run", action="store_true",
                   help="print the plan and its estimated cost, evaluate nothing")
    g.add_argument("--log_format", choices=LOG_FORMATS, default="text",
                   help="lines for people, or an object in JSON for each event")
    g.add_argument("--tensorboard", action="store_true",
                   help="write TensorBoard scalars to <save>/tensorboard")
    g.add_argument("--no_report", action="store_true",
                   help="do not write <save>/report.html at the end of the search")


def _add_search_flags(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("search")
    add_flags(g, EVALUATION_FLAGS, "--search_space")
    g.add_argument("--resolutions", **integers(RESOLUTIONS[0], RESOLUTIONS[-1]),
                   help="input resolutions, as 192:256:4 (first:last:step) or 192,224,256 "
                   "(default: the data set's)")
    g.add_argument("--table", help="CSV file of the search spaces that are tables")
    g.add_argument("--genes", help="its columns that make an architecture, joined by commas")
    g.add_argument("--accuracy", help="its column with the top-1 accuracy in percent")
    g.add_argument("--sec_obj", help="objectives besides the error, joined by +: flops, params, "
                   "macs, activations (in millions), peak_memory[_int8], weights_mb (MB), "
                   "cpu (ms, by --lut or measured), gpu<batch> (ms, measured), "
                   "what the evaluator reports, or your own as module:function")
    g.add_argument("--lut", nargs="+", action=Extend, help="latency table, or file of learned "
                   "latencies, for --sec_obj cpu, name=FILE for --sec_obj cpu@name, or "
                   "'measure' to time the networks themselves; name='command:...' has "
                   "a command measure them on a device, as in scripts/learn_latency.py "
                   f"(default: {DEFAULT_LUT})")
    add_flags(g, EVALUATION_FLAGS, "--runtime")
    g.add_argument("--constraint", help="limits that hold while searching, as "
                   "'params<=5,cpu<=30'; 'cpu@pi<=5:0.9' with a probability, of a learned latency "
                   "(default: none)")
    g.add_argument("--iterations", type=count(0),
                   help="iterations after the initial sample; 0 is random search")
    g.add_argument("--n_doe", type=count(2), help="size of the initial sample")
    g.add_argument("--n_iter", type=count(1), help="architectures evaluated in each iteration")
    g.add_argument("--asynchronous", action="store_true", help="propose whenever a device is free, "
                   "and not when a whole iteration has ended: no device waits for the slowest")
    g.add_argument("--strategy", help=f"proposes architectures: {listed(STRATEGIES)}")
    g.add_argument("--predictor", help=f"accuracy predictor to fit: {listed(PREDICTORS)}; "
                   "strategies other than msunas have their own (default: rbf)")


def _add_data_flags(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("data and evaluation")
    add_flags(g, EVALUATION_FLAGS, "--dataset", "--data", "--download", "--max_damaged",
              "--n_classes", "--supernet_path", "--vld_size", "--test", "--trn_batch_size",
              "--vld_batch_size", "--n_epochs", "--amp", "--n_workers", "--cache_dir", "--cache_gb")
    g.add_argument("--evaluator", help=f"evaluates architectures: {listed(EVALUATORS)}, see "
                   "evaluator.base (default: the search space's, ofa for supernets)")
    g.add_argument("--oracle_path", help="the accuracy predictor that --evaluator oracle asks: one "
                   "of Once-for-All's authors, or what "
                   f"{program('acc_predictor/__main__.py')} exported")


def _add_device_flags(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("devices and faults")
    g.add_argument("--n_gpus", type=count(0),
                   help="GPUs to use, at most those present; 0, or none present: the CPU")
    g.add_argument("--gpu", type=count(1), help="GPUs per evaluation")
    g.add_argument("--cpu_workers", type=count(1),
                   help="evaluations at a time on the CPU (default: one per core)")
    g.add_argument("--threads", type=count(1, 1024), help="CPU threads of each evaluation "
                   "(default: 1; next to GPUs an equal share of the cores)")
    g.add_argument("--backend", choices=("local", "ray"),
                   help="this machine, or a Ray cluster")
    g.add_argument("--ray_address", help="address of the Ray cluster; auto: the running one, else "
                   "one that is started here")
    g.add_argument("--timeout", type=amount, help="seconds after which an evaluation is stopped "
                   "and recorded as failed (default: none; 300 for a network that a "
                   "command measures)")
    g.add_argument("--memory_limit", type=amount, metavar="GIB",
                   help="addresses that a worker on the CPU may use (default: no limit)")
    g.add_argument("--retries", type=count(0), help="new attempts when a worker or node is lost, "
                   "or a command of --lut fails")
    g.add_argument("--retry_failed", action="store_true",
                   help="with --resume: evaluate and propose again what failed before")


def prepare(args: argparse.Namespace) -> tuple[RunFolder, RunFolder | None, Settings]:
    """Returns the run's folder, the folder to copy into it first, and the settings.

    Raises:
        UserError: the folder is in use by other results, or the flags differ from the stored.
    """
    typed = {name: value for name, value in vars(args).items() if name in args.typed}
    return prepare_new(typed) if args.resume is None else prepare_resumed(args.resume, typed)


def prepare_new(typed: dict[str, Any]) -> tuple[RunFolder, None, Settings]:
    """Returns what `prepare` does, for a new search with these flags."""
    folder = RunFolder(typed.get("save", Settings.save))
    folder.check_unused()
    values = {**typed, "uniform_sample": typed.get("iterations") == 0}
    if "supernet_path" in typed and typed.get("evaluator") in (None, "ofa") and \
            typed.get("backend", Settings.backend) == "local":
        check_supernet_file(typed["supernet_path"])
    if values.get("asynchronous") and values["uniform_sample"]:
        raise UserError("--asynchronous: --iterations 0 is random search, which is one batch; "
                        "leave one of them out")
    if "warm_start" in typed:
        from search.archive import stats_file

        if values["uniform_sample"]:
            raise UserError("--warm_start: --iterations 0 is random search, which starts from "
                            "nothing; leave one of them out")
        values["warm_start"] = os.path.abspath(stats_file(typed["warm_start"]))
    return folder, None, resolve(values, typed)


def prepare_resumed(path: str, typed: dict[str, Any]) -> \
        tuple[RunFolder, RunFolder | None, Settings]:
    """Returns what `prepare` does, for the search in the folder `path`."""
    if not path:
        raise UserError("--resume '': names no folder; name the --save of a search")
    source = RunFolder(path)
    source.check_search()
    stored = source.read_settings()
    if ONLY_IN_PYTHON in stored:
        raise UserError(f"{path}: a program ran this search, and only it can resume it: "
                        f"{str(stored[ONLY_IN_PYTHON])[:300]}")
    check_code(path, stored, {*typed})
    values = checked_values(get_args_parser(), stored, f"{path}: settings") | {
        "uniform_sample": stored.get("uniform_sample") is True,
        "reused": stored["reused"] if isinstance(stored.get("reused"), bool) else None,
        "asynchronous": stored.get("asynchronous") is True,
        "devices": stored_devices(path, stored)}
    settings = resume(typed, rebased(values, str(stored.get("cwd", ""))), path,
                      recorded_inputs(stored))
    folder = RunFolder(settings.save)
    if folder.path.resolve() == source.path.resolve():
        return folder, None, settings
    if not folder.is_empty():
        raise UserError(f"{settings.save}: not empty; choose another --save for the copy of "
                        f"{path}")
    return folder, source, settings


def stored_devices(path: str, stored: dict[str, Any]) -> int | None:
    """Returns how many devices an asynchronous search counts on; None where none are stored.

    Raises:
        UserError: the number is damaged.
    """
    n = stored.get("devices")
    if n is not None and not (type(n) is int and 1 <= n <= MAX_DEVICES):
        raise UserError(f"{path}: settings: devices must be a number in 1..{MAX_DEVICES}, "
                        f"not {str(n)[:60]}")
    return n


def interrupt(*_: object) -> None:
    """Ends the search as Ctrl-C does; a job in the background ignores Ctrl-C, but not this."""
    raise KeyboardInterrupt


def finish(args: argparse.Namespace, settings: Settings, ended: "Ended") -> None:
    """Writes the report of a finished search and prints the next step.

    Args:
        args, settings: of the search.
        ended: what `run_search` returned.
    """
    lines = [*ended.lines]
    if not args.no_report:
        from visualization.report import REPORT, write_report

        report = ended.last.parent / REPORT
        try:
            with in_use(report.parent):
                write_report(report, [ended.last], search_space=settings.search_space)
            lines[-1] += f"; report: {report}"
        except UserError as error:  # the search itself is complete
            print(f"warning: no report: {error}", file=sys.stderr)
    if args.log_format == "text":
        print("\n".join(lines))


def main(args: argparse.Namespace) -> None:
    """Runs, resumes, or plans a search."""
    if args.tensorboard:
        require("--tensorboard", "tensorboard")
    folder, source, settings = prepare(args)
    for line in check_typed(settings, resumed=bool(args.resume)):
        print(f"warning: {line}", file=sys.stderr)
    if args.dry_run:
        from search.runner import print_plan

        print_plan(settings, folder)
        return
    from search.runner import run_search

    signal.signal(signal.SIGTERM, interrupt)
    try:
        ended = run_search(settings, folder, source, resumed=bool(args.resume),
                           retry_failed=args.retry_failed,
                           accept_changed=args.accept_changed_inputs,
                           log_format=args.log_format, tensorboard=args.tensorboard)
        finish(args, settings, ended)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"resume with: {resume_command(settings.to_json())}") from None


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
