"""The evaluation path on a pretended GPU: tensors without data tell what travels, and where to."""

import threading
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from data_providers import DataProvider, provider
from data_providers.loading import ahead
from data_providers.transforms import Normalise
from evaluator import latency
from networks import recalibrate_bn
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
    monkeypatch.setattr(provider, "_pins", lambda device: True)
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
        monkeypatch.setattr(torch.accelerator, "device_index", lambda index: Nothing())
        monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: None)
        monkeypatch.setattr(latency, "_recorded", self.recorded)
        monkeypatch.setattr(latency, "WARM_UP_S", 0.05)

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
    (found,) = latency.measure_modules([(nn.Conv2d(3, 4, 3), (1, 3, 8, 8))], "cuda:0")
    assert gpu.diary[0] == "recorded", "no pass runs from Python"
    assert gpu.diary.index("waited") > 20, "the clock has risen before the first sample"
    assert 2.0 <= found.mean <= 2.1 and 2.0 <= found.median <= 2.1
    assert 0 <= found.iqr <= 0.11
    assert [layout for layout in layouts if layout] == [torch.channels_last] * 2
