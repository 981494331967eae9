"""What evaluate.py is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from common.config.flags import SHARE, Checked, place, several
from common.config.resolve import Member
from common.config.stored import read_config
from common.metrics import DEFAULTS, METRICS, Metric
from common.metrics.features import AUTO
from common.refusal import Refusal
from common.runs import RunFolder, SampleFolder
from common.runs.versions import PLAIN, average_kinds


@dataclass(frozen=True)
class EvaluateConfig(Checked):
    """Which samples, and which figures about them.

    Attributes:
        run_id: id or folder name of the run, or latest (required)
        version: version of the weights (default: that of the newest generated data)
        samples: folder under generated_data/model-{version}, e.g. exp2-20-ema (default: the newest)
        use_ema: samples of averaged weights, or of those that were trained (default: the newest)
        ema_decay: samples of this average of the weights (default: the newest)
        metrics: metrics separated by commas (default: agreement, nearest, sw, kid, prdc)
        features: what fid, kid, sw, prdc, vendi and rke compare: auto takes the first of lenet, efficientnet,
            classifier and pixels that can be had and suits the data
        weights_dir: folder for files of weights of --features
        output_dir: folder that holds the runs
        data_dir: where the data lies now (default: where the run found it)
    """

    run_id: Annotated[str | None, place] = None
    version: str | None = None
    samples: str | None = None
    use_ema: bool | None = None
    ema_decay: Annotated[float | None, SHARE] = None
    metrics: Annotated[tuple[str, ...] | None, several(str)] = None
    features: str = AUTO
    weights_dir: Path = Path("weights")
    output_dir: Path = Path("runs")
    data_dir: Path | None = None

    def __post_init__(self) -> None:
        if self.run_id is None:
            raise Refusal("is required: the id or folder name of a run, or latest", "run_id")
        unknown = [name for name in self.metrics or () if name not in METRICS]
        if unknown:
            raise Refusal(f"{unknown[0]!r} is unknown; there are {', '.join(METRICS)}", "metrics")

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics that are wanted."""
        return self.metrics or DEFAULTS

    def samples_folder(self, run: RunFolder) -> tuple[Path, list[str]]:
        """The folder of samples that was asked for, or the newest, and what a user should know of how it was chosen.

        Raises:
            Refusal: if there is none, listing what there is.
        """
        folders = run.sample_sets()
        decays = () if run.is_released else read_config(run.path).recipe.averages
        kinds: dict[float | None, str] = dict(zip(decays, average_kinds(decays), strict=True))
        fitting = [
            folder
            for folder, place in zip(folders, map(SampleFolder, folders), strict=True)
            if self.version in (None, place.version)
            and self.samples in (None, folder.name)
            and self.use_ema in (None, place.kind and place.kind != PLAIN)
            and (self.ema_decay is None or place.kind == kinds.get(self.ema_decay))
        ]
        if not fitting:
            known = ", ".join(f"{folder.parent.name}/{folder.name}" for folder in folders) or "none"
            raise Refusal(
                f"no such samples in {run.path}; there are: {known}. Draw some with generate.py --run_id {run.name}"
            )
        chosen = fitting[-1]
        undated = [folder.name for folder in fitting if folder != chosen and not SampleFolder(folder).manifest.made]
        if not undated:
            return chosen, []
        which = f"no manifest.json says when {', '.join(undated)} was drawn"
        return chosen, [f"{which}, so {chosen.name} counts as the newest; --samples names another"]


def chosen_metrics(config: EvaluateConfig, values: Mapping[str, Any]) -> list[Metric]:
    """The metrics that are wanted, with their arguments.

    Args:
        config: names them.
        values: flags that were given.

    Raises:
        Refusal: for a flag of a metric that is not wanted.
    """
    wanted = {flag.name for name in config.names for flag in metric_member(name).flags}
    for name in METRICS:
        for idle in {flag.name for flag in metric_member(name).flags} & values.keys() - wanted:
            raise Refusal(f"has no effect without {name} among --metrics; leave it out", idle)
    return [METRICS[name](**metric_member(name).given(values)) for name in config.names]


def metric_member(name: str) -> Member:
    """A metric and its flags."""
    return Member(name, METRICS[name], "metrics", skip=frozenset(f.name for f in fields(EvaluateConfig)))
