"""An exported accuracy predictor as an evaluator: a search without its supernet."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from acc_predictor.exported import ExportedPredictor
from evaluator.base import Evaluator
from search_space import Arch, get_search_space
from utils.errors import UserError


class PredictorEvaluator(Evaluator):
    """Answers with what a predictor of an earlier search expects, see `python -m acc_predictor`.

    The stats are `top1` and what the evaluator of that search reported, all predicted.

    Args:
        oracle_path: the exported predictor.
        search_space, space_options: the space of the search, which must be the predictor's.
        ignored: options of other evaluators.

    Raises:
        UserError: a damaged file, or a predictor of another space.
    """

    def __init__(self, oracle_path: str, search_space: str = "mbv3",
                 space_options: dict[str, Any] | None = None, **ignored: Any) -> None:
        exported = ExportedPredictor.read(oracle_path)
        trained = exported.meta.get("search_space") or search_space
        options = dict(space_options or {})
        if exported.meta.get("resolutions"):
            options["resolutions"] = exported.meta["resolutions"]
        self.space = get_search_space(search_space, **options)
        if trained not in (search_space, self.space.name):
            raise UserError(f"{oracle_path}: predicts the search space {str(trained)[:60]}, not "
                            f"{search_space}; name it with --search_space")
        try:
            self._models = exported.fit(self.space)
        except UserError as error:
            raise UserError(f"{oracle_path}: {error}") from None

    def evaluate(self, arch: Arch, *, batch_scale: float = 1.0) -> dict[str, Any]:
        """Returns the predicted stats of one architecture; always the same for the same one.

        Args:
            arch: an architecture of the predictor's space, at a resolution of its search.
            batch_scale: part of the contract, without influence.
        """
        values = {name: float(column[0]) for name, column in self._predict([arch]).items()}
        top1 = 100 - values.pop("top1_err")
        return {**values, "top1": top1, "evaluator": "oracle"}

    def evaluate_many(self, archs: Sequence[Arch]) -> np.ndarray:
        """Returns the predicted top-1 accuracies (n,) in percent of many architectures.

        Raises:
            UserError: one is no architecture of the predictor's space.
        """
        accuracies: np.ndarray = 100 - self._predict(archs)["top1_err"]
        return accuracies

    def _predict(self, archs: Sequence[Arch]) -> dict[str, np.ndarray]:
        """Predicts one at a time: the last bits can depend on how many are asked for together."""
        X = self.space.encode_many(archs)
        found = {name: np.array([model.predict(x[None])[0, 0] for x in X])
                 for name, model in self._models.items()}
        return found | {"top1_err": np.clip(found["top1_err"], 0, 100)}
