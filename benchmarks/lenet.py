"""What LeNet-5 of FDP's authors says of real MNIST and of noise: its accuracy, and Frechet distances of its features.

usage: python benchmarks/lenet.py --data_dir DIR [--weights_dir weights]

DIR has torchvision's MNIST; the weights are fetched if they are not there.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import torch
from torch import Tensor

from common.data import SOURCES, DataOptions
from common.metrics.features import Wanted
from common.metrics.features.lenet import LeNet
from common.metrics.points import Moments, frechet, moments

PART = 500


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="where torchvision's MNIST lies")
    parser.add_argument("--weights_dir", type=Path, default=Path("weights"), help="as in evaluate.py")
    given = parser.parse_args()
    data = SOURCES["mnist"]().load(DataOptions(given.data_dir))
    lenet = LeNet(Wanted(data, given.weights_dir, given.weights_dir))
    last = lenet.network[-1]

    def features(images: Tensor) -> Tensor:
        return torch.cat([lenet(data.spec.to_network(part)) for part in images.split(PART)])

    (train, _), (test, labels) = data.train.read(), data.held_out.read()
    of_train, of_test = features(train), features(test)
    noise = torch.randint(0, 256, test.shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    whole: Moments = moments(of_train)
    print(f"accuracy on {len(test):,} test images           {(last(of_test).argmax(1) == labels).double().mean():.2%}")
    print(f"FID of test against train                 {frechet(moments(of_test), whole):.4f}")
    some, rest = order[: len(test)], order[len(test) :]
    print(f"FID of as many of train against the rest  {frechet(moments(of_train[some]), moments(of_train[rest])):.4f}")
    print(f"FID of noise against train                {frechet(moments(features(noise)), whole):.2f}")


if __name__ == "__main__":
    main()
