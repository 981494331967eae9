"""Pairs of flags, and of flag and run, that do not go together: one line, exit code 2, the flag and what to do."""

import pytest

from tests.cli.test_wrong_input import edit, refused

PAIRS = [
    ("--solver dopri5 --steps 20", "--steps has no effect on dopri5, which chooses its own steps; give --rtol"),
    ("--solver dopri5 --nfe 20", "--nfe has no effect on dopri5, which chooses its own steps; give --rtol"),
    ("--solver bosh3 --grid data", "--grid has no effect on bosh3, which chooses its own steps; give --rtol"),
    ("--solver dopri5 --rtol 0", "--rtol must be from 1e-6 to 1, got 0"),
    ("--solver dopri5 --rtol 2", "--rtol must be from 1e-6 to 1, got 2"),
    ("--solver dopri5 --atol 1e-9", "--atol must be from 1e-6 to 1, got 1e-09"),
    ("--nfe 7 --steps 7", "--nfe and --steps exclude each other; leave one of them out"),
    ("--nfe 0", "--nfe: must be at least 1"),
    ("--solver heun --nfe 7", "--nfe 7: no number of steps takes just as many; give 6 or 8"),
    ("--solver heun --nfe 1", "--nfe 1: no number of steps takes just as many; give 2"),
    ("--solver pc --nfe 11", "--nfe 11: no number of steps takes just as many; give 10 or 12"),
    ("--denoise_last True --nfe 1", "--nfe 1: no number of steps takes just as many; give 2"),
    ("--solver ab3 --mode ode", "--mode and --solver exclude each other: --mode sde is --solver em"),
    ("--solver ab3 --snr 0.2", "--snr has no effect on --solver ab3; leave it out"),
    ("--solver ab3 --rtol 0.1", "--rtol has no effect on --solver ab3; leave it out"),
    ("--rtol 0.1", "--rtol has no effect without --solver adaptive_heun; add that, or leave it out"),
    ("--times 0.6", "--times has no effect without --solver renoise; add that, or leave it out"),
    ("--solver pc --corrector none --snr 0.2", "--snr has no effect on --corrector none; leave it out"),
]


@pytest.mark.parametrize(("flags", "told"), PAIRS, ids=[flags for flags, _ in PAIRS])
def test_flags_that_do_not_go_together(cli, run, flags, told):
    assert told in refused(cli("generate", "--run_id", "tiny", *flags.split()), "generate", "")
    assert not (run / "generated_data").exists()


@pytest.mark.parametrize("flags", ["--solver dopri5 --steps 20", "--nfe 7 --steps 7", "--solver heun --nfe 7"])
def test_evaluate_draws_by_the_same_rules(cli, run, flags):
    refused(cli("evaluate", "--run_id", "tiny", *flags.split()), "evaluate", dict(PAIRS)[flags])


@pytest.mark.parametrize(
    ("flags", "pattern"),
    [
        *((f"--solver {solver}", "--solver .*(falls|never falls)") for solver in ("ab2", "ab3", "heun")),
        *((f"--solver {solver}", "never falls in time.*marginals='exact'") for solver in ("exp2", "exp3")),
        *((f"--solver em --grid {grid}", "never falls in time.*marginals='exact'") for grid in ("log_sigma", "data")),
    ],
)
def test_a_noise_level_that_falls(cli, run, flags, pattern):
    """The published marginals at small H: no angle, no second order in log sigma, no grid in it."""
    edit(run, lambda config: config["dynamics"]["arguments"].update(hurst=0.1, marginals="paper"))
    refused(cli("generate", "--run_id", "tiny", *flags.split()), "generate", pattern)
    assert not (run / "generated_data").exists()


def test_nfe_and_steps_find_the_same_set(cli, run):
    """Evaluations are another way to say steps: the same folder, nothing drawn twice."""
    words = ("generate", "--run_id", "tiny", "--n_samples", 2, "--solver")
    assert "network   10 evaluations per sample" in cli(*words, "ab3", "--nfe", 10).out
    assert "all samples were there" in cli(*words, "ab3", "--steps", 10).out
    assert "network   6 evaluations per sample" in cli(*words, "heun", "--nfe", 6).out
    assert "all samples were there" in cli(*words, "heun", "--steps", 3).out
    assert "network   4 evaluations per sample" in cli(*words, "ab2", "--nfe", 4, "--denoise_last", True).out
    assert "all samples were there" in cli(*words, "ab2", "--steps", 3, "--denoise_last", True).out
    names = {path.name for path in (run / "generated_data" / "model-final").iterdir() if path.is_dir()}
    assert names == {"ab3-10-ema", "heun-3-ema", "ab2-3-ema"}


def test_an_adaptive_solver_tells_what_it_took(cli, run):
    """Blocks take different numbers; its set is named after the tolerance, and found again by it."""
    words = ("generate", "--run_id", "tiny", "--n_samples", 5, "--batch_size", 2, "--solver", "dopri5", "--rtol", 0.01)
    result = cli(*words, "--trajectory", True)
    assert result.code == 0
    assert "dopri5, rtol 0.01, on cpu" in result.out
    assert "evaluations per sample" in result.out
    folder = run / "generated_data" / "model-final" / "dopri5-0.01-ema"
    assert (folder / "trajectory.png").exists()
    assert (folder / "trajectory.gif").exists()
    assert "all samples were there" in cli(*words).out
    assert "all samples were there" not in cli(*words[:-1], 0.02).out
