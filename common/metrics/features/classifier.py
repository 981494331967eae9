"""A small classifier that is trained on the data at hand, once, and kept: its last hidden layer gives 128 features."""

import math
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor, nn

from common.data.readers import is_first_process
from common.data.reading import gather, spread
from common.data.source import DataSet, Split
from common.files import load_state, locked, save_safetensors
from common.metrics.features.base import Features, Wanted
from common.progress import bar
from common.refusal import Refusal

WIDTH, FEATURES = 32, 128
STEPS, EPOCHS = 1200, 30  # at most of either, but a hundred steps at least
BATCH, RATE = 128, 2e-3
SEEN, TESTED = 50_000, 2_000  # samples to learn from and to test on, at most
SIGNATURE = 1000  # samples that tell one data set from another
ACCURACY, GOOD = "accuracy", 0.8
PROGRAM, PATIENCE = "evaluate.py", 3600.0  # seconds to wait for another one that trains it: a lock ends with its owner


def network(shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """Three convolutions, each at half the resolution of the one before, and a hidden layer.

    Args:
        shape: (C, *S) of one sample.
        classes: number of classes.
    """
    is_image = len(shape) == 3
    conv, pool = (nn.Conv2d, nn.AdaptiveAvgPool2d) if is_image else (nn.Conv1d, nn.AdaptiveAvgPool1d)
    layers: list[nn.Module] = []
    channels, kernel = shape[0], 3 if is_image else 9
    for width in (WIDTH, 2 * WIDTH, 4 * WIDTH):
        layers += [conv(channels, width, kernel, padding="same"), nn.GroupNorm(8, width), nn.SiLU()]
        layers.append((nn.AvgPool2d if is_image else nn.AvgPool1d)(2 if is_image else 4, ceil_mode=True))
        channels = width
    layers += [pool(4), nn.Flatten(), nn.LazyLinear(FEATURES), nn.SiLU(), nn.Linear(FEATURES, classes)]
    return nn.Sequential(*layers)


class Classifier(Features):
    """128 features of a small network that tells the classes of the data apart; for anything with labels.

    Its weights are kept in the folder of caches, under a name that the data gives, with the share of held-out samples
    that it reads right.
    """

    name = "classifier"

    @classmethod
    def unfit(cls, wanted: Wanted) -> str:
        return "" if len(wanted.data.spec.learned_classes) > 1 else "needs data with at least two classes"

    def __init__(self, wanted: Wanted) -> None:
        if problem := self.unfit(wanted):
            raise Refusal(problem, "features")
        data = wanted.data
        self._signature = signature(data)
        path = wanted.cache_dir / f"classifier-{self._signature}.safetensors"
        self.network = network(data.spec.shape, data.spec.num_classes or 0)
        self.network(torch.zeros(2, *data.spec.shape))  # now the lazy layer knows its size
        state = read(path) or made(path, self.network, data)
        self.accuracy = float(state.pop(ACCURACY))
        self._weights = sha256(b"".join(state[name].numpy().tobytes() for name in sorted(state))).hexdigest()[:8]
        self.network.load_state_dict(state)
        self.network.eval().requires_grad_(False)

    @property
    def identity(self) -> str:
        return f"classifier {self._signature}-{self._weights}"

    @property
    def account(self) -> str:
        share = "nothing is held out" if math.isnan(self.accuracy) else f"{self.accuracy:.1%} of held-out samples right"
        low = f" (below {GOOD:.0%}: they tell little; name others by --features)" if self.accuracy < GOOD else ""
        return f"{self.identity}, trained on this data; {share}{low}"

    def __call__(self, samples: Tensor) -> Tensor:
        features: Tensor = self.network[:-1](samples.float())
        return features


def signature(data: DataSet) -> str:
    """Twelve digits that tell a data set from another: of a thousand samples of each part, labels and settings."""
    digest = sha256(repr((data.spec, STEPS, EPOCHS, BATCH, RATE, WIDTH, FEATURES)).encode())
    for part in (data.train, data.held_out):  # the latter since its accuracy is kept, too
        rows = spread(len(part.labels), SIGNATURE)
        samples = part.images[rows] if isinstance(part.images, Tensor) else gather(part.images, rows)
        digest.update(samples.contiguous().numpy().tobytes())
        digest.update(part.labels.numpy().tobytes())
    return digest.hexdigest()[:12]


def made(path: Path, classifier: nn.Module, data: DataSet) -> dict[str, Tensor]:
    """Weights of the classifier, trained and kept, or those that another program trains just now.

    All that compute the same figures must have the same ones, or they would not share the features that they keep.
    """
    with locked(path.parent / f"training-{path.stem}", PROGRAM, wait=PATIENCE):
        state = read(path)
        if state is None:
            state = trained(classifier, data)
            save_safetensors(path, state, {"format": "pt"})
        return state


def read(path: Path) -> dict[str, Tensor] | None:
    """Weights that were kept; None if they are not there or damaged: they are made again then."""
    if not path.is_file():
        return None
    try:
        return load_state(path)
    except Refusal:
        return None


def trained(classifier: nn.Module, data: DataSet) -> dict[str, Tensor]:
    """Weights of the classifier, a function of the data, and the share of held-out samples it reads right."""
    x, labels = data.train.read(SEEN, "samples for the classifier")
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for module in classifier.modules():
            if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear, nn.GroupNorm)):
                module.reset_parameters()
    steps = min(STEPS, max(100, EPOCHS * len(labels) // BATCH))
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    classifier.train()
    with bar(steps, "training a classifier", "step", silent=not is_first_process()) as progress:
        for _ in range(steps):
            rows = torch.randint(len(labels), (BATCH,), generator=generator)
            answers = classifier(data.spec.to_network(x[rows]))
            loss = nn.functional.cross_entropy(answers, labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            progress.update()
    classifier.eval()
    return {**classifier.state_dict(), ACCURACY: torch.tensor(accuracy(classifier, data, data.held_out))}


def accuracy(classifier: nn.Module, data: DataSet, part: Split) -> float:
    """Share of samples of a part that are read right, of at most 2,000; NaN if there are none."""
    x, labels = part.read(TESTED)
    with torch.no_grad():
        right = [
            (classifier(data.spec.to_network(some)).argmax(1) == truth).sum()
            for some, truth in zip(x.split(BATCH), labels.split(BATCH), strict=True)
        ]
    return float(torch.stack(right).sum()) / len(labels) if len(labels) else math.nan
