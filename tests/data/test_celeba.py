"""CelebA: found in every layout, cut as published, split by the authors' list, fetched from a local server."""

import hashlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from common.data import DataOptions, DataUnavailable, celeba
from common.data.celeba import CelebA

LIST = "list_eval_partition.txt"


def load(place, **options):
    return CelebA().load(DataOptions(place, **options))


def refused(place, **options) -> str:
    with pytest.raises(DataUnavailable) as caught:
        load(place, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def faces(count=12) -> dict[str, bytes]:
    """Files by name: smooth colours that tell images apart, 178 wide and 218 high."""
    found = {}
    for i in range(count):
        y, x = np.mgrid[:218, :178]
        pixels = np.stack([y, x, np.full_like(x, 20 * i)], -1).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
        found[f"{i + 1:06d}.jpg"] = buffer.getvalue()
    return found


def write(folder, files) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def zipped(files, inside="img_align_celeba/") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(inside + name, content)
    return buffer.getvalue()


def numbers(part) -> list[int]:
    """Which images there are, from 1 on, by their blue."""
    return (part.read()[0][:, 2].float().mean((1, 2)) / 20).round().add(1).int().tolist()


def partition(parts: list[int]) -> str:
    return "".join(f"{i:06d}.jpg {part}\n" for i, part in enumerate(parts, 1))


# -- pixels -----------------------------------------------------------------------------------------------------------


def test_the_published_64x64_images(tmp_path):
    files = faces(2)
    write(tmp_path, files)
    data = load(tmp_path)
    assert (data.shape, data.num_classes, data.value_range) == ((3, 64, 64), None, (0, 1))
    for part, name in ((data.train, "000002.jpg"), (data.held_out, "000001.jpg")):
        with Image.open(io.BytesIO(files[name])) as image:  # rows 39 to 178, columns 19 to 158
            middle = image.crop((19, 39, 159, 179)).resize((64, 64), Image.Resampling.BILINEAR)
        found = part.images[numbers(part).index(int(name[:6]))].permute(1, 2, 0).numpy().astype(int)
        assert np.abs(found - np.asarray(middle).astype(int)).max() <= 1


def test_another_form(tmp_path):
    write(tmp_path, faces(3))
    grey = load(tmp_path, image_size=178, channels=1, center_crop=1.0)
    assert grey.shape == (1, 178, 178)
    whole = load(tmp_path, image_size=178, center_crop=1.0).train.images[0]
    assert abs(int(whole[0, 0, 50]) - 20) <= 3  # red is the row: 20 are cut off
    assert abs(int(whole[0, -1, 50]) - 197) <= 3
    oblong = load(tmp_path, image_size=(218, 178), center_crop=1.0)
    assert (oblong.shape, oblong.treatment) == ((3, 218, 178), "218x178 as they are")
    assert load(tmp_path).treatment == "from 218x178, cropped to 140x140, resized to 64x64"
    assert "channels 2" in refused(tmp_path, channels=2)
    assert "length 8: --data_name celeba" in refused(tmp_path, length=8)


def test_images_at_half_size_are_cut_in_proportion(tmp_path):
    """109x89: the central 70x70."""
    ramp = np.repeat(np.arange(109, dtype=np.uint8)[:, None, None], 89, 1).repeat(3, 2)
    for i in range(2):
        Image.fromarray(ramp).save(tmp_path / f"{i}.png")
    rows = load(tmp_path, image_size=70).train.images[0, 0, :, 0].tolist()
    assert rows == [20 + i for i in range(70)]  # (109 - 70) / 2 = 19.5


# -- what is where ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    [
        *("celeba/img_align_celeba", "img_align_celeba", "."),
        *("celeba/img_align_celeba.zip", "img_align_celeba.zip", "celeba10k.zip", "my_CelebA_celeba_64.zip"),
    ],
)
@pytest.mark.parametrize("listed", [False, True])
def test_layouts(tmp_path, place, listed):
    files, target = faces(), tmp_path / place
    if target.suffix:
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(zipped(files, "img_align_celeba/" if "align" in place else ""))
    else:
        write(target, files)
    beside = tmp_path.parent if place == "." else target.parent
    if listed:
        (beside / LIST).write_text(partition([0, 0, 1, 2, 0, 2, 1, 0, 0, 0, 0, 2]))
    for root in {tmp_path, target}:  # the images themselves will do, too
        data = load(root)
        if listed:
            assert numbers(data.train) == [1, 2, 5, 8, 9, 10, 11]
            assert numbers(data.held_out) == [4, 6, 12]
        else:
            assert sorted(numbers(data.train) + numbers(data.held_out)) == list(range(1, 13))
            assert len(data.held_out.labels) == 1
        assert not data.train.labels.any()


def test_the_list_of_the_authors(tmp_path):
    files = faces(6)
    write(tmp_path / "celeba" / "img_align_celeba", files)
    listed = tmp_path / "celeba" / LIST
    listed.write_text(partition([0, 0, 1, 0, 0, 1, 2]) + "\n")  # a seventh image is not there
    data = load(tmp_path)
    assert (numbers(data.train), numbers(data.held_out)) == ([1, 2, 4, 5], [3, 6])  # no test image: validation
    listed.write_text(partition([0] * 6))
    data = load(tmp_path)  # a subset of training images: one in ten, at least one
    assert sorted(numbers(data.train) + numbers(data.held_out)) == [1, 2, 3, 4, 5, 6]
    assert len(data.held_out.labels) == 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (partition([0, 2]), "000003.jpg is not in"),
        (partition([0, 2]) + "000003.jpg 3\n", "line 3"),
        (partition([0, 2]) + "000003.jpg\n", "line 3"),
        (partition([0, 2]) + "000003.jpg 0 1\n", "line 3"),
        ("202599\nImage Male\n", "line 1"),
        (partition([1, 2, 2]), "all of the images in its validation and test parts"),
    ],
)
def test_another_list_is_refused(tmp_path, content, problem):
    write(tmp_path / "img_align_celeba", faces(3))
    (tmp_path / LIST).write_text(content)
    message = refused(tmp_path)
    assert problem in message
    assert message.startswith("--data_name celeba: ")
    assert str(tmp_path / LIST) in message


def test_what_is_missing_or_broken_is_named(tmp_path):
    for place in (tmp_path, tmp_path / "nowhere"):
        message = refused(place)
        for part in (str(place), "celeba/img_align_celeba.zip", "--download True", "--data_dir"):
            assert part in message
    (tmp_path / "a.txt").write_text("")
    assert str(tmp_path / "a.txt") in refused(tmp_path / "a.txt")
    for name in ("celeba_a.zip", "celeba_b.zip"):
        (tmp_path / name).write_bytes(zipped(faces(2)))
    message = refused(tmp_path)
    assert "celeba_a.zip and " in message
    assert "point --data_dir at one of them" in message
    (tmp_path / "celeba_b.zip").write_bytes(zipped({"a.jpg": b"no image", "b.jpg": b"no image"}))
    assert "celeba_b.zip/img_align_celeba/" in refused(tmp_path / "celeba_b.zip")
    (tmp_path / "img_align_celeba").mkdir()
    assert "no images directly in" in refused(tmp_path)
    write(tmp_path / "img_align_celeba", faces(1))
    assert "at least two" in refused(tmp_path)


# -- download ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def offered(monkeypatch):
    """Content by the id of a file, from a server in the place of the real one; torchvision's sums are those of it."""
    kept = {name: file for file, _, name in datasets.CelebA.file_list}
    archive, listed = kept["img_align_celeba.zip"], kept[LIST]
    content = {archive: zipped(faces()), listed: partition([0] * 8 + [1, 2, 2, 2]).encode()}
    sums = [
        (file, hashlib.md5(content[file]).hexdigest() if file in content else md5, name)
        for file, md5, name in datasets.CelebA.file_list
    ]
    monkeypatch.setattr(datasets.CelebA, "file_list", sums)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            found = content.get(self.path.strip("/"))
            if found is None:
                return self.send_error(404)
            self.send_response(200)
            self.send_header("Content-Length", str(len(found)))
            self.end_headers()
            self.wfile.write(found)

        def log_message(self, *_):
            pass

    monkeypatch.setenv("no_proxy", "*")
    service = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setattr(celeba, "SERVER", f"http://127.0.0.1:{service.server_port}/{{}}")
    yield content, archive, listed
    service.shutdown()
    service.server_close()


def test_it_is_fetched_where_that_is_asked_for(tmp_path, offered):
    content, *_ = offered
    folder = tmp_path / "not" / "there"
    refused(folder)
    assert not folder.exists()
    data = load(folder, download=True)
    assert (numbers(data.train), numbers(data.held_out)) == (list(range(1, 9)), [10, 11, 12])
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")) == [
        *("celeba", "celeba/img_align_celeba.zip", f"celeba/{LIST}")
    ]
    content.clear()  # from here on the server has nothing
    assert torch.equal(load(folder, download=True).train.images, data.train.images)


@pytest.mark.parametrize("fault", ["404", "page", "no server"])
@pytest.mark.parametrize("which", [1, 2])
def test_a_download_that_fails_leaves_nothing_behind(tmp_path, offered, fault, which, monkeypatch):
    content, wanted = offered[0], offered[which]
    if fault == "404":
        del content[wanted]
    elif fault == "page":
        content[wanted] = b"<html>quota</html>"
    else:
        monkeypatch.setattr(celeba, "SERVER", "http://127.0.0.1:1/{}")
    message = refused(tmp_path, download=True)
    for part in ("download", "127.0.0.1", LIST, "img_align_celeba.zip", str(tmp_path / "celeba")):
        assert part in message
    assert fault != "page" or "MD5" in message
    assert not list(tmp_path.iterdir())


def test_an_interrupted_download_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupted(url, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(celeba, "download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(tmp_path, download=True)
    assert not list(tmp_path.iterdir())
