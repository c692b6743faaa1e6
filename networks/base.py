"""The base class of a family of supernets."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

from torch import Tensor

from networks.configs import Config
from networks.static import StaticNetwork
from search_space.backbones import make_divisible, width_from_name
from search_space.base import Arch
from utils.errors import UserError


class WeightSource(NamedTuple):
    """Where a module of a subnet takes its weights from.

    Attributes:
        name: of the module in the static network, as `blocks.3.conv`.
        module: its elastic counterpart in the supernet, at full size.
        kernel: kernel size of its depthwise convolution, where that is elastic.
    """

    name: str
    module: Any
    kernel: int | None = None


class Supernets(ABC):
    """Builds the supernets of one family and describes how their subnets are cut.

    A supernet is a module of the `ofa` package. All methods but `activate` only read it, so that
    several threads may cut at once.

    Attributes:
        network: the class of its static networks.
    """

    network: ClassVar[type[StaticNetwork]]

    @classmethod
    def named(cls, family: str) -> Self:
        """Returns what builds the supernets of the family of this name."""
        return cls()

    @abstractmethod
    def build(self, n_classes: int, width_mult: float, dropout: float) -> Any:
        """Returns a supernet with random weights, its largest subnet active."""

    @abstractmethod
    def shape(self, state: Mapping[str, Tensor], path: str | os.PathLike,
              width: float | None = None) -> tuple[int, float]:
        """Returns the class count and the width multiplier of a supernet's state dict.

        Args:
            state: in today's key naming.
            path: its file; the width is in its name, where `width` is None.
            width: the width multiplier, where the file records it.

        Raises:
            UserError: no supernet of this family, or one of another width.
        """

    @abstractmethod
    def config(self, supernet: Any, arch: Arch) -> Config:
        """Returns the network config of a subnet; fields at their defaults may be left out."""

    @abstractmethod
    def sources(self, supernet: Any, arch: Arch) -> list[WeightSource]:
        """Returns where each module of a subnet that has weights takes them from."""

    @abstractmethod
    def arch(self, supernet: Any, config: Config) -> Arch:
        """Returns the architecture, without resolution, of a static network's config.

        It may be no subnet of the supernet: then `config` of the result is another config.

        Raises:
            ValueError, LookupError: the config has no such form.
        """

    @abstractmethod
    def activate(self, supernet: Any, arch: Arch) -> None:
        """Makes `arch` the active subnet of a supernet in training."""


def checked_classes(state: Mapping[str, Tensor], path: str | os.PathLike, what: str, key: str,
                    n_dims: int = 2) -> int:
    """Returns the outputs of a layer, as the classifier, by the tensor `key` of a supernet.

    Raises:
        UserError: it is missing or misshapen.
    """
    tensor = state.get(key)
    if tensor is None or tensor.dim() != n_dims or not tensor.numel():
        raise UserError(f"{path}: no checkpoint of an {what} supernet: {key!r} is missing or "
                        "misshapen")
    return len(tensor)


def checked_shape(state: Mapping[str, Tensor], path: str | os.PathLike, width: float | None, *,
                  what: str, classifier: str, features: str, base: int) -> tuple[int, float]:
    """Returns the class count and the width multiplier by two tensors of a supernet.

    Args:
        state: the supernet's state dict.
        path: its file.
        width: the width multiplier; None takes it from the file's name.
        what: the family, for messages.
        classifier: key of the classifier's weight, (n_classes, features).
        features: key of the weight (f, ...) of the last convolution.
        base: f at width 1.0.

    Raises:
        UserError: one is missing or misshapen, or its size is that of another width.
    """
    classes = checked_classes(state, path, what, classifier)
    found = checked_classes(state, path, what, features, 4)
    told = "by its name" if width is None else "as it says itself"
    width = width_from_name(path) if width is None else width
    if not 0 < width < 100 or make_divisible(base * width) != found:
        raise UserError(f"{path}: {told} the width is {width}, but the last convolution has "
                        f"{found} channels, which is width {found / base:.4g}; rename the file: "
                        "..._w1.2 is width 1.2")
    return classes, width
