"""Pillow, with all formats that it reads here; imported when it is needed, because that takes a while."""

import warnings
from functools import cache
from types import ModuleType

# Pillow knows the header of the first five only, and has another program draw the sixth
NO_PICTURES = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF", "EPS"}
FREQUENT = ("JPEG", "PNG")
HEIC = frozenset((".heic", ".heics", ".heif", ".heifs", ".hif"))  # photographs of phones


@cache
def pillow() -> ModuleType:
    """``PIL.Image``, which also reads HEIC if pillow-heif is there (extra ``heic``)."""
    from PIL import Image

    # said in the middle of a progress bar, without the name of a file: what is odd about metadata, that an image with a
    # palette is transparent, and that an image is large (those that are too large are refused by name)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.\w+ImagePlugin")
    warnings.filterwarnings("ignore", "Palette images with", category=UserWarning, module=r"PIL\.Image")
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return Image
    register_heif_opener()
    return Image


@cache
def formats() -> tuple[str, ...]:
    """Names of the formats that are read, the most frequent ones first; a file is of any of them, whatever its name."""
    image = pillow()
    image.init()
    return tuple(sorted(set(image.OPEN) - NO_PICTURES, key=lambda name: (name not in FREQUENT, image.ID.index(name))))


@cache
def endings() -> frozenset[str]:
    """Endings of the formats that are read, in lower case."""
    kinds = set(formats())
    return frozenset(ending for ending, kind in pillow().registered_extensions().items() if kind in kinds)
