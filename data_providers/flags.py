"""The flags that decide which images are read, for every command that reads some. Torch-free."""

from typing import Any

from cli.types import DOWNLOAD, count, number
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
}
