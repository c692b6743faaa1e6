"""Predictions of all objectives for architectures that were not evaluated."""

import copy
from collections.abc import Sequence
from typing import Self

import numpy as np

from acc_predictor import get_acc_predictor
from acc_predictor.base import AccPredictor
from search.objectives import Objective
from search_space import SearchSpace

# What predicts an objective that is known by evaluation only.
OBJECTIVE_PREDICTOR = "rbf"


class Surrogate:
    """Predicts all objectives: the error by an accuracy predictor, exact ones exactly.

    Args:
        space: the search space.
        objectives: of the search, without the error.
        predictor: name of the accuracy predictor.
        X: (a, n_var) canonical vectors of the archive.
        F: (a, m) minimised objectives; column 0 the top-1 error in percent.
        seed: of the predictor.
        objective_predictor: name of the predictor of objectives that are not exact.

    Attributes:
        error: the fitted accuracy predictor.
        exact: (m,) bool: which columns are known without a model.

    Raises:
        UserError: as `acc_predictor.get_acc_predictor`.
    """

    def __init__(self, space: SearchSpace, objectives: Sequence[Objective], predictor: str,
                 X: np.ndarray, F: np.ndarray, seed: int,
                 objective_predictor: str = OBJECTIVE_PREDICTOR) -> None:
        self.objectives = list(objectives)
        self.error: AccPredictor = get_acc_predictor(
            predictor, X, F[:, 0], seed=seed, space=space)
        self.exact = np.array([False] + [objective.exact for objective in objectives])
        self._models: dict[int, AccPredictor] = {
            column: get_acc_predictor(objective_predictor, X, F[:, column], space=space)
            for column in np.flatnonzero(~self.exact)[1:].tolist()}

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Returns the (n, m) minimised objectives of (n, n_var) vectors."""
        return np.column_stack([self.error.predict(X)[:, 0], self.costs(X)])

    def costs(self, X: np.ndarray) -> np.ndarray:
        """Returns the (n, m - 1) minimised objectives without the error."""
        return np.column_stack([
            self._models[column].predict(X)[:, 0] if column in self._models
            else self._exact_values(column, X) for column in range(1, len(self.exact))])

    def _exact_values(self, column: int, X: np.ndarray) -> np.ndarray:
        objective = self.objectives[column - 1]
        return objective.sign * objective.values(X)

    def predict_std(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the (n, m) minimised objectives and their standard deviations.

        They are 0 where an objective is counted, and those of the file where it is learned.

        Raises:
            UserError: a model gives none.
        """
        mean, std = np.zeros((2, len(X), len(self.exact)))
        models = {0: self.error, **self._models}
        for column in range(len(self.exact)):
            if column in models:
                predicted, spread = models[column].predict(X, return_std=True)
                mean[:, column], std[:, column] = predicted[:, 0], spread[:, 0]
            else:
                mean[:, column] = self._exact_values(column, X)
                spread_of = self.objectives[column - 1].std_values
                std[:, column] = 0.0 if spread_of is None else spread_of(X)
        return mean, std

    def condition_on(self, X: np.ndarray, F: np.ndarray | None = None) -> Self:
        """Returns the surrogate conditioned on (n, n_var) vectors, see `AccPredictor.condition_on`.

        Args:
            X: (n, n_var) canonical vectors.
            F: (n, m) their minimised objectives; None takes its own predictions.
        """
        surrogate = copy.copy(self)
        models = {column: model.condition_on(X, None if F is None else F[:, column])
                  for column, model in {0: self.error, **self._models}.items()}
        surrogate.error = models.pop(0)
        surrogate._models = models
        return surrogate
