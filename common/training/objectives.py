"""Objectives by name: what ``--objective`` chooses. A --plugin may add its own."""

from common.training.consistency import Consistency
from common.training.denoising import Denoising
from common.training.objective import Objective

OBJECTIVES: dict[str, type[Objective]] = {"denoise": Denoising, "consistency": Consistency}

__all__ = ["OBJECTIVES", "Consistency", "Denoising", "Objective"]
