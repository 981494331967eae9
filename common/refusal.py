"""What a user can mend: the one kind of error that a program reports in a line, without a traceback."""

from collections.abc import Mapping


class Refusal(ValueError):
    """A wrong argument, flag, file or folder; the message says what is wrong and what to do.

    Args:
        problem: what is wrong; with an argument it goes on from that argument's name: ``must be at least 1, got 0``.
        argument: name of the argument, as a constructor or a flag has it; None if the message stands alone.
    """

    def __init__(self, problem: str, argument: str | None = None) -> None:
        super().__init__(f"{argument} {problem}" if argument else problem)
        self.problem, self.argument = problem, argument

    def line(self, flags: Mapping[str, str]) -> str:
        """The message in one line, the argument written as its flag.

        Args:
            flags: names of arguments to names of flags of the program that reports.
        """
        name = flags.get(self.argument or "")
        return printable(" ".join((f"--{name} {self.problem}" if name else str(self)).split()))


def printable(text: str) -> str:
    """A text whose control characters are written out: names of files and entries of config.json are anybody's."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def require(ok: bool, argument: str, allowed: str, given: object, advice: str = "") -> None:
    """Refuse an argument unless ``ok``.

    Raises:
        Refusal: ``{argument} must be {allowed}, got {given}``, and what to do about it if there is advice.
    """
    if not ok:
        raise Refusal(f"must be {allowed}, got {given!r}" + (f"; {advice}" if advice else ""), argument)
