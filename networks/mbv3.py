"""MobileNetV3: 5 elastic stages, kernels 3/5/7, expansions 3/4/6, depths 2/3/4.

Source: Once for All (Cai et al., ICLR 2020); NSGANetV2 (Lu et al., ECCV 2020).
"""

from ofa.imagenet_classification import networks as ofa_networks
from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3

from networks.inverted_residuals import InvertedResidualSupernets
from networks.static import StaticNetwork
from search_space.backbones import MOBILENET_V3


class NSGANetV2(StaticNetwork, ofa_networks.MobileNetV3):
    """A subnet of the OFA MobileNetV3 supernet; the same logits as ofa's MobileNetV3 in eval mode.

    Takes (b, 3, r, r) images, gives (b, n_classes) logits. Source: NSGANetV2 (ECCV 2020).
    """


class MobileNetV3Supernets(InvertedResidualSupernets):
    """The family `mbv3`, published at widths 1.0 and 1.2."""

    network = NSGANetV2
    supernet = OFAMobileNetV3
    space = "mbv3"
    title = "OFA MobileNetV3"
    config_name = "MobileNetV3"
    fixed = ("first_conv", "final_expand_layer", "feature_mix_layer", "classifier")
    features = MOBILENET_V3.feature_mix
