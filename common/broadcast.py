"""The one place where a per-sample coefficient meets a tensor of states."""

from torch import Tensor


def align(coefficient: Tensor, like: Tensor, lead: int = 1) -> Tensor:
    """Insert singleton axes so that a coefficient broadcasts against a tensor of states.

    Args:
        coefficient: (*lead axes, *modes); ``modes`` are the trailing axes of ``like`` or none at all.
        like: the tensor it will be multiplied with.
        lead: number of leading axes (batch, components) that stay in front.

    Returns:
        The coefficient as (*lead axes, 1, .., 1, *modes) with ``like.ndim`` axes, in the real dtype of ``like``.
    """
    dtype = like.real.dtype if like.is_complex() else like.dtype
    head, modes = coefficient.shape[:lead], coefficient.shape[lead:]
    gap = like.ndim - coefficient.ndim
    return coefficient.to(dtype).reshape(*head, *(1,) * gap, *modes)
