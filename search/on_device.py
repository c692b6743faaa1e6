"""Candidates that a device measures by a command, `--lut pi='command:...'`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from cli.progress import progress_bar
from evaluator.device_command import KEY, RETRIES, TIMEOUT_S, DeviceCommand, DeviceError
from evaluator.jobs import Job, Result
from evaluator.measurements import Measurements, file_content
from search.evaluation import Engine
from search.objectives import LATENCY_KEY, Objective, SpaceCosts
from search.run_folder import COMMAND, RunFolder
from utils.errors import UserError


def figures_of(objectives: Sequence[Objective], tag: str) -> dict[str, str]:
    """Returns the figures that the command `tag` is asked for, by the names of objectives."""
    return {each.name: KEY if figure == LATENCY_KEY else figure for each in objectives
            if each.on_device for figure, _, own in [each.name.partition("@")] if own == tag}


def make_commands(objectives: Sequence[Objective], costs: SpaceCosts,
                  timeout: float | None = None, retries: int = RETRIES) -> dict[str, DeviceCommand]:
    """Returns the commands of a search by their names in `--lut`.

    Args:
        objectives: of the search.
        costs: whose `commands` are read.
        timeout: in seconds for one network; None is the usual one.
        retries: see `DeviceCommand`.

    Raises:
        UserError: a command that names no network, or whose figures are no objective.
    """
    found = {}
    for tag, text in costs.commands.items():
        flag, figures = f"--lut {tag}={COMMAND}", figures_of(objectives, tag)
        if not figures:
            raise UserError(f"{flag}...: no objective is measured by it; write "
                            f"--sec_obj {LATENCY_KEY}@{tag}, say, or leave it out")
        found[tag] = DeviceCommand.parse(text, flag, keys=tuple(dict.fromkeys(figures.values())),
                                         timeout=timeout or TIMEOUT_S, retries=retries)
    return found


class MeasuringEngine:
    """Has devices measure a batch of networks before another engine evaluates it.

    So nothing else runs meanwhile on this machine, and what a device cannot run is not evaluated.
    Each measurement is in its device's file at once: when a connection is lost and the search is
    resumed, nothing is measured again.

    Args:
        engine: evaluates what was measured.
        devices: by their names in `--lut`.
        objectives: of the search.
    """

    def __init__(self, engine: Engine, devices: Mapping[str, Measurements],
                 objectives: Sequence[Objective]) -> None:
        self.engine, self.devices = engine, devices
        self.figures = {tag: figures_of(objectives, tag) for tag in devices}

    def run(self, jobs: Iterable[Job]) -> Iterator[Result]:
        """Yields the result of every job; errors as `Measurements.measure`."""
        found: dict[str, dict[str, float]] = {}
        failed: list[Result] = []
        todo = [*jobs]
        for job in progress_bar(todo, "measured networks"):
            try:
                found[job.name] = self._measured(job)
            except DeviceError as error:  # recorded when another one shows that the device works
                failed.append(Result(job, "failed", error=str(error)))
        yield from failed
        for result in self.engine.run(job for job in todo if job.name in found):
            yield replace(result, stats={**result.stats, **found[result.job.name]}) \
                if result.ok else result

    def _measured(self, job: Job) -> dict[str, float]:
        values: dict[str, float] = {}
        for tag, device in self.devices.items():
            row = device.measure(job.arch)
            values |= {name: row[figure] for name, figure in self.figures[tag].items()}
        return values


def with_devices(engine: Engine, commands: Mapping[str, DeviceCommand],
                 objectives: Sequence[Objective], costs: SpaceCosts, folder: RunFolder,
                 seed: int, resume: str) -> Engine:
    """Returns an engine whose networks devices measure; the engine itself without commands.

    Args:
        engine: evaluates them.
        commands: see `make_commands`.
        objectives, costs, folder, seed: of the search.
        resume: the command that resumes it, for messages.

    Raises:
        UserError: a file of measurements is damaged.
    """
    if not commands:
        return engine
    content = file_content(costs.space, costs.n_classes, costs.width_mult)
    return MeasuringEngine(engine, {
        tag: Measurements(folder.device(tag), content, costs.space, command, seed=seed,
                          check=partial(folder.device, tag), resume=f"resume with: {resume}")
        for tag, command in commands.items()}, objectives)
