"""What a sample is: everything about a data set that a run must remember, in one place."""

import difflib
import math
import reprlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from common.labels import NULL_LABEL
from common.refusal import Refusal, require

Kind = Literal["image", "function", "sound"]
BYTE = 255.0  # largest level of uint8 images
LARGEST = 2**24  # numbers of one sample, e.g. 2362 x 2362 in three colours
NAMED = 12  # classes that a message names
DIGITS = 10  # of a number that may be a class
UNIT = (0.0, 1.0)  # the range of images in generated arrays


@dataclass(frozen=True)
class DataSpec:
    """One sample of a data set, and the map between its own units and the network's scale [-1, 1].

    Attributes:
        kind: ``image`` (C, H, W), ``function`` (C, L) or ``sound`` (C, L).
        shape: shape (C, *S) of one sample.
        value_range: what -1 and 1 stand for in generated arrays: (0, 1) for uint8 images; the extremes of the training
            part, in its own units, for floats.
        sample_rate: points per second of a sound; None for anything else.
        classes: names of the classes, in the order of the labels; None if there are no labels.
        samples: how many samples there are to learn from; None if that is not known.
        per_class: how many of them there are of each class; None without labels, or if that is not known.
    """

    kind: Kind
    shape: tuple[int, ...]
    value_range: tuple[float, float] = UNIT
    sample_rate: int | None = None
    classes: tuple[str, ...] | None = None
    samples: int | None = None
    per_class: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        require(self.kind in ("image", "function", "sound"), "kind", "image, function or sound", self.kind)
        axes = 3 if self.is_image else 2
        require(len(self.shape) == axes, "shape", "(C, H, W)" if self.is_image else "(C, L)", self.shape)
        require(min(self.shape) >= 1, "shape", "of at least 1 on each axis", self.shape)
        require(math.prod(self.shape) <= LARGEST, "shape", f"of at most {LARGEST:,} numbers in all", self.shape)
        require(self.value_range[0] < self.value_range[1], "value_range", "two rising numbers", self.value_range)
        require(self.classes != (), "classes", "at least one, or none at all", self.classes)
        counted = self.per_class is None or (len(self.per_class) == self.num_classes and min(self.per_class) >= 0)
        require(counted, "per_class", "a number from 0 on for each class", self.per_class)
        is_right = (self.sample_rate is not None) == (self.kind == "sound")
        require(self.sample_rate is None or self.sample_rate >= 1, "sample_rate", "at least 1", self.sample_rate)
        require(is_right, "sample_rate", "given for sounds and for nothing else", self.sample_rate)

    @property
    def is_image(self) -> bool:
        """Whether a sample is (C, H, W)."""
        return self.kind == "image"

    @property
    def channels(self) -> int:
        """C."""
        return self.shape[0]

    @property
    def grid(self) -> tuple[int, ...]:
        """*S."""
        return self.shape[1:]

    @property
    def num_classes(self) -> int | None:
        """Number of classes; None if there are no labels."""
        return None if self.classes is None else len(self.classes)

    @property
    def learned_classes(self) -> tuple[int, ...]:
        """Numbers of the classes that were learned from; of all if that is not known, of none without labels."""
        if self.per_class is None:
            return tuple(range(self.num_classes or 0))
        return tuple(label for label, count in enumerate(self.per_class) if count)

    def numbers_of(self, wanted: Sequence[int | str]) -> tuple[int, ...]:
        """Numbers of classes that are asked for by name or number; a name counts first.

        Args:
            wanted: names, numbers, or numbers as text.

        Raises:
            Refusal: for what is neither, with the classes there are; for anything, if there are none.
        """
        if wanted and self.classes is None:
            raise Refusal("has no effect on this run, which was trained without labels; leave it out", "labels")
        exact = {name: label for label, name in enumerate(composed(self.classes or ()))}
        numbers = {name.strip(): label for name, label in exact.items()} | exact
        found = []
        for word in wanted:
            name = unicodedata.normalize("NFC", str(word))
            name = name if name in exact else name.strip()
            label = int(name) if name.isascii() and name.isdigit() and len(name) < DIGITS else -1
            label = numbers.get(name, label) if isinstance(word, str) else label
            if not 0 <= label < len(self.classes or ()):
                raise Refusal(f"{reprlib.repr(name)} is no class; {self._told(name)}", "labels")
            found.append(label)
        return tuple(found)

    def labels_for(self, indices: Sequence[int], wanted: Sequence[int | str] | None = None) -> Tensor | None:
        """Classes of samples to draw: the wanted ones in turn, else in turn all that were learned.

        Args:
            indices: sample indices.
            wanted: classes to ask for, by name or number; None for all that were learned.

        Returns:
            (len(indices),) int64, or None without classes.

        Raises:
            Refusal: for classes that do not exist, or any if there are none.
        """
        cycle = self.numbers_of(wanted or ()) or self.learned_classes
        if self.classes is None:
            return None
        return torch.tensor([cycle[i % len(cycle)] for i in indices], dtype=torch.int64)

    def _told(self, wanted: str) -> str:
        """The classes for a message, those that are written like a word first."""
        names = self.classes or ()
        if all(name == str(i) for i, name in enumerate(names)):
            return f"there are 0 to {len(names) - 1}"
        near = difflib.get_close_matches(wanted, names, n=3)
        shown = [f"{names.index(name)} {name}" for name in near] or [f"{i} {name}" for i, name in enumerate(names)]
        more = f" and {len(names) - NAMED:,} more" if len(shown) > NAMED else ""
        what = f"of the {len(names):,} there are, the nearest: " if near else "there are "
        return what + ", ".join(shown[:NAMED]) + more

    def names_classes_like(self, other: "DataSpec") -> bool:
        """Whether labels mean the same.

        Runs of earlier versions, which have not counted their classes, have numbers instead of names, or no labels.
        """
        if self.classes is None or other.classes is None or composed(self.classes) == composed(other.classes):
            return True
        if self.per_class is not None and other.per_class is not None:
            return False
        numbered = tuple(map(str, range(len(self.classes))))
        return len(self.classes) == len(other.classes) and numbered in (self.classes, other.classes)

    def other_classes(self, other: "DataSpec") -> str:
        """How the classes of another data set differ from these, in words."""
        here, there = self.classes or (), other.classes or ()
        changes = (
            (what, [name for name in names if name not in others])
            for what, names, others in (("without", here, {*there}), ("with", there, {*here}))
        )
        told = [f"{what} {', '.join(names[:NAMED])}{', ..' * (len(names) > NAMED)}" for what, names in changes if names]
        return f"{len(there):,} classes instead of {len(here):,}, " + (" and ".join(told) or "in another order")

    def unlabelled(self) -> "DataSpec":
        """The same samples without their labels."""
        return replace(self, classes=None, per_class=None)

    def to_network(self, x: Tensor) -> Tensor:
        """Stored samples on the network's scale.

        Args:
            x: uint8 in 0 .. 255, or floats in the units of the data; any shape.

        Returns:
            float32 in [-1, 1] (floats outside ``value_range`` go beyond).
        """
        low, high = self._levels(x.dtype)
        return (x.float() - low) / (high - low) * 2 - 1

    def in_units(self, x: Tensor) -> Tensor:
        """Samples on the network's scale in the units of the data, beyond their range too."""
        low, high = self.value_range
        return low + (high - low) * (x + 1) / 2

    def from_network(self, x: Tensor) -> Tensor:
        """Samples on the network's scale in the units of the data; images are clipped to their range."""
        share = (x + 1) / 2
        low, high = self.value_range
        return low + (high - low) * (share.clamp(0, 1) if self.is_image else share)

    def pictured(self, x: Tensor) -> Tensor:
        """Stored or generated samples as pictures show them: images in [0, 1], all others in the units of the data."""
        share = self.to_network(x)
        return (share + 1) / 2 if self.is_image else self.from_network(share)

    def names_of(self, labels: Tensor | None) -> tuple[str, ...] | None:
        """The classes of labels (N,), empty where a label is the null one; None without labels or classes."""
        if labels is None or self.classes is None:
            return None
        return tuple("" if label == NULL_LABEL else self.classes[label] for label in labels.tolist())

    def moments_to_network(self, mean: Tensor, variance: Tensor, stored: torch.dtype) -> tuple[Tensor, Tensor]:
        """Mean and variance of stored samples on the network's scale.

        Args:
            mean: any shape.
            variance: any shape.
            stored: type of the samples.

        Returns:
            Both in the types that they came in.
        """
        low, high = self._levels(stored)
        return (mean - low) / (high - low) * 2 - 1, variance * (2 / (high - low)) ** 2

    def _levels(self, stored: torch.dtype) -> tuple[float, float]:
        """The stored values that become -1 and 1."""
        return (0.0, BYTE) if stored == torch.uint8 else self.value_range


def composed(names: Sequence[str]) -> tuple[str, ...]:
    """Names with accents written in one way: macOS, and tables made there, write a letter and its accent apart."""
    return tuple(unicodedata.normalize("NFC", name) for name in names)


def kind_of(shape: Sequence[int], sample_rate: int | None) -> Kind:
    """What samples (C, *S) are: a sound if they have a rate, else an image if there are two axes S, else a function."""
    if sample_rate is not None:
        return "sound"
    return "image" if len(shape) == 3 else "function"
