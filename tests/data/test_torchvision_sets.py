"""Published sets: read from files as they are published, fetched from a server on this machine."""

import gzip
import hashlib
import io
import multiprocessing
import pickle
import socket
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from common.data import SOURCES, DataOptions, DataUnavailable, torchvision_sets
from tests.data.idx import NAMES, write_mnist

IDX = {"mnist": "MNIST", "fashionmnist": "FashionMNIST"}
CIFAR = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}
CUT, GONE = "cut", "gone"  # what the server does instead of sending a file


def load(name: str, folder: Path, **options):
    return SOURCES[name]().load(DataOptions(folder, **options))


def refused(name: str, folder: Path, **options) -> str:
    with pytest.raises(DataUnavailable) as caught:
        load(name, folder, **options)
    message = str(caught.value)
    assert message.startswith(f"--data_name {name}: ") or message.startswith("channels")
    assert "\n" not in message
    return message


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def write_idx_set(folder: Path, name: str, **sizes) -> dict[str, np.ndarray]:
    written = write_mnist(folder, **sizes)
    (folder / "MNIST").rename(folder / IDX[name])
    return written


# -- MNIST and FashionMNIST -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IDX)
def test_idx_files_are_read(tmp_path, name):
    written = write_idx_set(tmp_path, name)
    data = load(name, tmp_path)
    assert (data.num_classes, data.shape, data.value_range) == (10, (1, 28, 28), (0, 1))
    for part, prefix, count in ((data.train, "train", 20), (data.held_out, "t10k", 12)):
        assert part.images.dtype == torch.uint8
        assert part.labels.dtype == torch.int64
        assert part.images.shape == (count, 1, 28, 28)
        assert np.array_equal(part.images[:, 0].numpy(), written[f"{prefix}-images-idx3-ubyte"])
        assert np.array_equal(part.labels.numpy(), written[f"{prefix}-labels-idx1-ubyte"])


@pytest.mark.parametrize("missing", [NAMES, NAMES[:1], NAMES[3:]])
def test_missing_files_are_named_with_the_way_to_get_them(tmp_path, missing):
    write_mnist(tmp_path)
    for name in missing:
        (tmp_path / "MNIST" / "raw" / name).unlink()
    before = sorted(tmp_path.rglob("*"))
    message = refused("mnist", tmp_path)
    for name in NAMES:
        assert (name in message) == (name in missing)
    assert "--download True" in message
    assert "--data_dir" in message
    assert str(tmp_path / "MNIST" / "raw") in message
    assert sorted(tmp_path.rglob("*")) == before  # nothing is fetched, no folder is made


@pytest.mark.parametrize("content", [b"", b"\x00\x00\x08\x03", b"this is no idx file at all", None])
@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_are_named(tmp_path, name, content):
    write_mnist(tmp_path)
    file = tmp_path / "MNIST" / "raw" / name
    file.write_bytes(file.read_bytes()[:-3] if content is None else content)
    message = refused("mnist", tmp_path)
    assert str(file) in message
    assert "damaged" in message
    assert sum(name in message for name in NAMES) == 1


def test_files_that_do_not_belong_together_are_named(tmp_path):
    write_mnist(tmp_path / "one", train=20)
    write_mnist(tmp_path / "other", train=19)
    labels = Path("MNIST", "raw", NAMES[1])
    (tmp_path / "one" / labels).write_bytes((tmp_path / "other" / labels).read_bytes())
    assert "20 images, but 19 labels" in refused("mnist", tmp_path / "one")


def test_labels_beyond_the_classes_are_refused(tmp_path):
    write_mnist(tmp_path)
    file = tmp_path / "MNIST" / "raw" / NAMES[1]
    file.write_bytes(file.read_bytes()[:-1] + b"\x0a")
    assert "label 10" in refused("mnist", tmp_path)


# -- CIFAR ------------------------------------------------------------------------------------------------------------


def cifar_files(name: str) -> tuple[dict[str, bytes], np.ndarray, list[int]]:
    """Files of a tiny set by name, in the pickled format of the authors; pixels (N, 32, 32, 3) and labels of all."""
    kind, rng = CIFAR[name], np.random.default_rng(0)
    key = "labels" if name == "cifar10" else "fine_labels"
    files, pixels, labels = {}, [], []
    for file, _ in (*kind.train_list, *kind.test_list):
        planes = rng.integers(0, 256, (4, 3072), dtype=np.uint8)  # 1,024 red, then green, then blue
        targets = rng.integers(0, len(SOURCES[name].classes), 4).tolist()
        files[file] = pickle.dumps({"data": planes, key: targets})
        pixels.append(planes.reshape(4, 3, 32, 32).transpose(0, 2, 3, 1))
        labels += targets
    files[kind.meta["filename"]] = pickle.dumps({kind.meta["key"]: ["a", "b"]})
    return files, np.concatenate(pixels), labels


@pytest.fixture(params=CIFAR)
def cifar(request, monkeypatch):
    """Name, files, pixels and labels; torchvision takes the sums of these files for the original ones."""
    kind = CIFAR[request.param]
    files, pixels, labels = cifar_files(request.param)
    for listed in ("train_list", "test_list"):
        monkeypatch.setattr(kind, listed, [[file, md5(files[file])] for file, _ in getattr(kind, listed)])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(files[kind.meta["filename"]])})
    return request.param, files, pixels, labels


def unpack(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    base = folder / CIFAR[name].base_folder
    base.mkdir(parents=True)
    for file, content in files.items():
        (base / file).write_bytes(content)
    return base


def check_cifar(data, name, pixels, labels):
    count = len(pixels) - 4
    assert data.num_classes == (10 if name == "cifar10" else 100)
    assert data.shape == (3, 32, 32)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    for part, rows in ((data.train, slice(count)), (data.held_out, slice(count, None))):
        assert torch.equal(part.images, images[rows])
        assert part.images.is_contiguous()
        assert part.labels.tolist() == labels[rows]


def test_cifar_is_read_from_the_files_of_its_authors(tmp_path, cifar):
    name, files, pixels, labels = cifar
    unpack(tmp_path, name, files)
    check_cifar(load(name, tmp_path), name, pixels, labels)


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a file was unpickled although its MD5 sum is wrong",)


def test_a_file_with_another_md5_sum_is_never_unpickled(tmp_path, cifar):
    name, files, *_ = cifar
    for file in files:
        base = unpack(tmp_path / file, name, {**files, file: pickle.dumps(Bomb())})
        message = refused(name, tmp_path / file)
        assert str(base / file) in message
        assert "damaged" in message


def test_missing_cifar_is_named_with_the_ways_to_get_it(tmp_path, cifar):
    name, files, *_ = cifar
    base = unpack(tmp_path, name, files)
    gone = list(files)[-2]
    (base / gone).unlink()
    message = refused(name, tmp_path)
    for part in (gone, str(base), "--download True", "--data_dir", f"{name}.npz"):
        assert part in message


def test_cifar_is_taken_from_a_plain_file_where_the_folder_is_missing(tmp_path, cifar, monkeypatch):
    name, files, pixels, labels = cifar
    monkeypatch.setattr(CIFAR[name], "url", "http://127.0.0.1:1/")
    labels[0] = len(SOURCES[name].classes) - 1
    plain, count = tmp_path / f"{name}.npz", len(pixels) - 4
    np.savez(plain, x=pixels[:count], y=labels[:count], x_test=pixels[count:], y_test=labels[count:])
    for download in (False, True):  # nothing is missing, so nothing is fetched
        check_cifar(load(name, tmp_path, download=download), name, pixels, labels)
    np.savez(plain, x=pixels, y=[min(label, 3) for label in labels])
    data = load(name, tmp_path)
    assert data.num_classes == len(SOURCES[name].classes)  # also where the last ones do not occur
    assert len(data.held_out.labels) == max(1, len(pixels) // 10)
    unpack(tmp_path, name, files)
    data = load(name, tmp_path)  # the folder goes first
    assert len(data.held_out.labels) == 4


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"x": np.zeros((4, 28, 28, 3), np.uint8), "y": np.zeros(4, int)}, "32"),
        ({"x": np.random.rand(4, 32, 32, 3), "y": np.zeros(4, int)}, "uint8"),
        ({"x": np.zeros((4, 32, 32, 3), np.uint8)}, "labels"),
        ({"x": np.zeros((4, 32, 32, 3), np.uint8), "y": np.array([0, 1, 2, 10])}, "0 to 9"),
        (
            {"x": np.zeros((4, 32, 32, 3), np.uint8), "y": np.array(["bird", "car", "cat", "dog"])},
            "bird, car, cat, dog",
        ),
        ({"z": np.zeros(3)}, "samples are"),
    ],
)
def test_a_plain_file_that_is_no_cifar_is_named(tmp_path, arrays, problem):
    np.savez(tmp_path / "cifar10.npz", **arrays)
    message = refused("cifar10", tmp_path)
    assert str(tmp_path / "cifar10.npz") in message
    assert problem in message


# -- download ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked():
    """Names of the files that the server was asked for."""
    return []


@pytest.fixture
def server(monkeypatch, asked):
    """Files by name; a name mapped to CUT is sent in half, one that is not there is answered with 404."""
    content: dict[str, bytes | tuple[str, bytes]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(Path(self.path).name)
            found = content.get(Path(self.path).name)
            if found is None:
                return self.send_error(404)
            whole = found[1] if isinstance(found, tuple) else found
            self.send_response(200)
            self.send_header("Content-Length", str(len(whole)))
            self.end_headers()
            self.wfile.write(whole[: len(whole) // 2] if isinstance(found, tuple) else whole)

        def log_message(self, *_):
            pass

    monkeypatch.setenv("no_proxy", "*")
    service = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{service.server_port}/", content
    service.shutdown()
    service.server_close()


@pytest.fixture(params=["mnist", "fashionmnist", "cifar10", "cifar100"])
def offered(request, server, monkeypatch, tmp_path_factory):
    """Name of a set, the server's files, and a folder that holds the same set as it should look afterwards."""
    name, (address, content) = request.param, server
    original = tmp_path_factory.mktemp("original")
    kind = getattr(datasets, IDX[name]) if name in IDX else CIFAR[name]
    if name in IDX:
        write_idx_set(original, name)
        for file in NAMES:
            content[f"{file}.gz"] = gzip.compress((original / IDX[name] / "raw" / file).read_bytes())
        monkeypatch.setattr(kind, "mirrors", [address])
        monkeypatch.setattr(kind, "resources", [(file, md5(content[file])) for file in content])
    else:
        files, *_ = cifar_files(name)
        base = unpack(original, name, files)
        for listed in ("train_list", "test_list"):
            monkeypatch.setattr(kind, listed, [[file, md5(files[file])] for file, _ in getattr(kind, listed)])
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(files[kind.meta["filename"]])})
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            archive.add(base, base.name)
        content[kind.filename] = buffer.getvalue()
        monkeypatch.setattr(kind, "url", address + kind.filename)
        monkeypatch.setattr(kind, "tgz_md5", md5(content[kind.filename]))
    return name, content, original


def same(one, other) -> bool:
    return all(
        torch.equal(getattr(getattr(one, part), what), getattr(getattr(other, part), what))
        for part in ("train", "held_out")
        for what in ("images", "labels")
    )


def test_a_set_is_fetched_where_that_is_asked_for(tmp_path, offered):
    name, content, original = offered
    folder = tmp_path / "not" / "there" / "yet"
    refused(name, folder)
    assert not folder.exists()
    assert same(load(name, folder, download=True), load(name, original))
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]  # no traces of the work
    content.clear()  # from here on the server has nothing
    assert same(load(name, folder), load(name, original))
    assert same(load(name, folder, download=True), load(name, original))


@pytest.mark.parametrize("offered", ["mnist", "cifar10"], indirect=True)
def test_three_processes_fetch_a_set_once(tmp_path, offered, asked):
    name, content, original = offered

    def work() -> None:
        assert same(load(name, tmp_path / "three", download=True), load(name, original))

    load(name, tmp_path / "one", download=True)
    once, asked[:] = sorted(asked), []  # torchvision asks for every file of MNIST twice
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=work) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(20)
    assert [process.exitcode for process in processes] == [0] * 3
    assert sorted(asked) == once
    assert set(once) == set(content)
    assert not [path for path in (tmp_path / "three").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("fault", ["404", "cut", "md5", "not gzip", "no server"])
def test_a_download_that_fails_leaves_nothing_behind(tmp_path, offered, fault, monkeypatch):
    name, content, _ = offered
    last = list(content)[-1]  # the files before it come whole
    if fault == "404":
        del content[last]
    elif fault == "cut":
        content[last] = (CUT, content[last])
    elif fault == "md5":
        content[last] = content[last][:-1] + b"?"
    elif fault == "not gzip":  # as a login page would be, with a sum that is right
        content[last] = b"<html></html>"
        kind = SOURCES[name].dataset()
        if name in IDX:
            sums = [(file, md5(content[last]) if file == last else sum_) for file, sum_ in kind.resources]
            monkeypatch.setattr(kind, "resources", sums)
        else:
            monkeypatch.setattr(kind, "tgz_md5", md5(content[last]))
    else:
        kind = SOURCES[name].dataset()
        nobody = "http://127.0.0.1:1/"
        monkeypatch.setattr(kind, *(("mirrors", [nobody]) if name in IDX else ("url", nobody)))
    message = refused(name, tmp_path, download=True)
    assert "download" in message
    assert "127.0.0.1" in message
    expected = {"404": "404", "cut": "MD5", "md5": "MD5", "not gzip": "gzip", "no server": "refused"}[fault]
    assert expected in message
    assert str(tmp_path) in message
    assert not list(tmp_path.iterdir())
    assert "Fetch the set" in refused(name, tmp_path)


def test_a_silent_server_is_given_up(tmp_path, offered, monkeypatch):
    name, *_ = offered
    monkeypatch.setattr(torchvision_sets, "SILENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setattr(SOURCES[name].dataset(), *(("mirrors", [address]) if name in IDX else ("url", address)))
        assert "timed out" in refused(name, tmp_path, download=True)
    assert not list(tmp_path.iterdir())
    assert socket.getdefaulttimeout() is None


def test_an_interrupted_download_leaves_nothing_behind(tmp_path, offered, monkeypatch):
    name, *_ = offered

    def interrupted(self):
        place = Path(self.raw_folder) if name in IDX else Path(self.root, self.base_folder)
        place.mkdir(parents=True)
        (place / "half").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(SOURCES[name].dataset(), "download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(name, tmp_path, download=True)
    assert not list(tmp_path.iterdir())


def test_a_download_repairs_a_damaged_file_and_keeps_others(tmp_path, offered):
    name, _, original = offered
    load(name, tmp_path, download=True)
    file = tmp_path / SOURCES[name]().files()[0]
    file.write_bytes(file.read_bytes()[:-5])
    (tmp_path / "mine").write_text("mine")
    assert str(file) in refused(name, tmp_path)
    assert same(load(name, tmp_path, download=True), load(name, original))
    assert (tmp_path / "mine").read_text() == "mine"


def test_archives_brought_from_elsewhere_are_unpacked_without_a_network(tmp_path, offered):
    name, content, original = offered
    for archive in SOURCES[name]().archives():
        (tmp_path / archive).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / archive).write_bytes(content[archive.name])
    content.clear()
    assert same(load(name, tmp_path, download=True), load(name, original))


def test_a_damaged_archive_is_fetched_again(tmp_path, offered, monkeypatch):
    name, content, original = offered
    archive = tmp_path / SOURCES[name]().archives()[0]
    archive.parent.mkdir(parents=True, exist_ok=True)
    archive.write_bytes(content[archive.name][:-2])
    with monkeypatch.context() as patch:
        patch.setattr(SOURCES[name].dataset(), "download", lambda self: (_ for _ in ()).throw(OSError("no network")))
        assert "no network" in refused(name, tmp_path, download=True)
    assert archive.read_bytes() == content[archive.name][:-2]  # what was brought stays where it was put
    assert same(load(name, tmp_path, download=True), load(name, original))
    assert archive.read_bytes() == content[archive.name]


def test_a_folder_that_cannot_be_made_is_named(tmp_path, offered):
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refused(offered[0], tmp_path / "file" / "data", download=True)


# -- names of classes -------------------------------------------------------------------------------------------------


def test_classes_have_the_published_names(tmp_path):
    assert list(SOURCES["fashionmnist"].classes) == datasets.FashionMNIST.classes
    assert SOURCES["mnist"].classes == tuple("0123456789")
    for name, count, (index, word) in (("cifar10", 10, (6, "frog")), ("cifar100", 100, (53, "orange"))):
        assert len(set(SOURCES[name].classes)) == count
        assert SOURCES[name].classes[index] == word
    assert list(SOURCES["cifar100"].classes) == sorted(SOURCES["cifar100"].classes)
    write_idx_set(tmp_path, "fashionmnist")
    assert load("fashionmnist", tmp_path).spec.classes == SOURCES["fashionmnist"].classes
