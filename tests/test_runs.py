"""Run folders: what was trained comes back from the folder alone, and nothing else is let in."""

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from torch import nn

from common.backbones import UNet
from common.config.build import build_denoiser
from common.config.plugins import build, class_path
from common.config.schema import Chosen, RunConfig
from common.config.stored import CONFIG, from_json, read_config, to_json
from common.denoiser import Denoiser
from common.dynamics import LinearDynamics
from common.files import save, write_json
from common.refusal import Refusal
from common.runs import (
    Run,
    RunFolder,
    RunNotFound,
    export_safetensors,
    find,
    load,
    load_weights,
    parse_released_name,
    run_folders,
)
from gfdm.dynamics import FVP

DYNAMICS: dict[str, dict[str, Any]] = {
    "fvp": {
        "class": "gfdm.dynamics:FVP",
        "arguments": {"hurst": 0.7, "num_aug": 1, "gamma_max": 20.0, "normalize": True, "marginals": "exact"},
    },
    "fve": {"class": "gfdm.dynamics:FVE", "arguments": {"hurst": 0.3, "num_aug": 2, "sigma_max": 20.0}},
    "ve": {"class": "common.dynamics.classic:VE", "arguments": {"sigma_min": 0.02}},
    "cld": {"class": "common.dynamics.classic:CLD", "arguments": {}},
}


def config(dynamics: str = "fvp", num_classes: int | None = 4, prediction: str = "eps") -> dict[str, Any]:
    return {
        "format": 1,
        "dynamics": copy.deepcopy(DYNAMICS[dynamics]),
        "prior": {"mean": -0.25, "variance": 0.5},
        "backbone": {
            "class": "common.backbones.unet:UNet",
            "arguments": {
                "image_size": 8,
                "in_channels": 1,
                "model_channels": 16,
                "out_channels": 1,
                "num_res_blocks": 1,
                "attention_resolutions": [2],
                "dropout": 0.3,
                "channel_mult": [1, 1],
                "num_classes": num_classes,
            },
        },
        "prediction": prediction,
        "data": {"name": "digits", "shape": [1, 8, 8], "num_classes": num_classes},
        "settings": {"data_name": "digits", "dynamics": dynamics, "model_name": "unet", "hurst": 0.7, "num_aug": 1},
    }


def typed(content: dict[str, Any] | None = None) -> RunConfig:
    return from_json(content or config(), "a test")


def randomised(content: dict[str, Any]) -> Denoiser:
    """A denoiser with random weights (a fresh UNet returns zeros)."""
    denoiser = build_denoiser(typed(content))
    with torch.no_grad():
        for parameter in denoiser.backbone.parameters():
            parameter.copy_(0.1 * torch.randn_like(parameter))
    return denoiser.eval()


def make_run(folder: Path, content: dict[str, Any], *names: str, ema: bool = True) -> dict[str, Denoiser]:
    """A run folder with random weights; returns the denoisers by file stem."""
    write_json(folder / CONFIG, content)
    made = {}
    for name in names:
        for stem in (f"model-{name}", f"ema_model-{name}")[: 2 if ema else 1]:
            made[stem] = randomised(content)
            save(folder / "model" / f"{stem}.pth", made[stem].backbone.state_dict())
    return made


def outputs(denoiser: Denoiser, labels: bool = True) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    v, t = torch.randn(5, 1, 8, 8, generator=generator), torch.linspace(0.05, 1, 5)
    with torch.no_grad():
        return denoiser(v, t, torch.arange(5) % 4 if labels else None)


def begun(folder: Path, year: int) -> None:
    """Say when a run was begun."""
    write_json(folder / "manifest.json", {"format": 1, "made": f"{year}-01-01", "files": {}})


@pytest.fixture
def runs(tmp_path) -> Path:
    """Three runs, two with an id in common, made in this order."""
    for age, name in enumerate(("7_digits_H0.7_K1", "7_mnist_H0.7_K1", "77_digits_H0.7_K1")):
        make_run(tmp_path / name, config())
        begun(tmp_path / name, 2000 + age)
        os.utime(tmp_path / name / CONFIG, (1000 - age, 1000 - age))  # a copy has other times
    (tmp_path / "not_a_run").mkdir()
    return tmp_path


# -- round trip -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dynamics", "num_classes", "prediction"),
    [("fvp", 4, "eps"), ("fve", None, "v"), ("ve", 4, "edm"), ("cld", 4, "x0")],
)
def test_what_was_trained_comes_back(tmp_path, dynamics, num_classes, prediction):
    content = config(dynamics, num_classes, prediction)
    made = make_run(tmp_path / "5_x", content, "final")
    run = load("5", output_dir=tmp_path)
    assert isinstance(run, Run)
    assert torch.equal(
        outputs(run.denoiser, num_classes is not None), outputs(made["ema_model-final"], num_classes is not None)
    )
    assert outputs(run.denoiser).std() > 0.01  # the comparison is one of numbers, not of zeros
    assert run.denoiser.prediction == prediction
    assert class_path(type(run.dynamics)) == content["dynamics"]["class"]
    assert run.dynamics is run.denoiser.dynamics
    t = torch.tensor([0.3])
    assert torch.equal(run.dynamics.moments(t).cov, made["model-final"].dynamics.moments(t).cov)
    assert run.dynamics.prior.tensors() == {"mean": -0.25, "variance": 0.5}
    assert run.config == read_config(tmp_path / "5_x")
    assert from_json(to_json(run.config), "format 2") == run.config
    assert (run.data.shape, run.data.num_classes) == ((1, 8, 8), num_classes)
    assert (run.folder.path, run.version) == (tmp_path / "5_x", "final")
    assert not any(part.training for part in run.denoiser.modules())  # dropout is off


def test_averaged_weights_are_taken_where_they_are(tmp_path):
    made = make_run(tmp_path / "5_x", config(), "final")
    for averaged, stem in ((None, "ema_model-final"), (True, "ema_model-final"), (False, "model-final")):
        found = load("5", output_dir=tmp_path, averaged=averaged)
        assert torch.equal(outputs(found.denoiser), outputs(made[stem]))
    made = make_run(tmp_path / "6_x", config(), "final", ema=False)
    for averaged in (None, False):
        found = load("6", output_dir=tmp_path, averaged=averaged)
        assert torch.equal(outputs(found.denoiser), outputs(made["model-final"]))
    with pytest.raises(RunNotFound, match=r"use_ema True.*ema_model-final\.pth is missing; .* has model-final\.pth$"):
        load("6", output_dir=tmp_path, averaged=True)


def test_a_run_knows_which_weights_it_has(tmp_path):
    make_run(tmp_path / "5_x", config(), "final")
    for averaged, stem in ((None, "ema_model-final"), (True, "ema_model-final"), (False, "model-final")):
        run = load("5", output_dir=tmp_path, averaged=averaged)
        assert run.weights == tmp_path / "5_x" / "model" / f"{stem}.pth"
        assert run.averaged is (averaged is not False)


def test_versions(tmp_path):
    names = ["v0", "v1", "v10", "final"]
    made = make_run(tmp_path / "5_x", config(), *names)
    for age, version in enumerate(names):
        os.utime(
            tmp_path / "5_x" / "model" / f"model-{version}.pth", (1000 - age, 1000 - age)
        )  # a copy has other times
        assert torch.equal(outputs(load("5", version, tmp_path).denoiser), outputs(made[f"ema_model-{version}"]))
    assert RunFolder(tmp_path / "5_x").versions() == names
    with pytest.raises(RunNotFound, match=r"version v2.*v0, v1, v10, final"):
        load("5", "v2", tmp_path)


def test_a_run_without_weights_says_so(tmp_path):
    make_run(tmp_path / "5_x", config())
    with pytest.raises(RunNotFound, match=r"run_id 5_x: nothing is saved yet.*python train\.py --resume 5_x"):
        load("5", output_dir=tmp_path)
    with pytest.raises(RunNotFound, match=r"version final.*none yet"):
        load("5", "final", tmp_path)


# -- several averages -------------------------------------------------------------------------------------------------


@pytest.fixture
def averages(tmp_path) -> dict[str, Denoiser]:
    """A run with three averages of ``final`` and two of ``v0``; its weights by file stem."""
    content = config()
    content["settings"]["ema_decay"] = [0.9999, 0.999, 1e-5]
    made = make_run(tmp_path / "5_x", content, "v0", "final")
    for stem in ("ema0.999_model-final", "ema1e-05_model-final", "ema0.999_model-v0"):
        made[stem] = randomised(content)
        save(tmp_path / "5_x" / "model" / f"{stem}.pth", made[stem].backbone.state_dict())
    return made


@pytest.mark.parametrize(
    ("decay", "stem"),
    [
        (None, "ema_model-final"),
        (0.9999, "ema_model-final"),
        (0.999, "ema0.999_model-final"),
        (0.00001, "ema1e-05_model-final"),
    ],
)
@pytest.mark.parametrize("averaged", [None, True])
def test_a_decay_picks_an_average(tmp_path, averages, decay, stem, averaged):
    run = load("5", output_dir=tmp_path, averaged=averaged, decay=decay)
    assert torch.equal(outputs(run.denoiser), outputs(averages[stem]))
    assert run.averaged
    assert run.weights.stem == stem


def test_further_averages_are_no_versions(tmp_path, averages):
    assert sorted(RunFolder(tmp_path / "5_x").versions()) == ["final", "v0"]


@pytest.mark.parametrize(
    ("version", "decay", "known"), [("final", 0.99, "0.9999, 0.999, 1e-05"), ("v0", 1e-5, "0.9999, 0.999")]
)
def test_a_decay_that_is_not_there(tmp_path, averages, version, decay, known):
    with pytest.raises(RunNotFound, match=rf"ema_decay {decay:g}.*version {version}\. Decays there: {known}$"):
        load("5", version, tmp_path, decay=decay)


def test_a_decay_without_an_average_contradicts(tmp_path, averages):
    with pytest.raises(ValueError, match=r"ema_decay and --use_ema False exclude each other"):
        load("5", output_dir=tmp_path, averaged=False, decay=0.999)


@pytest.mark.parametrize("stored", [0.999, [0.999], None])
def test_one_average_has_one_decay(tmp_path, stored):
    content = config()
    if stored is not None:
        content["settings"]["ema_decay"] = stored
    made = make_run(tmp_path / "5_x", content, "final")
    if stored is not None:
        run = load("5", output_dir=tmp_path, decay=0.999)
        assert torch.equal(outputs(run.denoiser), outputs(made["ema_model-final"]))
    with pytest.raises(RunNotFound, match=f"Decays there: {'0.999' if stored else 'none'}$"):
        load("5", output_dir=tmp_path, decay=0.9999)


# -- the layout of the published code ---------------------------------------------------------------------------------

RELEASED = "42_cifar10_H0.9_K2"


def disguised(state: dict[str, torch.Tensor], form: str) -> dict[str, torch.Tensor]:
    """A state dict as the published code writes it."""
    if form == "plain":
        return state
    wrapped = {f"module.{name}": value for name, value in state.items()}
    if form == "module":
        return wrapped
    inner = wrapped if form == "ema module" else state
    return {
        "initted": torch.tensor(True),
        "step": torch.tensor(7),
        **{f"online_model.{name}": torch.zeros_like(value) for name, value in inner.items()},
        **{f"ema_model.{name}": value for name, value in inner.items()},
    }


def released(folder: Path, form: str, stem: str = "model-v5") -> Denoiser:
    """A released folder with random weights."""
    made = randomised(config())
    save(folder / "model" / f"{stem}.pth", disguised(made.backbone.state_dict(), form))
    return made


@pytest.mark.parametrize("form", ["plain", "module", "ema", "ema module"])
@pytest.mark.parametrize("place", ["", "pretrained_models"])
def test_released_weights_are_loaded(tmp_path, form, place):
    stem = "ema_model-v5" if form.startswith("ema") else "model-v5"
    made = released(tmp_path / place / RELEASED, form, stem)
    run = load("42", "v5", tmp_path, config=typed())
    assert torch.equal(outputs(run.denoiser), outputs(made))
    assert (run.folder.path, run.version, run.averaged) == (tmp_path / place / RELEASED, "v5", stem.startswith("ema"))
    assert (run.config, run.data) == (typed(), typed().sample)


def test_only_leading_wrappers_are_removed(tmp_path):
    """The published code removes ``module.`` anywhere in a name."""

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential()
            self.inner.module = nn.Linear(2, 2)

    for form in ("plain", "module", "ema", "ema module"):
        theirs, ours = Network(), Network()
        save(tmp_path / "a.pth", disguised(theirs.state_dict(), form))
        load_weights(ours, tmp_path / "a.pth")
        assert torch.equal(ours.inner.module.weight, theirs.inner.module.weight)


@pytest.mark.parametrize("form", ["module", "ema module"])
def test_released_weights_that_do_not_fit_are_described_in_our_names(tmp_path, form):
    made = randomised(config())
    state = {**made.backbone.state_dict(), "more": torch.zeros(1), "out.2.bias": torch.zeros(3)}
    del state["out.2.weight"]
    save(tmp_path / "a.pth", disguised(state, form))
    with pytest.raises(
        ValueError, match=r"1 missing \(e\.g\. out\.2\.weight\); 1 unknown \(e\.g\. more\); out\.2\.bias is"
    ):
        load_weights(made.backbone, tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("form", "odd", "unknown"), [("plain", "module.more", "module.more"), ("ema", "optimizer.state", "ema_model.")]
)
def test_names_are_left_alone_where_some_do_not_belong(tmp_path, form, odd, unknown):
    """One name of another kind among the others: nothing is guessed."""
    made = randomised(config())
    save(tmp_path / "a.pth", {**disguised(made.backbone.state_dict(), form), odd: torch.zeros(1)})
    with pytest.raises(ValueError, match=rf"does not fit this network.*unknown \(e\.g\. {unknown}"):
        load_weights(made.backbone, tmp_path / "a.pth")


def test_no_names_at_all(tmp_path):
    save(tmp_path / "a.pth", {})
    with pytest.raises(ValueError, match="does not fit this network"):
        load_weights(randomised(config()).backbone, tmp_path / "a.pth")


def test_either_kind_makes_a_version(tmp_path):
    """Published runs hold one kind or both; the one that is not there is refused by name."""
    folder = tmp_path / RELEASED
    for stem in ("model-v0", "ema_model-v0", "ema_model-v1", "model-final"):
        released(folder, "ema" if stem.startswith("ema") else "plain", stem)
    versions = RunFolder(folder).versions()
    assert versions == ["v0", "v1", "final"]
    kinds = {version: load("42", version, tmp_path, config=typed()).averaged for version in versions}
    assert kinds == {"v0": True, "v1": True, "final": False}
    with pytest.raises(RunNotFound, match=r"use_ema False.*model-v1\.pth is missing; .* has ema_model-v1\.pth$"):
        load("42", "v1", tmp_path, averaged=False, config=typed())
    with pytest.raises(RunNotFound, match=r"use_ema True.*ema_model-final\.pth is missing; .* has model-final\.pth$"):
        load("42", "final", tmp_path, averaged=True, config=typed())
    with pytest.raises(RunNotFound, match=r"version v5.*v0, v1, final$"):
        load("42", "v5", tmp_path, config=typed())


def test_a_released_folder_needs_a_config(tmp_path):
    released(tmp_path / RELEASED, "plain")
    with pytest.raises(Refusal, match=rf"{RELEASED} has no config\.json.*gfdm\.released\.released_config") as caught:
        load("42", "v5", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_run_of_ours_takes_no_config(tmp_path):
    make_run(tmp_path / "5_x", config(), "final")
    with pytest.raises(ValueError, match=r"config must be None: .*5_x has its own config\.json"):
        load("5", output_dir=tmp_path, config=typed())


def test_released_folders_are_told_from_others(tmp_path):
    released(tmp_path / RELEASED, "plain")
    make_run(tmp_path / "5_x", config(), "final")
    make_run(tmp_path / "6_x", config())
    for name in ("empty", "notes/model", f"{RELEASED}/checkpoints"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("weights.pth", "model-v5.txt", ".model-v5.pth.x.tmp", "emax_model-v5.pth"):
        (tmp_path / "notes" / "model" / name).write_bytes(b"x")
    assert [folder.name for folder in sorted(tmp_path.iterdir()) if RunFolder(folder).is_released] == [RELEASED]
    assert {folder.name for folder in run_folders(tmp_path)} == {RELEASED, "5_x", "6_x"}
    assert not RunFolder(tmp_path / "nothing").is_released


def test_released_folders_are_found_one_level_deeper_and_no_deeper(tmp_path):
    released(tmp_path / "pretrained_models" / RELEASED, "plain")
    released(tmp_path / "a" / "b" / "43_cifar10_H0.7_K2", "plain")
    released(tmp_path / ".unpacking" / "44_cifar10_H0.7_K2", "plain")
    released(tmp_path / ".45_cifar10_H0.7_K2", "plain")
    released(tmp_path / "5_x" / "46_cifar10_H0.7_K2", "plain")  # inside of a run there are no runs
    make_run(tmp_path / "5_x", config(), "final")
    make_run(tmp_path / "group" / "6_x", config(), "final")  # ours lie where train.py puts them
    assert {folder.name for folder in run_folders(tmp_path)} == {RELEASED, "5_x"}
    for name in ("42", RELEASED, f"pretrained_models/{RELEASED}"):
        assert find(name, tmp_path).path == tmp_path / "pretrained_models" / RELEASED


def test_the_same_run_twice_is_told_apart_by_its_place(tmp_path):
    for place in ("", "x", "y"):
        released(tmp_path / place / RELEASED, "plain")
    with pytest.raises(RunNotFound, match="several") as caught:
        find("42", tmp_path)
    assert all(f"{place}{RELEASED}" in str(caught.value) for place in ("x/", "y/"))
    assert find(RELEASED, tmp_path).path == tmp_path / RELEASED
    assert find(f"y/{RELEASED}", tmp_path).path == tmp_path / "y" / RELEASED


def test_latest_of_runs_that_do_not_say_when_they_were_begun(tmp_path):
    """Times of files are those of the last copy: where nothing else is known, nothing is guessed."""
    released(tmp_path / RELEASED, "plain")
    assert find("latest", tmp_path).name == RELEASED
    make_run(tmp_path / "5_x", config(), "final")
    with pytest.raises(RunNotFound, match=rf"none of the runs .* says when it was begun.*: 5_x, {RELEASED}$"):
        find("latest", tmp_path)
    begun(tmp_path / "5_x", 2026)
    assert find("latest", tmp_path).name == "5_x"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("1299582_cifar10_H0.9_K2", ("cifar10", 0.9, 2)),
        ("1299543_cifar10_H0.5_K0", ("cifar10", 0.5, 0)),
        ("012345word__mnist_H0.05_K13", ("mnist", 0.05, 13)),
        ("a_b_my-data_H1_K3", ("my-data", 1.0, 3)),
    ],
)
def test_a_released_name_says_what_it_is(name, found):
    said = parse_released_name(name)
    assert (said.data_name, said.hurst, said.num_aug) == found
    assert said.run_id == name.partition("_")[0]


@pytest.mark.parametrize(
    "name",
    ["", "42", "cifar10_H0.9_K2", "42_cifar10_H0.9", "42_cifar10_K2", "42_cifar10_H_K2", "42_cifar10_Hx_K2",
     "42_cifar10_H0.9_K", "42_cifar10_H0.9_K2_copy", "42_cifar10_H-0.9_K2", "42_cifar10_H0.9_K2.5", "42__H0.9_K2",
     "42_cifar10_vp_unet"],
)  # fmt: skip
def test_a_name_that_does_not_say_is_refused(name):
    with pytest.raises(ValueError, match=r"does not say data, Hurst index"):
        parse_released_name(name)


# -- safetensors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("averaged", "decay", "stem"),
    [(None, None, "ema_model-final"), (False, None, "model-final"), (None, 0.999, "ema0.999_model-final")],
)
def test_export(tmp_path, averages, averaged, decay, stem):
    run = load("5", output_dir=tmp_path, averaged=averaged, decay=decay)
    path = export_safetensors(run)
    assert path == tmp_path / "5_x" / "model" / f"{stem}.safetensors"
    fresh = build_denoiser(run.config).eval()
    load_weights(fresh.backbone, path)
    assert torch.equal(outputs(fresh), outputs(averages[stem]))
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert from_json(json.loads(metadata["config"]), path.name) == run.config
    assert (metadata["format"], metadata["version"]) == ("pt", "final")
    assert sorted(RunFolder(tmp_path / "5_x").versions()) == ["final", "v0"]


def test_export_elsewhere(tmp_path):
    make_run(tmp_path / "5_x", config(), "final")
    path = tmp_path / "new" / "x.safetensors"
    assert export_safetensors(load("5", output_dir=tmp_path), path) == path
    assert [file.name for file in path.parent.iterdir()] == ["x.safetensors"]
    assert not list((tmp_path / "5_x").rglob("*.safetensors"))


def test_an_exported_file_stands_in_for_the_first(tmp_path):
    """Where both are there the .pth counts; a run that was handed on as .safetensors alone works like any other."""
    folder = tmp_path / RELEASED
    made = {stem: released(folder, "module", stem) for stem in ("model-v5", "ema_model-v5")}
    for averaged in (False, True):
        export_safetensors(load("42", "v5", tmp_path, averaged=averaged, config=typed()))
    assert load("42", "v5", tmp_path, config=typed()).weights.name == "ema_model-v5.pth"
    for stem in made:
        (folder / "model" / f"{stem}.pth").unlink()
    assert RunFolder(folder).versions() == ["v5"]
    for stem in made:
        run = load("42", "v5", tmp_path, averaged=stem.startswith("ema"), config=typed())
        assert run.weights == folder / "model" / f"{stem}.safetensors"
        assert torch.equal(outputs(run.denoiser), outputs(made[stem]))


# -- finding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run_id", "name"),
    [
        ("77", "77_digits_H0.7_K1"),
        ("77_digits_H0.7_K1", "77_digits_H0.7_K1"),
        ("7_digits_H0.7_K1", "7_digits_H0.7_K1"),
        ("7_mnist", "7_mnist_H0.7_K1"),
        ("latest", "77_digits_H0.7_K1"),
    ],
)
def test_find(runs, run_id, name):
    assert find(run_id, runs).path == runs / name


def test_latest_is_the_newest_not_the_last_name(runs):
    begun(runs / "7_digits_H0.7_K1", 2026)
    assert find("latest", runs).name == "7_digits_H0.7_K1"
    assert [folder.name for folder in run_folders(runs)][-1] == "7_digits_H0.7_K1"


def test_an_ambiguous_id_lists_its_runs(runs):
    with pytest.raises(RunNotFound, match="several") as caught:
        find("7", runs)
    assert "7_digits_H0.7_K1, 7_mnist_H0.7_K1" in str(caught.value)
    assert "77_" not in str(caught.value)


def test_a_whole_name_is_never_ambiguous(runs):
    """A folder name that another one continues (7_digits, 7_digits_2) is the folder of that name."""
    shutil.copytree(runs / "77_digits_H0.7_K1", runs / "77_digits_H0.7_K1_copy")
    assert find("77_digits_H0.7_K1", runs).name == "77_digits_H0.7_K1"


@pytest.mark.parametrize("run_id", ["8", "", "digits", "not_a_run", "7_digits_H0.7_K1/model", "../x", "*"])
def test_an_unknown_id_lists_what_there_is(runs, run_id):
    with pytest.raises(RunNotFound, match="no such run") as caught:
        find(run_id, runs)
    assert all(folder.name in str(caught.value) for folder in run_folders(runs))


@pytest.mark.parametrize("run_id", ["latest", "7"])
def test_an_empty_folder_has_no_runs(tmp_path, run_id):
    with pytest.raises(RunNotFound, match="none"):
        find(run_id, tmp_path)
    with pytest.raises(RunNotFound, match="nothing is not there; --output_dir names"):
        find(run_id, tmp_path / "nothing")


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "torch.nn:Linear",
        "common.dynamics:Prior",
        "gfdm.dynamics",
        "gfdm.dynamics:Nothing",
        "no_such_module:FVP",
        "common.no_such_module:FVP",
        "a b:c",
        "",
    ],
)
def test_a_class_of_another_kind_is_refused(name):
    with pytest.raises(ValueError, match=rf"config\.json names {name!r}"):
        build(Chosen("x", name, {}), LinearDynamics)


def test_a_foreign_module_is_not_imported(tmp_path, monkeypatch):
    """Importing runs code: a config.json from elsewhere must not choose what is imported."""
    (tmp_path / "surprise.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\nclass X: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="surprise"):
        build(Chosen("x", "surprise:X", {}), LinearDynamics)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "arguments",
    [{"hurts": 0.5}, {"hurst": "high"}, {"hurst": 2}, {"num_aug": 1.5}, {"normalize": "yes"}],
    ids=["unknown", "text", "range", "fraction", "word"],
)
def test_wrong_arguments_are_refused(arguments):
    with pytest.raises(Refusal, match=rf"^{next(iter(arguments))} |{next(iter(arguments))}$"):
        build(Chosen("fvp", class_path(FVP), arguments), LinearDynamics)


def test_an_abstract_class_is_refused():
    with pytest.raises(Refusal, match="abstract"):
        build(Chosen("x", class_path(LinearDynamics), {}), LinearDynamics)


@pytest.mark.parametrize("spec", [{"class": class_path(FVP), "arguments": None}, {"class": 3, "arguments": {}},
                                  {"class": class_path(FVP)}, None, []])  # fmt: skip
def test_a_config_must_name_its_classes(tmp_path, spec):
    for content in (config(), {**to_json(typed()), "format": 2}):
        with pytest.raises(Refusal, match=r"config"):
            from_json({**content, "dynamics": spec}, "config.json")


def test_a_config_of_a_later_version_is_refused():
    with pytest.raises(Refusal, match="x has format 3, of a newer version"):
        from_json({**to_json(typed()), "format": 3}, "x")


def test_build_makes_what_is_named():
    assert isinstance(build(typed().network, nn.Module), UNet)
    assert build(Chosen("fvp", class_path(FVP), {"hurst": 0.3}), LinearDynamics).hurst == 0.3


@pytest.mark.parametrize("content", [b"{nope", b"", b"\xff\xfe\x00", b"[]", b"3", b"{}", b'{"dynamics": {}}'])
def test_a_broken_config_is_named(tmp_path, content):
    make_run(tmp_path / "5_x", config(), "final")
    (tmp_path / "5_x" / CONFIG).write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json") as caught:
        load("5", output_dir=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("section", ["dynamics", "prior", "backbone", "prediction", "data"])
def test_a_config_without_a_section_is_named(tmp_path, section):
    make_run(tmp_path / "5_x", config(), "final")
    content = config()
    del content[section]
    write_json(tmp_path / "5_x" / CONFIG, content)
    with pytest.raises(ValueError, match=rf"config\.json.*{section}"):
        load("5", output_dir=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("out.2.bias"), r"1 missing \(e\.g\. out\.2\.bias\)"),
        (lambda state: state.update(more=torch.zeros(1)), r"1 unknown \(e\.g\. more\)"),
        (lambda state: state.update({"out.2.bias": torch.zeros(3)}), r"out\.2\.bias is \(3,\) where \(1,\)"),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_weights_that_do_not_fit_are_described(tmp_path, change, message):
    made = make_run(tmp_path / "5_x", config(), "final", ema=False)
    state = dict(made["model-final"].backbone.state_dict())
    change(state)
    save(tmp_path / "5_x" / "model" / "model-final.pth", state)
    with pytest.raises(ValueError, match=rf"model-final\.pth does not fit.*{message}"):
        load("5", output_dir=tmp_path)
