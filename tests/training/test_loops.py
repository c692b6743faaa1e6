"""The training loop and the evaluation loop, on networks small enough to check by hand."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.overrides import TorchFunctionMode

from training.loops import (
    _batch_sums,
    cosine,
    distilled,
    evaluate,
    fine_tune,
    soft_cross_entropy,
    train_one_epoch,
)
from utils.devices import seeded
from utils.errors import UserError


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def small_net(n_classes: int = 3, dropout: float = 0.0) -> nn.Module:
    with seeded(1):
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                             nn.Flatten(), nn.Dropout(dropout), nn.Linear(8, n_classes))


def batches(n: int = 60, size: int = 10, n_classes: int = 3, seed: int = 0) -> list:
    """Images whose brightness tells their class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(n_classes, (n,), generator=generator)
    images = torch.randn(n, 3, 8, 8, generator=generator) + labels[:, None, None, None]
    return list(zip(images.split(size), labels.split(size), strict=True))


def state(net: nn.Module) -> dict:
    return {key: tensor.clone() for key, tensor in net.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a)


class TestEvaluate:
    def test_figures_are_those_of_all_images_at_once(self):
        net, data = small_net(12), batches(70, 16, 12)
        figures = evaluate(net, data)
        images, labels = (torch.cat(part) for part in zip(*data, strict=True))
        with torch.no_grad():
            logits = net(images)
        order = logits.argsort(1, descending=True)
        assert figures["loss"] == pytest.approx(cross_entropy(logits, labels).item(), abs=1e-6)
        assert figures["top1"] == pytest.approx(100 * (order[:, 0] == labels).float().mean().item())
        hits = (order[:, :5] == labels[:, None]).any(1)
        assert figures["top5"] == pytest.approx(100 * hits.float().mean().item())
        assert figures["n_images"] == 70

    def test_top5_is_100_with_five_classes_or_fewer(self):
        assert evaluate(small_net(3), batches())["top5"] == 100.0

    @pytest.mark.parametrize("training", [True, False])
    def test_mode_is_put_back(self, training):
        net = small_net(dropout=0.5).train(training)
        first, second = evaluate(net, batches()), evaluate(net, batches())
        assert first == second
        assert net.training is training

    def test_network_can_be_trained_afterwards(self):
        net = small_net()
        evaluate(net, batches())
        train_one_epoch(net, batches(), torch.optim.SGD(net.parameters(), 0.1))

    def test_parts_add_up_to_the_whole(self):
        net, data = small_net(), batches()
        parts = []
        evaluate(net, data[::2], reduce=lambda sums: parts.append(sums.clone()) or sums)
        figures = evaluate(net, data[1::2], reduce=lambda sums: sums + parts[0])
        assert figures == pytest.approx(evaluate(net, data))

    def test_nothing_on_the_device_is_float64(self):
        """MPS has none."""
        class NoFloat64(TorchFunctionMode):
            def __torch_function__(self, func, types, args=(), kwargs=None):
                result = func(*args, **(kwargs or {}))
                if isinstance(result, torch.Tensor):
                    seen.append(result.dtype)
                return result

        seen = []
        images, labels = batches()[0]
        with NoFloat64():
            _batch_sums(small_net()(images), labels)
        assert torch.float32 in seen
        assert torch.float64 not in seen

    def test_no_images_is_an_error(self):
        with pytest.raises(ValueError, match="no images"):
            evaluate(small_net(), [])


class TestTrainOneEpoch:
    def test_accumulated_batches_step_like_one_large_batch(self):
        results = []
        for data, accumulate in ((batches(size=30), 1), (batches(size=10), 3)):
            net = small_net()
            train_one_epoch(net, data, torch.optim.SGD(net.parameters(), 1.0),
                            accumulate=accumulate)
            results.append(state(net))
        for key in results[0]:
            torch.testing.assert_close(results[0][key], results[1][key], atol=1e-5, rtol=0)

    def test_no_batch_is_read_before_it_is_needed(self):
        order = []

        class Watched(list):
            def __iter__(self):
                for i, batch in enumerate(super().__iter__()):
                    order.append(f"read {i}")
                    yield batch

        def objective(net, images, labels):
            order.append("used")
            return [lambda: cross_entropy(net(images), labels)]

        net = small_net()
        steps = []
        train_one_epoch(net, Watched(batches(50, 10)), torch.optim.SGD(net.parameters(), 0.1),
                        objective=objective, accumulate=2,
                        on_step=lambda step, loss: steps.append(len(order)))
        assert order == [word for i in range(5) for word in (f"read {i}", "used")]
        assert steps == [4, 8, 10], "the last group has one batch"

    def test_loss_is_the_mean_over_images(self):
        net, data = small_net(), batches(50, 20)
        figures = train_one_epoch(net, data, torch.optim.SGD(net.parameters(), 0.0))
        assert figures["loss"] == pytest.approx(evaluate(net, data)["loss"], abs=1e-6)
        assert figures["n_images"] == 50

    def test_gradients_of_several_losses_add_up(self):
        def twice(net, images, labels):
            return [lambda: cross_entropy(net(images), labels)] * 2

        results = []
        for objective, lr in ((twice, 0.1), (None, 0.2)):
            net = small_net()
            train_one_epoch(net, batches(size=60), torch.optim.SGD(net.parameters(), lr),
                            objective=objective)
            results.append(state(net))
        for key in results[0]:
            torch.testing.assert_close(results[0][key], results[1][key])

    def test_hooks_are_called_at_each_step(self):
        net, steps, clipped = small_net(), [], []
        train_one_epoch(net, batches(size=10), torch.optim.SGD(net.parameters(), 0.1), accumulate=4,
                        clip_grad=lambda: clipped.append(1),
                        on_step=lambda step, loss: steps.append((step, loss.item())))
        assert [step for step, _ in steps] == [1, 2]
        assert len(clipped) == 2
        assert all(math.isfinite(loss) for _, loss in steps)

    def test_mixed_precision_trains(self):
        net = small_net()
        before = evaluate(net, batches())["loss"]
        for _ in range(5):
            train_one_epoch(net, batches(), torch.optim.SGD(net.parameters(), 0.1),
                            amp="bfloat16")
        assert evaluate(net, batches(), amp="bfloat16")["loss"] < before


def test_a_fine_tuning_that_diverges_is_no_result():
    """In an evaluation, too: what follows would be the accuracy of a network of NaN."""
    net, data = small_net(), batches(20)
    data[1][0][0, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match=r"not finite in epoch 0 of the fine-tuning.*rate 0\.01 is"):
        fine_tune(net, data, 3, 0.01)


def test_distillation_adds_the_teachers_part():
    net, teacher, (images, labels) = small_net(), small_net().eval(), batches()[0]
    with torch.no_grad():
        teacher[-1].weight.add_(0.3)
        (loss,) = distilled(teacher, ratio=0.5)(net, images, labels)
        expected = cross_entropy(net(images), labels) \
            + 0.5 * soft_cross_entropy(net(images), teacher(images))
    assert loss().item() == pytest.approx(expected.item())


def test_soft_cross_entropy_is_least_at_the_teachers_output():
    teacher = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    least = soft_cross_entropy(teacher, teacher)
    assert soft_cross_entropy(teacher + torch.randn(8, 5) * 0.5, teacher) > least
    entropy = torch.distributions.Categorical(logits=teacher).entropy().mean()
    torch.testing.assert_close(least, entropy)


def test_cosine_falls_from_one_to_zero():
    assert [cosine(step, 4) for step in (0, 2, 4)] == pytest.approx([1.0, 0.5, 0.0])


class TestFineTune:
    def test_learns_and_is_repeatable(self):
        results = []
        for _ in range(2):
            net = small_net(dropout=0.2)
            torch.rand(3)  # the global generator must not matter
            history = fine_tune(net, batches(), 5, 0.3, seed=3)
            results.append(state(net))
        assert len(history) == 5
        assert history[-1]["loss"] < history[0]["loss"]
        assert same(*results)
        assert not net.training

    def test_global_generator_is_untouched(self):
        torch.manual_seed(5)
        expected = torch.rand(4)
        torch.manual_seed(5)
        fine_tune(small_net(dropout=0.5), batches(), 1, 0.1)
        assert torch.equal(torch.rand(4), expected)

    def test_the_momentum_is_nesterovs(self):
        def by_hand(nesterov):
            net, steps = small_net(), 2 * len(batches())
            optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, nesterov=nesterov,
                                        weight_decay=4e-5)
            for step in range(steps):
                optimizer.param_groups[0]["lr"] = 0.1 * cosine(step, steps)
                images, labels = batches()[step % len(batches())]
                optimizer.zero_grad()
                cross_entropy(net(images), labels).backward()
                optimizer.step()
            return state(net)

        net = small_net()
        fine_tune(net, batches(), 2, 0.1)
        weights = state(net)
        assert all(torch.allclose(weights[key], value, atol=1e-5)
                   for key, value in by_hand(True).items())
        assert not all(torch.allclose(weights[key], value, atol=1e-5)
                       for key, value in by_hand(False).items())

    def test_no_epochs_change_nothing(self):
        net = small_net()
        before = state(net)
        assert fine_tune(net, batches(), 0, 0.1) == []
        assert same(before, state(net))

    def test_epochs_are_announced(self):
        class Announced(list):
            epochs: list = []  # noqa: RUF012

            def set_epoch(self, epoch):
                self.epochs.append(epoch)

        fine_tune(small_net(), Announced(batches()), 3, 0.1)
        assert Announced.epochs == [0, 1, 2]
