"""A sample from values at a few of its points, measured with noise."""

import math
from pathlib import Path

import torch
from torch import Tensor

from common.data.one_file import read_numbers
from common.data.spec import DataSpec
from common.guidance.operators import Mask, Operator, Points
from common.guidance.tasks.base import Task
from common.refusal import Refusal, require
from common.seeding import mix

SHARE = 0.03  # of the points


class Sense(Task):
    """Values at a few points are observed, with noise: sensors of any quantity.

    Args:
        share: share of the points that have a sensor (default: 0.03, at least one point).
        sensors: number of sensors, in place of a share.
        anywhere: sensors lie anywhere between the points of the grid, which are then linearly interpolated; else on
            points of the grid.
        coordinates: file (.npy or .npz) of the places of sensors, (P, D) for all inputs or (N, P, D), one number per
            axis from -1, the first point, to 1, the last one (default: drawn by lot, others for every input).
        sensor_seed: seed of the places that are drawn by lot.

    Raises:
        Refusal: for values out of range, or that exclude each other.
    """

    noise_std = 0.05  # on the network's scale: 2.5 % of the range of the data

    def __init__(
        self,
        share: float | None = None,
        sensors: int | None = None,
        anywhere: bool = False,
        coordinates: Path | None = None,
        sensor_seed: int = 0,
    ) -> None:
        given = {"share": share, "sensors": sensors, "coordinates": coordinates}
        two = [name for name, value in given.items() if value is not None]
        if len(two) > 1:
            raise Refusal(f"and --{two[0]} exclude each other; leave one of them out", two[1])
        require(share is None or 0 < share < 1, "share", "above 0 and below 1", share)
        require(sensors is None or sensors >= 1, "sensors", "at least 1", sensors)
        require(sensor_seed >= 0, "sensor_seed", "at least 0", sensor_seed)
        self.share, self.sensors, self.anywhere = share, sensors, anywhere
        self.coordinates, self.sensor_seed = coordinates, sensor_seed

    def operator(self, spec: DataSpec, count: int) -> Operator:
        if self.coordinates is not None:
            return Points(self._read(self.coordinates, spec, count), spec.grid)
        points = math.prod(spec.grid)
        number = self.sensors or max(1, round((self.share or SHARE) * points))
        if number >= points and not self.anywhere:
            raise Refusal(f"{number} leaves nothing to find: samples of this run have {points:,} points", "sensors")
        require(number <= points, "sensors", f"at most {points}, the points of a sample", number)
        drawn = [self._draw(i, number, spec) for i in range(count)]
        if self.anywhere:
            return Points(torch.stack(drawn), spec.grid)
        return Mask(torch.stack(drawn), per_sample=True)

    def _draw(self, index: int, number: int, spec: DataSpec) -> Tensor:
        """Places of the sensors of an input: coordinates (number, D), or 1 where one is, (1, *S)."""
        generator = torch.Generator().manual_seed(mix(self.sensor_seed, index))
        if self.anywhere:
            return 2 * torch.rand(number, len(spec.grid), generator=generator) - 1
        mask = torch.zeros(math.prod(spec.grid))
        mask[torch.randperm(len(mask), generator=generator)[:number]] = 1
        return mask.reshape(1, *spec.grid)

    @staticmethod
    def _read(path: Path, spec: DataSpec, count: int) -> Tensor:
        found = read_numbers(path, "coordinates").float()
        axes = len(spec.grid)
        if found.ndim not in (2, 3) or found.shape[-1] != axes or 0 in found.shape:
            raise Refusal(
                f"{path} has shape {tuple(found.shape)}; sensors have {axes} numbers each: (P, {axes})", "coordinates"
            )
        if found.ndim == 3 and len(found) != count:
            raise Refusal(f"{path} has places for {len(found)} inputs, and there are {count}", "coordinates")
        if not bool((found.abs() <= 1).all()):
            raise Refusal(f"{path} has numbers outside of -1 .. 1, or NaN", "coordinates")
        return found
