"""One process fetches a data set into a folder; others that see the folder wait for it, on any machine."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

from common.files import locked
from common.progress import tell
from common.refusal import Refusal

PROGRAM = "--download"


@contextlib.contextmanager
def fetching(folder: Path) -> Iterator[None]:
    """Be the only one who fetches into a folder, which is made if it is missing; look there again what is missing.

    Whoever is at it is waited for as long as it lives.

    Raises:
        OSError: if nothing can be written there.
    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(folder, PROGRAM, "it is waited for"))
        except Refusal as busy:
            tell(f"wait      {busy}")
            held.enter_context(locked(folder, PROGRAM, wait=math.inf))
        yield
