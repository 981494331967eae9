"""Which values of a sample are known: halves, boxes, points by lot, strokes, gaps, files. A plugin may add to MASKS.

What follows a colon in ``--mask`` is a class's own text.
"""

import math
from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from common.data.digits import Digits
from common.data.one_file import IMAGES, read_numbers, read_picture
from common.data.source import DataOptions
from common.data.spec import DataSpec
from common.refusal import Refusal
from common.seeding import mix

ARGUMENT = "mask"
INK = 0.7  # of black, from which on a pixel of a digit is a stroke: 18 % of them at 64 x 64
WHITE = 128  # level from which on a pixel of a mask is white


class Masking(ABC):
    """A way to say what is known.

    Args:
        text: what follows its name and a colon; empty without.
    """

    def __init__(self, text: str = "") -> None:
        self.text = text

    @abstractmethod
    def draw(self, spec: DataSpec, count: int, seed: int) -> Tensor:
        """The mask, 1 where values are known: (1, *S), or (N, 1, *S), one for each of so many inputs.

        Raises:
            Refusal: for a text that it does not understand, or samples that it does not suit.
        """

    def numbers(self, count: int, form: str) -> list[float]:
        """Numbers separated by commas, which are finite.

        Raises:
            Refusal: for others than so many.
        """
        try:
            found = [float(part) for part in self.text.split(",")]
        except ValueError:
            found = []
        if len(found) != count or not all(map(math.isfinite, found)):
            raise Refusal(f"{form.partition(':')[0]}:{self.text} is not of the form {form}", ARGUMENT)
        return found


class Half(Masking):
    """half:SIDE hides one side, the right one if none is named."""

    sides = ("right", "left", "bottom", "top")

    def draw(self, spec: DataSpec, count: int, seed: int) -> Tensor:
        side = self.text or self.sides[0]
        known = self.sides if spec.is_image else self.sides[:2]
        if side not in known:
            raise Refusal(f"half:{side}: the sides of {spec.kind}s are {', '.join(known)}", ARGUMENT)
        axis = -1 if side in self.sides[:2] else -2
        middle, mask = spec.grid[axis] // 2, torch.ones(1, *spec.grid)
        first = side in ("left", "top")
        mask.narrow(axis, 0 if first else middle, middle if first else spec.grid[axis] - middle).zero_()
        return mask


class Box(Masking):
    """box:TOP,LEFT,HEIGHT,WIDTH hides a box of pixels."""

    def draw(self, spec: DataSpec, count: int, seed: int) -> Tensor:
        if not spec.is_image:
            raise Refusal(f"box is for images, and samples of this run are {spec.kind}s; give gap:START,END", ARGUMENT)
        numbers = self.numbers(4, "box:TOP,LEFT,HEIGHT,WIDTH")
        top, left, height, width = map(int, numbers)
        inside = min(top, left) >= 0 and top + height <= spec.grid[0] and left + width <= spec.grid[1]
        if [top, left, height, width] != numbers or min(height, width) < 1 or not inside:
            raise Refusal(f"box:{self.text} is no box of pixels in images of {spec.grid[0]}x{spec.grid[1]}", ARGUMENT)
        mask = torch.ones(1, *spec.grid)
        mask[:, top : top + height, left : left + width] = 0
        return mask


class RandomPoints(Masking):
    """random:SHARE shows a share of the points, drawn by lot for every input; a quarter if none is named."""

    def draw(self, spec: DataSpec, count: int, seed: int) -> Tensor:
        share = self.numbers(1, "random:SHARE")[0] if self.text else 0.25
        if not 0 < share < 1:
            raise Refusal(f"random:{self.text}: the share of known points lies between 0 and 1", ARGUMENT)
        points = math.prod(spec.grid)
        mask = torch.zeros(count, points)
        for i, row in enumerate(mask):
            row[torch.randperm(points, generator=generator_of(seed, i))[: round(share * points)]] = 1
        return mask.reshape(count, 1, *spec.grid)


class Strokes(Masking):
    """strokes hides thin strokes, others of every input, as the published inpainting hides those of MNIST's digits.

    They are those of the digits that come with scikit-learn, so that nothing is downloaded: resized to the image by
    bilinear interpolation, and hidden where the ink is dark.
    """

    def draw(self, spec: DataSpec, count: int, seed: int) -> Tensor:
        if not spec.is_image or self.text:
            raise Refusal(f"strokes takes nothing and is for images; samples of this run are {spec.kind}s", ARGUMENT)
        digits = Digits().load(DataOptions(data_dir=Path())).train.images
        assert isinstance(digits, Tensor)  # a set that is built in lies in memory
        chosen = [int(torch.randint(len(digits), (1,), generator=generator_of(seed, i))) for i in range(count)]
        ink = interpolate(digits[chosen].float() / 255, size=list(spec.grid), mode="bilinear", align_corners=False)
        return (ink < INK).float()


class Gap(Masking):
    """gap:START,END hides a part: by seconds of a sound, else by shares of the length."""

    def draw(self, spec: DataSpec, count: int, seed: int) -> Tensor:
        if spec.is_image:
            raise Refusal("gap is for sounds and functions; give box:TOP,LEFT,HEIGHT,WIDTH for images", ARGUMENT)
        start, end = self.numbers(2, "gap:START,END")
        (length,), rate = spec.grid, spec.sample_rate
        whole, unit = (length / rate, " s") if rate else (1.0, " of the length")
        first, last = (round(place / whole * length) for place in (start, end))
        if not (0 <= start < end <= whole and first < last):
            raise Refusal(f"gap:{self.text} is no part of samples from 0 to {whole:g}{unit}", ARGUMENT)
        mask = torch.ones(1, length)
        mask[:, first:last] = 0
        return mask


class FromFile(Masking):
    """A file: a picture, known where it is white, or an array of 0 and 1, for all inputs or for each."""

    def draw(self, spec: DataSpec, count: int, seed: int) -> Tensor:
        path = Path(self.text).expanduser()
        if path.suffix.lower() in IMAGES:
            found = (read_picture(path, 1, ARGUMENT) >= WHITE).float()
            if tuple(found.shape[1:]) != spec.grid:
                raise Refusal(f"{path} has {found.shape[1]}x{found.shape[2]}, samples {told(spec)}", ARGUMENT)
            return found
        found = read_numbers(path, ARGUMENT)
        if not bool(((found == 0) | (found == 1)).all()):
            raise Refusal(f"{path} must hold 0 and 1 alone", ARGUMENT)
        for start in ((), (count,)):
            if found.shape == (*start, *spec.grid):
                return found.float().unsqueeze(len(start))
            if found.shape in {(*start, *spec.grid, channels) for channels in (1, spec.channels)}:
                return found.float().movedim(-1, len(start))
        raise Refusal(f"{path} has shape {tuple(found.shape)}, samples {told(spec)}", ARGUMENT)


MASKS: dict[str, type[Masking]] = {
    "half": Half, "box": Box, "random": RandomPoints, "strokes": Strokes, "gap": Gap
}  # fmt: skip


def mask_of(text: str, spec: DataSpec, count: int, seed: int) -> Tensor:
    """The mask that a text says.

    Args:
        text: a name of ``MASKS``, perhaps with a colon and more, or a file.
        spec: what a sample is.
        count: number of inputs.
        seed: of masks that are drawn by lot.

    Returns:
        1 where values are known: (1 or C, *S), or (N, 1 or C, *S).

    Raises:
        Refusal: if it cannot be, or knows nothing, or everything.
    """
    name, _, more = text.partition(":")
    if name not in MASKS and not Path(text).expanduser().exists():
        raise Refusal(f"{text}: there is no such file, and masks are {', '.join(MASKS)}", ARGUMENT)
    mask = MASKS[name](more).draw(spec, count, seed) if name in MASKS else FromFile(text).draw(spec, count, seed)
    each = mask.flatten(1) if mask.ndim == len(spec.shape) + 1 else mask.reshape(1, -1)
    if not bool(each.any(1).all()):
        raise Refusal(f"{text}: nothing is known; leave --task out to draw without an observation", ARGUMENT)
    if bool(each.all(1).any()):
        raise Refusal(f"{text}: everything is known, so there is nothing to find", ARGUMENT)
    return mask


def generator_of(seed: int, index: int) -> torch.Generator:
    """Random numbers of an input."""
    return torch.Generator().manual_seed(mix(seed, index))


def told(spec: DataSpec) -> str:
    """The grid of samples in a message."""
    return f"have {'x'.join(map(str, spec.grid))}"
