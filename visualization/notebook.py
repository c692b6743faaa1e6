"""What a notebook shows of a search: tables and figures. matplotlib is imported with the first."""

import base64
import html
import os
from dataclasses import replace
from functools import partial
from io import BytesIO
from typing import Any, Self

import numpy as np

from search import algorithm
from search.archive import Record
from search.evaluation import Engine
from search.fingerprints import recorded_inputs
from search.finished import read_settings
from search.progress import Progress
from search.run_folder import RunFolder, check_code
from search.runner import build_parts, make_search
from search.selection import apart
from search.settings import rebased, resume
from search.stored import WIDTH
from search_space import Arch, SearchSpace, space_of
from utils.errors import UserError
from utils.packages import require
from utils.pareto import non_dominated
from visualization.drawing import drawn
from visualization.plots import axis_parts, front_figure, history_figure
from visualization.sources import of_arch

ERROR = "top1_err"
# Networks of the front that a table shows.
MOST = 20
DPI = 80


class Search(algorithm.Search):
    """`search.Search` as a notebook uses it: opened, as a table, and shown where a cell ends."""

    @classmethod
    def open(cls, folder: str | os.PathLike, engine: Engine | None = None, **code: str) -> Self:
        """Returns the search in a folder, finished or not, of a program or of `msunas.py`.

            Search.open("runs/mine").front()

        Args:
            folder: of the search.
            engine: evaluates what is left, in `run`.
            code: settings that name code of your own, such as `search_space="my_space:Own"`: a
                folder from elsewhere does not decide what is run here.

        Raises:
            UserError: no search with settings there, damaged files, code that is not named, or an
                engine for an asynchronous search.
        """
        run = RunFolder(folder)
        run.check_search()
        stored = read_settings(run.path)
        if not stored:
            raise UserError(f"{folder}: holds no settings.json; give Search the space and the "
                            "objectives of this search, and its folder")
        check_code(str(folder), stored, {*code, "evaluator"})
        settings = resume(code, rebased(stored, str(stored.get("cwd", ""))), str(folder),
                          recorded_inputs(stored))
        if settings.asynchronous:
            if engine is not None:
                raise UserError(f"{folder}: an asynchronous search is resumed by msunas.py alone")
            settings = replace(settings, asynchronous=False, iterations=0)
        if isinstance(width := stored.get(WIDTH), int | float):
            settings = replace(settings, supernet=replace(settings.supernet, width=width))
        search = make_search(settings, build_parts(settings), run, engine,
                             Progress(settings.planned), kind=cls)
        search.restore()
        return search  # type: ignore[return-value]  # `kind` is its class

    def columns(self) -> dict[str, list[Any]]:
        """Returns the archive by column: the objectives, whether on the front, then the genes.

        A gene that an architecture does not use is None.
        """
        names = [ERROR, *(objective.name for objective in self.objectives)]
        found: dict[str, list[Any]] = dict(zip(names, (self.F * self.signs).T.tolist(),
                                               strict=True))
        found["front"] = non_dominated(self.F).tolist()
        used = self.space.active(self.X)
        genes = {gene.name: [gene.values[i] if on else None for i, on in zip(
            places, active, strict=True)] for gene, places, active in zip(
                self.space.genes, (self.X - self.space.lower).T.tolist(), used.T.tolist(),
                strict=True)}
        return found | apart(genes, found, "gene")

    def to_frame(self) -> Any:
        """Returns `columns` as a pandas data frame.

        Raises:
            UserError: pandas is not installed.
        """
        require("to_frame", "pandas")
        import pandas

        return pandas.DataFrame(self.columns())

    def __repr__(self) -> str:
        n = len(self.archive)
        return f"Search in {self.space.name}: {n} evaluated" + (
            f", {len(self.front())} on the front" if n else "")

    def _repr_html_(self) -> str:
        """Returns what a notebook shows: the front as a picture and as a table."""
        if not self.archive:
            return f"<p>{html.escape(repr(self))}</p>"
        front = self.front()
        picture = base64.b64encode(_png(plot_front(self))).decode()
        shown = front if len(front) <= MOST else [
            front[i] for i in np.linspace(0, len(front) - 1, MOST).astype(int)]
        note = "" if shown is front else f", {MOST} of them below"
        head = "".join(f"<th>{html.escape(name)}</th>" for name in (
            "top-1 (%)", *(objective.label for objective in self.objectives), "architecture"))
        rows = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>"
                       for row in map(self._row, shown))
        return (f'<p>{html.escape(repr(self))}{note}</p>'
                f'<img alt="the front of the search" src="data:image/png;base64,{picture}">'
                f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>")

    def _row(self, record: Record) -> list[str]:
        values = (f"{value:.4g}" for value in record.values)
        return [f"{100 - record.top1_err:.2f}", *values, self.space.describe(record.arch)]


def plot_front(search: algorithm.Search) -> Any:
    """Returns a figure of everything that a search has evaluated, and of its front.

    Of several objectives besides the error, the first is on the x axis.

    Raises:
        UserError: nothing is evaluated yet.
    """
    _check_evaluated(search)
    F, objective = (search.F * search.signs)[:, :2], search.objectives[0]
    name, unit = axis_parts(objective.name, objective.unit)
    title = f"{len(F)} evaluated" + (
        "" if search.reference is None else f", hypervolume {search.history()[-1].hv:.4f}")
    return _shown(front_figure(F, F[non_dominated(search.F)], F[:0],
                               f"{name} ({unit})" if unit else name, title, int(objective.sign)))


def plot_progress(search: algorithm.Search) -> Any:
    """Returns a figure of the hypervolume and of the predictor's Kendall's tau by evaluations.

    Raises:
        UserError: nothing is evaluated yet, or a damaged file of the search's folder.
    """
    _check_evaluated(search)
    steps = search.history()
    return _shown(history_figure([step.n_evaluated for step in steps],
                                 [step.hv for step in steps], [step.tau for step in steps]))


def draw(*archs: Arch, space: SearchSpace | None = None, n_classes: int = 1000,
         width_mult: float = 1.0) -> Any:
    """Returns a drawing of architectures, one below the other.

    Args:
        archs: at least one, as `Search.archs` and `Record.arch` hold them.
        space: of them; None takes the one that each names, else mbv3.
        n_classes, width_mult: of the supernet.

    Raises:
        UserError: no architecture, one that is not of the space, or networks next to cells.
    """
    if not archs:
        raise UserError("draw needs an architecture: draw(search.front()[0].arch)")
    spaces = [space or space_of(arch) for arch in archs]
    return _shown(drawn([of_arch(each, arch, each.describe(arch), n_classes, width_mult)
                         for each, arch in zip(spaces, archs, strict=True)]))


def _check_evaluated(search: algorithm.Search) -> None:
    if not search.archive:
        raise UserError("the search has evaluated nothing yet: run it, or tell it outcomes")


def _png(figure: Any, **_: Any) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def _shown(figure: Any) -> Any:
    """Returns a figure that Jupyter shows by itself, without pyplot and its global state."""
    figure.set_dpi(DPI)
    figure._repr_png_ = partial(_png, figure)
    return figure
