"""When a dynamics is looked at: once its constructor is through, whichever class and however that was made."""

from collections.abc import Callable
from functools import wraps
from typing import Any


def then_admit(construct: Callable[..., None]) -> Callable[..., None]:
    """A constructor that has what it made admitted, unless that of a subclass called it, which goes on."""

    @wraps(construct)
    def construct_and_admit(self: Any, *args: Any, **arguments: Any) -> None:
        construct(self, *args, **arguments)
        if getattr(type(self), construct.__name__) is construct_and_admit:
            self.admit()

    return construct_and_admit
