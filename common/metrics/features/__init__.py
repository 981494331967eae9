"""What samples are compared by: numbers that a network, or nothing, makes of each; one kind per file."""

from common.metrics.features.base import Features, Wanted
from common.metrics.features.classifier import Classifier
from common.metrics.features.clip import Clip
from common.metrics.features.dinov2 import DinoV2
from common.metrics.features.efficientnet import EfficientNet
from common.metrics.features.inception import Inception, InceptionClean
from common.metrics.features.lenet import LeNet
from common.metrics.features.pixels import Pixels
from common.metrics.features.speech import Speech
from common.refusal import Refusal

# auto takes the first that can be had, of those that it may take
KINDS: tuple[type[Features], ...] = (
    LeNet, EfficientNet, Classifier, Speech, Inception, InceptionClean, DinoV2, Clip, Pixels
)  # fmt: skip
FEATURES = {kind.name: kind for kind in KINDS}

AUTO = "auto"


def choose(name: str, wanted: Wanted) -> Features:
    """Features by name; ``auto`` takes the first that can be had and that suits the data.

    Raises:
        Refusal: for one that is unknown, or cannot be had, with what to do.
    """
    if name == AUTO:
        found = (kind(wanted) for kind in FEATURES.values() if kind.automatic and not kind.lacking(wanted))
        return next(features for features in found if features.suits)
    if name not in FEATURES:
        raise Refusal(f"{name!r} is unknown; there are {AUTO}, {', '.join(FEATURES)}", "features")
    if problem := FEATURES[name].unfit(wanted):
        raise Refusal(f"{name} {problem}", "features")
    return FEATURES[name](wanted)


__all__ = ["AUTO", "FEATURES", "Features", "Wanted", "choose"]
