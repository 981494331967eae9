"""README's commands are run as they stand, training cut short; its Python block too."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

import evaluate
import generate
import train

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
# a network of the same kind that trains in seconds
SHORT = shlex.split("--train_steps 4 --model_channels 16 --channel_mult 1,1 --val_check_interval 4 --device cpu")
MAINS = {"train.py": train.main, "generate.py": generate.main, "evaluate.py": evaluate.main}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def python_commands() -> list[list[str]]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("python ")]


def test_readme_has_commands_of_every_program() -> None:
    assert {words[0] for words in python_commands()} == set(MAINS)


@pytest.mark.slow
def test_commands_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for program, *flags in python_commands():
        starts_run = program == "train.py" and "--resume" not in flags
        if "--steps" in flags:  # as many steps as the sampler needs to be one, not to be good
            flags[flags.index("--steps") + 1] = "3"
        assert MAINS[program](flags + (SHORT if starts_run else [])) == 0, (program, flags)
    assert list(tmp_path.glob("runs/first_digits_H0.9_K2/generated_data/model-final/*/grid.png"))
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})


def test_make_targets_exist() -> None:
    targets = {line.split()[1] for block in blocks("bash") for line in block.splitlines() if line.startswith("make ")}
    targets |= set(re.findall(r"`make (\w+)`", README))
    assert {"demo", "test", "lint"} <= targets
    for target in targets:
        result = subprocess.run(["make", "-n", "-C", str(ROOT), target], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr


def test_links_of_the_documents_lead_somewhere() -> None:
    for document in ("README.md", "docs/architecture.md", "docs/results.md"):
        path = ROOT / document
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", path.read_text()):
            assert (path.parent / link).exists(), f"{document}: {link}"
