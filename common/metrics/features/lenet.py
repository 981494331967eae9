"""LeNet-5 as FDP's authors trained it on MNIST: 84 features, the answers of its last hidden layer."""

import importlib.util
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common.metrics.features.base import EXTRA, Features, Wanted, in_unit_range
from common.metrics.features.weights import PinnedWeights

SIDE, DIGITS, TESTED = 32, 10, 2000
GOOD = 0.9  # share of samples read right from which on they are digits like those it knows
PUBLISHED = "giulio98/functional-diffusion-processes"
ARRAYS = PinnedWeights(
    "lenet5.npz",
    "d2fe98b884bbcf879b535d70eb842f5c004038cd16b50d231ad341dd9259fd3e",
    f"the weights of models/lenet5/model-best.h5 of {PUBLISHED}, one array per layer",
)
KERAS = PinnedWeights(
    "model-best.h5",
    "92c51e92d410b6eabbb31e3e86ed601cd8d6a33cbe7374ecd9b5798978339d1d",
    f"the authors of FDP ({PUBLISHED})",
    f"https://raw.githubusercontent.com/{PUBLISHED}/61aa63e87b1e9d96c1d57cb77856ca18a186ab20/models/lenet5/model-best.h5",
    size=1_041_624,
)
LAYERS = {"conv2d": 0, "conv2d_1": 3, "dense": 7, "dense_1": 9, "dense_2": 11}  # Keras' names to places below


class LastChannels(nn.Module):
    """Channels behind rows and columns, the order in which Keras flattens."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, H, W, C)."""
        return x.movedim(1, -1)


def lenet5() -> nn.Sequential:
    """The network, (B, 1, 32, 32) in [0, 1] to 10 logits; everything up to its last layer gives the features."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding="same"), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Sequential(LastChannels(), nn.Flatten()),
        nn.Linear(576, 120), nn.Tanh(),
        nn.Linear(120, 84), nn.Tanh(),
        nn.Linear(84, 10),
    )  # fmt: skip


def read(path: Path) -> dict[str, np.ndarray]:
    """Kernels and biases in Keras' layouts (HWIO, in x out) by ``layer/kernel`` and ``layer/bias``.

    Args:
        path: the authors' file in Keras' HDF5 format, or an .npz file with an array for each.
    """
    names = [f"{layer}/{part}" for layer in LAYERS for part in ("kernel", "bias")]
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    import h5py

    with h5py.File(path) as file:
        return {name: file[f"model_weights/{name.split('/')[0]}/{name}:0"][()] for name in names}


def load(path: Path) -> nn.Sequential:
    """The network with weights from a file of :func:`read`."""
    network, arrays = lenet5(), read(path)
    for name, place in LAYERS.items():
        kernel, bias = (torch.from_numpy(arrays[f"{name}/{part}"]) for part in ("kernel", "bias"))
        order = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
        network[place].load_state_dict({"weight": kernel.permute(order), "bias": bias})
    return network.eval().requires_grad_(False)


class LeNet(Features):
    """84 features of LeNet-5, for 28 x 28 grey images: the published FID of FDP on MNIST is taken with them."""

    name = "lenet"
    source = KERAS.origin
    weights = (ARRAYS, KERAS)

    @classmethod
    def unfit(cls, wanted: Wanted) -> str:
        if wanted.data.spec.shape != (1, 28, 28):
            return "reads 28x28 grey images; it was trained on MNIST"
        if not cls.weights[0].find(wanted.weights_dir) and importlib.util.find_spec("h5py") is None:
            return f"needs pip install {EXTRA}, which reads the authors' file of weights"
        return ""

    def __init__(self, wanted: Wanted) -> None:
        self._file, path = self.file(wanted)
        self.network = load(path)
        self._data = wanted.data

    @property
    def identity(self) -> str:
        return f"lenet {self._file.sha256[:12]}, bilinear to {SIDE}x{SIDE}"

    @cached_property
    def accuracy(self) -> float:
        """Share of held-out samples that it reads as their label, of at most 2,000."""
        x, labels = self._data.held_out.read(TESTED)
        answers = self.network(self._resized(self._data.spec.to_network(x))).argmax(1)
        return float((answers == labels).double().mean())

    @property
    def suits(self) -> bool:
        return self._data.num_classes == DIGITS and self.accuracy >= GOOD

    @property
    def account(self) -> str:
        return f"{self.identity}; it reads {self.accuracy:.1%} of held-out samples right"

    @staticmethod
    def _resized(samples: Tensor) -> Tensor:
        levels = in_unit_range(samples, 1)
        return nn.functional.interpolate(levels, (SIDE, SIDE), mode="bilinear", align_corners=False)

    def __call__(self, samples: Tensor) -> Tensor:
        features: Tensor = self.network[:-1](self._resized(samples))
        return features
