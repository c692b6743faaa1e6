"""The Once-for-All ProxylessNAS space: 21 layers of elastic kernel and expansion, in 6 blocks."""

from typing import ClassVar

from search_space.backbones import PROXYLESS_NAS, Backbone
from search_space.ofa import OFASearchSpace


class ProxylessSearchSpace(OFASearchSpace):
    """Architectures `{"ks": [...], "e": [...], "d": [d1..d5], "r": int}`.

    As in `mbv3`, but `ks` and `e` hold `sum(d) + 1` entries: the last is that of the single layer
    of the sixth block. Its kernel and expansion indices stand before the resolution index in the
    encoding: 48 integers. The published supernet has width 1.3.
    """

    name = "proxyless"
    family: ClassVar[str | None] = "proxyless"
    backbone: ClassVar[Backbone] = PROXYLESS_NAS
    default_width: ClassVar[float] = 1.3
