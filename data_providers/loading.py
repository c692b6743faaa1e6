"""From listed images to batches of bytes, in this process or in several, by explicit seeds."""

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import islice
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from joblib import cpu_count
from PIL import Image
from torch import Tensor
from torch.multiprocessing.reductions import reduce_storage
from torch.utils.data import DataLoader, Dataset, Sampler, WeightedRandomSampler, get_worker_info

from data_providers.cache import Entry
from data_providers.images import Images
from data_providers.transforms import preserved_generators, seed_everything
from utils.devices import copies_alongside
from utils.errors import note

Geometry = Callable[[Any], Any]
Item = TypeVar("Item")

SHARED_MEMORY = "/dev/shm"
_SMALL = 2**28  # bytes of it; containers have 2**26 unless they are given more
_LEAST = 2**20  # bytes of it that are free, for the semaphores of loading processes


class Request(NamedTuple):
    """One image to make: its index, and the seed of its random transform."""

    index: int  # type: ignore[assignment]  # of the image; a tuple's own method is not used
    seed: int


class RawBatch(NamedTuple):
    """What a loading process hands over.

    Attributes:
        images: uint8 (n, r, r, 3); from `Decoder` a list of arrays (h, w, 3).
        labels: int64 (n,).
        damaged: indices of the images that could not be decoded.
        decoded: how many were decoded from files.
    """

    images: Any
    labels: Tensor
    damaged: list[int]
    decoded: int


class Reader(Dataset):
    """Makes whole batches of transformed images: `__getitems__([Request, ...]) -> RawBatch`.

    A random transform depends on the request's seed alone, so the number of loading processes does
    not matter. A damaged image is left out, or with `replace` replaced by the next one.
    """

    def __init__(self, images: Images, geometry: Geometry, replace: bool = False) -> None:
        self.images, self.geometry, self.replace = images, geometry, replace

    def __getitems__(self, requests: Sequence[Request]) -> RawBatch:
        pixels, labels = [], []
        damaged: list[int] = []
        with preserved_generators():
            for request in requests:
                tries = len(self.images) if self.replace else 1
                image, index = self.images.read_from(request.index, tries, damaged)
                if image is not None:
                    seed_everything(request.seed)
                    pixels.append(np.asarray(self.geometry(image)))
                    labels.append(self.images.targets[index])
        images = np.stack(pixels) if pixels else np.empty((0, 1, 1, 3), np.uint8)
        return RawBatch(torch.from_numpy(images), torch.tensor(labels, dtype=torch.int64), damaged,
                        0 if self.images.in_memory else len(pixels))


class Decoder(Reader):
    """Decodes only: `images` is a list of arrays of the files' sizes, (0, 0, 3) where damaged."""

    def __init__(self, images: Images) -> None:
        super().__init__(images, np.asarray)

    def __getitems__(self, requests: Sequence[Request]) -> RawBatch:
        damaged: list[int] = []
        read = [self.images.read_from(request.index, 1, damaged)[0] for request in requests]
        pixels = [np.empty((0, 0, 3), np.uint8) if image is None else np.asarray(image)
                  for image in read]
        return RawBatch(pixels, torch.empty(0), damaged, len(read) - len(damaged))


class DecodedImages(Images):
    """Images of any size in one flat array of the cache, under the names of their files.

    Args:
        images: the files.
        entry: of the cache; its notes hold the `sizes` [height, width], [0, 0] where damaged.
    """

    in_memory = True

    def __init__(self, images: Images, entry: Entry) -> None:
        super().__init__(images.items, images.targets, images.total)
        self.name_of = images.name
        self.entry, self.sizes = entry, entry.meta["sizes"]
        self.ends = np.cumsum([3 * height * width for height, width in self.sizes])

    def name(self, index: int) -> str:
        """Returns the path of the file."""
        return self.name_of(index)

    def read(self, index: int) -> Image.Image:
        """Wraps the pixels."""
        height, width = self.sizes[index]
        if not height:
            raise OSError("damaged when it was decoded")
        end = self.ends[index]
        pixels = self.entry.array[end - 3 * height * width:end]
        return Image.frombuffer("RGB", (width, height), pixels, "raw", "RGB", 0, 1)


class SeededBatches(Sampler):
    """Batches of requests, shuffled anew in each epoch, all drawn from a seed and the epoch.

    Args:
        targets: labels (n,).
        batch_size: of this process.
        seed: with the epoch's number decides everything.
        balanced: draw, with replacement, every class equally often.
        drop_last: leave out the last batch where it is not full (but never the only one).
        rank: this process.
        world_size: number of processes; each gets as many batches.
    """

    def __init__(self, targets: np.ndarray, batch_size: int, seed: int, balanced: bool = False,
                 drop_last: bool = False, rank: int = 0, world_size: int = 1) -> None:
        self.n, self.batch_size, self.seed, self.epoch = len(targets), batch_size, seed, 0
        self.weights = (1 / np.bincount(targets)[targets]).tolist() if balanced else None
        self.mine = np.arange(rank, rank + -(-self.n // world_size) * world_size,
                              world_size) % self.n
        full, rest = divmod(len(self.mine), batch_size)
        # Batch normalisation cannot train on a single image.
        self.n_batches = full + (rest > 0 and (full == 0 or (rest > 1 and not drop_last)))

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[list[Request]]:
        generator = new_generator(self.seed, self.epoch)
        self.epoch += 1
        if self.weights:
            order = np.array(list(WeightedRandomSampler(self.weights, self.n, generator=generator)))
        else:
            order = torch.randperm(self.n, generator=generator).numpy()
        requests = requests_of(order, generator)
        for start in range(0, self.n_batches * self.batch_size, self.batch_size):
            yield [requests[i] for i in self.mine[start:start + self.batch_size]]


class Batches:
    """An iterable of finished batches with a length, which can be iterated many times.

    Args:
        start: begins a pass over raw batches.
        n_batches: the length.
        finish: what becomes of a raw batch.
        device: which `finish` sends it to; None leaves it in memory.
        sampler: whose epoch is set, where passes differ.
    """

    def __init__(self, start: Callable[[], Iterable[RawBatch]], n_batches: int,
                 finish: Callable[[RawBatch], Any], device: Any = None,
                 sampler: SeededBatches | None = None) -> None:
        self.start, self.n_batches, self.finish = start, n_batches, finish
        self.device, self.sampler = device, sampler

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[Any]:
        return sent_ahead((raw for raw in self.start() if len(raw.labels)), self.finish,
                          self.device)

    def set_epoch(self, epoch: int) -> None:
        """Makes the next pass that of `epoch`; without it, each pass is the next epoch."""
        if self.sampler is not None:
            self.sampler.epoch = epoch


def new_generator(*seeds: int) -> torch.Generator:
    """Returns a generator that the seeds, together, decide."""
    state = np.random.SeedSequence([seed % 2**64 for seed in seeds]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


def requests_of(order: Sequence[int] | np.ndarray,
                generator: torch.Generator | None = None) -> list[Request]:
    """Returns a request for each index, seeded by `generator`; by 0 without one."""
    n = len(order)
    seeds = [0] * n if generator is None else torch.randint(2**62, (n,), generator=generator)
    return [Request(int(index), int(seed)) for index, seed in zip(order, seeds, strict=True)]


def ahead(items: Iterable[Item], prepare: Callable[[Item], Item], depth: int = 2) -> Iterator[Item]:
    """Yields `prepare(item)` in order, prepared by a thread while those before are used."""
    left = iter(items)
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(prepare, item) for item in islice(left, depth))
        while waiting:
            ready = waiting.popleft().result()
            waiting.extend(pool.submit(prepare, item) for item in islice(left, 1))
            yield ready


def sent_ahead(items: Iterable[Item], send: Callable[[Item], Any], device: Any) -> Iterator[Any]:
    """Yields `send(item)` in order; a GPU is sent the next one while it computes with the last.

    `send` copies to the device and works there, on a stream of its own. Use what it returns on the
    stream on which you asked for it: that one waits until it has arrived, and the other waits for
    it before memory that you gave back is written to again. Elsewhere nothing is sent ahead.
    """
    if not copies_alongside(device):
        yield from map(send, items)
        return
    side = side_stream(torch.device(device))
    on_its_way: deque[tuple[Any, torch.Event]] = deque()

    def arrived() -> Any:
        sent, done = on_its_way.popleft()
        torch.accelerator.current_stream(device).wait_event(done)
        return sent

    for item in items:
        side.wait_stream(torch.accelerator.current_stream(device))
        with side:
            sent = send(item)
        on_its_way.append((sent, side.record_event()))
        if len(on_its_way) > 1:
            yield arrived()
    if on_its_way:
        yield arrived()


@cache
def side_stream(device: torch.device) -> torch.Stream:
    """Returns the one stream of a device that batches are sent on: each keeps memory of its own."""
    return torch.Stream(device)


def cut(values: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Returns `values` in pieces of `size`, the last of what is left."""
    return [values[start:start + size] for start in range(0, len(values), size)]


def stream(reader: Reader, batches: Iterable[Sequence[Request]], n_workers: int = 0,
           pin_memory: bool = False, keep_workers: bool = False) -> DataLoader:
    """Returns the raw batches of `reader`, one for each list of requests, in their order.

    Args:
        reader: makes a batch.
        batches: lists of requests; iterated once in each pass.
        n_workers: see `loading_processes`; 0 loads in this one.
        pin_memory: whether the tensors are in page-locked memory, for copies to a GPU.
        keep_workers: whether the processes stay for the next pass.
    """
    n_workers = loading_processes(n_workers)
    lists: Any = batches  # torch's annotation asks for lists, its code takes any sequence
    return DataLoader(reader, batch_sampler=lists, num_workers=n_workers, collate_fn=_as_is,
                      pin_memory=pin_memory, generator=torch.Generator(),
                      persistent_workers=keep_workers and n_workers > 0)


def _as_is(batch: Any) -> Any:
    return batch


def loading_processes(wanted: int) -> int:
    """Returns how many processes load: no more than there are cores, none without shared memory."""
    n = min(wanted, cpu_count())
    if not n or not os.path.isdir(SHARED_MEMORY):
        return n
    room = shutil.disk_usage(SHARED_MEMORY)
    if room.total < _SMALL:
        _note_small_memory(room.total)
    return n if room.free >= _LEAST else 0


@cache
def _note_small_memory(total: int) -> None:
    note(f"{SHARED_MEMORY} has {total / 2**20:.0f} MB, so that batches of loading processes come "
         "through pipes where it is full, which is slower; a container gets more with "
         "--shm-size=2g")


class _Sender:
    """How a loading process hands over the memory of a tensor.

    torch puts it into shared memory. Where that is full, its error ends no process, but the batch
    never arrives: then, and from then on in this process, the bytes are sent through the pipe.
    """

    full = False

    def __call__(self, storage: torch.UntypedStorage) -> Any:
        try:
            if not self.full:
                return reduce_storage(storage)
        except RuntimeError:
            if get_worker_info() is None:
                raise
            self.full = True
        content = torch.empty(0, dtype=torch.uint8).set_(storage)
        return _received, (content.numpy(),)


def _received(content: np.ndarray) -> torch.UntypedStorage:
    return torch.from_numpy(content).untyped_storage()


ForkingPickler.register(torch.UntypedStorage, _Sender())
