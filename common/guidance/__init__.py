"""Denoiser wrappers that steer what is drawn, one method per file. A plugin may add to the register.

A wrapper takes the denoiser first and has a denoiser's call. Arguments named ``dynamics``, ``spec`` and ``run`` are
filled in; all others are flags of generate.py, made from the signature and its documentation. ``Matched`` steers
nothing, and is not in the register: it takes a denoiser to another process.
"""

from torch import nn

from common.guidance.classifier_free import ClassifierFree
from common.guidance.matched import Matched, NotReached

GUIDANCE: dict[str, type[nn.Module]] = {"classifier_free": ClassifierFree}

__all__ = ["GUIDANCE", "ClassifierFree", "Matched", "NotReached"]
