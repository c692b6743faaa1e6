"""The Once-for-All MobileNetV3 space: 5 stages of 2-4 layers, kernel, expansion, resolution.

Other spaces of inverted residuals differ in their backbone alone: see `search_space.proxyless`.
"""

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from search_space.backbones import MOBILENET_V3, Backbone
from search_space.base import Arch, Gene, SearchSpace
from search_space.layers import POOL, Layer, Slot
from search_space.values import (
    check_keys,
    check_supernet,
    checked_resolutions,
    chosen,
    position,
    positions,
    without_wrapping,
)
from utils.errors import UserError

DEFAULT_RESOLUTIONS = tuple(range(192, 257, 4))


@dataclass(frozen=True)
class SupernetLayers:
    """The layers that the subnets of one supernet can have.

    Attributes:
        backbone: the fixed part of the supernet.
        n_classes: outputs of the classifier.
        width_mult: the multiplier of all widths.
    """

    backbone: Backbone
    n_classes: int = 1000
    width_mult: float = 1.0

    def __post_init__(self) -> None:
        check_supernet(self.n_classes, self.width_mult)

    def body(self, resolution: int) -> tuple[Layer, ...]:
        """Returns the two fixed layers before the first stage at an input of `resolution` px."""
        b, width = self.backbone, self._width
        stem = Layer("conv", "first_conv", resolution, 3, width(b.stem_width), 3, 2,
                     act=b.stem_act)
        channels = width(b.first.width)
        first = Layer("mbconv", "MBConv", stem.out_size, stem.out_channels, channels, 3,
                      b.first.stride, 1, stem.out_channels, b.first.act, b.first.se,
                      skip=b.first.stride == 1 and stem.out_channels == channels)
        return stem, first

    def block(self, stage: int, position: int, kernel: int, expand: int, size: int) -> Layer:
        """Returns an elastic layer: number `position` of `stage`, its input `size` px wide."""
        stages = self.backbone.blocks
        row, first = stages[stage], position == 0
        previous = stages[stage - 1] if stage else self.backbone.first
        out_channels = self._width(row.width)
        in_channels = self._width(previous.width) if first else out_channels
        stride = row.stride if first else 1
        return Layer("mbconv", "MBConv", size, in_channels, out_channels, kernel, stride, expand,
                     in_channels * expand, row.act, row.se,
                     skip=stride == 1 and in_channels == out_channels)

    def head(self, size: int) -> tuple[Layer, ...]:
        """Returns the fixed layers after the last stage, which gives maps of `size` px."""
        b, width = self.backbone, self._width
        last, mixed = width(b.blocks[-1].width), width(b.feature_mix)
        classifier = Layer("linear", "classifier", 1, mixed, self.n_classes, bn=False, bias=True)
        if b.final_expand is None:
            return (Layer("conv", "feature_mix_layer", size, last, mixed, act=b.head_act),
                    Layer("pool", POOL, size, mixed, mixed), classifier)
        expanded = width(b.final_expand)
        return (Layer("conv", "final_expand_layer", size, last, expanded, act=b.head_act),
                Layer("pool", POOL, size, expanded, expanded),
                Layer("conv", "feature_mix_layer", 1, expanded, mixed, act=b.head_act, bn=False),
                classifier)

    def stage_sizes(self, resolution: int) -> list[int]:
        """Returns the input size of each stage, then that of the head, in pixels."""
        sizes = [self.body(resolution)[-1].out_size]
        for stage in self.backbone.blocks:
            sizes.append(-(-sizes[-1] // stage.stride))
        return sizes

    def _width(self, base: int) -> int:
        return self.backbone.width(base, self.width_mult)


@dataclass(frozen=True)
class LayerGenes:
    """Where a layer of the largest subnet stands, and the genes that decide about it.

    The single layer after the stages has no `depth_gene`: it is always there.
    """

    stage: int
    position: int
    depth_gene: int | None
    kernel_gene: int
    expand_gene: int


class OFASearchSpace(SearchSpace):
    """Architectures `{"ks": [...], "e": [...], "d": [d1..d5], "r": int}`.

    `ks` (kernel sizes) and `e` (expansion ratios) hold one entry for each of the `sum(d)` layers.
    The encoding (NSGANetV2, Section 3.1) has, for each stage, `[depth index, 4 kernel indices,
    4 expansion indices]`, then the resolution index: 46 integers.

    Args:
        resolutions: the input resolutions in pixels, ascending.
        seed: seeds the generator that `sample` and `initialize` use where none is passed.

    Attributes:
        layer_genes: one for each layer of the largest subnet.
    """

    name = "mbv3"
    options: ClassVar[tuple[str, ...]] = ("resolutions",)
    family: ClassVar[str | None] = "mbv3"
    backbone: ClassVar[Backbone] = MOBILENET_V3

    def __init__(self, resolutions: Sequence[int] = DEFAULT_RESOLUTIONS, seed: int = 0) -> None:
        self.num_blocks = len(self.backbone.stages)
        self.kernel_size = [3, 5, 7]
        self.exp_ratio = [3, 4, 6]
        self.depth = [2, 3, 4]
        self.resolutions = checked_resolutions(resolutions)
        self.max_depth = max(self.depth)
        self.layer_genes = self._all_layer_genes()
        self._genes = self._named_genes()
        self.upper = np.array([len(gene.values) - 1 for gene in self._genes])
        self.lower = np.zeros_like(self.upper)
        self._rng = np.random.default_rng(seed)

    @property
    def genes(self) -> tuple[Gene, ...]:
        """What each integer stands for."""
        return self._genes

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
        extra = len(self.backbone.blocks) - self.num_blocks
        depths = chosen("depth", self.depth, d)
        kernels = chosen("kernel size", self.kernel_size, ks)
        expansions = chosen("expansion ratio", self.exp_ratio, e)
        resolutions = chosen("resolution", self.resolutions, r)
        archs = []
        for _ in range(n_samples):
            depth = rng.choice(depths, self.num_blocks).tolist()
            archs.append({"ks": rng.choice(kernels, sum(depth) + extra).tolist(),
                          "e": rng.choice(expansions, sum(depth) + extra).tolist(),
                          "d": depth, "r": int(rng.choice(resolutions))})
        return archs

    def initialize(self, n_doe: int, *, rng: np.random.Generator | None = None) -> list[Arch]:
        """See `SearchSpace.initialize`; without `rng` the space's own generator is used."""
        return super().initialize(n_doe, rng=self._rng if rng is None else rng)

    def encode(self, arch: Arch) -> np.ndarray:
        """Returns the canonical (46,) integer vector; raises UserError for an invalid arch."""
        depths, kernels, expansions, resolution = self._parts(arch)
        x = np.zeros(self.n_var, dtype=int)
        choices = iter(zip(kernels, expansions, strict=True))
        for layer in self.layer_genes:
            if layer.depth_gene is not None:
                x[layer.depth_gene] = self.depth.index(depths[layer.stage])
            if layer.depth_gene is None or layer.position < depths[layer.stage]:
                kernel, expand = next(choices)
                x[layer.kernel_gene], x[layer.expand_gene] = kernel, expand
        x[-1] = resolution
        return x

    def decode(self, x: np.ndarray) -> Arch:
        """Returns the architecture of a (46,) vector; raises UserError for an invalid vector."""
        genes = self.check(x).tolist()
        used = [layer for layer in self.layer_genes if layer.depth_gene is None
                or layer.position < self.depth[genes[layer.depth_gene]]]
        return {"ks": [self.kernel_size[genes[layer.kernel_gene]] for layer in used],
                "e": [self.exp_ratio[genes[layer.expand_gene]] for layer in used],
                "d": [self.depth[genes[layer.depth_gene]] for layer in self.layer_genes
                      if layer.position == 0 and layer.depth_gene is not None],
                "r": self.resolutions[genes[-1]]}

    def resolutions_of(self, X: np.ndarray) -> np.ndarray:
        """Returns the input resolutions (n,) in pixels of (n, 46) vectors."""
        return np.array(self.resolutions)[np.asarray(X)[:, -1]]

    def choices(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns, for each of the 20 layers, what (n, 46) vectors choose.

        Returns:
            Kernel indices, expansion indices, and whether the layer is used: (n, 20) each.
        """
        X = np.asarray(X)
        kernel_genes = [layer.kernel_gene for layer in self.layer_genes]
        return (X[:, kernel_genes], X[:, [layer.expand_gene for layer in self.layer_genes]],
                self.active(X)[:, kernel_genes])

    def describe(self, arch: Arch) -> str:
        """Returns one line: the resolution, then kernel and expansion of the layers by stage."""
        choices = iter(zip(arch["ks"], arch["e"], strict=True))
        stages = [" ".join("k{}e{}".format(*next(choices)) for _ in range(depth))
                  for depth in [*arch["d"], *([1] if self.backbone.single else [])]]
        return f"{arch['r']} px: {' | '.join(stages)}"

    def summary(self, arch: Arch) -> dict[str, int | float | str]:
        """Returns the resolution and the number of elastic layers."""
        return {"resolution": arch["r"], "layers": len(arch["ks"])}

    def slots(self, n_classes: int = 1000, width_mult: float = 1.0) -> list[Slot]:
        """See `SearchSpace.slots`: the stem and first layer, 20 elastic layers, the head."""
        net = SupernetLayers(self.backbone, n_classes, width_mult)
        sizes = [net.stage_sizes(r) for r in self.resolutions]
        r = self.n_var - 1
        return [Slot((r,), lambda index: net.body(self.resolutions[index])),
                *(self._slot(net, layer, sizes) for layer in self.layer_genes),
                Slot((r,), lambda index: net.head(sizes[index][-1]))]

    def _slot(self, net: SupernetLayers, layer: LayerGenes, sizes: list[list[int]]) -> Slot:
        """Returns the slot of one elastic layer; `sizes` are the stages' inputs by resolution."""
        stage = layer.stage + (layer.position > 0)  # later layers see the stage's output size

        def build(depth: int, kernel: int, expand: int, resolution: int) -> tuple[Layer, ...]:
            if layer.position >= self.depth[depth]:
                return ()
            return (net.block(layer.stage, layer.position, self.kernel_size[kernel],
                              self.exp_ratio[expand], sizes[resolution][stage]),)

        genes = (layer.kernel_gene, layer.expand_gene, self.n_var - 1)
        if layer.depth_gene is None or layer.position < min(self.depth):
            return Slot(genes, partial(build, 0))  # always there, whatever the depth
        return Slot((layer.depth_gene, *genes), build)

    def _all_layer_genes(self) -> list[LayerGenes]:
        stage_genes = 1 + 2 * self.max_depth
        layers = [LayerGenes(stage, position, first, first + 1 + position,
                        first + 1 + self.max_depth + position)
                  for stage in range(self.num_blocks) for first in [stage * stage_genes]
                  for position in range(self.max_depth)]
        if self.backbone.single:
            end = self.num_blocks * stage_genes
            layers.append(LayerGenes(self.num_blocks, 0, None, end, end + 1))
        return layers

    def _named_genes(self) -> tuple[Gene, ...]:
        """Returns what each gene stands for, in the order of the encoding."""
        genes = {max(layer.expand_gene for layer in self.layer_genes) + 1:
                 Gene("resolution", tuple(self.resolutions), "resolution")}
        for layer in self.layer_genes:
            stage, needs = f"stage {layer.stage + 1}", None
            name = f"{stage}, layer {layer.position + 1}"
            if layer.depth_gene is not None:
                genes[layer.depth_gene] = Gene(f"{stage}: depth", tuple(self.depth),
                                               f"{stage} depth")
                needs = layer.depth_gene, bisect(self.depth, layer.position)
            genes[layer.kernel_gene] = Gene(f"{name}: kernel", tuple(self.kernel_size),
                                            f"{stage} kernel", needs=needs)
            genes[layer.expand_gene] = Gene(f"{name}: expansion", tuple(self.exp_ratio),
                                            f"{stage} expansion", needs=needs)
        return tuple(genes[i] for i in sorted(genes))

    def _used(self, values: Any, depths: list[int]) -> Any:
        """Returns a list of the `ofa` package, of all 20 layers, without those that are not used.

        Each stage has the first `depth` of its 4 entries; a list of another length stays.
        """
        if not isinstance(values, list | tuple) or len(values) != len(self.layer_genes):
            return values
        return [value for value, layer in zip(values, self.layer_genes, strict=True)
                if layer.depth_gene is None or layer.position < depths[layer.stage]]

    def _parts(self, arch: Any) -> tuple[list[int], list[int], list[int], int]:
        """Returns the depths, and the indices of kernels, expansions and resolution."""
        arch = without_wrapping(arch)
        check_keys(arch, ("ks", "e", "d", "r"))
        depths = [self.depth[i] for i in positions(arch, "d", self.num_blocks, self.depth)]
        layers = sum(depths) + len(self.backbone.blocks) - self.num_blocks
        arch |= {key: self._used(arch[key], depths) for key in ("ks", "e")}
        return (depths, positions(arch, "ks", layers, self.kernel_size),
                positions(arch, "e", layers, self.exp_ratio),
                position("r", arch["r"], self.resolutions))
