import shutil

import numpy as np
import pytest
from PIL import Image

from tests.visualization.runs import ITERATIONS
from utils.errors import UserError
from visualization.animation import Scene, frames, write_animation
from visualization.data import read_run
from visualization.plots import border


@pytest.fixture(scope="module")
def run(finished_run):
    return read_run(finished_run)


def test_a_frame_for_the_sample_and_two_for_each_iteration(run):
    shown = list(frames(run))
    assert len(shown) == 1 + 2 * ITERATIONS
    assert {frame.pixels.shape for frame in shown} == {(450, 800, 3)}
    assert len({frame.pixels.tobytes() for frame in shown}) == len(shown)
    assert shown[-1].seconds > shown[-2].seconds


def test_the_frame_of_the_axes_does_not_move(run):
    scene = Scene(run)
    first, last = (scene.draw(i)[40:, :58].mean(axis=2) for i in (0, ITERATIONS))
    np.testing.assert_array_equal(first, last)  # the labels of the y axis


def test_the_files_can_be_played(run, tmp_path):
    written = write_animation(tmp_path / "a" / "search.gif", run)
    with Image.open(written[0]) as picture:
        assert picture.n_frames == 1 + 2 * ITERATIONS
        assert picture.info["loop"] == 0
        assert picture.size == (800, 450)
    assert written[0].stat().st_size < 300_000
    assert len(written) == 1 + bool(shutil.which("ffmpeg"))
    for path in written[1:]:
        assert path.read_bytes()[4:8] == b"ftyp"


def test_equal_runs_give_equal_files(run, tmp_path):
    for name in ("a.gif", "b.gif"):
        write_animation(tmp_path / name, run)
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()


def test_what_cannot_be_written_is_said(run, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="gif or an"):
        write_animation(tmp_path / "a.png", run)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="ffmpeg is not installed"):
        write_animation(tmp_path / "a.mp4", run)


def test_a_border_runs_from_the_top_to_the_end():
    F = np.array([[3.0, 1.0], [2.0, 2.0], [2.5, 3.0], [1.0, 4.0]])
    (x, y), steps = border(F, (0, 9), (0, 7))
    assert x.tolist() == [1, 2, 4]
    assert y.tolist() == [3, 2, 1]
    assert [line.tolist() for line in steps] == [[1, 1, 2, 4, 9], [7, 3, 2, 1, 1]]
    (x, _), steps = border(F * [1, -1], (0, 9), (0, 7), sign=-1)
    assert x.tolist() == [4]  # the most accurate is the fastest, too
    assert steps[0].tolist() == [4, 4, 0]


def test_the_command_writes_the_animation(run_command, tmp_path, finished_run, fails_clearly):
    done = run_command("scripts/animate.py", finished_run, "--save", tmp_path / "s.gif")
    assert done.returncode == 0, done.stderr
    assert "4 iterations" in done.stdout
    fails_clearly("scripts/animate.py", tmp_path, match="no iter_<i>.stats")
