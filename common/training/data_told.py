"""What a training says of its data before it starts and keeps with the run: what was found, what is made of it."""

from common.config.schema import RunConfig
from common.data.source import DataSet
from common.data.spec import NAMED
from common.table import table


def samples_of(dataset: DataSet) -> dict[str, int]:
    """Classes by name, and how many samples there are to learn each from; nothing without labels."""
    return dict(zip(dataset.classes or (), dataset.spec.per_class or (), strict=True))


def paragraph(dataset: DataSet, config: RunConfig) -> list[str]:
    """Lines about a data set.

    Args:
        dataset: what was found.
        config: what is made of it.
    """
    spec, data = dataset.spec, config.data
    counts = samples_of(dataset)
    lines = [f"data      {data.data_name}, {spec.samples:,} samples of {'x'.join(map(str, spec.shape))}"]
    if counts:
        each = ": " + ", ".join(f"{name} {count:,}" for name, count in counts.items()) if len(counts) <= NAMED else ""
        unused = "" if data.conditioning else ", not used (--conditioning False)"
        lines[0] += f", {len(counts):,} classes{each}{unused}"
    lines += dataset.found
    if spec.is_image:
        mirrored = ", mirrored at random (--flip False leaves that out)" if data.flip else ""
        lines.append(f"images    {dataset.treatment}{mirrored}")
    if data.conditioning and (empty := [name for name, count in counts.items() if not count]):
        named = ", ".join(empty[:NAMED]) + (f" and {len(empty) - NAMED:,} more" if len(empty) > NAMED else "")
        lines.append(
            f"note      no sample to learn from of classes {named}: they are drawn only if --labels names them"
        )
    return lines


def table_of_classes(dataset: DataSet) -> list[str]:
    """Every class with its number and how many samples there are to learn from and held out; nothing without labels."""
    counts = samples_of(dataset)
    held = dataset.held_out.labels.bincount(minlength=len(counts)).tolist() if counts else []
    rows = [(str(i), name, str(n), str(m)) for i, ((name, n), m) in enumerate(zip(counts.items(), held, strict=True))]
    return ["", *table([("label", "class", "to learn from", "held out"), *rows])] if rows else []
