"""--pretrained for FDP: the authors' archive of Flax checkpoints from a server on this machine, good and bad."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common import runs
from common.runs import pretrained
from common.runs.pretrained import ORIGIN, PRETRAINED, fetch
from fdp.flax_pretrained import LOGS, RELEASED, Released
from fdp.presets import PRESETS
from tests import flax_files
from tests.backbones.test_inr import golden_weights
from tests.flax_files import average_of, content, packed
from tests.test_pretrained import Server, server, tree
from tests.test_pretrained import zipped as compressed

__all__ = ["server"]  # a fixture
NAME = "fdp-mnist-inr"
# networks of these sizes stand in for those of the presets; that of MNIST is the published one
SMALL: dict[str, dict[str, Any]] = {
    "fdp-celeba-inr": {"width": 32, "depth": 3, "image_size": 8},
    "fdp-celeba-uvit": {"patch_size": 2, "embed_dim": 64, "depth": 5, "num_heads": 4, "image_size": 16},
}
MNIST = average_of(golden_weights("mnist_cfg_16x16"))


def zipped(entries: dict[str, bytes]) -> bytes:
    """An archive whose entries are stored as they are, which is faster."""
    return compressed(entries, lambda info: setattr(info, "compress_type", zipfile.ZIP_STORED))


def checkpoint(average: dict[str, np.ndarray], step: int = 20000) -> bytes:
    return packed(content(average, step))


@pytest.fixture(scope="module")
def logs() -> dict[str, bytes]:
    """What lies in the archive: folders of several models, one of sounds with the very shapes of that of MNIST."""
    spoken = {name: 0.5 * value for name, value in MNIST.items()}
    return {
        "logs/maml_mnist/seed/checkpoint_9": checkpoint({name: 0.1 * v for name, v in MNIST.items()}, 9),
        "logs/maml_mnist/seed/checkpoint_45": checkpoint(MNIST, 450001),
        "logs/maml_mnist/seed/meta_0_1": b"of an evaluation",
        "logs/spoken_digit/checkpoint_100": checkpoint(spoken),
        "logs/CelebA/inr/checkpoint_27": checkpoint(flax_files.inr()),
        "logs/CelebA/vit/checkpoint_50": checkpoint(flax_files.uvit()),
        "__MACOSX/logs/maml_mnist/seed/checkpoint_99": b"x",
        "logs/notes.txt": b"x",
    }


@pytest.fixture
def serving(server: Server, monkeypatch) -> Server:
    for preset, values in SMALL.items():
        monkeypatch.setitem(PRESETS, preset, {**PRESETS[preset], **values})
    for name in RELEASED:
        monkeypatch.setitem(RELEASED, name, Released(server.url, name))
        monkeypatch.setitem(PRETRAINED, name, RELEASED[name])
    return server


def refused(folder: Path, server: Server) -> str:
    """The message with which an archive is refused: one line, what to do, and nothing is left behind."""
    with pytest.raises(ValueError, match=f"^pretrained {NAME}: ") as caught:
        fetch(NAME, folder)
    message = str(caught.value)
    assert "\n" not in message
    assert f"By hand: download {server.url}, unzip it, then python -m fdp.flax_import CHECKPOINT --preset " in message
    assert list(folder.iterdir()) == []
    return message


def test_the_published_models_are_listed():
    import args

    assert {name: (entry.url, entry.version) for name, entry in RELEASED.items()} == dict.fromkeys(
        ("fdp-mnist-inr", "fdp-celeba-inr", "fdp-celeba-uvit"), (LOGS, "final")
    )
    assert LOGS == "https://drive.google.com/uc?id=1R9aRsV7q4yU0ey47tR7hFvKttEilUv0i"
    assert RELEASED.items() <= args.PRETRAINED.items()


def test_every_model_of_the_archive_becomes_a_run(tmp_path, serving, logs, capsys):
    serving.body = zipped(logs)
    folder = fetch(NAME, tmp_path)
    assert folder.name == "released-fdp-mnist-inr_mnist_heat_inr"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "released-fdp-celeba-inr_celeba_heat_inr",
        "released-fdp-celeba-uvit_celeba_heat_uvit",
        "released-fdp-mnist-inr_mnist_heat_inr",
    ]
    run = runs.load("released-fdp-mnist-inr", output_dir=tmp_path)
    weight = run.denoiser.backbone.network.out.weight.detach().numpy()
    np.testing.assert_array_equal(weight.T, MNIST["Dense_8/kernel"])
    origin = json.loads((folder.path / ORIGIN).read_text())
    assert (origin["url"], origin["entry"]) == (serving.url, "logs/maml_mnist/seed/checkpoint_45")
    assert origin["step"] == 450001
    assert f"{origin['sha256']} (the authors publish none" in capsys.readouterr().out
    before = tree(tmp_path)
    for name in RELEASED:
        assert fetch(name, tmp_path).path.is_dir()
    assert serving.requests == 1
    assert tree(tmp_path) == before


def test_a_run_of_that_id_that_is_none_is_left_alone(tmp_path, serving):
    (tmp_path / "released-fdp-mnist-inr_mine").mkdir()
    with pytest.raises(ValueError, match="move it away"):
        fetch(NAME, tmp_path)
    assert serving.requests == 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"../evil": b"x"}, "leads out of its folder"),
        ({"/logs/mnist/checkpoint_1": b"x"}, "is an absolute path"),
        (
            {"logs/mnist2/checkpoint_1": 45},
            "several networks of preset fdp-mnist-inr: logs/maml_mnist/seed/check",
        ),
        ({"logs/maml_mnist/seed/checkpoint_46": b"x"}, "no whole checkpoint of Flax"),
    ],
)
def test_an_archive_that_is_not_certain_is_refused(tmp_path, serving, logs, change, why):
    own = logs["logs/maml_mnist/seed/checkpoint_45"]
    entries = {name: own if value == 45 else value for name, value in change.items()}
    spoken = "logs/spoken_digit/checkpoint_100"
    serving.body = zipped({name: value for name, value in (logs | entries).items() if name != spoken})
    assert why in refused(tmp_path, serving)


def test_an_archive_of_something_else(tmp_path, serving, logs):
    serving.body = zipped({"logs/notes.txt": b"x"})
    assert "there is no file checkpoint_N in it" in refused(tmp_path, serving)
    serving.body = zipped({"logs/CelebA/vit/checkpoint_50": logs["logs/CelebA/vit/checkpoint_50"]})
    assert "holds a U-ViT, but preset fdp-mnist-inr has the published INR" in refused(tmp_path, serving)


def test_a_damaged_entry(tmp_path, serving, logs):
    name = "logs/maml_mnist/seed/checkpoint_45"
    body = bytearray(zipped({name: logs[name]}))
    body[len(body) // 8] ^= 1  # in a copy of the weights that is passed over
    serving.body = bytes(body)
    assert "Bad CRC-32" in refused(tmp_path, serving)


def test_a_bomb(tmp_path, serving, logs, monkeypatch):
    monkeypatch.setattr("fdp.flax_file.LARGEST", 10**6)
    serving.body = compressed({"mnist/checkpoint_1": bytes(10**7)})
    assert "10,000,000 bytes; no checkpoint of a published network" in refused(tmp_path, serving)


def test_a_download_that_is_too_large(tmp_path, serving, monkeypatch):
    monkeypatch.setattr(pretrained, "UNPACKED_LIMIT", 1000)
    serving.body = zipped({"mnist/checkpoint_1": np.random.default_rng(0).bytes(2000)})
    assert re.search("larger than 1,000 bytes", refused(tmp_path, serving))


def test_samples_of_a_released_model(serving, logs, tmp_path, monkeypatch, capsys):
    import generate

    monkeypatch.chdir(tmp_path)
    serving.body = zipped({name: value for name, value in logs.items() if "mnist" in name})
    words = f"--pretrained {NAME} --n_samples 2 --solver pc --steps 2 --device cpu"
    for _ in range(2):
        assert generate.main(words.split()) == 0
    assert "released-fdp-mnist-inr" in capsys.readouterr().out
    (data,) = Path("runs").rglob("data/*.npy")
    assert np.load(data).shape == (2, 32, 32, 1)
    assert serving.requests == 1
