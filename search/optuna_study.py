"""An archive as an Optuna study, for those who keep a dashboard of studies."""

import os
import sqlite3
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from search.archive import Record, Stats
from search_space import SearchSpace
from utils.errors import UserError, one_line
from utils.files import atomic_path
from utils.packages import require

ERROR = "top1_err"


def write_study(stats: Stats, names: Sequence[str], space: SearchSpace, path: str | os.PathLike,
                title: str) -> None:
    """Writes an archive as an Optuna study in an SQLite file; replaces an older file.

    Each architecture is a finished trial, in the order of evaluation: the genes that it uses are
    the parameters, under the names of the search space, and its objectives the values. The
    architecture itself is an attribute.

    Args:
        stats: the archive.
        names: of the objectives besides the error.
        space: of its architectures.
        path: the SQLite file.
        title: name of the study.

    Raises:
        UserError: the archive is empty or of another space, Optuna is not installed, or SQLite
            cannot write the file.
    """
    optuna = _optuna()
    if not stats.archive:
        raise UserError("the archive holds no evaluated architecture")
    trials = [_trial(optuna, record, space) for record in stats.archive]
    directions = ["minimize" if sign > 0 else "maximize" for sign in stats.signs]
    with atomic_path(path) as temporary:
        temporary.unlink()  # SQLite makes it
        connect = {"creator": partial(sqlite3.connect, temporary)}  # a URL would not take any name
        try:
            storage = optuna.storages.RDBStorage("sqlite:///study.db", engine_kwargs=connect)
            study = optuna.create_study(study_name=title, storage=storage, directions=directions)
            with warnings.catch_warnings():  # it calls the names experimental
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names([ERROR, *names])
            study.add_trials(trials)
            storage.engine.dispose()
        except Exception as error:
            if not isinstance(cause := _cause(error), sqlite3.Error):
                raise
            raise UserError(f"{path}: SQLite cannot write it ({one_line(cause)}); is the disk "
                            "full?") from None


def _cause(error: BaseException) -> BaseException:
    """Returns the error of SQLite, which Optuna and SQLAlchemy wrap."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _optuna() -> Any:
    require("--to optuna", "optuna")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _trial(optuna: Any, record: Record, space: SearchSpace) -> Any:
    """Returns one architecture as a finished trial."""
    x = space.encode(record.arch)
    params: dict[str, Any] = {}
    distributions: dict[str, Any] = {}
    used = space.active(np.asarray(x)[None])[0]
    for gene, value in [(space.genes[i], int(x[i]) - int(space.lower[i]))
                        for i in np.flatnonzero(used)]:
        choices = tuple(each if isinstance(each, bool | int | float | str) else str(each)
                        for each in gene.values)
        params[gene.name] = choices[value]
        distributions[gene.name] = optuna.distributions.CategoricalDistribution(choices)
    return optuna.trial.create_trial(params=params, distributions=distributions,
                                     values=[record.top1_err, *record.values],
                                     user_attrs={"arch": record.arch})
