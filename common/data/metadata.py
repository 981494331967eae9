"""What image files say besides their pixels: the orientation, which counts, and the rest, which must not decide."""

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

ORIENTATION, UPRIGHT, SIDEWAYS = 0x0112, 1, (5, 6, 7, 8)  # the tag of EXIF, and values that swap height and width
LARGEST_FILE = 2**30  # bytes of a file that is read once more without its metadata
PNG = b"\x89PNG\r\n\x1a\n"
# what PNG calls pixels; everything else is text, times, colour profiles, or frames of an animation
PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
# sides, bits, compression, colours, orientation and where strips or tiles are, of TIFF 6.0 and its two supplements
TIFF_PIXELS = frozenset((*range(254, 267), *range(273, 282), 284, 292, 293, 317, 320, *range(322, 326), 332, 338, 339))
TIFF_PIXELS |= frozenset((347, *range(512, 522), *range(529, 533)))


def orientation(image: "Picture") -> int:
    """How an image lies in its file: 1 (upright) to 8, as EXIF counts; 1 if that cannot be read."""
    from PIL import Image  # Pillow takes a while to import

    try:
        # not the image's own method: that of PNG decodes everything to look for a tag at the end
        found = Image.Image.getexif(image).get(ORIENTATION)
    except Exception:  # another field of the block is broken, with whatever error
        found = None
    if found is None:
        exif = image.info.get("exif") or (_late_exif(image) if image.format == "PNG" else b"")
        found = _orientation_in(exif)
    return found if isinstance(found, int) and found in range(1, 9) else UPRIGHT


def without_metadata(content: BinaryIO) -> BinaryIO | None:
    """A file with nothing but its pixels and their orientation; None if it is of another format than PNG or TIFF.

    Args:
        content: the file, at its beginning.
    """
    head = content.read(8)
    for beginning, strip in BARE.items():
        if head.startswith(beginning):
            try:
                return io.BytesIO(strip(head + content.read(LARGEST_FILE)))
            except struct.error:  # it ends before what it announces
                return None
    return None


def _orientation_in(exif: bytes) -> int | None:
    """The orientation in a block of EXIF of which other fields may be broken; None if it is not there."""
    data = re.sub(rb"^(Exif\0\0)+", b"", exif)
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    try:
        if order is not None:
            (start,) = struct.unpack_from(f"{order}I", data, 4)
            (count,) = struct.unpack_from(f"{order}H", data, start)
            for at in range(start + 2, start + 2 + 12 * count, 12):
                tag, value = struct.unpack_from(f"{order}H6xH", data, at)
                if tag == ORIENTATION:
                    return int(value)
    except struct.error:  # the block ends before what it announces
        pass
    return None


# -- PNG --------------------------------------------------------------------------------------------------------------


def _png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Kinds of the chunks of a PNG file, where they begin and their bytes, headers and check sums included."""
    at = len(PNG)
    while len(head := _read_at(file, at, 8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        yield kind, at, length + 12
        at += length + 12


def _read_at(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)


def _is_whole_exif(kind: bytes, chunk: bytes) -> bool:
    return kind == b"eXIf" and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _late_exif(image: "Picture") -> bytes:
    """EXIF behind the pixels of a PNG file, which Pillow comes to when it has decoded them; nothing without it."""
    file = getattr(image, "fp", None)
    if file is None:  # already decoded
        return b""
    place = file.tell()
    found = (_read_at(file, at, size) for kind, at, size in _png_chunks(file) if kind == b"eXIf")
    exif = next(found, b"")[8:-4]  # Pillow, too, looks at no check sum there
    file.seek(place)
    return exif


def _bare_png(content: bytes) -> bytes:
    kept = [PNG]
    for kind, at, size in _png_chunks(io.BytesIO(content)):
        chunk = content[at : at + size]
        if kind in PNG_PIXELS or _is_whole_exif(kind, chunk):
            kept.append(chunk)
    return b"".join(kept)


# -- TIFF -------------------------------------------------------------------------------------------------------------


def _bare_tiff(content: bytes) -> bytes:
    """The first directory of a TIFF file, with the entries that say how pixels are stored."""
    order = "<" if content[:2] == b"II" else ">"
    is_big = content[2:4] in (b"+\0", b"\0+")  # BigTIFF has wider numbers
    place, pointer, number, entry = (8, "Q", "Q", 20) if is_big else (4, "I", "H", 12)
    (start,) = struct.unpack_from(order + pointer, content, place)
    (count,) = struct.unpack_from(order + number, content, start)
    first = start + struct.calcsize(order + number)
    end = min(first + entry * count, len(content))  # which may announce any number of entries
    entries = [content[at : at + entry] for at in range(first, end, entry)]
    kept = [one for one in entries if struct.unpack_from(f"{order}H", one)[0] in TIFF_PIXELS]
    directory = struct.pack(order + number, len(kept)) + b"".join(kept) + struct.pack(order + pointer, 0)
    return content[:start] + directory + content[start + len(directory) :]


BARE: dict[bytes, Callable[[bytes], bytes]] = {
    PNG: _bare_png,
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _bare_tiff),
}
