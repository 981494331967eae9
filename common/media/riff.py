"""Where the sound of a .wav file lies, told as players tell it: whatever programs wrote around it, piped or not."""

import struct
from typing import BinaryIO, NamedTuple

ORDERS = {b"RIFF": "<", b"RIFX": ">", b"RF64": "<", b"BW64": "<"}  # of bytes, by how a file begins
# what may stand beside the sound: tells a chunk of odd size without its pad byte from one that has it
KNOWN = frozenset(
    b"fmt |data|fact|ds64|LIST|list|JUNK|junk|PAD |FLLR|bext|cue |smpl|inst|PEAK|iXML|id3 |ID3 |plst|labl|afsp|LGWV"
    b"|cart|DISP|minf|elm1|regn|umid|_PMX|acid|strc|wavl|slnt|levl|chna|axml".split(b"|")
)
OF_FORMAT = (b"fmt ", b"fact")  # what says how levels are stored, in this order
OPEN_END = 0x7F000000  # sizes from here on stand for "unknown" if the file is smaller: programs that pipe write them
UNKNOWN = 0xFFFFFFFF
IN_BLOCKS = frozenset((0x2, 0x11, 0x31))  # formats that pack many points together: ADPCM of Microsoft and IMA, GSM
MOST_CHUNKS, LARGEST_FORMAT = 1000, 65536  # before the sound; bytes


class Damaged(Exception):
    """A file is no whole sound; the message goes on from its name."""


class Sound(NamedTuple):
    """Where the sound of a .wav file lies.

    Attributes:
        head: a plain header for these bytes, without anything else that stood in the file.
        start: where they begin.
        size: how many there are.
        stored: how levels are stored, in words.
    """

    head: bytes
    start: int
    size: int
    stored: str


def find_sound(file: BinaryIO) -> Sound | None:
    """The sound of a .wav file, also of more than 4 GB (RF64); None if it is another kind of file.

    libsndfile takes such files by their letter: it refuses those with a text that is cut or with a chunk without its
    pad byte, takes a size of 0 as it stands, and shortens without a word what was cut.

    Args:
        file: the file, from its first byte.

    Raises:
        Damaged: for a file that is cut short or has no sound in it.
        OSError: if it cannot be read.
    """
    end = file.seek(0, 2)
    file.seek(0)
    top = file.read(12)
    order = ORDERS.get(top[:4])
    if order is None or top[8:] != b"WAVE":
        return None
    number = struct.Struct(f"{order}I")
    place, kept = 12, dict[bytes, bytes]()
    for _ in range(MOST_CHUNKS):
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            raise Damaged("is cut short: it ends before any sound begins")
        name, (size,) = head[:4], number.unpack(head[4:])
        place += 8
        if name == b"data":
            break
        if name in (*OF_FORMAT, b"ds64") and size <= LARGEST_FORMAT:
            kept.setdefault(name, file.read(size))
        place = _after(file, place + size, is_odd=bool(size % 2))
    else:
        raise Damaged(f"has more than {MOST_CHUNKS:,} parts, none of which is sound")
    size = _true_size(file, place, size, end, number.unpack(top[4:8])[0], kept.get(b"ds64", b""))
    stored = _format_told(kept.get(b"fmt ", b""), order, size)
    chunks = b"".join(
        name + number.pack(len(kept[name])) + kept[name] + b"\0" * (len(kept[name]) % 2)
        for name in OF_FORMAT
        if name in kept
    )
    start = b"RIFX" if order == ">" else b"RIFF"
    whole = min(UNKNOWN, 4 + len(chunks) + 8 + size)
    head = start + number.pack(whole) + b"WAVE" + chunks + b"data" + number.pack(min(UNKNOWN, size))
    return Sound(head, place, size, stored)


def _after(file: BinaryIO, place: int, *, is_odd: bool) -> int:
    """Where the next chunk begins: a byte later if the one before it is of odd size and was padded, as it should be."""
    if not is_odd:
        return place
    file.seek(place)
    names = file.read(5)
    return place if names[:4] in KNOWN and names[1:] not in KNOWN else place + 1


def _true_size(file: BinaryIO, place: int, declared: int, end: int, whole: int, of_long: bytes) -> int:
    """Bytes of sound: what is declared, or all there is if a program that piped could not know.

    Raises:
        Damaged: if there are fewer, or if the chunk of a long file says another number.
    """
    rest = max(0, end - place)
    long = int.from_bytes(of_long[8:16], "little")
    if declared == UNKNOWN and len(of_long) >= 16:
        if not long:  # a long file that was never closed
            return rest
        declared = long
    elif declared and long and declared != long:
        raise Damaged(f"has {declared:,} bytes of sound by one of its headers, {long:,} by another")
    elif declared >= OPEN_END and declared > rest:
        return rest
    if not declared:
        file.seek(place)
        return 0 if whole not in (0, UNKNOWN) and file.read(4) in KNOWN else rest
    if declared > rest:
        raise Damaged(f"is cut short: {rest:,} of {declared:,} bytes of sound are there")
    return declared


def _format_told(content: bytes, order: str, size: int) -> str:
    """How levels are stored, in words.

    Args:
        content: the chunk that says it.
        order: of its bytes.
        size: bytes of sound.

    Raises:
        Damaged: if there are none, or if the last block is not whole: libsndfile would make up the rest of it.
    """
    if len(content) < 16:
        raise Damaged("does not say how its sound is stored (it has no fmt chunk of 16 bytes)")
    kind, channels, rate, block, bits = struct.unpack(f"{order}HHI4xHH", content[:16])
    if not channels or not rate:
        raise Damaged(f"has {channels:,} channels and {rate:,} points per second")
    if kind in IN_BLOCKS and block and size % block:
        raise Damaged(f"is cut short: its last block has {size % block:,} of {block:,} bytes")
    return f"format {kind:#x} of {bits} bits"
