"""The settings of a search: one value for each flag of msunas.py, and where each comes from.

`resolve` decides between what was typed or stored, what the supernet's checkpoint records, the data
set's row and the default of the flag, in this order.
"""

import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from acc_predictor.exported import ExportedPredictor, is_exported
from data_providers.table import get_dataset_info
from evaluator import EVALUATORS
from evaluator.options import EvaluationSettings
from networks.supernet_info import SupernetInfo, read_supernet_info
from search.fingerprints import fingerprints
from search.objectives import MEASURE, parse_luts
from search_space import refuse_code, search_space_class
from utils.errors import UserError, worded
from utils.files import shipped
from utils.flags import refuse_idle

# DEVIATION latency-table: the original's was measured on an Intel i7-8700K.
DEFAULT_LUT = shipped("data/cpu_lut_mbv3.yaml")
# What no flag sets: it follows from the others when a search is started.
DERIVED = ("uniform_sample", "reused", "devices")
# What only some search spaces take, see `SearchSpace.options`.
SPACE_OPTIONS = ("resolutions", "table", "genes", "accuracy")
# What may differ from the flags that a search was started with: it changes no result.
CHANGEABLE = frozenset({
    "save", "download", "iterations", "n_gpus", "gpu", "n_workers", "cpu_workers", "backend",
    "ray_address", "timeout", "memory_limit", "retries", "cache_dir", "cache_gb"})
# Flags that name an input: on --resume another place is accepted where the content is the same.
MOVABLE = ("supernet_path", "oracle_path", "table", "data", "warm_start")

# In place of an evaluator where a program evaluates, and tells the search what it has found.
OUTSIDE = "outside"
# The key of settings.json that says why msunas.py cannot resume the search of a program.
ONLY_IN_PYTHON = "only_in_python"

# The flags that change nothing, by evaluators that look an answer up and run no network.
_OF_EVALUATIONS = frozenset({
    "vld_size", "trn_batch_size", "vld_batch_size", "n_epochs", "test", "amp", "cache_dir",
    "cache_gb", "n_workers", "download", "max_damaged"})
IDLE = {"oracle": _OF_EVALUATIONS,
        **dict.fromkeys(("table", "evoxbench"), _OF_EVALUATIONS | {
            "dataset", "data", "n_classes", "supernet_path"})}
_NOT_STORED = {"stored": False}


@dataclass(frozen=True, kw_only=True)
class Settings(EvaluationSettings):
    """What decides a search. Paths as they were typed; None where a default is taken later.

    The names are those of msunas.py's flags, whose help explains them. Besides them,
    `uniform_sample` marks random search, and `reused` is whether the rows of `warm_start`
    are taken over (None before that is decided); `devices` is how many evaluations an asynchronous
    search counts on at a time (None before it starts). Two are not stored: `supernet`, what its
    checkpoint records, read once; and `typed`, the flags that stood on the command line.
    """

    save: str = ".tmp"
    resolutions: list[int] | None = None
    table: str | None = None
    genes: str | None = None
    accuracy: str | None = None
    sec_obj: str = "flops"
    constraint: str | None = None
    lut: list[str] | None = None
    iterations: int = 30
    n_doe: int = 100
    n_iter: int = 8
    strategy: str = "msunas"
    predictor: str | None = None
    evaluator: str | None = None
    oracle_path: str | None = None
    n_gpus: int = 8
    gpu: int = 1
    cpu_workers: int | None = None
    threads: int | None = None
    backend: str = "local"
    ray_address: str = "auto"
    timeout: float | None = None
    memory_limit: float | None = None
    retries: int = 2
    warm_start: str | None = None
    uniform_sample: bool = False
    reused: bool | None = None
    asynchronous: bool = False
    devices: int | None = None
    supernet: SupernetInfo = field(default=SupernetInfo(), repr=False, metadata=_NOT_STORED)
    typed: frozenset[str] = field(default=frozenset(), repr=False, metadata=_NOT_STORED)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all settings that are stored."""
        return tuple(f.name for f in fields(cls) if f.metadata != _NOT_STORED)

    @property
    def planned(self) -> int:
        """How many evaluations the search makes in all."""
        return self.n_doe + self.iterations * self.n_iter

    def to_json(self) -> dict[str, Any]:
        """Returns what `settings.json` holds."""
        return {name: getattr(self, name) for name in self.names()}


def resolve(values: Mapping[str, Any], typed: Collection[str] = ()) -> Settings:
    """Returns the settings of a search: one value for each flag.

    A value comes from `values`, else from what the supernet records (its space, its data set, its
    resolutions, the split that its training has not seen), else from the data set's row, else it
    is the flag's default. An exported predictor records it of the supernet that it predicts.

    Args:
        values: what was typed or stored, by the names of the settings; other names are left out.
        typed: the flags on the command line.

    Raises:
        UserError: a value that contradicts the data set, or lacks its partner; a damaged exported
            predictor; or the supernet names code for its space, which must be typed.
    """
    path = values.get("oracle_path" if values.get("evaluator") == "oracle" else "supernet_path")
    supernet = _read_info(values.get("evaluator"), path)
    if "search_space" not in values:
        refuse_code(supernet.search_space, str(path))
    known = {name: values[name] for name in Settings.names() if name in values}
    settings = Settings(**_recorded(supernet, known) | known, supernet=supernet,
                        typed=frozenset(typed))
    if "data" in typed and settings.evaluator != "table":
        get_dataset_info(settings.dataset).refuse_folder(f"--data {settings.data}")
    space = search_space_class(settings.search_space)
    settings = replace(settings, evaluator=settings.evaluator or space.default_evaluator)
    for name in SPACE_OPTIONS:
        if getattr(settings, name) is not None and name not in space.options:
            raise UserError(f"--{name}: has no meaning for the search space "
                            f"{settings.search_space}; leave it out")
    if settings.evaluator == "oracle" and not settings.oracle_path:
        raise UserError("--evaluator oracle needs --oracle_path, the accuracy predictor to ask")
    return _filled(settings, "resolutions" in space.options)


def _filled(settings: Settings, has_resolutions: bool) -> Settings:
    """Returns settings with what the supernet and the data set's row decide filled in."""
    info = get_dataset_info(settings.dataset)
    supernet = settings.supernet if settings.evaluator in ("ofa", "oracle") else SupernetInfo()
    if settings.evaluator == "ofa" and not settings.supernet_path:
        supernet = read_supernet_info(info.supernet)
    row: dict[str, Any] = {
        "supernet_path": info.supernet, "vld_size": None if settings.test else info.vld_size,
        "trn_batch_size": info.batch_size, "lut": [DEFAULT_LUT],
        "n_epochs": 0 if supernet.dataset == settings.dataset else info.n_epochs}
    if has_resolutions:
        row["resolutions"] = supernet.resolutions or list(info.resolutions)
    return replace(settings, supernet=supernet,
                   n_classes=settings.n_classes if settings.evaluator == OUTSIDE
                   else info.check_n_classes(settings.n_classes, settings.data),
                   **{name: value for name, value in row.items()
                      if getattr(settings, name) is None})


def _read_info(evaluator: str | None, path: str | None) -> SupernetInfo:
    """Returns what the supernet, or the exported predictor that an oracle asks, records."""
    if not path:
        return SupernetInfo()
    if evaluator == "oracle":
        return SupernetInfo.of(ExportedPredictor.read(path).meta if is_exported(path) else None)
    return read_supernet_info(path)


def _recorded(supernet: SupernetInfo, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that a supernet's record decides where `values` do not."""
    found: dict[str, Any] = {"search_space": supernet.search_space, "dataset": supernet.dataset}
    if supernet.dataset and get_dataset_info(supernet.dataset).n_classes is None:
        found["n_classes"] = supernet.n_classes
    if not values.get("test") and values.get("dataset") in (None, supernet.dataset):
        found["vld_size"] = supernet.vld_size
    return {name: value for name, value in found.items() if value is not None}


def check_typed(settings: Settings, resumed: bool) -> list[str]:
    """Returns a line that names the typed flags which change nothing, or none.

    Args:
        settings: of the search.
        resumed: whether a search is resumed.

    Raises:
        UserError: a typed flag without the one that gives it a meaning.
    """
    if not resumed:
        refuse_idle(settings.typed, {
            "without --resume": ("--retry_failed", "--accept_changed_inputs")} | (
            {} if settings.backend == "ray" else {"without --backend ray": ("--ray_address",)}))
    if settings.evaluator in EVALUATORS and settings.evaluator != "oracle":  # own code may read it
        refuse_idle(settings.typed, {"without --evaluator oracle": ("--oracle_path",)})
    idle = IDLE.get(str(settings.evaluator), frozenset()) & settings.typed
    return [f"the evaluator {settings.evaluator} runs no networks, so these flags change nothing: "
            f"{', '.join(f'--{name}' for name in sorted(idle))}"] if idle else []


def contradictions(settings: Settings) -> list[str]:
    """Returns a line for each setting that contradicts what the supernet was trained on."""
    trained, found = settings.supernet, []
    sizes, asked = trained.resolutions, settings.resolutions
    if sizes and asked and not min(sizes) <= min(asked) <= max(asked) <= max(sizes):
        found.append(f"--resolutions {_shown(asked)}: the supernet was trained at "
                     f"{_shown(sizes)} px")
    if trained.dataset not in (None, settings.dataset):
        found.append(f"--dataset {settings.dataset}: the supernet was trained on {trained.dataset}")
    elif trained.dataset and settings.n_epochs:
        found.append(f"--n_epochs {settings.n_epochs}: each evaluation trains a new classifier, "
                     "although the supernet already has one for this data set")
    elif trained.dataset and not settings.test and (settings.vld_size or 0) > (
            trained.vld_size or math.inf):
        found.append(f"--vld_size {settings.vld_size}: the supernet was trained on all but "
                     f"{trained.vld_size} images, so some that score it now have trained it, and "
                     "accuracies come out too high")
    if trained.search_space not in (None, settings.search_space):
        found.append(f"--search_space {settings.search_space}: the supernet is of the space "
                     f"{trained.search_space}")
    return found


def resume(typed: Mapping[str, Any], stored: Mapping[str, Any], source: str,
           inputs: Mapping[str, str] | None = None) -> Settings:
    """Returns the settings of a resumed search: what was typed, else what is stored.

    Args:
        typed: the flags on the command line.
        stored: the checked values of `settings.json`; empty for a folder of the original.
        source: the folder, for messages.
        inputs: the stored fingerprints, see `search.fingerprints`.

    Raises:
        UserError: a typed flag that would change the results differs from the stored one; or as
            `resolve`.
    """
    settings = resolve({**stored, "save": source, **typed}, typed)
    check_unchanged(settings.to_json(), stored, source, inputs or {}, typed)
    return settings


def check_unchanged(values: Mapping[str, Any], stored: Mapping[str, Any], source: str,
                    inputs: Mapping[str, str], names: Collection[str]) -> None:
    """Compares settings with those that a search was started with.

    Args:
        values: the settings now.
        stored: the values of `settings.json`.
        source: the folder, for the message.
        inputs: the stored fingerprints, see `search.fingerprints`.
        names: the settings to compare.

    Raises:
        UserError: one that changes results differs, in another way than the place of an input.
    """
    changed = {name for name in names if name in stored and name not in CHANGEABLE
               and values[name] != stored[name]}
    before = {name: _of_flag(name, inputs) for name in changed.intersection((*MOVABLE, "lut"))}
    comparable = {name for name, digests in before.items() if digests}
    found = fingerprints(dict(values), parse_luts(values["lut"] or [])) if comparable else {}
    changed -= {name for name in comparable if before[name].items() <= found.items()}
    if changed:
        listed = [f"--{name} is {_shown(values[name])}, was {_shown(stored[name])}"
                  + _difference(name, comparable, found) for name in sorted(changed)]
        raise UserError(f"{source}: the search was started with other "
                        f"{worded('flags', 'settings')}: {'; '.join(listed)}; " + worded(
                            "leave them out, or start a new search in another --save",
                            "give the same, or choose another folder"))


def rebased(stored: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Returns stored settings whose relative paths lead to the same files from everywhere.

    Args:
        stored: the values of `settings.json`.
        folder: the current one when they were typed; what is not found from it keeps its path.

    Raises:
        UserError: as `parse_luts`.
    """
    def join(path: str | None) -> str | None:
        there = os.path.join(folder, path or "")
        return there if path and path != MEASURE and os.path.exists(there) else path

    if not os.path.isdir(folder) or os.path.samefile(folder, os.curdir):
        return dict(stored)
    found: dict[str, Any] = {name: join(stored[name]) for name in (*MOVABLE, "cache_dir")
                             if name in stored}
    luts = parse_luts(stored.get("lut") or []).items()
    if luts:
        found["lut"] = [f"{tag}={join(path)}" if tag else join(path) for tag, path in luts]
    return {**stored, **found}


def _of_flag(name: str, digests: Mapping[str, str]) -> dict[str, str]:
    """Returns the fingerprints of what a flag names; --lut may name several files."""
    return {key: digest for key, digest in digests.items() if key.partition(" ")[0] == name}


def _difference(name: str, comparable: Collection[str], found: Mapping[str, str]) -> str:
    """Returns how an input differs from that of another place; nothing for other settings."""
    if name not in comparable:
        return ""
    return (" with another content" if _of_flag(name, found)
            else " (the new one is not there to compare)")


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
