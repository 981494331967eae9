"""Bytes that were right once: some of them changed, cut, put in or repeated, mostly where headers are."""

import struct
import zlib
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

NUMBERS = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
HEADER = 120  # bytes that are changed most
PNG = b"\x89PNG\r\n\x1a\n"

places = st.one_of(st.integers(0, HEADER), st.integers(0, HEADER), st.integers(0, 2**14))
numbers = st.one_of(st.sampled_from(NUMBERS), st.integers(0, 2**32 - 1), st.integers(0, 300))
edit = st.tuples(st.sampled_from("bbbwwddxrie"), places, numbers)
edits = st.lists(edit, min_size=1, max_size=3)


def changed(content: bytes, todo: Sequence[tuple[str, int, int]]) -> bytes:
    """A file after some edits: (kind, place, number) each."""
    for kind, place, number in todo:
        at = place % (len(content) + 1)
        if kind == "b":
            content = content[:at] + bytes([number % 256]) + content[at + 1 :]
        elif kind in "wd":  # a number of two or four bytes, in either order
            size, order = (2, "H") if kind == "w" else (4, "I")
            written = struct.pack(("<" if place % 2 else ">") + order, number % 256**size)
            content = content[:at] + written + content[at + size :]
        elif kind == "x":
            content = content[:at]
        elif kind == "r":
            content = content[:at] + content[at + number % 64 :]
        elif kind == "i":
            content = content[:at] + number.to_bytes(4, "little") + content[at:]
        else:  # repeated
            content = content[: at + number % 400] + content[at:]
    return content


def mutated(contents: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """One of some files, changed; check sums of PNG chunks are mended in every second one, else few get far."""

    def make(one: int, todo: list[tuple[str, int, int]], mend: bool) -> bytes:
        content = changed(contents[one], todo)
        return with_sums(content) if mend else content

    return st.builds(make, st.integers(0, len(contents) - 1), edits, st.booleans())


def with_sums(content: bytes) -> bytes:
    """A PNG file with the check sums that its chunks should have; any other file as it is."""
    if not content.startswith(PNG):
        return content
    at, parts = len(PNG), [PNG]
    while len(head := content[at : at + 8]) == 8:
        (length,) = struct.unpack(">I", head[:4])
        chunk = content[at : at + 8 + length]
        parts.append(chunk + struct.pack(">I", zlib.crc32(chunk[4:])))
        at += length + 12
    return b"".join(parts)


def texts_like(words: Sequence[str], size: int = 30) -> st.SearchStrategy[str]:
    """Texts of some words and a few odd letters."""
    part = st.one_of(st.sampled_from(list(words)), st.sampled_from(list(words)), st.text(max_size=3))
    return st.lists(part, max_size=size).map("".join)


# -- JSON --------------------------------------------------------------------------------------------------------------

odd = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(
        [0, 1, -1, 2, 3, 8, 10**9, 10**30, 0.5, 1e308, float("nan"), float("inf"), "", "x", "..", "\x1b[2J"]
    ),
    st.integers(-10, 1000),
    st.floats(),
    st.text(max_size=6),
    st.lists(st.integers(-3, 40), max_size=4),
    st.sampled_from([{}, [[]], [{}], {"a": 1}, [None], ["a", "a"], {"file": "/etc/passwd"}]),
)


def places_in(content: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all values in plain data."""
    found = [place]
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        found += places_in(value, (*place, key))
    return found


def replaced(content: Any, place: tuple[Any, ...], new: Any) -> Any:
    """Plain data with another value in a place; without that entry if it is ``...``."""
    if not place:
        return new
    key, rest = place[0], place[1:]
    if rest:
        new = replaced(content[key], rest, new)
    if isinstance(content, dict):
        return {k: new if k == key else v for k, v in content.items() if k != key or new is not ...}
    return [new if i == key else v for i, v in enumerate(content) if i != key or new is not ...]


def of_json(contents: Sequence[Any]) -> st.SearchStrategy[Any]:
    """One of some plain data with up to three odd values in it, or entries left out."""

    def make(one: int, changes: list[tuple[int, Any, bool]]) -> Any:
        content = contents[one]
        for number, value, leave_out in changes:
            places = places_in(content)
            place = places[number % len(places)]
            content = replaced(content, place, ... if leave_out and place else value)
        return content

    change = st.tuples(st.integers(0, 10**4), odd, st.integers(0, 7).map(lambda n: n == 0))
    return st.builds(make, st.integers(0, len(contents) - 1), st.lists(change, min_size=1, max_size=3))
