"""CelebA: found in every layout, cut as published, split by the authors' list, fetched from a local server."""

import hashlib
import io
import struct
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import requests
import torch
from PIL import Image
from torchvision import datasets

from common.data import DataOptions, DataUnavailable, celeba
from common.data.celeba import CelebA
from common.data.tfrecords import masked_sum

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
    local = f"http://127.0.0.1:{service.server_port}"
    monkeypatch.setattr(celeba, "SERVER", f"{local}/{{}}")
    send = requests.Session.request

    def rewritten(self, method, url, **options):  # the list of a folder, which gdown asks of one place only
        return send(self, method, url.replace("https://drive.google.com", local), **options)

    monkeypatch.setattr(requests.Session, "request", rewritten)
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
    for part in ("download", "127.0.0.1", LIST, "img_align_celeba.zip", str(tmp_path / "celeba"), "/folders/1eHdU3N4"):
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


# -- what the authors of FDP share -------------------------------------------------------------------------------------

PAGE, SUB = f"embeddedfolderview?id={celeba.SHARED}", "sub-folder-of-25-characters-x"


def page(files: dict[str, str], folders: dict[str, str] | None = None) -> bytes:
    """The list of a folder, as the server of the real one writes it: ids by name."""
    links = [f'<a href="https://drive.google.com/file/d/{key}/view?usp=x">{name}</a>' for name, key in files.items()]
    links += [
        f'<a href="https://drive.google.com/drive/folders/{key}">{name}</a>' for name, key in (folders or {}).items()
    ]
    return f"<html><title>celeb_a</title><body>{''.join(links)}</body></html>".encode()


def crc(content: bytes) -> int:
    """CRC-32C bit by bit, masked."""
    value = 0xFFFFFFFF
    for bit in "".join(f"{byte:08b}"[::-1] for byte in content):
        value = (value >> 1) ^ (0x82F63B78 if (value ^ int(bit)) & 1 else 0)
    value ^= 0xFFFFFFFF
    return (((value >> 15) | (value << 17)) + 0xA282EAD8) % 2**32


def field(number: int, content: bytes) -> bytes:
    size, length = len(content), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def record(image: bytes) -> bytes:
    """One record: a number, a text and the image, as TensorFlow Datasets writes it."""
    feature = {
        b"attributes/Bald": field(3, field(1, bytes([1]))),
        b"image": field(1, field(1, image)),
        b"name": field(1, field(1, b"image")),
    }
    entries = b"".join(field(1, field(1, name) + field(2, value)) for name, value in feature.items())
    content = field(1, entries)
    head = struct.pack("<Q", len(content))
    return head + struct.pack("<I", crc(head)) + content + struct.pack("<I", crc(content[:20]))


@pytest.fixture
def shared(offered):
    """The originals are not to be had; the folder holds shards, one folder deeper."""
    content, archive, listed = offered
    images = list(faces().values())
    shards = {
        "celeb_a-train.tfrecord-00000-of-00002": images[:5],
        "celeb_a-train.tfrecord-00001-of-00002": images[5:8],
        "celeb_a-validation.tfrecord-00000-of-00001": images[8:9],
        "celeb_a-test.tfrecord-00000-of-00001": images[9:],
    }
    ids = {name: f"{i:025}" for i, name in enumerate([*shards, "features.json"])}
    originals = {name: content.pop(name) for name in (archive, listed)}
    content[PAGE] = page({}, {"2.0.1": SUB})
    content[f"embeddedfolderview?id={SUB}"] = page(ids)
    content |= {ids[name]: b"".join(map(record, part)) for name, part in shards.items()}
    return content, ids, originals


def test_the_check_sum_of_records():
    value = 0xE3069283  # of the digits 1 to 9, as every description of CRC-32C has it
    assert masked_sum(b"123456789") == (((value >> 15) | (value << 17)) + 0xA282EAD8) % 2**32


def test_the_prepared_set_is_taken_if_the_originals_are_not_to_be_had(tmp_path, shared):
    data = load(tmp_path, download=True)
    assert (numbers(data.train), numbers(data.held_out)) == (list(range(1, 9)), [10, 11, 12])
    assert sorted(path.name for path in (tmp_path / "celeba").iterdir()) == ["img_align_celeba.zip", LIST]
    shared[0].clear()
    assert torch.equal(load(tmp_path, download=True).train.images, data.train.images)


def test_the_originals_may_lie_in_the_folder(tmp_path, shared):
    content, _, originals = shared
    names = dict(zip((f"{1:026}", f"{2:026}"), originals.values(), strict=True))
    content |= names
    content[PAGE] = page(dict(zip(("img_align_celeba.zip", LIST), names, strict=True)))
    data = load(tmp_path, download=True)
    assert numbers(data.train) == list(range(1, 9))


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("no list", "404"),
        ("nothing there", "but nothing"),
        ("a shard is missing", "does not hold all of the set, but celeb_a/celeb_a-test"),
        ("a shard cannot be had", "404"),
        ("a shard is cut short", "is cut short"),
        ("a head is damaged", "no file of TensorFlow's records, or is damaged"),
        ("a page instead", "no file of TensorFlow's records, or is damaged"),
        ("no image in it", "record 1 of celeb_a-train.tfrecord-00001-of-00002 has no image, or is damaged"),
    ],
)
def test_a_shared_folder_that_is_not_whole_leaves_nothing_behind(tmp_path, shared, fault, why):
    content, ids, _ = shared
    train = ids["celeb_a-train.tfrecord-00001-of-00002"]
    if fault == "no list":
        del content[PAGE]
    elif fault == "nothing there":
        content[PAGE] = page({})
    elif fault == "a shard is missing":
        content[f"embeddedfolderview?id={SUB}"] = page({name: key for name, key in ids.items() if key != train})
    elif fault == "a shard cannot be had":
        del content[train]
    else:
        whole = content[train]
        content[train] = {
            "a shard is cut short": whole[:-1],
            "a head is damaged": bytes([whole[0] ^ 1]) + whole[1:],
            "a page instead": b"<html>quota</html>",
            "no image in it": record(b"x").replace(b"image", b"imago"),
        }[fault]
    message = refused(tmp_path, download=True)
    assert why in message
    assert "/folders/1eHdU3N4" in message
    assert not list(tmp_path.iterdir())
