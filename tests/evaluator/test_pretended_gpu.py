"""The evaluation path on a pretended GPU: tensors without data tell what travels, and where to."""

import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from data_providers import DataProvider, loading, provider
from data_providers.loading import ahead, sent_ahead
from data_providers.transforms import Normalise
from evaluator import timing
from networks import batch_norm, folding, recalibrate_bn
from training.loops import evaluate
from utils.devices import InPrecision, over_gpus

GPU = torch.device("cuda", 0)


class Travels(TorchDispatchMode):
    """Notes the copies between devices: (from, to, dtype)."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if "copy" in func.name() and isinstance(result, torch.Tensor):
            sources = [arg for arg in args if isinstance(arg, torch.Tensor)]
            ends = sources[-1].device.type, result.device.type
            if ends[0] != ends[1]:
                self.seen.append((*ends, sources[-1].dtype))
        return result


@pytest.fixture
def pretended(monkeypatch):
    """Tensors have devices but no data; a module of them cannot be moved, so it is made there."""
    if torch.__version__.startswith("2.6."):
        pytest.skip("torch 2.6 pretends no GPU without a driver")
    monkeypatch.setattr(nn.Module, "to", lambda net, *_, **__: net)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def small_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, device=GPU), nn.BatchNorm2d(8, device=GPU), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10, device=GPU))


def test_bytes_go_to_the_gpu_and_one_sum_comes_back(pretended):
    """No device is mixed with another, nothing is read for each batch."""
    net, normalise = small_net(), Normalise([0.5] * 3, [0.5] * 3, GPU)
    pictures = [torch.zeros(8, 32, 32, 3, dtype=torch.uint8) for _ in range(5)]
    labels, on_batch = torch.zeros(8, dtype=torch.int64), []
    with Travels() as travels:
        recalibrate_bn(net, map(normalise, pictures))
    assert [row for row in travels.seen if row[1] == "cpu"] == []
    with Travels() as travels:
        figures = evaluate(
            net, ((normalise(images), labels) for images in pictures),
            on_batch=on_batch.append,
            reduce=lambda _: SimpleNamespace(tolist=lambda: [80.0, 20.0, 40.0, 40.0]))
    assert figures["top1"] == 50
    assert travels.seen == [("cpu", "cuda", torch.uint8), ("cpu", "cuda", torch.int64)] * 5 \
        + [("cuda", "cpu", torch.float32)]
    assert {sums.device.type for sums in on_batch} == {"cuda"}


def test_mean_and_std_travel_once(pretended):
    normalise = Normalise([0.5] * 3, [0.5] * 3, GPU)
    images = [normalise(torch.zeros(2, 8, 8, 3, dtype=torch.uint8)) for _ in range(3)]
    assert [(image.device, image.dtype) for image in images] == [(GPU, torch.float32)] * 3
    assert images[0].is_contiguous(memory_format=torch.channels_last)
    assert len(normalise._rows) == 1
    normalise(torch.zeros(2, 16, 16, 3, dtype=torch.uint8))
    assert len(normalise._rows) == 2


def test_batches_of_the_cache_are_pinned_ahead_by_a_thread(monkeypatch, tmp_path):
    threads = set()

    def pin_memory(tensor):
        threads.add(threading.current_thread())
        return tensor.clone()

    digits = DataProvider("digits", vld_size=300, cache_dir=tmp_path)
    plain = list(digits.eval_batches("valid", 16, 100))
    monkeypatch.setattr(provider, "copies_alongside", lambda device: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    pinned = list(digits.eval_batches("valid", 16, 100))
    assert len(threads) == 1 and threading.current_thread() not in threads
    for one, other in zip(plain, pinned, strict=True):
        assert all(map(torch.equal, one, other))


def test_what_is_prepared_ahead_comes_in_order_and_tells_its_errors():
    begun = []

    def prepare(number):
        begun.append(number)
        return 1 // (5 - number) * 0 + number

    results = ahead(range(10), prepare)
    assert next(results) == 0
    assert len(begun) <= 3, "two are waiting, no more"
    assert [next(results) for _ in range(4)] == [1, 2, 3, 4]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(ahead([], prepare)) == []


class Stream:
    """A pretended stream of a GPU: its work is not done before somebody waits for it."""

    current: "Stream"

    def __init__(self, device=None):
        self.left = []

    def __enter__(self):
        self.before, Stream.current = Stream.current, self

    def __exit__(self, *_):
        Stream.current = self.before

    def record_event(self) -> tuple["Stream", int]:
        return self, len(self.left)

    def wait_event(self, event: tuple["Stream", int]) -> None:
        stream, n = event
        self.left.append(lambda: stream.work_off(n))

    def wait_stream(self, other: "Stream") -> None:
        self.wait_event(other.record_event())

    def work_off(self, n: int) -> None:
        for i in range(n):
            work, self.left[i] = self.left[i], lambda: None
            work()


@pytest.fixture
def streams(monkeypatch):
    """Two pretended streams: that of the network, and that of `sent_ahead`."""
    monkeypatch.setattr(Stream, "current", Stream(), raising=False)
    monkeypatch.setattr(torch, "Stream", Stream)
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda device: Stream.current)
    loading.side_stream.cache_clear()
    yield Stream.current, loading.side_stream(GPU)
    loading.side_stream.cache_clear()


@pytest.mark.parametrize("order", [1, -1], ids=["network first", "copies first"])
def test_the_next_batch_is_copied_while_the_gpu_computes_with_the_last(streams, order):
    """One stream runs as far as it may before the other: each waits for what it needs."""
    main, side = streams
    memory, seen, sent = {}, [], []

    def send(number: int) -> int:
        assert Stream.current is side
        sent.append(number)
        slot = number % 3  # given back by the one three before
        side.left.append(lambda: memory.__setitem__(slot, number))
        return slot

    for number, slot in enumerate(sent_ahead(range(7), send, GPU)):
        assert Stream.current is main
        assert sent == list(range(min(number + 2, 7))), "one ahead, no more"
        main.left.append(lambda slot=slot: seen.append(memory.get(slot)))
    for stream in streams[::order]:
        stream.work_off(len(stream.left))
    assert seen == list(range(7))


def test_a_batch_does_not_wait_for_the_copy_of_the_next(streams):
    main, side = streams
    done = []
    batches = sent_ahead(range(3), lambda number: side.left.append(
        lambda: done.append(number)), GPU)
    next(batches)
    main.work_off(len(main.left))
    assert done == [0]


def test_on_the_cpu_nothing_is_sent_ahead():
    sent = []
    for device in (None, "cpu", "mps"):
        batches = sent_ahead(range(3), sent.append, device)
        next(batches)
        assert sent == [0]
        assert len(list(batches)) == 2
        sent.clear()


def test_batches_of_a_provider_are_sent_ahead(streams, monkeypatch, tmp_path):
    """Those of a validation, of a calibration and of a training, cached or not."""
    _, side = streams
    where: list[tuple[int, bool]] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    monkeypatch.setattr(provider.loading, "stream", lambda reader, batches, *_, **__: (
        reader.__getitems__(batch) for batch in batches))
    monkeypatch.setattr(provider, "Normalise", lambda *_: lambda images: where.append(
        (len(images), Stream.current is side)))
    monkeypatch.setattr(torch.Tensor, "to", lambda labels, *_, **__: labels)
    ways: list[Callable] = [
        lambda digits: digits.eval_batches("valid", 16, 100, device=GPU),
        lambda digits: digits.calibration_batches(16, 200, 100, device=GPU),
        lambda digits: digits.train_loader(16, 100, device=GPU)]
    for cache_gb in (0, 1):
        digits = DataProvider("digits", vld_size=300, cache_dir=tmp_path, cache_gb=cache_gb)
        for way in ways:
            next(iter(way(digits)))
            assert where == [(100, True)] * 2
            where.clear()


class NoFloat64(TorchDispatchMode):
    """An accelerator on which float64 is an error, as on MPS and on some of XPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.device.type != "cpu":
            assert result.dtype != torch.float64, func.name()
        return result


def test_an_evaluation_needs_no_float64_on_the_device(pretended, monkeypatch):
    """Statistics are summed and folded in what the device has; sums leave it as float32."""
    for module in (batch_norm, folding):
        monkeypatch.setattr(module, "widest_float", lambda device: torch.float32)
    net, images = small_net(), torch.zeros(4, 3, 8, 8, device=GPU)
    with NoFloat64(), torch.no_grad():
        recalibrate_bn(net, [images] * 2)
        folding._fold(net[0], net[1])
        evaluate(net, [(images, torch.zeros(4, dtype=torch.int64))] * 2,
                 reduce=lambda _: SimpleNamespace(tolist=lambda: [8.0, 4.0, 4.0, 8.0]))


def test_precision_holds_in_the_threads_of_several_gpus():
    """DataParallel switches autocast on in each of them, with float16 whatever was asked for."""
    net, dtypes = InPrecision(nn.Linear(4, 4), "bfloat16"), []
    thread = threading.Thread(target=lambda: dtypes.append(net(torch.ones(1, 4)).dtype))
    thread.start()
    thread.join()
    assert dtypes == [torch.bfloat16]
    assert over_gpus(net, [0], None) is net
    assert over_gpus(net, [], None) is net
    assert isinstance(over_gpus(net, [0, 1], "bfloat16").module, InPrecision)


class Gpu:
    """A pretended GPU whose clock is moved by what runs on it; it keeps a diary."""

    def __init__(self, monkeypatch):
        self.diary, self.ms, gpu = [], 0.0, self

        class Event:
            def __init__(self, device, enable_timing):
                assert enable_timing

            def record(self):
                self.at = gpu.ms

            def synchronize(self):
                gpu.diary.append("waited")

            def elapsed_time(self, end):
                return end.at - self.at

        monkeypatch.setattr(torch, "Event", Event)
        monkeypatch.setattr("utils.devices.as_current", lambda device: Nothing())
        monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: None)
        monkeypatch.setattr(timing, "_recorded", self.recorded)
        monkeypatch.setattr(timing, "WARM_UP_S", 0.05)

    def recorded(self, call):
        self.diary.append("recorded")

        def replay():
            self.ms += 2.0 + 0.1 * (len(self.diary) % 2)
            self.diary.append("replayed")
        return replay


class Nothing:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_a_gpu_is_timed_by_its_events_on_replayed_graphs_after_a_warm_up(monkeypatch):
    gpu, layouts = Gpu(monkeypatch), []
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *place, memory_format=None:
                        layouts.append(memory_format) or tensor)
    monkeypatch.setattr(nn.Module, "to", lambda net, *place, memory_format=None:
                        layouts.append(memory_format) or net)
    (found,) = timing.measure_modules([(nn.Conv2d(3, 4, 3), (1, 3, 8, 8))], "cuda:0")
    assert gpu.diary[0] == "recorded", "no pass runs from Python"
    assert gpu.diary.index("waited") > 20, "the clock has risen before the first sample"
    assert 2.0 <= found.mean <= 2.1 and 2.0 <= found.median <= 2.1
    assert 0 <= found.iqr <= 0.11
    assert [layout for layout in layouts if layout] == [torch.channels_last] * 2
