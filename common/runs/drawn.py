"""A set of drawn samples: every name in its folder, once, and what it was drawn with."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.files import Manifest, read_json
from common.files.manifest import LARGEST, restore
from common.refusal import Refusal

BLOCK = re.compile(r"data_\d{6,}\.npy", re.ASCII)
AGAIN = "the same generate.py draws again what is missing or damaged"


@dataclass(frozen=True)
class SampleFolder:
    """One set of drawn samples: arrays in blocks, what they were drawn with, and what is looked at.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def settings(self) -> Path:
        """What the samples were drawn with."""
        return self.path / "settings.json"

    @property
    def version(self) -> str:
        """The version of the weights that drew them."""
        return self.path.parent.name.removeprefix("model-")

    @property
    def of_task(self) -> list[Path]:
        """What a task is done on, whether it is there or not."""
        return [self.truth, self.observation, self.mask, self.inputs]

    @property
    def manifest(self) -> Manifest:
        """Check sums of the settings, and of arrays and labels that are drawn."""
        return Manifest(self.path, self.mend)

    def mend(self, path: Path) -> str:
        """What to do about a file of it that is missing or damaged."""
        if path == self.settings:  # nobody knows any more what the arrays are: the same command makes another folder
            return f"{restore(path)}, or remove {self.path} and draw the samples anew"
        return AGAIN

    @property
    def is_set(self) -> bool:
        """Whether anything says that it is one: arrays, settings or check sums; any of them may be lost."""
        return self.data.is_dir() or self.settings.is_file() or self.manifest.exists

    def kept(self) -> dict[str, Any] | None:
        """What settings.json holds; None if it is missing or damaged, so that nobody knows what the arrays are."""
        if not self.settings.is_file():
            return None
        try:
            if self.manifest.is_readable:
                self.manifest.check(self.settings)
            kept = read_json(self.settings, LARGEST)
        except (Refusal, OSError, ValueError):
            return None
        return kept if isinstance(kept, dict) else None

    @property
    def weights(self) -> str:
        """Name of the weights that drew them, e.g. ``ema_model-final.pth``; empty if settings.json does not say."""
        return str((self.kept() or {}).get("weights", ""))

    @property
    def kind(self) -> str:
        """Kind of the weights that drew them, e.g. ``ema_model``; empty if settings.json does not say."""
        return self.weights.partition(f"-{self.version}")[0]

    @property
    def figures(self) -> Path:
        """Figures about them."""
        return self.path / "metrics.json"

    @property
    def truth(self) -> Path:
        """What inputs of a task were before anything was hidden, (N, *S, C)."""
        return self.path / "truth.npy"

    @property
    def observation(self) -> Path:
        """What is observed of the inputs of a task, channels last."""
        return self.path / "observation.npy"

    @property
    def mask(self) -> Path:
        """Where values are known if the task is to fill in others, (N, *S, 1 or C)."""
        return self.path / "mask.npy"

    @property
    def inputs(self) -> Path:
        """Where the inputs of a task came from."""
        return self.path / "inputs.json"

    @property
    def mean(self) -> Path:
        """Mean of the completions of every input, (N, *S, C)."""
        return self.path / "mean.npy"

    @property
    def deviation(self) -> Path:
        """Deviation of the completions of every input, (N, *S, C)."""
        return self.path / "deviation.npy"

    @property
    def comparison(self) -> Path:
        """Observation, completions and truth of the first inputs as a picture."""
        return self.path / "comparison.png"

    @property
    def posterior(self) -> Path:
        """Mean and deviation of the completions of one input as a picture."""
        return self.path / "posterior.png"

    @property
    def grid(self) -> Path:
        """The first of them as a picture."""
        return self.path / "grid.png"

    @property
    def trajectory(self) -> Path:
        """How the first of them came out of the noise."""
        return self.path / "trajectory.png"

    @property
    def film(self) -> Path:
        """The same as a film."""
        return self.path / "trajectory.gif"

    @property
    def audio(self) -> Path:
        """Sounds as .wav files."""
        return self.path / "audio"

    @property
    def data(self) -> Path:
        """Arrays, one per block."""
        return self.path / "data"

    @property
    def labels(self) -> Path:
        """Labels, one array per block; not there if the network takes none."""
        return self.path / "label"

    def block(self, start: int) -> Path:
        """The array of the block that begins with a sample's index."""
        return self.data / f"data_{start:06d}.npy"

    def labels_of(self, block: Path) -> Path:
        """The labels of a block."""
        return self.labels / block.name.replace("data_", "label_")

    @staticmethod
    def start_of(block: Path) -> int:
        """Index of the first sample of a block."""
        return int(block.stem.removeprefix("data_"))

    def blocks(self) -> list[Path]:
        """The arrays that are there, in order of index."""
        named = [path for path in self.data.glob("data_*.npy") if BLOCK.fullmatch(path.name)]
        return sorted(named, key=self.start_of)

    @property
    def shards(self) -> Path:
        """What those keep who draw shares of the samples at the same time; not there once they are put together."""
        return self.path / "shards"

    def shard(self, index: int, count: int) -> Path:
        """What one of them keeps, counted from 0: its lock, and check sums of what it has drawn."""
        return self.shards / f"{index}-of-{count}"

    def arrays(self) -> set[Path]:
        """All arrays that are there, of samples and of labels, whatever their names."""
        return {*self.data.glob("*.npy"), *self.labels.glob("*.npy")}
