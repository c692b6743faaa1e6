"""A training run from its first epoch to its last: optimiser, schedule, averaging, precision.

The parts are timm's; what is written here joins them. Used by train_imagenet.py and
train_cifar.py; the epochs themselves are `training.loops.train_one_epoch`.
"""

import argparse
import ast
import copy
import logging
import math
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, cast

import torch
from timm.optim import create_optimizer_v2, optimizer_kwargs
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.utils import ModelEmaV3, dispatch_clip_grad, random_seed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from networks.checkpoints import load_state
from training import loops
from training.checkpoints import plain_part
from training.flags import LR_BASE, LR_BATCH
from training.world import World
from utils.devices import amp_precision, device_of
from utils.errors import UserError

log = logging.getLogger("train")

# The distance between the seeds of two epochs: more than there are processes.
SEED_STRIDE = 100_003
# The state of the schedule `plateau`; the other schedules depend on the epoch alone.
PLATEAU_STATE = ("best", "last_epoch", "num_bad_epochs", "cooldown_counter")

# The layers of --layer-decay: the first convolution, each block, and all behind the blocks.
LAYERS = {"stem": r"^(?:first_conv|stem)", "blocks": r"^blocks\.(\d+)"}

Evaluation = Callable[[nn.Module], dict[str, float]]


class Run:
    """A network in training: optimiser, schedule, scaler, averaged weights.

    Args:
        args: the flags of `training.flags.add_optimisation_flags` and `add_run_flags`.
        net: the network; it moves to the device.
        world: the processes.
        n_batches: batches of each epoch and process.

    Raises:
        UserError: flags that do not go together, or that the optimiser does not take.
    """

    def __init__(self, args: argparse.Namespace, net: nn.Module, world: World,
                 n_batches: int) -> None:
        self.args, self.world = with_lr(args, world), world
        args = self.args
        fast_at_a_fixed_size(world.device)
        if args.sync_bn and world.device.type != "cuda":
            raise UserError("--sync-bn works on GPUs only; leave it out")
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net) if args.sync_bn else net
        self.net = net.to(world.device).to(memory_format=torch.channels_last)
        self.updates_per_epoch = math.ceil(n_batches / args.grad_accum_steps)
        self.optimizer = self._optimizer()
        self.scheduler, self.n_epochs = create_scheduler_v2(
            self.optimizer, **schedule_options(args), updates_per_epoch=self.updates_per_epoch)
        self.amp = amp_precision(args.amp and (args.amp_dtype or True), world.device)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=self.amp == "float16")
        self.ema = None if not args.model_ema else ModelEmaV3(
            self.net, decay=args.model_ema_decay, use_warmup=args.model_ema_warmup,
            device=torch.device("cpu") if args.model_ema_force_cpu else None)
        self.start_epoch = args.start_epoch or 0
        self._go_to_start()

    @cached_property
    def trained(self) -> nn.Module:
        """The network as it is trained: shared between processes, compiled."""
        net, device = self.net, self.world.device
        if self.world.size > 1:
            net = DistributedDataParallel(
                net, device_ids=None if device.type == "cpu" else [device],
                forward_sync_buffers=not self.args.no_ddp_bb)
        if self.args.torchcompile:
            return cast(nn.Module, torch.compile(net, backend=self.args.torchcompile,
                                                 mode=self.args.torchcompile_mode))
        return net

    @property
    def best(self) -> nn.Module:
        """The network that counts: the averaged one where there is one."""
        return self.ema.module if self.ema else self.net

    def evaluate(self, net: nn.Module, batches: loops.Batches) -> dict[str, float]:
        """Returns the figures of a network, of which each process evaluates its own batches."""
        return loops.evaluate(net, batches, amp=self.amp, reduce=self.world.sum,
                              progress=self.world.progress)

    def placed(self, net: nn.Module) -> nn.Module:
        """Returns a network on this process's device: itself, or a copy of it."""
        if device_of(net) == device_of(self.net):
            return net
        return copy.deepcopy(net).to(device_of(self.net))

    def state(self) -> dict[str, Any]:
        """Returns what `resume` needs, tensors and plain Python."""
        state = {"arch": self.args.model, "version": 2, "state_dict": self.net.state_dict(),
                 "optimizer": self.optimizer.state_dict(), "amp_scaler": self.scaler.state_dict(),
                 "lr_scheduler": self._schedule_state(), "args": plain_part(vars(self.args))}
        return state | ({"state_dict_ema": self.ema.module.state_dict()} if self.ema else {})

    def resume(self, state: dict[str, Any], source: str) -> None:
        """Continues from a checkpoint.

        Weights, averages and the optimiser's buffers are the checkpoint's. Learning rate, weight
        decay and all other settings are those of the flags: a run may continue with other ones,
        for more epochs, or on another number of processes.

        Args:
            state: what `state` returned, with the epoch.
            source: the file's name for messages.

        Raises:
            UserError: weights of another network, or an optimiser of another kind.
        """
        load_state(self.net, state.get("state_dict", {}), source)
        if self.args.start_epoch is None:
            self.start_epoch = state["epoch"] + 1
        if self.ema:
            load_state(self.ema.module, state.get("state_dict_ema", state["state_dict"]), source)
        try:
            if not self.args.no_resume_opt:
                self._resume_optimizer(state)
            self._go_to_start()
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            raise UserError(f"{source}: its optimiser or schedule is another than --opt "
                            f"{self.args.opt} --sched {self.args.sched}: {error}; use "
                            "--no-resume-opt") from None

    def train_one_epoch(self, epoch: int, batches: loops.Batches, objective: loops.Objective,
                        on_step: Callable[[int, Tensor], None]) -> dict[str, float]:
        """Trains an epoch, whose randomness comes from the seed and its number alone.

        Raises:
            UserError: the loss is not finite.
        """
        random_seed(epoch_seed(self.args.seed, epoch), self.world.rank)
        before = epoch * self.updates_per_epoch

        def after_step(step: int, loss: Tensor) -> None:
            if self.ema:
                self.ema.update(self.net, step=before + step)
            on_step(step, loss)
            self.scheduler.step_update(before + step)

        figures = loops.train_one_epoch(
            self.trained, batches, self.optimizer, objective=objective, amp=self.amp,
            scaler=self.scaler, clip_grad=self._clip(), accumulate=self.args.grad_accum_steps,
            on_step=after_step)
        self.world.share_bn(self.net, self.args.dist_bn)
        if self.ema:
            self.world.share_bn(self.ema.module, self.args.dist_bn)
        loss = self.world.sum(torch.tensor(figures["loss"])).item() / self.world.size
        loops.check_loss(loss, f"epoch {epoch}", "choose a smaller --lr, or --amp-dtype bfloat16")
        return {"loss": loss, "images_per_s": figures["images_per_s"] * self.world.size}

    def _optimizer(self) -> torch.optim.Optimizer:
        options = optimizer_kwargs(self.args) | read_options(self.args.opt_kwargs)
        if self.args.layer_decay and not hasattr(self.net, "group_matcher"):
            self.net.group_matcher = lambda coarse=False: LAYERS  # where timm looks for it
        try:  # DEVIATION weight-decay: train_cifar.py's decays biases and batch norm, too
            return create_optimizer_v2(self.net, **options)
        except (ValueError, TypeError) as error:
            raise UserError(f"--opt {self.args.opt}: {error}") from None

    def _clip(self) -> Callable[[], None] | None:
        """Returns what clips the gradients; agc leaves the classifier alone, as its authors do."""
        if self.args.clip_grad is None:
            return None
        agc = self.args.clip_mode == "agc"
        clipped = [parameter for name, parameter in self.net.named_parameters()
                   if not (agc and name.startswith("classifier."))]
        return partial(dispatch_clip_grad, clipped, self.args.clip_grad, self.args.clip_mode)

    def _go_to_start(self) -> None:
        """Sets the learning rate of the first step; `plateau` has it in the optimiser."""
        if self.start_epoch:
            if self.args.sched != "plateau" or self.start_epoch <= self.scheduler.warmup_t:
                self.scheduler.step(self.start_epoch)
            self.scheduler.step_update(self.start_epoch * self.updates_per_epoch)

    def _schedule_state(self) -> dict[str, Any]:
        if self.args.sched == "plateau":
            return {key: getattr(self.scheduler.lr_scheduler, key) for key in PLATEAU_STATE}
        return cast(dict[str, Any], plain_part(self.scheduler.state_dict()))

    def _resume_optimizer(self, state: dict[str, Any]) -> None:
        flags = [{key: value for key, value in group.items() if key != "params"}
                 for group in self.optimizer.param_groups]
        loops.load_optimizer(self.optimizer, state["optimizer"])
        self.scaler.load_state_dict(state["amp_scaler"] if self.scaler.is_enabled() else {})
        own = self._schedule_state()
        saved = state.get("lr_scheduler", own)
        if not _same_form(saved, own):
            raise ValueError("the schedule has other parts")
        plateau = self.args.sched == "plateau"
        for group, settings in zip(self.optimizer.param_groups, flags, strict=True):
            group.update(settings if not plateau else settings | {"lr": group["lr"]})
        if plateau:
            vars(self.scheduler.lr_scheduler).update(saved)


def schedule_options(args: argparse.Namespace) -> dict[str, Any]:
    """Returns timm's options of a schedule; `constant`, which older ones lack, decays by 1."""
    constant = {"sched": "step", "decay_rate": 1.0} if args.sched == "constant" else {}
    return scheduler_kwargs(args) | constant


def with_lr(args: argparse.Namespace, world: World) -> argparse.Namespace:
    """Returns the flags with a learning rate: by the rule of thumb where none is given."""
    if args.lr is not None:
        return args
    images = args.batch_size * world.size * args.grad_accum_steps
    lr = images / LR_BATCH * LR_BASE
    log.info("learning rate %.5g by the rule of thumb: %d images a step / %d x %g", lr, images,
             LR_BATCH, LR_BASE)
    return argparse.Namespace(**vars(args) | {"lr": lr})


def epoch_seed(seed: int, epoch: int) -> int:
    """Returns the seed of an epoch, small enough that a rank can be added: numpy takes 32 bits."""
    return (seed + SEED_STRIDE * epoch) % (2**32 - 2**16)


def fast_at_a_fixed_size(device: torch.device) -> None:
    """Lets a GPU choose its fastest convolutions, in TF32 where it is supported.

    All batches of a training have one size. Sums are no longer the same to the last bit.
    """
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True


def read_options(pairs: list[str] | None) -> dict[str, Any]:
    """Returns the values of `key=value` texts, numbers and booleans as such, the rest as text.

    Raises:
        UserError: a text without `=`.
    """
    options: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UserError(f"--opt-kwargs {pair}: write key=value, such as nesterov=True")
        try:
            options[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            options[key] = text
    return options


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
