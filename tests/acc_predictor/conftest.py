"""The measured ImageNet accuracies, for the tests that need them."""

import csv
import json

import numpy as np
import pytest

from search_space import OFASearchSpace


@pytest.fixture(scope="session")
def measured(shared_data):
    """(1081, 46) encoded architectures and their (1081,) measured top-1 errors in percent."""
    with open(shared_data / "ofa_mbv3_w1.0_imagenet_measured.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    space = OFASearchSpace(resolutions=[224])
    return (np.array([space.encode(json.loads(row["arch"])) for row in rows]),
            100 - np.array([float(row["imagenet_top1"]) for row in rows]))
