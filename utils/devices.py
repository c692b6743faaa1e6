"""Devices, precision and random state of torch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import UserError, warn

AMP_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def default_device(name: str | None) -> str:
    """Returns `name`, or for None the accelerator that is there (`cuda`, `xpu`, `mps`), or `cpu`.

    AMD GPUs are called `cuda` by torch.
    """
    if name:
        return name
    accelerator = torch.accelerator.is_available() and torch.accelerator.current_accelerator()
    return accelerator.type if accelerator else "cpu"


def device_count(kind: str) -> int:
    """Returns how many devices of a kind, such as `cuda`, this machine has."""
    if kind == "cpu":
        return 1
    try:
        return int(torch.get_device_module(kind).device_count())
    except (RuntimeError, AttributeError):  # a kind that this build of torch does not know
        return 0


def synchronize(device: torch.device) -> None:
    """Waits until an accelerator has finished its work; a CPU always has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def peak_memory(device: torch.device) -> int | None:
    """Returns the most bytes that this process has had so far: of the device's memory, or of RAM.

    None where the device or the system does not count them (macOS and Windows: RAM).
    """
    if device.type != "cpu":
        count = getattr(torch.get_device_module(device), "max_memory_allocated", None)
        return int(count(device)) if count else None
    with suppress(OSError, IndexError, ValueError):
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    return None


def as_current(device: torch.device) -> Any:
    """Returns a context in which the accelerator is the current one; MPS has one alone."""
    enter = getattr(torch.get_device_module(device), "device", None)
    return enter(device) if enter else nullcontext()


def copies_alongside(device: Any) -> bool:
    """Whether a device (None: no device) copies from page-locked memory while it computes."""
    return device is not None and torch.device(device).type in ("cuda", "xpu")


def widest_float(device: torch.device) -> torch.dtype:
    """Returns float64, or float32 for devices of which some have nothing wider (MPS, XPU)."""
    return torch.float64 if device.type in ("cpu", "cuda") else torch.float32


def checked_device(name: str | None) -> torch.device:
    """Returns the device called `default_device(name)`.

    Raises:
        UserError: there is no such device here, or it holds no data.
    """
    name = default_device(name)
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:  # torch raises both for a missing device
        reason = str(error).splitlines()[0]
        raise UserError(f"the device {name!r} cannot be used: {reason}; choose cpu or cuda:0, "
                        "...") from None
    return device


def device_of(net: nn.Module) -> torch.device:
    """Returns the device that the network's parameters are on."""
    return next(net.parameters()).device


def to_device(images: Tensor, device: torch.device) -> Tensor:
    """Moves (b, 3, h, w) images to the device in the memory format that convolutions run best in.

    On two CPU cores `channels_last` made a supernet at 32 pixels four times faster.
    """
    return images.to(device, memory_format=torch.channels_last, non_blocking=True)


def amp_precision(amp: bool | str | None, device: torch.device) -> str | None:
    """Returns the name of the precision for `amp`; None is full precision.

    True means the usual one of the device: float16 on GPUs, bfloat16 on CPUs.
    """
    usual = "float16" if device.type == "cuda" else "bfloat16"
    chosen = usual if amp is True else amp or None
    warn_if_slow(chosen, device)
    return chosen


def warn_if_slow(amp: str | None, device: torch.device) -> None:
    """Prints a warning where mixed precision is slow: on processors without its format."""
    if amp == "bfloat16" and device.type == "cpu" and not _processor_has_bfloat16():
        warn("this processor has no instructions for bfloat16: mixed precision is much slower here "
             "than full precision")


def _processor_has_bfloat16() -> bool:
    """By oneDNN; True where torch is built without it."""
    return not torch.backends.mkldnn.is_available() \
        or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def evaluation_precision(amp: bool | str | None, device: torch.device) -> str | None:
    """Returns the precision of an evaluation: as `amp_precision`, but None leaves it to the device.

    That is bfloat16 on a GPU that has it, where top-1 is that of float32 within the noise
    (`benchmarks/results/precision.md`), and full precision elsewhere.
    """
    if amp is not None:
        return amp_precision(amp, device)
    has_bfloat16 = device.type == "xpu" or (
        device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False))
    return "bfloat16" if has_bfloat16 else None


def autocast(device: torch.device, amp: str | None) -> Any:
    """Returns a context of mixed precision; `amp` is None or a key of `AMP_DTYPES`."""
    return torch.autocast(device.type, AMP_DTYPES[amp]) if amp else nullcontext()


@contextmanager
def pinned_threads(threads: int | None) -> Iterator[None]:
    """Lets torch use `threads` CPU threads inside the block; None leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class InPrecision(nn.Module):
    """A network whose forward pass has its precision in every thread that calls it.

    DataParallel calls the copies on its GPUs in threads of their own, where `autocast` is on again,
    but with the default dtype of GPUs instead of the chosen one.

    Args:
        net: the network.
        amp: None or a key of `AMP_DTYPES`.
    """

    def __init__(self, net: nn.Module, amp: str | None) -> None:
        super().__init__()
        self.net, self.amp = net, amp

    def forward(self, images: Tensor) -> Any:
        """Returns what the network does."""
        with autocast(images.device, self.amp):
            return self.net(images)


def over_gpus(net: nn.Module, gpus: Sequence[int], amp: str | None) -> nn.Module:
    """Returns the network, which shares its batches among the GPUs where there are several."""
    return nn.DataParallel(InPrecision(net, amp), list(gpus)) if len(gpus) > 1 else net


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch inside the block (dropout, drop path) and restores its generators after it."""
    kind = default_device(None)
    if kind == "mps":  # fork_rng wants an index, which its generator does not take
        state = torch.mps.get_rng_state()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
        torch.mps.set_rng_state(state)
        return
    indices = [] if kind == "cpu" else list(range(device_count(kind)))
    with torch.random.fork_rng(indices, device_type="cuda" if kind == "cpu" else kind):
        torch.manual_seed(seed)
        yield
