"""The flags that decide which images are read, for every command that reads some. Torch-free."""

from typing import Any

from cli.types import DOWNLOAD, amount, count, number
from data_providers.table import DATASETS, MAX_DAMAGED

# The options of `add_argument`, by the name of the value; see `cli.scripts.add_flags`.
DATA_FLAGS: dict[str, dict[str, Any]] = {
    "dataset": {"choices": sorted(DATASETS), "help": "data set"},
    "data": {"help": "folder of the data set (digits needs none)"},
    "download": {"action": "store_true", "help": DOWNLOAD},
    "max_damaged": {"type": number(0, 1), "default": MAX_DAMAGED, "help":
                    "part of the images that may be damaged, 0..1; damaged images are named and "
                    "left out, and one is always allowed"},
    "vld_size": {"type": count(1), "help":
                 "validation images split off the training set (default: the data set's, 300 for "
                 "digits; the others are scored on the test images)"},
    "seed": {"type": count(0, 2**63), "default": 0, "help": "seed of every random draw"},
    "n_classes": {"type": count(1), "help": "classes (default: the data set's)"},
    "test": {"action": "store_true", "help": "score on the test images"},
    "n_workers": {"type": count(0), "default": 4, "help":
                  "data-loading processes of each evaluation or training"},
    "cache_dir": {"help": "folder for decoded images (default: $MSUNAS_CACHE or ~/.cache/msunas)"},
    "cache_gb": {"type": amount, "default": 32.0, "help": "its greatest size in GiB"},
}
