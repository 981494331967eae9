"""A folder of images: what is found where, and that pixels arrive as Pillow and NumPy say they should."""

import os
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from common.data import DataOptions, DataUnavailable, pictures, reading
from common.data.folder import Folder
from common.data.module import DataModule
from common.data.pictures import Pictures


def load(folder, image_size=4, **options):
    return Folder().load(DataOptions(folder, image_size=image_size, **options))


def refused(folder, **options) -> str:
    with pytest.raises(DataUnavailable) as caught:
        load(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def noise(*shape) -> np.ndarray:
    return np.random.randint(0, 256, shape, dtype=np.uint8)


def write(path, pixels=None, mode=None, **options) -> np.ndarray:
    """Write an image (H, W) or (H, W, C); 4x4 noise unless told."""
    pixels = noise(4, 4, 3) if pixels is None else pixels
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return pixels


def pixels_of(*parts) -> set[bytes]:
    """Pixels of every sample, channels last."""
    return {image.permute(1, 2, 0).numpy().tobytes() for part in parts for image in part.read()[0]}


def single(tmp_path, image: Image.Image | np.ndarray, name="a.png", size=4, channels=None, **options) -> np.ndarray:
    """One image as it arrives, (H, W) grey or (H, W, 3)."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    for part in ("train", "test"):
        (tmp_path / part).mkdir(exist_ok=True)
        image.save(tmp_path / part / name, **options)
    data = load(tmp_path, image_size=size, channels=channels)
    assert torch.equal(data.train.images, data.held_out.images)
    assert data.train.images.dtype == torch.uint8
    return data.train.images[0].permute(1, 2, 0).numpy().squeeze()


@pytest.fixture(params=["resident", "streamed"])
def memory(request, monkeypatch):
    if request.param == "streamed":
        monkeypatch.setattr(reading, "RESIDENT_LIMIT", 0)
    return request.param


# -- what is where ----------------------------------------------------------------------------------------------------


def test_a_flat_folder_has_no_labels(tmp_path, memory):
    written = {write(tmp_path / f"{i}.png").tobytes() for i in range(25)}
    data = load(tmp_path)
    assert (data.num_classes, data.shape, data.value_range) == (None, (3, 4, 4), (0, 1))
    assert (len(data.train.labels), len(data.held_out.labels)) == (23, 2)
    assert pixels_of(data.train, data.held_out) == written
    assert not data.train.labels.any()
    assert data.train.labels.dtype == torch.int64
    assert isinstance(data.train.images, torch.Tensor) == (memory == "resident")


def test_subfolders_are_classes_in_the_order_of_their_names(tmp_path, memory):
    of_class = {"ant": [], "Bee": [], "10": [], "9": []}
    for name, found in of_class.items():
        for i in range(8):  # deeper folders belong to the class too
            found.append(write(tmp_path / name / ("deep/er" if i % 2 else "") / f"{i}.png").tobytes())
    data = load(tmp_path)
    order = ["9", "10", "Bee", "ant"]
    assert data.spec.classes == tuple(order)
    assert load(tmp_path, class_order="text").spec.classes == ("10", "9", "Bee", "ant")
    for part in (data.train, data.held_out):
        for image, label in zip(part.read()[0], part.labels, strict=True):
            assert image.permute(1, 2, 0).numpy().tobytes() in of_class[order[label]]
    assert pixels_of(data.train, data.held_out) == {pixels for found in of_class.values() for pixels in found}
    assert torch.bincount(torch.cat([data.train.labels, data.held_out.labels])).tolist() == [8] * 4


@pytest.mark.parametrize("name", ["test", "val", "valid"])
def test_a_split_that_is_there_is_kept(tmp_path, name, memory):
    train = {write(tmp_path / "train" / str(i % 2) / f"{i}.png").tobytes() for i in range(6)}
    held_out = {write(tmp_path / name / "1" / f"{i}.png").tobytes() for i in range(3)}  # one class of the two
    data = load(tmp_path)
    assert pixels_of(data.train) == train
    assert pixels_of(data.held_out) == held_out
    assert data.spec.classes == ("0", "1")
    assert data.held_out.labels.tolist() == [1, 1, 1]


def test_a_split_without_classes(tmp_path):
    train = {write(tmp_path / "train" / f"{i}.png").tobytes() for i in range(3)}
    held_out = {write(tmp_path / "valid" / f"{i}.png").tobytes() for i in range(2)}
    data = load(tmp_path)
    assert (pixels_of(data.train), pixels_of(data.held_out), data.num_classes) == (train, held_out, None)


def test_of_several_held_out_folders_test_is_taken(tmp_path):
    for name in ("train", "valid", "val"):
        write(tmp_path / name / "a.png")
    write(tmp_path / "annotations" / "a.png")
    test = write(tmp_path / "test" / "a.png").tobytes()
    assert pixels_of(load(tmp_path).held_out) == {test}


def test_train_alone_is_split(tmp_path):
    for i in range(20):
        write(tmp_path / "train" / ("cat" if i % 2 else "dog") / f"{i}.png")
    data = load(tmp_path)
    assert (data.num_classes, len(data.train.labels), len(data.held_out.labels)) == (2, 18, 2)


@pytest.mark.parametrize("place", ["", "class", "class/deeper"])
def test_the_same_images_are_held_out_always(tmp_path, place):
    written = dict(sorted((i, write(tmp_path / place / f"{i:02d}.png").tobytes()) for i in torch.randperm(30).tolist()))
    torch.manual_seed(1)
    held_out = pixels_of(load(tmp_path).held_out)
    assert held_out == {written[i] for i in (13, 14, 23)}
    torch.manual_seed(2)
    assert pixels_of(load(tmp_path).held_out) == held_out


def test_hidden_files_and_other_files_are_passed_over(tmp_path):
    written = {write(tmp_path / f"{i}.PNG").tobytes() for i in range(3)}
    write(tmp_path / ".thumbnail.png")
    write(tmp_path / ".cache" / "a.png")
    (tmp_path / "empty").mkdir()
    for name in ("labels.csv", "README", "data.h5", "film.mpg", "png", "a.png.txt", ".DS_Store"):
        (tmp_path / name).write_text("no image")
    data = load(tmp_path)
    assert pixels_of(data.train, data.held_out) == written


def test_hidden_files_in_a_class_are_passed_over(tmp_path):
    written = {write(tmp_path / "a" / f"{i}.png").tobytes() for i in range(3)}
    write(tmp_path / "a" / "._1.png")
    write(tmp_path / "a" / ".cache" / "1.png")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    data = load(tmp_path)
    assert pixels_of(data.train, data.held_out) == written


def test_names_may_hold_any_character(tmp_path):
    names = ["größe.png", "a b.png", "new\nline.png", os.fsdecode(b"\xff\xfe.png")]
    written = {write(tmp_path / "ä\u2028" / name).tobytes() for name in names}
    data = load(tmp_path)
    assert pixels_of(data.train, data.held_out) == written


# -- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.bmp", {}),
        ("a.webp", {"lossless": True}),
        ("a.tiff", {}),
        ("a.tif", {"compression": "tiff_lzw"}),
        ("a.ppm", {}),
        ("a.tga", {}),
        ("A.PNG", {}),
    ],
)
def test_formats_without_loss_arrive_exactly(tmp_path, name, options):
    pixels = noise(4, 4, 3)
    assert np.array_equal(single(tmp_path, pixels, name, **options), pixels)


@pytest.mark.parametrize("name", ["a.jpg", "a.jpeg", "a.webp", "a.gif"])
def test_formats_with_loss_arrive_nearly(tmp_path, name):
    pixels = np.repeat(np.array([[[200, 40, 90]]], np.uint8), 64, 0).repeat(64, 1)
    assert np.abs(single(tmp_path, pixels, name, size=64).astype(int) - pixels).max() <= 6


@pytest.mark.parametrize(("height", "width"), [(6, 10), (10, 6), (6, 6), (7, 12)])
def test_the_central_square_is_cut_out(tmp_path, height, width):
    pixels, side = noise(height, width, 3), min(height, width)
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    found = single(tmp_path, pixels, size=side)
    nearby = [pixels[t : t + side, x : x + side] for t in (top, max(0, top - 1)) for x in (left, max(0, left - 1))]
    assert any(np.array_equal(found, square) for square in nearby)  # an odd rest may fall on either side


def test_less_of_the_middle_is_cut_out(tmp_path):
    pixels = noise(10, 20, 3)
    write(tmp_path / "train" / "a.png", pixels)
    write(tmp_path / "test" / "a.png", pixels)
    found = load(tmp_path, image_size=4, center_crop=0.4).train.images[0]
    assert np.array_equal(found.permute(1, 2, 0), pixels[3:7, 8:12])


@pytest.mark.parametrize(("side", "size"), [(32, 8), (32, 20), (9, 4), (8, 16)])
def test_resizing_is_antialiased(tmp_path, side, size):
    pixels = noise(side, side, 3)
    expected = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(single(tmp_path, pixels, size=size) - expected).max() <= 1


def test_fine_stripes_become_grey(tmp_path):
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    found = single(tmp_path, stripes, size=16, channels=1)
    assert np.abs(found.astype(int) - 127.5).max() < 20  # picking pixels would give 0 or 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(tmp_path, orientation):
    upright = noise(4, 4, 3)
    # how the pixels lie in the file for each value of the tag (EXIF 2.3, table 4: which side row 0 and column 0 are)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(single(tmp_path, np.ascontiguousarray(stored), exif=exif), upright)


def test_grey_becomes_colour_and_colour_grey(tmp_path):
    grey, colour = noise(4, 4), noise(4, 4, 3)
    assert np.array_equal(single(tmp_path, grey), np.repeat(grey[..., None], 3, -1))
    assert np.array_equal(single(tmp_path, grey, channels=1), grey)
    luma = colour @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    assert np.abs(single(tmp_path, colour, channels=1) - luma).max() <= 1
    assert load(tmp_path, channels=1).shape == (1, 4, 4)


def test_palettes_and_bits(tmp_path):
    image = Image.fromarray(noise(4, 4) % 4).convert("L")
    palette = Image.frombytes("P", (4, 4), image.tobytes())
    colours = noise(4, 3)
    palette.putpalette(colours.tobytes())
    assert np.array_equal(single(tmp_path, palette), colours[np.asarray(image)])
    bits = noise(4, 4) > 127
    assert np.array_equal(single(tmp_path, Image.fromarray(bits), channels=1), bits * 255)


def test_what_is_transparent_is_white(tmp_path):
    pixels = noise(4, 4, 4)
    alpha = pixels[..., 3:].astype(float) / 255
    expected = pixels[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(single(tmp_path, pixels) - expected).max() <= 1
    grey = pixels[..., [0, 3]]
    expected = grey[..., 0] * alpha[..., 0] + 255 * (1 - alpha[..., 0])
    assert np.abs(single(tmp_path, Image.fromarray(grey, "LA"), channels=1) - expected).max() <= 1
    indices = np.arange(16, dtype=np.uint8).reshape(4, 4) % 2
    palette = Image.frombytes("P", (4, 4), indices.tobytes())
    palette.putpalette(bytes([10, 20, 30, 40, 50, 60]))
    found = single(tmp_path, palette, transparency=bytes([255, 0]))
    assert np.array_equal(found, np.where(indices[..., None] == 0, [10, 20, 30], [255, 255, 255]))


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.pgm"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path, name):
    levels = np.random.randint(0, 65536, (4, 4), dtype=np.uint16)
    levels[0, :2] = 0, 65535
    found = single(tmp_path, levels, name, channels=1)
    assert np.array_equal(found, np.round(levels / 257))


def test_print_colours(tmp_path):
    cyan = Image.new("CMYK", (4, 4), (255, 0, 0, 0))
    assert (single(tmp_path, cyan, "a.tiff") == [0, 255, 255]).all()


@pytest.mark.parametrize(
    ("pixels", "problem"),
    [
        (np.full((4, 4), 0.5, np.float32), "--levels LOW,HIGH"),
        (np.full((4, 4), 70_000, np.int32), "16 bits"),
        (np.full((4, 4), -1, np.int32), "16 bits"),
    ],
)
def test_levels_of_unknown_range_are_refused(tmp_path, pixels, problem):
    for i in range(2):
        write(tmp_path / f"{i}.tiff", pixels)
    message = refused(tmp_path)
    assert problem in message
    assert str(tmp_path) in message


# -- size -------------------------------------------------------------------------------------------------------------


def test_without_a_size_images_stay_as_they_are(tmp_path, memory):
    written = {write(tmp_path / f"{i}.png", noise(6, 4, 3)).tobytes() for i in range(12)}
    data = load(tmp_path, image_size=None)
    assert (data.shape, data.treatment) == ((3, 6, 4), "6x4 as they are")
    assert pixels_of(data.train, data.held_out) == written
    middle = load(tmp_path, image_size=None, center_crop=1.0)
    assert (middle.shape, middle.treatment) == ((3, 4, 4), "from 6x4, cropped to 4x4")
    assert {pixels.tobytes() for pixels in middle.train.read()[0].numpy()} == {
        pixels.tobytes() for pixels in data.train.read()[0][:, :, 1:5].numpy()
    }


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_the_size_is_that_of_the_upright_image(tmp_path, ending):
    upright = Image.Exif()
    upright[0x0112] = 6  # turned by a quarter
    for i in range(4):
        write(tmp_path / f"{i}.{ending}", noise(8, 16, 3), **({"exif": upright} if i else {}))
    write(tmp_path / f"4.{ending}", noise(16, 8, 3))
    assert "4 of 16x8, 1 of 8x16" in refused(tmp_path, image_size=None)
    (tmp_path / f"0.{ending}").unlink()
    assert load(tmp_path, image_size=None).shape == (3, 16, 8)


def test_an_image_that_has_changed_since_is_named(tmp_path, monkeypatch):
    for i in range(5):
        write(tmp_path / f"{i}.png")
    monkeypatch.setattr(reading, "RESIDENT_LIMIT", 0)
    images = load(tmp_path, image_size=None).train.images
    for i in range(5):
        write(tmp_path / f"{i}.png", noise(4, 5, 3))
    with pytest.raises(DataUnavailable, match=r"[0-4]\.png .*it is 4x5, the others are 4x4"):
        images[torch.tensor([0])]


def test_of_many_images_some_are_looked_at_for_the_message(tmp_path, monkeypatch):
    for i in range(20):
        write(tmp_path / f"{i}.png", noise(8, 6, 3))
    monkeypatch.setattr(pictures, "LOOKED_AT", 10)
    treatment = load(tmp_path, image_size=(4, 2)).treatment
    assert treatment == "from 8x6, cropped to 8x4, resized to 4x2 (10 of 20 were looked at)"
    assert load(tmp_path, image_size=None).treatment == "8x6 as they are"


# -- memory -----------------------------------------------------------------------------------------------------------


def test_streamed_images_are_those_in_memory(tmp_path, monkeypatch):
    for i in range(12):
        write(tmp_path / str(i % 3) / f"{i}.png", noise(9, 7 + i, 3))
    resident = load(tmp_path, image_size=5)
    nbytes = 12 * 3 * 5 * 5
    monkeypatch.setattr(reading, "RESIDENT_LIMIT", nbytes)
    assert isinstance(load(tmp_path, image_size=5).train.images, torch.Tensor)
    monkeypatch.setattr(reading, "RESIDENT_LIMIT", nbytes - 1)
    streamed = load(tmp_path, image_size=5)
    assert isinstance(streamed.train.images, Pictures)
    for part in ("train", "held_out"):
        one, other = getattr(resident, part), getattr(streamed, part)
        assert other.images.shape == one.images.shape
        assert torch.equal(other.images[torch.arange(len(one.labels)).flip(0)], one.images.flip(0))
        assert torch.equal(other.read()[0], one.images)
        assert torch.equal(other.labels, one.labels)


def test_worker_processes_read_the_same_images(tmp_path, monkeypatch):
    for i in range(12):
        write(tmp_path / f"{i}.png")
    alone = load(tmp_path)
    monkeypatch.setattr(reading, "WORTH_WORKERS", 1)
    monkeypatch.setattr(reading, "CHUNK_BYTES", 100)
    assert torch.equal(load(tmp_path).train.images, alone.train.images)


def test_what_is_sent_to_a_worker_holds_no_images_and_one_object(tmp_path, monkeypatch):
    for i in range(20):
        write(tmp_path / f"{i}.png", noise(64, 64, 3))
    monkeypatch.setattr(reading, "RESIDENT_LIMIT", 0)
    images = load(tmp_path, image_size=64).train.images
    sent = pickle.dumps(images)
    assert len(sent) < 20 * (len(str(tmp_path)) + 10) + 1000
    assert torch.equal(pickle.loads(sent)[torch.tensor([3])], images[torch.tensor([3])])
    assert images._files._paths.dtype.kind == "S"


# -- wrong input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"no image", None])
@pytest.mark.parametrize("workers", [False, True])
def test_an_image_that_cannot_be_read_is_named(tmp_path, content, workers, monkeypatch):
    for i in range(5):
        write(tmp_path / f"{i}.png", noise(32, 32, 3))
    if workers:
        monkeypatch.setattr(reading, "WORTH_WORKERS", 1)
    bad = tmp_path / "3.png"
    bad.write_bytes(bad.read_bytes()[:1000] if content is None else content)  # None: cut
    message = refused(tmp_path)
    assert message.startswith(f"--data_name folder: {bad} cannot be read")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_streamed_image_that_cannot_be_read_is_named(tmp_path, workers, monkeypatch):
    for part in ("train", "val"):
        for i in range(5):
            write(tmp_path / part / f"{i}.png")
    bad = tmp_path / "train" / "3.png"
    bad.write_bytes(b"no image")
    monkeypatch.setattr(reading, "RESIDENT_LIMIT", 0)
    monkeypatch.setattr(pictures, "LOOKED_AT", 1)
    data = load(tmp_path)  # not noticed yet
    module = DataModule(data, batch_size=5, seed=0, flip=False, val_samples=5, num_workers=workers)
    module.trainer = SimpleNamespace(
        global_rank=0,
        world_size=1,
        global_step=0,
        accumulate_grad_batches=1,
        training=True,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    batch = next(iter(module.train_dataloader()))
    with pytest.raises(DataUnavailable) as caught:
        module.transfer_batch_to_device(batch, torch.device("cpu"), 0)
    assert str(caught.value).startswith(f"--data_name folder: {bad} cannot be read")
    assert "\n" not in str(caught.value)


def test_images_of_several_sizes_need_one(tmp_path):
    for i, sides in enumerate([(6, 4)] * 5 + [(9, 7)] * 2 + [(1, 2), (2, 1), (3, 3)]):
        write(tmp_path / f"{i}.png", noise(*sides, 3))
    message = refused(tmp_path, image_size=None)
    assert message.startswith(
        "image_size is needed: --data_name folder has images of 5 sizes (5 of 6x4, 2 of 9x7, 1 of "
    )
    assert message.endswith(", 2 more sizes); --image_size 6x4 would crop and resize all of them")
    data = load(tmp_path, image_size=(6, 4))
    assert data.shape == (3, 6, 4)
    assert data.treatment.startswith("5 of 6x4, 2 of 9x7, 1 of ")
    assert data.treatment.endswith(", 2 more sizes; all cropped to the shape of 6x4 and resized to it")


def test_a_length_is_refused(tmp_path):
    write(tmp_path / "a.png")
    assert refused(tmp_path, length=7).startswith("length 7: --data_name folder")


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channels_are_refused(tmp_path, channels):
    write(tmp_path / "a.png")
    assert f"channels {channels}" in refused(tmp_path, channels=channels)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    assert str(tmp_path / "nowhere") in refused(tmp_path / "nowhere")
    write(tmp_path / "a.png")
    assert str(tmp_path / "a.png") in refused(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ([], "no images"),
        (["notes.txt"], "no images"),
        (["a/notes.txt", "b/notes.txt"], "no images in it or its subfolders"),
        (["a/1.png", "b/notes.txt", "c/notes.txt"], "no images in b, c"),
        (["1.png", "a/1.png", "a/2.png"], "both in it and in subfolders (a/)"),
        (["1.png", "a/b/1.png"], "both in it and in subfolders (a/)"),
        (["1.png"], "at least two"),
        (["a/1.png"], "at least two"),
        (["train/1.png", "train/2.png", "test/notes.txt"], "no images"),
        (["train/a/1.png", "test/b/1.png"], "b: no such class"),
        (["train/a/1.png", "test/1.png"], "directly"),
        (["train/1.png", "val/a/1.png"], "have none"),
    ],
)
def test_folders_without_sense_are_refused(tmp_path, files, problem):
    for file in files:
        if file.endswith("txt"):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text("no image")
        else:
            write(tmp_path / file)
    message = refused(tmp_path)
    assert problem in message
    assert message.startswith(f"--data_name folder: {tmp_path}")
