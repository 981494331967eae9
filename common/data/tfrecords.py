"""Files of TensorFlow's records, read without TensorFlow: the encoded images of a prepared data set.

A file is a row of records: length (8 bytes, lowest first), its check sum (4), content, its check sum (4). A content is
a protocol buffer ``Example``: a map of names to features, of which the bytes of one are wanted. The sum of lengths
(CRC-32C) is compared: it tells damage and foreign files early. That of contents is left to who reads the image.
"""

import functools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

POLYNOMIAL = 0x82F63B78  # CRC-32C, reflected
MASK = 0xA282EAD8
LARGEST = 2**26  # bytes of one record
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # kinds of fields of a protocol buffer
LONGEST_VARINT = 10


def images_in(path: Path, name: str = "image") -> Iterator[bytes]:
    """The encoded image of every record of a file.

    Args:
        path: the file.
        name: of the feature.

    Raises:
        OSError: in one line, if the file is cut short, damaged or something else, or a record has no such feature.
    """
    with path.open("rb") as file:
        for number, record in enumerate(_records(file, path), 1):
            try:
                yield _feature(memoryview(record), name.encode())
            except (ValueError, IndexError, struct.error) as error:
                raise OSError(f"record {number} of {path.name} has no {name}, or is damaged") from error


def _records(file: IO[bytes], path: Path) -> Iterator[bytes]:
    while head := file.read(12):
        length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else LARGEST + 1
        if length > LARGEST or struct.unpack("<I", head[8:])[0] != masked_sum(head[:8]):
            raise OSError(f"{path.name} is no file of TensorFlow's records, or is damaged")
        content = file.read(length + 4)
        if len(content) < length + 4:
            raise OSError(f"{path.name} is cut short")
        yield content[:length]


@functools.cache
def _table() -> tuple[int, ...]:
    rows = []
    for row in range(256):
        for _ in range(8):
            row = row >> 1 ^ (POLYNOMIAL if row & 1 else 0)
        rows.append(row)
    return tuple(rows)


def masked_sum(content: bytes) -> int:
    """The check sum of a few bytes: CRC-32C, rotated and shifted as these files have it."""
    table, crc = _table(), 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + MASK) & 0xFFFFFFFF


def _feature(record: memoryview, name: bytes) -> bytes:
    """The bytes of one feature of an Example.

    Raises:
        ValueError: if it is not there.
    """
    for features in _fields(record, 1):
        for entry in _fields(features, 1):
            if b"".join(_fields(entry, 1)) == name:
                (feature,) = _fields(entry, 2)
                (listed,) = _fields(feature, 1)
                (value,) = _fields(listed, 1)
                return bytes(value)
    raise ValueError("not there")


def _fields(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """The fields of a number that hold bytes.

    Raises:
        ValueError: for what is no protocol buffer.
        IndexError: if it is cut short.
    """
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, kind = tag >> 3, tag & 7
        length = 8 if kind == FIXED64 else 4
        if kind == VARINT:
            _, place = _varint(message, place)
            continue
        if kind == BYTES:
            length, place = _varint(message, place)
        elif kind not in (FIXED64, FIXED32):
            raise ValueError("no such kind of field")
        if place + length > len(message):
            raise ValueError("cut short")
        if number == wanted and kind == BYTES:
            yield message[place : place + length]
        place += length


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """A number of 7 bits a byte, the lowest first, and the place behind it."""
    value = 0
    for i in range(LONGEST_VARINT):
        byte = message[place + i]
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, place + i + 1
    raise ValueError("a number is too long")
