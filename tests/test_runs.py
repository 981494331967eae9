"""Run folders: what was trained comes back from the folder alone, and nothing else is let in."""

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from common.backbones import UNet
from common.checkpoints import save, write_json
from common.denoiser import Denoiser
from common.dynamics import LinearDynamics
from common.runs import CONFIG, Run, RunNotFound, build, build_denoiser, class_path, find, load, run_folders, versions
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
        "settings": {"data_name": "digits"},
    }


def randomised(content: dict[str, Any]) -> Denoiser:
    """A denoiser with random weights (a fresh UNet returns zeros)."""
    denoiser = build_denoiser(content)
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


@pytest.fixture
def runs(tmp_path) -> Path:
    """Three runs, two with an id in common, made in this order."""
    for age, name in enumerate(("7_digits_H0.7_K1", "7_mnist_H0.7_K1", "77_digits_H0.7_K1")):
        make_run(tmp_path / name, config())
        os.utime(tmp_path / name / CONFIG, (1000 + age, 1000 + age))
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
    assert run.dynamics.prior.config() == {"mean": -0.25, "variance": 0.5}
    assert run.config == json.loads((tmp_path / "5_x" / CONFIG).read_text())
    assert run.data == content["data"]
    assert (run.folder, run.version) == (tmp_path / "5_x", "final")
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
    with pytest.raises(RunNotFound, match=r"use_ema.*ema_model-final\.pth"):
        load("6", output_dir=tmp_path, averaged=True)


def test_versions(tmp_path):
    made = make_run(tmp_path / "5_x", config(), "v0", "v1", "final")
    for age, version in enumerate(("v0", "v1", "final")):
        os.utime(tmp_path / "5_x" / "model" / f"model-{version}.pth", (1000 + age, 1000 + age))
        assert torch.equal(outputs(load("5", version, tmp_path).denoiser), outputs(made[f"ema_model-{version}"]))
    assert versions(tmp_path / "5_x") == ["v0", "v1", "final"]
    with pytest.raises(RunNotFound, match=r"--version v2.*v0, v1, final"):
        load("5", "v2", tmp_path)


def test_a_run_without_weights_says_so(tmp_path):
    make_run(tmp_path / "5_x", config())
    with pytest.raises(RunNotFound, match=r"--version final.*none yet"):
        load("5", output_dir=tmp_path)


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
    assert find(run_id, runs) == runs / name


def test_latest_is_the_newest_not_the_last_name(runs):
    os.utime(runs / "7_digits_H0.7_K1" / CONFIG, (5000, 5000))
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
        build({"class": name, "arguments": {}}, LinearDynamics)


def test_a_foreign_module_is_not_imported(tmp_path, monkeypatch):
    """Importing runs code: a config.json from elsewhere must not choose what is imported."""
    (tmp_path / "surprise.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\nclass X: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="surprise"):
        build({"class": "surprise:X", "arguments": {}}, LinearDynamics)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "spec",
    [
        {"class": class_path(FVP), "arguments": {"hurts": 0.5}},
        {"class": class_path(FVP), "arguments": {"hurst": "high"}},
        {"class": class_path(FVP), "arguments": {"hurst": 2}},
        {"class": class_path(FVP), "arguments": None},
        {"class": 3, "arguments": {}},
        {"class": class_path(FVP)},
        {"class": class_path(LinearDynamics), "arguments": {}},
        None,
        [],
    ],
    ids=["unknown", "text", "range", "none", "number", "no arguments", "abstract", "no spec", "list"],
)
def test_wrong_arguments_are_a_value_error(spec):
    with pytest.raises(ValueError, match=r"config\.json|hurst"):
        build(spec, LinearDynamics)


def test_build_makes_what_is_named():
    assert isinstance(build(config()["backbone"], nn.Module), UNet)
    assert build({"class": class_path(FVP), "arguments": {"hurst": 0.3}}, LinearDynamics).hurst == 0.3


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
