"""Denoiser wrappers that steer what is drawn, one method per file. A plugin may add to the registers.

A wrapper takes the denoiser first and has a denoiser's call. Arguments named ``dynamics``, ``spec`` and ``run`` are
filled in; all others are flags of generate.py, made from the signature and its documentation. ``Matched`` steers
nothing, and is not in the register: it takes a denoiser to another process. ``METHODS`` are those that know an
observation.
"""

from torch import nn

from common.guidance.classifier_free import ClassifierFree
from common.guidance.conditioned import Conditioned
from common.guidance.exact import ExactCovariance
from common.guidance.isotropic import Isotropic
from common.guidance.matched import Matched, NotReached
from common.guidance.replacement import Replacement

GUIDANCE: dict[str, type[nn.Module]] = {"classifier_free": ClassifierFree}
METHODS: dict[str, type[Conditioned]] = {
    "exact": ExactCovariance,
    "isotropic": Isotropic,
    "replacement": Replacement,
}

__all__ = [
    "GUIDANCE",
    "METHODS",
    "ClassifierFree",
    "Conditioned",
    "ExactCovariance",
    "Isotropic",
    "Matched",
    "NotReached",
    "Replacement",
]
