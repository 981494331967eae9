"""CelebA: 202,599 aligned photographs of faces, 178 wide and 218 high (Liu, Luo, Wang, Tang 2015), without labels.

``data_dir`` is torchvision's layout (``celeba/img_align_celeba/*.jpg``), that folder itself, or another folder or zip
file of images, also one folder deeper, as Kaggle packs them; archives are read without unpacking them.
``list_eval_partition.txt`` or ``.csv`` in the folder of the images, or in one above it, says what is held out: its test
part, or its validation part if no test images are there. Without it one image in ten is held out, at most 1,000.

The usual 64x64 set: the central 140x140 pixels, resized with antialiasing. Images of another size are cut in
proportion.
"""

import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePath

import torch
from torch import Tensor

from common.data.fetching import fetching
from common.data.pictures import Form, picture_set
from common.data.source import DataOptions, DataSet, DataUnavailable, Source, hold_out
from common.data.tfrecords import images_in
from common.data.trees import Files, Paths, Tree, open_tree
from common.files import download, listed
from common.sides import Sides

SIZE = Sides(64, 64)
CENTER_CROP = 140 / 178
IMAGES, PARTITION = "img_align_celeba", "list_eval_partition.txt"
PARTITIONS = (PARTITION, "list_eval_partition.csv")
TRAIN, VALIDATION, TEST = range(3)  # the numbers of the parts in that list
BASE = "celeba"  # torchvision's folder
PLACES = tuple(Path(base, name) for base in (BASE, ".") for name in (IMAGES, f"{IMAGES}.zip"))
ARCHIVE = f"{IMAGES}.zip"
SERVER = "https://drive.google.com/uc?id={}"
FOLDER = "https://drive.google.com/drive/folders/{}"
SHARED = "1eHdU3N4Tiv6BAezAAI7LAvJTItIF8GD2"  # of FDP's authors, for their data/tensorflow_datasets
SHARD = re.compile(r"(?:.*/)?celeb_a-(train|validation|test)\.tfrecord-\d{5}-of-\d{5}", re.ASCII)
PARTS = ("train", "validation", "test")  # by their numbers
LARGEST_SHARD = 2**32  # bytes; the whole set has a third of it


class CelebA(Source):
    """Faces, 64x64 unless another size is asked for."""

    name = "celeba"
    center_crop = CENTER_CROP

    def load(self, options: DataOptions) -> DataSet:
        form = Form.of(self.name, options, size=SIZE, center_crop=self.center_crop)
        place = find(options.data_dir)
        if place is None:
            if not options.download:
                raise DataUnavailable(
                    f"--data_name {self.name}: no images in {options.data_dir}, nor {PLACES[0]} or {PLACES[1]} below "
                    "it. Fetch the set with train.py --download True, or point --data_dir at a folder or zip file of "
                    "images"
                )
            fetch(options.data_dir)
            return self.load(replace(options, download=False))
        tree = open_tree(self.name, place)
        lists = lists_in(tree)
        while not tree.direct and len(filled := [name for name in tree.folders if tree.below(name)]) == 1:
            tree = tree.child(filled[0])
            lists = lists_in(tree) or lists
        images = tree.direct
        if not images:
            raise DataUnavailable(f"--data_name {self.name}: no images directly in {tree.path}")
        lists = lists or [Paths.of(place.parent, [name]) for name in PARTITIONS if (place.parent / name).is_file()]
        try:
            rows, held_rows = (by_list(lists[0], images) if lists else None) or hold_out(len(images))
        except DataUnavailable as error:
            raise DataUnavailable(f"--data_name {self.name}: {tree.path}: {error}") from None
        files, labels = tree.files(images), torch.zeros(len(images), dtype=torch.int64)
        held_out = files.select(held_rows), labels[held_rows]
        data = picture_set((files.select(rows), labels[rows]), held_out, None, form)
        by = f"by {lists[0].name(0)}" if lists else f"no {PARTITION} is there, so the same ones always"
        told = f"found     {len(rows):,} images to learn from, {len(held_rows):,} held out: {by}"
        return replace(data, found=(told, *data.found))


def find(data_dir: Path) -> Path | None:
    """The folder or zip file with the images, if there is one.

    Raises:
        DataUnavailable: if several zip files might be meant.
    """
    if data_dir.is_file():
        return data_dir
    for place in PLACES:
        if (data_dir / place).exists():
            return data_dir / place
    if not data_dir.is_dir():
        return None
    tree = open_tree(CelebA.name, data_dir)
    if tree.direct:
        return data_dir
    archives = sorted(data_dir.glob("*celeba*.zip"))
    if len(archives) > 1:
        raise DataUnavailable(
            f"--data_name {CelebA.name}: {' and '.join(map(str, archives))} are there; point --data_dir at one of them"
        )
    return archives[0] if archives else data_dir if tree.names else None


def lists_in(tree: Tree) -> list[Files]:
    """The lists of parts that lie directly in a folder."""
    there = {name for name, _ in tree.passed}
    return [tree.files([name]) for name in PARTITIONS if name in there]


def by_list(listed: Files, images: list[str]) -> tuple[Tensor, Tensor] | None:
    """Which images the authors' list gives to training and to the held-out part.

    Args:
        listed: the list, a name and 0 (training), 1 (validation) or 2 (test) per line, between them spaces or a comma,
            as one file.
        images: paths of the images.

    Returns:
        Rows int64 of the two; None if there are images of the training part only, as in a subset.

    Raises:
        DataUnavailable: for a list that is no such list, or without one of the images, or without training images.
    """
    parts: dict[str, int] = {}
    where = listed.name(0)
    try:
        with listed.open(0) as file:
            text = file.read().decode(errors="replace")
    except (OSError, zipfile.BadZipFile, zlib.error, struct.error) as error:
        raise DataUnavailable(f"{where} cannot be read ({error}); bring or remove the list") from error
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        match line.replace(",", " ").replace('"', " ").split():
            case []:
                continue
            case ["image_id", "partition"] if number == 1:
                continue
            case [name, ("0" | "1" | "2") as part]:
                parts[name] = int(part)
            case _:
                raise DataUnavailable(f"{where}, line {number}, is no name with 0, 1 or 2; bring or remove the list")
    names = [PurePath(image).name for image in images]
    if unknown := next((name for name in names if name not in parts), None):
        raise DataUnavailable(f"{unknown} is not in {where}; remove the image or the list")
    part_of = torch.tensor([parts[name] for name in names])
    rows = {part: (part_of == part).nonzero().flatten() for part in (TRAIN, VALIDATION, TEST)}
    if not len(rows[TRAIN]):
        raise DataUnavailable(f"{where} has all of the images in its validation and test parts")
    held_out = rows[TEST] if len(rows[TEST]) else rows[VALIDATION]
    return (rows[TRAIN], held_out) if len(held_out) else None


def fetch(data_dir: Path) -> None:
    """Download the images and the list of the parts.

    First the originals, by the ids and MD5 sums that torchvision keeps; if those cannot be had, what the authors of FDP
    share: the same, or the set as TensorFlow Datasets prepares it.

    Raises:
        DataUnavailable: if that fails; nothing is left behind.
    """
    from torchvision.datasets import CelebA as Published  # only here: torchvision takes a while to import

    originals = {name: (file, md5) for file, md5, name in Published.file_list if name in (ARCHIVE, PARTITION)}
    archive, reasons = SERVER.format(originals[ARCHIVE][0]), []
    try:
        with fetching(data_dir):
            if find(data_dir) is not None:
                return  # somebody has fetched it meanwhile
            for bring in (bring_originals, bring_shared):
                with tempfile.TemporaryDirectory(prefix=f".{CelebA.name}-", dir=data_dir) as scratch:
                    try:
                        bring(Path(scratch), originals)
                    except OSError as error:
                        reasons.append(" ".join(str(error).split()))
                        continue
                    (data_dir / BASE).mkdir(exist_ok=True)
                    for name in (PARTITION, ARCHIVE):  # the images last: they make the set count as there
                        Path(scratch, name).replace(data_dir / BASE / name)
                    return
    except OSError as error:
        reasons = [" ".join(str(error).split())]
    raise DataUnavailable(
        f"--data_name {CelebA.name}: the download from {archive} failed: "
        f"{f'; and that from {FOLDER.format(SHARED)}: '.join(reasons)}. Try again, or bring {ARCHIVE} and {PARTITION} "
        f"into {data_dir / BASE} from a machine with network access (https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html)"
    )


def bring_originals(scratch: Path, originals: Mapping[str, tuple[str, str]]) -> None:
    """Download the archive and the list as they were published.

    Args:
        scratch: folder that gets them.
        originals: id and MD5 sum of both, by name.

    Raises:
        OSError: if that fails, or a file is not the original.
    """
    from torchvision.datasets.utils import check_integrity

    for name, (file, md5) in originals.items():
        download(SERVER.format(file), scratch / name)
        if not check_integrity(scratch / name, md5):
            raise OSError(f"{name} is not the original (its MD5 sum is another: a quota page, or cut short)")


def bring_shared(scratch: Path, originals: Mapping[str, tuple[str, str]]) -> None:
    """Download what the folder of FDP's authors holds, and make archive and list of it if it is prepared otherwise.

    Args:
        scratch: folder that gets them.
        originals: id and MD5 sum of both, by name.

    Raises:
        OSError: if that fails, or the folder does not hold the set.
    """
    there = listed(SHARED)
    same = {PurePath(path).name: file for path, file in there.items() if PurePath(path).name in originals}
    if same.keys() == originals.keys():
        return bring_originals(scratch, {name: (file, originals[name][1]) for name, file in same.items()})
    shards = sorted((match[1], match[0]) for match in map(SHARD.fullmatch, there) if match)
    for part in PARTS:
        have = [path for of, path in shards if of == part]
        total = {path[-5:] for path in have}
        if not have or total != {f"{len(have):05}"}:
            found = ", ".join(sorted(there)[:8]) or "nothing"
            raise OSError(f"the folder does not hold all of the set, but {found}")
    lines: list[str] = []
    with zipfile.ZipFile(scratch / ARCHIVE, "w") as archive:  # JPEG files, which compression would not make smaller
        for part, path in shards:
            shard = scratch / PurePath(path).name
            download(SERVER.format(there[path]), shard, limit=LARGEST_SHARD)
            for image in images_in(shard):
                name = f"tfds-{len(lines) + 1:06}.jpg"  # not the original number: the records are shuffled
                archive.writestr(f"{IMAGES}/{name}", image)
                lines.append(f"{name} {PARTS.index(part)}\n")
            shard.unlink()
    (scratch / PARTITION).write_text("".join(lines))
