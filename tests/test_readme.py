"""Commands of README and docs/guide.md are run as they stand, training cut short; their Python blocks too."""

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from common.runs.pretrained import PRETRAINED
from common.samplers import GRIDS, SOLVERS
from tests.cli.test_published import GENERATE, TRAIN
from tests.cli.test_published_fdp import COMMANDS
from tests.documents import PROGRAMS, ROOT, blocks, commands, run
from tests.marks import later

README = (ROOT / "README.md").read_text()
# networks of the same kind that train in seconds
SHORT = "--train_steps 4 --val_check_interval 4 --device cpu"
SMALL = {"fdp-digits-inr": "--width 16 --depth 2"}
SMALL_UNET = "--model_channels 16 --channel_mult 1,1 --attn_resolutions 2"


@pytest.mark.parametrize("name", ["README.md", later("docs/guide.md")])
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
        few = ["--steps", "3"] if "--steps" in command or "mnist-demo" in command else []
        few += ["--n_inputs", "2", "--n_samples", "2"] if "--task" in command else []
        run(command, *short, *few)
    assert list(tmp_path.glob("runs/first_digits_H0.9_K2/generated_data/model-final/*/grid.png"))
    for block in blocks(text, "python"):
        exec(compile(block, name, "exec"), {})


def test_what_there_is_is_counted() -> None:
    assert f"[{len(SOLVERS)} solvers, {len(GRIDS)} grids]" in README


def test_published_lines_are_those_that_are_tested() -> None:
    """docs/published.md prints GFDM's as they were published; test_published.py runs them."""
    lines = "\n".join(blocks((ROOT / "docs" / "published.md").read_text(), "sh")).splitlines()
    printed = {name: [line.removeprefix(f"python {name}.py ") for line in lines if f"{name}.py" in line]
               for name in ("train", "generate")}  # fmt: skip
    assert sorted(printed["train"]) == sorted(TRAIN)
    assert printed["generate"] == list(GENERATE)[:1]  # the others differ by their run
    assert len(lines) == len(TRAIN) + 1


def expanded(line: str) -> list[str]:
    """A line with braces as a shell expands them."""
    before, brace, rest = line.partition("{")
    inside, _, after = rest.partition("}")
    return [before + one + end for one in inside.split(",") for end in expanded(after)] if brace else [line]


def test_the_table_of_published_commands_has_no_row_missing() -> None:
    """Every line of FDP's README, and what stands for it here as test_published_fdp.py runs it."""
    table = README.split("| their command | ours |")[1].split("\n\n")[0]
    rows = [tuple(cell.strip() for cell in line.strip("| ").split(" | ")) for line in table.splitlines()[2:]]
    same = [line for theirs, ours in rows if ours == "the same" for cell in re.findall("`(.*?)`", theirs)
            for line in expanded(cell)]  # fmt: skip
    for theirs, ours in COMMANDS.items():
        assert theirs in same if not ours else any(theirs in one and f"`{ours}`" in other for one, other in rows)
    assert {line for line in same if line.startswith("sh ")} == {line for line, ours in COMMANDS.items() if not ours}
    released = re.findall(r"--pretrained ([\w.-]+)", README)
    assert {name.partition("-")[0] for name in released if name in PRETRAINED} == {"gfdm", "fdp"}


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
