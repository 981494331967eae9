"""What a foreign run folder or working folder says sends, fetches and starts nothing: that takes a user's flag."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import args
from common.config.env_file import TAKEN
from common.refusal import Refusal
from common.training import loggers, wandb_logger
from scripts import export
from tests.security.conftest import changed, refused

ROOT = Path(args.__file__).parent
KEY = "0123456789abcdef" * 2 + "deadbeef"


class Listener:
    """A server that notes what it is sent, and answers nothing."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.heard: list[bytes] = []
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:  # closed
                return
            with connection:
                connection.settimeout(2)
                self.heard.append(connection.recv(4096))


@pytest.fixture
def listener(monkeypatch, tmp_path):
    """Whatever W&B sends goes there: the user has a key, and has chosen no mode."""
    server = Listener()
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    for name in (loggers.MODE_VARIABLE, *wandb_logger.WANDB_DEFAULTS):  # the programs set them
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url, "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    yield server
    server.socket.close()
    if sys.modules.get("wandb"):
        wandb_logger.forget()


@pytest.fixture
def no_network(monkeypatch):
    """Counts attempts of this process to connect to anything that is no file."""
    tried: list[object] = []

    def connect(self: socket.socket, address: object) -> None:
        tried.append(address)
        raise OSError("not in a test")

    monkeypatch.setattr(socket.socket, "connect", connect)
    return tried


def test_a_config_that_logs_to_wandb_sends_nothing(cli, stopped, listener):
    changed(stopped, ("keeping", "logger"), "wandb")
    changed(stopped, ("keeping", "wb_project"), "theirs")
    result = cli("train", "--resume", stopped.name, "--device", "cpu", "--max_time", "1s")
    assert result.code == 0
    assert "wandb: only config.json asks for it, so nothing is sent" in result.err
    assert list(stopped.glob("wandb/offline-run-*"))
    assert listener.heard == []


@pytest.mark.parametrize(("variable", "given"), [({}, ["--logger", "wandb"]), ({"WANDB_MODE": "online"}, [])])
def test_a_user_who_asks_for_wandb_gets_it(variable, given, cli, stopped, listener, monkeypatch):
    """The attack above reaches the listener as soon as the user asks for it, so it would be noticed."""
    for name, value in {**variable, "WANDB_INIT_TIMEOUT": "1"}.items():
        monkeypatch.setenv(name, value)
    changed(stopped, ("keeping", "logger"), "wandb")
    cli("train", "--resume", stopped.name, "--device", "cpu", "--max_time", "1s", *given)
    assert listener.heard


@pytest.mark.parametrize("name", ["csv", "tensorboard"])
def test_other_loggers_are_asked_for_nothing(name, listener, capsys):
    loggers.ask_before_sending(name)
    assert capsys.readouterr().err == ""
    assert loggers.MODE_VARIABLE not in os.environ


SETTINGS = {
    "another server": "[default]\nbase_url = {url}\n",
    "another server, in capitals": "[default]\nBASE_URL = {url}\n",
    "a proxy": "[default]\nhttps_proxy = {url}\n",
    "headers": '[default]\nx_extra_http_headers = {{"x": "y"}}\n',
    "a program": "[default]\n_executable = /tmp/evil\n",
    "a file with a token": "[default]\nidentity_token_file = /etc/passwd\n",
    "a key": "[default]\napi_key = 0\n",
    "from another section": "[DEFAULT]\nbase_url = {url}\n[default]\nmode = online\n",
    "no settings": "\x00\x01",
}


@pytest.mark.parametrize("text", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("place", ["wandb", ".wandb"])
def test_a_foreign_working_folder_does_not_say_where_a_key_goes(text, place, listener, tmp_path):
    Path(place).mkdir()
    Path(place, "settings").write_text(text.format(url=listener.url))
    with pytest.raises(Refusal, match="settings"):
        loggers.make_loggers("wandb", tmp_path / "run", run_name="x", config={}, project="x")
    assert listener.heard == []


def test_a_working_folder_may_say_what_is_logged_where():
    Path("wandb").mkdir()
    Path("wandb/settings").write_text("[default]\nmode = offline\nentity = me\nproject = mine\n")
    wandb_logger.check_workspace()


# -- downloads, plugins and paths --------------------------------------------------------------------------------------


@pytest.mark.parametrize("data_name", ["mnist", "cifar10", "fashionmnist", "celeba", "spokendigits"])
def test_a_config_downloads_nothing(data_name, cli, stopped, no_network):
    changed(stopped, ("data", "download"), True)
    changed(stopped, ("data", "data_name"), data_name)
    refused(cli("train", "--resume", stopped.name, "--device", "cpu"))
    refused(cli("evaluate", "--run_id", stopped.name))
    assert no_network == []
    assert not Path("data").exists()


def test_a_config_names_no_plugin(cli, run, tmp_path):
    (run / "evil.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    Path("evil.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    file = run / "config.json"
    content = json.loads(file.read_text())
    for name in ("plugin", "plugins", "imports"):
        content[name] = ["evil"]
        for part in ("keeping", "data", "recipe"):
            content[part][name] = ["evil", str(run / "evil.py")]
    file.write_text(json.dumps(content))
    (run / "manifest.json").unlink()
    assert cli("generate", "--run_id", run.name, "--n_samples", 2, "--steps", 2).code == 0
    changed(run, ("network", "class"), "evil:Net")
    refused(cli("generate", "--run_id", run.name, "--n_samples", 2))
    refused(cli("train", "--resume", run.name))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("program", ["generate", "export"])
def test_paths_of_a_config_are_not_looked_at_to_sample(program, cli, run, tmp_path, no_network, monkeypatch):
    """Not even opened: a pipe would be waited for."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (("data", "data_dir"), ("recipe", "init_from"), ("keeping", "output_dir")):
        changed(run, path, str(pipe))
    changed(run, ("keeping", "logger"), "wandb")
    if program == "generate":
        assert cli("generate", "--run_id", run.name, "--n_samples", 2, "--steps", 2).code == 0
    else:
        assert export.main(["--run_id", run.name, "--copy_to", str(tmp_path / "given")]) == 0
        copy = json.loads((tmp_path / "given" / run.name / "config.json").read_text())
        assert copy["data"]["data_dir"] is None
        assert copy["keeping"]["output_dir"] == "runs"
    assert no_network == []
    assert "wandb" not in {path.name for path in run.iterdir()}


def test_a_resumed_run_stays_where_it_is(cli, stopped, tmp_path):
    for path, value in {
        ("keeping", "output_dir"): str(tmp_path / "elsewhere"),
        ("keeping", "wb_id"): "other",
        ("keeping", "name"): "name",
        ("label",): "../../escaped",
    }.items():
        changed(stopped, path, value)
    assert cli("train", "--resume", stopped.name, "--device", "cpu", "--max_time", "1s").code == 0
    assert {path.name for path in tmp_path.iterdir()} <= {"runs", "data"}
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [stopped.name]


def test_loading_starts_no_process_and_no_connection(tmp_path):
    """Seen from inside, by the audit hooks of Python, in plain Python that knows no program."""
    code = """
import sys
seen = []
sys.addaudithook(lambda event, _: seen.append(event))
from common import runs
before = len(seen)
runs.load("digits-demo")
bad = {"socket.connect", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "pickle.find_class", "os.remove"}
print(sorted(bad & set(seen[before:])), "args" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[] False\n", done.stderr


# -- the document ------------------------------------------------------------------------------------------------------


def test_every_promise_is_held_by_a_test():
    promised = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "security.md").read_text()))
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(promised) >= 20
    assert [name for name in promised if f"def {name}(" not in tests] == []
    for document in ("README.md", "docs/security.md"):
        assert all(f"`{name}`" in (ROOT / document).read_text() for name in TAKEN)
