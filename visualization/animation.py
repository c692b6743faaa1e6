"""A search as an animation: the front growing, iteration by iteration. GIF, and MP4 with ffmpeg."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UserError
from utils.files import atomic_path
from visualization.data import RunData
from visualization.plots import BLUE, GREY, ORANGE, border, new_figure

SIZE, DPI = (8.0, 4.5), 100  # 800 x 450 pixels: as wide as a README shows it
SECONDS = {"sample": 1.6, "predicted": 0.45, "measured": 0.45, "last": 4.0}
COLOURS = 48  # of the GIF; enough for the smooth edges of few colours
FPS = 20  # of the MP4
# What is drawn, by its name in the legend, which is the same in every frame: nothing jumps.
LOOKS: dict[str, dict[str, Any]] = {
    "evaluated": {"color": GREY, "ms": 4.2, "mew": 0},
    "candidate, predicted": {"mfc": "white", "mec": ORANGE, "mew": 1.3, "ms": 6},
    "candidate, measured": {"color": ORANGE, "ms": 6, "mew": 0},
    "front": {"color": BLUE, "ms": 5, "mew": 0}}


@dataclass(frozen=True)
class Frame:
    """One picture: (height, width, 3) RGB bytes, and how long it is shown."""

    pixels: np.ndarray
    seconds: float


def write_animation(path: str | os.PathLike, run: RunData) -> list[Path]:
    """Writes the animation of a run, and next to a GIF an MP4 where ffmpeg is installed.

    Args:
        path: a `.gif`, or an `.mp4` alone.
        run: a search.

    Returns:
        The files that were written.

    Raises:
        UserError: another ending, an `.mp4` without ffmpeg, or ffmpeg failed.
    """
    path, ffmpeg = Path(path), shutil.which("ffmpeg")
    if path.suffix not in (".gif", ".mp4"):
        raise UserError(f"{path}: an animation is a .gif or an .mp4")
    if path.suffix == ".mp4" and ffmpeg is None:
        raise UserError(f"{path}: ffmpeg is not installed; write a .gif, which does without")
    shown = list(frames(run))
    written = []
    if path.suffix == ".gif":
        write_gif(path, shown)
        written.append(path)
    if ffmpeg is not None:
        write_mp4(path.with_suffix(".mp4"), shown, ffmpeg)
        written.append(path.with_suffix(".mp4"))
    return written


def frames(run: RunData) -> Iterator[Frame]:
    """Yields the initial sample, then each iteration as predicted and as measured."""
    scene = Scene(run)
    last = run.history[-1].number
    for entry in run.history:
        if entry.predicted and entry.number:
            yield Frame(scene.draw(entry.number, measured=False), SECONDS["predicted"])
        seconds = SECONDS["sample" if entry.number == 0 else "measured"]
        yield Frame(scene.draw(entry.number), SECONDS["last"] if entry.number == last else seconds)


class Scene:
    """The axes of all frames, equal in all of them, and what is drawn into them.

    Left the archive, the candidates and the front; at the right the hypervolume and the legend.
    """

    def __init__(self, run: RunData) -> None:
        self.run = run
        self.entries = {entry.number: entry for entry in run.history}
        self.x, self.y = run.F[:, 1], run.F[:, 0]
        self.xlim = _padded(self.x)
        self.ylim = _padded(np.concatenate([self.y, *(e.predicted for e in run.history)]))
        hv = [entry.hv for entry in run.history]
        self.hv_lim = _padded(np.array(hv), 0.12)

    def draw(self, number: int, measured: bool = True) -> np.ndarray:
        """Returns the picture of one iteration, (height, width, 3) bytes.

        Args:
            number: of the iteration.
            measured: whether its candidates are measured already, or only predicted.
        """
        figure, (main, side) = new_figure(SIZE, DPI, columns=(3.1, 1.0))
        known = self.run.iteration < number + (number == 0)
        new = (self.run.iteration == number) & ~known
        self._archive(main, known, new, measured)
        if number:
            self._candidates(main, number, new, measured)
        n_known = int(known.sum() + (new.sum() if measured else 0))
        main.set_title("initial sample" if number == 0 else f"iteration {number}", loc="left",
                       fontsize=12)
        main.set_title(f"{n_known} networks evaluated", loc="right", fontsize=10, color="#57606a")
        main.set_xlabel(self.run.axes[1].label)
        main.set_ylabel(self.run.axes[0].label)
        main.set_xlim(self.xlim)
        main.set_ylim(self.ylim)
        self._hypervolume(side, number - (not measured))
        figure.legend([main.plot([], [], "o", **look)[0] for look in LOOKS.values()], [*LOOKS],
                      loc="lower right", bbox_to_anchor=(0.995, 0.13), frameon=False, fontsize=9)
        figure.canvas.draw()
        return np.asarray(figure.canvas.buffer_rgba())[:, :, :3].copy()

    def _archive(self, axes: Any, known: np.ndarray, new: np.ndarray, measured: bool) -> None:
        evaluated = known | new if measured else known
        axes.plot(self.x[known], self.y[known], "o", alpha=0.75, **LOOKS["evaluated"])
        front, steps = border(self.run.minimised[evaluated][:, :2], self.xlim, self.ylim,
                              sign=-1 if self.run.axes[1].maximise else 1)
        axes.step(*steps, where="post", color=BLUE, lw=1.4)
        axes.plot(*front, "o", **LOOKS["front"])

    def _candidates(self, axes: Any, number: int, new: np.ndarray, measured: bool) -> None:
        predicted, x, y = self.entries[number].predicted, self.x[new], self.y[new]
        if len(predicted) == len(x):
            if measured:
                axes.vlines(x, predicted, y, color=ORANGE, lw=0.9, alpha=0.7)
            axes.plot(x, predicted, "o", **LOOKS["candidate, predicted"])
        if measured:
            axes.plot(x, y, "o", **LOOKS["candidate, measured"])

    def _hypervolume(self, axes: Any, number: int) -> None:
        done = [entry for entry in self.run.history if entry.number <= max(number, 0)]
        axes.plot([e.n_evaluated for e in done], [e.hv for e in done], color=BLUE, lw=1.5)
        axes.plot(done[-1].n_evaluated, done[-1].hv, "o", color=BLUE, ms=4.5)
        axes.set_xlim(0, self.run.history[-1].n_evaluated * 1.04)
        axes.set_ylim(self.hv_lim)
        axes.set_title(f"hypervolume {done[-1].hv:.4f}", loc="left", fontsize=10)
        axes.set_xlabel("evaluated", fontsize=9)
        axes.tick_params(labelsize=8.5)
        axes.locator_params(nbins=4)
        # Above the legend: half as high as the picture.
        axes.set_box_aspect(0.85)
        axes.set_anchor("N")


def _padded(values: np.ndarray, room: float = 0.04) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    margin = room * ((high - low) or abs(high) or 1.0)
    return low - margin, high + margin


def write_gif(path: str | os.PathLike, shown: list[Frame]) -> None:
    """Writes frames as a GIF that repeats for ever, atomically. One palette serves all frames."""
    from PIL import Image

    pictures = [Image.fromarray(frame.pixels) for frame in shown]
    sample = Image.fromarray(np.vstack([shown[0].pixels, shown[-1].pixels, shown[-2:][0].pixels]))
    palette = sample.quantize(COLOURS)
    indexed = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    with atomic_path(path) as temporary:
        indexed[0].save(temporary, format="GIF", save_all=True, append_images=indexed[1:], loop=0,
                        duration=[round(1000 * frame.seconds) for frame in shown], optimize=True)


def write_mp4(path: str | os.PathLike, shown: list[Frame], ffmpeg: str) -> None:
    """Writes frames as an MP4 (H.264) by the program `ffmpeg`, atomically.

    Raises:
        UserError: ffmpeg failed; the message holds its last line.
    """
    height, width = shown[0].pixels.shape[:2]
    pixels = b"".join(frame.pixels.tobytes() * round(frame.seconds * FPS) for frame in shown)
    with atomic_path(path) as temporary:
        done = subprocess.run(
            [ffmpeg, "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s",
             f"{width}x{height}", "-r", str(FPS), "-i", "-", "-c:v", "libx264", "-pix_fmt",
             "yuv420p", "-movflags", "+faststart", "-f", "mp4", str(temporary)],
            input=pixels, capture_output=True)
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
            raise UserError(f"{path}: ffmpeg failed: {lines[-1]}")
