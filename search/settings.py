"""The settings of a search: one value for each flag of msunas.py, and where each comes from."""

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from acc_predictor.exported import ExportedPredictor, is_exported
from data_providers.table import get_dataset_info
from evaluator import EVALUATORS
from networks.supernet_info import SupernetMeta, read_meta
from search_space import refuse_code, search_space_class
from utils.errors import UserError
from utils.files import shipped
from utils.flags import refuse_idle

# DEVIATION latency-table: the original's was measured on an Intel i7-8700K.
DEFAULT_LUT = shipped("data/cpu_lut_mbv3.yaml")
# What no flag sets: it follows from the others when a search is started.
DERIVED = ("uniform_sample", "reused")
# What only some search spaces take, see `SearchSpace.options`.
SPACE_OPTIONS = ("resolutions", "table", "genes", "accuracy")
# What may differ from the flags that a search was started with: it changes no result.
CHANGEABLE = frozenset({
    "save", "download", "iterations", "n_gpus", "gpu", "n_workers", "cpu_workers", "backend",
    "ray_address", "timeout", "memory_limit", "retries", "cache_dir", "cache_gb"})

# The flags that change nothing, by evaluators that look an answer up and run no network.
_OF_EVALUATIONS = frozenset({
    "vld_size", "trn_batch_size", "vld_batch_size", "n_epochs", "test", "amp", "cache_dir",
    "cache_gb", "n_workers", "download", "max_damaged"})
IDLE = {"oracle": _OF_EVALUATIONS,
        "table": _OF_EVALUATIONS | {"dataset", "data", "n_classes", "supernet_path"}}


@dataclass(frozen=True)
class Settings:
    """What decides a search. Paths as they were typed; None where a default is taken later.

    The names are those of msunas.py's flags, whose help says what they mean. Beside them,
    `uniform_sample` says that it is random search, and `reused` whether the rows of `warm_start`
    are taken over (None before that is decided).
    """

    save: str = ".tmp"
    seed: int = 0
    search_space: str = "mbv3"
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
    data: str | None = None
    download: bool = False
    max_damaged: float = 0.01
    dataset: str = "imagenet"
    n_classes: int | None = None
    supernet_path: str | None = None
    vld_size: int | None = None
    trn_batch_size: int | None = None
    vld_batch_size: int = 200
    n_epochs: int | None = None
    test: bool = False
    evaluator: str | None = None
    oracle_path: str | None = None
    amp: bool | None = None
    cache_dir: str | None = None
    cache_gb: float = 32.0
    n_gpus: int = 8
    gpu: int = 1
    cpu_workers: int | None = None
    threads: int | None = None
    n_workers: int = 4
    backend: str = "local"
    ray_address: str = "auto"
    timeout: float | None = None
    memory_limit: float | None = None
    retries: int = 2
    warm_start: str | None = None
    uniform_sample: bool = False
    reused: bool | None = None

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all settings."""
        return tuple(field.name for field in fields(cls))

    @property
    def planned(self) -> int:
        """How many evaluations the search makes in all."""
        return self.n_doe + self.iterations * self.n_iter

    def to_json(self) -> dict[str, Any]:
        """Returns what `settings.json` holds."""
        return asdict(self)


def resolve(values: Mapping[str, Any]) -> Settings:
    """Returns the settings of what was typed, with what the data set's row decides filled in.

    Raises:
        UserError: a value that contradicts the data set, or lacks its partner.
    """
    settings = Settings(**{name: values[name] for name in Settings.names() if name in values})
    space = search_space_class(settings.search_space)
    settings = replace(settings, evaluator=settings.evaluator or space.default_evaluator)
    info = get_dataset_info(settings.dataset)
    meta = supernet_meta(settings)
    row: dict[str, Any] = {
        "supernet_path": info.supernet, "vld_size": None if settings.test else info.vld_size,
        "trn_batch_size": info.batch_size, "lut": [DEFAULT_LUT],
        "n_epochs": 0 if meta.dataset == settings.dataset else info.n_epochs}
    if "resolutions" in space.options:
        row["resolutions"] = meta.resolutions or list(info.resolutions)
    for name in SPACE_OPTIONS:
        if getattr(settings, name) is not None and name not in space.options:
            raise UserError(f"--{name}: has no meaning for the search space "
                            f"{settings.search_space}; leave it out")
    if settings.evaluator == "oracle" and not settings.oracle_path:
        raise UserError("--evaluator oracle needs --oracle_path, the accuracy predictor to ask")
    return replace(settings, n_classes=info.check_n_classes(settings.n_classes, settings.data),
                   **{name: value for name, value in row.items()
                      if getattr(settings, name) is None})


def with_checkpoint(values: Mapping[str, Any], typed: Collection[str]) -> dict[str, Any]:
    """Returns the values of a new search, with what its supernet says where nothing was typed.

    That is the space, the data set, and the size of the split that the training has not seen. An
    exported predictor says it of the supernet that it predicts.

    Args:
        values: by the names of the settings.
        typed: which of them stood on the command line.

    Raises:
        UserError: the supernet names code for its space, which must be typed.
    """
    asked = values["oracle_path"] if values["evaluator"] == "oracle" else values["supernet_path"]
    meta = told_by(asked or "")
    if "search_space" not in typed:
        refuse_code(meta.search_space, str(asked))
    told: dict[str, Any] = {"search_space": meta.search_space, "dataset": meta.dataset}
    if meta.dataset and get_dataset_info(meta.dataset).n_classes is None:
        told["n_classes"] = meta.n_classes
    if not values["test"] and ("dataset" not in typed or values["dataset"] == meta.dataset):
        told["vld_size"] = meta.vld_size
    return {**values, **{name: value for name, value in told.items()
                         if value is not None and name not in typed}}


def check_typed(settings: Settings, typed: Collection[str], resumed: bool) -> list[str]:
    """Returns a line that names the typed flags which change nothing, or none.

    Args:
        settings: of the search.
        typed: the flags on the command line.
        resumed: whether a search goes on.

    Raises:
        UserError: a typed flag without the one that gives it a meaning.
    """
    if not resumed:
        refuse_idle(typed, {"without --resume": ("--retry_failed", "--accept_changed_inputs")} | (
            {} if settings.backend == "ray" else {"without --backend ray": ("--ray_address",)}))
    if settings.evaluator in EVALUATORS and settings.evaluator != "oracle":  # own code may read it
        refuse_idle(typed, {"without --evaluator oracle": ("--oracle_path",)})
    idle = IDLE.get(str(settings.evaluator), frozenset()) & set(typed)
    return [f"the evaluator {settings.evaluator} runs no networks, so these flags change nothing: "
            f"{', '.join(f'--{name}' for name in sorted(idle))}"] if idle else []


def supernet_meta(settings: Settings) -> SupernetMeta:
    """Returns what the supernet of a search says of its training.

    A supernet of `train_supernet.py` knows its resolutions, its data set and its classes, so that a
    search of it needs no flags for them. So does a predictor that was exported from a search.
    """
    files = {"ofa": settings.supernet_path, "oracle": settings.oracle_path}
    return told_by(files.get(str(settings.evaluator)) or "")


def told_by(path: str) -> SupernetMeta:
    """Returns what a checkpoint of a supernet, or an exported predictor, says of the supernet.

    Raises:
        UserError: an exported predictor that is damaged.
    """
    return SupernetMeta.of(ExportedPredictor.read(path).meta if is_exported(path)
                           else read_meta(path))


def contradictions(settings: Settings) -> list[str]:
    """Returns a line for each setting that contradicts what the supernet was trained on."""
    meta = supernet_meta(settings)
    found = []
    trained, asked = meta.resolutions, settings.resolutions
    if trained and asked and not min(trained) <= min(asked) <= max(asked) <= max(trained):
        found.append(f"--resolutions {_shown(asked)}: the supernet was trained at "
                     f"{_shown(trained)} px")
    if meta.dataset not in (None, settings.dataset):
        found.append(f"--dataset {settings.dataset}: the supernet was trained on {meta.dataset}")
    elif meta.dataset and settings.n_epochs:
        found.append(f"--n_epochs {settings.n_epochs}: each evaluation trains anew the classifier "
                     "that the supernet already has for this data set")
    elif meta.dataset and not settings.test and (settings.vld_size or 0) > (
            meta.vld_size or math.inf):
        found.append(f"--vld_size {settings.vld_size}: the supernet was trained on all but "
                     f"{meta.vld_size} images, so some that score it now have trained it, and "
                     "accuracies come out too high")
    if meta.search_space not in (None, settings.search_space):
        found.append(f"--search_space {settings.search_space}: the supernet is of the space "
                     f"{meta.search_space}")
    return found


def resume_settings(typed: Mapping[str, Any], stored: Mapping[str, Any],
                    defaults: Mapping[str, Any], source: str) -> Settings:
    """Returns the settings of a resumed search: what was typed, else what is stored, else defaults.

    Args:
        typed: the flags on the command line.
        stored: the checked values of `settings.json`; empty for a folder of the original.
        defaults: those of the flags.
        source: the folder, for messages.

    Raises:
        UserError: a typed flag that would change the results differs from the stored one.
    """
    settings = resolve({**defaults, **stored, **typed})
    before = resolve({**defaults, **stored})
    changed = [f"--{name} is {_shown(getattr(settings, name))}, was {_shown(getattr(before, name))}"
               for name in sorted(typed) if name in stored and name not in CHANGEABLE
               and getattr(settings, name) != getattr(before, name)]
    if changed:
        raise UserError(f"{source}: the search was started with other flags: "
                        f"{'; '.join(changed)}; leave them out, or start anew in another --save")
    return settings


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
