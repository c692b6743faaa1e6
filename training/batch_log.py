"""The log of an evaluation: a line now and then with the latest batch and the means."""

import time
from collections.abc import Callable

import torch
from timm.utils import AverageMeter
from torch import Tensor


class BatchLog:
    """Writes a line for every `every`-th batch, in the format of torchvision's ImageNet example.

    Args:
        n_batches: how many there will be.
        every: a line after this many batches; the last batch always has one.
        write: takes a line.
    """

    NAMES = ("Loss", "Acc@1", "Acc@5")

    def __init__(self, n_batches: int, every: int, write: Callable[[str], None]) -> None:
        self.n_batches, self.every, self.write = n_batches, every, write
        self.meters = {name: AverageMeter() for name in ("Time", *self.NAMES)}
        self.done, self.start = 0, time.perf_counter()
        self.unread: list[Tensor] = []

    def __call__(self, sums: Tensor) -> None:
        """Takes the [sum of losses, top-1 hits, top-5 hits, images] of one batch.

        Reading them waits for the device, so that is done for all batches of a line at once.
        """
        self.unread.append(sums)
        self.done += 1
        if self.done % self.every == 0 or self.done == self.n_batches:
            self._read()
            self.write(self.line())

    def _read(self) -> None:
        """Takes the batches since the last line into the means; each has its share of the time."""
        rows = torch.stack(self.unread).cpu().double().tolist()
        now = time.perf_counter()
        for loss, top1, top5, n in rows:
            self.meters["Time"].update((now - self.start) / len(rows), 1)
            for name, total in zip(self.NAMES, (loss, 100 * top1, 100 * top5), strict=True):
                self.meters[name].update(total / n, round(n))
        self.unread, self.start = [], now

    def line(self) -> str:
        """Returns the line of the latest batch: its own values, and in brackets the means."""
        width = len(str(self.n_batches))
        formats = {"Time": "{:6.3f}", "Loss": "{:.4e}", "Acc@1": "{:6.2f}", "Acc@5": "{:6.2f}"}
        parts = [f"{name} {formats[name].format(m.val)} ({formats[name].format(m.avg)})"
                 for name, m in self.meters.items()]
        return "\t".join([f"Test: [{self.done:{width}d}/{self.n_batches}]", *parts])
