"""Accuracy of a network: cut, (fine-tune,) recalibrate, validate."""

import json
import os
import zlib
from typing import Any

import torch
from torch import nn

from data_providers import DataProvider
from evaluator.costs import Costs, millions, network_costs
from evaluator.latency import measure_latency
from evaluator.layers import config_layers
from networks import (
    NSGANetV2,
    cut_subnet,
    load_supernet,
    recalibrate_bn,
    replace_classifier,
    save_weights,
    write_config,
)
from search_space import Arch, OFASearchSpace, check_arch, space_of
from training.loops import evaluate, fine_tune
from utils.devices import checked_device
from utils.errors import UserError
from utils.files import write_json

N_CALIBRATION = 2000
CALIBRATION_BATCH = 200
Stats = dict[str, Any]


class NetEvaluator:
    """Measures any static network on one data set; keeps the images' cache between networks.

    Args:
        dataset: a row of `data_providers.DATASETS`.
        data: its folder; None for those that need none.
        n_classes: must agree with the data set; None takes the data set's.
        vld_size: images split off the training set for validation; None takes the data set's own
            number, and where it has none, scores on the test images.
        test: score on the test images instead.
        n_workers: data-loading processes.
        trn_batch_size, n_epochs: of the fine-tuning; None takes the data set's. 0 epochs leave the
            classifier and the weights as they are.
        vld_batch_size: images in one validation step; it has no influence on the result.
        seed: of the validation split, the images' augmentation, the new classifier, dropout.
        device: `cpu` or `cuda:0`, ...
        gpus: indices of the GPUs that share the batches; fewer than two mean `device` alone.
        cache_dir, cache_gb: folder for decoded images and its greatest size.
        amp: mixed precision: False, `bfloat16`, `float16`, or True for the device's usual one.
        threads: CPU threads; None leaves torch's choice.
        latency_batch_size: images in one pass where a latency is measured.
        latency_device: `cpu` or `gpu`; None is the kind of `device`.

    Raises:
        UserError: options that contradict each other or the data set, or a missing device.
    """

    def __init__(self, *, dataset: str = "imagenet", data: str | None = None,
                 n_classes: int | None = None, vld_size: int | None = None, test: bool = False,
                 n_workers: int = 0, trn_batch_size: int | None = None, vld_batch_size: int = 200,
                 n_epochs: int | None = None, seed: int = 0, device: str = "cpu",
                 gpus: list[int] | None = None, cache_dir: str | None = None,
                 cache_gb: float = 32.0, amp: bool | str = False, threads: int | None = None,
                 latency_batch_size: int = 1, latency_device: str | None = None) -> None:
        self.device = evaluation_device(device)
        self.gpus = gpus or []
        if threads:
            torch.set_num_threads(threads)
        self.provider = DataProvider(dataset, data, vld_size=vld_size, seed=seed,
                                     n_workers=n_workers, cache_dir=cache_dir, cache_gb=cache_gb)
        info = self.provider.info
        info.check_n_classes(n_classes)
        self.split = "test" if test else "valid"
        self.n_epochs = info.n_epochs if n_epochs is None else n_epochs
        self.lr, self.trn_batch_size = info.lr, trn_batch_size or info.batch_size
        self.vld_batch_size, self.seed = vld_batch_size, seed
        self.amp = amp_precision(amp, self.device)
        self.latency_batch_size = latency_batch_size
        self.latency_device = latency_device or ("gpu" if self.device.type == "cuda" else "cpu")
        self._device_of(self.latency_device)  # early, before the first evaluation

    def measure(self, net: nn.Module, resolution: int, seed: int | None = None,
                recalibrate: bool = True, batch_scale: float = 1.0) -> Stats:
        """Returns `loss`, `top1` and `top5` (percent) of a network, which is changed in place.

        With `n_epochs > 0` it gets a new classifier and is fine-tuned. Then, unless `recalibrate`
        is False, its BN statistics are recomputed on 2,000 training images in batches of 200.

        Args:
            net: a static network; moved to the device.
            resolution: height and width of the images in pixels.
            seed: of the new classifier and of dropout; None takes the evaluator's.
            recalibrate: whether to recompute BN statistics of a network that is not fine-tuned.
            batch_scale: shrinks all batches where memory ran out. Validation gives the same result,
                fine-tuning (with the learning rate shrunk alike) and recalibration, whose BN
                statistics come from batches, do not; the result then says `batch_scale`.

        Raises:
            UserError: the network's classes are not the data set's, and it is not fine-tuned.
        """
        net = net.to(self.device)
        if self.n_epochs:
            self._fine_tune(net, resolution, self.seed if seed is None else seed, batch_scale)
        elif net.classifier.out_features != self.provider.n_classes:
            raise UserError(f"the network has {net.classifier.out_features} classes, the data set "
                            f"{self.provider.n_classes}: give it a new classifier with "
                            "--n_epochs 1 or more, or take another supernet")
        if self.n_epochs or recalibrate:
            self.recalibrate(net, resolution, batch_scale)
        batches = self.provider.eval_batches(
            self.split, resolution, _scaled(self.vld_batch_size, batch_scale), device=self.device)
        result = evaluate(self._parallel(net), batches, amp=self.amp)
        stats = {key: result[key] for key in ("loss", "top1", "top5")}
        return stats if batch_scale == 1 else {**stats, "batch_scale": batch_scale}

    def recalibrate(self, net: nn.Module, resolution: int, batch_scale: float = 1.0) -> None:
        """Recomputes the BN statistics of `net` on 2,000 training images in batches of 200."""
        recalibrate_bn(net, self.provider.calibration_batches(
            resolution, N_CALIBRATION, _scaled(CALIBRATION_BATCH, batch_scale),
            device=self.device))

    def evaluate_net(self, net: nn.Module, resolution: int, recalibrate: bool = True) -> Stats:
        """Returns the stats of a static network, as `SupernetEvaluator.evaluate` does of a subnet.

        Arguments and errors are those of `measure`.
        """
        measured = self.measure(net, resolution, recalibrate=recalibrate)
        return self.stats(network_costs(config_layers(net.config, resolution)), measured,
                          resolution)

    def latencies(self, net: nn.Module, resolution: int,
                  wanted: list[tuple[str, int]] | None = None) -> Stats:
        """Returns the measured latency in ms by device, the network's state untouched.

        Args:
            net: a static network.
            resolution: height and width of the images in pixels.
            wanted: (`gpu` or `cpu`, batch size) of each; None is the evaluator's own.

        Raises:
            UserError: a GPU is wanted, but none is in use.
        """
        own = [(self.latency_device, self.latency_batch_size)]
        return {kind: measure_latency(net, resolution, batch_size, self._device_of(kind),
                                      threads=torch.get_num_threads()).mean
                for kind, batch_size in (own if wanted is None else wanted)}

    def _device_of(self, kind: str) -> str:
        if kind == "gpu" and self.device.type != "cuda":
            raise UserError("a latency on the GPU cannot be measured: no GPU is in use here; "
                            "choose the cpu, or a machine with a GPU")
        return str(self.device) if kind == "gpu" else "cpu"

    def stats(self, costs: Costs, measured: Stats, resolution: int) -> Stats:
        """Returns what a `net.stats` file holds; costs in millions, latencies not measured."""
        return {"params": millions(costs.params), "flops": millions(costs.flops), "gpu": None,
                "cpu": None, **measured, "resolution": resolution,
                "transform": self.provider.info.eval_resize}

    def _fine_tune(self, net: nn.Module, resolution: int, seed: int, batch_scale: float) -> None:
        replace_classifier(net, self.provider.n_classes, torch.Generator().manual_seed(seed))
        batches = self.provider.train_loader(
            resolution, _scaled(self.trn_batch_size, batch_scale), drop_last=True,
            device=self.device)
        fine_tune(self._parallel(net), batches, self.n_epochs, self.lr * batch_scale,
                  amp=self.amp, seed=seed)

    def _parallel(self, net: nn.Module) -> nn.Module:
        return nn.DataParallel(net, self.gpus) if len(self.gpus) > 1 else net


class SupernetEvaluator(NetEvaluator):
    """Answers the jobs of a search with subnets of one supernet.

    Args:
        supernet_path: the checkpoint.
        options: see `NetEvaluator`; `oracle_path`, of another evaluator, is ignored.

    Raises:
        UserError: as `NetEvaluator` and `networks.load_supernet`.
    """

    def __init__(self, *, supernet_path: str, oracle_path: str | None = None, **options) -> None:
        self.supernet = load_supernet(supernet_path)
        super().__init__(**options)
        if not self.n_epochs:
            self._check_classes(supernet_path)

    def _check_classes(self, path: str) -> None:
        found = self.supernet.classifier.out_features
        if found != self.provider.n_classes:
            raise UserError(f"{path}: a supernet of {found} classes, but the data set has "
                            f"{self.provider.n_classes}: fine-tune with --n_epochs 1 or more, or "
                            "take another supernet")

    def evaluate(self, arch: Arch, *, batch_scale: float = 1.0) -> Stats:
        """Returns the stats of one architecture; the same for the same seed and architecture.

        Args:
            arch: the architecture dict.
            batch_scale: see `NetEvaluator.measure`.

        Raises:
            UserError: an invalid architecture.
        """
        arch = check_arch(arch)
        net = cut_subnet(self.supernet, arch)
        measured = self.measure(net, arch["r"], arch_seed(arch, self.seed),
                                batch_scale=batch_scale)
        return self.stats(self.costs(arch), measured, arch["r"])

    def calibrated(self, arch: Arch) -> NSGANetV2:
        """Returns a subnet with inherited weights and the BN statistics that it is evaluated with.

        Raises:
            UserError: an invalid architecture.
        """
        net = cut_subnet(self.supernet, check_arch(arch)).to(self.device)
        self.recalibrate(net, arch["r"])
        return net

    def latency(self, arch: Arch) -> Stats:
        """Returns the measured latency of one architecture in ms, as `{"gpu": ...}` or `cpu`."""
        arch = check_arch(arch)
        return self.latencies(cut_subnet(self.supernet, arch), arch["r"])

    def costs(self, arch: Arch) -> Costs:
        """Returns the exact costs of one architecture with the data set's classifier."""
        return network_costs(space_of(arch).layers(arch, self.provider.n_classes,
                                                   self.supernet.width_mult))


class OFAEvaluator:
    """Subnets of a supernet, with the interface of the original program.

    Args:
        n_classes: of the supernet's classifier; None takes the checkpoint's.
        model_path: the supernet's checkpoint.
        seed: of the architectures that `sample` draws.

    Raises:
        UserError: as `networks.load_supernet`.
    """

    def __init__(self, n_classes: int | None = 1000,
                 model_path: str = "./data/ofa_mbv3_d234_e346_k357_w1.0", seed: int = 0) -> None:
        self.engine = load_supernet(model_path, n_classes)
        self._space = OFASearchSpace(seed=seed)

    def sample(self, config: Arch | None = None) -> tuple[NSGANetV2, Arch]:
        """Returns a subnet with inherited weights, in eval mode, and its architecture.

        Args:
            config: the architecture, its resolution optional; None draws one at random.

        Raises:
            UserError: an invalid architecture.
        """
        (config,) = self._space.sample() if config is None else (config,)
        check_arch({"r": self._space.resolutions[0], **config} if isinstance(config, dict)
                   else config)
        return cut_subnet(self.engine, config), config

    @staticmethod
    def save_net_config(path: str, net: nn.Module, config_name: str = "net.config",
                        **extra) -> None:
        """Writes the layers of `net`, and `extra` (resolution, transform), into folder `path`."""
        write_config(net, os.path.join(path, config_name), **extra)

    @staticmethod
    def save_net(path: str, net: nn.Module, model_name: str = "net.init") -> None:
        """Writes the weights of `net` into the folder `path`."""
        save_weights(net, os.path.join(path, model_name))

    @staticmethod
    def eval(subnet: nn.Module, data_path: str | None, dataset: str = "imagenet",
             n_epochs: int = 0, resolution: int = 224, trn_batch_size: int | None = None,
             vld_batch_size: int = 200, num_workers: int = 4, valid_size: int | None = None,
             is_test: bool = True, log_dir: str | None = None, measure_latency: str | None = None,
             reset_running_statistics: bool = True, **options) -> Stats:
        """Measures a network, which is changed in place, and returns its stats.

        Args:
            subnet: a static network.
            data_path, dataset, n_epochs, trn_batch_size, vld_batch_size, num_workers, valid_size,
                is_test, options: see `NetEvaluator`.
            resolution: height and width of the images in pixels.
            log_dir: a folder where `net.stats` is written; None writes nothing.
            measure_latency: latencies to measure, as `gpu64#cpu`.
            reset_running_statistics: recompute BN statistics.

        Raises:
            UserError: bad options.
        """
        evaluator = NetEvaluator(
            dataset=dataset, data=data_path, n_epochs=n_epochs, trn_batch_size=trn_batch_size,
            vld_batch_size=vld_batch_size, n_workers=num_workers, vld_size=valid_size,
            test=is_test, **options)
        wanted = parse_latency(measure_latency)
        stats = evaluator.evaluate_net(subnet, resolution, reset_running_statistics)
        stats |= evaluator.latencies(subnet, resolution, wanted)
        if log_dir is not None:
            write_json(os.path.join(log_dir, "net.stats"), stats)
        return stats


def parse_latency(text: str | None) -> list[tuple[str, int]]:
    """Returns (device, batch size) of each measurement in `gpu64#cpu`; a missing batch is 1.

    Raises:
        UserError: another device, or no batch size behind it.
    """
    wanted = []
    for part in text.split("#") if text else []:
        device, batch = part[:3], part[3:] or "1"
        if device not in ("cpu", "gpu") or not batch.isdecimal() or int(batch) < 1:
            raise UserError(f"latency {part!r}: write cpu or gpu with a batch size behind it, "
                            "several joined by #, as gpu64#cpu")
        wanted.append((device, int(batch)))
    return wanted


def arch_seed(arch: Arch, seed: int) -> int:
    """Returns a seed for one architecture, the same on every machine and in every order of jobs."""
    text = json.dumps([seed, {key: arch[key] for key in sorted(arch)}])
    return zlib.crc32(text.encode())


def _scaled(batch_size: int, scale: float) -> int:
    return max(1, round(batch_size * scale))


def amp_precision(amp: bool | str, device: torch.device) -> str | None:
    """Returns the precision of `--amp`; True means the usual one of the device, None is full."""
    usual = "float16" if device.type == "cuda" else "bfloat16"
    return usual if amp is True else amp or None


def evaluation_device(name: str | None) -> torch.device:
    """Returns `utils.devices.checked_device`, with cuDNN set to repeatable results."""
    device = checked_device(name)
    if device.type == "cuda":
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    return device
