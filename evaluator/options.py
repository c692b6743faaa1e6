"""The options of an evaluation, shared by the commands and the workers. Free of torch."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from cli.types import amount, count
from data_providers.flags import DATA_FLAGS
from data_providers.table import DATASETS, MAX_DAMAGED
from evaluator.runtimes import RUNTIME_FLAG
from networks.configs import read_config
from networks.supernet_info import SupernetInfo, read_supernet_info
from search_space import NAMES

SUPERNET = "./data/ofa_mbv3_d234_e346_k357_w1.0"


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What msunas.py and `python -m evaluator` both take: how networks are evaluated.

    Attributes:
        search_space: the space of the architectures, a name or `module:Class`.
        supernet_path: the checkpoint that subnets are cut from.
        dataset: a row of `data_providers.DATASETS`.
        data: its folder; None for those that need none.
        download: fetch the data set into `data` where it is not there and torchvision can.
        max_damaged: part of a split's images, 0..1, that may be damaged (one always may).
        n_classes: must agree with the data set; None takes the data set's.
        vld_size: images split off the training set for validation; None takes the data set's own
            number, and where it has none, scores on the test images.
        test: score on the test images instead.
        n_workers: data-loading processes.
        trn_batch_size, n_epochs: of the fine-tuning; None takes the data set's. 0 epochs leave the
            classifier and the weights as they are.
        vld_batch_size: images in one validation step; it has no influence on the result.
        seed: of the validation split, the images' augmentation, the new classifier, dropout.
        cache_dir, cache_gb: folder for decoded images and its greatest size.
        amp: mixed precision: False, `bfloat16`, `float16`, or True for the device's usual one; None
            is bfloat16 on a GPU that has it, without fine-tuning, and False elsewhere.
        runtime: what runs networks whose latency is measured, see `evaluator.runtimes`; None is
            onnxruntime on a CPU where it is installed, else torch.
    """

    search_space: str = "mbv3"
    supernet_path: str | None = None
    dataset: str = "imagenet"
    data: str | None = None
    download: bool = False
    max_damaged: float = MAX_DAMAGED
    n_classes: int | None = None
    vld_size: int | None = None
    test: bool = False
    n_workers: int = 4
    trn_batch_size: int | None = None
    vld_batch_size: int = 200
    n_epochs: int | None = None
    seed: int = 0  # DEVIATION seed: the original has none, and no run of it can be repeated
    cache_dir: str | None = None
    cache_gb: float = 32.0
    amp: bool | str | None = None
    runtime: str | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(EvaluationSettings):
    """How a worker evaluates networks. JSON types only, so that they can be sent to it.

    Attributes:
        space_options: settings of the search space; without any, every resolution is accepted.
        mean, std: of the pixels in [0, 1] for each channel; None takes the data set's.
        crop_scale: smallest part of an image that a random crop holds; None likewise.
        drop_rate: dropout before the new classifier of the fine-tuning; the original's is 0.2.
        drop_connect_rate: drop path of its last block; it grows linearly with depth.
        device: `cpu` or `cuda:0`, ...; None is a GPU where there is one.
        gpus: indices of the GPUs that share the batches; fewer than two mean `device` alone.
        threads: CPU threads; None leaves torch's choice.
        verbose: show a bar of the validation on a terminal.
        latency_batch_size: images in one pass where a latency is measured.
        latency_device: `cpu` or `gpu`; None is the kind of `device`.
    """

    n_workers: int = 0
    space_options: dict[str, Any] = field(default_factory=dict)
    mean: list[float] | None = None
    std: list[float] | None = None
    crop_scale: float | None = None
    drop_rate: float = 0.2
    drop_connect_rate: float = 0.0
    device: str | None = "cpu"
    gpus: list[int] = field(default_factory=list)
    threads: int | None = None
    verbose: bool = False
    latency_batch_size: int = 1
    latency_device: str | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Returns the options among `values`, such as parsed flags; other names are left out."""
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})


def with_dataset(args: argparse.Namespace, config: str | None,
                 supernet: str | None) -> argparse.Namespace:
    """Returns flags whose `dataset` is what was typed, else what a file records, else the default.

    Args:
        args: the flags.
        config, supernet: the net.config, or the checkpoint, of what is evaluated.

    Raises:
        UserError: a damaged config; or --data is typed, and the data set has no folder.
    """
    recorded = SupernetInfo.of_config(read_config(config), config) if config \
        else read_supernet_info(supernet) if supernet else SupernetInfo()
    dataset = args.dataset
    if "dataset" not in args.typed and recorded.dataset in DATASETS:
        dataset = recorded.dataset
    if "data" in args.typed:
        DATASETS[dataset].refuse_folder(f"--data {args.data}")
    return argparse.Namespace(**{**vars(args), "dataset": dataset})


# The flags of `EvaluationSettings`, whose defaults are theirs; see `cli.scripts.add_flags`.
EVALUATION_FLAGS: dict[str, dict[str, Any]] = {
    name: {**options, "default": getattr(EvaluationSettings, name)} for name, options in {
        **DATA_FLAGS,
        "search_space": {"metavar": "NAME", "help": f"search space: {NAMES}"},
        "supernet_path": {"help": "checkpoint of the supernet (default: the data set's, "
                          f"{SUPERNET} for imagenet)"},
        "n_classes": {"type": count(1), "help": "classes (default: the data set's)"},
        "test": {"action": "store_true", "help": "score on the test images"},
        "n_workers": {"type": count(0), "help": "data-loading processes of each evaluation"},
        "vld_batch_size": {"type": count(1), "help": "batch size of validation"},
        "trn_batch_size": {"type": count(1), "help": "batch size of fine-tuning (default: the data "
                           "set's, 128 for imagenet)"},
        "n_epochs": {"type": count(0), "help": "epochs of fine-tuning with a new classifier; 0 "
                     "evaluates the network as it is (default: the data set's, 0 for imagenet and "
                     "digits, else 5)"},
        "cache_dir": {"help": "folder for decoded images (default: $MSUNAS_CACHE or "
                      "~/.cache/msunas)"},
        "cache_gb": {"type": amount, "help": "its greatest size in GiB"},
        "amp": {"action": argparse.BooleanOptionalAction, "help": "mixed precision (default: in "
                "validation, on a GPU with bfloat16)"},
        "runtime": RUNTIME_FLAG,
    }.items()}
