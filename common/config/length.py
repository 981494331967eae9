"""What follows how long a training is, unless a user says otherwise: how often things are kept, and the averages.

A preset's own values are for its own number of steps. A training that is cut short validates, draws a grid and saves a
checkpoint all the same, and its averages reach back over the same share of it (the relative length of EDM2, arXiv
2312.02696, section 3.1).
"""

from collections.abc import Collection
from dataclasses import replace

from common.config.schema import Keeping, Recipe

VALIDATIONS, CHECKPOINTS, VERSIONS = 2, 4, 1  # at least, in a whole training
EVERY, SHARE = 10, 20  # steps between updates of the average of a preset of our own, which reaches over a twentieth


def of_length(steps: int) -> dict[str, object]:
    """Values of a preset of so many steps, whose average reaches back over a twentieth of them."""
    return {"train_steps": steps, "ema_decay": (round(1 - SHARE * EVERY / steps, 6),), "ema_every": EVERY}


def intervals(keeping: Keeping, steps: int, given: Collection[str]) -> Keeping:
    """Intervals that are no longer than their share of a training.

    Args:
        keeping: intervals as given, of the preset, or the defaults.
        steps: length of the training.
        given: flags that a user gave, whose values stay.
    """

    def within(name: str, stated: int, share: int) -> int:
        return stated if name in given else min(stated, max(1, steps // share))

    return replace(
        keeping,
        val_check_interval=within("val_check_interval", keeping.val_check_interval, VALIDATIONS),
        checkpoint_every=within("checkpoint_every", keeping.checkpoint_every, CHECKPOINTS),
        log_model_every_n=within("log_model_every_n", keeping.log_model_every_n, VERSIONS),
    )


def averages(recipe: Recipe, length: int, given: Collection[str]) -> Recipe:
    """A training whose averages reach back over their share of it, if it is shorter than they were stated for.

    An average reaches back over about every / (1 - decay) steps; in a training of a third of the length that is a
    third, with updates that are three times as dense.

    Args:
        recipe: the training, with its averages as they were stated.
        length: steps of the training that they were stated for.
        given: flags that a user gave, whose values stay.
    """
    if not recipe.use_ema:
        return recipe
    shortened = max(1.0, length / recipe.train_steps)
    every = recipe.ema_every if "ema_every" in given else max(1, int(recipe.ema_every / shortened))
    if "ema_decay" in given:
        return replace(recipe, ema_every=every)
    density = shortened * every / recipe.ema_every
    decays = tuple(round(max(0.0, 1 - (1 - decay) * density), 6) for decay in recipe.ema_decay or ())
    return replace(recipe, ema_every=every, ema_decay=decays)
