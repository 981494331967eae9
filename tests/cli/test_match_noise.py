"""--match_noise: one checkpoint under other processes, from the command line to the images."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from common.backbones import UNet
from common.config.build import TOLD_APART
from common.denoiser import Clipped, Denoiser
from common.dynamics import VE, Prior
from common.generation import sharing
from common.generation.arrays import generate
from common.generation.blocks import Job, read_samples
from common.generation.matching import words_for
from common.guidance import Matched
from common.refusal import Refusal
from common.runs import load
from common.samplers import sample
from gfdm.dynamics import FVE, FVP
from tests.backbones.test_unet import golden_config
from tests.cli.test_released import CIFAR10, SMALL, small, write
from tests.cli.test_shipped import ROOT, SHIPPED

__all__ = ["small"]  # a fixture
NAME = SHIPPED["digits-demo"][0]
DRAW = ("generate", "--run_id", "digits-demo", "--n_samples", 8, "--steps", 5)


@pytest.fixture
def demo(tmp_path) -> Path:
    """A copy of digits-demo under ./runs."""
    folder = tmp_path / "runs" / NAME
    shutil.copytree(ROOT / "runs" / NAME, folder, ignore=shutil.ignore_patterns("generated_data"))
    return folder


@pytest.fixture
def jobs(monkeypatch) -> list[Job]:
    """What generate.py draws with."""
    found: list[Job] = []
    real = sharing.generate
    monkeypatch.setattr(
        sharing, "generate", lambda folder, job, *more, **named: found.append(job) or real(folder, job, *more, **named)
    )
    return found


def set_of(run: Path, name: str) -> Path:
    (version,) = (run / "generated_data").iterdir()
    return version / name


def by_hand(run: Path, process: FVP | FVE | VE, seeds: range, solver: str = "ab3", steps: int = 5) -> Tensor:
    """The same samples from the parts."""
    own = load(run.name).denoiser
    process.decision_level = own.dynamics.decision_level  # known of the data, and the grid measured on the network
    process.node_density = own.dynamics.node_density
    path = process.scalar_path()
    denoiser = Clipped(Matched(own, process))
    shape = (len(seeds), 1, 8, 8)
    x = sample(path, denoiser, shape, solver=solver, steps=steps, seeds=seeds, labels=torch.arange(len(seeds)) % 10).x
    return ((x + 1) / 2).clamp(0, 1).movedim(1, -1)


TARGETS = {
    "ab3-5-fvp-H0.7_K3-ema": (("--match_noise", "--hurst", "0.7", "--num_aug", "3"), FVP(0.7, 3)),
    "ab3-5-fvp-H0.7_K2-ema": (("--hurst=0.7", "--match_noise=True"), FVP(0.7, 2)),
    "ab3-5-fve-H0.9_K2-ema": (("--dynamics", "fve", "--match_noise", "True"), FVE(0.9, 2)),
    "ab3-5-ve-ema": (("--dynamics", "ve", "--sigma_max", "40", "--match_noise"), VE(sigma_max=40.0)),
}


def test_one_checkpoint_under_other_processes(cli, demo, jobs):
    for name, (words, process) in TARGETS.items():
        result = cli(*DRAW, *words)
        assert result.code == 0, result.err
        (job,) = jobs
        assert job.dynamics.shows_the_law_of(process)
        low, high = (float(process.log_sigma(torch.tensor([t])).exp()) for t in (1e-3, 1.0))
        line = f"process   FVP(hurst=0.9, num_aug=2, marginals=exact, normalize=True) -> matched to {process}, "
        assert f"{line}noise levels {low:.3g} to {high:.4g}\n" in result.out
        images, labels = read_samples(set_of(demo, name))
        assert labels.tolist() == list(range(8))
        np.testing.assert_allclose(images, by_hand(demo, process, range(8)), atol=1e-5)
        assert 0.1 < images.mean() < 0.5  # of real digits .31
        again = cli(*DRAW, *words)
        assert "not needed: all samples were there" in again.out
        jobs.clear()
    assert cli(*DRAW).code == 0  # the run's own process, in a set of its own
    assert {path.name for path in set_of(demo, "").iterdir() if path.is_dir()} == {*TARGETS, "ab3-5-ema"}
    assert "process" not in json.loads((set_of(demo, "ab3-5-ema") / "settings.json").read_text())


def test_other_arguments_of_the_process_are_another_set(cli, demo):
    words = (*DRAW, "--match_noise", "--hurst", 0.7)
    assert cli(*words).code == cli(*words, "--beta_max", 18).code == 0
    names = sorted(path.name for path in set_of(demo, "").iterdir() if path.is_dir())
    assert names == ["ab3-5-fvp-H0.7_K2-ema", "ab3-5-fvp-H0.7_K2-ema-2"]
    assert json.loads((set_of(demo, names[1]) / "settings.json").read_text())["process"]["arguments"]["beta_max"] == 18


def test_evaluate_finds_checks_and_draws_such_a_set(cli, demo):
    of_process = ("--match_noise", "--dynamics", "fve", "--norm", "False", "--sigma_max", 9)
    assert cli(*DRAW, "--batch_size", 4, *of_process).code == 0
    place = set_of(demo, "ab3-5-fve-H0.9_K2-ema")
    look = ("evaluate", "--run_id", "digits-demo", "--metrics", "moments")
    assert cli(*look).code == 0
    figures = json.loads((place / "metrics.json").read_text())
    assert figures["about"]["samples"]["settings"]["process"]["arguments"]["sigma_max"] == 9
    before = read_samples(place)[0]
    for name in ("manifest.json", "data/data_000004.npy", "label/label_000004.npy"):  # as if it had been stopped
        (place / name).unlink()
    refused = cli(*look)
    assert refused.code == 2
    words = shlex.split(refused.err.partition("python generate.py ")[2])
    assert {"--match_noise=True", "--dynamics=fve", "--sigma_max=9.0", "--norm=False"} <= {*words}
    again = cli("generate", *words)
    assert again.code == 0, again.err
    assert "kept      4 samples are there already" in again.out
    assert np.array_equal(read_samples(place)[0], before)
    drawn = cli(*look, "--n_samples", 8, "--steps", 5, "--batch_size", 4, *of_process)
    assert drawn.code == 0, drawn.err
    assert "-> matched to FVE(hurst=0.9, num_aug=2" in drawn.out
    assert [path.name for path in set_of(demo, "").iterdir() if path.is_dir()] == [place.name]


def test_from_python_as_by_the_program(cli, demo):
    assert cli(*DRAW, "--match_noise", "--dynamics", "fve", "--hurst", 0.7).code == 0
    run = load("digits-demo")
    kept = generate(run, 8, steps=5, dynamics=FVE, dynamics_arguments={"hurst": 0.7}, save=True)
    assert kept.evaluations == 0  # they were there
    found = generate(run, 8, steps=5, dynamics_arguments={"hurst": 0.7, "num_aug": 3})
    np.testing.assert_allclose(found.x, by_hand(demo, FVP(0.7, 3), range(8)), atol=1e-5)
    refused = {
        "nothing to match": {"hurst": 0.9},
        "rate: FVP has no such argument": {"rate": 1},
        "hurst cannot be": {"hurst": "x"},
    }
    for message, arguments in refused.items():
        with pytest.raises(Refusal, match=message):
            generate(run, 8, dynamics_arguments=arguments)
    with pytest.raises(Refusal, match="dynamics must be a class of processes"):
        generate(run, 8, dynamics=UNet)


@pytest.mark.parametrize(
    "stored",
    [
        None,
        "ve",
        {"name": "ve"},
        {"name": "ve", "path": "os:system", "arguments": {"command": "x"}},
        {"name": "ve", "path": "common.denoiser:Denoiser", "arguments": {}},
        {"name": "ve", "path": "common.dynamics.classic:VE", "arguments": [1]},
    ],
)
def test_a_process_of_others_is_no_flag(stored):
    assert words_for(stored) == []


REFUSED = {
    "--match_noise": r"nothing to match: .* was trained under FVP\(hurst=0\.9.*--dynamics",
    "--match_noise --hurst 0.9 --num_aug 2": "nothing to match",
    "--match_noise --dynamics vp": r"VP\(.*\) begins at sigma\(T\) = 152\.2, .* up to 117\.6; .* "
    r"--dynamics fvp \(--num_aug 3, 4\), fve \(--num_aug 1, 2, 3, 4\), ve, edm would fit",
    "--match_noise --dynamics heat": "HeatSubVP.* is to be sampled under, has one per mode",
    "--match_noise --hurst 0.3 --marginals paper": "paper.* falls in places.*marginals exact",
    "--match_noise --dynamics subvp --hurst 0.7": "--hurst has no effect on --dynamics subvp; leave it out",
    "--match_noise --sigma_max 9": "--sigma_max has no effect on --dynamics fvp; leave it out",
    "--match_noise --dynamics cld --beta 1 --t_end 1e-6": "--t_end 1e-06 is too early: CLD.*take 0.0",
    "--match_noise --hurst 1.5": r"--hurst must lie in \(0, 1\), got 1\.5",
    "--match_noise --dynamics no": "--dynamics: invalid choice: 'no'",
    "--match_noise 3": "'3' is neither True nor False",
    "--match_noise --hurst 0.7 --prior data": "--prior data: .* trained with --prior zero",
    "--match_noise --hurst 0.7 --data_name mnist": "--data_name mnist contradicts the run",
    "--match_noise False --hurst 0.7": "--hurst 0.7 contradicts the run",
    "--hurst 0.7": "--hurst 0.7 contradicts the run",
    "--sigma_max 9": "unrecognized arguments: --sigma_max 9",
}


def test_what_cannot_be_is_refused_in_a_line(cli, demo):
    for words, message in REFUSED.items():
        result = cli(*DRAW, *words.split())
        assert (result.code, result.err.count("\n"), result.written) == (2, 1, []), result.err
        with pytest.raises(AssertionError, match=message):
            raise AssertionError(result.err)


def test_a_run_of_heat_is_refused(cli, tmp_path):
    name = SHIPPED["digits-heat-demo"][0]
    shutil.copytree(ROOT / "runs" / name, tmp_path / "runs" / name)
    result = cli("generate", "--run_id", "digits-heat-demo", "--match_noise", "--dynamics", "vp")
    assert result.code == 2
    assert "HeatSubVP" in result.err
    assert "was trained under, has one per mode" in result.err


def test_the_start_is_that_of_the_data_if_the_run_knows_it(cli, demo, jobs):
    words = (*DRAW, "--match_noise", "--dynamics", "fve", "--hurst", 0.3)  # sigma(T) = 0.47
    told = cli(*words)
    note = "note      the noise level at T is only 0.468: data is still seen there, so samples start from the wrong law"
    assert note in told.out
    assert not jobs[-1].dynamics.prior.variance.any()
    config = json.loads((demo / "config.json").read_text())
    (demo / "config.json").write_text(json.dumps({**config, "prior": {"mean": -0.4, "variance": 0.25}}))
    (demo / "manifest.json").unlink()
    told = cli(*words, "--seeds", "8-15")
    assert told.code == 0, told.err
    assert note in told.out
    prior: Prior = jobs[-1].dynamics.prior
    assert (float(prior.mean), float(prior.variance)) == (-0.4, 0.25)


# -- folders of the published code -------------------------------------------------------------------------------------


def test_weights_of_the_published_code_under_exact_marginals(cli, small, jobs):
    folder = write(Path("runs"), CIFAR10[0], small, "model")
    words = f"--run_id 1299582 --version v5 --n_samples 2 --batch_size 2 --steps 3 {SMALL} --match_noise".split()
    refused = cli("generate", *words)
    assert "there is nothing to match: 1299582_cifar10_H0.9_K2 was trained under FVP(hurst=0.9" in refused.err
    result = cli("generate", *words, "--marginals", "exact")
    assert result.code == 0, result.err
    assert "marginals=paper, normalize=True) -> matched to FVP(hurst=0.9, num_aug=2, marginals=exact" in result.out
    (job,) = jobs
    assert job.config.solver == "ab3"  # the best one: this is not how it was published
    network = UNet(**golden_config("cifar_small")).eval()
    network.load_state_dict(small)
    target = FVP(0.9, 2)
    target.decision_level = TOLD_APART * target.data_std * 32
    denoiser = Clipped(Matched(Denoiser(network, FVP(0.9, 2, marginals="paper")), target))
    drawn = sample(target.scalar_path(), denoiser, (2, 3, 32, 32), solver="ab3", steps=3, seeds=[0, 1],
                   labels=torch.arange(2)).x  # fmt: skip
    images, _ = read_samples(folder / "generated_data" / "model-v5" / "ab3-3-fvp-H0.9_K2")
    np.testing.assert_allclose(images, ((drawn + 1) / 2).clamp(0, 1).movedim(1, -1), atol=1e-4)
    # without the switch the flag describes the folder, as before
    assert cli("generate", *words[:-1], "--marginals", "exact").code == 0
    assert jobs[-1].config.process is None
    assert jobs[-1].config.solver == "em"
    ambiguous = cli("generate", *words, "--dynamics", "fve")
    assert ambiguous.code == 2
    assert "--dynamics fve and --match_noise exclude each other: 1299582_cifar10_H0.9_K2 does not say" in ambiguous.err
    assert cli("generate", *words, "--dynamics", "ve").code == 0
    assert isinstance(jobs[-1].dynamics, VE)
