"""Features of many samples: some at a time, kept on disk by what they are of, in several processes if asked for."""

import hashlib
import io
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.files import UNREADABLE, atomic_write, remove_leftovers
from common.metrics.features import Features, Wanted, choose
from common.metrics.stored import Stored
from common.progress import bar

FOLDER = "features"
POINTS = "points"
CPU = torch.device("cpu")
AHEAD = 2  # parts that wait for each process


class Extractor:
    """Features by name, and those of samples.

    A part of the samples is known by the SHA-256 of its numbers, so that what was computed for it once is found again,
    whatever set it belongs to; work that was cut off goes on where it stood.

    Args:
        wanted: what features are for.
        default: name of the features that metrics compare unless they name others, or ``auto``.
        processes: how many compute at once. The figures do not depend on it.
        device: where; several processes take turns among the CUDA devices.
    """

    def __init__(self, wanted: Wanted, default: str, processes: int = 1, device: torch.device = CPU) -> None:
        self.default = default
        self._wanted, self._processes, self._device = wanted, processes, device
        self._chosen: dict[str, Features] = {}

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
        samples: Iterable[Tensor],
        count: int,
        title: str,
        folder: Path | None = None,
        *,
        keep: bool = True,
    ) -> Stored:
        """Features of samples.

        Args:
            name: of the features.
            samples: parts (B, C, *S) on the network's scale.
            count: how many samples there are, for the bar.
            title: what the bar says.
            folder: beside which they are kept; None keeps them with what is made of data.
            keep: keep them at all.

        Returns:
            (N, D) float32, on disk beyond a few megabytes.
        """
        features = self.features(name)
        known_by = hashlib.sha256(features.identity.encode()).hexdigest()[:16]
        place = (folder or self._wanted.cache_dir) / FOLDER / known_by if features.costs and keep else None
        remove_leftovers(self._wanted.cache_dir, *([place] if place else []))
        parts = self._here if place is None or self._processes == 1 else self._spread
        with bar(count, title, " samples") as progress:

            def counted() -> Iterator[Tensor]:
                for points in parts(features, samples, place):
                    yield points
                    progress.update(len(points))

            return Stored(counted(), self._wanted.cache_dir)

    def _here(self, features: Features, samples: Iterable[Tensor], place: Path | None) -> Iterator[Tensor]:
        for some in samples:
            path = None if place is None else _path(place, some)
            points = None if path is None else _read(path, len(some))
            if points is None:
                points = features(some.to(self._device)).cpu()
                if path is not None:
                    _keep(path, points)
            yield points

    def _spread(self, features: Features, samples: Iterable[Tensor], place: Path | None) -> Iterator[Tensor]:
        assert place is not None  # what costs so little as not to be kept is not worth processes
        context = multiprocessing.get_context("spawn")  # a process that was forked may use neither CUDA nor threads
        begun = context.Value("i", 0)
        with ProcessPoolExecutor(self._processes, context, _begin, (features, self._device.type, begun)) as pool:
            waiting: deque[tuple[Path, Tensor | Future[np.ndarray]]] = deque()
            for some in samples:
                path = _path(place, some)
                points = _read(path, len(some))
                waiting.append((path, pool.submit(_work, some.numpy()) if points is None else points))
                if len(waiting) > AHEAD * self._processes:
                    yield _result(*waiting.popleft())
            while waiting:
                yield _result(*waiting.popleft())


def _path(place: Path, samples: Tensor) -> Path:
    digest = hashlib.sha256(repr(tuple(samples.shape)).encode())  # the same numbers may be images of other sides
    digest.update(samples.contiguous().numpy().tobytes())
    return place / f"{digest.hexdigest()[:32]}.npz"


def _read(path: Path, count: int) -> Tensor | None:
    """Features that were kept; None if they are not there or damaged: they are computed again then."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as kept:  # a zip file: its check sum is looked at
            points = torch.from_numpy(kept[POINTS])
    except (*UNREADABLE, KeyError):
        return None
    return points if points.ndim == 2 and len(points) == count and points.dtype == torch.float32 else None


def _keep(path: Path, points: Tensor) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, points=points.numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, buffer.getvalue())


# -- in another process ------------------------------------------------------------------------------------------------

_mine: list[tuple[Features, torch.device]] = []  # what this process computes, and where


def _begin(features: Features, device_type: str, begun: "Synchronized[int]") -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process hears it, and ends the others
    threading.Thread(target=_end_with_first, daemon=True).start()
    torch.set_num_threads(1)
    with begun.get_lock():
        number, begun.value = begun.value, begun.value + 1
    device = torch.device("cuda", number % torch.cuda.device_count()) if device_type == "cuda" else CPU
    features.to(device)
    _mine.append((features, device))


def _end_with_first() -> None:
    """If the first process is killed, it tells nobody: this one would wait for work, with all its memory, for ever."""
    first = multiprocessing.parent_process()
    assert first is not None  # this is another one
    first.join()
    os._exit(1)


def _work(samples: np.ndarray) -> np.ndarray:
    features, device = _mine[0]
    return np.array(features(torch.from_numpy(samples).to(device)).cpu())


def _result(path: Path, points: "Tensor | Future[np.ndarray]") -> Tensor:
    if isinstance(points, Future):
        points = torch.from_numpy(points.result())
        _keep(path, points)
    return points
