import sys

import numpy as np
import pytest

from utils.pareto import non_dominated
from visualization.plots import axis_label, plot_front, plot_history

PNG = b"\x89PNG\r\n\x1a\n"
F = np.array([[10.0, 300], [12, 200], [13, 120], [13, 250]])


def test_pictures_are_written_and_repeatable_without_global_state(tmp_path):
    for name in ("a", "b"):
        plot_front(tmp_path / name / "front.png", F, F[non_dominated(F)], F[2:], "flops", "title")
        plot_history(tmp_path / name / "history.png", [4, 8], [0.5, 0.6], [None, 0.9])
    for name in ("front.png", "history.png"):
        first = (tmp_path / "a" / name).read_bytes()
        assert first.startswith(PNG)
        assert first == (tmp_path / "b" / name).read_bytes()
    assert "matplotlib.pyplot" not in sys.modules
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["front.png", "history.png"]


def test_one_point_and_no_predictor_can_be_drawn(tmp_path):
    plot_front(tmp_path / "front.png", F[:1], F[:1], F[:0], "cpu", "one")
    plot_history(tmp_path / "history.png", [1], [0.0], [None])
    assert (tmp_path / "front.png").read_bytes().startswith(PNG)
    assert (tmp_path / "history.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(("name", "label"), [
    ("flops", "FLOPs (millions)"), ("params", "parameters (millions)"),
    ("cpu", "CPU latency (ms)"), ("gpu64", "GPU latency (ms, batch 64)"), ("other", "other")])
def test_axes_state_their_unit(name, label):
    assert axis_label(name) == label
