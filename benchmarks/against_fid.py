"""Our figures and Inception, with random weights, beside those of pytorch-fid, clean-fid and torch-fidelity.

pip install --no-deps --target /tmp/throw pytorch-fid clean-fid torch-fidelity
PYTHONPATH=/tmp/throw python benchmarks/against_fid.py data/cifar10.npz
"""

import argparse
import importlib.util
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common.metrics.features.inception import Inception, InceptionClean
from common.metrics.features.inception_network import inception
from common.metrics.inception_score import inception_score
from common.metrics.points import frechet, kid, moments

PACKAGES = ("pytorch_fid", "cleanfid", "torch_fidelity")
POINTS, DIMENSIONS = 500, 64  # of the figures
IMAGES, SEEN = 50, 20  # that are resized, and that the networks see


def row(what: str, theirs: object, ours: object) -> None:
    """Print two figures, or the largest entries of two arrays, and the largest difference over the largest entry."""
    one, other = (np.asarray(value, dtype=np.float64) for value in (theirs, ours))
    difference = np.abs(one - other).max() / np.abs(one).max()
    print(f"{what:<46} {np.abs(one).max():12.6g} {np.abs(other).max():12.6g} {difference:10.1e}")


def random_state() -> dict[str, Tensor]:
    """Weights of the network of 2015, under which answers to different images differ."""
    from torchvision.models import inception_v3

    state = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False).state_dict()
    for name, value in state.items():
        if "bn.running_var" in name:
            value.uniform_(0.1, 0.3)
        elif "bn" in name and value.is_floating_point():
            value.add_(0.2 * torch.randn_like(value))
    return state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("images", type=Path, help="an .npz file with images x (N, H, W, 3) uint8")
    path = parser.parse_args().images
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        sys.exit(f"{', '.join(missing)}: not there; {Path(__file__).name} says in its first lines how to install them")
    if not path.is_file():
        sys.exit(f"{path} is not there; give an .npz file with images x (N, H, W, 3) uint8")
    warnings.simplefilter("ignore")  # what they call is older than the libraries here
    import pytorch_fid.inception
    from cleanfid.fid import fid_from_feats, kernel_distance
    from cleanfid.resize import make_resizer
    from pytorch_fid.fid_score import InceptionV3, calculate_frechet_distance
    from torch_fidelity import FeatureExtractorInceptionV3
    from torch_fidelity.metric_isc import isc_features_to_metric

    torch.manual_seed(0)
    print(f"{'':<46} {'theirs':>12} {'ours':>12} {'difference':>10}")
    some, others = torch.randn(POINTS, DIMENSIONS), 1.3 * torch.randn(POINTS, DIMENSIONS) + 0.2
    laws = (moments(some), moments(others))
    figure = frechet(*laws)
    row("Frechet, pytorch-fid", calculate_frechet_distance(*(a.numpy() for law in laws for a in law)), figure)
    row("Frechet, clean-fid", fid_from_feats(some.numpy(), others.numpy()), figure)
    row("KID, clean-fid", kernel_distance(some.double().numpy(), others.double().numpy(), 1), kid(some, others))
    logits = 3 * torch.randn(POINTS, 1008)
    row("Inception score, torch-fidelity", next(iter(isc_features_to_metric(logits).values())), inception_score(logits))

    arrays = np.load(path)["x"][:IMAGES]
    images = torch.from_numpy(arrays).movedim(-1, 1)
    resizer = make_resizer("PIL", False, "bicubic", (299, 299))
    clean = np.stack([resizer(image) for image in arrays])
    row("resized levels, clean-fid", clean, InceptionClean.prepared(images).movedim(1, -1) * 128 + 128)

    state, images = random_state(), images[:SEEN]
    pytorch_fid.inception.load_state_dict_from_url = lambda *_, **__: state
    ours, last = inception(state)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        features = InceptionV3().eval()(images / 255)[0].flatten(1)
        row("Inception's features, pytorch-fid", features, ours(Inception.prepared(images)))
        torch.save(state, Path(folder, "state.pth"))
        fidelity = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], f"{folder}/state.pth")
        wide = torch.from_numpy(clean[:SEEN]).movedim(-1, 1).round().to(torch.uint8)  # 299 x 299: it resizes otherwise
        features, answers = fidelity(wide)
        found = ours((wide.float() - 128) / 128)
        row("Inception's features, torch-fidelity", features, found)
        row("logits, torch-fidelity", answers, found @ last.T)


if __name__ == "__main__":
    main()
