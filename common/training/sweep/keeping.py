"""What is kept of a sweep as a whole, in a folder of its own beside the runs: what it is, and logs of its members."""

from pathlib import Path

from common.files import read_json, write_json
from common.refusal import Refusal
from common.training.sweep.flags import FLAG, Axis
from common.training.sweep.order import SweepMember, SweepOrder

NOTE, LOGS = "sweep.json", "logs"
FORMAT = 1


def log_of(order: SweepOrder, member: SweepMember) -> Path:
    """Where the output of a member goes."""
    return order.folder / LOGS / f"{member.id}.log"


def note(order: SweepOrder) -> None:
    """Keep what a sweep is, unless that is kept already."""
    if not (path := order.folder / NOTE).exists():
        swept = [[axis.flag, list(axis.values)] for axis in order.axes]
        members = [member.id for member in order.members]
        write_json(path, {"format": FORMAT, "sweep": swept, "flags": dict(order.fixed), "members": members})


def check_same(order: SweepOrder) -> None:
    """Make sure that a sweep, if it was begun, is still the same.

    Raises:
        Refusal: naming the flag that differs, or if something else lies there.
    """
    path = order.folder / NOTE
    if not path.exists():
        if order.folder.exists() and not (order.folder.is_dir() and is_empty(order.folder)):
            raise Refusal(f"{order.id}: {order.folder} is there, and is no sweep; take another id", "wb_id")
        return
    swept_then, fixed_then = kept_at(path)
    for axis in order.axes:
        before = next((other for other in swept_then if other.flag == axis.flag), None)
        if before != axis:
            found = f"which has {before}" if before else f"in which {axis.flag} is not swept"
            raise Refusal(f"{axis} contradicts the sweep {order.id}, {found}{otherwise()}", FLAG)
    if swept_then != order.axes:
        found = " ".join(map(str, swept_then))
        raise Refusal(f"contradicts the sweep {order.id}, which has {found}, in that order{otherwise()}", FLAG)
    for name in sorted({*fixed_then, *order.fixed}):
        then, now = fixed_then.get(name), order.fixed.get(name)
        if then != now:
            was = "was begun without it" if then is None else f"has {then}"
            raise Refusal(
                f"{'missing' if now is None else now} contradicts the sweep {order.id}, which {was}{otherwise()}", name
            )


def is_empty(folder: Path) -> bool:
    """Whether nothing lies in a folder but what a lock and a kill leave."""
    return all(place.name.startswith(".") for place in folder.iterdir())


def otherwise() -> str:
    """What to do about a command line that is another one."""
    return "; give the same command, or another --wb_id"


def kept_at(path: Path) -> tuple[tuple[Axis, ...], dict[str, str]]:
    """Axes and common flags of a sweep, from its file, which may be anybody's.

    Raises:
        Refusal: if it is damaged.
    """
    try:
        kept = read_json(path)
        if kept["format"] != FORMAT:
            raise ValueError(f"format {kept['format']!r}; this program reads {FORMAT}")
        swept = tuple(Axis(str(flag), tuple(map(str, texts))) for flag, texts in kept["sweep"])
        return swept, {str(name): str(text) for name, text in kept["flags"].items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Refusal(f"{path} does not say what the sweep is ({error}); move it away", "wb_id") from error
