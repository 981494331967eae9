"""Progress bars: text on a screen, a widget in a notebook; a line now and then, or none, where output is kept."""

import sys
from typing import Any

OFTEN, SELDOM = 0.2, 15.0  # seconds between two states that are shown, to somebody who looks and to a file


def bar(
    total: int | None, title: str, unit: str, *, initial: int = 0, lasting: bool = False, silent: bool = False
) -> Any:
    """A tqdm bar.

    Args:
        total: steps of the whole work; None if nobody knows: they are counted.
        title: what is done.
        unit: what a step is.
        initial: steps that are done already.
        lasting: whether it stays when all is done, and is worth lines of a file; others are for a screen or a notebook
            alone, and vanish.
        silent: show nothing.
    """
    from tqdm.auto import tqdm  # here: it looks whether this is a notebook, and imports asyncio

    on_screen = hasattr(sys.stderr, "isatty") and sys.stderr.isatty()
    seen = on_screen or any(kind.__module__ == "tqdm.notebook" for kind in tqdm.__mro__)
    return tqdm(
        total=total,
        initial=initial,
        desc=title,
        unit=unit,
        leave=lasting,
        mininterval=OFTEN if seen else SELDOM,
        disable=silent or not (seen or lasting),
        dynamic_ncols=on_screen,
    )


def tell(line: str) -> None:
    """Print a line above the bars that are shown, if there are any."""
    from tqdm.auto import tqdm

    tqdm.write(line)
    sys.stdout.flush()
