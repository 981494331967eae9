"""Grids of images, exact to the pixel: every pixel of a sample is a square of one colour, names stand around them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from einops import rearrange, repeat
from torch import Tensor

from common.media.layout import LONGEST_ROW, Labelled, columns_of, heads_of, partners, round_of

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from PIL.ImageFont import FreeTypeFont

FRAME, GREY = 2, 0.5  # width and level of the lines between the images of a grid
GAP = 10  # between real and drawn images
VISIBLE = 64  # side up to which small images are enlarged unless one says otherwise
FONT, SMALLEST_FONT, LINE, TEXT_GAP = 13, 8, 18, 4  # pixels
REAL, DRAWN = "real", "drawn"


def visible_scale(height: int, width: int) -> int:
    """By how much images are magnified unless one says otherwise: 8 for 8 x 8, 2 for 28 x 28, 1 above 32."""
    return max(1, VISIBLE // max(height, width))


def displayable(images: Tensor) -> Tensor:
    """Images (.., C, H, W) with 1 or 3 channels: the first of two, the first three of more."""
    channels = images.shape[-3]
    return images if channels in (1, 3) else images.narrow(-3, 0, 1 if channels == 2 else 3)


def magnified(images: Tensor, scale: int | None) -> Tensor:
    """Images (N, C, H, W) in [0, 1] as (N, 3, h, w), every pixel a square of ``scale`` by ``scale``; None chooses."""
    scale = scale or visible_scale(*images.shape[-2:])
    shown = displayable(images).nan_to_num(0).clamp(0, 1).float().cpu()
    return repeat(shown, "n c h w -> n (c rgb) (h up) (w right)", up=scale, right=scale, rgb=3 // shown.shape[1])


def tiled(images: Tensor, columns: int) -> Tensor:
    """Images (N, 3, h, w) row by row in a grey frame, as (height, width, 3); the last row is filled with grey."""
    pad = torch.nn.functional.pad
    cells = pad(images, (FRAME, 0, FRAME, 0), value=GREY)  # above and to the left
    whole = pad(cells, (0,) * 7 + (-len(cells) % columns,), value=GREY)
    grid = rearrange(whole, "(row column) c h w -> (row h) (column w) c", column=columns)
    return pad(grid, (0, 0, 0, FRAME, 0, FRAME), value=GREY)


def picture_of(levels: Tensor) -> "Picture":
    """A picture of levels (height, width, 3) in [0, 1]."""
    from PIL import Image  # here and below: Pillow takes a while to import

    return Image.fromarray(levels.mul(255).round().byte().numpy())


def font(size: int = FONT) -> "FreeTypeFont":
    """DejaVu Sans, which comes with matplotlib and knows Greek and most names."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def width_of(text: str, size: int = FONT) -> int:
    """Pixels that the longest line of a text takes."""
    return round(max(font(size).getlength(line) for line in text.split("\n")) + 0.5)


def height_of(texts: Sequence[str]) -> int:
    """Pixels that texts beside each other take, with the space below; 0 without any."""
    return max((text.count("\n") + 1 for text in texts if text), default=0) * LINE


def fitted(texts: Sequence[str], width: int) -> tuple[list[str], "FreeTypeFont"]:
    """Texts, the longest cut if need be, and the largest font in which none is wider than that."""
    for size in range(FONT, SMALLEST_FONT - 1, -1):
        if all(width_of(text, size) <= width for text in texts):
            return list(texts), font(size)
    return [cut(text, width) for text in texts], font(SMALLEST_FONT)


def cut(text: str, width: int) -> str:
    """A text, or as much of its beginning as is no wider than that in the smallest font."""
    kept = text
    while len(kept) > 1 and width_of(kept if kept == text else kept + "…", SMALLEST_FONT) > width:
        kept = kept[:-1]
    return kept if kept == text else kept + "…"


def block(
    images: Tensor,
    columns: int,
    heads: Sequence[str] = (),
    sides: Sequence[str] = (),
    captions: Sequence[str] = (),
    margin: int = 0,
) -> "Picture":
    """A framed grid with names around it.

    Args:
        images: (N, 3, h, w) in [0, 1].
        columns: images per row.
        heads: texts above the columns.
        sides: texts left of the rows.
        captions: texts above every image, for grids whose columns have no head.
        margin: pixels left of the grid, for the sides.
    """
    from PIL import Image, ImageDraw

    above, strip = height_of(heads), height_of(captions)
    if strip:
        images = torch.nn.functional.pad(images, (0, 0, strip, 0), value=1.0)
    grid = picture_of(tiled(images, columns))
    page = Image.new("RGB", (margin + grid.width, above + grid.height), "white")
    page.paste(grid, (margin, above))
    pen = ImageDraw.Draw(page)
    height, width = (side + FRAME for side in images.shape[-2:])

    texts, face = fitted([*heads, *captions], width)
    for i, text in enumerate(texts):
        row, column = divmod(max(0, i - len(heads)), columns) if i >= len(heads) else (0, i)
        bottom = above if i < len(heads) else above + FRAME + row * height + strip
        at = (margin + FRAME / 2 + (column + 0.5) * width, bottom - TEXT_GAP / 2)
        pen.text(at, text, "black", face, anchor="md", align="center", spacing=2)
    for row, text in enumerate(sides):
        middle = above + FRAME + row * height + height / 2
        pen.text((margin - TEXT_GAP, middle), text, "black", font(min(FONT, height)), anchor="rm")
    return page


def titled(text: str, picture: "Picture", left: int = 0, least: int = 0) -> "Picture":
    """A picture below a line of text that begins ``left`` pixels from its edge; no narrower than ``least`` pixels."""
    from PIL import Image, ImageDraw

    above = height_of([text])
    width = max(picture.width, least, left + width_of(text) + 2 * TEXT_GAP)
    page = Image.new("RGB", (width, above + picture.height), "white")
    page.paste(picture, (0, above))
    ImageDraw.Draw(page).text((left + TEXT_GAP, above - TEXT_GAP / 2), text, "black", font(), anchor="ld")
    return page


def joined(pictures: Sequence["Picture"], *, below: bool) -> "Picture":
    """Pictures on one white page, below each other or side by side."""
    from PIL import Image

    gaps = GAP * (len(pictures) - 1)
    widths, heights = [p.width for p in pictures], [p.height for p in pictures]
    size = (max(widths), sum(heights) + gaps) if below else (sum(widths) + gaps, max(heights))
    page, at = Image.new("RGB", size, "white"), 0
    for picture in pictures:
        page.paste(picture, (0, at) if below else (at, 0))
        at += GAP + (picture.height if below else picture.width)
    return page


def grid_picture(
    drawn: Labelled, real: Labelled | None = None, columns: int | None = None, scale: int | None = None
) -> "Picture":
    """Drawn images below a row of real ones, with the names of their classes.

    The names stand above the columns; if they are too wide for that, the grid is turned, and they stand beside the
    rows. If a column holds several classes, every image has its name above it.

    Args:
        drawn: images, at least one.
        real: real images; as many as fit are shown, of the classes of the first row.
        columns: images per row; None lets the classes decide.
        scale: whole number by which they are magnified; None makes small ones visible.
    """
    count, tiles, one_round = len(drawn.x), magnified(drawn.x, scale), round_of(drawn.classes)
    is_turned = one_round is not None and any(width_of(name) > tiles.shape[-1] for name in drawn.classes or ())
    if is_turned and one_round and not columns:
        columns = one_round * -(-count // (one_round * LONGEST_ROW))
    columns = min(columns or columns_of(drawn.classes, count), count)
    heads = heads_of(drawn.classes, columns)
    if count == 1 and not (real or heads):
        return picture_of(tiles[0].movedim(0, -1))  # alone it needs no frame
    captions = () if heads else drawn.classes or ()
    beside = _beside(drawn, real, columns, scale) if real else None
    if is_turned and heads:
        rounds = -(-count // columns)
        turned = torch.full((columns * rounds, *tiles.shape[1:]), GREY)
        turned[[i % columns * rounds + i // columns for i in range(count)]] = tiles
        margin = max(map(width_of, heads)) + 2 * TEXT_GAP
        if beside is None:
            return block(turned, rounds, sides=heads, margin=margin)
        parts = [
            titled(REAL, block(beside, 1, sides=heads, margin=margin), margin),
            titled(DRAWN, block(turned, rounds)),
        ]
        return joined(parts, below=False)
    if beside is None:
        return block(tiles, columns, heads, captions=captions)
    margin = width_of(DRAWN) + 2 * TEXT_GAP
    parts = [
        block(beside, columns, heads, (REAL,), captions[:columns], margin),
        block(tiles, columns, sides=(DRAWN,), captions=captions, margin=margin),
    ]
    return joined(parts, below=True)


def _beside(drawn: Labelled, real: Labelled, columns: int, scale: int | None) -> Tensor:
    """The magnified real images of the first row (columns, 3, h, w), grey where there is none."""
    rows = partners(real, drawn.classes, columns)
    shown = torch.full((columns, *real.x.shape[1:]), GREY)
    for column, row in enumerate(rows):
        if row is not None:
            shown[column] = real.x[row]
    return magnified(shown, scale)
