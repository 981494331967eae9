"""What a folder is taken for: parts, classes, tables of labels, what is passed over; and that it is said.

Each case is a kind of report: the thread it comes from stands beside it.
"""

import os
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from common.data import DataOptions, DataSet, DataUnavailable, trees
from common.data.celeba import CelebA
from common.data.folder import Folder


def plant(root: Path, *places: str, count: int = 3) -> None:
    """Images in folders of a tree, each of its own grey; a place with an ending is one file."""
    for place in places:
        path = root / place
        for name in [path] if path.suffix else [path / f"{i}.png" for i in range(count)]:
            name.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4), len(list(root.rglob("*.png"))) % 256).save(name)


def load(root: Path, **options: object) -> DataSet:
    return Folder().load(DataOptions(root, channels=1, **options))


def refused(root: Path, *words: str) -> None:
    with pytest.raises(DataUnavailable) as caught:
        load(root)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"--data_name folder: {root}")
    assert [word for word in words if word not in message] == [], message


def found(data: DataSet) -> tuple[dict[str, int] | None, int, int]:
    """Classes with their counts in both parts together, and the sizes of the parts."""
    labels = [*data.train.labels.tolist(), *data.held_out.labels.tolist()]
    counts = None if data.classes is None else dict(Counter(data.classes[label] for label in labels))
    return counts, len(data.train.labels), len(data.held_out.labels)


# -- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "held_out", "thread"),
    [
        ("train", "validation", "ultralytics/ultralytics#4310"),
        ("train", "val", "huggingface/datasets#4839"),
        ("train", "valid", "roboflow/roboflow-python#153"),
        ("Train", "Test", "own"),
        ("TRAIN", "VAL", "own"),
        ("training", "testing", "own"),
        ("training_set", "test_set", "own: Kaggle's cats and dogs"),
        ("train", "dev", "own"),
        ("Training", "holdout", "own"),
        ("train2017", "val2017", "own: COCO"),
    ],
)
@pytest.mark.parametrize("classes", [("cat", "dog"), ()])
def test_parts_in_any_spelling(tmp_path, train, held_out, thread, classes):
    plant(tmp_path, *([f"{train}/{name}" for name in classes] or [train]))
    plant(tmp_path, *([f"{held_out}/{name}" for name in classes] or [held_out]), count=2)
    data = load(tmp_path)
    counts = dict.fromkeys(classes, 5) if classes else None
    assert found(data) == (counts, *((6, 4) if classes else (3, 2)))
    assert f"held out: {held_out}/" in data.found[0]


def test_what_is_neither_learned_from_nor_held_out_is_said(tmp_path):
    plant(tmp_path, "train/a", "val/a", "test/a", "masks")
    data = load(tmp_path)
    assert found(data) == ({"a": 6}, 3, 3)
    notes = {line for line in data.found if line.startswith("note")}
    assert notes == {f"note      {name}/ (3 images) is neither learned from nor held out" for name in ("masks", "val")}


def test_parts_inside_of_classes(tmp_path):
    """Own: cat/train, cat/test: ImageFolder learns from the test images."""
    plant(tmp_path, "cat/train", "dog/train", "cat/test", "dog/test", "dog/val")
    data = load(tmp_path)
    assert found(data) == ({"cat": 6, "dog": 6}, 6, 6)
    assert "note      3 files of other parts are neither learned from nor held out" in data.found


@pytest.mark.parametrize(
    ("places", "words"),
    [
        (["cat", "dog", "test"], ["test", "beside it there are cat, dog", "parts or classes"]),  # fastai/fastai#2336
        (["train/cat", "train/dog", "unlabeled"], ["train", "unlabeled", "parts or classes"]),
        (["test", "val"], ["a part to hold out, but there is none to learn from"]),
        (["train/a", "Training/a", "test/a"], ["Training and train", "keep one"]),
        (["train/a", "test/a", "Testing/a"], ["Testing and test", "keep one"]),
        # ImageNet's flat val: facebookresearch/dinov2#496, umd-huang-lab/perceptionCLIP#3
        (["train/a", "train/b", "test"], ["test: images lie directly in it", "are a, b", "learn from", "alone"]),
        (["train", "test/a"], ["test: images have classes"]),
        (["cat/test", "dog/test"], ["cat/test is the name of a part, but not all", "give each folder train and test"]),
        (["cat/train", "cat/test", "dog"], ["cat/test is the name of a part"]),
        (["a/val/x", "a/val/y"], ["a: val: a part to hold out, but there is none to learn from"]),
        # own: as MVTec, and as tiny-imagenet, whose val/ and test/ hold images/
        (
            ["train/a", "test/b"],
            ["test: b: no such class", "those are a; to learn from", "train alone, point --data_dir"],
        ),
        (["fold1/train/a", "fold1/val/a", "fold2/train/a", "fold2/val/a"], ["is fold1 a class? If not, point"]),
        (["data/cat", "docs/"], ["no images in docs", "fill or remove it, or point --data_dir at", "data"]),
        # fastai/fastai#1552: the folder to test with became a class; Intel's scenes, the ASL alphabet
        (["seg_train/a", "seg_test/a", "seg_pred"], ["seg_train and seg_test are called as parts are"]),
        (
            ["ILSVRC/Data/train/a", "ILSVRC/Data/val/a", "ILSVRC/Annotations/"],
            ["is Data a class? If not, point --data_dir at", "ILSVRC/Data"],
        ),
    ],
)
def test_what_cannot_be_told_apart_is_refused(tmp_path, places, words):
    plant(tmp_path, *(place for place in places if not place.endswith("/")))
    for place in places:
        (tmp_path / place).mkdir(exist_ok=True)
    refused(tmp_path, *words)


def test_classes_may_be_called_like_parts(tmp_path):
    """A train is a vehicle, and what is valid may be a class; only beside its counterpart it is a part."""
    plant(tmp_path / "a", "train", "bus", "car")
    assert found(load(tmp_path / "a"))[0] == {"bus": 3, "car": 3, "train": 3}
    plant(tmp_path / "b", "valid", "invalid")
    assert found(load(tmp_path / "b"))[0] == {"invalid": 3, "valid": 3}


def test_everything_in_one_folder(tmp_path):
    plant(tmp_path, "dataset/train/a", "dataset/test/a")
    data = load(tmp_path)
    assert found(data) == ({"a": 6}, 3, 3)
    assert data.found[0] == "found     everything lies in dataset/, which counts as the top"


def test_folders_around_the_classes_are_no_classes(tmp_path):
    """Found by fuzzing: two folders around everything, or one in each part, became the only class."""
    plant(tmp_path / "a", "data/images/cat", "data/images/dog")
    assert found(load(tmp_path / "a"))[0] == {"cat": 3, "dog": 3}
    plant(tmp_path / "b", "train/images/cat", "train/images/dog", "test/images/cat", "test/images/dog")
    data = load(tmp_path / "b")
    assert found(data) == ({"cat": 6, "dog": 6}, 6, 6)
    assert "found     everything in train/ lies in images/, which is no class" in data.found


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        # wimmerth/anyup#10: ImageNet as Kaggle packs it was one class, test images and all
        (["Data/CLS-LOC/train/a", "Data/CLS-LOC/train/b", "Data/CLS-LOC/val/a"], ({"a": 6, "b": 3}, 6, 3)),
        (["x/y/cat", "x/y/dog"], ({"cat": 3, "dog": 3}, 5, 1)),
        # own: Kaggle's cats and dogs unpack twice, as do flat train/train and test/test
        (
            ["training_set/training_set/a", "training_set/training_set/b", "test_set/test_set/a"],
            ({"a": 6, "b": 3}, 6, 3),
        ),
        (["train/train", "test/test"], (None, 3, 3)),
        (["train/images/a", "train/images/b", "test/images/a"], ({"a": 6, "b": 3}, 6, 3)),
        (["trainval/a", "trainval/b", "test/a"], ({"a": 6, "b": 3}, 6, 3)),  # own: Pascal VOC's name
    ],
)
def test_folders_around_the_layout(tmp_path, places, expected):
    plant(tmp_path, *places)
    assert found(load(tmp_path)) == expected


# -- classes ----------------------------------------------------------------------------------------------------------


def test_numbers_as_names_are_counted_as_people_do(tmp_path):
    """pytorch/vision#714, pytorch/pytorch#22566, modestyachts/ImageNetV2#10, NVIDIA/DIGITS#665."""
    plant(tmp_path, *map(str, range(12)))
    data = load(tmp_path)
    assert data.classes == tuple(map(str, range(12)))
    assert any("--class_order text" in line for line in data.found)
    assert load(tmp_path, class_order="text").classes == tuple(sorted(map(str, range(12))))
    assert load(tmp_path, class_order="text").classes == tuple(ImageFolder(tmp_path).classes)


def test_accents_are_written_in_one_way(tmp_path):
    """Own: folders made on a Mac beside those of other systems."""
    plant(tmp_path, f"train/{unicodedata.normalize('NFC', 'Kühe')}", f"test/{unicodedata.normalize('NFD', 'Kühe')}")
    assert found(load(tmp_path)) == ({"Kühe": 6}, 3, 3)
    plant(tmp_path, f"train/{unicodedata.normalize('NFD', 'Kühe')}")
    refused(tmp_path, "two folders are called", "join them")
    plant(tmp_path / "table", "0.png", "1.png", "2.png")
    rows = "".join(f"{i}.png,{unicodedata.normalize(form, 'Kühe')}\n" for i, form in enumerate(("NFC", "NFD", "NFC")))
    (tmp_path / "table" / "labels.csv").write_text("file_name,label\n" + rows, "utf-8")
    assert load(tmp_path / "table").classes == ("Kühe",)


def test_a_class_whose_name_is_no_text(tmp_path):
    plant(tmp_path, os.fsdecode(b"K\xfche"), "dog")
    refused(tmp_path, "the name of the class K\\udcfche is no UTF-8")


def test_names_that_would_break_lines_are_refused(tmp_path):
    plant(tmp_path, "a\nb", "c")
    refused(tmp_path, r"the name of the class 'a\nb' has a line break or the like")


def test_names_that_are_nearly_alike_are_told(tmp_path):
    """Own: the same class in two spellings."""
    plant(tmp_path, "Cat", "cat ", "dog")
    assert "warning   classes 'Cat' and 'cat ' are told apart" in load(tmp_path).found


def test_a_class_without_images_is_refused_with_what_is_there(tmp_path):
    plant(tmp_path, "cat")
    (tmp_path / "dog").mkdir()
    refused(tmp_path, "no images in dog; each subfolder is a class")
    (tmp_path / "dog" / "a.dng").write_bytes(b"raw")
    refused(tmp_path, "no images in dog (passed over: 1 .dng (a.dng))")


# -- what is passed over, and what is not -----------------------------------------------------------------------------


def test_what_is_passed_over_is_said(tmp_path):
    plant(tmp_path, "cat", "dog", "@eaDir/cat", "#recycle/old", "cat/@eaDir", ".ipynb_checkpoints")  # torchvision#2831
    for name in ("notes.txt", "cat/a.txt", "Thumbs.db", "cat/IMG_1", "dog/.DS_Store", "dog/._1.png"):
        (tmp_path / name).write_bytes(b"other")
    os.mkfifo(tmp_path / "dog" / "pipe.png")
    (tmp_path / "dog" / "gone.png").symlink_to("nowhere.png")
    data = load(tmp_path)
    assert found(data)[0] == {"cat": 3, "dog": 3}
    (line,) = [line for line in data.found if line.startswith("passed")]
    expected = ("3 of a system or a NAS (@eaDir/, ..)", "2 .txt (notes.txt, ..)", "1 .db (Thumbs.db)")
    expected += ("1 without an ending (cat/IMG_1)", "1 pipes or devices (dog/pipe.png)")
    expected += ("1 links to nothing (dog/gone.png)",)
    assert [what for what in expected if what not in line] == []


def test_photographs_of_phones_without_their_library(tmp_path, monkeypatch):
    plant(tmp_path, "cat")
    (tmp_path / "cat" / "IMG_2.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    from common.data import pillow, trees

    monkeypatch.setattr(trees, "endings", lambda: pillow.endings() - pillow.HEIC)
    told = load(tmp_path).found
    assert any("1 .heic (cat/IMG_2.HEIC)" in line for line in told)
    assert "note      1 photographs are HEIC, which needs: pip install pillow-heif" in told


def test_a_folder_of_something_else_names_its_source(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.npy").write_bytes(b"array")
    refused(tmp_path, "no images", "1 .npy", "give --data_name arrays for the arrays there")
    (tmp_path / "cat" / "a.WAV").write_bytes(b"sound")
    refused(tmp_path, "give --data_name sounds for the recordings there")


def test_links_are_followed_but_not_in_circles(tmp_path):
    """fastai/fastai#2270: a third of the images lay behind links."""
    plant(tmp_path / "elsewhere", "x/deep", "bird")
    plant(tmp_path / "data", "cat", "dog")
    data = tmp_path / "data"
    (data / "cat" / "more").symlink_to(tmp_path / "elsewhere" / "x")
    (data / "bird").symlink_to(tmp_path / "elsewhere" / "bird")
    (data / "dog" / "one.png").symlink_to(tmp_path / "elsewhere" / "x" / "deep" / "0.png")
    (data / "dog" / "up").symlink_to(data)
    (tmp_path / "elsewhere" / "x" / "back").symlink_to(data / "cat")
    counts, *_ = found(load(data))
    assert counts == {"cat": 6, "dog": 4, "bird": 3}
    (line,) = [line for line in load(data).found if "links to folders" in line]
    assert line == "found     2 links to folders, which were followed (bird, ..)"
    assert any("2 links to above (dog/up/, ..)" in line for line in load(data).found)


def test_what_links_show_twice_is_told(tmp_path):
    """Own: test/ is a link to train/, so that the held-out images are those learned from; one link leads to itself."""
    plant(tmp_path, "train/a", "train/b")
    (tmp_path / "test").symlink_to("train")
    (tmp_path / "train" / "a" / "self").symlink_to("self")
    told = load(tmp_path).found
    assert "warning   files are there twice, by links: test/ is train/" in told
    assert any(line.startswith("passed    over: 2 links to nothing (") for line in told)


def test_links_without_end_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(trees, "MOST_LINKS", 500)
    plant(tmp_path, "a/0")
    for i in range(20):
        (tmp_path / str(i)).mkdir()
        for name in "xy":
            (tmp_path / str(i) / name).symlink_to(tmp_path / str(i + 1))
    (tmp_path / "20").mkdir()
    with pytest.raises(DataUnavailable, match="more than 500 links to folders"):
        load(tmp_path)


# -- archives ---------------------------------------------------------------------------------------------------------


def archive(root: Path, path: Path, rename=lambda name: name, flags: int = 0) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for image in sorted(root.rglob("*.*")):
            info = zipfile.ZipInfo(rename(image.relative_to(root).as_posix()))
            info.flag_bits |= flags
            file.writestr(info, image.read_bytes())
    return path


def test_backslashes_of_windows(tmp_path):
    """Own: .NET before 4.6.1 and others separate folders by backslashes (dotnet/corefx#17404)."""
    plant(tmp_path / "tree", "train/cat", "train/dog", "test/cat")
    path = archive(tmp_path / "tree", tmp_path / "a.zip", lambda name: name.replace("/", "\\"))
    assert found(load(path)) == ({"cat": 6, "dog": 3}, 6, 3)


def test_members_below_a_dot(tmp_path):
    """Own: archives of . that name it, "./cat/0.png", were empty."""
    plant(tmp_path / "tree", "cat", "dog")
    path = archive(tmp_path / "tree", tmp_path / "a.zip", lambda name: f"./{name}")
    assert found(load(path))[0] == {"cat": 3, "dog": 3}


def test_names_of_a_mac_in_an_archive(tmp_path):
    """UTF-8 that is not marked as such reads as CP437: a class K├╝he."""
    plant(tmp_path / "tree", "Kühe", "Ziegen")
    path = archive(tmp_path / "tree", tmp_path / "a.zip")
    content = path.read_bytes().replace(b"K\xc3\xbche", b"K\xc3\xbche")
    marked = bytearray(content)
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = marked.find(signature)
        while start >= 0:
            marked[start + place + 1] &= ~0x08  # the mark of UTF-8
            start = marked.find(signature, start + 4)
    path.write_bytes(marked)
    assert set(found(load(path))[0]) == {"Kühe", "Ziegen"}


def test_a_large_member_is_refused_by_its_header(tmp_path, monkeypatch):
    plant(tmp_path / "tree", "a.png", "b.png")
    monkeypatch.setattr("common.data.trees.LARGEST_MEMBER", 10)
    with pytest.raises(
        DataUnavailable, match=r"a\.zip/.\.png cannot be read as an image .*files in a zip file are read up to"
    ):
        load(archive(tmp_path / "tree", tmp_path / "a.zip"))


# -- tables of labels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "thread"),
    [
        ("metadata.csv", "file_name,label\n0.png,cat\n1.png,dog\n2.png,cat\n", "huggingface/datasets#4311"),
        ("labels.csv", "\ufeffimage;class\n0.png;cat\n1.png;dog\n2.png;cat\n", "own: semicolons and a mark of order"),
        ("labels.csv", "id,breed\n0,cat\n1,dog\n2,cat\n", "own: Kaggle's dog breeds, names without ending"),
        ("labels.csv", "0.png,cat\n1.png,dog\n2.png,cat\n", "own: no header"),
        ("labels.tsv", "Filename\tLabel\n./0.png\tcat\n1.png\tdog\n2.png\tcat\n", "own"),
        (
            "metadata.jsonl",
            '{"file_name": "0.png", "label": "cat", "text": "a\u2028b"}\r\n{"file_name": "1.png", "label": "dog"}\n'
            '{"file_name": "2.png", "label": "cat"}\n',
            "huggingface/datasets#4622",
        ),
        (
            "labels.csv",
            ",file_name,breed\n0,0.png,cat\n1,1.png,dog\n2,2.png,cat\n",
            "cpadavis/billy#18: pandas' own index",
        ),
        (
            "labels.csv",
            "file,label\n0.PNG,cat\n1.Png,dog\n2.png,cat\n",
            "open-edge-platform/anomalib#3058: case of endings",
        ),
        ("labels.csv", "file,label\nd/0.png,cat\n{root}/1.png,dog\n{root}/2,cat\n", "own: paths from elsewhere"),
        (
            "trainLabels.csv",
            "image,level\n0,cat\n1,dog\n2,cat\n",
            "JeffreyDF/kaggle_diabetic_retinopathy#3",
        ),
        ("dataset.json", '{"labels": [["0.png", "cat"], ["1.png", "dog"], ["2.png", "cat"]]}', "NVlabs/stylegan3#90"),
    ],
)
def test_labels_in_a_table(tmp_path, name, text, thread):
    root = tmp_path / "d"
    plant(root, "0.png", "1.png", "2.png")
    (root / name).write_text(text.replace("{root}", str(root)), newline="")
    data = load(root)
    assert found(data) == ({"cat": 2, "dog": 1}, 2, 1)
    grey = {0: "cat", 1: "dog", 2: "cat"}  # the images were planted in this order
    for part in (data.train, data.held_out):
        for image, label in zip(part.images, part.labels, strict=True):
            assert data.classes[label] == grey[int(image[0, 0, 0])]
    assert any(line.startswith(f"found     labels in {name}, column ") for line in data.found)
    assert not any(line.startswith("passed") for line in data.found)


def test_a_table_that_splits_and_numbers(tmp_path):
    plant(tmp_path, "images", count=6)
    rows = [
        (0, 1.0, "train"),
        (1, 2.0, "train"),
        (2, 10.0, "train"),
        (3, 1.0, "test"),
        (4, 2.0, "val"),
        (5, 1.0, "test"),
    ]
    text = "path,split,label\n" + "".join(f"images/{i}.png,{part},{label}\n" for i, label, part in rows)
    (tmp_path / "labels.csv").write_text(text)
    data = load(tmp_path)
    assert data.classes == ("1.0", "2.0", "10.0")
    assert found(data) == ({"1.0": 3, "2.0": 1, "10.0": 1}, 3, 2)
    assert "held out: test of split in labels.csv" in data.found[0]
    assert "note      1 files of other parts are neither learned from nor held out" in data.found


def test_a_table_in_every_part_and_one_for_both(tmp_path):
    plant(tmp_path, "train", "test")
    for part in ("train", "test"):
        (tmp_path / part / "metadata.csv").write_text("file_name,label\n0.png,a\n1.png,b\n2.png,a\n")
    assert found(load(tmp_path)) == ({"a": 4, "b": 2}, 3, 3)
    for part in ("train", "test"):
        (tmp_path / part / "metadata.csv").unlink()
    names = [f"{part}/{i}.png" for part in ("train", "test") for i in range(3)]
    (tmp_path / "train.csv").write_text("image,label\n" + "".join(f"{name},{name[-5]}\n" for name in names))
    assert found(load(tmp_path)) == ({"0": 2, "1": 2, "2": 2}, 3, 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "file,label\n0.png,a\n1.png,b\n2.png,a\n0.png,b\n",
            ["labels.csv: 0.png stands twice, with a in line 2 and b in line 5"],
        ),
        ("file,label\n0.png,a\n1.png,b\n", ["labels.csv: 1 of 3 files are not in it, first 2.png"]),  # quilt1m#23
        ("file,label\n7.png,a\n", ["names none of the files", "7.png in line 2"]),
        ("file,label\n0.png,a\n1.png,\n2.png,b\n", ["line 3: no label"]),
        ("file,label\n0.png,a,b\n", ["line 2 has 3 fields, the first one 2"]),
        ('file,label\n"0.png,a\n', ["labels.csv"]),
        ("file,label,label\n0.png,a,b\n1.png,a,a\n2.png,b,a\n", ["line 1 names the column label twice"]),  # pandas#7160
        (b"\xff\x00\xfa", ["labels.csv cannot be read as text in UTF-8"]),
        # without a column of labels, as Roboflow's one-hot columns, and without a header
        ("id,breed,age\n0,a,3\n1,b,4\n2,a,1\n", ["no column of labels (there are id, breed, age): call it label"]),
        ("0,a\n1,b\n2,a\n", ["no column of names of files (there are 0, a): call it file_name"]),
        ("file,split,label\n0.png,a,a\n1.png,train,b\n2.png,test,a\n", ["split must be train, and test or val, not a"]),
    ],
)
def test_tables_that_are_wrong(tmp_path, text, words):
    plant(tmp_path, "0.png", "1.png", "2.png")
    (tmp_path / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(tmp_path, *words)


def test_tables_of_contests(tmp_path):
    """mila-iqia/fuel#322: contests keep back the labels of test images. Own: names are alike in both parts."""
    plant(tmp_path, "train", "test/x.png", "test/y.png")
    (tmp_path / "labels.csv").write_text("id,breed\n0,a\n1,b\n2,a\n")
    data = load(tmp_path)
    assert found(data) == ({"a": 2, "b": 1}, 2, 1)
    assert "note      test/ (2 images) is in no table of labels, so it is not used" in data.found
    (tmp_path / "labels.csv").rename(tmp_path / "train.csv")
    plant(tmp_path, "test/0.png", "test/1.png")
    (tmp_path / "test.csv").write_text("id,breed\n0,b\n1,b\nx,a\ny,a\n")
    data = load(tmp_path)
    assert found(data) == ({"a": 4, "b": 3}, 3, 4)
    assert [data.classes[label] for label in data.held_out.labels] == ["a", "a", "b", "b"]


def test_a_table_above_parts_that_it_does_not_know(tmp_path):
    """Own: test images were learned from, since the table decided."""
    plant(tmp_path, "data/train", "data/test")
    names = [f"data/{part}/{i}.png" for part in ("train", "test") for i in range(3)]
    (tmp_path / "labels.csv").write_text("file,label\n" + "".join(f"{name},{name[-5]}\n" for name in names))
    refused(tmp_path, "labels.csv says no parts, but there are folders data/train and data/test: add a column split")


def test_sets_of_stylegan(tmp_path):
    """NVlabs/stylegan3#189: folders by number are no classes where dataset.json has none; else it says them."""
    plant(tmp_path, "00000", "00001")
    (tmp_path / "dataset.json").write_text('{"labels": null}')
    data = load(tmp_path)
    assert found(data) == (None, 5, 1)
    assert "found     dataset.json says that there are no classes" in data.found
    pairs = ", ".join(f'["0000{i}/{j}.png", {j}]' for i in range(2) for j in range(3))
    (tmp_path / "dataset.json").write_text(f'{{"labels": [{pairs}]}}')
    assert found(load(tmp_path)) == ({"0": 2, "1": 2, "2": 2}, 5, 1)
    (tmp_path / "dataset.json").write_text(f'{{"labels": [{pairs}, ["00000/0.png", 1]]}}')
    refused(tmp_path, "00000/0.png stands twice, with 0 in entry 1 and 1 in entry 7")
    (tmp_path / "dataset.json").write_text('{"labels": [["00000/0.png", [0.5, 1]]]}')
    refused(tmp_path, "dataset.json, entry 1: label is no single label")


def test_a_label_that_is_not_there(tmp_path):
    """aligholami/CheXpert-Keras#1: NaN is no label; MarcBS/multimodal_keras_wrapper#221: 1.0 for 1."""
    plant(tmp_path, "0.png", "1.png")
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "0.png", "label": 1}\n{"file_name": "1.png", "label": NaN}\n'
    )
    refused(tmp_path, "metadata.jsonl, line 2: no label; fill it in")
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "labels.csv").write_text("file,label\n0.png,1\n1.png,1.0\n")
    assert "warning   classes '1' and '1.0' are told apart" in load(tmp_path).found


def test_tables_beside_classes(tmp_path):
    plant(tmp_path, "cat", "dog")
    (tmp_path / "metadata.csv").write_text("file_name,text\ncat/0.png,a cat\n")
    data = load(tmp_path)
    assert found(data)[0] == {"cat": 3, "dog": 3}
    assert "note      metadata.csv has no column of labels (file_name, text), so it is not used" in data.found
    rows = [(f"{name}/{i}.png", "even" if i % 2 == 0 else "odd") for name in ("cat", "dog") for i in range(3)]
    (tmp_path / "metadata.csv").write_text(
        "file_name,label\n" + "".join(f"{n},{x}\n" for n, x in (*rows, ("x.png", "odd")))
    )
    data = load(tmp_path)
    assert found(data)[0] == {"even": 4, "odd": 2}
    assert "note      the folders are no classes: the table decides" in data.found
    assert "note      metadata.csv names 1 files that are not there, first x.png" in data.found  # autowebcompat#140
    (tmp_path / "labels.csv").write_text((tmp_path / "metadata.csv").read_text())
    refused(tmp_path, "labels.csv and metadata.csv have labels; keep one")


# -- CelebA -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_celeba_as_kaggle_packs_it(tmp_path, packed):
    """Nested folders, and the list of parts as a table: test faces were trained on."""
    root = tmp_path / "tree"
    plant(root, *(f"img_align_celeba/img_align_celeba/{i:06d}.png" for i in range(6)))
    rows = "".join(f'"{i:06d}.png",{part}\n' for i, part in enumerate((0, 0, 0, 1, 2, 2)))
    (root / "list_eval_partition.csv").write_text("image_id,partition\n" + rows)
    place = archive(root, tmp_path / "archive.zip") if packed else root
    data = CelebA().load(DataOptions(place, image_size=4, channels=1, center_crop=1.0))
    assert sorted(data.train.images[:, 0, 0, 0].tolist()) == [0, 1, 2]
    assert sorted(data.held_out.images[:, 0, 0, 0].tolist()) == [4, 5]
    assert "3 images to learn from, 2 held out: by " in data.found[0]
    assert data.found[0].endswith("list_eval_partition.csv")


# -- against torchvision ----------------------------------------------------------------------------------------------

TREES = {
    "plain": ["cat", "dog"],
    "deep": ["cat/a/b", "cat", "dog/c"],
    "upper and lower case": ["Cat", "ant", "Bee"],
    "spaces and accents": ["big dogs", "Kühe", "ß"],
    "numbers": ["1", "2", "3"],
    "numbers from 10 on": ["2", "10", "1"],
    "leading zeros": ["01", "02", "10"],
    "one class": ["cat"],
    "symbols": ["a-b", "a_b", "a,b", "a+b"],
    "one deep": ["cat/x"],
    "a hidden folder": ["cat", "dog", ".git"],
    "thumbnails": ["cat", "dog", "@eaDir"],
    "parts": ["train/a", "test/a"],
    "wrapped": ["data/cat", "data/dog"],
    "an empty class": ["cat", "dog", "bird/"],
    "no classes": ["0.png", "1.png"],
    "both": ["0.png", "cat"],
    "jpeg": ["cat/0.JPG", "cat/1.jpeg", "dog/0.jpg", "dog/1.jpg"],
    "other formats": ["cat/0.tiff", "cat/1.webp", "dog/0.ppm", "dog/1.pgm"],
    "formats that torchvision does not read": ["cat/0.png", "cat/1.gif", "dog/0.png", "dog/1.tga"],
    "hidden images": ["cat/0.png", "cat/.1.png", "dog/0.png"],
}
# what is read differently, and the words that say so
SAID = {
    "numbers from 10 on": "--class_order text: as ImageFolder does",
    "a hidden folder": None,  # a convention, in the guide
    "hidden images": None,
    "thumbnails": "1 of a system or a NAS",
    "parts": "held out: test/",
    "wrapped": "everything lies in data/",
    "no classes": "1 images without classes",
    "formats that torchvision does not read": None,  # more is read, nothing less
}

REFUSED = {"an empty class": "no images in bird", "both": "images lie both in it and in subfolders"}


def read_by_torchvision(root: Path) -> dict[tuple[str, bytes], int]:
    """Images with the number of their class; nothing if torchvision refuses the tree."""
    try:
        whole = ImageFolder(root)
    except FileNotFoundError:
        return {}
    return {(whole.classes[label], image.convert("L").tobytes()): label for image, label in whole}


@pytest.mark.parametrize("tree", TREES)
def test_like_imagefolder_or_said(tmp_path, tree):
    plant(tmp_path, *(place for place in TREES[tree] if not place.endswith("/")))
    for place in TREES[tree]:
        (tmp_path / place).mkdir(parents=True, exist_ok=True) if place.endswith("/") else None
    expected = read_by_torchvision(tmp_path)
    if tree in REFUSED:
        return refused(tmp_path, REFUSED[tree])
    data = load(tmp_path)
    ours = {
        (data.classes[label] if data.classes else "", image.numpy().tobytes()): int(label)
        for part in (data.train, data.held_out)
        for image, label in zip(part.images, part.labels, strict=True)
    }
    if tree in SAID:
        assert ours != expected
        assert SAID[tree] is None or any(SAID[tree] in line for line in data.found), data.found
    else:
        assert ours == expected
