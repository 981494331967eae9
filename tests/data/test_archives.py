"""Images in a zip file arrive as if it were unpacked; a file that is broken is named."""

import pickle
import re
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from common.data import DataOptions, DataUnavailable, reading
from common.data.folder import Folder


def load(place, image_size=4, **options):
    return Folder().load(DataOptions(place, image_size=image_size, **options))


def refused(place, **options) -> str:
    with pytest.raises(DataUnavailable) as caught:
        load(place, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(folder, names, side=6) -> None:
    """Random images, and texts for names of other kinds."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("txt"):
            (folder / name).write_text("no image")
        else:
            Image.fromarray(np.random.randint(0, 256, (side, side + 1, 3), dtype=np.uint8)).save(folder / name)


def pack(folder, archive, method=zipfile.ZIP_DEFLATED, inside="", folders=False, **options):
    with zipfile.ZipFile(archive, "w", method, **options) as file:
        for path in sorted(folder.rglob("*"), reverse=True):  # not in the order of names
            if folders or path.is_file():
                file.write(path, inside + path.relative_to(folder).as_posix())
    return archive


def same(one, other) -> bool:
    return one.num_classes == other.num_classes and all(
        torch.equal(a, b)
        for part in ("train", "held_out")
        for a, b in zip(getattr(one, part).read(), getattr(other, part).read(), strict=True)
    )


LAYOUTS = {
    "flat": [f"{i:02d}.png" for i in range(25)],
    "classes": [f"{name}/{'deep/' * (i % 2)}{i}.png" for name in ("ant", "Bee", "10") for i in range(5)],
    "parts": [f"{part}/{name}/{i}.png" for part in ("train", "val") for name in "ab" for i in range(3)],
    "parts without classes": ["train/a.png", "train/b.png", "test/c.png"],
    "other files": ["1.png", "2.PNG", "3.bmp", "notes.txt", ".hidden.png", ".cache/1.png", "ä\nö.png"],
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("names", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize(
    ("method", "inside", "folders"),
    [(zipfile.ZIP_STORED, "", False), (zipfile.ZIP_DEFLATED, "top/", False), (zipfile.ZIP_DEFLATED, "a/b/", True)],
)
def test_an_archive_is_read_like_its_folder(tmp_path, names, method, inside, folders, streamed, monkeypatch):
    write(tmp_path / "folder", names)
    archive = pack(tmp_path / "folder", tmp_path / "a.zip", method, inside, folders)
    if streamed:
        monkeypatch.setattr(reading, "RESIDENT_LIMIT", 0)
    data = load(archive)
    assert same(data, load(tmp_path / "folder"))
    assert isinstance(data.train.images, torch.Tensor) != streamed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "folder"]  # nothing is unpacked


def test_what_a_mac_adds_is_passed_over(tmp_path):
    write(tmp_path / "folder", LAYOUTS["classes"])
    archive = pack(tmp_path / "folder", tmp_path / "a.ZIP", inside="top/")
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("__MACOSX/top/ant/._1.png", b"no image")
        file.writestr("__MACOSX/top/ant/1.png", b"no image")
        file.writestr(".DS_Store", b"")
    assert same(load(archive), load(tmp_path / "folder"))


def test_members_behind_other_bytes_and_comments(tmp_path):
    """As in an archive that unpacks itself: every offset is moved."""
    write(tmp_path / "folder", LAYOUTS["flat"])
    archive = pack(tmp_path / "folder", tmp_path / "a.zip")
    with zipfile.ZipFile(archive, "a") as file:
        file.comment = b"PK\x03\x04 a comment"
    archive.write_bytes(b"#!/bin/sh\n" * 50 + archive.read_bytes())
    assert same(load(archive), load(tmp_path / "folder"))


def test_a_streamed_archive_is_cheap_to_send_and_read_by_workers(tmp_path, monkeypatch):
    write(tmp_path / "folder", LAYOUTS["flat"], side=64)
    archive = pack(tmp_path / "folder", tmp_path / "a.zip")
    resident = load(archive, image_size=32)
    monkeypatch.setattr(reading, "RESIDENT_LIMIT", 0)
    streamed = load(archive, image_size=32)
    sent = pickle.dumps(streamed.train.images)
    assert len(sent) < 25 * 100 + 2000 < archive.stat().st_size
    rows = torch.tensor([3, 0, 22])
    assert torch.equal(pickle.loads(sent)[rows], resident.train.images[rows])
    monkeypatch.setattr(reading, "WORTH_WORKERS", 1)
    monkeypatch.setattr(reading, "CHUNK_BYTES", 10_000)
    assert same(resident, streamed)


# -- wrong input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_that_is_no_image_is_named(tmp_path, method):
    write(tmp_path / "folder", LAYOUTS["flat"])
    (tmp_path / "folder" / "07.png").write_bytes(b"no image")
    message = refused(pack(tmp_path / "folder", tmp_path / "a.zip", method, "top/"))
    assert message.startswith(f"--data_name folder: {tmp_path / 'a.zip' / 'top' / '07.png'} cannot be read as an image")


@pytest.mark.parametrize("size", [None, 4])
def test_several_files_that_are_no_images_are_named_at_once(tmp_path, size):
    write(tmp_path / "folder", LAYOUTS["flat"])
    whole = sorted((tmp_path / "folder").iterdir())
    broken = [tmp_path / "folder" / f"{letter}.png" for letter in "abcdef"]
    for path in broken:
        path.write_bytes(b"no image")
    whole[3].write_bytes(whole[3].read_bytes()[:-30])  # only decoding shows that its end is missing
    message = refused(tmp_path / "folder", image_size=size)
    first, listed = message.split("; repair or remove it; 7 such files in all: ")
    assert re.fullmatch(r"--data_name folder: .*png cannot be read as an image \(.*\)", first)
    names = listed.removesuffix(" and 2 more").split(", ")
    assert len(set(names)) == 5
    assert set(names) < {str(path) for path in (*broken, whole[3])}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("where", ["content", "header"])
def test_a_damaged_member_is_named(tmp_path, method, where):
    write(tmp_path / "folder", LAYOUTS["flat"])
    archive = pack(tmp_path / "folder", tmp_path / "a.zip", method)
    with zipfile.ZipFile(archive) as file:
        start = file.getinfo("07.png").header_offset
    content = bytearray(archive.read_bytes())
    content[start + (80 if where == "content" else 1)] ^= 255
    archive.write_bytes(content)
    message = refused(archive)
    assert message.startswith(f"--data_name folder: {archive / '07.png'} cannot be read")


def test_other_compression_is_refused(tmp_path):
    write(tmp_path / "folder", LAYOUTS["flat"])
    message = refused(pack(tmp_path / "folder", tmp_path / "a.zip", zipfile.ZIP_BZIP2))
    assert "compression method 12: not supported" in message


def test_an_encrypted_member_is_refused(tmp_path):
    write(tmp_path / "folder", LAYOUTS["flat"])
    archive = pack(tmp_path / "folder", tmp_path / "a.zip")
    with zipfile.ZipFile(archive) as file:
        directory = file.start_dir
    content = bytearray(archive.read_bytes())
    content[directory + 8] |= 1  # the flag of the first entry
    archive.write_bytes(content)
    assert "encrypted: not supported" in refused(archive)


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_a_file_that_is_no_archive_is_named(tmp_path, content):
    write(tmp_path / "folder", LAYOUTS["flat"])
    archive = pack(tmp_path / "folder", tmp_path / "a.zip")
    archive.write_bytes(archive.read_bytes()[:-30] if content is None else content)  # None: cut
    assert refused(archive).startswith(f"--data_name folder: {archive} cannot be read as a zip file")


def test_archives_without_sense_are_refused(tmp_path):
    write(tmp_path / "folder", ["notes.txt"])
    assert "a.zip: no images" in refused(pack(tmp_path / "folder", tmp_path / "a.zip"))
    write(tmp_path / "folder", ["1.png", "a/1.png"])
    assert "both in it and in subfolders (a/)" in refused(pack(tmp_path / "folder", tmp_path / "a.zip"))
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    assert "no images" in refused(tmp_path / "empty.zip")
    (tmp_path / "a.tar").write_text("")
    assert f"{tmp_path / 'a.tar'} is no folder and no .zip file" in refused(tmp_path / "a.tar")
