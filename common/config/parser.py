"""Command lines: parsers that report in one line, short help, no secrets, and the frame around a whole program."""

import argparse
import contextlib
import difflib
import errno
import itertools
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import metadata
from typing import Any, NoReturn

from common.config.env_file import TAKEN, read_env_file
from common.config.environment import leave_to_others
from common.config.flags import Flag, boolean, written
from common.config.plugins import import_plugins, named_plugins
from common.config.resolve import Member, arguments_to_flags
from common.config.streams import piped, plain_output
from common.refusal import Refusal, printable
from common.units import in_bytes

Groups = Mapping[str, tuple[Flag, ...]]
Values = dict[str, Any]
PACKAGE = "fractional-functional-diffusion"
ALL = "all"  # --help all
LIKE_FLAG, LIKE_CHOICE = 0.85, 0.6  # likeness from which on a word is taken for a misspelt other one; flags are longer
ENV_TOLD = "DIFFUSION_ENV_TOLD"  # set once it was said which lines of .env are left out
BELOW_ZERO = re.compile(r"-\.?\d")
VERSION = "version"  # alone it is the program's; with a value, that of weights, if a program has some

# what goes wrong with files and folders that a user named; anything else of the system is a bug, or bad luck
MENDABLE = {
    errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EROFS, errno.ENOSPC,
    errno.EDQUOT, errno.ENAMETOOLONG, errno.ELOOP,
}  # fmt: skip


ROOM = "; make room, then start it again: what is there is kept"
HINTS = {
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EROFS: "; name a folder that can be written with --output_dir, with a copy of the run if there is one",
    errno.ENAMETOOLONG: "; take a shorter one",
}
NO_MEMORY = re.compile(
    r"DefaultCPUAllocator: (?:can't allocate memory|not enough memory)|Storage size calculation overflowed"
)
AMOUNT = re.compile(r"allocate (\d+) bytes")


@contextlib.contextmanager
def reporting(program: str, flags: Callable[[], Mapping[str, str]]) -> Iterator[None]:
    """The frame around a whole program: what a user can mend becomes one line and exit code 2.

    That is a :class:`~common.refusal.Refusal`, or an error of the operating system about a file or folder. An output
    that nobody reads any more (``| head``) ends the program quietly with exit code 141. Every other error is a bug,
    here or in a plugin, and keeps its traceback.

    Args:
        program: its name.
        flags: gives names of arguments and the flags that set them; called only if there is something to report.
    """
    with plain_output(), piped():
        try:
            with refusing(flags):
                yield
        except Refusal as error:
            complain(program, str(error))
            raise SystemExit(2) from error


@contextlib.contextmanager
def refusing(flags: Callable[[], Mapping[str, str]]) -> Iterator[None]:
    """The same for who calls it from Python: what a user can mend is raised as a Refusal, in one line that names flags.

    Args:
        flags: as in :func:`reporting`.

    Raises:
        Refusal: for what a user can mend.
    """
    try:
        yield
    except Refusal as error:
        raise Refusal(error.line(flags())) from error
    except (OSError, MemoryError, RuntimeError) as error:
        if (line := mendable(error)) is None:
            raise
        raise Refusal(line) from error


def mendable(error: BaseException) -> str | None:
    """What a user can mend of an error of the system or of a library: a line that says what, where and how; else None.

    Args:
        error: about a file or folder, or about memory that there is not.
    """
    if isinstance(error, OSError):
        if error.errno not in MENDABLE or error.filename is None:
            return None
        return f"{error.filename}: {error.strerror}{HINTS.get(error.errno, '')}"
    if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
        asked = AMOUNT.search(str(error))
        return (
            f"not enough memory{f' ({in_bytes(int(asked[1]))} at once)' if asked else ''}: lower --batch_size, or take "
            "a smaller network or smaller samples"
        )
    return None


def complain(program: str, message: str) -> None:
    """Print an error of a program in one line."""
    print(f"{program}: error: {printable(message)}", file=sys.stderr)


# -- secrets -----------------------------------------------------------------------------------------------------------

HIDDEN = "***"
# --wb_key, and misspellings of it: what follows is hidden
SECRET = re.compile(r"-+[\w-]*(?:key|kye|kez|wb_k|wbk|api|token|secret)[\w-]*", re.IGNORECASE)
# what a key of W&B looks like, wherever it stands
KEY = re.compile(r"\b(?:[0-9a-fA-F]{40,}|(?:local-|wandb_v\d_)[\w-]{16,})\b")


def redacted(words: Sequence[str]) -> list[str]:
    """A command line whose secrets are not shown."""
    shown = [KEY.sub(HIDDEN, word) for word in words]
    for i, word in enumerate(words):
        name, equals, _ = word.partition("=")
        if SECRET.fullmatch(name) and equals:
            shown[i] = f"{name}={HIDDEN}"
        elif SECRET.fullmatch(name) and i + 1 < len(words):
            shown[i + 1] = HIDDEN
    return shown


def without_secret(words: Sequence[str]) -> list[str]:
    """A command line without flags that give secrets, and without what looks like one."""
    pairs = zip(["", *words], words, strict=False)
    own = [word for before, word in pairs if not any(SECRET.fullmatch(w) for w in (before, word.partition("=")[0]))]
    return [KEY.sub(HIDDEN, word) for word in own]


# -- parsers -----------------------------------------------------------------------------------------------------------


class OneLineParser(argparse.ArgumentParser):
    """Reports a wrong command line in one line, without secrets.

    Attributes:
        flags: its flags, which a misspelt one is compared with.
    """

    flags: Collection[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in argparse; the words are remembered for messages."""
        self._words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Refuse the command line with the message."""
        words = getattr(self, "_words", [])
        for word, shown in zip(words, redacted(words), strict=True):
            if word != shown:
                message = message.replace(word.partition("=")[2] or word, HIDDEN)
        for flag, value in itertools.pairwise(words):  # which argparse takes for another flag
            if message == f"argument {flag}: expected one argument" and BELOW_ZERO.match(value):
                message += f"; a value that begins with a minus is written {flag}={value}"
                break
        raise Refusal(f"{message} (see --help)")


def meant(word: str, known: Collection[str], likeness: float) -> str:
    """The known word that is nearest to an unknown one, as a message goes on; nothing if none is so much alike."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=likeness)
    return f"; did you mean {near[0]}?" if near else ""


def choose(flag: Flag, choices: Sequence[Any], text: str) -> Any:
    """The value of a flag with choices.

    Raises:
        argparse.ArgumentTypeError: if it is none of them.
    """
    if (value := flag.read(text)) in choices:
        return value
    names = [str(choice) for choice in choices]
    raise argparse.ArgumentTypeError(
        f"invalid choice: {text!r} (choose from {', '.join(names)}){meant(text, names, LIKE_CHOICE)}"
    )


class Joined(argparse.Action):
    """Joins the tuples that several words stand for, of the same flag given again too."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        """Keep one tuple."""
        before = getattr(namespace, self.dest, ())
        setattr(namespace, self.dest, tuple(itertools.chain.from_iterable([before, *values])))


def add_flag(group: Any, flag: Flag) -> None:
    """Add a flag to a parser or a group of one."""
    default = "" if flag.default is None or "(default" in flag.help else f" (default: {written(flag.default)})"
    words = "True|False" if flag.read is boolean else flag.name.upper()
    switch: dict[str, Any] = {} if flag.alone is None else {"nargs": "?", "const": flag.alone}
    if flag.many:
        switch = {"nargs": "+", "action": Joined}
    choices = None if flag.choices is None else tuple(flag.choices)
    group.add_argument(
        f"--{flag.name}",
        type=flag.read if choices is None else partial(choose, flag, choices),
        help=(flag.help + default).replace("%", "%%"),
        choices=choices,
        metavar=None if flag.choices else words,
        **switch,
    )


def make_parser(program: str, usage: str, description: str, groups: Groups) -> OneLineParser:
    """A parser whose namespace holds only what was given.

    Args:
        program: name of the program.
        usage: what follows the name in the usage line.
        description: what the program does.
        groups: titles to flags, in the order in which help shows them.
    """
    parser = OneLineParser(
        prog=program,
        usage=f"{program} {usage}",
        description=description,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
    )
    general = parser.add_argument_group("help")
    general.add_argument("--help", "-h", action="help", help="show this help and exit; --help all shows every flag")
    if not any(flag.name == VERSION for flags in groups.values() for flag in flags):
        general.add_argument("--version", action="store_true", help="show the version of the program and exit")
    parser.flags = [f"--{flag.name}" for flags in groups.values() for flag in flags]
    for title, flags in groups.items():
        group = parser.add_argument_group(title)
        for flag in flags:
            add_flag(group, flag)
    return parser


def show_version(program: str, words: Sequence[str]) -> None:
    """Print the program's version and exit, if a command line has --version without a value."""
    if any(one == f"--{VERSION}" and two.startswith("--") for one, two in itertools.pairwise([*words, "--"])):
        try:
            version = metadata.version(PACKAGE)
        except metadata.PackageNotFoundError:
            version = "of a source tree that is not installed"
        print(f"{program} {version}")
        raise SystemExit(0)


def wants_all_help(words: Sequence[str]) -> bool:
    """Whether a command line asks for ``--help all``."""
    return any(one in ("--help", "-h") and two == ALL for one, two in itertools.pairwise([*words, ""]))


def peek(words: Sequence[str], flags: Sequence[Flag]) -> dict[str, Any]:
    """Values of a few flags on a command line, before the others can be known; wrong words are left for later."""
    given: dict[str, Any] = {}
    names = {flag.name for flag in flags}
    for word, following in itertools.pairwise([*words, ""]):
        name, equals, value = word.partition("=")
        if name.startswith("--") and name[2:] in names:
            given[name[2:]] = value if equals else "" if following.startswith("--") else following
    return given


# -- command lines -----------------------------------------------------------------------------------------------------


def read_words(program: str, argv: Sequence[str] | None) -> list[str]:
    """The words of a command line, once the environment is mended, .env has been read and plugins are imported.

    Raises:
        Refusal: for a word that is no text; it could stand in no file that a run keeps.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    for word, shown in zip(words, redacted(words), strict=True):
        if not is_text(word):
            raise Refusal(
                f"{shown}: no text in {sys.getfilesystemencoding()}; rename what it names, or go there and name it "
                "from there (a locale without letters like these does this too: export LC_ALL=C.UTF-8)"
            )
    for note in leave_to_others():
        print(f"{program}: note: {note}", file=sys.stderr)
    left_out = read_env_file()
    if left_out and ENV_TOLD not in os.environ:
        os.environ[ENV_TOLD] = "1"  # the processes of one training say it once
        names = ", ".join(dict.fromkeys(map(printable, left_out)))
        print(f"{program}: note: .env: {names} left out; only {', '.join(TAKEN)} are taken from there", file=sys.stderr)
    show_version(program, words)
    import_plugins(named_plugins(words))
    return words


def is_text(word: str) -> bool:
    """Whether a word holds no bytes that could not be read as letters, which Python keeps as lone surrogates."""
    return not any("\ud800" <= char <= "\udfff" for char in word)


def without_repeats(groups: Groups) -> Groups:
    """Groups of flags; of flags with one name the first stays."""
    first: dict[str, str] = {}
    for title, flags in groups.items():
        for flag in flags:
            first.setdefault(flag.name, title)
    own = {title: {flag.name: flag for flag in reversed(flags)} for title, flags in groups.items()}
    return {t: tuple(f for n, f in reversed(flags.items()) if first[n] == t) for t, flags in own.items()}


def parse(parser: OneLineParser, words: Sequence[str], choices: Iterable[tuple[Member, Mapping[str, type]]]) -> Values:
    """The flags that were given.

    Args:
        parser: knows the flags of the chosen classes.
        words: the command line.
        choices: every chosen class (without a name if none was) and its register.

    Raises:
        Refusal: for a flag of a class that was not chosen.
    """
    found, rest = parser.parse_known_args(words)
    names = [word[2:].partition("=")[0] for word in rest if word.startswith("--")]
    for name, (member, register) in itertools.product(names, choices):
        owners = [key for key, kind in register.items() if name in {f.name for f in replace(member, kind=kind).flags}]
        if owners:
            if member.name:
                raise Refusal(f"has no effect on --{member.flag} {member.name}; leave it out", name)
            raise Refusal(f"has no effect without --{member.flag} {owners[0]}; add that, or leave it out", name)
    if rest:
        near = meant(f"--{names[0]}", parser.flags, LIKE_FLAG) if names else ""
        parser.error(f"unrecognized arguments: {' '.join(rest)}{near}")
    return dict(vars(found))


def flag_names(groups: Groups, kinds: Iterable[type]) -> dict[str, str]:
    """Names of arguments to flags, for messages: flags stand for themselves, arguments for the flags that set them."""
    own = {flag.name: flag.name for flags in groups.values() for flag in flags}
    return {name: flag for name, flag in arguments_to_flags(*kinds).items() if flag in own} | own
