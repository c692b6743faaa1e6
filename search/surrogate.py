"""What a search believes of architectures that it has not evaluated."""

from collections.abc import Sequence

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
        objectives: beside the error.
        predictor: name of the accuracy predictor.
        X: (a, n_var) canonical vectors of the archive.
        F: (a, m) minimised objectives; column 0 the top-1 error in percent.
        seed: of the predictor.

    Attributes:
        error: the fitted accuracy predictor.
        exact: (m,) bool: which columns are known without a model.

    Raises:
        UserError: as `acc_predictor.get_acc_predictor`.
    """

    def __init__(self, space: SearchSpace, objectives: Sequence[Objective], predictor: str,
                 X: np.ndarray, F: np.ndarray, seed: int) -> None:
        self.objectives = list(objectives)
        self.error: AccPredictor = get_acc_predictor(
            predictor, X, F[:, 0], seed=seed, lower=space.lower, upper=space.upper, space=space)
        self.exact = np.array([False] + [objective.exact for objective in objectives])
        self._models = {
            column: get_acc_predictor(OBJECTIVE_PREDICTOR, X, F[:, column], lower=space.lower,
                                      upper=space.upper, space=space)
            for column in np.flatnonzero(~self.exact)[1:].tolist()}

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Returns the (n, m) minimised objectives of (n, n_var) vectors."""
        return np.column_stack([self.error.predict(X)[:, 0], self.costs(X)])

    def costs(self, X: np.ndarray) -> np.ndarray:
        """Returns the (n, m - 1) minimised objectives beside the error."""
        return np.column_stack([
            self._models[column].predict(X)[:, 0] if column in self._models
            else objective.sign * objective.values(X)
            for column, objective in enumerate(self.objectives, 1)])
