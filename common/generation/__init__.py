"""Drawing many samples from a trained run."""

from common.generation.blocks import blocks, generate, grid_columns, labels_for, not_finite, read_array, read_samples

__all__ = ["blocks", "generate", "grid_columns", "labels_for", "not_finite", "read_array", "read_samples"]
