"""The Once-for-All MobileNetV3 space: 5 stages of 2-4 layers, kernel, expansion, resolution."""

from collections.abc import Sequence

import numpy as np

from search_space.backbones import MOBILENET_V3, Backbone
from search_space.base import Arch, SearchSpace
from utils.errors import UserError

DEFAULT_RESOLUTIONS = tuple(range(192, 257, 4))


class OFASearchSpace(SearchSpace):
    """Architectures `{"ks": [...], "e": [...], "d": [d1..d5], "r": int}`.

    `ks` (kernel sizes) and `e` (expansion ratios) hold one entry for each of the `sum(d)` layers.
    The encoding (NSGANetV2, Section 3.1) has, for each stage, `[depth index, 4 kernel indices,
    4 expansion indices]`, then the resolution index: 46 integers.

    Args:
        resolutions: the input resolutions in pixels, ascending.
        seed: seeds the generator that `sample` and `initialize` use where none is passed.
    """

    name = "mbv3"
    backbone: Backbone = MOBILENET_V3

    def __init__(self, resolutions: Sequence[int] = DEFAULT_RESOLUTIONS, seed: int = 0) -> None:
        self.num_blocks = len(self.backbone.stages)
        self.kernel_size = [3, 5, 7]
        self.exp_ratio = [3, 4, 6]
        self.depth = [2, 3, 4]
        self.resolution = _checked_resolutions(resolutions)
        self.max_depth = max(self.depth)
        stage = [len(self.depth) - 1]
        stage += [len(self.kernel_size) - 1] * self.max_depth
        stage += [len(self.exp_ratio) - 1] * self.max_depth
        self.upper = np.array(stage * self.num_blocks + [len(self.resolution) - 1])
        self.lower = np.zeros_like(self.upper)
        self._rng = np.random.default_rng(seed)

    def sample(self, n_samples: int = 1, nb: int | None = None, ks: Sequence[int] | None = None,
               e: Sequence[int] | None = None, d: Sequence[int] | None = None,
               r: Sequence[int] | None = None, *,
               rng: np.random.Generator | None = None) -> list[Arch]:
        """Draws architectures uniformly: depths, then kernels, expansions, resolution.

        Args:
            n_samples: how many; duplicates can occur.
            nb: the number of stages; kept for the original's signature, only 5 is possible.
            ks, e, d, r: the kernel sizes, expansions, depths and resolutions to choose from.
            rng: the generator; without one the space's own is used.

        Raises:
            UserError: a choice that the space does not have.
        """
        if nb not in (None, self.num_blocks):
            raise UserError(f"the space {self.name} has {self.num_blocks} stages, not {nb}")
        rng = self._rng if rng is None else rng
        depths = _choices("depth", self.depth, d)
        kernels = _choices("kernel size", self.kernel_size, ks)
        expansions = _choices("expansion ratio", self.exp_ratio, e)
        resolutions = _choices("resolution", self.resolution, r)
        archs = []
        for _ in range(n_samples):
            depth = rng.choice(depths, self.num_blocks).tolist()
            archs.append({"ks": rng.choice(kernels, sum(depth)).tolist(),
                          "e": rng.choice(expansions, sum(depth)).tolist(),
                          "d": depth, "r": int(rng.choice(resolutions))})
        return archs

    def initialize(self, n_doe: int, *, rng: np.random.Generator | None = None) -> list[Arch]:
        """See `SearchSpace.initialize`; without `rng` the space's own generator is used."""
        return super().initialize(n_doe, rng=self._rng if rng is None else rng)

    def extremes(self) -> list[Arch]:
        """Returns the smallest and the largest architecture."""
        return [{"ks": [pick(self.kernel_size)] * layers, "e": [pick(self.exp_ratio)] * layers,
                 "d": [pick(self.depth)] * self.num_blocks, "r": pick(self.resolution)}
                for pick in (min, max) for layers in [pick(self.depth) * self.num_blocks]]

    def encode(self, arch: Arch) -> np.ndarray:
        """Returns the canonical (46,) integer vector; raises UserError for an invalid arch."""
        depths, kernels, expansions, resolution = self._parts(arch)
        x = np.zeros(self.n_var, dtype=int)
        stages, start = self._stages(x), 0
        for stage, depth in zip(stages, depths, strict=True):
            layers = slice(start, start + depth)
            stage[0] = self.depth.index(depth)
            stage[1:1 + depth] = [self.kernel_size.index(k) for k in kernels[layers]]
            stage[1 + self.max_depth:1 + self.max_depth + depth] = [
                self.exp_ratio.index(e) for e in expansions[layers]]
            start += depth
        x[-1] = self.resolution.index(resolution)
        return x

    def decode(self, x: np.ndarray) -> Arch:
        """Returns the architecture of a (46,) vector; raises UserError for an invalid vector."""
        vector = self.check(x)
        arch: Arch = {"ks": [], "e": [], "d": [], "r": self.resolution[vector[-1]]}
        for stage in self._stages(vector):
            depth = self.depth[stage[0]]
            kernels, expansions = stage[1:].reshape(2, self.max_depth)[:, :depth]
            arch["ks"] += [self.kernel_size[i] for i in kernels]
            arch["e"] += [self.exp_ratio[i] for i in expansions]
            arch["d"].append(depth)
        return arch

    def canonical(self, X: np.ndarray) -> np.ndarray:
        """Returns a copy of the (n, 46) integer array with all unused genes set to 0."""
        X = np.array(X, dtype=int)
        stages = self._stages(X)
        used = np.arange(self.max_depth) < np.array(self.depth)[stages[..., :1]]
        stages[..., 1:] *= np.concatenate([used, used], axis=-1)
        return X

    def _stages(self, X: np.ndarray) -> np.ndarray:
        """Returns a (..., 5, 9) view of (..., 46) vectors: depth, kernels, expansions by stage."""
        return X[..., :-1].reshape(*X.shape[:-1], self.num_blocks, 1 + 2 * self.max_depth)

    def _parts(self, arch: Arch) -> tuple[list[int], list[int], list[int], int]:
        if not isinstance(arch, dict):
            raise UserError(f"an architecture is a dict with the keys ks, e, d, r, not a "
                            f"{type(arch).__name__}")
        missing = [key for key in ("ks", "e", "d", "r") if key not in arch]
        if missing:
            raise UserError(f"the architecture lacks {', '.join(missing)}; it needs ks, e, d, r")
        depths = _integers(arch, "d", self.num_blocks, self.depth)
        kernels = _integers(arch, "ks", sum(depths), self.kernel_size)
        expansions = _integers(arch, "e", sum(depths), self.exp_ratio)
        (resolution,) = _integers({"r": [arch["r"]]}, "r", 1, self.resolution)
        return depths, kernels, expansions, resolution


def _integers(arch: Arch, key: str, length: int, options: list[int]) -> list[int]:
    values = arch[key]
    if not isinstance(values, list | tuple) or len(values) != length:
        size = f"{len(values)} entries" if isinstance(values, list | tuple) else repr(values)[:60]
        raise UserError(f"{key!r} of the architecture must be a list of {length} integers, "
                        f"not {size}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | np.integer) \
                or value not in options:
            raise UserError(f"{key!r} of the architecture holds {str(value)[:60]!r}; the space has "
                            f"{', '.join(map(str, options))}")
    return [int(value) for value in values]


def _choices(what: str, options: list[int], wanted: Sequence[int] | None) -> list[int]:
    chosen = options if wanted is None else list(wanted)
    unknown = [value for value in chosen if value not in options]
    if unknown or not chosen:
        raise UserError(f"{what} must be among {', '.join(map(str, options))}, not {chosen}")
    return chosen


def _checked_resolutions(resolutions: Sequence[int]) -> list[int]:
    values = [int(r) for r in resolutions]
    if not values or sorted(set(values)) != values or min(values) < 1:
        raise UserError(f"resolutions must be different positive integers in ascending order, "
                        f"not {values}")
    return values
