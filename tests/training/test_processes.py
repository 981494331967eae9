"""A step is the same however its samples are shared out: 12x1, 6x2, 4x3 (batch times processes), and in micro-steps."""

import gzip
import hashlib
import json
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import args
from common.config.schema import RunConfig
from common.config.stored import from_json, read_config, to_json
from common.refusal import Refusal
from common.runs import RunFolder
from common.training.batches import change_of_batches, check_exchange, shared_out
from common.training.resume import resumed
from tests.data.idx import write_mnist
from tests.training import several, tiny

FLAGS = {
    **tiny.FLAGS,
    "dropout": 0.0,  # the masks of a process are its own
    "device": "cpu",
    "train_steps": 40,
    "global_batch": 12,
    "lr": 4e-3,
    "flip": True,
    "label_dropout": 0.1,
    "ema_every": 2,
    "log_every": 5,
    "val_samples": 41,  # uneven shares
    "val_check_interval": 20,
    "checkpoint_every": 5,
    "log_model_every_n": 40,
}
SHORT = {"train_steps": 8, "global_batch": 12, "lr": 4e-3, "log_every": 1, "val_check_interval": 4, "val_samples": 16}
OPTIONS = {"plain": {}, "static": {"static_graph": True}, "bf16": {"gradient_compression": "bf16"}}
INR = {"model_name": "inr", "width": 8, "depth": 2, "inner_steps": 2, "dynamics": "heat"}
NAME, HEAT, TUNED = "digits_H0.9_K2", "digits_heat_inr", "digits_H0.9_K2_consistency"
TOLERANCE = 5e-5
pytestmark = pytest.mark.timeout(600)  # the first test waits for all trainings


def carried_out(folder: Path, plan: list[dict]) -> list[list[int]]:
    """Exit codes of the processes of each training of a plan."""
    (folder / "plan.json").write_text(json.dumps(plan))
    done = subprocess.run(
        [sys.executable, several.__file__, str(folder / "plan.json")],
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Every training of the slow tests, in one program: exit codes and log by name."""
    folder = tmp_path_factory.mktemp("runs")
    plan, codes = [], {}

    def add(
        name: str, processes: int, *words: str, kill_at: int | None = None, copies: bool = False, **flags: object
    ) -> None:
        own = tiny.command(*words, **flags, wb_id=name, output_dir=folder)
        log = str(folder / f"{name}.log")
        case = {"processes": processes, "words": own, "kill_at": kill_at, "copies": copies, "log": log}
        plan.append({**case, "name": name})

    for name, processes, more in (
        ("12x1", 1, {}),
        ("6x2", 2, {}),
        ("4x3", 3, {}),
        ("3x2x2", 2, {"accumulate_grad_batches": 2}),
    ):
        add(name, processes, **FLAGS, **more)
    for processes, kill_at in ((1, 17), (3, 32), (2, None)):
        add("killed", processes, "--resume", "auto", kill_at=kill_at, **FLAGS)
    for processes in (1, 2):
        add(f"inr{processes}", processes, **INR, **SHORT)
        add(f"tuned{processes}", processes, objective="consistency", init_from="12x1", **SHORT)
    add("inr-static", 2, **INR, **SHORT, static_graph=True, checkpointing=True)
    small = {**tiny.FLAGS, **SHORT}
    add("copied", 2, copies=True, **small)
    for name, more in OPTIONS.items():
        add(name, 2, **small, **more)
    for case, found in zip(plan, carried_out(folder, plan), strict=True):
        codes.setdefault(case["name"], []).append(found)
    return folder, codes


def assert_alike(one: Path, other: Path) -> None:
    """Weights and log lines of two runs are equal up to rounding."""
    assert tiny.difference(one, other) < TOLERANCE
    found, expected = tiny.lines(one), tiny.lines(other)
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for line, like in zip(found, expected, strict=True):
        assert {name for name in line if line[name]} == {name for name in like if like[name]}
        for name, value in like.items():
            assert float(line[name] or 0) == pytest.approx(float(value or 0), abs=TOLERANCE), (like["step"], name)
    assert any(line["val/loss"] for line in expected)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("6x2", 2), ("4x3", 3), ("3x2x2", 2)])
def test_processes_and_micro_steps_change_nothing(trained, name, count):
    folder, codes = trained
    assert codes[name] == [[0] * count]
    assert_alike(folder / f"{name}_{NAME}", folder / f"12x1_{NAME}")
    assert (
        f"training  40 steps of 12 samples on {count} devices, {12 // count} on each\n"
        in (folder / f"{name}.log").read_text()
    )


@pytest.mark.slow
def test_killed_and_resumed_with_another_number_of_processes(trained):
    folder, codes = trained
    assert codes["killed"] == [[-9], [-9] * 3, [0] * 2]
    assert_alike(folder / f"killed_{NAME}", folder / f"12x1_{NAME}")
    log = (folder / "killed.log").read_text()
    same = "the same batches, sums are rounded otherwise\n"
    assert f"note      goes on with 3 processes of 4 samples, began with 1 of 12: {same}" in log
    assert f"note      goes on with 2 processes of 6 samples, began with 1 of 12: {same}" in log
    assert log.count("goes on at step") == 2


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [("inr", HEAT), ("tuned", TUNED)])
def test_adapting_networks_and_consistency(trained, kind, name):
    folder, codes = trained
    assert codes[f"{kind}1"] == [[0]]
    assert codes[f"{kind}2"] == [[0, 0]]
    assert_alike(folder / f"{kind}2_{name}", folder / f"{kind}1_{name}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "like", "data"),
    [("plain", "copied", NAME), ("static", "copied", NAME), ("inr-static", "inr2", HEAT)],
)
def test_ways_of_exchanging_gradients_that_change_no_bit(trained, name, like, data):
    folder, codes = trained
    assert codes[name] == codes[like] == [[0, 0]]
    one, other = folder / f"{name}_{data}", folder / f"{like}_{data}"
    assert tiny.difference(one, other) == 0
    assert tiny.lines(one) == tiny.lines(other)


@pytest.mark.slow
def test_gradients_in_bf16(trained):
    folder, codes = trained
    assert codes["bf16"] == [[0, 0]]
    one, other = folder / f"bf16_{NAME}", folder / f"copied_{NAME}"
    assert 0 < tiny.difference(one, other) < 8e-3  # two steps of the optimiser
    for line, like in zip(tiny.lines(one), tiny.lines(other), strict=True):
        assert float(line["train/loss"] or 0) == pytest.approx(float(like["train/loss"] or 0), abs=2e-3)


# -- data --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """A server with a set in MNIST's format: its address, files with check sums, and what it was asked for."""
    write_mnist(tmp_path)
    content = {}
    for file in sorted((tmp_path / "MNIST" / "raw").iterdir()):
        content[f"{file.name}.gz"] = gzip.compress(file.read_bytes())
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path.removeprefix("/"))
            if (found := content.get(asked[-1].removeprefix("whole/"))) is None:
                return self.send_error(404)
            self.send_response(200)
            self.send_header("Content-Length", str(len(found)))
            self.end_headers()
            self.wfile.write(found)

        def log_message(self, *_):
            pass

    monkeypatch.setenv("no_proxy", "*")
    service = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    sums = [(name, hashlib.md5(packed).hexdigest()) for name, packed in content.items()]
    yield {"mirror": f"http://127.0.0.1:{service.server_port}/", "sums": sums}, content, asked
    service.shutdown()
    service.server_close()


@pytest.mark.slow
def test_a_set_is_fetched_once_by_the_processes_of_a_training(tmp_path, mnist):
    """Three processes of one machine; the first fetches. If the server has nothing, a line ends all."""
    server, content, asked = mnist
    flags = {**tiny.FLAGS, "device": "cpu", "data_name": "mnist", "download": True, "train_steps": 2, "val_samples": 3,
             "global_batch": 3}  # fmt: skip
    plan = []
    for name in ("whole", "nothing"):
        words = tiny.command(**flags, wb_id=name, data_dir=tmp_path / name, output_dir=tmp_path / "runs")
        case = {"processes": 3, "words": words, "log": str(tmp_path / f"{name}.log"), **server}
        plan.append({**case, "mirror": f"{case['mirror']}{name}/"})
    whole, nothing = carried_out(tmp_path, plan)
    assert whole == [0] * 3
    # torchvision asks for the name and then for the file
    assert sorted(path for path in asked if "nothing" not in path) == sorted([f"whole/{name}" for name in content] * 2)
    assert nothing == [2] * 3
    log = (tmp_path / "nothing.log").read_text()
    assert log.count("the download from") == 1
    assert "Traceback" not in log
    assert not (tmp_path / "nothing").exists()


# -- shares -----------------------------------------------------------------------------------------------------------


def config(*words: str) -> RunConfig:
    order = args.parse_train([*words])
    assert order is not None
    assert order.config is not None
    return order.config


def test_shares():
    wanted = config("--global_batch", "24")
    assert shared_out(wanted, 3, {}).recipe.batch_size == 8
    twice = config("--global_batch", "24", "--accumulate_grad_batches", "2", "--batch_size", "4")
    assert shared_out(twice, 3, {"batch_size"}).recipe.batch_size == 4
    plain = config("--batch_size", "5")
    assert shared_out(plain, 3, {"batch_size"}) == replace(plain, processes=3)


@pytest.mark.parametrize(
    ("words", "processes", "line"),
    [
        ("--global_batch 24", 5, "global_batch 24 cannot be shared out among 5 processes; take 20 or 25"),
        ("--global_batch 3", 5, "global_batch 3 cannot be shared out among 5 processes; take 5"),
        (
            "--global_batch 24 --batch_size 24",
            3,
            "batch_size 24 and --global_batch 24 exclude each other: 8 samples fall",
        ),
    ],
)
def test_what_cannot_be_shared_out(words, processes, line):
    with pytest.raises(Refusal) as found:
        shared_out(config(*words.split()), processes, words.replace("--", "").split())
    assert str(found.value).startswith(line)


def test_what_changes_is_said():
    begun = shared_out(config("--batch_size", "12"), 1, {})
    now = shared_out(begun, 2, {})
    assert change_of_batches(begun, begun) == []
    assert change_of_batches(begun, now) == [
        "goes on with 2 processes of 12 samples, began with 1 of 12: a step has 24 samples from now on, not 12; "
        "--global_batch 12 keeps those"
    ]
    assert "keeps" not in change_of_batches(begun, shared_out(begun, 5, {}))[0]
    old = replace(begun, processes=None)  # an earlier version did not note it
    assert change_of_batches(old, now) == []
    two = replace(old, hardware=replace(old.hardware, devices=2))
    assert change_of_batches(two, shared_out(two, 2, {})) == []


def test_exchanges_that_cannot_be_or_have_no_effect():
    both = config("--static_graph", "--accumulate_grad_batches", "2", "--gradient_compression", "bf16")
    with pytest.raises(Refusal, match="static_graph and --accumulate_grad_batches 2 exclude each other"):
        check_exchange(both, 2, {})
    assert check_exchange(both, 1, {"static_graph"}) == ["--static_graph has no effect on one process"]
    assert check_exchange(both, 1, {}) == []
    assert check_exchange(config("--gradient_compression", "bf16"), 2, {"gradient_compression"}) == []


def test_the_number_of_processes_is_kept():
    begun = config()
    assert "processes" in to_json(begun)
    kept = {**to_json(replace(begun, processes=3)), "spec": None}
    assert from_json(kept, "here").processes == 3
    assert from_json({name: value for name, value in kept.items() if name != "processes"}, "here").processes is None
    for wrong in (0, -1, "2", 1.5, 10**9):
        with pytest.raises(Refusal, match="processes"):
            from_json({**kept, "processes": wrong}, "here")


def test_a_run_goes_on_with_its_own_batches(tiny_run):
    folder = RunFolder(tiny_run)
    assert read_config(tiny_run).processes == 1

    def goes_on(processes: int, **given: object) -> RunConfig:
        return shared_out(resumed(given, {"batch_size": 128}, folder), processes, given)

    with pytest.raises(Refusal, match=r"batch_size 128 .* contradicts"):
        goes_on(1)  # the preset says so
    assert goes_on(4, global_batch=32).recipe.batch_size == 8
    with pytest.raises(Refusal, match=r"global_batch 64 contradicts the run tiny_digits_H0\.9_K2, whose steps have 32"):
        goes_on(2, global_batch=64)
    with pytest.raises(Refusal, match="global_batch 32 cannot be shared out among 3 processes; take 30 or 33"):
        goes_on(3, global_batch=32)
    with pytest.raises(Refusal, match="batch_size 32 and --global_batch 32 exclude each other: 16 samples"):
        goes_on(2, global_batch=32, batch_size=32)
