"""Features of many samples: some at a time, kept on disk by what they are of, in several processes if asked for.

Processes of several machines, as torchrun or srun start them, share no more than the folder where features are kept:
each computes those of its share of the parts, then what is still missing; the first one reads them all.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.cluster.place import Place
from common.cluster.workers import Report, Work, Workers
from common.files import remove_leftovers
from common.metrics.features import Features, Wanted, choose
from common.metrics.kept import Kept, name_of
from common.metrics.stored import Stored
from common.progress import bar, tell

FOLDER = "features"
CPU = torch.device("cpu")
OFTEN = 1.0  # seconds between looks at what other processes have kept
Samples = Callable[[], Iterable[Tensor]]


class Part(NamedTuple):
    """Some of the samples.

    Attributes:
        start: how many come before.
        name: of the file where their features are kept; empty if they are not.
        samples: (B, C, *S) on the network's scale.
    """

    start: int
    name: str
    samples: np.ndarray


class Extractor:
    """Features by name, and those of samples.

    A part of the samples is known by the SHA-256 of its numbers, so that what was computed for it once is found again,
    whatever set it belongs to; work that was cut off goes on where it stood.

    Args:
        wanted: what features are for.
        default: name of the features that metrics compare unless they name others, or ``auto``.
        processes: how many compute at once on this machine. The figures do not depend on it.
        device: where; several processes take turns among the CUDA devices.
        place: which one this is of the processes that compute for the same figures; they share the folder of caches.
    """

    def __init__(
        self,
        wanted: Wanted,
        default: str,
        processes: int = 1,
        device: torch.device = CPU,
        *,
        place: Place | None = None,
    ) -> None:
        self.default = default
        self._wanted, self._processes, self._device = wanted, processes, device
        self._place = place or Place()
        self._chosen: dict[str, Features] = {}
        self._unwritable: set[Path] = set()

    def features(self, name: str | None = None) -> Features:
        """Features by name; those that metrics compare if they name none.

        Raises:
            Refusal: if they cannot be had.
        """
        name = name or self.default
        if name not in self._chosen:
            found = choose(name, self._wanted)
            # those that auto took may be asked for by their name too: one network is enough
            self._chosen[name] = next((other for other in self._chosen.values() if other.name == found.name), found)
            if self._processes == 1:
                self._chosen[name].to(self._device)
        return self._chosen[name]

    @property
    def used(self) -> dict[str, Features]:
        """What was asked for so far, by the name that it was asked by."""
        return dict(self._chosen)

    def points(
        self,
        name: str | None,
        samples: Samples,
        count: int,
        title: str,
        folder: Path | None = None,
        *,
        keep: bool = True,
    ) -> Stored:
        """Features of samples, of which those that are not kept yet are computed.

        Args:
            name: of the features.
            samples: gives parts (B, C, *S) on the network's scale, the same ones at every call.
            count: how many samples there are, for the bar.
            title: what the bar says.
            folder: beside which they are kept; None keeps them with what is made of data.
            keep: keep them at all.

        Returns:
            (N, D) float32, on disk beyond a megabyte. Of several processes that torchrun or srun has started the first
            one gets them; the others get nothing, once there is nothing left for them to compute.
        """
        features = self.features(name)
        kept = Kept(self._places(features, folder) if features.costs and keep else (), self._unwritable)
        remove_leftovers(self._wanted.cache_dir, *kept.folders)
        found = Stored(self._wanted.cache_dir)
        with bar(count, title, " samples", silent=not self._place.is_first) as progress:
            told: set[int] = set()

            def tell_done(start: int, size: int) -> None:
                progress.update(size * (start not in told))
                told.add(start)

            if self._place.count > 1 and kept.folders:
                self._share(features, samples, kept, tell_done)
            if not self._place.is_first:
                return found

            def missing() -> Iterator[Part]:
                for part in _parts(samples(), kept):
                    points = kept.read(part.name, len(part.samples))
                    if points is None:
                        yield part
                    else:
                        found.put(part.start, points)
                        tell_done(part.start, len(points))

            for part, points in self._computed(features, missing()):
                kept.write(part.name, points)
                found.put(part.start, points)
                tell_done(part.start, len(points))
        return found

    def _places(self, features: Features, folder: Path | None) -> list[Path]:
        """Where features are kept: beside a folder; if nothing can be written there, with what is made of data."""
        known_by = hashlib.sha256(features.identity.encode()).hexdigest()[:16]
        return [place / FOLDER / known_by for place in (folder, self._wanted.cache_dir) if place is not None]

    def _share(self, features: Features, samples: Samples, kept: Kept, tell_done: Callable[[int, int], None]) -> None:
        """Keep features of every n-th part, then of what others have left: each begins at another place of that."""
        sizes = {part.name: (part.start, len(part.samples)) for part in _parts(samples(), kept)}
        names, rank, count, looked = list(sizes), self._place.rank, self._place.count, -OFTEN

        def compute(wanted: Sequence[str]) -> None:
            nonlocal looked
            for part, points in self._computed(features, _chosen(samples, kept, wanted)):
                kept.write(part.name, points)
                if self._place.is_first and time.monotonic() - looked >= OFTEN:
                    for name in filter(kept.holds, names):
                        tell_done(*sizes[name])
                    looked = time.monotonic()

        compute(names[rank::count])
        left = [name for name in names if not kept.holds(name)]
        middle = len(left) * (rank + 1) // (count + 1)  # who still works on these goes on from their beginning
        compute(left[middle:])
        compute(left[:middle])

    def _computed(self, features: Features, parts: Iterable[Part]) -> Iterator[tuple[Part, Tensor]]:
        """Parts with their features, in the order in which they are done."""
        if self._processes == 1 or not features.costs:  # what costs little is not worth processes
            for part in parts:
                yield part, features(torch.from_numpy(part.samples).to(self._device)).cpu()
            return
        with Workers(self._processes, _ready, (features,), device=self._device.type) as workers:
            for part, points in workers.results(parts, on_death=_tell_death):
                yield part, torch.from_numpy(points)


def _parts(samples: Iterable[Tensor], kept: Kept) -> Iterator[Part]:
    start = 0
    for some in samples:
        yield Part(start, name_of(some) if kept.folders else "", some.numpy())
        start += len(some)


def _chosen(samples: Samples, kept: Kept, names: Sequence[str]) -> Iterator[Part]:
    """Parts by name that are not kept when their turn comes."""
    wanted = set(names)
    for part in _parts(samples(), kept) if wanted else ():
        if not kept.is_lasting:
            return  # nobody would see them
        if part.name in wanted and not kept.holds(part.name):
            yield part


def _tell_death(_: Part | None, how: str) -> None:
    tell(f"note      a process was lost ({how}); its samples go to another one")


# -- in another process ------------------------------------------------------------------------------------------------


def _ready(device: torch.device, features: Features) -> Work[Part, np.ndarray]:
    features.to(device)

    def work(part: Part, _: Report) -> np.ndarray:
        return np.array(features(torch.from_numpy(part.samples).to(device)).cpu())

    return work
