"""Resemblyzer's encoder of speakers (Wan et al. 2018, "Generalized end-to-end loss for speaker verification").

The network and its input are written down here, since the package Resemblyzer wants many others. One thing is left out:
it cuts long silences away first, by a detector of voices.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.data.sound_form import resampled
from common.files import load_checkpoint
from common.metrics.features.base import Features, Wanted
from common.metrics.features.weights import PinnedWeights

RATE = 16_000  # points per second
WINDOW, STEP, BANDS = 400, 160, 40  # points of a frame and between frames, mel bands
PART, APART, COVERED = 160, 77, 0.75  # frames of a part and between parts; share of the last part that must be sound
WIDTH, LAYERS = 256, 3
QUIET = 10 ** (-30 / 20)  # root mean square to which quieter recordings are raised
WEIGHTS = PinnedWeights(
    "resemblyzer-pretrained.pt",
    "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
    "Resemblyzer",
    "https://raw.githubusercontent.com/resemble-ai/Resemblyzer/15d828edebe06bc72b9cabc8ef8ca5ab2cb457ce/resemblyzer/pretrained.pt",
    size=17_090_379,
    inside=("resemblyzer", "pretrained.pt"),
)


class SpeakerEncoder(nn.Module):
    """Mel spectrograms (B, T, 40) to unit vectors (B, 256) of numbers from 0 on. Names of weights are Resemblyzer's."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(BANDS, WIDTH, LAYERS, batch_first=True)
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, mels: Tensor) -> Tensor:
        """Embeddings (B, 256)."""
        _, (hidden, _) = self.lstm(mels)
        return F.normalize(F.relu(self.linear(hidden[-1])), dim=1)


def mel_filters() -> Tensor:
    """Weights (40, 201) of frequencies in bands: triangles of equal area, as librosa has them (Slaney's scale)."""
    linear, factor = 200 / 3, math.log(6.4) / 27  # Hz per mel below 1 kHz, growth of the logarithm per mel above
    top = 15 + math.log(RATE / 2 / 1000) / factor
    mels = torch.linspace(0, top, BANDS + 2, dtype=torch.float64)
    edges = torch.where(mels < 15, mels * linear, 1000 * (factor * (mels - 15)).exp())
    frequencies = torch.linspace(0, RATE / 2, WINDOW // 2 + 1, dtype=torch.float64)
    low, middle, high = (edges[i : i + BANDS].unsqueeze(1) for i in range(3))
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    return (torch.minimum(rising, falling).clamp_min(0) * 2 / (high - low)).float()


def mel_spectrograms(waves: Tensor) -> Tensor:
    """Power (B, T, 40) in bands of recordings (B, L) at 16 kHz, a frame every 10 ms; no logarithm."""
    spectrum = torch.stft(
        waves,
        WINDOW,
        STEP,
        window=torch.hann_window(WINDOW, device=waves.device),
        pad_mode="constant",
        return_complex=True,
    )
    return (mel_filters().to(waves) @ spectrum.abs().square()).mT


def parts_of(length: int) -> list[int]:
    """Frames at which the parts of a recording of so many points begin, whose embeddings are averaged."""
    frames = math.ceil((length + 1) / STEP)
    starts = list(range(0, max(1, frames - PART + APART + 1), APART))
    if len(starts) > 1 and (length / STEP - starts[-1]) / PART < COVERED:
        starts.pop()
    return starts


class Speech(Features):
    """256 features that tell speakers apart, of recordings at any rate; channels are averaged."""

    name = "speech"
    source = WEIGHTS.url
    weights = (WEIGHTS,)

    @classmethod
    def unfit(cls, wanted: Wanted) -> str:
        return "" if wanted.data.spec.sample_rate else "reads recordings of speech"

    def __init__(self, wanted: Wanted) -> None:
        file, path = self.file(wanted)
        self._sha256, self._spec = file.sha256, wanted.data.spec
        state = load_checkpoint(path)["model_state"]
        self.network = SpeakerEncoder()
        # those of the loss it was trained with are left
        self.network.load_state_dict({name: value for name, value in state.items() if "similarity" not in name})
        self.network.eval().requires_grad_(False)

    @property
    def identity(self) -> str:
        low, high = self._spec.value_range  # what is quiet is raised, so it matters how loud a sample is
        units = f"from {self._spec.sample_rate} Hz and values of {low:g} to {high:g}"
        return f"resemblyzer {self._sha256[:12]}, without a detector of voices, {units}"

    def __call__(self, samples: Tensor) -> Tensor:
        waves = self._spec.from_network(samples).mean(1)
        waves = resampled(waves.cpu(), self._spec.sample_rate or RATE, RATE).to(samples.device)
        loudness = waves.square().mean(1, keepdim=True).sqrt()
        waves = waves * (QUIET / loudness.clamp_min(1e-12)).clamp_min(1)
        starts = parts_of(waves.shape[1])
        mels = mel_spectrograms(F.pad(waves, (0, max(0, (starts[-1] + PART) * STEP - waves.shape[1]))))
        with torch.no_grad():
            embeddings = [self.network(mels[:, start : start + PART]) for start in starts]
        return F.normalize(torch.stack(embeddings).mean(0), dim=1)
