"""Loading processes where there is little shared memory, as in a container."""

import pytest

from tests.data_providers import layouts

PASSES = """
import hashlib, sys
from data_providers import DataProvider
digests = []
for n_workers in (0, 2):
    digests.append(hashlib.sha256())
    provider = DataProvider("pets", sys.argv[1], seed=3, cache_gb=0, n_workers=n_workers)
    loaders = provider.train_loader(160, 37), provider.eval_batches("test", 160, 37)
    for images, labels in (batch for loader in loaders for batch in loader):
        digests[-1].update(images.numpy().tobytes() + labels.numpy().tobytes())
assert digests[0].digest() == digests[1].digest()
print("equal")
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", ["2500k", "500k"])
def test_little_shared_memory_changes_nothing(tmp_path, with_shared_memory, size):
    """A batch has 2,800 kB, which is more; the second has no room for loading processes either."""
    pets = layouts.folders(tmp_path / "pets", "pets", 37, ("train",), "test").root
    done = with_shared_memory(size, "-c", PASSES, pets)
    assert done.stdout == "equal\n", done.stderr
    assert done.stderr.count("--shm-size") == 1
