"""The objectives of a search after the top-1 error: their names, units, directions and sources.

An objective is counted (closed form), looked up in a latency table, learned from measured networks,
measured by a worker or by a command, or reported by the evaluator. The first three are exact: known
for every architecture without evaluating it. What is learned has a standard deviation as well.
Nothing is built before a value is asked for.
"""

import importlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from evaluator.costs import COUNTED, CostModel
from evaluator.latency import LookUpTable
from evaluator.latency_model import LearnedLatency, is_learned
from search.run_folder import COMMAND
from search_space import SearchSpace
from utils.errors import UserError, worded
from utils.registry import current_folder_last, why_not_imported

# A measured value lies below it: volumes of several objectives are finite numbers then.
LARGEST = 1e30

Values = Callable[[np.ndarray], np.ndarray]

ERROR = "top1"
FROM_FILES = ("table", "learned")
OBJECTIVES = (f"{', '.join(f'{name} ({unit})' for name, unit in COUNTED.items())}, cpu, gpu<batch> "
              "(ms), or what the evaluator reports")
DIRECTIONS = {"min": False, "max": True}
LATENCY = re.compile(r"(cpu|gpu)([1-9]\d{0,4})?(?:@(\w+))?", re.ASCII)
_OF_FILE = re.compile(r"([a-z_]\w{0,60})@(\w+)", re.ASCII | re.IGNORECASE)
_REPORTED = re.compile(r"([a-z_][\w ()\[\]/%.-]{0,60})(?::(min|max))?", re.ASCII | re.IGNORECASE)
MEASURE = "measure"
LATENCY_KEY = "cpu"  # what the latency by a command is called as an objective
# Counted costs that a file of the original may hold without a name, and their correlation with it.
RECORDED, LINEAR = ("flops", "params"), 0.99


@dataclass(frozen=True)
class Objective:
    """One objective.

    Attributes:
        name: as it is typed and written: `flops`, `cpu`, `gpu64`, `cpu@pi4`, `energy`.
        unit: of its values, such as `M` (millions) or `ms`; empty where it is not known.
        source: `counted`, `table`, `learned`, `measured`, `command` or `reported`.
        key: its key in an evaluation's stats.
        maximise: whether more is better.
        device: `cpu` or `gpu` of a latency.
        batch_size: of a measured latency.
        exact_values: (n, n_var) vectors -> (n,) values, where they need no evaluation.
        std_values: (n, n_var) vectors -> (n,) standard deviations of these, where they are learned.

    DEVIATION folder-names: networks' folders have the objective's name; there always `net-flops@`.
    """

    name: str
    unit: str
    source: str
    key: str
    maximise: bool = False
    device: str | None = None
    batch_size: int = 1
    exact_values: Values | None = field(default=None, repr=False, compare=False)
    std_values: Values | None = field(default=None, repr=False, compare=False)

    @property
    def exact(self) -> bool:
        """Whether the value of any architecture is known without evaluating it."""
        return self.exact_values is not None

    @property
    def measured(self) -> bool:
        """Whether a worker measures it in a job of its own."""
        return self.source == "measured"

    @property
    def on_device(self) -> bool:
        """Whether a command measures it."""
        return self.source == "command"

    @property
    def sign(self) -> float:
        """What turns a value into one to be minimised."""
        return -1.0 if self.maximise else 1.0

    @property
    def label(self) -> str:
        """Name and unit, for axes and tables."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def values(self, X: np.ndarray) -> np.ndarray:
        """Returns the (n,) exact values of (n, n_var) vectors.

        Raises:
            UserError: the objective is known by evaluation only.
        """
        if self.exact_values is None:
            raise UserError(f"the objective {self.name} is known by evaluation only")
        return self.exact_values(X)

    def read(self, stats: Mapping[str, Any]) -> float:
        """Returns the value in an evaluation's stats.

        Raises:
            UserError: the stats do not hold it, or it is no number.
        """
        value = stats.get(self.key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise UserError(f"the evaluator's stats lack the objective {self.name!r} (a finite "
                            f"number under {self.key!r}); they hold {', '.join(stats)}")
        if abs(value) >= LARGEST:
            raise UserError(f"the objective {self.name!r} is {value:g}: a figure of {LARGEST:g} or "
                            "more is no measurement; leave it out where there is none")
        return float(value)

    def describe(self) -> dict[str, Any]:
        """Returns what files store of it, in JSON types."""
        return {"name": self.name, "unit": self.unit, "source": self.source, "key": self.key,
                "direction": "max" if self.maximise else "min"}


class SpaceCosts:
    """The closed-form costs of one space, built when they are asked for first.

    Args:
        space: the search space.
        n_classes: outputs of the classifier.
        width_mult: width multiplier of the supernet.
        luts: latency tables, files of learned latencies, and commands (`command:...`) by tag; the
            one without has the tag "".
        further: files of networks that were measured since, by the tag of what they add to.

    Attributes:
        luts: the files by tag.
        commands: the commands by tag.
    """

    def __init__(self, space: SearchSpace, n_classes: int = 1000, width_mult: float = 1.0,
                 luts: Mapping[str, str] | None = None,
                 further: Mapping[str, str | os.PathLike] | None = None) -> None:
        self.space, self.n_classes, self.width_mult = space, n_classes, width_mult
        self.commands = {tag: path.removeprefix(COMMAND) for tag, path in (luts or {}).items()
                         if path.startswith(COMMAND)}
        self.luts = {tag: path for tag, path in (luts or {}).items() if tag not in self.commands}
        self.further = dict(further or {})
        self._with_lut: dict[str, CostModel] = {}
        self._learned: dict[tuple[str, str | None], LearnedLatency] = {}

    @property
    def available(self) -> bool:
        """Whether the space has layers whose costs can be counted."""
        own = type(self.space)
        return own.slots is not SearchSpace.slots or own.layers is not SearchSpace.layers

    @cached_property
    def counts(self) -> CostModel:
        """The model of what is counted; raises UserError where the space has no layers."""
        return next(iter(self._with_lut.values()), None) or CostModel(
            self.space, self.n_classes, self.width_mult)

    def counted(self, name: str) -> Values:
        """Returns the function from vectors to the counted cost `name`."""
        return lambda X: np.asarray(self.counts.values(X, name))

    def latency(self, tag: str) -> Values:
        """Returns the function from vectors to ms by the file `tag`; reads the file now.

        Raises:
            UserError: there is no such file, or it lacks layers of the space.
        """
        learned = self.learned(tag)
        if learned is not None:
            return learned.values
        if tag not in self._with_lut:
            self._with_lut[tag] = CostModel(self.space, self.n_classes, self.width_mult,
                                            lut=LookUpTable.read(self.luts[tag]))
        return lambda X: np.asarray(self._with_lut[tag].values(X, "cpu"))

    def learned(self, tag: str, key: str | None = None) -> LearnedLatency | None:
        """Returns what the file `tag` teaches of a figure; None where it is a table.

        Args:
            tag: of the file.
            key: of the figure, such as `mj`; None is the one that the file was made for.

        Raises:
            UserError: there is no such file, or it is damaged or of other networks.
        """
        if tag not in self.luts:
            raise UserError(f"objective {key or 'cpu'}@{tag}: no latency table has the name "
                            f"{tag!r}; add one: " + worded(
                                f"--lut {tag}=FILE", f"luts={{{tag!r}: FILE}} of SpaceCosts"))
        if not is_learned(self.luts[tag]):
            return None
        if (tag, key) not in self._learned:
            self._learned[tag, key] = LearnedLatency.read(self.luts[tag], self.space,
                                                          self.n_classes, self.width_mult, key,
                                                          self.further.get(tag))
        return self._learned[tag, key]

    def latency_names(self) -> dict[str, str]:
        """Returns the tags of the tables by the names of their latencies: `cpu`, `cpu@pi4`."""
        return {f"cpu@{tag}" if tag else "cpu": tag for tag, path in self.luts.items()
                if self.available or is_learned(path)}

    def tables(self) -> list[LookUpTable]:
        """Returns the latency tables in use."""
        return [model.lut for model in self._with_lut.values() if model.lut is not None]

    def learned_files(self) -> list[LearnedLatency]:
        """Returns the learned latencies in use."""
        return list(self._learned.values())

    @property
    def used_luts(self) -> dict[str, str]:
        """The paths of the files of latencies in use, by tag."""
        used = {*self._with_lut, *(tag for tag, _ in self._learned)}
        return {tag: path for tag, path in self.luts.items() if tag in used}

    def work(self, X: np.ndarray) -> np.ndarray:
        """Returns the (n,) expected relative durations, above 0: the MACs where they are known."""
        if not self.available:
            return np.ones(len(X))
        return np.maximum(self.counts.evaluate(X, ["macs"])["macs"], 1)


def recorded_cost(values: np.ndarray, X: np.ndarray, costs: SpaceCosts) -> str | None:
    """Returns which counted cost the values of a file without names are: `flops` or `params`.

    They may come from a supernet of another width or another number of classes, which changes them
    by a factor or by a constant.

    Args:
        values: (n,) second objectives.
        X: (n, n_var) vectors of the architectures.
        costs: of their space.

    Returns:
        The name; None where they are neither, as a latency.
    """
    for name in RECORDED if costs.available and len(X) else ():
        counted = costs.counted(name)(X)
        near = 1 / 2 < np.median(values / counted) < 2
        varied = len(X) > 2 and np.ptp(values) > 0
        if near and (np.allclose(values, counted, rtol=0.01)
                     or (varied and np.corrcoef(values, counted)[0, 1] > LINEAR)):
            return name
    return None


def parse_luts(texts: Sequence[str]) -> dict[str, str]:
    """Returns the tables of `--lut FILE` and `--lut tag=FILE` by tag ("" for none).

    Raises:
        UserError: two tables with one tag.
    """
    found: dict[str, str] = {}
    for text in texts:
        tag, separator, path = text.partition("=")
        tag, path = (tag, path) if separator and tag.isidentifier() else ("", text)
        if tag in found:
            raise UserError(f"--lut {text}: two tables with one name; write --lut name=FILE")
        if path.startswith(COMMAND) and not tag:
            raise UserError(f"--lut {text[:60]}: give the device a name: --lut pi='{COMMAND}...'")
        found[tag] = path
    return found


def make_objectives(text: str, costs: SpaceCosts, reported: bool = False) -> list[Objective]:
    """Returns the objectives of `flops` or `flops+cpu+energy`, in that order.

    Args:
        text: names joined by `+`. A reported one may name its direction: `throughput:max`. One of
            your own is a function from `SpaceCosts` to `Objective`, named `module:function`.
        costs: of the search space.
        reported: whether the evaluator may report objectives of its own, so that any other name is
            a key of its stats.

    Raises:
        UserError: an unknown or repeated name, or a table that lacks layers of the space.
    """
    found: list[Objective] = []
    for name in (part.strip() for part in text.split("+")):
        objective = _own(name, costs) or _make(name, costs, reported)
        if objective.name == ERROR or objective.name in {other.name for other in found}:
            raise UserError(f"objectives {text[:60]!r}: {objective.name} is given twice (the top-1 "
                            "error is always an objective)")
        found.append(objective)
    return found


def _own(name: str, costs: SpaceCosts) -> Objective | None:
    """Returns the objective that a function of the user's, `module:function`, makes of the costs.

    Raises:
        UserError: no such function, or it returns no `Objective`.
    """
    module, colon, attribute = name.partition(":")
    if not colon or attribute in DIRECTIONS:
        return None
    try:
        with current_folder_last():
            objective = getattr(importlib.import_module(module), attribute)(costs)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"objective {name[:60]}: no such objective: "
                        f"{why_not_imported(error)}") from None
    if not isinstance(objective, Objective):
        raise UserError(f"objective {name[:60]}: must return a search.Objective")
    return objective


def _make(name: str, costs: SpaceCosts, reported: bool) -> Objective:
    latency, of_file = LATENCY.fullmatch(name), _OF_FILE.fullmatch(name)
    if of_file and of_file[2] in costs.commands:
        unit = "ms" if of_file[1] == LATENCY_KEY else of_file[1]
        return Objective(name, unit, "command", name)
    if name in COUNTED and (costs.available or not reported):
        return Objective(name, COUNTED[name], "counted", name, exact_values=costs.counted(name))
    if latency:
        device, batch, tag = latency[1], latency[2], latency[3] or ""
        if name == f"cpu@{tag}" or (name == "cpu" and costs.luts.get("", MEASURE) != MEASURE):
            learned = costs.learned(tag)
            if learned is not None:
                return _of_learned(name, learned)
            return Objective(name, "ms", "table", name, device=device,
                             exact_values=costs.latency(tag))
        if not tag:
            return Objective(name, "ms", "measured", device, device=device,
                             batch_size=int(batch or 1))
    elif of_file and (figure := costs.learned(of_file[2], of_file[1])) is not None:
        return _of_learned(name, figure)
    own = _REPORTED.fullmatch(name)
    if not own or not reported:
        raise UserError(f"unknown second objective {name[:60]!r}; choose from {OBJECTIVES}")
    return Objective(plain_name(own[1]), "", "reported", own[1],
                     maximise=DIRECTIONS[own[2] or "min"])


def plain_name(key: str) -> str:
    """Returns the objective's name of a key of the stats: `Latency_ms` of `Latency (ms)`."""
    return re.sub(r"\W+", "_", key, flags=re.ASCII).rstrip("_") or key


def _of_learned(name: str, learned: LearnedLatency) -> Objective:
    return Objective(name, learned.key, "learned", name, exact_values=learned.values,
                     std_values=learned.std)
