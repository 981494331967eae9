"""What follows how long a training is: intervals, averages."""

import pytest

import args
from common.config.length import averages, intervals
from common.config.schema import Keeping, Recipe
from common.config.stored import write_config
from common.refusal import Refusal
from common.runs import RunFolder
from common.training.resume import resumed
from tests.cli.test_flags import SHAPES, fitted


def trained(*words: str):
    order = args.parse_train([*words, "--wb_id", "x"])
    assert order is not None
    assert order.config is not None
    return order.config


@pytest.mark.parametrize("steps", [2, 3, 77, 330, 900, 5000, 10**6])
def test_whatever_the_length_something_is_kept(steps):
    for words in ((), ("--preset", "mnist-small"), ("--preset", "fdp-digits-uvit"), ("--data_name", "cifar10")):
        keeping = trained(*words, "--train_steps", str(steps)).keeping
        assert keeping.val_check_interval <= max(1, steps / 2)
        assert keeping.checkpoint_every <= max(1, steps / 4)
        assert 1 <= keeping.log_model_every_n <= steps


def test_given_intervals_stay():
    given = {"val_check_interval": 400, "checkpoint_every": 300, "log_model_every_n": 1000}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    keeping = trained("--preset", "digits", "--train_steps", "100", *words).keeping
    assert {name: getattr(keeping, name) for name in given} == given
    assert intervals(Keeping(), 100, given) == Keeping()


@pytest.mark.parametrize("preset", args.PRESETS)
def test_presets_keep_their_own_intervals_and_averages(preset):
    stated, config = args.PRESETS[preset], trained("--preset", preset)
    for name in ("val_check_interval", "checkpoint_every", "log_model_every_n"):
        assert getattr(config.keeping, name) == stated.get(name, getattr(Keeping, name))
    if "ema_decay" in stated:
        assert config.recipe.ema_decay == stated["ema_decay"]


def reach(recipe: Recipe) -> float:
    """Share of the training that the first average reaches back over."""
    assert recipe.ema_decay is not None
    return recipe.ema_every / (1 - recipe.ema_decay[0]) / recipe.train_steps


@pytest.mark.parametrize("words", [(), ("--preset", "mnist-small"), ("--preset", "fdp-mnist-inr")])
def test_an_average_reaches_back_over_the_same_share(words):
    whole = trained(*words).recipe
    for parts in (2, 5, 30):
        short = trained(*words, "--train_steps", str(whole.train_steps // parts)).recipe
        assert reach(short) == pytest.approx(reach(whole), rel=0.01)
    assert trained(*words, "--train_steps", str(4 * whole.train_steps)).recipe.ema_decay == whole.ema_decay


def test_a_given_decay_stays():
    recipe = trained("--preset", "digits", "--train_steps", "100", "--ema_decay", "0.99,0.9").recipe
    assert recipe.ema_decay == (0.99, 0.9)
    tiny = averages(Recipe(train_steps=5, ema_decay=(0.9999, 0.5)), 10**6, ())
    assert (tiny.ema_decay, tiny.ema_every) == ((0.0, 0.0), 1)  # nothing to average over
    sparse = trained("--preset", "digits", "--train_steps", "90", "--ema_every", "7").recipe
    assert sparse.ema_every == 7


def test_no_average_is_no_matter():
    assert averages(Recipe(train_steps=5), 10, ()).ema_decay == ()
    without = Recipe(train_steps=5, use_ema=False)
    assert averages(without, 10, ()) == without
    with pytest.raises(Refusal, match="ema_decay"):
        trained("--preset", "digits", "--use_ema", "False", "--ema_decay", "0.9")


@pytest.mark.parametrize("more", [(), ("--use_ema", "False"), ("--ema_every", "3"), ("--train_steps", "10000000")])
@pytest.mark.parametrize("preset", args.PRESETS)
def test_the_line_of_a_job_script_fits_the_run_that_it_started(tmp_path, preset, more):
    """Averages follow the number of steps, so those of the preset are no contradiction."""
    words = ("--preset", preset, "--train_steps", "50", "--wb_id", "j", *more)
    shape = SHAPES[str(args.PRESETS[preset]["data_name"])]
    config = fitted(*words, shape=shape)
    write_config(tmp_path, config)
    order = args.parse_train([*words, "--resume", "auto"])
    assert order is not None
    assert resumed(order.given, order.of_preset, RunFolder(tmp_path)).recipe == config.recipe
    if "ema_decay" in args.PRESETS[preset]:
        with pytest.raises(Refusal, match="ema_decay"):
            resumed({**order.given, "ema_decay": (0.123,)}, order.of_preset, RunFolder(tmp_path))
