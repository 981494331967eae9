"""Commands of README and docs/guide.md are run as they stand, training cut short; their Python blocks too."""

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from common.samplers import GRIDS, SOLVERS
from tests.cli.test_published import GENERATE, TRAIN
from tests.documents import PROGRAMS, ROOT, blocks, commands, run

README = (ROOT / "README.md").read_text()
# networks of the same kind that train in seconds
SHORT = "--train_steps 4 --val_check_interval 4 --device cpu"
SMALL = {"fdp-digits-inr": "--width 16 --depth 2"}
SMALL_UNET = "--model_channels 16 --channel_mult 1,1 --attn_resolutions 2"


@pytest.mark.parametrize("name", ["README.md", "docs/guide.md"])
def test_commands_run_in_order(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / name).read_text()
    assert {words[0] for words in commands(text)} >= set(PROGRAMS)
    demo = "mnist-demo_mnist_H0.9_K3"
    shutil.copytree(ROOT / "runs" / demo, Path("runs") / demo, ignore=shutil.ignore_patterns("generated_data"))
    for i in range(8):  # the images of one's own
        path = tmp_path / "DIR" / f"class{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 50), (30 * i, 100, 200)).save(path)
    for command in commands(text):
        starts_run = command[0] == "train.py" and "--resume" not in command
        # as many steps as the sampler needs to be one, not to be good
        preset = command[command.index("--preset") + 1] if "--preset" in command else None
        short = shlex.split(f"{SHORT} {SMALL.get(preset, SMALL_UNET)}") if starts_run else []
        run(command, *short, *(["--steps", "3"] if "--steps" in command or "mnist-demo" in command else []))
    assert list(tmp_path.glob("runs/first_digits_H0.9_K2/generated_data/model-final/*/grid.png"))
    for block in blocks(text, "python"):
        exec(compile(block, name, "exec"), {})


def test_what_there_is_is_counted() -> None:
    assert f"[{len(SOLVERS)} solvers, {len(GRIDS)} grids]" in README


def test_published_lines_are_those_that_are_tested() -> None:
    """README prints them as they were published; test_published.py runs them."""
    for line in "\n".join(blocks(README, "sh")).splitlines():
        words = line.split()
        if words[:2] == ["python", "train.py"]:
            assert " ".join(words[2:]) in TRAIN
        elif words[0] == "sh":
            assert (ROOT / words[1]).is_file()
        elif words[0] == "python":
            known, given = ({w for w in text.split() if w.startswith("--")} for text in (next(iter(GENERATE)), line))
            assert given <= known


def test_make_targets_exist() -> None:
    lines = [line for block in blocks(README, "bash") for line in block.splitlines()]
    targets = {line.split()[1] for line in lines if line.startswith("make ")}
    targets |= set(re.findall(r"`make (\w+)`", README))
    assert {"demo", "test", "lint"} <= targets
    for target in targets:
        result = subprocess.run(["make", "-n", "-C", str(ROOT), target], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr


def test_links_of_the_documents_lead_somewhere() -> None:
    for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))):
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", path.read_text()):
            assert (path.parent / link).exists(), f"{path.name}: {link}"


def test_the_workflow_runs_what_make_has() -> None:
    """The public CI calls the same targets as a developer, and every bound of pyproject.toml has its oldest version."""
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    (targets,) = re.findall(r"target: \[(.*)\]", workflow)
    for target in targets.split(", "):
        assert subprocess.run(["make", "-n", "-C", str(ROOT), target], capture_output=True).returncode == 0
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    bounds = dict(re.fullmatch(r"([\w-]+)>=([\d.]+)(?:,.*)?", line).groups() for line in wanted)
    pinned = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / "constraints-lowest.txt").read_text(), re.MULTILINE))
    assert bounds.keys() <= pinned.keys()
    for name, bound in bounds.items():
        assert pinned[name] == bound or pinned[name].startswith(f"{bound}."), name
