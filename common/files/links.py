"""No symbolic link leads a program that writes out of the folder that it was given."""

from pathlib import Path

from common.refusal import Refusal


def refuse_links(root: Path, path: Path, *, inside: bool = False) -> None:
    """Refuse to write through symbolic links, by which a folder from somebody else could name any place.

    Args:
        root: a folder that the user named; it and what is above it may be links.
        path: a place below it, which need not be there; no part of the way from ``root`` to it may be a link,
        inside: nor anything in it.

    Raises:
        Refusal: naming the link.
    """
    way = [place for place in (path, *path.parents) if root in place.parents]
    for place in (*reversed(way), *(path.rglob("*") if inside else ())):
        if place.is_symlink():
            raise Refusal(
                f"{place} is a symbolic link, through which nothing is written; put what it leads to in its place"
            )
