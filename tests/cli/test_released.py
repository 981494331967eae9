"""Run folders of the published GFDM code, from the files to the images, by the published command lines.

The weights follow the recipe of golden/unet.md, for which outputs of the published network are on record.
"""

import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from numpy.typing import NDArray
from torch import Tensor

from common import runs
from common.backbones import UNet
from common.config.plugins import build
from common.config.stored import from_json, to_json
from common.denoiser import Denoiser
from common.files import save
from common.generation import sharing
from common.generation.blocks import read_samples
from common.runs.pretrained import PRETRAINED, Pretrained
from common.samplers import SOLVERS, sample
from gfdm.dynamics import FVP
from gfdm.released import released_config
from scripts import export
from tests import oracles
from tests.backbones.test_unet import GOLDEN, MANIFEST, golden_config
from tests.cli.conftest import Result
from tests.test_pretrained import Server, server, zipped

__all__ = ["server"]  # a fixture

Array = NDArray[np.float64]
Shapes = list[tuple[str, tuple[int, ...]]]

PUBLISHED = "--run_id {} --hurst {} --num_aug {} --dynamics fvp --mode sde --version {} --data_name {}"
CIFAR10 = [
    ("1299582", 0.9, 2, "v5", "cifar10"),
    ("1299581", 0.7, 2, "v5", "cifar10"),
    ("1299543", 0.5, 0, "v4", "cifar10"),
]
MNIST = ("815", 0.9, 3, "final", "mnist")
SHORT = "--n_samples 2 --batch_size 2 --steps 2"
SMALL = "--model_channels 32 --num_res_blocks 1 --attn_resolutions 8 --channel_mult 1,2,2,2"  # golden's cifar_small
LAYOUTS = ["model", "model module", "ema_model", "ema_model module"]
TOLERANCE = {"mnist": 1e-5, "cifar_small": 5e-5}  # of float32, relative to the largest output


def folder_name(run: tuple[Any, ...]) -> str:
    return "{0}_{4}_H{1}_K{2}".format(*run)


def small_shapes() -> Shapes:
    with torch.device("meta"):
        network = UNet(**golden_config("cifar_small"))
    return [(name, tuple(value.shape)) for name, value in network.state_dict().items()]


def published_shapes(name: str) -> Shapes:
    return [(key, tuple(shape)) for key, shape in MANIFEST[name]["state_dict"]]


def recipe(shapes: Shapes) -> dict[str, Tensor]:
    """The weights of golden/unet.md in float32."""
    state = {}
    for i, (name, shape) in enumerate(shapes):
        wave = 0.05 * np.sin(0.1 * i + np.arange(math.prod(shape)))
        is_norm_scale = len(shape) == 1 and name.endswith(".weight")
        state[name] = torch.from_numpy((wave + is_norm_scale).reshape(shape)).float()
    return state


def write(output_dir: Path, run: tuple[Any, ...], state: dict[str, Tensor], layout: str) -> Path:
    """A run folder in the published layout; the weights that are not averaged are zeros in an averaged file."""
    stem, _, prefix = layout.partition(" ")
    prefix = prefix and f"{prefix}."
    content = {prefix + name: value for name, value in state.items()}
    if stem == "ema_model":
        content = {
            "initted": torch.tensor(True),
            "step": torch.tensor(600000),
            **{f"online_model.{name}": torch.zeros(value.shape) for name, value in content.items()},
            **{f"ema_model.{name}": value for name, value in content.items()},
        }
    folder = output_dir / folder_name(run)
    save(folder / "model" / f"{stem}-{run[3]}.pth", content)
    return folder


@pytest.fixture(autouse=True)
def _leave_no_weights(tmp_path):
    """pytest keeps the folders of the last runs: too much for these files."""
    yield
    for name in ("runs", "upload"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)


@pytest.fixture(scope="session")
def golden() -> dict[str, Array]:
    with np.load(GOLDEN / "unet_forward.npz") as archive:
        return {key: archive[key] for key in archive.files}


@pytest.fixture(scope="session")
def small() -> dict[str, Tensor]:
    return recipe(small_shapes())


@pytest.fixture(scope="session")
def mnist_files(tmp_path_factory) -> Iterator[Path]:
    """Two full-size MNIST runs, written once."""
    root = tmp_path_factory.mktemp("released")
    state = recipe(published_shapes("mnist"))
    for layout in ("model module", "ema_model module"):
        write(root / layout.split()[0], MNIST, state, layout)
    yield root
    shutil.rmtree(root)  # 170 MB


@pytest.fixture
def mnist(mnist_files) -> Callable[[str], Path]:
    """Put one of them under ./runs."""

    def link(kind: str) -> Path:
        source = mnist_files / kind / folder_name(MNIST)
        folder = Path("runs") / source.name
        (folder / "model").mkdir(parents=True, exist_ok=True)
        for file in (source / "model").iterdir():
            (folder / "model" / file.name).symlink_to(file)
        return folder

    return link


@pytest.fixture
def seen(monkeypatch) -> dict[str, Any]:
    """What generate.py hands to the sampler."""
    found: dict[str, Any] = {}
    real = sharing.generate

    def spy(folder: Path, job: Any, *todo: Any, **settings: Any) -> int:
        found.update(folder=folder, dynamics=job.dynamics, denoiser=job.denoiser, solver=job.solver, steps=job.steps)
        found["t_end"] = job.config.t_end
        return real(folder, job, *todo, **settings)

    monkeypatch.setattr(sharing, "generate", spy)
    return found


def golden_input(name: str) -> tuple[Tensor, Tensor, Tensor]:
    channels, side = (1, 28) if name == "mnist" else (3, 32)
    x = np.sin(np.arange(3 * channels * side**2)).reshape(3, channels, side, side)
    return torch.from_numpy(x), torch.tensor([1e-5, 0.5, 1.0], dtype=torch.float64), torch.tensor([0, 3, 9])


def check_golden(denoiser: Any, name: str, golden: dict[str, Array]) -> None:
    """The network that was used has the published network's outputs."""
    x, t, labels = golden_input(name)
    with torch.no_grad():
        out = denoiser.backbone.cpu()(x.float(), t.float(), labels).double().numpy()
    want = golden[f"{name}/out_f64"]
    np.testing.assert_allclose(out, want, rtol=0, atol=TOLERANCE[name] * np.abs(want).max())


# -- the published command lines --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("run", CIFAR10, ids=folder_name)
def test_cifar10_small(cli, seen, small, golden, run, layout):
    folder = write(Path("runs"), run, small, layout)
    result = cli("generate", *PUBLISHED.format(*run).split(), *SHORT.split(), *SMALL.split())
    assert (result.code, result.err.count("Traceback")) == (0, 0)
    check_golden(seen["denoiser"], "cifar_small", golden)
    dynamics = seen["dynamics"]
    assert (dynamics.hurst, dynamics.num_aug, dynamics.marginals, dynamics.normalize) == (*run[1:3], "paper", True)
    assert dynamics.gamma_max == 20
    assert (seen["solver"].func, seen["steps"], seen["t_end"]) == (SOLVERS["em"], 2, 1e-3)
    images, labels = read_samples(
        folder / "generated_data" / f"model-{run[3]}" / ("sde2-ema" if "ema" in layout else "sde2")
    )
    # the same from the parts, without any file
    network = UNet(**golden_config("cifar_small")).eval()
    network.load_state_dict(small)
    process = FVP(run[1], run[2], marginals="paper")
    drawn = sample(
        process, Denoiser(network, process), (2, 3, 32, 32), solver="em", steps=2, seeds=[0, 1], labels=torch.arange(2)
    ).x
    want = ((drawn + 1) / 2).clamp(0, 1).movedim(1, -1).numpy()
    assert 0.1 < want.std() < 0.9  # no picture of one colour
    np.testing.assert_allclose(images, want, rtol=0, atol=1e-4)
    assert labels is not None
    assert labels.tolist() == [0, 1]


@pytest.mark.parametrize("kind", ["model", "ema_model"])
def test_mnist_full_size(cli, seen, mnist, golden, kind):
    folder = mnist(kind)
    result = cli("generate", *PUBLISHED.format(*MNIST).split(), *SHORT.split())
    assert result.code == 0
    check_golden(seen["denoiser"], "mnist", golden)
    assert (seen["dynamics"].num_aug, seen["dynamics"].marginals) == (3, "paper")
    images, _ = read_samples(folder / "generated_data" / "model-final" / ("sde2-ema" if "ema" in kind else "sde2"))
    assert images.shape == (2, 28, 28, 1)
    assert np.isfinite(images).all()


@pytest.mark.slow
def test_cifar10_full_size(cli, seen):
    run = CIFAR10[0]
    state = recipe(published_shapes("cifar10"))
    folder = write(Path("runs"), run, state, "ema_model module")
    result = cli("generate", *PUBLISHED.format(*run).split(), *SHORT.split())
    assert result.code == 0
    loaded = seen["denoiser"].backbone.state_dict()
    assert list(loaded) == list(state)
    assert all(torch.equal(loaded[name].cpu(), value) for name, value in state.items())
    assert read_samples(folder / "generated_data" / "model-v5" / "sde2-ema")[0].shape == (2, 32, 32, 3)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_the_published_networks_are_assumed(name):
    """Names, order and shapes of the published state dicts, from a folder's name alone."""
    run = MNIST if name == "mnist" else CIFAR10[0]
    config = released_config(runs.RunFolder(Path(folder_name(run))), {})
    with torch.device("meta"):
        network = build(config.network, torch.nn.Module)
    assert [(key, tuple(value.shape)) for key, value in network.state_dict().items()] == published_shapes(name)
    total = {"mnist": 20_996_417, "cifar10": 58_692_867}[name]
    assert sum(value.numel() for value in network.state_dict().values()) == total == MANIFEST[name]["params_total"]
    assert config.dynamics.path == "gfdm.dynamics:FVP"
    assert config.dynamics.arguments["marginals"] == "paper"
    assert config.prior_values == {"mean": 0, "variance": 0}
    assert config.model.prediction in ("eps", "auto")
    assert from_json(to_json(config), "plain data") == config


def test_without_labels(cli, seen, golden):
    """--conditioning False: the file has no label embedding, the generated data no labels."""
    with torch.device("meta"):
        network = UNet(**golden_config("cifar_small_uncond"))
    shapes = [(key, tuple(value.shape)) for key, value in network.state_dict().items()]
    folder = write(Path("runs"), CIFAR10[0], recipe(shapes), "model module")
    words = [*PUBLISHED.format(*CIFAR10[0]).split(), *SHORT.split(), *SMALL.split()]
    assert "label_emb.weight" in refused(cli("generate", *words))
    assert cli("generate", *words, "--conditioning", False).code == 0
    x, t, labels = golden_input("cifar_small")
    with torch.no_grad():
        out = seen["denoiser"].backbone.cpu()(x.float(), t.float(), labels).flatten()[:4]
    want = golden["cifar_small_uncond/first"]
    np.testing.assert_allclose(out, want, rtol=0, atol=5e-5 * float(golden["cifar_small_uncond/max_abs"]))
    assert not (folder / "generated_data" / "model-v5" / "sde2" / "label").exists()


def test_flags_beat_the_published_values(cli, seen, small):
    write(Path("runs"), CIFAR10[0], small, "model")
    words = f"--run_id latest --version v5 {SMALL} {SHORT} --marginals exact --norm False --gamma_max 30".split()
    assert cli("generate", *words).code == 0
    dynamics = seen["dynamics"]
    assert (dynamics.marginals, dynamics.normalize, dynamics.gamma_max) == ("exact", False, 30)


def test_a_folder_unzipped_by_hand(cli, small):
    folder = write(Path("runs") / "pretrained_models", CIFAR10[0], small, "ema_model module")
    result = cli("generate", *PUBLISHED.format(*CIFAR10[0]).split(), *SHORT.split(), *SMALL.split())
    assert result.code == 0
    assert len(read_samples(folder / "generated_data" / "model-v5" / "sde2-ema")[0]) == 2


def test_pretrained(cli, seen, small, golden, monkeypatch, server: Server):
    """--pretrained: download, unpack, sample; the second time without the download."""
    source = write(Path("upload"), CIFAR10[0], small, "ema_model module")
    file = source / "model" / "ema_model-v5.pth"
    server.body = zipped({f"pretrained_models/{source.name}/model/{file.name}": file.read_bytes()})
    monkeypatch.setitem(PRETRAINED, "gfdm-cifar10-h0.9-k2", Pretrained(server.url, "1299582", "v5"))
    words = ["--pretrained", "gfdm-cifar10-h0.9-k2", *SHORT.split(), *SMALL.split()]
    for _ in range(2):
        assert cli("generate", *words).code == 0
        assert server.requests == 1
    check_golden(seen["denoiser"], "cifar_small", golden)
    assert seen["folder"] == Path("runs") / source.name / "generated_data" / "model-v5" / "sde2-ema"


# -- one step in closed form ------------------------------------------------------------------------------------------


def published_law(hurst: float, num_aug: int, t: float) -> tuple[oracles.SDE, Array]:
    """The SDE, and the published covariance of the state: from Y_0 = 0, then Var Y^k enlarged."""
    sde = oracles.fvp(hurst, num_aug) if num_aug else oracles.vp()
    _, cov = oracles.moments(oracles.SDE(sde.F, sde.G, 0 * sde.start), np.array([t]))
    added = 1e-4 * np.exp(-2 * oracles.gammas(num_aug) * t) if num_aug else []
    return sde, cov[0] + np.diag([0.0, *added])


@pytest.mark.parametrize("run", [*CIFAR10, MNIST], ids=folder_name)
@pytest.mark.parametrize(("sampler", "factor"), [("em", 1.0), ("euler", 0.5)])
@pytest.mark.parametrize(("i", "t"), [(1, 0.5), (2, 1.0)])
def test_a_step_is_that_of_the_published_network(mnist, small, golden, run, sampler, factor, i, t):
    """From the state in which the network sees its golden input, z + dt (F z - factor G G' score) follows by hand."""
    name = "mnist" if run == MNIST else "cifar_small"
    folder = mnist("model") if name == "mnist" else write(Path("runs"), run, small, "model module")
    given = {"model_channels": 32, "num_res_blocks": 1} if name == "cifar_small" else {}
    loaded = runs.load(run[0], run[3], "runs", config=released_config(runs.RunFolder(folder), given))
    loaded.denoiser.backbone.double()  # the weights keep their float32 values

    sde, cov = published_law(run[1], run[2], t)
    alpha = np.linalg.solve(cov[1:, 1:], cov[1:, 0])
    v = golden_input(name)[0][i].numpy()
    y = np.cos(np.arange(run[2] * v.size)).reshape(run[2], *v.shape)
    z = np.concatenate([(v + np.tensordot(alpha, y, 1))[None], y])

    eps = golden[f"{name}/out_f64"][i]
    std = math.sqrt(cov[0, 0] - cov[0, 1:] @ alpha)
    # score of the state with score of X = -eps / std: log p(x, y) = log p(x | y) + log p(y)
    score = np.concatenate(
        [-eps[None] / std, np.multiply.outer(alpha, eps) / std - np.tensordot(np.linalg.inv(cov[1:, 1:]), y, 1)]
    )
    drift = np.tensordot(sde.F(t), z, 1) - factor * np.tensordot(np.outer(sde.G(t), sde.G(t)), score, 1)
    want = z - 0.1 * drift

    inputs: list[Tensor] = []
    loaded.denoiser.backbone.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    result = sample(
        loaded.dynamics,
        loaded.denoiser,
        (1, *v.shape),
        solver=sampler,
        steps=1,
        seeds=[0],
        init=torch.from_numpy(z[None]),
        labels=golden_input(name)[2][i : i + 1],
        grid=lambda *_: torch.tensor([t, t - 0.1], dtype=torch.float64),
        t_end=t - 0.1,
    )
    np.testing.assert_allclose(inputs[0][0], v, rtol=0, atol=1e-8)
    np.testing.assert_allclose(result.z[0], want, rtol=0, atol=1e-6 * np.abs(want - z).max())


# -- what is refused --------------------------------------------------------------------------------------------------


def refused(result: Result) -> str:
    assert result.code == 2
    (line,) = result.err.splitlines()
    assert len(line) < 600
    assert result.written == []
    return line


@pytest.mark.parametrize("num_aug", [4, 5])
def test_processes_that_cannot_be_known(cli, small, num_aug):
    run = ("7", 0.9, num_aug, "v5", "cifar10")
    write(Path("runs"), run, small, "model")
    line = refused(cli("generate", *PUBLISHED.format(*run).split(), *SHORT.split(), *SMALL.split()))
    assert line.startswith(f"generate.py: error: --num_aug {num_aug}: {folder_name(run)}")
    assert "float32" in line
    assert "rounding noise" in line


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ("--model_channels 64", r"ema_model-v5.pth does not fit this network: .* was expected"),
        ("--hurst 0.7", "--hurst 0.7 contradicts the run 1299582_cifar10_H0.9_K2, which has 0.9"),
        ("--num_aug 3", "--num_aug 3 contradicts"),
        ("--data_name mnist", "--data_name mnist contradicts"),
        ("--version v9", "--version v9: not in .* Versions there: v5"),
        ("--use_ema False", "--use_ema False: .*model-v5.pth is missing; this version has ema_model-v5.pth"),
        ("--ema_decay 0.5", "--ema_decay 0.5: no such average of version v5. Decays there: 0.9999"),
        ("--run_id 13", "--run_id 13: no such run under runs. Runs there: 1299582_cifar10_H0.9_K2"),
        ("--channel_mult 1,2", r"--attn_resolutions must be .* got \(8,\)"),
    ],
)
def test_what_does_not_fit(cli, small, change, pattern):
    write(Path("runs"), CIFAR10[0], small, "ema_model module")
    words = [*PUBLISHED.format(*CIFAR10[0]).split(), *SHORT.split(), *SMALL.split(), *change.split()]
    line = refused(cli("generate", *words))
    assert re.search(pattern, line), line


# -- scripts/export.py ------------------------------------------------------------------------------------------------


def test_export(cli, small, capsys):
    folder = write(Path("runs"), CIFAR10[0], small, "ema_model module")
    words = ["--run_id", "1299582", "--version", "v5", *SMALL.split()]
    assert export.main(words) == 0
    path = folder / "model" / "ema_model-v5.safetensors"
    assert (
        capsys.readouterr().out.partition("\n")[2] == f"weights   v5, average (ema_model-v5.pth)\nexported  {path}\n"
    )  # no decay is known
    with safetensors.safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["config"])["spec"]["shape"] == [3, 32, 32]
        assert set(file.keys()) == set(small)
        assert all(torch.equal(file.get_tensor(name), value) for name, value in small.items())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--run_id 13", "export.py: error: --run_id 13: no such run under runs"),
        ("--run_id 1299582 --version v5", "does not fit this network"),
        ("--run_id 1299582 --version v5 --use_ema maybe", "--use_ema"),
        ("--run_id 1299582 --steps 3", "--steps"),
        ("--version v5", "--run_id is required"),
    ],
)
def test_export_refuses(small, capsys, words, message):
    folder = write(Path("runs"), CIFAR10[0], small, "ema_model")
    with pytest.raises(SystemExit) as stop:
        export.main(words.split())
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("export.py: error: ")
    assert message in line
    assert [file.name for file in (folder / "model").iterdir()] == ["ema_model-v5.pth"]


def test_flags_that_describe_the_run_are_part_of_the_settings(cli, small):
    """Another process or network is another set of samples, not one that is there already."""
    run = CIFAR10[0]
    folder = write(Path("runs"), run, small, "model")
    words = ("generate", "--run_id", run[0], "--version", run[3], "--mode", "ode", *SMALL.split(), *SHORT.split())
    drawn = []
    for more in ((), ("--marginals", "exact"), ("--norm", "False"), ("--dynamics", "fve"), ("--marginals", "paper")):
        result = cli(*words, *more)
        assert result.code == 0, result.err
        drawn.append("not needed" not in result.out)
    assert drawn == [True, True, True, True, False]  # paper is the default
    arrays = {file.read_bytes() for file in folder.glob("generated_data/*/*/data/*.npy")}
    assert len(arrays) == 4
