"""From settings to a search: its space, its objectives, its workers, its plan, its run."""

import contextlib
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pymoo.functions import is_compiled

from acc_predictor import check_predictor, predictor_class, require_points
from acc_predictor.exported import ExportedPredictor, is_exported
from cli.progress import duration
from data_providers.table import N_CALIBRATION, cache_need_gb, get_dataset_info
from evaluator.device_command import DeviceCommand
from evaluator.evoxbench import EvoXBenchEvaluator
from evaluator.jobs import Devices, EvaluatorSpec, WorkerError, get_engine, plan_slots
from evaluator.latency_model import is_learned
from evaluator.options import EvaluationSettings
from evaluator.runtimes import choose_runtime
from evaluator.table import TableEvaluator
from networks.supernet_info import check_classes, check_supernet_exists
from search.algorithm import Search
from search.asynchronous import AsynchronousSearch
from search.constraints import Constraints
from search.evaluation import Engine
from search.fingerprints import check_inputs, fingerprints, recorded_inputs
from search.import_original import adopt, check_recorded
from search.objectives import MEASURE, Objective, SpaceCosts, make_objectives, parse_luts
from search.on_device import make_commands, with_devices
from search.progress import Progress
from search.run_folder import RunFolder, resume_command
from search.settings import DEFAULT_LUT, IDLE, Settings, contradictions
from search.strategies import get_strategy
from search.table_report import table_report
from search.virtual_clock import CONSTANT, busy_share
from search.warm_start import WarmStart, read_warm_start
from search_space import SearchSpace, get_search_space, search_space_class
from search_space.backbones import width_from_name
from search_space.table import parse_numbers, read_table
from utils.errors import UserError, note, one_line
from utils.files import write_text
from utils.invocation import calling, program
from utils.machine import cpu_name
from utils.registry import TIMM, names_code

CPU_MACS_PER_SECOND = 8e9
GIB = 2**30
# Measured, see docs/strategies.md.
ON_TABLES = ("--strategy ehvi suits a table best: after 120 evaluations of NAS-Bench-201 on "
             "CIFAR-100, it has a hypervolume of 0.6860, random 0.6745, msunas 0.6743")
# Batches that the plan looks at for the share of time in which devices are busy, and the share
# below which it proposes something else.
N_SAMPLED, MOSTLY_BUSY = 20, 0.5
# The evaluators that list the objectives that they report.
LISTING: dict[str | None, type[TableEvaluator | EvoXBenchEvaluator]] = {
    "table": TableEvaluator, "evoxbench": EvoXBenchEvaluator}


class Parts(NamedTuple):
    """What a search is built of, from its settings."""

    space: SearchSpace
    objectives: list[Objective]
    costs: SpaceCosts
    constraints: Constraints
    commands: dict[str, DeviceCommand]


def make_parts(settings: Settings, folder: RunFolder | None = None) -> Parts:
    """Returns what a search is built of, and prints a warning for each setting that may mislead.

    `folder` is that of what it resumes, see `build_parts`.

    Raises:
        UserError: as `build_parts`.
    """
    parts = build_parts(settings, folder)
    model = settings.predictor or get_strategy(settings.strategy).default_predictor
    for line in [*contradictions(settings), *foreign_tables(parts.costs),
                 *idle_tables(parts.costs), *limited_predictor(model, settings.planned),
                 *parts.constraints.idle(parts.space), *nothing_unseen(settings)]:
        print(f"warning: {one_line(line)}", file=sys.stderr)
    return parts


def build_parts(settings: Settings, folder: RunFolder | None = None) -> Parts:
    """Returns the space, the objectives, the costs and the constraints of a search.

    Args:
        settings: of the search.
        folder: of what it resumes; learned latencies take in what devices have measured since.

    Raises:
        UserError: an unknown name, a bad value, or a missing or unsuitable file.
    """
    strategy = get_strategy(settings.strategy)
    if settings.predictor is not None:
        check_predictor(settings.predictor)
        if strategy.default_predictor is None:
            raise UserError(f"--predictor {settings.predictor}: the strategy {settings.strategy} "
                            "uses none; leave it out")
    model = settings.predictor or strategy.default_predictor
    if model is not None and settings.iterations and not settings.warm_start:
        require_points(model, settings.n_doe)
    space = get_search_space(settings.search_space, **settings.to_json())
    if settings.evaluator == "ofa" and settings.supernet_path and not settings.n_epochs:
        check_classes(settings.supernet_path, settings.supernet.n_outputs, settings.n_classes)
    luts = {tag: path for tag, path in parse_luts(settings.lut or []).items() if path != MEASURE}
    width = settings.supernet.width or width_from_name(settings.supernet_path or "")
    further = {tag: path for tag, text in luts.items() if folder and is_learned(text)
               and (path := folder.device(tag)).exists()}
    costs = SpaceCosts(space, settings.n_classes or 1000, width, luts, further)
    reported = reported_names(settings)
    objectives = make_objectives(settings.sec_obj, costs,
                                 reported=reported is None or bool(reported))
    for objective in objectives:
        if objective.source == "reported":
            check_reported(objective, settings, reported)
        if objective.measured and settings.evaluator in IDLE:
            raise UserError(f"--lut {MEASURE}: the evaluator {settings.evaluator} runs no network "
                            "whose latency could be measured; name a table")
    if MEASURE in parse_luts(settings.lut or []).values() and not any(
            objective.measured for objective in objectives):
        raise UserError(f"--lut {MEASURE}: --sec_obj {settings.sec_obj} names no latency; write "
                        "cpu, say, or leave it out")
    check_runtime(settings, objectives)
    commands = make_commands(objectives, costs, settings.timeout, settings.retries)
    constraints = Constraints(settings.constraint, objectives, costs)
    constraints.check_strategy(strategy)
    if sum(objective.measured for objective in objectives) > 1:
        raise UserError(f"--sec_obj {settings.sec_obj}: one latency can be measured in a search; "
                        "take the others from tables (--lut)")
    return Parts(space, objectives, costs, constraints, commands)


def check_reported(objective: Objective, settings: Settings, reported: list[str] | None) -> None:
    """Checks that the evaluator can answer an objective, and that a table does for each row.

    Raises:
        UserError: it cannot; or a cell of the table's column is empty, or no number.
    """
    if settings.evaluator == "table" and \
            objective.key in (table := read_table(str(settings.table))).columns:
        parse_numbers(table, objective.key)
    if objective.key not in (reported or [objective.key]):
        source = f"{settings.oracle_path} predicts" if settings.evaluator == "oracle" \
            else f"{settings.table or settings.search_space} has"
        raise UserError(f"--sec_obj {objective.key}: {source} "
                        f"{', '.join(reported or []) or 'nothing'} besides the accuracy")


def reported_names(settings: Settings) -> list[str] | None:
    """Returns the objectives that the evaluator's stats hold; None where any name may be one.

    Raises:
        UserError: an exported predictor that is damaged.
    """
    if settings.evaluator == "oracle" and is_exported(str(settings.oracle_path)):
        return list(ExportedPredictor.read(str(settings.oracle_path)).reported)
    if settings.evaluator in LISTING:
        return LISTING[settings.evaluator].from_options(make_spec(settings, []).options).names
    return [] if settings.evaluator in ("ofa", "oracle") else None


def check_runtime(settings: Settings, objectives: Sequence[Objective]) -> None:
    """Reports what a latency is measured with, where that is not what is deployed.

    Raises:
        UserError: a runtime, but no latency that is measured, or one that is not installed.
    """
    measured = [objective for objective in objectives if objective.measured]
    for objective in measured:
        choose_runtime(settings.runtime, str(objective.device))
    if measured and not settings.runtime and settings.search_space.startswith(TIMM):
        note("the latency of networks of timm is measured with torch, which is rarely deployed; "
             "for onnxruntime: --sec_obj cpu@here --lut "
             "here='command:python scripts/bench_onnx.py {model}'")
    if settings.runtime and not measured:
        raise UserError(f"--runtime {settings.runtime}: this search measures no latency; write "
                        f"--lut {MEASURE}, or leave it out")


def foreign_tables(costs: SpaceCosts) -> list[str]:
    """Returns a line for each latency table of a CPU that was measured on another one."""
    return [f"--lut {table.path}: measured on {table.header['device_name']}, this machine has "
            f"{cpu_name()}; {program('scripts/build_lut.py')} measures a table here"
            for table in costs.tables()
            if table.header.get("device") == "cpu" and table.header.get("device_name")
            and table.header["device_name"] != cpu_name()]


def nothing_unseen(settings: Settings) -> list[str]:
    """Returns a line where the search is scored on the test images, so that none stay unseen."""
    if settings.evaluator != "ofa" or (settings.vld_size is not None and not settings.test):
        return []
    from data_providers.datasets import has_split  # loads torch

    if not settings.test and has_split(str(settings.dataset), settings.data, "valid"):
        return []
    return [f"the search is scored on the test images, so {program('post_search.py')} --rescore "
            "will have no unseen ones; --vld_size N scores it on N training images instead"]


def idle_tables(costs: SpaceCosts) -> list[str]:
    """Returns a line for each latency table that was named and changes nothing."""
    return [f"--lut {path}: no objective or limit is a latency of this table, so it changes nothing"
            for tag, path in costs.luts.items() if tag not in costs.used_luts
            and os.path.abspath(path) != os.path.abspath(DEFAULT_LUT)]


def limited_predictor(model: str | None, n: int) -> list[str]:
    """Returns a line where `n` evaluations are more than a predictor learns from."""
    most = predictor_class(model).max_points if model else None
    return [] if most is None or n <= most else [
        f"the predictor {model} learns from at most {most} of the {n} evaluations, drawn from the "
        "seed (docs/strategies.md, Large archives)"]


def make_search(settings: Settings, parts: Parts, folder: RunFolder, engine: Engine | None,
                progress: Progress, retry_failed: bool = False, start: WarmStart | None = None,
                kind: type[Search] = Search) -> Search:
    """Returns the search that settings describe.

    Args:
        settings, parts, folder, engine: of the search.
        progress: prints and records what happens in it.
        retry_failed: see `Search`.
        start: what it starts from, where it has no iteration yet.
        kind: the class of a search that is not asynchronous.
    """
    if not is_compiled():
        print("warning: pymoo's compiled functions are missing, the search will be slower; "
              "reinstall pymoo from its wheel", file=sys.stderr)
    extra: dict[str, Any] = {} if settings.evaluator == "ofa" else {
        "evaluator": settings.evaluator}
    if settings.warm_start:
        extra["warm_start"] = {"stats": settings.warm_start, "reused": settings.reused}
    make = partial(AsynchronousSearch, devices=settings.devices or 1) \
        if settings.asynchronous else kind
    search = make(parts.space, parts.objectives, settings.strategy, settings.predictor, engine,
                  folder, n_doe=settings.n_doe, iterations=settings.iterations,
                  n_iter=settings.n_iter, seed=settings.seed, constraints=parts.constraints,
                  costs=parts.costs, uniform_sample=settings.uniform_sample,
                  retry_failed=retry_failed, extra=extra, progress=progress)
    if start is not None:
        start.apply(search)
    return search


def starting_point(settings: Settings, parts: Parts, folder: RunFolder) -> WarmStart | None:
    """Returns what a search starts from; None without --warm_start, or when it has started.

    Raises:
        UserError: see `read_warm_start`; or a typed flag that would have no meaning.
    """
    if not settings.warm_start or folder.iteration(0).exists():
        return None
    values = settings.to_json()
    start = read_warm_start(Path(settings.warm_start), parts.space, parts.objectives, values,
                             fingerprints(values, parts.costs.used_luts), settings.reused)
    if start.reason is None and "n_doe" in settings.typed:
        raise UserError(f"--n_doe: the {len(start.records)} evaluated architectures of "
                        f"{settings.warm_start} replace the initial sample; leave it out")
    return start


def make_spec(settings: Settings, objectives: Sequence[Objective]) -> EvaluatorSpec:
    """Returns how the workers, whose folder may be another, build their evaluator."""
    given = settings.to_json()
    options = {option.name: given[option.name] for option in fields(EvaluationSettings)}
    for name in ("data", "supernet_path", "oracle_path", "cache_dir"):
        options[name] = given[name] and os.path.abspath(given[name])
    measured = next((objective for objective in objectives if objective.measured), None)
    if measured is not None:
        options |= {"latency_batch_size": measured.batch_size, "latency_device": measured.device}
    options["space_options"] = {
        name: given[name] for name in search_space_class(settings.search_space).options}
    return EvaluatorSpec(str(settings.evaluator), options)


def make_slots(settings: Settings) -> list[Devices]:
    """Returns the devices on which a search evaluates, one for each evaluation at a time."""
    return plan_slots(settings.n_gpus, settings.gpu, settings.cpu_workers, settings.threads,
                      _ray_address(settings))


def _ray_address(settings: Settings) -> str | None:
    return settings.ray_address if settings.backend == "ray" else None


def final_report(settings: Settings, parts: Parts, search: Search) -> list[str]:
    """Returns lines for the end: on a table, how near the search came to its best."""
    if settings.evaluator != "table":
        return []
    options = make_spec(settings, parts.objectives).options
    report = table_report(TableEvaluator.from_options(options), parts.objectives, search.F)
    aside = "; of the whole table, without the constraint" if settings.constraint else ""
    return [f"{report}{aside}"]


class ImageCounts(NamedTuple):
    """Numbers of images, 0 where they are unknown: to train and to score on; whether counted."""

    train: int
    scored: int
    counted: bool

    @property
    def in_validation(self) -> int:
        """How many pass through a network to calibrate and to score it."""
        return min(N_CALIBRATION, self.train or N_CALIBRATION) + self.scored


def count_images(settings: Settings) -> ImageCounts:
    """Counts the images of a search; takes those of the data set's row where they are not here.

    Raises:
        UserError: the folder's files are in no known layout, or too few for the split.
    """
    info = get_dataset_info(settings.dataset)
    if not info.packaged and not (settings.data and os.path.isdir(settings.data)
                                  and not settings.download):
        held_out = 0 if settings.test else settings.vld_size or 0
        return ImageCounts(max((info.n_train or 0) - held_out, 0), held_out or info.n_test or 0,
                           False)
    from data_providers import DataProvider

    grey = (0.5, 0.5, 0.5)  # what the pixels' mean and std are takes time, and is not asked here
    provider = DataProvider(settings.dataset, settings.data, vld_size=settings.vld_size,
                            seed=settings.seed, max_damaged=settings.max_damaged, mean=grey,
                            std=grey)
    return ImageCounts(provider.n_train, provider.n_test if settings.test else provider.n_valid,
                       True)


def describe_ranges(settings: Settings, parts: Parts) -> list[str]:
    """Returns lines with what is known before the search: the objectives' ranges, latencies."""
    if settings.evaluator == "table":
        table, rows = read_table(str(settings.table)), parts.space.enumerate()
        columns = [(o, parse_numbers(table, o.key) if not o.exact else
                    o.values(rows if rows is not None else np.empty((0, parts.space.n_var))))
                   for o in parts.objectives]
        return [f"{o.label}: {values.min():.5g} to {values.max():.5g} in the table"
                for o, values in columns if len(values)]
    known = {o.label: o.exact_values for o in parts.objectives if o.exact_values is not None}
    for name, tag in parts.costs.latency_names().items():
        with contextlib.suppress(UserError):  # a table that lacks layers is no objective here
            known.setdefault(f"{name} (ms)", parts.costs.latency(tag))
    if not known:
        return []
    X = parts.space.encode_many(parts.space.extremes())
    return [f"{label}: {smallest:.5g} for the smallest network, {largest:.5g} for the largest"
            for label, values in known.items() for smallest, largest in [values(X)]]


def describe_settings(settings: Settings, parts: Parts, images: ImageCounts) -> list[str]:
    """Returns lines that name what the search takes for granted: sizes, epochs, files."""
    sizes = settings.resolutions or []
    labels = ", ".join(objective.label for objective in parts.objectives)
    lines = [f"strategy {settings.strategy}, predictor {settings.predictor or 'its own'}; "
             f"objectives error, {labels}"
             + (f"; within {settings.constraint}" if settings.constraint else "")]
    resolutions = f", {min(sizes)} to {max(sizes)} px ({len(sizes)})" \
        if sizes and "resolutions" in type(parts.space).options else ""
    classes = "" if settings.evaluator == "table" else f"; {settings.n_classes} classes"
    lines.append(f"search space {settings.search_space}{resolutions}{classes}")
    lines += describe_ranges(settings, parts)
    if settings.evaluator == "ofa":
        split = "the test images" if settings.test or settings.vld_size is None else \
            f"{settings.vld_size} images split off the training set"
        place = "the package scikit-learn" if get_dataset_info(settings.dataset).packaged else \
            settings.data or "a folder that --data is still to name"
        lines += [f"supernet {settings.supernet_path}",
                  f"data set {settings.dataset} in {place}, scored on {split}",
                  f"{images.train or 'an unknown number of'} images to train or calibrate on, "
                  f"{images.scored or 'an unknown number'} to score on"
                  + ("" if images.counted else f" (not counted: as {settings.dataset} has them)"),
                  f"{settings.n_epochs} epochs of fine-tuning in each evaluation"
                  + (" with a new classifier" if settings.n_epochs else "")]
        if images.scored:
            error = (80 * 20 / images.scored) ** 0.5
            lines.append(f"an accuracy of 80 % on {images.scored} images has a standard deviation "
                         f"of {error:.2f} points")
        need = cache_need_gb(images.in_validation, sizes)
        if need > settings.cache_gb:
            lines.append(f"warning: the images in {len(sizes)} resolutions need {need:.0f} GB, but "
                         f"--cache_gb is {settings.cache_gb:g}: some are decoded again and again; "
                         "raise it, or choose a --vld_size or fewer --resolutions")
    lines += [f"latency table {table.path}, measured on "
              f"{table.header.get('device_name', 'a device that it does not name')}"
              for table in parts.costs.tables()]
    lines += [learned.describe() for learned in parts.costs.learned_files()]
    return lines + [f"{objective.label} measured by {parts.costs.commands[tag]}"
                    for objective in parts.objectives if objective.on_device
                    for tag in [objective.name.partition("@")[2]]]


def print_plan(settings: Settings, folder: RunFolder) -> None:
    """Prints what the search would do and how much work that is; evaluates nothing.

    Raises:
        UserError: bad settings, or a missing input.
    """
    n_slots, parts = len(make_slots(settings)), make_parts(settings, folder)
    start = starting_point(settings, parts, folder)
    n_doe = settings.n_doe if start is None or start.reason else 0
    planned = n_doe + settings.planned - settings.n_doe
    images = count_images(settings) if settings.evaluator not in IDLE else ImageCounts(0, 0, False)
    print(f"plan: {planned} evaluations ({n_doe} initial, {settings.iterations} "
          f"iterations of {settings.n_iter}), {n_slots} at a time, into {settings.save}")
    for line in [*describe_settings(settings, parts, images),
                 *describe_devices(settings, parts, n_slots)]:
        print(one_line(line))  # settings may be anybody's
    if start is not None:
        print(start.describe(n_doe))
    if not parts.costs.available or settings.evaluator in IDLE:
        print(f"by the evaluator {settings.evaluator}; the first evaluations give an estimate")
        return
    sample = parts.space.draw(1000, np.random.default_rng(settings.seed))
    # A training step costs about three forward passes.
    passes = images.in_validation + 3 * (settings.n_epochs or 0) * images.train
    macs = float(parts.costs.work(sample).mean()) * passes
    print(f"an evaluation passes about {passes} images through the network: {macs / 1e12:.3g} TMAC"
          f" on average; all of them: {macs * planned / 1e15:.3g} PMAC")
    seconds = planned * macs / CPU_MACS_PER_SECOND
    print(f"at {CPU_MACS_PER_SECOND / 1e9:.0f} GMAC/s, which one CPU core of the build machine "
          f"reached: {duration(seconds / n_slots)}, {seconds / 3600:.2f} device-hours; the first "
          "evaluations of a run give a better estimate")


def describe_devices(settings: Settings, parts: Parts, n_slots: int) -> list[str]:
    """Returns a line with the share of time in which the devices will be busy in iterations.

    Evaluations are taken to last as long as their work, and a constant part. Where devices wait
    for most of the time, the line proposes what to do about it.
    """
    if settings.asynchronous or not settings.iterations or n_slots == 1:
        return []
    work = parts.costs.work(parts.space.draw(
        N_SAMPLED * settings.n_iter, np.random.default_rng(settings.seed)))
    durations = (work / work.mean() + CONSTANT).reshape(N_SAMPLED, -1)
    share = float(np.mean([busy_share(batch, n_slots) for batch in durations]))
    advice = "" if share >= MOSTLY_BUSY else (
        f"; --asynchronous, or --n_iter {8 * n_slots}, keeps them busy")
    return [f"devices busy about {share:.0%} of the time in iterations of {settings.n_iter} on "
            f"{n_slots}{advice}"]


class Ended(NamedTuple):
    """A finished search: its last stats file, and the lines to print about it."""

    last: Path
    lines: list[str]


def run_search(settings: Settings, folder: RunFolder, source: RunFolder | None = None, *,
               resumed: bool = False, retry_failed: bool = False, accept_changed: bool = False,
               log_format: str = "text", tensorboard: bool = False) -> Ended:
    """Runs or continues a search in its folder to the end.

    Args:
        settings: of the search.
        folder: of the search; it is locked meanwhile.
        source: another search whose files are copied into the folder first.
        resumed: whether the folder, or the source, holds a search already.
        retry_failed: evaluate and propose again what failed before.
        accept_changed: resume although inputs have changed since the search was started.
        log_format, tensorboard: see `search.progress.Progress`.

    Raises:
        UserError: bad settings, a missing or changed input, or workers that cannot start.
    """
    parts = make_parts(settings, source or folder)  # bad input fails before anything is written
    if settings.evaluator == "ofa" and settings.backend == "local":
        check_supernet_exists(str(settings.supernet_path))
    slots = make_slots(settings)
    if settings.asynchronous and settings.devices is None:
        settings = replace(settings, devices=len(slots))
    begun, found = source or folder, fingerprints(settings.to_json(), parts.costs.used_luts)
    before = recorded_inputs(begun.read_settings()) if resumed else {}
    # what is not on this machine at present keeps its fingerprint
    stored = {**settings.to_json(), "cwd": os.getcwd(), "inputs": before | found}
    if resumed and not accept_changed:
        check_inputs(begun.path, before, found)
        if not begun.settings.exists():
            check_recorded(begun.path, parts.space, parts.objectives, parts.costs)
    start = starting_point(settings, parts, source or folder)
    if start is not None:
        settings = replace(settings, reused=start.reason is None)
        stored["reused"] = settings.reused
        print(start.describe(settings.n_doe), file=sys.stderr)
    if source is not None:
        folder.import_from(source)
    with folder.lock():
        adopting = resumed and not folder.settings.exists()
        folder.remove_leftovers()
        if not resumed:
            folder.check_unused()  # another search may have begun, and ended, since
            folder.remove_proposals()
        if not adopting:
            folder.write_settings(stored)
        progress = Progress(settings.planned, len(slots), folder=folder, log_format=log_format,
                            tensorboard=tensorboard)
        progress.say(f"search of {settings.planned} evaluations in {settings.save}: starting, "
                     f"{len(slots)} at a time")
        if settings.evaluator == "table" and settings.strategy != "ehvi":
            progress.say(ON_TABLES)
        limit = settings.memory_limit
        with get_engine(settings.backend, make_spec(settings, parts.objectives), slots=slots,
                        timeout=settings.timeout, retries=settings.retries,
                        memory_limit=None if limit is None else int(limit * GIB),
                        ray_address=_ray_address(settings),
                        on_ready=lambda: check_files(settings, parts, folder, found)) as engine:
            progress.start(["python", *sys.argv])
            for tag, path in parts.costs.further.items():
                progress.say(f"{path}: {tag} is learned from what a device has measured since, too")
            measuring = with_devices(engine, parts.commands, parts.objectives, parts.costs, folder,
                                     settings.seed, resume_command(settings.to_json()))
            search = make_search(settings, parts, folder, measuring, progress, retry_failed, start)
            if adopting:
                adopt(search)
                folder.write_settings(stored)
            last = _run_to_the_end(search, settings, folder)
        command = selection_command(settings, parts, last)
        lines = [*final_report(settings, parts, search), *progress.busy(),
                 f"done: {last}; choose networks with: {command}"]
        progress.event("end", stats=str(last), post_search=command)
    return Ended(last, lines)


def check_files(settings: Settings, parts: Parts, folder: RunFolder,
                found: Mapping[str, str]) -> None:
    """Raises UserError where files have changed between this process's reading and a worker's.

    The folder of the data is left out: its listing may take long, and only workers read it.
    """
    check_inputs(folder.path, found, fingerprints({**settings.to_json(), "data": None},
                                                  parts.costs.used_luts))


def _run_to_the_end(search: Search, settings: Settings, folder: RunFolder) -> Path:
    """Runs the search; workers that cannot start are one line, and their log is a file."""
    try:
        return Path(str(search.run()))
    except WorkerError as error:
        log = folder.path / "failed" / "worker.log"
        write_text(log, f"{error}\n")
        raise UserError(f"{str(error).splitlines()[0]} (log in {log}; fix the cause and resume "
                        f"with: {resume_command(settings.to_json())})") from None


def selection_command(settings: Settings, parts: Parts, last: Path) -> str:
    """Returns the command that chooses networks of a finished search."""
    command = [*calling("post_search.py"), "--expr", str(last)]
    if settings.evaluator == "oracle" and is_exported(str(settings.oracle_path)):
        return shlex.join([*command, "--list"])  # the file does not name the supernet
    command += ["--save", f"{settings.save}/selected"]
    if parts.space.family is not None:
        command += ["--supernet_path", str(settings.supernet_path)]
    if names_code(settings.search_space):
        command += ["--search_space", settings.search_space]
    return shlex.join(command)
