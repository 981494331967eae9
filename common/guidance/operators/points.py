"""Values at points anywhere on the grid's area: sensors of a field."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from common.guidance.operators.base import Operator
from common.refusal import Refusal, require


class Points(Operator):
    """y = x at points, by multilinear interpolation between the points of the grid: (C, P).

    Args:
        coordinates: (P, D), or (N, P, D) where every sample has its own, in [-1, 1]: the first and the last point of
            an axis are at its ends, as coordinate networks have them.
        shape: the grid *S, of D axes of at least two points.

    Raises:
        Refusal: for coordinates outside, or of another number of axes.
    """

    coordinates: Tensor
    places: Tensor
    weights: Tensor

    def __init__(self, coordinates: Tensor, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        axes = len(self.shape)
        require(
            coordinates.ndim in (2, 3) and coordinates.shape[-1] == axes and coordinates.shape[-2] > 0,
            "coordinates",
            f"of shape (P, {axes}) or (N, P, {axes})",
            tuple(coordinates.shape),
        )
        if not bool((coordinates.abs() <= 1).all()):  # NaN included
            raise Refusal("must lie in [-1, 1]", "coordinates")
        coordinates = coordinates.double()
        last = torch.tensor([n - 1 for n in self.shape], dtype=torch.float64, device=coordinates.device)
        place = (coordinates + 1) / 2 * last
        low = torch.minimum(place.floor(), (last - 1).clamp_min(0))
        part = place - low
        strides = [math.prod(self.shape[axis + 1 :]) for axis in range(axes)]
        places, weights = [], []
        for corner in itertools.product((0, 1), repeat=axes):
            each = [part[..., a] if up else 1 - part[..., a] for a, up in enumerate(corner)]
            at = [(low[..., a] + up).clamp_max(last[a]) * strides[a] for a, up in enumerate(corner)]
            places.append(torch.stack(at).sum(0).long())
            weights.append(torch.stack(each).prod(0))
        self.register_buffer("coordinates", coordinates, persistent=False)
        self.register_buffer("places", torch.stack(places, -1), persistent=False)  # (.., P, corners), into flat *S
        self.register_buffer("weights", torch.stack(weights, -1), persistent=False)

    def shape_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        if tuple(shape[1:]) != self.shape:
            raise Refusal(f"Points are of the grid {self.shape}, samples have {tuple(shape)}")
        return (shape[0], self.places.shape[-2])

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        corners = flat.gather(2, self._places(flat)).unflatten(2, self.places.shape[-2:])
        found: Tensor = (self._weights(x.dtype) * corners).sum(-1)
        return found

    def adjoint(self, y: Tensor) -> Tensor:
        shares = (self._weights(y.dtype) * y.unsqueeze(-1)).flatten(2)
        flat = y.new_zeros(*y.shape[:2], math.prod(self.shape))
        found: Tensor = flat.scatter_add(2, self._places(y), shares).unflatten(2, self.shape)
        return found

    def rows(self, indices: Sequence[int]) -> Operator:
        return Points(self.coordinates[list(indices)], self.shape) if self.coordinates.ndim == 3 else self

    def picture(self, y: Tensor) -> Tensor:
        """Every value at the point of the grid that is nearest, the mean of those that share one."""
        nearest = self.places.gather(-1, self.weights.argmax(-1, keepdim=True)).squeeze(-1)
        nearest = nearest.expand(len(y), -1).unsqueeze(1).expand_as(y)
        flat = y.new_zeros(*y.shape[:2], math.prod(self.shape))
        total, count = flat.scatter_add(2, nearest, y), flat.scatter_add(2, nearest, torch.ones_like(y))
        found: Tensor = torch.where(count > 0, total / count, torch.nan).unflatten(2, self.shape)
        return found

    def _places(self, like: Tensor) -> Tensor:
        """(B, C, P x corners)."""
        places = self.places if self.places.ndim == 3 else self.places.unsqueeze(0)
        return places.flatten(1).unsqueeze(1).expand(len(like), like.shape[1], -1)

    def _weights(self, dtype: torch.dtype) -> Tensor:
        """(B or 1, 1, P, corners)."""
        weights = self.weights if self.weights.ndim == 3 else self.weights.unsqueeze(0)
        return weights.unsqueeze(1).to(dtype)
