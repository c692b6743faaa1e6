"""The fine-tuning inside an evaluation is the original's."""

import pytest
from torch import nn

from data_providers import DATASETS
from evaluator import accuracy
from evaluator.accuracy import NetEvaluator
from evaluator.options import EvaluationOptions
from networks import build_supernet, cut_subnet
from search_space import OFASearchSpace


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "cinic10", "stl10", "aircraft", "dtd",
                                  "pets", "flowers102", "imagenet"])
def test_batches_are_those_of_the_published_commands(name):
    assert DATASETS[name].batch_size == 128


def test_the_new_classifier_has_dropout(monkeypatch):
    seen = {}

    def fine_tune(net, batches, epochs, lr, **options):
        seen["rates"] = [m.p for m in net.classifier.modules() if isinstance(m, nn.Dropout)]
        seen["batch"] = len(next(iter(batches))[0])

    monkeypatch.setattr(accuracy, "fine_tune", fine_tune)
    evaluator = NetEvaluator(EvaluationOptions(dataset="digits", n_epochs=1,
                                              trn_batch_size=128, cache_gb=0))
    net = cut_subnet(build_supernet(3, 0.1), OFASearchSpace([32]).extremes()[0])
    evaluator._fine_tune(net, 32, 0, 1.0)
    assert seen == {"rates": [0.2], "batch": 128}
    assert net.classifier.out_features == 10
