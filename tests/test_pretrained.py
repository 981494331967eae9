"""--pretrained: an archive from a server on this machine, good, broken and hostile."""

import hashlib
import io
import json
import os
import stat
import threading
import zipfile
from collections.abc import Callable, Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from common.runs import ReleasedName, find, parse_released_name, pretrained
from common.runs.pretrained import ORIGIN, PRETRAINED, Pretrained, fetch

NAME = "gfdm-cifar10-h0.9-k2"
RUN = "1299582_cifar10_H0.9_K2"
OTHER = "1299581_cifar10_H0.7_K2"
GOOD: dict[str, bytes] = {
    f"{RUN}/model/model-v5.pth": b"weights" * 1000,
    f"{RUN}/model/ema_model-v5.pth": b"average" * 1000,
    f"{OTHER}/model/ema_model-v5.pth": b"other",
}


def zipped(entries: dict[str, bytes], change: Callable[[zipfile.ZipInfo], None] = lambda _: None) -> bytes:
    """A zip archive; ``change`` sees the description of each entry before it is written."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            change(info)
            archive.writestr(info, content)
    return buffer.getvalue()


class Server:
    """Serves one body; counts the requests."""

    def __init__(self) -> None:
        self.status, self.body, self.kind, self.requests = 200, b"", "application/zip", 0
        self.stalled = threading.Event()  # while it is not set, no answer comes
        self.stalled.set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests += 1
                server.stalled.wait()
                self.send_response(server.status)
                self.send_header("Content-Type", server.kind)
                self.send_header("Content-Length", str(len(server.body)))
                self.end_headers()
                self.wfile.write(server.body)

            def log_message(self, *_: object) -> None:
                return

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/pretrained_models.zip"


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    """The archive's server in the place of the real one."""
    serving = Server()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setitem(PRETRAINED, NAME, Pretrained(serving.url, "1299582", "v5"))
    thread = threading.Thread(target=serving.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield serving
    serving.http.shutdown()
    thread.join()
    serving.http.server_close()


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused(runs: Path, server: Server) -> str:
    """The message with which a download is refused; it is one line, says what to do, and leaves nothing."""
    with pytest.raises(ValueError, match=f"^pretrained {NAME}: ") as caught:
        fetch(NAME, runs)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(f"download {server.url}, unzip it into {runs} and use --run_id 1299582 --version v5")
    assert list(runs.iterdir()) == []
    assert sorted(path.name for path in runs.parent.iterdir()) == ["runs"]
    return message


@pytest.fixture
def runs(tmp_path) -> Path:
    return tmp_path / "runs"


def test_the_published_runs_are_listed():
    published = {name: entry for name, entry in PRETRAINED.items() if isinstance(entry, Pretrained)}
    assert {name: (entry.run_id, entry.version) for name, entry in published.items()} == {
        "gfdm-cifar10-h0.9-k2": ("1299582", "v5"),
        "gfdm-cifar10-h0.7-k2": ("1299581", "v5"),
        "vp-cifar10": ("1299543", "v4"),
    }
    assert {entry.url for entry in published.values()} == {
        "https://drive.google.com/uc?id=1OySDmN2vXe5ox4egkxLR1qZuocIlAGz3"
    }


@pytest.mark.parametrize("inside", ["", "pretrained_models/", "a/b c/"])
def test_every_run_is_unpacked_wherever_it_lies(runs, server, inside, capsys):
    noise = {
        "__MACOSX/._x": b"x",
        f"__MACOSX/{RUN}/model/._model-v5.pth": b"x",
        "README.txt": b"x",
        f"{RUN}/run.sh": b"",
    }
    server.body = zipped({f"{inside}{name}": content for name, content in GOOD.items()} | noise)
    folder = fetch(NAME, runs)
    assert folder.path == runs / RUN == find("1299582", runs).path
    written = tree(runs)
    origins = [json.loads(written.pop(f"{run}/{ORIGIN}")) for run in (RUN, OTHER)]
    assert written == GOOD
    digest = hashlib.sha256(server.body).hexdigest()
    assert [(origin["url"], origin["sha256"]) for origin in origins] == [(server.url, digest)] * 2
    assert datetime.fromisoformat(origins[0]["date"]).tzinfo is not None
    assert f"{digest} (the authors publish none" in capsys.readouterr().out
    assert sorted(path.name for path in runs.iterdir()) == sorted([RUN, OTHER])
    assert folder.is_released
    assert folder.versions() == ["v5"]
    assert parse_released_name(folder.name) == ReleasedName("1299582", "cifar10", 0.9, 2)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o777 & ~mask  # readable as if made by hand


def test_the_second_call_downloads_nothing(runs, server, monkeypatch):
    server.body = zipped(GOOD)
    fetch(NAME, runs)
    before, requests = tree(runs), server.requests
    assert fetch(NAME, runs).path == runs / RUN
    monkeypatch.setitem(PRETRAINED, "gfdm-cifar10-h0.7-k2", Pretrained(server.url, "1299581", "v5"))
    assert fetch("gfdm-cifar10-h0.7-k2", runs).path == runs / OTHER  # it came with the first
    assert requests == server.requests == 1
    assert tree(runs) == before


def test_a_run_unzipped_by_hand_is_taken(runs, server):
    file = runs / "pretrained_models" / RUN / "model" / "ema_model-v5.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"by hand")
    assert fetch(NAME, runs).path == file.parent.parent
    assert server.requests == 0


@pytest.mark.parametrize("place", ["", "pretrained_models"])
def test_an_existing_run_is_left_alone(runs, server, place):
    """A run of the archive that the user has already, here or one level deeper, whatever it holds."""
    mine = runs / place / OTHER / "model" / "model-v1.pth"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    server.body = zipped(GOOD)
    fetch(NAME, runs)
    assert tree(runs / place / OTHER) == {"model/model-v1.pth": b"mine"}
    assert {path.name for path in runs.iterdir()} == {RUN, place or OTHER}


@pytest.mark.parametrize("there", ["file", "empty folder", "another version"])
def test_what_is_in_the_way_is_named_before_downloading(runs, server, there):
    runs.mkdir()
    if there == "file":
        (runs / RUN).write_bytes(b"mine")
    else:
        (runs / RUN / "model").mkdir(parents=True)
        if there == "another version":
            (runs / RUN / "model" / "model-v1.pth").write_bytes(b"mine")
    before = tree(runs)
    with pytest.raises(ValueError, match=rf"{RUN} is there without version v5; move it away"):
        fetch(NAME, runs)
    assert tree(runs) == before
    assert server.requests == 0


def test_an_unknown_name_lists_what_there_is(runs):
    with pytest.raises(ValueError, match=r"^pretrained must be one of gfdm-cifar10-h0\.9-k2, .*, got 'x'$"):
        fetch("x", runs)
    assert not runs.exists()


# -- failed downloads -------------------------------------------------------------------------------------------------


def test_a_missing_archive(runs, server):
    server.status = 404
    assert "the download failed (HTTPError: 404" in refused(runs, server)


def test_no_server(runs, server, monkeypatch):
    monkeypatch.setitem(PRETRAINED, NAME, Pretrained("http://127.0.0.1:9/pretrained_models.zip", "1299582", "v5"))
    server.url = PRETRAINED[NAME].url
    assert "the download failed (ConnectionError" in refused(runs, server)


def test_a_server_that_never_answers(runs, server, monkeypatch):
    monkeypatch.setattr(pretrained, "DOWNLOAD_TIMEOUT", 0.2)
    server.stalled.clear()
    try:
        with pytest.raises(ValueError, match=r"download failed \(.*[Tt]imed? ?out"):
            fetch(NAME, runs)
    finally:
        server.stalled.set()
    assert tree(runs) == {}


def test_a_web_page_instead(runs, server):
    server.kind, server.body = "text/html", b"\n<!DOCTYPE html><html>Quota exceeded</html>"
    assert "a web page came instead (a quota" in refused(runs, server)


@pytest.mark.parametrize("keep", [0, 1, 100, -1, -30])
def test_a_truncated_archive(runs, server, keep):
    server.body = zipped(GOOD)[:keep]
    assert "the download is no zip archive: it is cut short" in refused(runs, server)


# -- broken and hostile archives --------------------------------------------------------------------------------------


def test_damaged_content(runs, server):
    body = bytearray(zipped(GOOD, lambda info: setattr(info, "compress_type", zipfile.ZIP_STORED)))
    body[body.index(b"average") + 3500] ^= 1
    server.body = bytes(body)
    assert "the archive is broken (Bad CRC-32 for file" in refused(runs, server)


def test_damaged_compression(runs, server):
    body = bytearray(zipped(GOOD))
    start = body.index(f"{RUN}/model/model-v5.pth".encode()) + len(f"{RUN}/model/model-v5.pth")
    body[start : start + 8] = b"\xff" * 8
    server.body = bytes(body)
    assert "the archive is broken" in refused(runs, server)


def test_a_damaged_directory(runs, server):
    body = zipped(GOOD)
    server.body = body.replace(b"PK\x01\x02", b"PK\x01\x03")
    assert "the archive is broken" in refused(runs, server)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../evil", "leads out of its folder"),
        (f"{RUN}/model/../../../evil", "leads out of its folder"),
        (f"../{RUN}/model/model-v5.pth", "leads out of its folder"),
        ("..", "leads out of its folder"),
        ("a\\..\\..\\evil", "leads out of its folder"),
        ("/tmp/evil", "is an absolute path"),
        (f"/{RUN}/model/model-v4.pth", "is an absolute path"),
        ("C:/evil", "is an absolute path"),
        ("c:evil", "is an absolute path"),
        ("a\\evil", "has characters that do not belong"),
        ("a\nevil", "has characters that do not belong"),
    ],
)
def test_a_path_out_of_the_folder(runs, server, name, why):
    server.body = zipped({**GOOD, name: b"evil"})
    message = refused(runs, server)
    assert why in message
    assert repr(name) in message
    assert not Path("/tmp/evil").exists()


def test_a_name_that_hides_its_end(runs, server):
    """Python's zipfile cuts names at NUL; what the archive says is what is judged."""
    server.body = zipped({**GOOD, f"{OTHER}/model/model-v1.pth_": b"evil"}).replace(b"model-v1.pth_", b"model-v1.pth\0")
    assert "has characters that do not belong" in refused(runs, server)


@pytest.mark.parametrize(
    ("mode", "why"), [(stat.S_IFLNK, "is a link"), (stat.S_IFIFO, "no plain file"), (stat.S_IFCHR, "no plain file")]
)
@pytest.mark.parametrize("name", [f"{RUN}/model", f"{RUN}/model/model-v1.pth", "link"])
def test_a_link_or_device(runs, server, mode, why, name):
    def change(info: zipfile.ZipInfo) -> None:
        if info.filename == name:
            info.external_attr = (mode | 0o777) << 16

    server.body = zipped({name: b"/etc/passwd", **GOOD}, change)
    assert why in refused(runs, server)


def test_plain_files_and_folders_are_no_links(runs, server):
    def change(info: zipfile.ZipInfo) -> None:
        info.external_attr = ((stat.S_IFDIR if info.is_dir() else stat.S_IFREG) | 0o755) << 16

    server.body = zipped({f"{RUN}/": b"", f"{RUN}/model/": b"", **GOOD}, change)
    assert fetch(NAME, runs).path == runs / RUN
    assert not os.access(runs / RUN / "model" / "model-v5.pth", os.X_OK)  # content is taken, modes are not


def test_an_encrypted_entry(runs, server):
    body = bytearray(zipped({f"{RUN}/model/model-v5.pth": b"x"}))
    body[body.index(b"PK\x01\x02") + 8] |= 1
    server.body = bytes(body)
    assert "is encrypted" in refused(runs, server)


@pytest.mark.parametrize(
    "entries",
    [
        {"photo.jpg": b"x"},
        {f"{OTHER}/model/model-v5.pth": b"x"},
        {f"{RUN}/model/model-v4.pth": b"x", f"{RUN}/model/notes-v5.pth": b"x"},
        {f"{RUN}/model-v5.pth": b"x"},
        {f"{RUN}/model/model-v5.pth/": b""},
        {},
    ],
)
def test_an_archive_of_something_else(runs, server, entries):
    server.body = zipped(entries)
    listed = ", ".join(sorted({name.split("/")[0] for name in entries if "/model/" in name and name.endswith(".pth")}))
    message = refused(runs, server)
    assert "lacks version v5 of run 1299582" in message
    if "notes" not in str(entries):
        assert f"runs in it: {listed or 'none'}" in message


def test_a_file_twice(runs, server):
    server.body = zipped({**GOOD, f"copy/{RUN}/model/model-v5.pth": b"which?"})
    assert "twice" in refused(runs, server)


def test_a_bomb(runs, server, monkeypatch):
    server.body = zipped({**GOOD, f"{RUN}/model/model-v9.pth": bytes(10**7)})
    assert len(server.body) < 10**5
    monkeypatch.setattr(pretrained, "UNPACKED_LIMIT", 10**7)
    monkeypatch.setattr(pretrained.shutil, "copyfileobj", lambda *_: pytest.fail("something was unpacked"))
    assert "would take 1e+07 bytes, which is above the limit of 1e+07" in refused(runs, server)


def test_a_bomb_that_lies_about_its_size(runs, server, monkeypatch):
    """What an entry declares bounds what is written, so a wrong declaration does not get past the limit."""
    body = bytearray(zipped({**GOOD, f"{RUN}/model/model-v9.pth": bytes(10**7)}))
    at = body.rindex(b"PK\x01\x02")
    body[at + 24 : at + 28] = (100).to_bytes(4, "little")
    server.body = bytes(body)
    written: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (written.append(os.fstat(handle).st_size), real(handle))[1])
    assert "the archive is broken (Bad CRC-32" in refused(runs, server)
    assert max(written, default=0) <= 10**4


def test_a_disk_that_is_too_small(runs, server, monkeypatch):
    server.body = zipped(GOOD)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(pretrained.shutil, "disk_usage", lambda _: usage)
    assert "above the free space of 1e+03" in refused(runs, server)


# -- interruptions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["download", "digest", "unpack", "origin", "rename"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("disk full")])
def test_an_interruption_leaves_nothing(runs, server, monkeypatch, where, error):
    server.body = zipped(GOOD)

    def stop(*_args: object, **_options: object) -> None:
        raise error

    target = {
        "download": (pretrained.zipfile, "is_zipfile"),
        "digest": (pretrained.hashlib, "file_digest"),
        "unpack": (pretrained.os, "fsync"),
        "origin": (pretrained, "write_json"),
        "rename": (Path, "rename"),
    }[where]
    monkeypatch.setattr(*target, stop)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else ValueError):
        fetch(NAME, runs)
    assert list(runs.iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setitem(PRETRAINED, NAME, Pretrained(server.url, "1299582", "v5"))
    assert fetch(NAME, runs).path == runs / RUN


def test_an_interruption_between_two_runs_leaves_whole_ones(runs, server, monkeypatch):
    server.body = zipped(GOOD)
    real = Path.rename
    moved: list[Path] = []

    def once(self: Path, target: Path) -> Path:
        if moved:
            raise KeyboardInterrupt
        moved.append(target)
        return real(self, target)

    monkeypatch.setattr(Path, "rename", once)
    with pytest.raises(KeyboardInterrupt):
        fetch(NAME, runs)
    assert list(runs.iterdir()) == moved
    assert (moved[0] / ORIGIN).exists()
    assert (moved[0] / "model" / "ema_model-v5.pth").exists()
