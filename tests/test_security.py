"""Nobody is let in: a foreign .env file, run folder or name is data, and a key is shown to nobody."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import args
import generate
import train
from common.config import plugins
from common.config.env_file import TAKEN, read_env_file
from common.config.parser import ENV_TOLD, complain, redacted, without_secret
from common.config.plugins import class_path, resolve_class, trust
from common.dynamics import VP, LinearDynamics
from common.refusal import Refusal

ROOT = Path(args.__file__).parent
KEY = "0123456789abcdef" * 2 + "deadbeef"  # 40 hexadecimal digits, as keys of W&B were

# -- .env --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def empty_environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in (*TAKEN, "PYTHONPATH", "HERE", ENV_TOLD):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


@pytest.mark.parametrize(
    ("content", "expected", "left_out"),
    [
        (b"DATA_ROOT=/d\n", {"DATA_ROOT": "/d"}, []),
        (b"export DATA_ROOT = '/my data' # where\n", {"DATA_ROOT": "/my data"}, []),
        (b'# WANDB_MODE=online\nWANDB_MODE="offline"\r\n', {"WANDB_MODE": "offline"}, []),
        (b"\xef\xbb\xbfDATA_ROOT=/d", {"DATA_ROOT": "/d"}, []),
        ("DATA_ROOT=/ü".encode("utf-16"), {"DATA_ROOT": "/ü"}, []),
        (b"export HERE=/p\nDATA_ROOT=${HERE}/data", {"DATA_ROOT": "/p/data"}, ["HERE"]),
        (b"DATA_ROOT=/a#b", {"DATA_ROOT": "/a#b"}, []),
        ("DATA_ROOT=/a\u2028b\r\n".encode(), {"DATA_ROOT": "/a\u2028b"}, []),
        (b"DATA_ROOT=", {}, []),
        (b"no line\n= 3\n1A=2\n", {}, []),
        (b"DATA_ROOT='$HERE/x'", {"DATA_ROOT": "$HERE/x"}, []),
    ],
)
@pytest.mark.usefixtures("empty_environment")
def test_an_env_file_is_read(content, expected, left_out):
    Path(".env").write_bytes(content)
    assert read_env_file() == left_out
    assert {name: os.environ[name] for name in TAKEN if name in os.environ} == expected


HOSTILE = [
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "PYTHONHOME",
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "PATH",
    "TORCH_LOGS",
    "TORCHINDUCTOR_CACHE_DIR",
    "TORCH_HOME",
    "WANDB_BASE_URL",
    "WANDB_HTTP_PROXY",
    "HTTPS_PROXY",
    "http_proxy",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "HOME",
    "NETRC",
    "GIT_SSH_COMMAND",
    "MPLCONFIGDIR",
    "MPLBACKEND",
    "CC",
    "CXX",
    "OMP_TOOL_LIBRARIES",
    "CUDA_INJECTION64_PATH",
    "TRITON_CACHE_DIR",
    "WANDB_CONFIG_DIR",
    "WANDB__EXECUTABLE",
    "MASTER_ADDR",
    "SLURM_JOB_ID",
    "DIFFUSION_RUN_ID",
]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.usefixtures("empty_environment")
def test_an_env_file_sets_nothing_else(name, monkeypatch):
    monkeypatch.delenv(name, raising=False)
    Path(".env").write_text(f"{name}=/hostile\n")
    assert read_env_file() == [name]
    assert name not in os.environ


@pytest.mark.usefixtures("empty_environment")
def test_what_is_left_out_is_said_once(tmp_path):
    (tmp_path / ".env").write_text(f"PYTHONPATH=/hostile\nEVIL\x1b[2J=1\nWANDB_API_KEY={KEY}\n")
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "--list_presets"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("train.py: note: .env: PYTHONPATH left out; only DATA_ROOT, WANDB_API_KEY, ")
    assert KEY not in done.stdout + done.stderr


@pytest.mark.parametrize("content", [b"DATA_ROOT=\xff\xfe", b"A=\0", b"A=" + b"x" * 100_000])
@pytest.mark.usefixtures("empty_environment")
def test_an_env_file_that_is_no_text_is_refused(content):
    Path(".env").write_bytes(content)
    with pytest.raises(Refusal, match=r"\.env is no "):
        read_env_file()


# -- keys --------------------------------------------------------------------------------------------------------------


GIVEN = [
    "--wb_key,S3cret",
    "--wb_key=S3cret",
    "--wb-key,S3cret",
    "-wb_key,S3cret",
    "--WB_KEY,S3cret",
    "--WB-KEY=S3cret",
    "-wb-key=S3cret",
    "--wbkey,S3cret",
    "--wb_kez,S3cret",
    "--wandb_api_key,S3cret",
    "--key,S3cret",
    "--api-key,S3cret",
    "--token=S3cret",
    "KEY",
    "--wb_id,KEY",
    "--anything=KEY",
    "local-S3cretS3cretS3cretS3cret",
    "wandb_v1_S3cretS3cretS3cret",
]


@pytest.mark.parametrize("given", GIVEN)
def test_a_key_is_hidden_however_it_is_given(given):
    words = given.replace("KEY", KEY).split(",") if "KEY" in given.split(",")[-1].split("=") else given.split(",")
    secret = KEY if any(KEY in word for word in words) else "S3cret"
    shown = " ".join(redacted(["--preset", "digits", *words]))
    assert secret not in shown
    assert "***" in shown
    assert shown.startswith("--preset digits")
    assert secret not in " ".join(without_secret(["--preset", "digits", *words]))


@pytest.mark.parametrize("flag", ["--wb_key", "--wb-key", "-wb_key", "--WB_KEY", "--wb_kye"])
@pytest.mark.parametrize("program", [train, generate])
@pytest.mark.usefixtures("empty_environment")
def test_no_program_prints_a_key(program, flag, capsys):
    with pytest.raises(SystemExit) as stop:
        program.main([flag, KEY, "--nothing", "1"])
    assert stop.value.code == 2
    assert KEY not in "".join(capsys.readouterr())


# -- classes that config.json names ------------------------------------------------------------------------------------


FOREIGN = [
    "torch.nn:Linear",
    "torch.nn.modules.linear:Linear",
    "torchvision.models.resnet:ResNet",
    "os:system",
    "builtins:eval",
    "subprocess:Popen",
    "torch.hub:load",
    "common.files:Path",
    "common.config.plugins:Any",
    "common.runs.pretrained:fetch",
    "common.dynamics.base:nn.Linear",
    "common.backbones.unet:nn.Module",
    "common.dynamics:os.system",
    "common.dynamics",
    "common.dynamics:",
    ":VP",
    "common.dynamics:VP.__init__",
    "common.dynamics:VP.__init__.__globals__",
    "__main__:X",
    "common.dynamics.nothing:VP",
    "gfdm_evil:X",
    "common.backbones..unet:UNet",
    "common/dynamics:VP",
    "args:Choice",
    "common.training.module:DiffusionModule",
    "torch.optim:Adam",
    "lightning.pytorch:Trainer",
    "common.meta:nn.Module",
]


@pytest.mark.parametrize("path", ["", *FOREIGN])
def test_a_configuration_names_only_classes_of_this_program(path):
    modules = set(sys.modules)
    for kind in (nn.Module, LinearDynamics, object):
        with pytest.raises(Refusal, match=r"config\.json names"):
            resolve_class(path, kind)
    foreign = {name for name in set(sys.modules) - modules if not name.startswith(("common", "gfdm", "fdp"))}
    assert not foreign  # nothing was imported on the way


def test_classes_of_this_program_and_those_that_are_trusted():
    for register in (args.DYNAMICS, args.BACKBONES):
        for kind in register.values():
            assert resolve_class(class_path(kind), object) is kind
    assert resolve_class("common.dynamics.classic:VP", LinearDynamics) is VP

    class Mine(nn.Module):
        pass

    with pytest.raises(Refusal, match="which is not ours"):
        resolve_class(class_path(Mine), nn.Module)
    before = list(plugins._registers)
    trust({"mine": Mine})
    assert resolve_class(class_path(Mine), nn.Module) is Mine
    with pytest.raises(Refusal, match="is no LinearDynamics"):
        resolve_class(class_path(Mine), LinearDynamics)
    plugins._registers[:] = before


# -- names -------------------------------------------------------------------------------------------------------------


def test_control_characters_are_written_out(tmp_path, capsys):
    complain("train.py", "no run \x1b[2Jhere\x07")
    assert capsys.readouterr().err == "train.py: error: no run \\x1b[2Jhere\\x07\n"
    folder = tmp_path / "runs" / "a\x1b[31m_digits_vp_unet"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"format": 2}))
    words = ["--run_id", "b", "--output_dir", str(tmp_path / "runs")]
    done = subprocess.run(
        [sys.executable, str(ROOT / "generate.py"), *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "\x1b" not in done.stderr
    assert r"a\x1b[31m_digits_vp_unet" in done.stderr


def test_a_checkpoint_of_weights_cannot_execute(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    from common.files import load_state

    torch.save({"x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(Refusal, match="no readable state dict"):
        load_state(tmp_path / "evil.pth")
    assert not (tmp_path / "executed").exists()
