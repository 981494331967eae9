"""Image files that are odd but whole, each with the picture that Pillow reads from them without what is odd.

Names end in the public thread (project#number) where somebody met such a file, if one is known.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEIGHT, WIDTH = 9, 12
COLOURS = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)).resize((WIDTH, HEIGHT))
)
COLOUR, GREY = Image.fromarray(COLOURS), Image.fromarray(COLOURS[..., 0])
ALPHA = COLOURS[..., 2:]
LEVELS = np.random.default_rng(1).integers(0, 65536, (HEIGHT, WIDTH, 4), dtype=np.uint16)
# how upright pixels lie in a file for each value of the tag (EXIF 2.3, table 4: which side row 0 and column 0 are)
LAID: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x, -1),
}


@dataclass(frozen=True)
class Odd:
    """A file.

    Attributes:
        content: its bytes.
        picture: what is in it, upright; by default what Pillow reads from ``content``.
        ending: of its name.
        within: largest difference of a level.
    """

    content: bytes
    picture: Image.Image | None = None
    ending: str = "png"
    within: int = 0

    def expected(self, mode: str) -> np.ndarray:
        """The pixels that Pillow's own conversion gives, transparent parts on white."""
        picture = self.picture or Image.open(io.BytesIO(self.content))
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        return np.asarray(picture.convert(mode))


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes = b"", crc: int | None = None) -> bytes:
    found = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", found)


def png(
    pixels: np.ndarray, depth: int, colour: int, before: bytes = b"", after: bytes = b"", interlaced: bool = False
) -> bytes:
    """A PNG file of pixels (H, W, ..) whose bytes are those of its rows."""
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    passes = [(0, 0, 1, 1)]
    if interlaced:  # Adam7
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [pixels[top::down, left::right] for top, left, down, right in passes]
    rows = b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)
    return SIGNATURE + chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(rows)) + after + chunk(b"IEND")


def exif(orientation: int) -> bytes:
    """A block of EXIF, as it stands in a JPEG file."""
    block = Image.Exif()
    block[0x0112] = orientation
    block[0x010F] = "a maker"
    return block.tobytes()


def broken_exif(orientation: int, tag: int = 0x927C, kind: int = 2, count: int = 0xFFFFFFF0) -> bytes:
    """EXIF with a second field that is not what it should be; by default a text of 4 GB."""
    entries = struct.pack("<HHII", 0x0112, 3, 1, orientation) + struct.pack("<HHII", tag, kind, count, 1)
    return b"Exif\0\0II*\0\x08\0\0\0\x02\0" + entries + b"\0\0\0\0"


def segment(number: int, data: bytes) -> bytes:
    """A segment APPn of a JPEG file."""
    return bytes([0xFF, 0xE0 + number]) + struct.pack(">H", len(data) + 2) + data


def jpeg(*segments: bytes, stored: np.ndarray = COLOURS, **options: object) -> bytes:
    plain = saved(Image.fromarray(np.ascontiguousarray(stored)), "JPEG", quality=95, subsampling=0, **options)
    return plain[:2] + b"".join(segments) + plain[2:]


def turned(upright: Image.Image, orientation: int) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(LAID[orientation](np.asarray(upright))))


def upright(content: bytes, orientation: int) -> Image.Image:
    """What a file holds once it is turned, by Pillow without its metadata."""
    back = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
    return turned(Image.open(io.BytesIO(content)).convert("RGB"), back)


def of_png() -> Iterator[tuple[str, Odd]]:
    text = zlib.compress(b"a" * 3_000_000)
    ztxt = chunk(b"zTXt", b"key\0\0" + text)
    itxt = chunk(b"iTXt", b"key\0\1\0\0\0" + text)
    megabyte = chunk(b"zTXt", b"key\0\0" + zlib.compress(b"a" * 2**20))
    profile = b"name\0\0" + zlib.compress(b"no profile")
    before = {
        "3 MB of text (Pillow#8363)": ztxt,
        "3 MB of international text (LlamaFactory#6300)": itxt,
        "66 texts of 1 MB": megabyte * 66,
        "a profile of 3 MB (STAMP#76)": chunk(b"iCCP", b"name\0\0" + text),
        "a profile with a wrong check sum (Pillow#4592, #5631)": chunk(b"iCCP", profile, crc=7),
        "a resolution with a wrong check sum (Pillow#5978)": chunk(b"pHYs", bytes(9), crc=7),
        "text with a wrong check sum (Pillow#1991)": chunk(b"iTXt", b"key\0\0\0\0\0text", crc=7),
        "a profile that is none": chunk(b"iCCP", profile),
        "a profile of an unknown compression": chunk(b"iCCP", b"name\0\7abc"),
        "a resolution that is too short": chunk(b"pHYs", b"ab"),
        "text of an unknown compression": chunk(b"zTXt", b"key\0\7abc"),
        "colours of the screen that are too short": chunk(b"cHRM", b"abc") + chunk(b"gAMA", b"") + chunk(b"sRGB"),
        "XMP that is cut": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta <tiff:Orient"),
        "frames of no animation": chunk(b"acTL", b"abc"),
        "chunks of somebody's own": chunk(b"abCd", b"abc"),
        "EXIF with a wrong check sum": chunk(b"eXIf", exif(6)[6:], crc=7),
        "EXIF that is none": chunk(b"eXIf", b"abc"),
    }
    for name, chunks in before.items():
        yield f"png with {name}", Odd(png(COLOURS, 8, 2, chunks), COLOUR)
    yield "png with 3 MB of text behind its pixels", Odd(png(COLOURS, 8, 2, after=itxt), COLOUR)
    for orientation in (3, 6, 8):
        laid, block = np.ascontiguousarray(LAID[orientation](COLOURS)), chunk(b"eXIf", exif(orientation)[6:])
        yield f"png turned to {orientation} (Pillow#4537)", Odd(png(laid, 8, 2, block), COLOUR)
        yield f"png turned to {orientation} behind its pixels", Odd(png(laid, 8, 2, after=block), COLOUR)
        wrong = chunk(b"eXIf", exif(orientation)[6:], crc=7)
        yield (
            f"png turned to {orientation} behind its pixels, a wrong check sum",
            Odd(png(laid, 8, 2, after=wrong), COLOUR),
        )
        yield f"png turned to {orientation}, 3 MB of text", Odd(png(laid, 8, 2, ztxt, block), COLOUR)
    yield "png interlaced", Odd(png(COLOURS, 8, 2, interlaced=True), COLOUR)
    yield "png with something behind its end", Odd(png(COLOURS, 8, 2) + b"something", COLOUR)
    yield "png of one pixel", Odd(png(COLOURS[:1, :1], 8, 2), Image.fromarray(COLOURS[:1, :1]))
    bits = COLOURS[..., 0] > 127
    yield "png of 1 bit", Odd(saved(Image.fromarray(bits), "PNG"))
    yield "png of grey and alpha", Odd(png(COLOURS[..., 1:], 8, 4))
    yield "png of colour and alpha", Odd(saved(Image.fromarray(np.concatenate([COLOURS, ALPHA], -1)), "PNG"))
    big = LEVELS.astype(">u2")
    nearest = np.round(LEVELS / 257).astype(np.uint8)
    yield "png of 16 bits", Odd(png(big[..., 0], 16, 0), Image.fromarray(nearest[..., 0]))
    yield (
        "png of 16 bits in colour (pytorch/vision#4657)",
        Odd(png(big[..., :3], 16, 2), Image.fromarray(nearest[..., :3]), within=2),
    )
    yield (
        "png of 16 bits, grey and alpha",
        Odd(png(big[..., :2], 16, 4), Image.fromarray(nearest[..., :2], "LA"), within=2),
    )
    yield "png of 16 bits in colour with alpha", Odd(png(big, 16, 6), Image.fromarray(nearest), within=2)
    white = np.where((LEVELS[..., 0] == LEVELS[0, 0, 0]), 255, nearest[..., 0]).astype(np.uint8)
    see_through = chunk(b"tRNS", struct.pack(">H", LEVELS[0, 0, 0]))
    yield "png of 16 bits with a transparent level", Odd(png(big[..., 0], 16, 0, see_through), Image.fromarray(white))
    palette = GREY.quantize(8)
    yield "png with a palette", Odd(saved(palette, "PNG"))
    yield "png with a palette of 1 bit", Odd(saved(GREY.quantize(2), "PNG", bits=1))
    yield "png with transparency in bytes (imageio#475)", Odd(saved(palette, "PNG", transparency=bytes([0, 90, 200])))
    yield "png with a transparent colour of its palette", Odd(saved(palette, "PNG", transparency=3))
    yield "png with a transparent grey", Odd(saved(GREY, "PNG", transparency=int(COLOURS[0, 0, 0])))
    yield "png with a transparent colour", Odd(saved(COLOUR, "PNG", transparency=tuple(map(int, COLOURS[0, 0]))))
    yield (
        "png animated",
        Odd(saved(COLOUR, "PNG", save_all=True, append_images=[Image.new("RGB", COLOUR.size)]), COLOUR),
    )


def of_jpeg() -> Iterator[tuple[str, Odd]]:
    plain = jpeg()
    picture = Image.open(io.BytesIO(plain)).convert("RGB")
    whole = Odd(plain, picture, "jpg")
    segments = {
        "EXIF twice at its beginning (Pillow#8348)": segment(1, b"Exif\0\0" + exif(1)),
        "EXIF that is empty": segment(1, b"Exif\0\0"),
        "EXIF that is none": segment(1, b"Exif\0\0This is no EXIF"),
        "EXIF that is cut (pytorch_classification#23)": segment(1, exif(1)[:20]),
        "EXIF with a text of 4 GB (Piexif#55)": segment(1, broken_exif(1)),
        "XMP that is cut": segment(1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta <tiff:Orient"),
        "XMP that is no text": segment(1, b"http://ns.adobe.com/xap/1.0/\0\xff\xfe\0"),
        "a profile that is none": segment(2, b"ICC_PROFILE\0\x02\x01abc"),
        "a list of pictures that is broken (Pillow#1328)": segment(2, b"MPF\0II*\0\x08\0\0\0\x09\0abc"),
        "a block of Photoshop that is cut": segment(13, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\xffab"),
        "a comment that is no text": bytes([0xFF, 0xFE, 0, 5, 0xFF, 0xFE, 0]),
    }
    for name, part in segments.items():
        yield f"jpeg with {name}", replace(whole, content=jpeg(part))
    yield "jpeg with something behind its end", replace(whole, content=plain + b"something" * 100)
    yield "jpeg twice", replace(whole, content=plain + jpeg(stored=255 - COLOURS))
    for orientation in range(1, 9):
        content = jpeg(segment(1, exif(orientation)), stored=LAID[orientation](COLOURS))
        picture = upright(content, orientation)
        yield f"jpeg turned to {orientation} (datasets#6252)", Odd(content, picture, "jpg")
        for tag, kind, thread in ((0x011A, 2, "Pillow#8605"), (0x0128, 7, "Pillow#4215")):
            part = segment(1, broken_exif(orientation, tag, kind, 2))
            yield (
                f"jpeg turned to {orientation}, field {tag} of EXIF of a wrong type ({thread})",
                Odd(jpeg(part, stored=LAID[orientation](COLOURS)), picture, "jpg"),
            )
    content = jpeg(segment(1, exif(6).replace(b"MM\0*", b"MM\0?")), stored=LAID[6](COLOURS))
    yield "jpeg turned to 6, EXIF with a wrong number", Odd(content, upright(content, 6), "jpg")
    for name, options in {"progressive": {"progressive": True}, "with restarts": {"restart_marker_rows": 1}}.items():
        yield f"jpeg {name}", Odd(jpeg(**options), ending="jpg")
    yield "jpeg grey", Odd(jpeg(stored=COLOURS[..., 0]), ending="jpg")
    print_colours = saved(COLOUR.convert("CMYK"), "JPEG", quality=95)
    adobe = print_colours.index(b"Adobe")
    yield "jpeg of CMYK (Pillow#6563)", Odd(print_colours, ending="jpg")
    ycck = bytearray(print_colours)
    ycck[adobe + 11] = 2
    yield "jpeg of YCCK", Odd(bytes(ycck), ending="jpg")
    yield (
        "jpeg of CMYK that Adobe did not write",
        Odd(print_colours[: adobe - 4] + print_colours[adobe + 12 :], ending="jpg"),
    )
    pictures = saved(COLOUR, "MPO", save_all=True, append_images=[Image.new("RGB", (3, 4))])
    yield "several pictures (mpo)", Odd(pictures, ending="jpg")
    broken = pictures.replace(b"MPF\0", b"MPF\0\xff\xff", 1)
    yield "several pictures, a broken list", Odd(broken, Image.open(io.BytesIO(pictures)), ending="jpg")


def of_tiff() -> Iterator[tuple[str, Odd]]:
    for name, mode in {"cmyk": "CMYK", "grey and alpha": "LA", "palette": "P", "1 bit": "1"}.items():
        yield f"tiff of {name}", Odd(saved(COLOUR.convert(mode), "TIFF"), ending="tif")
    yield "tiff of fax", Odd(saved(COLOUR.convert("1"), "TIFF", compression="group4"), ending="tif")
    for kind in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        yield f"tiff by {kind}", Odd(saved(COLOUR, "TIFF", compression=kind), ending="tif")
    yield "tiff beyond 4 GB", Odd(saved(COLOUR, "TIFF", big_tiff=True), COLOUR, "tif")
    yield (
        "tiff of two pages",
        Odd(saved(COLOUR, "TIFF", save_all=True, append_images=[Image.new("L", (3, 4))]), COLOUR, "tif"),
    )
    yield (
        "tiff of 16 bits",
        Odd(
            saved(Image.fromarray(LEVELS[..., 0]), "TIFF"),
            Image.fromarray(np.round(LEVELS[..., 0] / 257).astype(np.uint8)),
            "tif",
        ),
    )
    for orientation in range(2, 9):
        laid, block = turned(COLOUR, orientation), Image.Exif()
        block[0x0112] = orientation
        yield f"tiff turned to {orientation} (Pillow#8390)", Odd(saved(laid, "TIFF", exif=block), COLOUR, "tif")
    # tags with types and counts that they cannot have: a text for a resolution, EXIF behind the end of the file
    for name, tags in {"odd resolutions": (0x011A, 0x011B, 0x0128), "EXIF nowhere": (0x8769, 0x8825)}.items():
        for options in ({}, {"compression": "tiff_lzw"}, {"big_tiff": True}):
            yield f"tiff with {name}, {options}", Odd(with_odd_tags(tags, options), COLOUR, "tif")


def with_odd_tags(tags: tuple[int, ...], options: dict[str, object]) -> bytes:
    """A TIFF file whose first directory has tags that point behind its end."""
    content = bytearray(saved(COLOUR, "TIFF", tiffinfo={0x010E: "a", 0x010F: "b", 0x0110: "c"}, **options))
    is_big = content[2] == 43
    size, at = (
        (20, struct.unpack_from("<Q", content, 8)[0] + 8)
        if is_big
        else (
            12,
            struct.unpack_from("<I", content, 4)[0] + 2,
        )
    )
    while struct.unpack_from("<H", content, at)[0] != 0x010E:
        at += size
    for tag in tags:
        struct.pack_into("<HHQQ" if is_big else "<HHII", content, at, tag, 2, 99, 10**9 + 7)
        at += size
    return bytes(content)


def of_others() -> Iterator[tuple[str, Odd]]:
    second = Image.new("RGB", COLOUR.size, "red")
    several = {"save_all": True, "append_images": [second, second]}
    palette = COLOUR.quantize(16)
    yield "gif animated (MMInstruct#4)", Odd(saved(palette, "GIF", **several), ending="gif")
    whole = saved(palette, "GIF", **several)
    yield "gif animated, cut behind its first image", Odd(whole[: len(saved(palette, "GIF")) + 12], palette, "gif")
    yield "gif with a transparent colour", Odd(saved(palette, "GIF", transparency=3), ending="gif")
    gif = bytearray(saved(palette, "GIF"))
    struct.pack_into("<HH", gif, 6, 5, 4)
    yield "gif larger than its screen", Odd(bytes(gif), palette, "gif")
    yield "webp animated", Odd(saved(COLOUR, "WEBP", lossless=True, **several), COLOUR, "webp")
    for orientation in (3, 6):
        laid = turned(COLOUR, orientation)
        for name, block in {"": exif(orientation), ", EXIF broken": broken_exif(orientation)}.items():
            content = saved(laid, "WEBP", lossless=True, exif=block)
            yield f"webp turned to {orientation}{name}", Odd(content, COLOUR, "webp")
    yield (
        "webp with alpha",
        Odd(
            saved(Image.fromarray(np.concatenate([COLOURS, ALPHA], -1)), "WEBP", lossless=True, exact=True),
            ending="webp",
        ),
    )
    yield "bmp of 1 bit", Odd(saved(COLOUR.convert("1"), "BMP"), ending="bmp")
    yield "bmp from bottom to top with a palette", Odd(saved(palette, "BMP"), ending="bmp")
    yield (
        "pgm of 16 bits",
        Odd(
            saved(Image.fromarray(LEVELS[..., 0].astype(np.int32)), "PPM"),
            Image.fromarray(np.round(LEVELS[..., 0] / 257).astype(np.uint8)),
            "pgm",
        ),
    )
    yield "tga with alpha", Odd(saved(Image.fromarray(np.concatenate([COLOURS, ALPHA], -1)), "TGA"), ending="tga")
    icon = COLOUR.resize((64, 64))
    yield "ico of several sizes", Odd(saved(icon, "ICO", sizes=[(16, 16), (64, 64), (32, 32)]), icon, "ico")
    for kind, ending in {"JPEG2000": "jp2", "PCX": "pcx", "SGI": "sgi", "DDS": "dds"}.items():
        yield kind.lower(), Odd(saved(COLOUR, kind), ending=ending)
    for kind, name in {"PNG": "a.jpg", "JPEG": "a.png", "TIFF": "a.bmp", "GIF": "a.jpg", "WEBP": "a.jpg"}.items():
        content = saved(palette if kind == "GIF" else COLOUR, kind)
        yield f"{kind.lower()} called {name} (pytorch/vision#2294)", Odd(content, ending=name[2:])
    long = Image.fromarray(np.arange(60_000, dtype=np.uint32).astype(np.uint8)[None])
    yield "png of 1 x 60000", Odd(saved(long, "PNG"), long)
    yield "png of 60000 x 1", Odd(saved(long.transpose(Image.Transpose.ROTATE_90), "PNG"))


def odd_images() -> dict[str, Odd]:
    """All of them by name."""
    return {name: odd for some in (of_png, of_jpeg, of_tiff, of_others) for name, odd in some()}
