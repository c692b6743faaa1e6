"""An accuracy predictor as a file: what it was fitted on, from which it is fitted again when read.

JSON, so that it can be read and carried anywhere, and nothing in it is run. A fit takes about a
second for the points of a search and gives the same predictions on the same machine; libraries of
other versions may round otherwise.
"""

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np

from acc_predictor import PREDICTORS, get_acc_predictor
from acc_predictor.base import AccPredictor
from cli.progress import progress_bar
from search_space import Arch, SearchSpace
from utils.errors import UserError
from utils.files import open_regular, read_json, write_json
from utils.invocation import program
from utils.metrics import kendall, rmse

FORMAT, VERSION = "msunas accuracy predictor", 1
# A Gaussian process of more points needs too much memory.
MAX_POINTS = 5000
MAX_SEED = 2**63


@dataclass(frozen=True)
class ExportedPredictor:
    """The content of one file.

    Attributes:
        predictor: a row of `PREDICTORS`.
        seed: of the fit.
        archs: n architectures that were evaluated.
        top1_err: their n errors in percent.
        reported: further figures of each architecture, by name: n numbers each.
        meta: of the supernet, as `networks.supernet_info.SupernetInfo`: space, resolutions,
            classes, width.
        quality: how well it predicts in cross-validation, see `cross_validated`.
    """

    predictor: str
    seed: int
    archs: list[Arch]
    top1_err: list[float]
    reported: dict[str, list[float]] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)

    def write(self, path: str | os.PathLike) -> None:
        """Writes the file atomically; equal predictors give equal bytes."""
        write_json(path, {"format": FORMAT, "version": VERSION, **asdict(self)})

    @classmethod
    def read(cls, path: str | os.PathLike) -> Self:
        """Reads a file that `write` wrote.

        Raises:
            UserError: it is missing, damaged, of a later version, or no exported predictor.
        """
        value = read_json(path, "exported predictor")
        if value.get("format") != FORMAT:
            raise UserError(f"{path}: no exported predictor; "
                            f"{program('acc_predictor/__main__.py')} RUN --save FILE makes one")
        if type(value.get("version")) is not int or value["version"] != VERSION:
            raise UserError(f"{path}: version {str(value.get('version'))[:20]} of the format, but "
                            f"this program reads {VERSION}; export it again")
        _check(value.get("predictor") in list(PREDICTORS), path, "predictor",
               f"one of {', '.join(PREDICTORS)}")
        _check(type(value.get("seed")) is int and 0 <= value["seed"] < MAX_SEED, path, "seed",
               f"an integer in 0..{MAX_SEED}")
        archs, reported = value.get("archs"), value.get("reported")
        _check(_is_list(archs, lambda arch: isinstance(arch, dict))
               and 0 < len(archs) <= MAX_POINTS, path, "archs",
               f"a list of 1 to {MAX_POINTS} architectures")
        n = len(archs)
        _check(_is_list(value.get("top1_err"), _is_number, n)
               and all(0 <= error <= 100 for error in value["top1_err"]), path, "top1_err",
               f"{n} numbers in 0..100")
        _check(isinstance(reported, dict)
               and all(_is_list(column, _is_number, n) for column in reported.values()), path,
               "reported", f"lists of {n} numbers by name")
        for key in ("meta", "quality"):
            _check(isinstance(value.get(key), dict), path, key, "a dict")
        return cls(value["predictor"], value["seed"], archs, list(map(float, value["top1_err"])),
                   {name: list(map(float, column)) for name, column in reported.items()},
                   value["meta"], value["quality"])

    def fit(self, space: SearchSpace) -> dict[str, AccPredictor]:
        """Returns the fitted predictors: of `top1_err`, and of what else was reported, by name.

        Raises:
            UserError: an architecture does not belong to the space, or too few of them.
        """
        X = space.encode_many(self.archs)
        return {name: get_acc_predictor(self.predictor, X, np.array(column), seed=self.seed,
                                        space=space)
                for name, column in {"top1_err": self.top1_err, **self.reported}.items()}


def is_exported(path: str | os.PathLike) -> bool:
    """Whether a file is JSON, as exported predictors are, and not a checkpoint of weights."""
    try:
        with open_regular(path) as file:
            return file.read(64).lstrip()[:1] == b"{"
    except (OSError, ValueError):
        return False


def cross_validated(name: str, space: SearchSpace, X: np.ndarray, y: np.ndarray,
                    seed: int) -> dict[str, Any]:
    """Returns how well a predictor ranks and meets what it was not fitted on.

    Args:
        name: a row of `PREDICTORS`.
        space: what the vectors encode.
        X: (n, n_var) distinct vectors.
        y: (n,) errors in percent.
        seed: of the folds, and of the fits.

    Returns:
        `folds`, the mean and the standard deviation over the folds of Kendall's tau (`tau`,
        `tau_std`), and the RMSE of all predictions in percent (`rmse`).

    Raises:
        UserError: fewer points than two folds of two.
    """
    # Here, since it imports every predictor: what reads settings must start at once.
    from acc_predictor.adaptive_switching import N_FOLDS, cross_validation_folds

    n_folds = min(N_FOLDS, len(X) // 2)
    if n_folds < 2:
        raise UserError(f"{len(X)} architectures are too few for a cross-validation; evaluate more")
    taus, predicted = [], np.zeros(len(X))
    for fold in progress_bar(cross_validation_folds(len(X), seed, n_folds), "fold"):
        rest = np.setdiff1d(np.arange(len(X)), fold)
        model = get_acc_predictor(name, X[rest], y[rest], seed=seed, space=space)
        predicted[fold] = model.predict(X[fold])[:, 0]
        taus.append(kendall(predicted[fold], y[fold]))
    return {"folds": n_folds, "tau": float(np.mean(taus)), "tau_std": float(np.std(taus)),
            "rmse": rmse(predicted, y)}


def _is_list(value: Any, rule: Callable[[Any], bool], length: int | None = None) -> bool:
    return isinstance(value, list) and length in (None, len(value)) and all(map(rule, value))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)


def _check(holds: bool, path: str | os.PathLike, key: str, wanted: str) -> None:
    if not holds:
        raise UserError(f"{path}: {key!r} must be {wanted}; export the predictor again")
