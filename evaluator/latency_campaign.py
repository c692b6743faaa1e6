"""Networks to learn a latency from: those of a table, or a campaign that measures them."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from evaluator.device_command import DeviceCommand, DeviceError
from evaluator.latency_model import (
    KIND,
    MIN_NETWORKS,
    LatencyModel,
    LearnedLatency,
    agreement,
    cross_validated,
    unsure_about,
    with_measured,
)
from evaluator.measurements import Measurements, file_content
from search_space import DEFAULT, SEARCH_SPACES, Arch, SearchSpace, get_search_space, refuse_code
from search_space.base import rows_in
from search_space.table import parse_number, read_table
from utils.errors import UserError
from utils.files import parse_json, read_json, write_json
from utils.flags import refuse_idle
from utils.locks import Lock

ROUND = 10  # networks that are measured between two fits


def learn_from_table(args: argparse.Namespace) -> None:
    """Learns from some rows of a table, and prints how well it predicts the others."""
    archs, latency = read_measured(args.measured, args.column)
    space = space_of_archs(archs, args.search_space)
    if args.n > len(archs) - 2:
        raise UserError(f"{args.measured}: {len(archs)} measured networks; --n {args.n} leaves "
                        "none to test on")
    order = np.random.default_rng(args.seed).permutation(len(archs))
    known, others = order[:args.n], order[args.n:]
    try:
        X = np.array([space.encode(arch) for arch in archs])
    except UserError as error:
        raise UserError(f"{args.measured}: {error}") from None
    content = content_of(args, space) | {
        "seed": args.seed, "key": args.column,
        "measured": [{"arch": archs[i], args.column: float(latency[i])} for i in known]}
    learned = LearnedLatency(args.measured, content, space, args.n_classes, content["width_mult"])
    tested = agreement(learned.values(X[others]), latency[others])
    line = {**tested, "n_train": len(known), "n_test": len(others)}
    if args.out:
        write_json(args.out, content | {"error": tested})
    print(json.dumps({name: round(value, 6) for name, value in line.items()}))


def read_measured(path: str, column: str) -> tuple[list[Arch], np.ndarray]:
    """Returns the architectures of a table and their (n,) latencies; rows without one are left out.

    Raises:
        UserError: the file is damaged or lacks a column, or fewer than two rows have a latency.
    """
    table = read_table(path)
    numbers = [parse_number(text.strip()) for text in table.column(column)]
    rows = [(text, value) for text, value in zip(table.column("arch"), numbers, strict=True)
            if value is not None and value > 0]
    if len(rows) < len(numbers):
        print(f"{path}: {len(numbers) - len(rows)} of {len(numbers)} rows have no number above 0 "
              f"under {column[:60]}; they are left out", file=sys.stderr)
    try:
        archs = [parse_json(text) if text.startswith("{") else {"arch": text} for text, _ in rows]
    except ValueError as error:
        raise UserError(f"{path}: an architecture is no JSON: {error}") from None
    return archs, np.array([value for _, value in rows], dtype=float)


def space_of_archs(archs: list[Arch], name: str | None) -> SearchSpace:
    """Returns the space of architectures, with their resolutions: the first that takes them.

    Raises:
        UserError: none does.
    """
    for each in [name] if name else [DEFAULT, *SEARCH_SPACES]:
        try:
            sizes = sorted({arch["r"] for arch in archs if "r" in arch}) or None
            space = get_search_space(each, resolutions=sizes)
            space.encode(archs[0])
            return space
        except (UserError, TypeError, IndexError) as error:
            problem = error
    raise UserError(f"no search space takes the first architecture of the table: {problem}"
                    if not name else f"--search_space {name}: {problem}")


def content_of(args: argparse.Namespace, space: SearchSpace) -> dict[str, Any]:
    """Returns what the file of a command line says of its networks, without any."""
    return {**file_content(space, args.n_classes, args.width or space.default_width),
            **({"prior": read_json(args.prior, KIND)} if args.prior else {})}


def learned_from(path: Path, content: dict[str, Any], space: SearchSpace) -> LearnedLatency:
    """Returns what the networks of a file teach."""
    return LearnedLatency(path, content, space, content["n_classes"], content["width_mult"])


def with_error(path: Path, content: dict[str, Any], space: SearchSpace,
               seed: int) -> dict[str, Any]:
    """Returns the content of a file with its cross-validated error, which is printed."""
    error = cross_validated(learned_from(path, content, space).model, seed)
    print(f"{path}: learned from {len(content['measured'])} networks; on networks that it has not "
          f"seen: Spearman {error['spearman']:.3f}, mean error {error['mape']:.1%}, within 5 % "
          f"{error['within5']:.0%}, within 10 % {error['within10']:.0%} of them")
    return {**content, "error": error}


def add_measured(args: argparse.Namespace) -> None:
    """Learns the file `--out` again, with the networks of other files.

    Raises:
        UserError: one is damaged, or of other networks.
    """
    content = read_json(args.out, KIND)
    before = len(content.get("measured") or [])
    for path in args.add:
        content = with_measured(content, read_json(path, KIND), path)
    if args.search_space is None:
        refuse_code(content["search_space"], str(args.out))
    space = get_search_space(args.search_space or content["search_space"])
    write_json(args.out, with_error(args.out, content, space, args.seed))
    print(f"{args.out}: {len(content['measured'])} networks, {before} before")


class Campaign:
    """Measures networks by a command, round by round, and learns from them.

    The first half are the smallest, the largest and random networks, the others those that the
    model is most unsure about. The file is written after each network.

    Args:
        args: the command line.
        lock: of the file.
    """

    def __init__(self, args: argparse.Namespace, lock: Lock) -> None:
        self.args = args
        self.space = get_search_space(args.search_space or DEFAULT, resolutions=args.resolutions)
        command = DeviceCommand.parse(args.command, keys=(args.key,), timeout=args.timeout,
                                      retries=args.retries)
        if not command.needs("{model}") or command.form:
            refuse_idle(args.typed, {"where --command does not ask for {model}, or names its "
                                     "format": ("--format",)})
        self.file = Measurements(args.out, content_of(args, self.space), self.space, command,
                                 form=args.format, seed=args.seed, check=lock.check)
        self.failed: list[np.ndarray] = []
        if args.out.exists():
            print(f"{args.out}: {len(self.file)} networks are measured already")

    def run(self) -> None:
        """Measures what is missing, and writes what was learned."""
        try:
            for X in self._rounds():
                for x in X:
                    self._measure(x)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{self.args.out} holds {len(self.file)} networks; the same "
                                    "command resumes") from None
        self.file.content = with_error(self.args.out, self.file.content, self.space,
                                       self.args.seed)
        self.file.write()

    @property
    def _missing(self) -> int:
        return max(0, self.args.n - len(self.file))

    def _rounds(self) -> Iterator[np.ndarray]:
        """Gives vectors to measure, in random order, until there are enough measurements."""
        rng = np.random.default_rng(self.args.seed)
        first = self.space.initialize(max(MIN_NETWORKS, self.args.n // 2), rng=rng)
        yield rng.permutation(self._untried(np.array([self.space.encode(a) for a in first])))
        while n := min(self._missing, ROUND):
            if len(self.file) < MIN_NETWORKS:
                chosen = self._untried(self.space.draw(n, rng))
            else:
                chosen = unsure_about(self._model(), self._tried(), n, rng)
            if not len(chosen):
                raise UserError(f"{self.args.out}: no further networks to measure in the space "
                                f"{self.space.name}; choose a smaller --n")
            yield rng.permutation(chosen)

    def _tried(self) -> np.ndarray:
        """Returns the (n, n_var) vectors of the networks that were measured or failed."""
        rows = [self.space.encode(row["arch"]) for row in self.file.content["measured"]]
        return np.array([*rows, *self.failed], dtype=int).reshape(-1, self.space.n_var)

    def _untried(self, X: np.ndarray) -> np.ndarray:
        return X[~rows_in(X, self._tried())][:self._missing]

    def _model(self) -> LatencyModel:
        return learned_from(self.args.out, self.file.content, self.space).model

    def _measure(self, x: np.ndarray) -> None:
        """Measures one network, or leaves it out."""
        arch = self.space.decode(x)
        shown = self.space.describe(arch)[:80]
        try:
            figures = self.file.measure(arch)
        except DeviceError as error:
            self.failed.append(x)
            print(f"failed: {error}; left out: {shown}", file=sys.stderr)
            return
        print(f"{len(self.file)} of {self.args.n}: {figures[self.args.key]:.4g} "
              f"{self.args.key}, {shown}", flush=True)
