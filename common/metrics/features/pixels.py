"""The samples themselves."""

from torch import Tensor

from common.metrics.features.base import Features, Wanted


class Pixels(Features):
    """All values of a sample on the network's scale; for anything, and without weights."""

    name = "pixels"
    costs = False

    @classmethod
    def unfit(cls, wanted: Wanted) -> str:
        return ""

    def __init__(self, wanted: Wanted) -> None:
        self._shape = wanted.data.spec.shape

    @property
    def identity(self) -> str:
        return f"pixels {'x'.join(map(str, self._shape))}"

    def __call__(self, samples: Tensor) -> Tensor:
        return samples.flatten(1).float()
