"""What samples are compared by: numbers that a network, or nothing, makes of each; one kind per file."""

from common.metrics.features.base import Features, Wanted
from common.metrics.features.classifier import Classifier
from common.metrics.features.efficientnet import EfficientNet
from common.metrics.features.lenet import LeNet
from common.metrics.features.pixels import Pixels

# from the one that is taken first to the last
FEATURES: dict[str, type[Features]] = {
    features.name: features for features in (LeNet, EfficientNet, Classifier, Pixels)
}

__all__ = ["FEATURES", "Features", "Wanted"]
