"""A training run from its first epoch to its last: processes, averaging, checkpoints, logs.

The parts are timm's; what is written here joins them. Used by train_imagenet.py and
train_cifar.py; the epochs themselves are `training.loops.train_one_epoch`.
"""

import argparse
import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from timm.optim import create_optimizer_v2, optimizer_kwargs
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.utils import (
    CheckpointSaver,
    ModelEmaV3,
    dispatch_clip_grad,
    distribute_bn,
    random_seed,
    reduce_tensor,
    setup_default_logging,
    trim_summary,
    update_summary,
)
from timm.utils.distributed import init_distributed_device_so
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter

from cli.scripts import EXIT_BAD_INPUT
from training.loops import Batches, Objective, load_optimizer, train_one_epoch
from utils.devices import checked_device, default_device
from utils.errors import UserError
from utils.files import atomic_path, write_text

log = logging.getLogger("train")

# Seeds of two epochs lie further apart than there are processes.
SEED_STRIDE = 100_003


class World(NamedTuple):
    """The processes of a run: the device of this one, its rank, and how many there are."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def primary(self) -> bool:
        """Whether this is the process that writes and logs."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Returns the sum of a CPU tensor over all processes, on the CPU."""
        if self.size == 1:
            return tensor
        return reduce_tensor(tensor.to(self.device), 1).cpu()


def lone_world(device: str | None) -> World:
    """Returns a world of this process alone."""
    return World(torch.device(default_device(device)))


def check_devices(n_processes: int, device: str | None) -> None:
    """Raises UserError for no such device, or fewer GPUs than it is to run processes on."""
    if device:
        checked_device(device)
    if default_device(device).startswith("cuda") and n_processes > torch.cuda.device_count():
        raise UserError(f"{n_processes} processes for {torch.cuda.device_count()} GPUs; start at "
                        "most one for each, or add --device cpu")


@contextmanager
def processes(device: str | None, threads: int | None) -> Iterator[World]:
    """Joins the processes that torchrun started, or stands alone; leaves them at the end.

    Only the first process says what is wrong with the input; the others end with its exit code.
    """
    if threads:
        torch.set_num_threads(threads)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    try:
        check_devices(local, device)
        world = init_distributed_device_so(default_device(device))
        yield World(torch.device(world["device"]), world["global_rank"], world["world_size"])
    except UserError:
        if os.environ.get("RANK", "0") != "0":
            raise SystemExit(EXIT_BAD_INPUT) from None
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


class AtomicSaver(CheckpointSaver):
    """timm's checkpoints: last, best and top-k; each is complete or absent, whenever killed.

    They hold tensors and plain Python alone, so that `weights_only=True` reads them.

    Args:
        run: its `state()` is what a checkpoint holds.
        folder: where they lie.
        history: how many of the best are kept.
        decreasing: whether a smaller metric is better.
    """

    def __init__(self, run: "Run", folder: Path, history: int, decreasing: bool) -> None:
        super().__init__(run.net, run.optimizer, checkpoint_dir=str(folder),
                         recovery_dir=str(folder), max_history=history, decreasing=decreasing)
        self.run = run

    def _save(self, save_path: str, epoch: int, metric: float | None = None) -> None:
        # A recovery has no metric: the epoch that it stopped in is done again.
        done = epoch if metric is not None else epoch - 1
        with atomic_path(save_path) as temporary:
            torch.save({**self.run.state(), "epoch": done, "metric": metric,
                        "saver": self.state_dict(epoch, metric)}, temporary)

    def _replace(self, src: str, dst: str) -> None:
        os.replace(src, dst)

    def _duplicate(self, src: str, dst: str) -> None:
        link = f"{dst}.{os.getpid()}.link"
        os.link(src, link)
        os.replace(link, dst)


class Run:
    """A network in training: optimiser, schedule, scaler, averaged weights.

    Args:
        args: the flags of `training.flags.add_optimisation_flags` and `add_run_flags`; `lr` is set.
        net: the network; it moves to the device.
        world: the processes.
        n_batches: batches of each epoch and process.
    """

    def __init__(self, args: argparse.Namespace, net: nn.Module, world: World,
                 n_batches: int) -> None:
        self.args, self.world = args, world
        if args.sync_bn and world.device.type != "cuda":
            raise UserError("--sync-bn works on GPUs only; leave it away")
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net) if args.sync_bn else net
        self.net = net.to(world.device, memory_format=torch.channels_last)
        self.updates_per_epoch = math.ceil(n_batches / args.grad_accum_steps)
        self.optimizer = self._optimizer()
        self.scheduler, self.n_epochs = create_scheduler_v2(
            self.optimizer, **scheduler_kwargs(args), updates_per_epoch=self.updates_per_epoch)
        self.amp = precision(args, world.device)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=self.amp == "float16")
        self.ema = None if not args.model_ema else ModelEmaV3(
            self.net, decay=args.model_ema_decay, use_warmup=args.model_ema_warmup,
            device=torch.device("cpu") if args.model_ema_force_cpu else None)
        self.start_epoch = 0

    @cached_property
    def trained(self) -> nn.Module:
        """The network as it is trained: shared between processes, compiled."""
        net, device = self.net, self.world.device
        if self.world.size > 1:
            net = DistributedDataParallel(
                net, device_ids=[device] if device.type == "cuda" else None,
                forward_sync_buffers=not self.args.no_ddp_bb)
        return torch.compile(net, backend=self.args.torchcompile) if self.args.torchcompile else net

    @property
    def best(self) -> nn.Module:
        """The network that counts: the averaged one where there is one."""
        return self.ema.module if self.ema else self.net

    def state(self) -> dict[str, Any]:
        """Returns what `resume` needs, tensors and plain Python."""
        state = {"arch": self.args.model, "version": 2, "state_dict": self.net.state_dict(),
                 "optimizer": self.optimizer.state_dict(), "amp_scaler": self.scaler.state_dict(),
                 "lr_scheduler": _plain(self.scheduler.state_dict()),
                 "args": _plain(vars(self.args))}
        return state | ({"state_dict_ema": self.ema.module.state_dict()} if self.ema else {})

    def resume(self, state: dict[str, Any], source: str,
               load: Callable[[nn.Module, Any, str], None]) -> None:
        """Goes on from a checkpoint.

        Args:
            state: what `state` returned, with the epoch.
            source: the file's name for messages.
            load: loads a state dict into a network, strictly: `networks.load_state`.

        Raises:
            UserError: weights of another network, or an optimiser of another kind.
        """
        load(self.net, state.get("state_dict", {}), source)
        self.start_epoch = state["epoch"] + 1
        if self.ema:
            load(self.ema.module, state.get("state_dict_ema", state["state_dict"]), source)
        try:
            if not self.args.no_resume_opt:
                load_optimizer(self.optimizer, state["optimizer"])
                self.scaler.load_state_dict(state["amp_scaler"] if self.scaler.is_enabled() else {})
                fresh = _plain(self.scheduler.state_dict())
                if not _same_form(state.get("lr_scheduler", fresh), fresh):
                    raise ValueError("the schedule has other parts")
                self.scheduler.load_state_dict(state.get("lr_scheduler", {}))
            self.scheduler.step(self.start_epoch)
            self.scheduler.step_update(self.start_epoch * self.updates_per_epoch)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            raise UserError(f"{source}: its optimiser or schedule is another than --opt "
                            f"{self.args.opt} --sched {self.args.sched}: {error}; use "
                            "--no-resume-opt") from None

    def train_one_epoch(self, epoch: int, batches: Batches, objective: Objective,
                        on_step: Callable[[int, Tensor], None]) -> dict[str, float]:
        """Trains an epoch, whose randomness comes from the seed and its number alone.

        Raises:
            UserError: the loss is not finite.
        """
        random_seed(self.args.seed + SEED_STRIDE * epoch, self.world.rank)
        before = epoch * self.updates_per_epoch

        def after_step(step: int, loss: Tensor) -> None:
            if self.ema:
                self.ema.update(self.net, step=before + step)
            on_step(step, loss)
            self.scheduler.step_update(before + step)

        figures = train_one_epoch(
            self.trained, batches, self.optimizer, objective=objective, amp=self.amp,
            scaler=self.scaler, clip_grad=self._clip(), accumulate=self.args.grad_accum_steps,
            on_step=after_step)
        if self.world.size > 1 and self.args.dist_bn:
            distribute_bn(self.net, self.world.size, self.args.dist_bn == "reduce")
            if self.ema:
                distribute_bn(self.ema.module, self.world.size, self.args.dist_bn == "reduce")
        loss = self.world.sum(torch.tensor(figures["loss"])).item() / self.world.size
        if not math.isfinite(loss):
            raise UserError(f"the loss is not finite in epoch {epoch}; choose a smaller --lr, or "
                            "--amp-dtype bfloat16")
        return {"loss": loss, "images_per_s": figures["images_per_s"] * self.world.size}

    def _optimizer(self) -> torch.optim.Optimizer:
        try:
            return create_optimizer_v2(self.net, **optimizer_kwargs(self.args))
        except (ValueError, TypeError) as error:
            raise UserError(f"--opt {self.args.opt}: {error}") from None

    def _clip(self) -> Callable[[], None] | None:
        if self.args.clip_grad is None:
            return None
        return partial(dispatch_clip_grad, list(self.net.parameters()), self.args.clip_grad,
                       self.args.clip_mode)


class Output:
    """The files of a run: args.yaml, summary.csv, train.log, checkpoints, TensorBoard scalars.

    Args:
        run: the run.
        folder: where they lie; None keeps nothing.
        on_best: called with the network and the folder whenever it is the best so far.
        history: `saver` of the checkpoint that the run goes on from: the best so far.
    """

    def __init__(self, run: Run, folder: Path | None,
                 on_best: Callable[[nn.Module, Path], None],
                 history: dict[str, Any] | None = None) -> None:
        self.run, self.folder, self.on_best = run, folder, on_best
        self.metric = run.args.eval_metric
        self.saver = self.board = None
        if folder and run.world.primary:
            self._prepare(folder)
            self.saver = AtomicSaver(run, folder, run.args.checkpoint_hist, self.metric == "loss")
            if history:
                self.saver.load_state_dict(history)
            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=run.start_epoch)
            trim_summary(str(folder / "summary.csv"), run.start_epoch)

    def _prepare(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in [*folder.glob(".*.tmp"), *folder.glob("*.link")]:  # of a killed process
            leftover.unlink()
        log.addHandler(logging.FileHandler(folder / "train.log"))
        text = yaml.safe_dump(_plain(vars(self.run.args)), sort_keys=False)
        write_text(folder / "args.yaml", text)

    def on_step(self, epoch: int, step: int, loss: Tensor) -> None:
        """Logs every now and then, and writes a recovery checkpoint."""
        args, total = self.run.args, self.run.updates_per_epoch
        if not self.run.world.primary:
            return
        if step % args.log_interval == 0 or step == total:
            lr = self.run.optimizer.param_groups[0]["lr"]
            log.info("epoch %d step %d/%d: loss %.4f, lr %.3e", epoch, step, total, loss.item(), lr)
        if self.saver and args.recovery_interval and step % args.recovery_interval == 0:
            self.saver.save_recovery(epoch, step)

    def on_epoch(self, epoch: int, train: dict[str, float], evaluation: dict[str, float],
                 lr: float) -> None:
        """Writes everything about a finished epoch."""
        if not self.run.world.primary:
            return
        text = ", ".join(f"{key} {value:.4f}" for key, value in evaluation.items())
        log.info("epoch %d: train loss %.4f, %.1f images/s; evaluation: %s", epoch, train["loss"],
                 train["images_per_s"], text)
        if self.saver is None:
            return
        update_summary(epoch, train, evaluation, str(self.folder / "summary.csv"), lr=lr)
        for kind, values in (("train", train), ("eval", evaluation), ("", {"lr": lr})):
            for key, value in values.items():
                self.board.add_scalar(f"{kind}/{key}".strip("/"), value, epoch)
        self.board.flush()
        best, best_epoch = self.saver.save_checkpoint(epoch, evaluation[self.metric])
        if best_epoch == epoch:
            self.on_best(self.run.best, self.folder)
        log.info("best %s: %.4f (epoch %d)", self.metric, best, best_epoch)

    def close(self) -> None:
        """Flushes the TensorBoard scalars."""
        if self.board:
            self.board.close()


def fit(run: Run, batches: Batches, objective: Objective,
        evaluate: Callable[[nn.Module], dict[str, float]], output: Output,
        set_epoch: Callable[[int], None]) -> None:
    """Trains to the last epoch; after each, evaluates and writes.

    Args:
        run: what is trained.
        batches: one pass is an epoch.
        objective: see `training.loops`.
        evaluate: returns `loss`, `top1`, `top5` of a network over all processes.
        output: the files.
        set_epoch: told the epoch before each pass.
    """
    for epoch in range(run.start_epoch, run.n_epochs):
        set_epoch(epoch)
        lr = run.optimizer.param_groups[0]["lr"]
        train = run.train_one_epoch(epoch, batches, objective, partial(output.on_step, epoch))
        evaluation = _without_count(evaluate(run.best))
        if run.ema:
            plain = _without_count(evaluate(run.net))
            evaluation |= {f"{key}_plain": value for key, value in plain.items()}
        output.on_epoch(epoch, train, evaluation, lr)
        run.scheduler.step(epoch + 1, evaluation[run.args.eval_metric])
    output.close()


def precision(args: argparse.Namespace, device: torch.device) -> str | None:
    """Returns the dtype of --amp by name, or None without it."""
    default = "float16" if device.type == "cuda" else "bfloat16"
    return (args.amp_dtype or default) if args.amp else None


def output_folder(args: argparse.Namespace, root: str, name: str) -> Path:
    """Returns the folder of a run: that of --resume, or a new one below `root`.

    Raises:
        UserError: the folder that --resume names is not there.
    """
    if args.resume:
        return Path(args.resume).parent
    return Path(root) / f"{datetime.now():%Y%m%d-%H%M%S}-{name}"


def start_logging(world: World) -> None:
    """Lets the first process log to stderr; the others stay quiet."""
    if not world.primary:
        logging.disable(logging.WARNING)
        return
    setup_default_logging()
    logging.getLogger("timm").setLevel(logging.WARNING)


def _without_count(figures: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in figures.items() if key != "n_images"}


def _same_form(value: Any, model: Any) -> bool:
    """Whether plain Python of a file has the keys, lengths and kinds of values of `model`."""
    if isinstance(model, dict):
        return (isinstance(value, dict) and value.keys() == model.keys()
                and all(_same_form(value[key], model[key]) for key in model))
    if isinstance(model, list | tuple):
        return (isinstance(value, list | tuple) and len(value) == len(model)
                and all(map(_same_form, value, model)))
    if isinstance(model, float | int):
        return isinstance(value, float | int)
    return model is None or isinstance(value, type(model))


def _plain(value: Any) -> Any:
    """Returns the part of a value that is plain Python: what YAML and safe checkpoints hold."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if _is_plain(item)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value if _is_plain(item)]
    return value


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list | tuple | dict)
