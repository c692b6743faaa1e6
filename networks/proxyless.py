"""ProxylessNAS: 5 elastic stages and a single elastic layer, no squeeze-and-excitation.

Source: ProxylessNAS (Cai et al., ICLR 2019), made elastic in Once for All (Cai et al., ICLR 2020).
"""

from ofa.imagenet_classification import networks as ofa_networks
from ofa.imagenet_classification.elastic_nn.networks import OFAProxylessNASNets

from networks.inverted_residuals import InvertedResidualSupernets
from networks.static import StaticNetwork


class ProxylessNASNets(StaticNetwork, ofa_networks.ProxylessNASNets):
    """A ProxylessNAS network (Cai et al., ICLR 2019): (b, 3, r, r) images to (b, n_classes)."""


class ProxylessSupernets(InvertedResidualSupernets):
    """The family `proxyless`, published at width 1.3."""

    network = ProxylessNASNets
    supernet = OFAProxylessNASNets
    space = "proxyless"
    title = "OFA ProxylessNAS"
    config_name = "ProxylessNASNets"
    fixed = ("first_conv", "feature_mix_layer", "classifier")
    features = 1280
    # the sixth block has one layer in every subnet; `d` of an architecture leaves it out
    last_depths = (1,)
