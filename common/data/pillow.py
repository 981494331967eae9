"""Pillow, with all formats that it reads here; imported when it is needed, because that takes a while."""

from functools import cache
from types import ModuleType

# Pillow knows the header of the first five only, and has another program draw the sixth
NO_PICTURES = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF", "EPS"}
HEIC = frozenset((".heic", ".heics", ".heif", ".heifs", ".hif"))  # photographs of phones


@cache
def pillow() -> ModuleType:
    """``PIL.Image``, which also reads HEIC if pillow-heif is there (extra ``heic``)."""
    from PIL import Image

    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return Image
    register_heif_opener()
    return Image


@cache
def endings() -> frozenset[str]:
    """Endings of the formats that are read, in lower case."""
    image = pillow()
    image.init()
    kinds = set(image.OPEN) - NO_PICTURES
    return frozenset(ending for ending, kind in image.registered_extensions().items() if kind in kinds)
