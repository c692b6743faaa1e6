"""Accuracy of a network: cut, (fine-tune,) recalibrate, validate."""

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from typing import Any, Self

import torch
from torch import nn

import networks
import search_space
from cli.progress import progress_bar
from data_providers import DataProvider
from data_providers.table import CALIBRATION_BATCH
from evaluator.base import Evaluator, NetStats, digest_of
from evaluator.costs import Costs, millions, network_costs
from evaluator.layers import config_layers
from evaluator.options import SUPERNET, EvaluationOptions
from evaluator.runtimes import TORCH, choose_runtime, measure_networks
from evaluator.timing import Conditions, Latency, measure_latency
from networks.configs import config_family
from networks.folding import folded, speed_up
from networks.supernet_info import check_classes
from search_space import Arch, SearchSpace
from training.loops import evaluate, fine_tune
from utils.devices import amp_precision, checked_device, evaluation_precision, over_gpus
from utils.errors import UserError
from utils.files import write_json
from utils.invocation import program


class NetEvaluator:
    """Measures any static network on one data set; keeps the images' cache between networks.

    Args:
        options: see `EvaluationOptions`.

    Raises:
        UserError: options that contradict each other or the data set, or a missing device.
    """

    def __init__(self, options: EvaluationOptions) -> None:
        self.options = options
        self.device = evaluation_device(options.device)
        if options.threads:
            torch.set_num_threads(options.threads)
        self.provider = DataProvider.of(
            options, options.n_workers, cache_dir=options.cache_dir, cache_gb=options.cache_gb,
            mean=options.mean, std=options.std, crop_scale=options.crop_scale)
        info = self.provider.info
        info.check_n_classes(options.n_classes)
        self.split = "test" if options.test else "valid"
        self.n_epochs = info.n_epochs if options.n_epochs is None else options.n_epochs
        self.lr, self.trn_batch_size = info.lr, options.trn_batch_size or info.batch_size
        self.amp = evaluation_precision(options.amp, self.device)
        self.tuning_amp = amp_precision(options.amp, self.device)
        self.latency_device = options.latency_device or (
            "cpu" if self.device.type == "cpu" else "gpu")
        self._device_of(self.latency_device)  # early, before the first evaluation

    def score(self, net: networks.StaticNetwork, resolution: int, seed: int | None = None,
              recalibrate: bool = True, batch_scale: float = 1.0) -> NetStats:
        """Returns `loss`, `top1` and `top5` (percent) of a network, which is changed in place.

        With `n_epochs > 0` it gets a new classifier and is fine-tuned. Then, unless `recalibrate`
        is False, its BN statistics are recomputed; see `recalibrate`.

        DEVIATION bn-after-tuning: the original recomputes them before, and keeps the averages that
        the fine-tuning leaves.

        Args:
            net: a static network; moved to the device.
            resolution: height and width of the images in pixels.
            seed: of the new classifier and of dropout; None takes the evaluator's.
            recalibrate: whether to recompute BN statistics of a network that is not fine-tuned.
            batch_scale: shrinks all batches where memory ran out. Validation gives the same result,
                fine-tuning (with the learning rate shrunk alike) and recalibration, whose BN
                statistics come from batches, do not; the result then holds `batch_scale`.

        Raises:
            UserError: the network's classes are not the data set's, and it is not fine-tuned.
        """
        net = net.to(self.device)
        if self.n_epochs:
            self._fine_tune(net, resolution, self.options.seed if seed is None else seed,
                            batch_scale)
        else:
            check_classes("--n_epochs 0", net.classifier.out_features, self.provider.n_classes)
        if self.n_epochs or recalibrate:
            self.recalibrate(net, resolution, batch_scale)
        batches = self.provider.eval_batches(
            self.split, resolution, _scaled(self.options.vld_batch_size, batch_scale),
            device=self.device)
        parallel = over_gpus(folded(net), self.options.gpus, self.amp)
        result = evaluate(parallel, batches, amp=self.amp,
                          progress=progress_bar if self.options.verbose else None)
        stats = {key: result[key] for key in ("loss", "top1", "top5")}
        return stats if batch_scale == 1 else {**stats, "batch_scale": batch_scale}

    def recalibrate(self, net: nn.Module, resolution: int, batch_scale: float = 1.0) -> None:
        """Recomputes the BN statistics of `net` on the data set's calibration images."""
        speed_up(net)
        networks.recalibrate_bn(net, self.provider.calibration_batches(
            resolution, batch_size=_scaled(CALIBRATION_BATCH, batch_scale), device=self.device))

    def evaluate_net(self, net: networks.StaticNetwork, resolution: int,
                     recalibrate: bool = True) -> NetStats:
        """Returns the stats of a static network, as `SupernetEvaluator.evaluate` does of a subnet.

        Arguments and errors are those of `score`.
        """
        measured = self.score(net, resolution, recalibrate=recalibrate)
        return self.stats(network_costs(config_layers(net.config, resolution)), measured,
                          resolution)

    def latencies(self, net: nn.Module, resolution: int,
                  wanted: list[tuple[str, int]] | None = None) -> NetStats:
        """Returns the measured latency in ms by device, the network's state untouched.

        Besides `gpu` and `cpu`, which are means, `latency` holds the median, the distance of the
        quartiles (`iqr`) and the number of samples of each.

        Args:
            net: a static network.
            resolution: height and width of the images in pixels.
            wanted: (`gpu` or `cpu`, batch size) of each; None is the evaluator's own.

        Raises:
            UserError: a GPU is wanted, but none is in use.
        """
        own = [(self.latency_device, self.options.latency_batch_size)]
        measured = {kind: self._latency(net, resolution, batch_size, self._device_of(kind))
                    for kind, batch_size in (own if wanted is None else wanted)}
        if not measured:
            return {}
        return {kind: found.mean for kind, found in measured.items()} | {"latency": {
            kind: {"median": found.median, "iqr": found.iqr, "count": found.count}
            for kind, found in measured.items()}}

    def _latency(self, net: Any, resolution: int, batch_size: int, device: str) -> Latency:
        threads, typed = torch.get_num_threads(), self.options.runtime
        of_timm = config_family(net.config).of_timm  # no row of layers
        runtime = choose_runtime(TORCH if of_timm and typed is None else typed, device)
        if runtime == TORCH:
            return measure_latency(net, resolution, batch_size, device, threads)
        if of_timm:
            raise UserError(f"--runtime {runtime}: the latency of timm's networks is measured with "
                            f"{TORCH}; leave it out")
        layers = config_layers(net.config, resolution)
        return measure_networks([layers], runtime, Conditions(device, threads, batch_size))[0]

    def _device_of(self, kind: str) -> str:
        if kind == "gpu" and self.device.type == "cpu":
            raise UserError("a latency on the GPU cannot be measured: no GPU is in use here; "
                            "choose the cpu, or a machine with a GPU")
        return str(self.device) if kind == "gpu" else "cpu"

    def stats(self, costs: Costs, measured: NetStats, resolution: int) -> NetStats:
        """Returns what a `net.stats` file holds; costs in millions, latencies not measured."""
        return {"params": millions(costs.params), "flops": millions(costs.flops), "gpu": None,
                "cpu": None, **measured, "resolution": resolution,
                "transform": self.provider.info.eval_resize}

    def _fine_tune(self, net: networks.StaticNetwork, resolution: int, seed: int,
                   batch_scale: float) -> None:
        net.set_dropout(self.options.drop_rate)
        net.set_drop_path(self.options.drop_connect_rate)
        networks.replace_classifier(net, self.provider.n_classes,
                                    torch.Generator().manual_seed(seed))
        # DEVIATION last-batch: the original trains on the last batch, too, where it is not full.
        batches = self.provider.train_loader(
            resolution, _scaled(self.trn_batch_size, batch_scale), drop_last=True,
            device=self.device)
        fine_tune(over_gpus(net, self.options.gpus, self.tuning_amp), batches, self.n_epochs,
                  self.lr * batch_scale, amp=self.tuning_amp, seed=seed)


class SupernetEvaluator(NetEvaluator, Evaluator):
    """Answers the jobs of a search with subnets of one supernet.

    Args:
        options: see `EvaluationOptions`; `supernet_path` must be there.

    Raises:
        UserError: as `NetEvaluator` and `networks.load_supernet`; a space without a supernet.
    """

    def __init__(self, options: EvaluationOptions) -> None:
        if options.supernet_path is None:
            raise UserError("an evaluation of subnets needs its supernet: give --supernet_path "
                            f"FILE ({program('train_supernet.py')} makes one)")
        self.supernet = networks.load_supernet(options.supernet_path,
                                               family=search_space.family_of(options.search_space))
        super().__init__(_prepared_as(options, networks.SupernetInfo.of(self.supernet.meta)))
        if not self.n_epochs:
            check_classes(options.supernet_path, self.supernet.classifier.out_features,
                          self.provider.n_classes)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """See `Evaluator.from_options`."""
        return cls(EvaluationOptions.of(options))

    def fingerprint(self) -> str:
        """See `Evaluator.fingerprint`: of the names and labels of the images, and the weights."""
        listed = (self.provider.images(split).listing(str(self.provider.path)).encode()
                  for split in ("train", self.split))
        tensors = self.supernet.state_dict().values()
        return digest_of(chain(listed, (tensor.cpu().flatten().view(torch.uint8).numpy()
                                        for tensor in tensors)))

    def evaluate(self, arch: Arch, *, batch_scale: float = 1.0) -> NetStats:
        """Returns the stats of one architecture; the same for the same seed and architecture.

        Args:
            arch: the architecture dict.
            batch_scale: see `NetEvaluator.score`.

        Raises:
            UserError: an invalid architecture.
        """
        return self.evaluated(arch, batch_scale)[1]

    def evaluated(self, arch: Arch,
                  batch_scale: float = 1.0) -> tuple[networks.StaticNetwork, NetStats]:
        """Returns the network of one architecture as it was measured, and what `evaluate` does."""
        arch = self._checked(arch)
        net = networks.cut_subnet(self.supernet, arch)
        measured = self.score(net, arch["r"], arch_seed(arch, self.options.seed),
                              batch_scale=batch_scale)
        return net, self.stats(self.costs(arch), measured, arch["r"])

    def calibrated(self, arch: Arch) -> networks.StaticNetwork:
        """Returns a subnet with inherited weights and the BN statistics that it is evaluated with.

        Raises:
            UserError: an invalid architecture.
        """
        arch = self._checked(arch)
        net = networks.cut_subnet(self.supernet, arch).to(self.device)
        self.recalibrate(net, arch["r"])
        return net

    def latency(self, arch: Arch) -> NetStats:
        """Returns the measured latency of one architecture in ms, as `{"gpu": ...}` or `cpu`."""
        arch = self._checked(arch)
        return self.latencies(networks.cut_subnet(self.supernet, arch), arch["r"])

    def costs(self, arch: Arch) -> Costs:
        """Returns the exact costs of one architecture with the data set's classifier."""
        return network_costs(self._space(arch).layers(arch, self.provider.n_classes,
                                                      self.supernet.width_mult))

    def _space(self, arch: Arch) -> SearchSpace:
        name, settings = self.options.search_space, self.options.space_options
        return search_space.get_search_space(name, **settings) if settings \
            else search_space.space_of(arch, name)

    def _checked(self, arch: Arch) -> Arch:
        return search_space.check_arch(arch, self._space(arch))


def _prepared_as(options: EvaluationOptions, meta: networks.SupernetInfo) -> EvaluationOptions:
    """Returns the options with how the supernet's own images of this data set were prepared."""
    if options.mean or options.std or meta.dataset != options.dataset:
        return options
    return replace(options, mean=meta.mean, std=meta.std, crop_scale=meta.crop_scale)


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
                 model_path: str = SUPERNET, seed: int = 0) -> None:
        self.engine = networks.load_supernet(model_path, n_classes)
        self._space = search_space.OFASearchSpace(seed=seed)

    def sample(self, config: Arch | None = None) -> tuple[networks.StaticNetwork, Arch]:
        """Returns a subnet with inherited weights, in eval mode, and its architecture.

        Args:
            config: the architecture, its resolution optional; None draws one at random.

        Raises:
            UserError: an invalid architecture.
        """
        (config,) = self._space.sample() if config is None else (config,)
        search_space.check_arch({"r": self._space.resolutions[0], **config}
                                if isinstance(config, dict) else config)
        return networks.cut_subnet(self.engine, config), config

    @staticmethod
    def save_net_config(path: str, net: networks.StaticNetwork, config_name: str = "net.config",
                        **extra: Any) -> None:
        """Writes the layers of `net`, and `extra` (resolution, transform), into folder `path`."""
        networks.write_config(net, os.path.join(path, config_name), **extra)

    @staticmethod
    def save_net(path: str, net: networks.StaticNetwork, model_name: str = "net.init") -> None:
        """Writes the weights of `net` into the folder `path`."""
        networks.save_weights(net, os.path.join(path, model_name))

    @staticmethod
    def eval(subnet: networks.StaticNetwork, data_path: str | None, dataset: str = "imagenet",
             n_epochs: int = 0, resolution: int = 224, trn_batch_size: int | None = None,
             vld_batch_size: int = 200, num_workers: int = 4, valid_size: int | None = None,
             is_test: bool = True, log_dir: str | None = None, measure_latency: str | None = None,
             reset_running_statistics: bool = True, **options: Any) -> NetStats:
        """Measures a network, which is changed in place, and returns its stats.

        Args:
            subnet: a static network.
            data_path, dataset, n_epochs, trn_batch_size, vld_batch_size, num_workers, valid_size,
                is_test, options: see `EvaluationOptions`.
            resolution: height and width of the images in pixels.
            log_dir: a folder where `net.stats` is written; None writes nothing.
            measure_latency: latencies to measure, as `gpu64#cpu`.
            reset_running_statistics: recompute BN statistics.

        Raises:
            UserError: bad options.
        """
        evaluator = NetEvaluator(EvaluationOptions(
            dataset=dataset, data=data_path, n_epochs=n_epochs, trn_batch_size=trn_batch_size,
            vld_batch_size=vld_batch_size, n_workers=num_workers, vld_size=valid_size,
            test=is_test, **options))
        wanted = parse_latency(measure_latency)
        stats = evaluator.evaluate_net(subnet, resolution, reset_running_statistics)
        stats |= evaluator.latencies(subnet, resolution, wanted)
        if log_dir is not None:
            write_json(os.path.join(log_dir, "net.stats"), stats)
        return stats


def parse_latency(text: str | None) -> list[tuple[str, int]]:
    """Returns (device, batch size) of each measurement in `gpu64#cpu`; a missing batch is 1.

    Raises:
        UserError: another device, or no batch size after it.
    """
    wanted = []
    for part in text.split("#") if text else []:
        device, batch = part[:3], part[3:] or "1"
        if device not in ("cpu", "gpu") or not batch.isdecimal() or int(batch) < 1:
            raise UserError(f"latency {part!r}: write cpu or gpu followed by a batch size, "
                            "several joined by #, as gpu64#cpu")
        wanted.append((device, int(batch)))
    return wanted


def arch_seed(arch: Arch, seed: int) -> int:
    """Returns a seed for one architecture, the same on every machine and in every order of jobs."""
    text = json.dumps([seed, {key: arch[key] for key in sorted(arch)}])
    return zlib.crc32(text.encode())


def _scaled(batch_size: int, scale: float) -> int:
    return max(1, round(batch_size * scale))


def evaluation_device(name: str | None) -> torch.device:
    """Returns `utils.devices.checked_device`, with cuDNN set to repeatable results."""
    device = checked_device(name)
    if device.type == "cuda":
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    return device
