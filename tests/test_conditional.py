"""Tasks through Job: every task under every kind of process and network, in blocks of any size."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import args
from common.config.build import build_denoiser
from common.config.plugins import class_of
from common.config.resolve import fit_to_data
from common.config.schema import RunConfig
from common.data.spec import DataSpec
from common.generation.blocks import Job
from common.generation.config import SampleConfig
from common.generation.opening import job_of
from common.generation.sections import InputConfig
from common.runs import Run, RunFolder

COLOURS = DataSpec("image", (3, 8, 8))
SOUND = DataSpec("sound", (1, 16), (-1.0, 1.0), 16)
PROCESSES, NETWORKS, SOLVERS = ("fvp", "vp", "cld", "heat"), ("unet", "uvit", "inr"), ("ab2", "exp-sde")
TASKS: dict[str, dict[str, object]] = {
    "inpaint": {"mask": "random:0.4"},
    "deblur": {"lowpass_radius": 2.5},
    "colorize": {},
    "super_resolution": {},
    "sense": {"sensors": 5, "anywhere": True},
    "bandwidth": {},
}
SMALL = {
    "unet": "--model_channels 8 --channel_mult 1 --num_res_blocks 1 --attn_resolutions 1 --num_heads 1",
    "unet1d": "--model_channels 8 --channel_mult 1 --num_heads 1",
    "uvit": "--embed_dim 8 --depth 1 --num_heads 1 --patch_size 4",
    "inr": "--width 8 --depth 2 --inner_steps 1",
}
N, M = 2, 4


@cache
def untrained(process: str, network: str, spec: DataSpec) -> Run:
    """A network of random weights, no layer of which answers zero."""
    words = f"--dynamics {process} --model_name {network} --data_name digits --conditioning False {SMALL[network]}"
    order = args.parse_train(words.split())
    assert order is not None
    assert order.config is not None
    config: RunConfig = order.config
    config = fit_to_data(config, spec, class_of(config.dynamics), class_of(config.network))
    torch.manual_seed(0)
    denoiser = build_denoiser(config).eval()
    with torch.no_grad():
        for weight in denoiser.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return Run(denoiser, denoiser.dynamics, config, config.sample, RunFolder(Path("none")), None, "model")


def job(run: Run, task: str, solver: str, size: int, **more: object) -> Job:
    config = SampleConfig(
        n_samples=M,
        solver=solver,
        steps=2,
        task=task,
        task_arguments=TASKS[task],
        batch_size=size,
        method_arguments={"iterations": 3},
        **more,
    )
    shape = (N, *run.data.grid, run.data.channels)
    clean = np.random.default_rng(0).uniform(*run.data.value_range, shape).astype(np.float32)
    return job_of(run, config, torch.device("cpu"), inputs=InputConfig(input=clean))


@pytest.fixture
def _exact():
    """Float64: derivatives of random weights are no covariance, so that rounding may grow without limit in float32."""
    torch.set_default_dtype(torch.float64)  # which conftest puts back
    untrained.cache_clear()
    yield
    untrained.cache_clear()


def drawn(made: Job) -> np.ndarray:
    return np.concatenate([made.draw(block, lambda _, __: None)[0] for block in made.blocks])


CASES = [
    (task, process, network, solver)
    for task in TASKS
    for process in PROCESSES
    for network in NETWORKS
    for solver in SOLVERS
]


def is_fast(index: int, case: tuple[str, str, str, str]) -> bool:
    """One of every process and network, with tasks and solvers in turn."""
    task, process, network, solver = case
    turn = PROCESSES.index(process) * len(NETWORKS) + NETWORKS.index(network)
    return list(TASKS).index(task) == turn % len(TASKS) and SOLVERS.index(solver) == (turn // len(TASKS) + turn) % 2


MARKED = [
    pytest.param(*case, marks=[] if is_fast(i, case) else pytest.mark.slow, id="-".join(case))
    for i, case in enumerate(CASES)
]


@pytest.mark.usefixtures("_exact")
@pytest.mark.parametrize(("task", "process", "network", "solver"), MARKED)
def test_every_task_under_every_process_and_network_in_blocks_of_any_size(task, process, network, solver):
    spec = SOUND if task == "bandwidth" else COLOURS
    run = untrained(process, "unet1d" if network == "unet" and spec is SOUND else network, spec)
    whole = drawn(job(run, task, solver, 7))
    assert whole.shape == (N * M, *spec.grid, spec.channels)
    assert np.isfinite(whole).all()
    for size in (1, 3):
        other = float(np.abs(drawn(job(run, task, solver, size)) - whole).max())
        assert other <= 1e-5
    pairs = whole.reshape(N, M, -1)  # every input has the same seeds, and its own observation
    assert np.abs(pairs[0] - pairs[1]).max() > 1e-4
    assert (np.abs(pairs[:, 0] - pairs[:, 1]).max(1) > 1e-4).all()


def test_the_fast_cases_hold_every_task_process_network_and_solver():
    fast = [case for i, case in enumerate(CASES) if is_fast(i, case)]
    assert len(fast) == len(PROCESSES) * len(NETWORKS)
    assert [set(names) for names in zip(*fast, strict=True)] == [
        {*TASKS},
        {*PROCESSES},
        {*NETWORKS},
        {*SOLVERS},
    ]
