"""The missing part of a sample."""

from common.data.spec import DataSpec
from common.guidance.operators import Mask, Operator
from common.guidance.tasks.base import Task
from common.guidance.tasks.masks import mask_of
from common.refusal import require


class Inpaint(Task):
    """Part of a sample is observed as it is, the rest is not.

    Args:
        mask: what is known: half hides the right half (half:left, half:top, .. another), box:TOP,LEFT,HEIGHT,WIDTH
            hides a box of pixels, random:0.25 shows a quarter of the points, others of every input, strokes hides
            thin strokes as of handwriting, gap:0.3,0.5 hides a part by start and end (seconds of a sound, else shares
            of the length); or a file (.png, .npy, .npz), white or 1 where values are known.
        mask_seed: seed of masks that are drawn by lot.

    Raises:
        Refusal: for a seed below 0.
    """

    def __init__(self, mask: str = "half", mask_seed: int = 0) -> None:
        require(mask_seed >= 0, "mask_seed", "at least 0", mask_seed)
        self.mask, self.mask_seed = mask, mask_seed

    def operator(self, spec: DataSpec, count: int) -> Operator:
        mask = mask_of(self.mask, spec, count, self.mask_seed)
        return Mask(mask, per_sample=mask.ndim > len(spec.shape))
