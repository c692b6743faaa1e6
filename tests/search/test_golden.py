"""The paper's strategy is unchanged: archives of fixed seeds, by their hashes."""

import hashlib
import json

import pytest

from evaluator.oracle import OracleEvaluator
from search import Progress, Search, SpaceCosts, make_objectives
from search.archive import _plain_records
from search_space import OFASearchSpace
from tests.search.engines import direct

# sha256 (first 16 digits) of the archive after 100 + 2 x 8 evaluations of the accuracy-predictor
# oracle with seed 0: those of the first release, before the search became a package.
HASHES = {("flops", "rbf"): "37fe83e9658b03a4", ("flops", "gp"): "45bde02a50e5e521",
          ("params", "rbf"): "83e03843c8d5f878", ("params", "gp"): "bb58767ac6401345"}


@pytest.mark.parametrize(("objective", "predictor"), list(HASHES))
def test_archives_of_equal_seeds_are_unchanged(shared_data, objective, predictor):
    oracle = OracleEvaluator(oracle_path=str(shared_data / "ofa_mbv3_acc_predictor.pth"))
    space = OFASearchSpace()
    costs = SpaceCosts(space)
    search = Search(space, make_objectives(objective, costs), "msunas", predictor,
                    direct(oracle.evaluate), iterations=2, costs=costs,
                    progress=Progress(0, quiet=True))
    search.run()
    text = json.dumps(_plain_records(search.archive), sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == HASHES[objective, predictor]
