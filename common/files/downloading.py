"""Downloads: with a bar, a bound on their size, and an end to the wait for a silent server."""

import re
from pathlib import Path
from typing import Any

from common.progress import bar

SILENCE = 60.0  # seconds without a byte after which a server counts as gone
MEGABYTE = 2**20


def download(url: str, path: Path, silence: float = SILENCE, limit: int | None = None) -> None:
    """Download a file.

    Args:
        url: where it is; pages of Google Drive that ask for a confirmation are answered.
        path: where it goes. Beside it parts of it may be left on a failure: give a folder of its own.
        silence: seconds without a byte after which the server counts as gone.
        limit: bytes that it may have, at most; None for any number.

    Raises:
        OSError: if that fails, in one line.
    """
    import gdown  # only here: it takes a while to import

    try:
        with bar(0, f"downloading {path.name}", " MB", lasting=True) as progress:

            def told(received: int, total: int | None) -> None:
                if limit is not None and max(received, total or 0) > limit:
                    raise OSError(f"the file is larger than {limit:,} bytes, so it is not the one that is wanted")
                progress.total = total // MEGABYTE if total else None
                progress.update(received // MEGABYTE - progress.n)

            # without the cookie file, which would lie elsewhere
            gdown.download(url, str(path), quiet=True, use_cookies=False, timeout=silence, progress=told)
    except Exception as error:  # gdown's versions differ in what they raise
        raise OSError(one_line(error)) from error


def listed(folder: str, silence: float = SILENCE) -> dict[str, str]:
    """The files of a shared folder of Google Drive, and of folders in it.

    Args:
        folder: its id.
        silence: seconds without a byte after which the server counts as gone.

    Returns:
        Ids by path.

    Raises:
        OSError: if it cannot be read, in one line.
    """
    import gdown  # only here: it takes a while to import

    try:
        found: Any = gdown.download_folder(
            id=folder, quiet=True, use_cookies=False, skip_download=True, timeout=silence
        )
    except Exception as error:  # gdown's versions differ in what they raise
        raise OSError(one_line(error)) from error
    return {str(file.path): str(file.id) for file in found}


def one_line(error: Exception) -> str:
    """What a downloader says of an error: without further lines and without the address, which the caller names."""
    # further lines speak of parts that were kept; before the cause stands the address again
    reason = re.sub(r".*\(Caused by (.*)\)$", r"\1", str(error).split("\n")[0])[:300]
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__
