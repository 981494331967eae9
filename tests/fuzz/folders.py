"""Folders, zip files and tables of labels: every image is learned from, held out or told, and has its own label."""

import contextlib
import csv
import io
import json
import os
import re
import unicodedata
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st

from common.data.folder import Folder
from common.data.labels_table import ENDINGS, OF_FILES, OF_LABELS, OF_PARTS, STEMS
from common.data.layout import Layout, lay_out
from common.data.source import DataOptions
from common.data.trees import OF_SYSTEMS, open_tree
from tests.data.odd_images import GREY, saved
from tests.fuzz.edits import mutated, texts_like
from tests.fuzz.frame import Target, require

PICTURE = saved(GREY, "PNG")
UNUSED = re.compile(r"\(([\d,]+) images\) is neither|note +([\d,]+) files of other parts")


class Placed(NamedTuple):
    """Where an image is: to learn from or held out, and its class."""

    learned: bool
    label: str | None


def accounted(layout: Layout, images: set[str]) -> dict[str, Placed]:
    """What became of each image; every image of a folder is in one part, or told not to be."""
    found: dict[str, Placed] = {}
    for files, labels in (layout.train, layout.held_out):
        for i in range(len(files)):
            name = files.name(i).removeprefix("set/").removeprefix("set.zip/")
            require(name not in found, f"{name} is there twice")
            label = None if layout.classes is None else layout.classes[int(labels[i])]
            found[name] = Placed(files is layout.train[0], label)
    require(found.keys() <= images, f"{found.keys() - images} are no images of the folder")
    told = sum(int((a or b).replace(",", "")) for line in layout.found for a, b in UNUSED.findall(line))
    missing = images - found.keys()
    require(len(missing) == told, f"{sorted(missing)} are left out, {told} are told: {layout.found}")
    return found


# -- folders -----------------------------------------------------------------------------------------------------------

NAMES = (
    *("train", "test", "val", "Train_Set", "training", "valid", "dev", "images", "data", "a", "b", "cat", "1", "10"),
    *("2", "u\u0308", "\u00fc", " x", "@eaDir", "__MACOSX", ".hidden", "lost+found", "a\nb", "\udcff", "-", "x.png"),
)
LASTS = ("1.png", "2.PNG", "3.jpg", "10.png", ".4.png", "5.heic", "6.txt", "7", "labels.csv", "8.png", "Thumbs.db")
KINDS = ("file",) * 8 + ("folder", "link", "link", "fifo", "nowhere")
PARTS = ("train", "Train_Set", "training", "test", "val", "valid", "dev", "holdout", "val2017")
TESTS = {"test", "val", "holdout"}
Entry = tuple[list[str], str, str]


@st.composite
def trees(draw: st.DrawFn) -> list[Entry]:
    """Folders, names and kinds of entries: a layout that people have, and a few odd entries."""
    parts = draw(st.lists(st.sampled_from(PARTS), max_size=3, unique=True))
    classes = draw(st.lists(st.sampled_from(NAMES), max_size=3, unique=True))
    outer, inside_out = draw(st.sampled_from([[], [], ["set"]])), draw(st.integers(0, 3)) == 0
    found: list[Entry] = []
    for part in parts or [""]:
        for name in classes or [""]:
            folders = [*outer, *filter(None, (name, part) if inside_out else (part, name))]
            found += [(folders, last, "file") for last in draw(st.sampled_from([LASTS[:2], LASTS[:4], LASTS[1:2]]))]
    entry = st.tuples(
        st.lists(st.sampled_from((*NAMES, *PARTS)), max_size=3), st.sampled_from(LASTS), st.sampled_from(KINDS)
    )
    odd = draw(st.lists(entry, max_size=draw(st.sampled_from([0, 1, 3, 14]))))
    return [*found, *(([*found[0][0], *folders] if draw(st.booleans()) else folders, *rest) for folders, *rest in odd)]


def use_tree(case: list[Entry]) -> None:
    """Lay out a folder with these entries."""
    top = Path("set")
    top.mkdir()
    for folders, last, kind in case:
        build(top.joinpath(*folders), last, kind)
    layout = lay_out(open_tree("folder", top), "natural")
    found = accounted(layout, {name.removeprefix("set/") for name in images_in("set", (os.path.realpath("set"),))})
    by_table = any("labels in" in line for line in layout.found)
    for name, (learned, label) in found.items():
        folders = unicodedata.normalize("NFC", name).split("/")[:-1]
        require(by_table or label is None or label in folders, f"{name} is of class {label}")
        # a class may be called so, inside of a part
        require(not learned or not (TESTS & set(folders[:2]) - {label}), f"{name} is learned from")


def build(folder: Path, last: str, kind: str) -> None:
    """Make an entry, unless something else is in its place."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        return
    path = folder / last
    if os.path.lexists(path):
        return
    if kind == "file":
        path.write_bytes(PICTURE if path.suffix.lower() in (".png", ".jpg") else b"file_name,label\n1.png,a\n")
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "nowhere":
        path.symlink_to("nothing")
    else:  # to a folder above, or beside
        way = (Path(".."), Path("../a"), Path("../train"), Path("a"))[len(str(path)) % 4]
        with contextlib.suppress(FileExistsError):
            path.with_suffix("").symlink_to(way)


def images_in(place: str, way: tuple[str, ...]) -> Iterator[str]:
    """Paths of the images below a folder, hidden ones and those of a system left out, links followed but in a circle.

    Args:
        place: the folder.
        way: the real folders on the way to it.
    """
    for entry in os.scandir(place):
        name, path, real = entry.name, entry.path, os.path.realpath(entry.path)
        if name.startswith("."):
            continue
        if entry.is_dir():
            circle = any(f"{one}/".startswith(f"{real}/") for one in way)
            if name.casefold() not in OF_SYSTEMS and not circle:
                yield from images_in(path, (*way, real))
        elif entry.is_file() and name.lower().endswith((".png", ".jpg", ".heic")):
            yield path


# -- tables ------------------------------------------------------------------------------------------------------------

IMAGES = ("a/1.png", "a/2.png", "b/1.png", "b/3.png", "4.png", "5.x.png")
WORDS = (*OF_FILES[:4], *OF_LABELS[:4], *OF_PARTS[:2], *IMAGES, *IMAGES, "1", "1.0", "cat", "dog", "train", "test")
MARKS = (",", ",", ",", ";", "\t", "\n", "\n", "\r\n", '"', " ", "\u2028", "\0", "\x85", "./", "\\", "=")


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, bytes, list[str]]:
    """Name and content of a table, and the images beside it."""
    name = draw(st.sampled_from(STEMS)) + draw(st.sampled_from(ENDINGS))
    images = draw(st.sampled_from([IMAGES[:2], IMAGES[:4], IMAGES[4:], ("1.png", "2.png", "3.png")]))
    columns = [draw(st.sampled_from(OF_FILES)), draw(st.sampled_from((*OF_LABELS, *OF_PARTS, "text", "more")))]
    columns += draw(st.lists(st.sampled_from((*OF_LABELS, *OF_PARTS, "Label", "x")), max_size=2))
    value = st.one_of(
        st.sampled_from(("cat", "dog", "1", "2.0", "train", "test", "", " a", '"x"')), st.text(max_size=2)
    )
    rows = [[image, *(draw(value) for _ in columns[1:])] for image in draw(st.permutations(images))]
    if name.endswith(".jsonl"):
        odd = st.one_of(value, st.sampled_from([1, 2.0, None, True, [1], {"a": 1}]))
        records = [{key: draw(odd) if i else row[0] for i, key in enumerate(columns)} for row in rows]
        text = "\n".join(json.dumps(record, ensure_ascii=draw(st.booleans())) for record in records)
    else:
        mark = "\t" if name.endswith(".tsv") else draw(st.sampled_from(",;"))
        file = io.StringIO()
        csv.writer(file, delimiter=mark, lineterminator=draw(st.sampled_from(["\n", "\r\n"]))).writerows(
            [columns, *rows]
        )
        text = file.getvalue()
    if draw(st.integers(0, 4)) == 0:
        text = draw(texts_like((*WORDS, *MARKS)))
    code = draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16"]))
    return name, text.encode(code, "surrogatepass"), list(images)


def use_table(case: tuple[str, bytes, list[str]]) -> None:
    """Lay out a folder with a table, and read that with another parser."""
    name, content, images = case
    for image in images:
        build(Path("set", image).parent, Path(image).name, "file")
    Path("set", name).write_bytes(content)
    layout = lay_out(open_tree("folder", Path("set")), "natural")
    found = accounted(layout, set(images))
    column = next((line.rpartition("column ")[2] for line in layout.found if "labels in" in line), None)
    of_parts = next((match[1] for line in layout.found if (match := re.search(r" of (\w+) in \w+\.", line))), None)
    for image, (learned, label) in found.items():
        keys = {image, Path(image).name, Path(image).stem, str(Path(image).with_suffix(""))}
        if column is not None:
            labels = {text for key, text in by_another(name, content, column) if key in keys}
            require(labels == {label}, f"{image} is of {label}, not {labels}")
        if of_parts is not None:
            parts = {text for key, text in by_another(name, content, of_parts) if key in keys}
            require(learned == (parts == {"train"}), f"{image} of {parts} is learned from: {learned}")


def by_another(name: str, content: bytes, column: str) -> list[tuple[str, str]]:
    """Names of files and a column of a table, as another parser reads them."""
    text = content.decode("utf-16" if content[:2] == b"\xff\xfe" else "utf-8-sig")
    if name.endswith(".jsonl"):
        records = [json.loads(line) for line in text.split("\n") if line.strip()]
        columns = list(dict.fromkeys(key for record in records for key in record))
    else:
        mark = max(",;\t", key=text.partition("\n")[0].count)
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=mark) if "".join(row).strip()]
        if len(rows[0]) == 2 and Path(rows[0][0].strip()).suffix:
            rows.insert(0, ["file_name", "label"])
        columns = [key.strip() for key in rows[0]]
        require(columns.count(column) == 1, f"{columns.count(column)} columns are called {column}")
        records = [dict(zip(columns, row, strict=True)) for row in rows[1:]]
    of_files = next(key for known in OF_FILES for key in columns if key.strip().casefold() == known)
    pairs = [(str(one[of_files]).strip().replace("\\", "/").removeprefix("./"), one[column]) for one in records]
    return [
        (key, str(int(label)) if isinstance(label, float) and label == int(label) else str(label).strip())
        for key, label in pairs
    ]


# -- zip files ---------------------------------------------------------------------------------------------------------


@cache
def archives() -> list[bytes]:
    """Small sets in zip files of several kinds."""
    found = []
    for packing in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        for mark, outer in (("/", ""), ("\\", ""), ("/", "set/"), ("/", "\u00fc/")):
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w", packing) as archive:
                for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
                    archive.writestr(outer + name.replace("/", mark), PICTURE)
                archive.writestr("__MACOSX/x", "")
            found.append(file.getvalue())
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("1.png", "2.png"):
            archive.writestr(name, PICTURE + bytes(10**6))
    return [*found, file.getvalue()]


def use_archive(content: bytes) -> None:
    """Read a set from a zip file; a member that is read is the one that zipfile reads."""
    path = Path("set.zip")
    path.write_bytes(content)
    tree = open_tree("folder", path)
    files = tree.files(tree.names)
    archive = zipfile.ZipFile(path)
    for i, name in enumerate(tree.names):
        try:
            member = files.open(i).read()
        except Exception:  # which the reader of images reports, below
            continue
        others = [info for info in archive.infolist() if same(info.filename, name)]
        contents = [raw(archive, info) for info in others]
        require(member in contents or None in contents, f"{name} is another file than zipfile reads")
    Folder().load(DataOptions(path))


def same(name: str, other: str) -> bool:
    """Whether two names mean one member: in letters of another encoding, or with other marks between folders."""
    names = {name}
    with contextlib.suppress(UnicodeError):
        names.add(name.encode("cp437").decode())
    return other in {one.replace("\\", "/").strip("/") for one in names}


def raw(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes | None:
    try:
        return archive.read(info)
    except Exception:  # zipfile checks the name in front of a member too; check sums hold all the same
        return None


TARGETS = [
    Target("trees", trees(), use_tree, share=2),
    Target("tables", tables(), use_table, share=2),
    Target("zips", st.deferred(lambda: mutated(archives())), use_archive, quick=40, share=2),
]
