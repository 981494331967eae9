"""MNIST in torchvision's layout (LeCun, Cortes, Burges)."""

from pathlib import Path

from torchvision.datasets import MNIST

from common.data.source import Arrays, DataUnavailable, Source, Split


class Mnist(Source):
    """28x28 digits, ten classes: 60,000 to learn from, 10,000 held out."""

    name = "mnist"

    def load(self, data_dir: Path) -> Arrays:
        try:
            train, test = (MNIST(data_dir, train=part, download=False) for part in (True, False))
        except (ValueError, AssertionError, IndexError, TypeError, OSError) as error:
            raise DataUnavailable(
                f"--data_name mnist: the files under {data_dir / 'MNIST' / 'raw'} are no MNIST idx files; "
                "remove them, or point --data_dir at a folder with whole ones"
            ) from error
        except RuntimeError as error:
            raise DataUnavailable(
                f"--data_name mnist: no MNIST files under {data_dir / 'MNIST' / 'raw'}. Point --data_dir at a "
                "folder in torchvision's layout, or fetch it once with: "
                f"python -c \"from torchvision.datasets import MNIST; MNIST('{data_dir}', download=True)\""
            ) from error
        return Arrays(
            train=Split(train.data.unsqueeze(1), train.targets.long()),
            held_out=Split(test.data.unsqueeze(1), test.targets.long()),
            num_classes=10,
        )
