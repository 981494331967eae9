"""What --dry_run says: memory as tensors take it, a straight line over sizes, and no training that would be killed."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import args
from common.config.build import load_data
from common.config.plugins import class_of
from common.config.resolve import fit_to_data
from common.memory import left_in_control_groups
from common.training import introduction, trial
from common.training.build import build_module
from common.training.memory import TensorMemory
from common.training.trial import Estimate, Trial, estimate, evaluations, try_size
from common.units import in_bytes, in_time
from tests.training import tiny

CPU = torch.device("cpu")


def made(*words):
    """Configuration, data and module of a small run."""
    order = args.parse_train([*tiny.command(**tiny.FLAGS), *words])
    data = load_data(order.config.data)
    config = fit_to_data(order.config, data.spec, class_of(order.config.dynamics), class_of(order.config.network))
    return config, data, build_module(config, None, None)


def test_more_processes_than_cores_are_told(monkeypatch, capsys):
    """Unless srun started them, which binds every task to cores of its own."""
    monkeypatch.setattr(introduction, "cores", lambda: 2)
    config, data, module = made("--devices", "3")
    line = "note      --devices 3 are as many processes, which share 2 cores: more gain nothing\n"
    for devices, variables, count in ((2, {}, 0), (3, {}, 1), (3, {"SLURM_NTASKS": "3", "SLURM_PROCID": "0"}, 0)):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        config = replace(config, hardware=replace(config.hardware, devices=devices))
        introduction.introduce(config, module, CPU, data)
        assert capsys.readouterr().out.count(line) == count


def test_tensor_memory_is_what_lives_at_once():
    before = torch.ones(1000)
    with TensorMemory() as seen:
        a = torch.zeros(1000)  # 4 kB
        b = a + before  # 8 kB
        view = b[10:20].view(2, 5)  # nothing
        before.mul_(2)  # nothing: was there before
        assert seen.live == seen.peak == 8000
        del a
        assert seen.live == 4000
        del b
        assert seen.live == 4000  # the view holds it
        del view
        assert seen.live == 0
    assert seen.peak == 8000


def test_tensor_memory_counts_what_backward_needs():
    layers = nn.Sequential(*(layer for _ in range(4) for layer in (nn.Linear(64, 64, bias=False), nn.Sigmoid())))
    x = torch.randn(256, 64)
    with TensorMemory() as seen, torch.no_grad():
        layers(x)
    without = seen.peak
    with TensorMemory() as seen:
        layers(x).sum().backward()
    activation, gradients = 256 * 64 * 4, 4 * 64 * 64 * 4
    assert without <= 2 * activation  # an input and an output
    assert 4 * activation <= seen.peak <= 10 * activation + gradients
    assert seen.live == gradients


def test_a_trial_tells_state_from_activations():
    config, data, module = made("--optimizer", "adam")
    weights = sum(p.numel() * 4 for p in module.network.parameters())
    one, two, four = (try_size(config, data, module, CPU, n) for n in (1, 2, 4))
    assert 3 * weights <= one.kept_bytes < 3.2 * weights  # gradients and two moments
    assert one.kept_bytes == four.kept_bytes
    activations = [t.step_bytes - t.kept_bytes for t in (one, two, four)]
    line = activations[1] + 2 * (activations[1] - activations[0])
    assert line == pytest.approx(activations[2], rel=0.1)
    assert four.call_bytes < activations[2]
    assert min(one.step_seconds, one.call_seconds) > 0


def a_trial(samples, fixed=3e6, each=2e6):
    return Trial(samples, fixed + 1e6 + each * samples, fixed, 0.1 + 0.01 * samples, each * samples / 4, 0.02, 1.0)


def test_the_line_through_two_sizes():
    config = replace(made()[0], recipe=replace(made()[0].recipe, batch_size=64, train_steps=1000))
    found = Estimate(a_trial(8), a_trial(2), 10**8, config)
    assert found.peak_bytes(64) == pytest.approx(1e8 + 4e6 + 2e6 * 64)
    assert found.step_seconds == pytest.approx(0.1 + 0.64)
    assert found.seconds(val_samples=64) > 1000 * found.step_seconds
    assert not found.is_measured
    assert found.tried == "2 and 8 samples"
    assert found.largest_batch(10**9) == 64
    assert found.largest_batch(10**8) == 32  # 95 % of 100 MB hold 4 + 2 * 32, not 4 + 2 * 64
    assert found.largest_batch(10**6) == 0


def test_samples_that_are_judged_take_time():
    """10 evaluations of the network each, at steps 300, 600, 900 and 1,000."""
    steps = ("--train_steps", "1000", "--batch_size", "500")
    plain, judged = (
        Estimate(a_trial(8), a_trial(2), 10**8, made(*steps, *more)[0])
        for more in ((), ("--eval_every", "300", "--eval_samples", "400"))
    )
    assert judged.seconds(64) - plain.seconds(64) == pytest.approx(4 * 10 * judged.call_seconds(400))
    assert evaluations(plain.config) == 0
    assert evaluations(judged.config) == 4


def test_sizes_grow_as_far_as_memory_and_time_allow(monkeypatch):
    config, data, module = made("--batch_size", "100")
    asked: list[int] = []

    def tried(config, dataset, module, device, samples):
        asked.append(samples)
        return a_trial(samples)

    monkeypatch.setattr(trial, "try_size", tried)
    assert estimate(config, data, module, CPU).is_measured
    assert asked == [1, 2, 8, 32, 100]
    monkeypatch.setattr(trial, "available", lambda device: 8e7)
    asked.clear()
    assert not estimate(config, data, module, CPU).is_measured
    assert asked == [1, 2, 8, 16]  # 32 would take 68 MB, and 64 MB are a share of what is free
    monkeypatch.setattr(trial, "available", lambda device: 3e10)
    monkeypatch.setattr(trial, "SECONDS", 2.0)
    asked.clear()
    estimate(config, data, module, CPU)
    assert asked == [1, 2, 8, 32]  # 100 samples: three steps of 1.1 s, 64: of .74 s


@pytest.mark.parametrize(
    ("listing", "names"),
    [
        ("0::/jobs/7\n", ("jobs/7", "memory.max", "memory.current", "inactive_file")),
        (
            "9:name=systemd:/\n4:cpu,memory:/jobs/7\n",
            ("memory/jobs/7", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
    ],
    ids=["version 2", "version 1"],
)
def test_a_job_has_what_its_control_groups_allow(tmp_path, listing, names):
    folder, limit, usage, cache = names
    (tmp_path / "cgroup").write_text(listing)
    top = tmp_path / "sys"
    for group, allowed in ((top / folder, "8000000000"), ((top / folder).parent, "max")):
        group.mkdir(parents=True, exist_ok=True)
        (group / limit).write_text(f"{allowed}\n")
        (group / usage).write_text("3000000000\n")
        (group / "memory.stat").write_text(f"anon 1\n{cache} 500000000\n")
    assert list(left_in_control_groups(tmp_path / "cgroup", top)) == [5_500_000_000]
    assert list(left_in_control_groups(tmp_path / "missing", top)) == []


def test_amounts_in_words():
    assert [in_bytes(x) for x in (12, 3.5e8, 999.6e6, 1.24e9, 23.4e9)] == [
        "12 bytes",
        "350 MB",
        "1.0 GB",
        "1.2 GB",
        "23 GB",
    ]
    assert [in_time(x) for x in (0.0154, 0.9, 1.0, 59, 100, 5400, 200000, 1e8)] == [
        "15 ms", "900 ms", "1.0 s", "59 s", "1.7 min", "1.5 h", "2.3 days", "3.2 years",
    ]  # fmt: skip
