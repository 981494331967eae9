"""A sharp sample from a blurred one."""

import math

from common.data.spec import DataSpec
from common.guidance.operators import Blur, LowPass, Operator
from common.guidance.tasks.base import Task
from common.refusal import Refusal, require

PUBLISHED = 10 / 64  # radius over side: 305 of the 4,096 frequencies of an image of 64 x 64 (FDP, CelebA)
LEAST = 2.0  # of the default radius, so that more than the mean is left of small images


class Deblur(Task):
    """Low frequencies are observed, or a sample that was blurred by a Gaussian; both wrap around at the edges.

    Args:
        lowpass_radius: frequencies below this number of periods along the sides are kept, all others are lost (default:
            10 of 64 points, as published, and at least 2).
        blur_std: deviation of a Gaussian, in points, by which samples are blurred instead.

    Raises:
        Refusal: for both, or numbers that are not above 0.
    """

    def __init__(self, lowpass_radius: float | None = None, blur_std: float | None = None) -> None:
        if lowpass_radius is not None and blur_std is not None:
            raise Refusal("and --lowpass_radius exclude each other; leave one of them out", "blur_std")
        for name, value in (("lowpass_radius", lowpass_radius), ("blur_std", blur_std)):
            require(value is None or 0 < value < math.inf, name, "above 0", value)
        self.lowpass_radius, self.blur_std = lowpass_radius, blur_std

    def operator(self, spec: DataSpec, count: int) -> Operator:
        if self.blur_std is not None:
            require(self.blur_std < max(spec.grid), "blur_std", f"below {max(spec.grid)}, a side", self.blur_std)
            return Blur(self.blur_std, spec.grid)
        radius = max(LEAST, PUBLISHED * min(spec.grid)) if self.lowpass_radius is None else self.lowpass_radius
        return low_pass(radius, spec, "lowpass_radius", f"{radius:g}")


def low_pass(radius: float, spec: DataSpec, argument: str, told: str) -> Operator:
    """The low-pass of a radius, unless it keeps everything.

    Args:
        radius: frequencies below are kept, in periods along the sides.
        spec: what a sample is.
        argument: what gives the radius, for messages.
        told: the value that was given for it.

    Raises:
        Refusal: if no frequency is lost.
    """
    highest = math.hypot(*(side // 2 for side in spec.grid))
    if radius > highest:
        raise Refusal(
            f"{told} keeps all frequencies of samples of shape {spec.shape}; nothing is to be found", argument
        )
    return LowPass(radius, spec.grid)
