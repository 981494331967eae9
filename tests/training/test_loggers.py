"""Loggers beside metrics.csv, without a network: W&B's servers are small ones on this machine, of every temper."""

import base64
import contextlib
import http.server
import importlib
import json
import netrc
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock
from urllib.parse import urlsplit

import lightning.fabric.loggers.tensorboard as lightning_tensorboard
import pytest
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import common.training
import train
from common.runs.log import read_metrics
from common.training import loggers, wandb_logger
from common.training.module import DiffusionModule
from tests.training import tiny
from tests.training.interrupted import make_quick

ROOT = Path(__file__).parents[2]
KEY = "5ecre7" * 8
CONFIG = {"settings": {"lr": 0.5, "attn_resolutions": [4, 2]}, "prediction": "eps"}
PATIENCE = 3  # seconds that the tests give a server, where users get those of WANDB_DEFAULTS
SLACK = 30  # further seconds a busy machine may take for starting W&B's process twice


@pytest.fixture(autouse=True)
def home(tmp_path):
    """An empty home, no variable of W&B, and its process ended after the test."""
    foreign = ("WANDB", "XDG", "NETRC", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    folder = tmp_path / "home"
    folder.mkdir()
    patience = dict.fromkeys(("WANDB_INIT_TIMEOUT", "WANDB_FINISH_TIMEOUT"), str(PATIENCE))
    with mock.patch.dict(os.environ, {**kept, **patience, "HOME": str(folder)}, clear=True):
        yield folder
        close([])


def make(folder: Path, name: str = "wandb") -> list:
    return loggers.make_loggers(name, folder, run_name="shown", config=CONFIG, project="tests")


def log(made: list, steps: range) -> None:
    """What a training logs: figures of every step, and of every other step a validation too."""
    for step in steps:
        for logger in made:
            logger.log_metrics({"train/loss": 1 / (step + 1), "train/lr": 0.1}, step=step)
            if step % 2 == 0:
                logger.log_metrics({"val/loss": 2 / (step + 1)}, step=step)


def close(made: list) -> None:
    """What the end of train.py does, and then the exit."""
    loggers.close_loggers(made)
    if sys.modules.get("wandb"):
        wandb_logger.forget()


# -- servers and files of W&B ------------------------------------------------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    """As much of a W&B server as its client asks for.

    Attributes:
        mood: "ok", an HTTP status, or "silent" (accepts and never answers).
        paths: what was asked for.
        history: run id -> lines of its history.
        uploads: file name -> content.
    """

    daemon_threads = True

    def __init__(self, mood: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.mood, self.over = mood, threading.Event()
        self.paths: list[str] = []
        self.bodies: list[bytes] = []
        self.history: dict[str, list[dict]] = {}
        self.uploads: dict[str, bytes] = {}
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """Connections that the client drops are no errors here."""

    def graphql(self, body: bytes) -> dict:
        content = json.loads(body)
        query, variables = content["query"], content.get("variables", {})
        project = {"id": "m", "name": "tests", "entity": {"id": "e", "name": "someone"}}
        if "RunResumeStatus" in query:
            return {"model": {**project, "bucket": self.bucket(variables["name"], project)}}
        if "UpsertBucket" in query:
            self.history.setdefault(variables["name"], [])
            return {"upsertBucket": {"bucket": self.bucket(variables["name"], project), "inserted": True}}
        if "CreateRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        return {}

    def bucket(self, name: str, project: dict) -> dict | None:
        if name not in self.history:
            return None
        lines = self.history[name]
        return {
            **dict.fromkeys(("id", "name", "displayName"), name),
            **dict.fromkeys(("summaryMetrics", "config", "wandbConfig"), "{}"),
            "project": project,
            "historyLineCount": len(lines),
            "logLineCount": 0,
            "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(line) for line in lines[-1:]]),
            "eventsTail": "[]",
            "tags": [],
        }

    def stream(self, path: str, body: bytes) -> dict:
        part = json.loads(body).get("files", {}).get("wandb-history.jsonl")
        if part:
            lines = self.history[path.split("/")[-2]]
            lines[part["offset"] :] = [json.loads(line) for line in part["content"]]
        return {}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.paths.append(self.path)
        self.server.bodies.append(body)
        answer: dict = {"errors": [{"message": "no"}]}
        if self.server.mood == "silent":
            self.server.over.wait()
            return
        if self.server.mood == "ok":
            answer = {}
            if self.path == "/graphql":
                answer = {"data": self.server.graphql(body)}
            elif self.path.endswith("/file_stream"):
                answer = self.server.stream(self.path, body)
            elif self.path.startswith("/upload/"):
                self.server.uploads[self.path.removeprefix("/upload/")] = body
        content = json.dumps(answer).encode()
        self.send_response(200 if self.server.mood == "ok" else int(self.server.mood))
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST  # noqa: N815

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serving(mood: str = "ok"):
    """A server that the environment names, with a key for it."""
    server = Server(mood)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    os.environ.update(WANDB_BASE_URL=server.url, WANDB_API_KEY=KEY)
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()


def parts(folder: Path) -> list[Path]:
    """The folders that W&B has made for the parts of a run, oldest first."""
    return sorted((folder / "wandb").glob("*run-*"), key=lambda part: part.stat().st_mtime)


def records(part: Path) -> list:
    """The records of a .wandb file: LevelDB's log format (blocks of 32 kB, pieces with a head of 7 bytes)."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = part.glob("*.wandb")
    data, at, pieces, found = path.read_bytes(), 7, [], []
    assert data.startswith(b":W&B")
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        pieces.append(data[at + 7 : at + 7 + size])
        at += 7 + size
        if kind in (1, 4):  # a whole record, or the last piece of one
            found.append(Record.FromString(b"".join(pieces)))
            pieces = []
    return found


def history(part: Path) -> list[dict]:
    """The figures in a part of a run."""
    rows = [record.history.item for record in records(part) if record.HasField("history")]
    return figures([{item.key or item.nested_key[0]: json.loads(item.value_json) for item in row} for row in rows])


def figures(lines: list[dict]) -> list[dict]:
    """Logged lines without those of pictures, and without the library's own keys."""
    return [
        {key: value for key, value in line.items() if not key.startswith("_")}
        for line in lines
        if not any(key.startswith("samples") for key in line)
    ]


def expected(steps: range) -> list[dict]:
    rows: list[dict] = []
    recorder = SimpleNamespace(log_metrics=lambda metrics, step: rows.append({**metrics, "trainer/global_step": step}))
    log([recorder], steps)
    return rows


@pytest.fixture
def picture(tmp_path) -> Path:
    Image.new("L", (6, 4), 200).save(tmp_path / "grid.png")
    return tmp_path / "grid.png"


# -- none, and TensorBoard ---------------------------------------------------------------------------------------------


def test_csv_adds_nothing(tmp_path):
    assert make(tmp_path / "run", "csv") == []
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("package", ["wandb", "tensorboard", "torch.utils.tensorboard"])
def test_packages_are_imported_only_when_asked_for(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, loggers.__name__)
    monkeypatch.setattr(common.training, "loggers", loggers)  # put back what the import replaces
    fresh = importlib.import_module(loggers.__name__)
    assert fresh is not loggers
    assert fresh.make_loggers("csv", tmp_path, run_name="", config={}, project="") == []


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_other_processes_log_nothing(name, tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert make(tmp_path / "run", name) == []
    assert not (tmp_path / "run").exists()


def test_tensorboard_shows_figures_pictures_and_config(tmp_path, picture):
    for steps in (range(0, 5), range(3, 8)):  # the second part goes on from a checkpoint at step 3
        made = make(tmp_path, "tensorboard")
        log(made, steps)
        loggers.log_picture(made, "samples", picture, steps[-1])
        close(made)
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    both = [*range(0, 5), *range(3, 8)]
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(s, pytest.approx(1 / (s + 1))) for s in both]
    assert [e.step for e in events.Scalars("val/loss")] == [step for step in both if step % 2 == 0]
    assert [(e.step, e.width, e.height) for e in events.Images("samples")] == [(4, 6, 4), (7, 6, 4)]
    assert '"lr": 0.5' in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()


@pytest.mark.parametrize("broken", [False, True])
def test_a_missing_tensorboard_is_named(broken, tmp_path, monkeypatch):
    if broken:
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    else:
        monkeypatch.setattr(lightning_tensorboard, "_TENSORBOARD_AVAILABLE", False)
        monkeypatch.setattr(lightning_tensorboard, "_TENSORBOARDX_AVAILABLE", False)
    with pytest.raises(ValueError, match=r"^logger tensorboard .*pip install tensorboard$"):
        make(tmp_path, "tensorboard")


def test_a_missing_wandb_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"^logger wandb .*pip install wandb$"):
        make(tmp_path)


# -- W&B, offline ------------------------------------------------------------------------------------------------------


def test_without_a_key_the_run_is_kept_and_can_be_sent_later(tmp_path, picture, capfd):
    folder = tmp_path / "runs" / "first_digits_H0.9_K2"
    told = []
    for steps in (range(0, 6), range(4, 9)):  # the second part goes on from a checkpoint at step 4
        made = make(folder)
        log(made, steps)
        loggers.log_picture(made, "samples", picture, steps[-1])
        close(made)
        told += capfd.readouterr().err.splitlines()
    first, second = parts(folder)
    assert [line.rpartition("; ")[2] for line in told] == [
        f"send it later with `wandb sync {part}`" for part in (first, second)
    ]
    assert all(line.startswith("wandb: no API key") for line in told)

    rows = [row for part in (first, second) for row in history(part)]
    assert rows == expected(range(0, 6)) + expected(range(4, 9))  # two lines of one step: neither is dropped
    kinds = {record.WhichOneof("record_type") for part in (first, second) for record in records(part)}
    assert "exit" in kinds
    runs = [record.run for part in (first, second) for record in records(part) if record.HasField("run")]
    assert {(run.run_id, run.display_name, run.project) for run in runs} == {(folder.name, "shown", "tests")}

    with serving() as server:  # and W&B's own command sends both parts to one run
        command = [sys.executable, "-m", "wandb", "sync", str(first), str(second)]
        subprocess.run(command, check=True, timeout=100, capture_output=True)
    counts = [line["_step"] for line in server.history[folder.name]]
    assert counts == sorted(set(counts))  # else the second part would take the place of the first
    assert figures(server.history.pop(folder.name)) == rows
    assert not server.history
    assert b"attn_resolutions" in server.uploads["config.yaml"]
    assert picture.read_bytes() in server.uploads.values()


def test_every_curve_is_drawn_over_the_steps_of_training(tmp_path):
    made = make(tmp_path / "run")
    close(made)
    metrics = [record.metric for record in records(parts(tmp_path / "run")[0]) if record.HasField("metric")]
    assert [(m.glob_name, m.step_metric, m.options.step_sync) for m in metrics if m.glob_name] == [
        ("*", "trainer/global_step", True)
    ]


@pytest.mark.parametrize("mode", ["offline", "dryrun"])
def test_offline_is_honoured_with_a_key_too(mode, tmp_path, capfd):
    with serving() as server:
        os.environ["WANDB_MODE"] = mode
        made = make(tmp_path / "run")
        log(made, range(2))
        close(made)
    assert history(parts(tmp_path / "run")[0]) == expected(range(2))
    assert server.paths == []
    assert capfd.readouterr().err.startswith("wandb: this run is logged offline; send it later with `wandb sync ")


def test_disabled_is_honoured(tmp_path, capfd):
    with serving() as server:
        os.environ["WANDB_MODE"] = "disabled"
        assert make(tmp_path / "run") == []
    assert server.paths == []
    assert not (tmp_path / "run").exists()
    assert capfd.readouterr() == ("", "")


def test_a_wrong_mode_is_named(tmp_path):
    os.environ["WANDB_MODE"] = "sometimes"
    with pytest.raises(ValueError, match=r"^logger wandb: .*'sometimes'"):
        make(tmp_path / "run")


def test_a_stored_key_is_found(home):
    def stored(url: str) -> bool:
        return wandb_logger.has_key(SimpleNamespace(api_key=None, identity_token_file=None, base_url=url))

    assert not stored("https://wandb.example")
    (home / ".netrc").write_text(f"machine wandb.example\n  login user\n  password {KEY}\n")
    assert stored("https://wandb.example")
    assert not stored("https://elsewhere.example")
    (home / ".netrc").write_text("machine\n")
    assert not stored("https://wandb.example")
    os.environ["NETRC"] = str(home / "other")
    (home / "other").write_text(f"machine wandb.example:80\n  login user\n  password {KEY}\n")
    assert stored("https://wandb.example:80")
    assert netrc.netrc(home / "other").authenticators(urlsplit("https://wandb.example:80").netloc)


# -- W&B, with a server ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mood", ["closed", "401", "500", "silent"])
def test_a_server_that_cannot_be_used_does_not_stop_the_run(mood, tmp_path, capfd):
    folder, start = tmp_path / "run", time.monotonic()
    with contextlib.ExitStack() as stack:
        if mood == "closed":
            with serving("401") as server:
                pass
        else:
            server = stack.enter_context(serving(mood))
        made = make(folder)
        log(made, range(3))
        close(made)  # nothing waits for the server at the exit either
        assert time.monotonic() - start < PATIENCE + SLACK
    (line,) = capfd.readouterr().err.splitlines()
    (part,) = parts(folder)  # the failed attempt has left nothing
    assert line.startswith(f"wandb: {server.url} cannot be used (")
    assert line.endswith(f"); this run is logged offline; send it later with `wandb sync {part}`")
    assert history(part) == expected(range(3))
    assert set(server.paths) <= {"/graphql"}  # no telemetry, which the exit would wait for


def test_patience_is_bounded_for_users_too(tmp_path):
    for name in ("WANDB_INIT_TIMEOUT", "WANDB_FINISH_TIMEOUT"):
        del os.environ[name]
    settings = wandb_logger.wandb_settings()
    assert 0 < settings.init_timeout <= 30
    assert 0 < settings.finish_timeout <= 30


def test_a_wrong_key_is_reported_without_it(tmp_path, capfd):
    os.environ["WANDB_API_KEY"] = "  too-short-a-key\n"
    made = make(tmp_path / "run")
    close(made)
    out, err = capfd.readouterr()
    assert "40+ characters" in err
    assert len(err.splitlines()) == 1
    assert "too-short-a-key" not in out + err


def test_an_error_is_told_in_one_line_without_the_key():
    os.environ["WANDB_API_KEY"] = KEY
    assert wandb_logger.reason(ValueError(f"the key\n {KEY} is wrong")) == "the key *** is wrong"
    assert wandb_logger.reason(TimeoutError()) == "TimeoutError"


@pytest.mark.parametrize("mood", ["closed", "silent"])
def test_a_connection_lost_on_the_way_is_survived(mood, tmp_path, capfd):
    folder = tmp_path / "run"
    with serving() as server:
        made = make(folder)
        log(made, range(2))
        if mood == "closed":
            server.shutdown()
            server.server_close()
        server.mood = "silent"
        log(made, range(2, 5))
        start = time.monotonic()
        close(made)
        assert time.monotonic() - start < PATIENCE + SLACK / 2
    (part,) = parts(folder)
    first, *_, last = capfd.readouterr().err.splitlines()
    assert first == f"wandb: this run is shown at {server.url}/someone/tests/runs/run"
    assert last == f"wandb: not everything was sent in time; send it later with `wandb sync {part}`"
    assert history(part) == expected(range(5))


def test_a_lost_process_of_wandb_does_not_stop_the_run(tmp_path, monkeypatch, capfd):
    def gone(*args, **kwargs):
        raise ConnectionResetError("Connection lost")

    made = make(tmp_path / "run")
    monkeypatch.setattr(made[0].experiment, "log", gone)
    monkeypatch.setattr(made[0].experiment, "finish", gone)
    log(made, range(3))
    close(made)
    assert capfd.readouterr().err.splitlines()[1:] == [
        "wandb: logging ended at step 0 (Connection lost); metrics.csv goes on",
        "wandb: the run was not finished (Connection lost)",
    ]


# -- train.py ----------------------------------------------------------------------------------------------------------

TRAINED = {
    **tiny.FLAGS,
    "wb_id": "shown",
    "train_steps": 12,
    "batch_size": 8,
    "log_every": 2,
    "val_check_interval": 6,
    "checkpoint_every": 4,
}


def test_train_logs_to_wandb_and_the_key_is_nowhere(tmp_path, monkeypatch, capfd):
    words = tiny.command("--logger", "wandb", "--wb_key", KEY, **TRAINED, output_dir=tmp_path / "runs")
    folder = tmp_path / "runs" / "shown_digits_H0.9_K2"
    training_step = DiffusionModule.training_step

    def interrupted(self, batch, batch_idx):
        if batch.micro_step == 8:
            os.kill(os.getpid(), signal.SIGINT)
        return training_step(self, batch, batch_idx)

    make_quick(monkeypatch.setattr)
    monkeypatch.setattr(DiffusionModule, "training_step", interrupted)
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    with serving() as server:
        del os.environ["WANDB_API_KEY"]
        assert train.main() == 130
        wandb_logger.forget()
        exits = [record.exit.exit_code for record in records(parts(folder)[0]) if record.HasField("exit")]
        assert exits == [130]  # the file is whole, and says how the run ended
        monkeypatch.setattr(DiffusionModule, "training_step", training_step)
        monkeypatch.setattr(
            sys, "argv", ["train.py", "--resume", "shown", "--logger", "wandb", "--output_dir", str(tmp_path / "runs")]
        )
        assert train.main() == 0
        wandb_logger.forget()

    both = [row for part in parts(folder) for row in history(part)]
    assert len(parts(folder)) == 2
    shown = {row["trainer/global_step"]: row["train/loss"] for row in both if "train/loss" in row}
    validated = {row["trainer/global_step"]: row["val/loss"] for row in both if "val/loss" in row}
    rows = read_metrics(folder / "metrics.csv")
    assert shown == {row["step"]: pytest.approx(row["train/loss"]) for row in rows if "train/loss" in row}
    assert validated == {row["step"]: pytest.approx(row["val/loss"]) for row in rows if "val/loss" in row}
    assert set(shown) >= {2, 4, 6, 8, 10, 12}
    assert set(validated) == {6, 12}
    assert list(server.history) == [folder.name]
    assert figures(server.history[folder.name]) == both
    assert all(re.match("/graphql|/upload/|/files/.*/file_stream", path) for path in server.paths)

    streams = capfd.readouterr()
    texts = {"stdout": streams.out.encode(), "stderr": streams.err.encode()}
    texts |= {f"sent {i}": body for i, body in enumerate(server.bodies)}
    texts |= {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert any("wandb-metadata.json" in name for name in texts)
    assert any(re.search("core-debug.*log", name) for name in texts)
    for secret in (KEY.encode(), base64.b64encode(f"api:{KEY}".encode())):
        assert [name for name, text in texts.items() if secret in text] == []
