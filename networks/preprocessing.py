"""What images go through before a network. Free of torch."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self


class Preprocessing(NamedTuple):
    """What images go through before the network, and what its outputs are called.

    Attributes:
        resolution: height and width in pixels.
        transform: `crop` (resize to ceil(resolution / 0.875), bilinear, cut the centre) or
            `squash` (resize straight, bicubic); None where nothing is known.
        mean, std: of the pixels in [0, 1], by channel; None likewise.
        class_names: in the order of the outputs; empty where they are not known.
    """

    resolution: int
    transform: str | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    class_names: Sequence[str] = ()

    @classmethod
    def of(cls, resolution: int, facts: Mapping[str, Any]) -> Self:
        """Returns what `DataProvider.facts` records of the images, at a resolution."""
        return cls(resolution, **{name: facts[name] for name in cls._fields[1:]})

    def as_text(self) -> dict[str, str]:
        """Returns what is known, as text: what files can carry; the names as a list in JSON."""
        names = json.dumps(self.class_names, ensure_ascii=False) if self.class_names else None
        return {name: str(value) for name, value in
                {**self._asdict(), "class_names": names}.items() if value is not None}
