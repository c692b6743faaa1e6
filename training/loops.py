"""The training loop that all scripts share, and the evaluation loop.

Trainings differ in their *objective*: a function `(net, images, targets)` that returns
the losses of one optimiser step as functions without arguments. Plain training has one, a
supernet one for each subnet that it samples; their gradients add up.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from networks.depthwise import NarrowDepthwise
from utils.devices import autocast, device_of, seeded, to_device
from utils.errors import UserError

Batches = Iterable[tuple[Tensor, Tensor]]


class CountedBatches(Protocol):
    """Batches that can be gone through many times, and whose number is known."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...

    def __len__(self) -> int: ...


Loss = Callable[[], Tensor]
Criterion = Callable[[Tensor, Tensor], Tensor]
Objective = Callable[[nn.Module, Tensor, Tensor], Sequence[Loss]]

# What optimisers keep in the shape of the parameter.
PARAMETER_SHAPED = ("momentum_buffer", "exp_avg", "square_avg", "grad_avg", "max_exp_avg_sq")


def evaluate(net: nn.Module, batches: Batches, *, amp: str | None = None,
             progress: Callable[[Batches], Batches] | None = None,
             on_batch: Callable[[Tensor], None] | None = None,
             reduce: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
    """Measures a classifier once over the batches; its training mode is restored afterwards.

    Args:
        net: maps (b, 3, r, r) images to (b, n_classes) logits.
        batches: (images, labels) with (b,) int64 labels, on any device.
        amp: None, or the precision of the forward pass: bfloat16 or float16.
        progress: wraps the batches, as `tqdm` does.
        on_batch: called after each batch with float32 [sum of losses, right in the first, right in
            the first five, images], on the device: reading it waits for the device.
        reduce: sums a (4,) tensor over all processes, where each holds a part of the images.

    Returns:
        `loss` (mean cross-entropy), `top1` and `top5` in percent, `n_images`. With at most five
        classes `top5` is 100.

    Raises:
        ValueError: there is no image.
    """
    device, was_training = device_of(net), net.training
    net.eval().to(memory_format=torch.channels_last)
    parts = []
    for images, labels in progress(batches) if progress else batches:
        labels = labels.to(device, non_blocking=True)
        with torch.inference_mode(), autocast(device, amp):
            logits = net(to_device(images, device))
            parts.append(_batch_sums(logits.float(), labels))
        if on_batch:
            on_batch(parts[-1])
    net.train(was_training)
    sums = torch.stack(parts).cpu().double().sum(0) if parts else torch.zeros(4).double()
    loss, top1, top5, n = (reduce(sums) if reduce else sums).tolist()
    if n == 0:
        raise ValueError("no images to evaluate on")
    return {"loss": loss / n, "top1": 100 * top1 / n, "top5": 100 * top5 / n, "n_images": int(n)}


def _batch_sums(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns float32 [sum of losses, right in the first, right in the first five, images].

    It stays on the device: not every one has float64 (MPS), and reading it would wait for it.
    """
    loss = F.cross_entropy(logits, labels, reduction="sum")
    hits = logits.topk(min(5, logits.shape[1]), dim=1).indices.eq(labels[:, None])
    counts = (loss, hits[:, 0].sum(), hits.sum(), torch.full_like(loss, len(labels)))
    return torch.stack([count.float() for count in counts])


def supervised(criterion: Criterion = F.cross_entropy) -> Objective:
    """Returns the plain objective: one loss against the targets."""
    return lambda net, images, targets: [lambda: criterion(net(images), targets)]


def soft_cross_entropy(logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy of (b, n) logits against the teacher's class probabilities, mean over b.

    Both are divided by the temperature, and the result is multiplied by its square, so that the
    gradients keep their size. Source: Distilling the Knowledge (Hinton et al., 2015).
    """
    targets = (teacher_logits.float() / temperature).softmax(dim=1)
    return F.cross_entropy(logits / temperature, targets) * temperature ** 2


class KeptLogits:
    """A teacher of a training that repeats the same batches after some epochs.

    Args:
        teacher: images -> logits.
        epochs: it is called in so many; its logits are kept in memory. None: it is always called.
    """

    def __init__(self, teacher: Callable[[Tensor], Tensor], epochs: int | None) -> None:
        self.teacher, self.epochs = teacher, epochs
        self._kept: dict[tuple[int, int], Tensor] = {}

    def crops(self, epoch: int) -> int:
        """Returns the epoch whose order and crops `epoch` repeats."""
        return epoch % self.epochs if self.epochs else epoch

    @torch.no_grad()
    def __call__(self, images: Tensor, epoch: int, batch: int) -> Tensor:
        """Returns the logits of a batch of an epoch, on the device of the images."""
        key = self.crops(epoch), batch
        if key in self._kept:
            return self._kept[key].to(images.device)
        logits = self.teacher(images)
        if self.epochs:
            self._kept[key] = logits.cpu()
        return logits


def distilled(teacher: nn.Module, ratio: float = 1.0, criterion: Criterion = F.cross_entropy,
              temperature: float = 1.0) -> Objective:
    """Returns the objective `criterion + ratio * soft cross-entropy to the teacher's output`.

    The teacher sees the same images; it must be in eval mode with calibrated BN statistics.
    """
    def objective(net: nn.Module, images: Tensor, targets: Tensor) -> list[Loss]:
        def loss() -> Tensor:
            with torch.no_grad():
                soft = teacher(images)
            logits = net(images)
            return criterion(logits, targets) \
                + ratio * soft_cross_entropy(logits, soft, temperature)
        return [loss]
    return objective


def train_one_epoch(net: nn.Module, batches: Batches, optimizer: torch.optim.Optimizer, *,
                    objective: Objective | None = None, amp: str | None = None,
                    scaler: torch.amp.GradScaler | None = None,
                    clip_grad: Callable[[], Any] | None = None, accumulate: int = 1,
                    on_step: Callable[[int, Tensor], None] | None = None,
                    after_backward: Callable[[], None] | None = None) -> dict[str, float]:
    """Trains for one pass over the batches.

    Args:
        net: the network, on its device; it is left in training mode. Put it into `channels_last`
            before you wrap it for several processes.
        batches: (images, targets).
        optimizer: of the parameters of `net`.
        objective: see the module's docstring; the default is `supervised()`.
        amp: None, or the precision of the forward pass: bfloat16 or float16.
        scaler: scales the losses, needed with float16.
        clip_grad: called on the unscaled gradients before each optimiser step.
        accumulate: batches for each optimiser step; their gradients are averaged.
        on_step: called after each optimiser step with its number within the epoch (1, 2, ...)
            and the loss, a detached scalar on the device: reading it waits for the device.
        after_backward: called on the gradients before each optimiser step, scaled as they are.

    Returns:
        `loss` (mean over images, all losses of a step added), `n_images`, `seconds`,
        `images_per_s`.
    """
    objective = objective or supervised()
    scaler = scaler or torch.amp.GradScaler(enabled=False)
    device, start = device_of(net), time.perf_counter()
    net.train()
    if not isinstance(net, DistributedDataParallel):  # its buckets keep the layout they began with
        net.to(memory_format=torch.channels_last)
    total, n_images, step = torch.zeros((), device=device), 0, 0
    loss, n_group = torch.zeros((), device=device), 0
    optimizer.zero_grad(set_to_none=True)  # of a group that a stream did not fill
    for (images, targets), size, last in _grouped(batches, accumulate):
        targets = targets.to(device, non_blocking=True)
        losses = objective(net, to_device(images, device), targets)
        loss = loss + add_gradients(net, losses, scaler, amp, size, last)
        n_group += len(images)
        if not last:
            continue
        _update(optimizer, scaler, clip_grad)
        step += 1
        total += loss * n_group
        n_images += n_group
        if on_step:
            on_step(step, loss)
        loss, n_group = torch.zeros((), device=device), 0
    mean_loss, seconds = total.item() / max(n_images, 1), time.perf_counter() - start
    return {"loss": mean_loss, "n_images": n_images, "seconds": seconds,
            "images_per_s": n_images / seconds}


def _grouped(batches: Batches, size: int) -> Iterator[tuple[tuple[Tensor, Tensor], int, bool]]:
    """Yields each batch, the size of its group, and whether it is the group's last one.

    Groups have `size` batches, the last one what is left; none is read before it is needed.
    """
    n = len(batches) if size > 1 else 0  # type: ignore[arg-type]  # more than one: counted batches
    for i, batch in enumerate(batches):
        left = n - (i - i % size)  # a stream may have more batches than its length
        own = min(size, left) if left > 0 else size
        yield batch, own, i % size == own - 1


def add_gradients(net: nn.Module, losses: Sequence[Loss], scaler: torch.amp.GradScaler,
                  amp: str | None = None, divisor: int = 1, last: bool = True) -> Tensor:
    """Adds the gradients of all losses and returns their sum, detached.

    Args:
        net: the network; several processes synchronise once, after the last loss.
        losses: those of one batch.
        scaler: scales the losses.
        amp: None, or the precision of the forward pass.
        divisor: of the losses: the number of batches for one optimiser step.
        last: whether this is the last of these batches.
    """
    device = device_of(net)
    total = torch.zeros((), device=device)
    for i, loss_fn in enumerate(losses, 1):
        synchronise = last and i == len(losses)
        with nullcontext() if synchronise else getattr(net, "no_sync", nullcontext)():
            with autocast(device, amp), \
                    NarrowDepthwise() if device.type == "cpu" else nullcontext():
                loss = loss_fn() / divisor
            scaler.scale(loss).backward()
        total = total + loss.detach()
    return total


def _update(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler,
            clip_grad: Callable[[], Any] | None) -> None:
    if clip_grad:
        scaler.unscale_(optimizer)
        clip_grad()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)


def check_loss(loss: float, where: str, advice: str) -> None:
    """Raises UserError where a training has diverged.

    Args:
        loss: a mean over all processes, so that all of them stop.
        where: such as `epoch 3`.
        advice: what to do.
    """
    if not math.isfinite(loss):
        raise UserError(f"the loss is not finite in {where}: the training diverged; {advice}")


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads the state of an optimiser from a file that may be anything.

    Raises:
        ValueError: buffers that do not fit their parameters, or a setting that is no number; or
            whatever torch raises for a state of another form (LookupError, TypeError,
            AttributeError).
    """
    settings = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for before, group in zip(settings, optimizer.param_groups, strict=True):
        for name, value in before.items():
            if isinstance(value, float) and not isinstance(group.get(name), float | int):
                raise ValueError(f"{name} is no number")
    for parameter, buffers in optimizer.state.items():
        for name in PARAMETER_SHAPED:
            buffer = buffers.get(name)
            if buffer is not None and getattr(buffer, "shape", None) != parameter.shape:
                raise ValueError(f"{name} does not have the shape {tuple(parameter.shape)} of its "
                                 "parameter")


def cosine(step: int, n_steps: int) -> float:
    """Returns the factor of the learning rate after `step` of `n_steps`: from 1 down to 0."""
    return 0.5 * (1 + math.cos(math.pi * step / max(n_steps, 1)))


def fine_tune(net: nn.Module, batches: CountedBatches, epochs: int, lr: float, *,
              amp: str | None = None, seed: int = 0) -> list[dict[str, float]]:
    """Trains with SGD and a cosine schedule by steps: the short training of an evaluation.

    The momentum is Nesterov's, as in Once-for-All and the original.

    Args:
        net: the network, on its device; changed in place and left in eval mode.
        batches: (images, labels), iterated once for each epoch, with `len`; where it has
            `set_epoch`, that is called with 0, 1, ... first.
        epochs: passes over the batches; 0 does nothing.
        lr: the initial learning rate.
        amp: None, bfloat16 or float16.
        seed: of dropout and drop path.

    Returns:
        What `train_one_epoch` returns, for each epoch.

    Raises:
        UserError: the loss is not finite.
    """
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr, momentum=0.9, weight_decay=4e-5, nesterov=True)
    n_steps = epochs * len(batches)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine(step, n_steps))
    scaler = torch.amp.GradScaler(device_of(net).type, enabled=amp == "float16")
    history = []
    with seeded(seed):
        for epoch in range(epochs):
            if hasattr(batches, "set_epoch"):
                batches.set_epoch(epoch)
            history.append(train_one_epoch(
                net, batches, optimizer, amp=amp, scaler=scaler,
                on_step=lambda *_: schedule.step()))
            check_loss(history[-1]["loss"], f"epoch {epoch} of the fine-tuning",
                       f"the learning rate {lr:g} is too large")
    net.eval()
    return history


class Mirrored(nn.Module):
    """A classifier whose logits are the means over each image and its mirror image.

    Args:
        net: maps (b, 3, r, r) images to (b, n_classes) logits.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Returns (b, n_classes) logits of (b, 3, r, r) images."""
        return (self.net(images) + self.net(images.flip(-1))) / 2
