"""Weights out of checkpoints of training: which are there, which are taken, and what tells them apart."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from common.config.stored import CONFIG
from common.files import save, save_safetensors, write_json
from common.refusal import Refusal
from common.runs import RunFolder, RunNotFound, export_safetensors, load, load_weights, open_version
from tests.test_checkpoints import Malicious
from tests.test_runs import config, outputs, randomised

DECAYS = (0.9999, 0.999)
AS_TRAINED, ANOTHER = "--use_ema False takes those that were trained", "--ema_decay {} takes another average"


def checkpoint(path: Path, step: int, updates: tuple[int, ...] = (1, 1)) -> dict[str, Any]:
    """A checkpoint as Lightning writes it of ``DiffusionModule``, with random weights; the denoisers by kind."""
    kinds = ("model", "ema_model", "ema0.999_model")[: 1 + len(updates)]
    made = {kind: randomised(config()) for kind in kinds}
    state = {"level_loss": torch.zeros(24), "loss_sum": torch.zeros(())}
    prefixes = ("network.", *(f"averages.{i}.module." for i in range(len(updates))))
    for prefix, denoiser in zip(prefixes, made.values(), strict=True):
        state |= {prefix + name: value for name, value in denoiser.backbone.state_dict().items()}
    state |= {f"averages.{i}.n_averaged": torch.tensor(count) for i, count in enumerate(updates)}
    save(path, {"global_step": step, "state_dict": state, "optimizer_states": [], "lr_schedulers": [], "loops": {}})
    return made


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    content = config()
    content["settings"]["ema_decay"] = list(DECAYS)
    write_json(tmp_path / "5_x" / CONFIG, content)
    return RunFolder(tmp_path / "5_x")


@pytest.mark.parametrize(
    ("averaged", "decay", "kind", "suffix", "said"),
    [
        (
            None,
            None,
            "ema_model",
            "-ema",
            f"average of decay 0.9999 (last.ckpt); {AS_TRAINED}; {ANOTHER.format(0.999)}",
        ),
        (
            True,
            None,
            "ema_model",
            "-ema",
            f"average of decay 0.9999 (last.ckpt); {AS_TRAINED}; {ANOTHER.format(0.999)}",
        ),
        (False, None, "model", "-raw", "not averaged (last.ckpt); --ema_decay 0.9999 or 0.999 takes an average"),
        (
            None,
            0.9999,
            "ema_model",
            "-ema",
            f"average of decay 0.9999 (last.ckpt); {AS_TRAINED}; {ANOTHER.format(0.999)}",
        ),
        (
            None,
            0.999,
            "ema0.999_model",
            "-ema0.999",
            f"average of decay 0.999 (last.ckpt); {AS_TRAINED}; {ANOTHER.format(0.9999)}",
        ),
    ],
)
def test_a_checkpoint_holds_every_kind_of_weights(folder, averaged, decay, kind, suffix, said):
    made = checkpoint(folder.last_checkpoint, 1225)
    run = load("5", output_dir=folder.path.parent, averaged=averaged, decay=decay)
    assert torch.equal(outputs(run.denoiser), outputs(made[kind]))
    assert (run.version, run.averaged, run.weights) == ("step-0001225", kind != "model", folder.last_checkpoint)
    assert run.source.suffix(run.kind) == suffix
    assert (run.remarks, run.account) == ([], f"checkpoint of step 1,225, {said}")
    path = export_safetensors(run)
    assert path == folder.checkpoints / f"{kind}-step-0001225.safetensors"
    load_weights(made["model" if kind != "model" else "ema_model"].backbone, path)
    assert torch.equal(outputs(made["model" if kind != "model" else "ema_model"]), outputs(run.denoiser))


def test_an_average_that_no_step_went_into_is_not_there(folder):
    """Before the first of --ema_every steps it holds the untrained weights."""
    made = checkpoint(folder.last_checkpoint, 3, (0, 0))
    run = load("5", output_dir=folder.path.parent)
    assert torch.equal(outputs(run.denoiser), outputs(made["model"]))
    assert not run.averaged
    assert run.account == "checkpoint of step 3, not averaged (last.ckpt)"
    assert run.source.suffix(run.kind) == ""
    with pytest.raises(
        RunNotFound, match=r"use_ema True: ema_model-step-0000003 is missing; .* has model-step-0000003$"
    ):
        load("5", output_dir=folder.path.parent, averaged=True)
    with pytest.raises(RunNotFound, match=r"ema_decay 0\.999.*Decays there: none$"):
        load("5", output_dir=folder.path.parent, decay=0.999)


def test_the_digest_is_that_of_the_weights(folder):
    """The same weights in another file have the same; a changed value, shape, name or type is another one."""
    checkpoint(folder.last_checkpoint, 7)
    whole = torch.load(folder.last_checkpoint, weights_only=True)

    def digest(change: dict[str, torch.Tensor] | None = None, drop: str = "") -> str:
        state = {name: value for name, value in whole["state_dict"].items() if name != drop}
        save(folder.last_checkpoint, {**whole, "state_dict": state | (change or {}), "more": torch.rand(3)})
        return open_version(folder, None, DECAYS).sha256("model")

    name = "network.time_embed.0.weight"
    value = whole["state_dict"][name]
    assert value.dim() == 2
    nudged = value.clone()
    nudged[-1, -1] += 1e-6
    first = digest()
    assert len(first) == 64
    assert digest({"averages.0.module.time_embed.0.weight": nudged}) == first  # another kind of weights
    assert digest({name: value.T.contiguous().T}) == first  # laid out in another way
    others = [digest({name: nudged}), digest({name: value.reshape(-1)}), digest({name: value.view(torch.int32)})]
    others += [digest({"network.other": value}, drop=name), digest(drop=name)]
    assert len({first, *others}) == 6


@pytest.mark.parametrize(
    ("files", "flag", "said"),
    [
        (["model-final.pth"], False, "final, not averaged (model-final.pth)"),
        (["model-v0.pth", "ema_model-v0.pth"], None, f"v0, average of decay 0.9999 (ema_model-v0.pth); {AS_TRAINED}"),
        (
            ["model-v0.pth", "ema_model-v0.pth"],
            False,
            "v0, not averaged (model-v0.pth); --use_ema True takes the average",
        ),
        (["ema_model-final.safetensors"], None, "final, average of decay 0.9999 (ema_model-final.safetensors)"),
    ],
)
def test_which_weights_are_used_is_said_in_a_line(folder, files, flag, said):
    denoiser = randomised(config())
    for name in files:
        state = denoiser.backbone.state_dict()
        write = partial(save_safetensors, metadata={}) if name.endswith("s") else save
        write(folder.model / name, state)
    run = load("5", output_dir=folder.path.parent, averaged=flag)
    assert (run.account, run.remarks) == (
        said,
        [f"{folder.name}: {', '.join(sorted(files))} cannot be checked for damage (it has no manifest.json)"],
    )


def test_an_average_that_was_not_written_is_missed(folder):
    """Training was killed between the two files: the plain weights are not taken without a word."""
    save(folder.model / "model-v9.pth", randomised(config()).backbone.state_dict())
    save(folder.model / "model-v10.pth", randomised(config()).backbone.state_dict())
    with pytest.raises(RunNotFound, match=r"version v10: its average .*ema_model-v10\.pth is missing.*--use_ema False"):
        load("5", output_dir=folder.path.parent)
    assert load("5", output_dir=folder.path.parent, averaged=False).version == "v10"


def test_the_newest_that_can_be_read(folder):
    for step in (900, 10000000, 9000):  # the digits do not sort as texts
        checkpoint(folder.checkpoints / f"step-{step:07d}.ckpt", step, (1,))
    save(folder.checkpoints / "step-x.ckpt", {})
    version = open_version(folder, None, DECAYS)
    assert version.name == "step-10000000"
    checkpoint(folder.last_checkpoint, 950, (1,))
    assert open_version(folder, None, DECAYS).name == "step-0000950"  # where training stands, also after going back
    assert open_version(folder, "step-0009000", DECAYS).name == "step-0009000"
    folder.last_checkpoint.write_bytes(b"")
    version = open_version(folder, None, DECAYS)
    assert version.name == "step-10000000"
    assert version.remarks[0].startswith(f"{folder.last_checkpoint} cannot be read")
    with pytest.raises(
        RunNotFound, match=r"step-0000950: not in .*checkpoints: step-10000000, step-0009000, step-0000900$"
    ):
        open_version(folder, "step-0000950", DECAYS)


def test_what_is_read_stays_when_the_file_is_replaced(folder):
    """Training that goes on replaces last.ckpt between two looks at it."""
    checkpoint(folder.last_checkpoint, 1)
    version = open_version(folder, None, DECAYS)
    first = version.sha256("model")
    checkpoint(folder.last_checkpoint, 2)
    assert (version.name, version.sha256("model")) == ("step-0000001", first)
    assert open_version(folder, None, DECAYS).sha256("model") != first


@pytest.mark.parametrize("content", ["malicious", "state dict", "no step", "list", "zeros"])
def test_a_checkpoint_that_is_none(folder, content):
    proof, path = folder.path / "executed", folder.last_checkpoint
    made = checkpoint(path, 3)
    if content == "malicious":
        torch.save({"global_step": 3, "state_dict": Malicious(proof)}, path)
    elif content == "zeros":
        path.write_bytes(bytes(1000))
    else:
        torch.save(
            {"state dict": made["model"].backbone.state_dict(), "no step": {"state_dict": {}}, "list": [1]}[content],
            path,
        )
    with pytest.raises(RunNotFound, match=r"none of its checkpoints can be read \(last\.ckpt\)"):
        load("5", output_dir=folder.path.parent)
    assert not proof.exists()


def test_a_checkpoint_of_another_network(folder):
    save(folder.last_checkpoint, {"global_step": 3, "state_dict": {"network.a": torch.zeros(2)}})
    with pytest.raises(Refusal, match=r"last\.ckpt does not fit this network: .*missing.*1 unknown \(e\.g\. a\)"):
        load("5", output_dir=folder.path.parent)
