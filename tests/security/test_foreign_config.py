"""A foreign config.json is data: it is read, or refused in one line, in bounded memory and time, whatever it says."""

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import args
from common import runs
from common.config.kinds import fits
from common.config.stored import read_config
from common.refusal import Refusal
from tests.security.conftest import changed, refused

ROOT = Path(args.__file__).parent
DEMO, HEAT = "digits-demo_digits_H0.9_K2", "digits-heat-demo_digits_heat_uvit"
OLD = "heat_digits_heat_inr"  # format 1
MEMORY = 2 * 2**30  # bytes beyond what Python and torch map
HUGE = 10**30

# what stands there instead: the sizes among them would take memory or time without end
ODD = {
    DEMO: {
        ("dynamics",): [None, [], "x", {}],
        ("dynamics", "name"): [None, {}, 7],
        ("dynamics", "class"): [None, ["x"], 7, "x\x1b[2J"],
        ("dynamics", "arguments"): [None, [], {"evil": 1}],
        ("dynamics", "arguments", "hurst"): [None, True, "0.5", [], 10**400, float("nan"), float("inf"), -1, 2],
        ("dynamics", "arguments", "num_aug"): [None, True, 2.5, 13, 40_000, 10**9, HUGE, -1],
        ("dynamics", "arguments", "gamma_max"): [HUGE, 1e308, float("nan"), {}],
        ("dynamics", "arguments", "marginals"): ["\x1b]0;x\x07", 7, []],
        ("network", "arguments"): [None, "x"],
        ("network", "arguments", "num_res_blocks"): [10**6, 10**9, HUGE, 0, [1]],
        ("network", "arguments", "model_channels"): [32 * 10**4, 10**9, HUGE, -32, 1e308],
        ("network", "arguments", "channel_mult"): [[10**6, 10**6], [HUGE], [[[]]], "11", [1] * 20_000, {"1": 1}, []],
        ("network", "arguments", "attention_resolutions"): [None, 2, [[2]], [{}], "2"],
        ("network", "arguments", "image_size"): [None, 0.5, [8, 8, 8], [HUGE, HUGE], "8x8"],
        ("network", "arguments", "in_channels"): [2, 10**6, 10**9, True],
        ("network", "arguments", "out_channels"): [10**6, [], float("inf")],
        ("network", "arguments", "num_classes"): [1, 10**9, {}, 1e308],
        ("network", "arguments", "num_heads"): [0, HUGE, None],
        ("adaptation",): [7, "x", [1], {"steps": HUGE}, {"network": 1}],
        ("prior",): [None, 7, "", [1], {"file": "../../secret"}, {"file": "/etc/passwd"}, {"a": 1}],
        ("prior", "mean"): [None, "x", [1], float("nan"), HUGE],
        ("prior", "variance"): [-1, [[1]], float("inf")],
        ("spec",): [None, [], 7, {"evil": 1}],
        ("spec", "kind"): ["film", None, []],
        ("spec", "shape"): [None, 8, [1], [1, 8, 0], [1, HUGE, 8], [1, 10**5, 10**5], ["a", "b", "c"], [1, 8, 16]],
        ("spec", "value_range"): [[], [1], "01", [1, 0], [float("nan")] * 2],
        ("spec", "sample_rate"): [0, 16_000, "x"],
        ("spec", "classes"): [[], "0123456789", [[]], [1, 2], ["a"] * 11],
        ("label",): [None, 7, {}],
        ("objective",): [
            7,
            "denoise",
            [],
            {},
            {"name": "denoise"},
            {"name": 7, "class": "common.training.denoising:Denoising", "arguments": {}},
            {"name": "denoise", "class": ["x"], "arguments": {}},
            {"name": "denoise", "class": "common.training.denoising:Denoising", "arguments": []},
        ],
        ("model", "prediction"): [{}, "x0\n", "nothing"],
        ("recipe", "ema_decay"): [[2], [0.5] * 2, [[0.5]], "0.5", [0.001 * i for i in range(100)]],
        ("recipe", "lr"): [0, "1", float("nan")],
        ("recipe",): [None, 7, []],
        ("keeping", "wb_id"): ["x; rm -rf ~", "../../x", "`id`", 7],
        ("keeping", "wb_project"): ["../x", None.__class__.__name__ + "\x1b"],
        ("hardware", "strategy"): ["fsdp", 7],
        ("data", "num_workers"): [10**6, -1],
        ("data", "image_size"): [-8, [8], [0, 8], "8"],
        ("data", "data_dir"): [7, []],
        ("format",): [None, 3, -1, "2", HUGE, []],
    },
    HEAT: {
        ("dynamics", "arguments", "shape"): [None, 8, [8], [10**9], [10**6, 8], [8, 16], ["a", "b"], [[8], [8]]],
        ("dynamics", "arguments", "x_norm"): [HUGE, 1e308, 0, None],
        ("dynamics", "arguments", "const"): [HUGE, "x", 1e-308],
        ("network", "arguments", "shape"): [[10**9, 10**9], [10**6, 8], [8, 8, 8], "88"],
        ("network", "arguments", "embed_dim"): [4 * 10**5, 10**9, -4],
        ("network", "arguments", "depth"): [10**9 + 1, 999_999, 2],
        ("network", "arguments", "mlp_dim"): [10**6, HUGE, True],
        ("network", "arguments", "position"): [7, [], "none"],
        ("prior",): [{"file": "prior.safetensors", "mean": 1}],
    },
    OLD: {
        ("data", "num_classes"): [10**9, HUGE, -1, "x"],
        ("data", "shape"): [None, 7, [1, 10**9]],
        ("settings",): [None, [], "x"],
        ("settings", "ema_decay"): [7, {}, [[]]],
        ("backbone",): [None, {"class": "os:system", "arguments": {"command": "touch executed"}}],
        ("dynamics", "arguments"): [None, "hurst"],
    },
}
CASES = [(name, path, value) for name, fields in ODD.items() for path, values in fields.items() for value in values]


def copied(name: str, folder: Path) -> Path:
    """A run that comes with the program, or one of an earlier version."""
    source = ROOT / "tests" / "golden" / "old_run" if name == OLD else ROOT / "runs"
    shutil.copytree(source / name, folder / name)
    return folder / name


def test_odd_values_are_refused_in_bounded_memory(tmp_path):
    """All of them in one process, whose memory has a limit, and every one within some seconds."""
    for name in ODD:
        copied(name, tmp_path)
    (tmp_path / "cases.json").write_text(json.dumps(CASES))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY + 10 * 2**30, MEMORY + 10 * 2**30))

    done = subprocess.run(
        [sys.executable, "-c", TRY, str(tmp_path)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        preexec_fn=limit,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert len(report["wrong"]) == 0, report["wrong"][:10]
    assert report["count"] == len(CASES) >= 190
    assert report["megabytes"] < 1200
    assert report["slowest"] < 10
    assert not (tmp_path / "executed").exists()


TRY = """
import json, sys, time
from pathlib import Path
from common import runs
from common.refusal import Refusal

folder = Path(sys.argv[1])
cases, wrong, slowest = json.loads((folder / "cases.json").read_text()), [], 0.0
plain = {name: (folder / name / "config.json").read_text() for name in {name for name, _, _ in cases}}
for name, path, value in cases:
    content = json.loads(plain[name])
    node = content
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    (folder / name / "config.json").write_text(json.dumps(content))
    began = time.monotonic()
    try:
        runs.load(name, output_dir=folder)
        wrong.append([path, str(value)[:60], "was loaded"])
    except Refusal as refusal:
        line = refusal.line({})
        if not line.isprintable() or len(line) > 1000:
            wrong.append([path, str(value)[:60], line[:200]])
    except BaseException as error:
        wrong.append([path, str(value)[:60], repr(error)[:200]])
    slowest = max(slowest, time.monotonic() - began)
lines = Path("/proc/self/status").read_text().splitlines()  # getrusage would tell the parent's peak, too
peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
print(json.dumps({"count": len(cases), "wrong": wrong, "slowest": slowest, "megabytes": peak}))
"""

FILES = {
    "nested": b"[" * 100_000,
    "nested objects": b'{"a":' * 100_000,
    "long": b'{"format": 2, "x": "' + b"x" * 2**22 + b'"}',
    "no JSON": b"\x80\x04.",
    "no text": b"\xff\xfe{",
    "a number of many digits": b'{"format": ' + b"9" * 10_000 + b"}",
    "empty": b"",
    "null": b"null",
    "a list": b"[]",
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_a_file_that_is_no_configuration_is_refused(content, tmp_path):
    folder = copied(DEMO, tmp_path)
    (folder / "config.json").write_bytes(content)
    with pytest.raises(Refusal) as caught:
        runs.load(DEMO, output_dir=tmp_path)
    assert len(caught.value.line({})) < 1000


def test_what_is_right_is_read_as_before(tmp_path):
    for name in ODD:
        folder = copied(name, tmp_path)
        assert read_config(folder).dynamics.arguments
        assert runs.load(name, output_dir=tmp_path).denoiser


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, int, True),
        (True, int, False),
        (1, float, True),
        (2**60, float, False),
        (float("nan"), float, False),
        ([1, 2], tuple[int, ...], True),
        ([1, 2], tuple[int, int, int], False),
        ((1, 2), tuple[float, float] | None, True),
        (None, int | None, True),
        ("x", Path | None, True),
        ({}, dict[str, int], True),
        ([], dict[str, int], False),
        ("x", object, True),
    ],
)
def test_kinds(value, hint, expected):
    assert fits(value, hint) is expected


# -- through the programs ----------------------------------------------------------------------------------------------

RESUMED = [
    (("recipe", "optimizer"), "evil"),
    (("recipe", "lr_schedule"), "\x1b[2J"),
    (("recipe", "time_sampling"), "evil"),
    (("recipe", "loss_weight"), "evil"),
    (("recipe", "loss_reduction"), "evil"),
    (("keeping", "logger"), "evil"),
    (("model", "prediction"), "evil"),
    (("data", "data_name"), "evil\x1b"),
    (("recipe", "train_steps"), 10**30),
    (("recipe", "train_steps"), 10**6),
    (("recipe", "batch_size"), 10**12),
    (("hardware", "devices"), 10**6),
    (("network", "arguments", "num_res_blocks"), 10**6),
]


@pytest.mark.parametrize(("path", "value"), RESUMED, ids=[".".join(path) for path, _ in RESUMED])
def test_a_foreign_configuration_that_cannot_be_resumed_is_refused(cli, stopped, path, value):
    changed(stopped, path, value)
    refused(cli("train", "--resume", stopped.name, "--device", "cpu"))


def test_programs_refuse_in_one_line(cli, run):
    changed(run, ("network", "arguments", "num_res_blocks"), 10**9)
    line = refused(cli("generate", "--run_id", run.name))
    assert "num_res_blocks" in line
    changed(run, ("network", "arguments", "num_res_blocks"), 10**6)
    assert "has more numbers than the file can hold" in refused(cli("generate", "--run_id", run.name))
    changed(run, ("spec", "kind"), "film\x1b[2J")
    refused(cli("generate", "--run_id", run.name))
    refused(cli("evaluate", "--run_id", run.name))
