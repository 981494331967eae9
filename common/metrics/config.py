"""What evaluate.py is asked for: figures of samples, or figures of several sets side by side."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from common.config.flags import MANY, SHARE, Checked, at_least, height_by_width, place, several
from common.config.resolve import Member, section
from common.config.stored import read_config
from common.metrics import DEFAULTS, METRICS, Compared, Metric
from common.metrics.base import PARTS, REFERENCE
from common.metrics.compared import AMONG
from common.metrics.features import AUTO, FEATURES
from common.metrics.protocols import PROTOCOLS, Protocol
from common.metrics.statistics import SUFFIX, holds_statistics
from common.metrics.tables import FORMATS
from common.refusal import Refusal
from common.runs import RunFolder, SampleFolder
from common.runs.versions import PLAIN, average_kinds

CACHE = ".cache"
MOMENTS_ALONE = "fid"  # what needs no more of real data than moments
KEPT_WITH = frozenset({"plugin"})  # flags of every program that go with --compare


@dataclass(frozen=True)
class EvaluateConfig(Checked):
    """Which samples, and which figures about them.

    Attributes:
        run_id: id or folder name of the run, or latest (required, unless --samples and --reference name files)
        version: version of the weights (default: that of the newest generated data)
        samples: folder under generated_data/model-{version}, e.g. ab3-10-ema (default: the newest); without --run_id
            a folder or file of images, recordings or arrays of any program
        use_ema: samples of averaged weights, or of those that were trained (default: the newest)
        ema_decay: samples of this average of the weights (default: the newest)
        metrics: metrics separated by commas, each with the features that it compares if they are others than
            --features, e.g. sw,fid@inception (default: agreement, nearest, sw, kid, prdc, c2st,
            spectrum)
        features: what fid, kid, sw, prdc, vendi and rke compare: auto takes the first of lenet, efficientnet,
            classifier, speech and pixels that is there and suits the data; inception, inception-clean, dinov2 and clip
            are taken by name alone
        weights_dir: folder for files of weights of --features, into which missing ones are fetched
        protocol: samples, metrics and real data as a paper has them (default: none)
        reference: folder or file of real data for --samples; or, for fid alone, an .npz file with mu and sigma, as
            --save_statistics and pytorch-fid write it (default: what the run has learned from)
        reference_part: part of the real data that features are compared with (default: train; of --save_statistics
            without samples: all)
        n_reference: real samples whose features are compared with, at most, evenly spaced over the part (default: 5000;
            of --save_statistics without samples: all)
        image_size: height and width to which images of --samples and --reference are brought (default: as they are)
        per_class: also every figure of every class alone
        save_statistics: write mu and sigma of the features of the real data to this .npz file (default: do not)
        save_figures: file for the figures (default: metrics.json beside the samples of a run; else
            metrics-{name of --samples}.json in --output_dir)
        devices: processes that compute features; the figures are the same
        output_dir: folder that holds the runs
        data_dir: where the data lies now (default: where the run found it)
    """

    run_id: Annotated[str | None, place] = None
    version: str | None = None
    samples: Annotated[str | None, place] = None
    use_ema: bool | None = None
    ema_decay: Annotated[float | None, SHARE] = None
    metrics: Annotated[tuple[str, ...] | None, several(str)] = None
    features: str = AUTO
    weights_dir: Path = Path("weights")
    protocol: Annotated[str | None, tuple(PROTOCOLS)] = None
    reference: Path | None = None
    reference_part: Annotated[str | None, PARTS] = None
    n_reference: Annotated[int | None, at_least(1)] = None
    image_size: Annotated[int | tuple[int, int] | None, height_by_width] = None
    per_class: bool = False
    save_statistics: Path | None = None
    save_figures: Path | None = None
    devices: Annotated[int, at_least(1)] = 1
    output_dir: Path = Path("runs")
    data_dir: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.run_id is None and (self.reference is None or (self.samples is None and self.save_statistics is None)):
            raise Refusal(
                "is required: the id or folder name of a run, or latest; or name files by --samples and --reference",
                "run_id",
            )
        if self.run_id is None:
            self._refuse("needs --run_id; leave it out", "version", "use_ema", "ema_decay", "data_dir")
        else:
            self._refuse("is for --samples without --run_id; leave it out", "image_size")
            if self.reference is not None and not self.knows_moments_only:
                raise Refusal(
                    f"{self.reference} is no .npz file with mu and sigma; a run is compared with the data that it has "
                    "learned from, other samples by --samples without --run_id",
                    "reference",
                )
        for wanted in self.wanted:
            wanted.check()
            if self.knows_moments_only and wanted.name != MOMENTS_ALONE:
                raise Refusal(f"{self.reference} holds mu and sigma alone: enough for --metrics fid", "metrics")
        if self.save_statistics is not None and self.save_statistics.suffix != SUFFIX:
            raise Refusal(f"{self.save_statistics}: the name must end in {SUFFIX}", "save_statistics")
        for name in ("save_statistics", "save_figures"):
            if (path := getattr(self, name)) is not None and path.is_dir():
                raise Refusal(f"{path} is a folder; name a file", name)

    def _refuse(self, why: str, *names: str) -> None:
        for name in names:
            if getattr(self, name) is not None:
                raise Refusal(why, name)

    @property
    def paper(self) -> Protocol | None:
        """What --protocol names."""
        return PROTOCOLS[self.protocol] if self.protocol else None

    @property
    def knows_moments_only(self) -> bool:
        """Whether --reference is a file of statistics."""
        return self.reference is not None and holds_statistics(self.reference)

    @property
    def wanted(self) -> tuple["WantedMetric", ...]:
        """The metrics that are wanted."""
        paper = self.paper
        names = self.metrics or (paper and paper.metrics) or (MOMENTS_ALONE,) * self.knows_moments_only or DEFAULTS
        return tuple(WantedMetric.read(name) for name in names)

    @property
    def part(self) -> str:
        """The part of the real data that features are compared with."""
        usual = "all" if self.only_statistics else "train"
        return self.reference_part or (self.paper.reference_part if self.paper else usual)

    @property
    def most_reference(self) -> int | None:
        """Real samples that are compared with, at most; None for all."""
        usual = None if self.only_statistics else REFERENCE
        return self.n_reference or (self.paper.n_reference if self.paper else usual)

    @property
    def only_statistics(self) -> bool:
        """Whether nothing is judged: statistics of real data are all that is wanted."""
        return self.run_id is None and self.samples is None

    @property
    def cache(self) -> Path:
        """Folder for what is made of data, and made again if it is gone."""
        return self.output_dir / CACHE

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
                f"no such samples in {run.path}; there are: {known}. Draw some with generate.py --run_id {run.name}, "
                "or give --n_samples here: so many are drawn and judged"
            )
        chosen = fitting[-1]
        undated = [folder.name for folder in fitting if folder != chosen and not SampleFolder(folder).manifest.made]
        if not undated:
            return chosen, []
        which = f"no manifest.json says when {', '.join(undated)} was drawn"
        return chosen, [f"{which}, so {chosen.name} counts as the newest; --samples names another"]


@dataclass(frozen=True)
class CompareConfig(Checked):
    """Which sets of samples are held against each other.

    Attributes:
        compare: two or more runs or files of figures (metrics.json), with commas or spaces between them: a table of
            figures that they have, with what differences are decided; of a run those of its newest samples that have
            figures, of RUN:SET those of samples by name, e.g. digits-demo:ab3-10-ema (default: none)
        table: also write the table to this file, .csv, .tex (booktabs) or .md (default: do not)
        output_dir: folder that holds the runs
    """

    compare: Annotated[tuple[str, ...] | None, several(place), MANY] = None
    table: Path | None = None
    output_dir: Path = Path("runs")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compare is None:
            raise Refusal("is for --compare; name the runs that are compared by it, or leave it out", "table")
        if len(self.compare) < 2:
            raise Refusal(f"{self.compare[0]}: at least two runs or files of figures are needed", "compare")
        if self.table is not None and self.table.suffix not in FORMATS:
            raise Refusal(f"{self.table}: the name must end in one of {', '.join(FORMATS)}", "table")

    @classmethod
    def asked(cls, values: Mapping[str, Any]) -> "CompareConfig | None":
        """The comparison that flags ask for; None if they ask for none.

        Raises:
            Refusal: for flags that have no effect on it.
        """
        if not {"compare", "table"} & values.keys():
            return None
        own = {field.name for field in fields(cls)} | KEPT_WITH
        if "compare" in values and (idle := sorted(values.keys() - own)):
            raise Refusal("has no effect with --compare, which reads figures that were computed; leave it out", idle[0])
        found: CompareConfig = section(cls, values)
        return found


def chosen_metrics(config: EvaluateConfig, values: Mapping[str, Any], taken: frozenset[str]) -> list[Metric]:
    """The metrics that are wanted, with their arguments.

    Args:
        config: names them.
        values: flags that were given.
        taken: names of flags that belong to no metric.

    Raises:
        Refusal: for a flag of a metric that is not wanted.
    """
    names = {wanted.name for wanted in config.wanted}
    members = {name: metric_member(name, taken) for name in METRICS}
    own = {flag.name for name in names for flag in members[name].flags}
    for name, member in members.items():
        for idle in {flag.name for flag in member.flags} & values.keys() - own:
            raise Refusal(f"has no effect without {name} among --metrics; leave it out", idle)
    return [wanted.metric(members[wanted.name].given(values)) for wanted in config.wanted]


def metric_member(name: str, taken: frozenset[str] = frozenset()) -> Member:
    """A metric and its flags.

    Args:
        name: of the metric.
        taken: names of other flags of the program.
    """
    return Member(name, METRICS[name], "metrics", skip=taken | {f.name for f in fields(EvaluateConfig)})


class WantedMetric(NamedTuple):
    """The name of a metric, and that of the features that it compares; None for those of --features."""

    name: str
    features: str | None

    @classmethod
    def read(cls, text: str) -> "WantedMetric":
        """From ``fid`` or ``fid@inception``."""
        name, _, features = text.strip().partition(AMONG)
        return cls(name, features or None)

    def check(self) -> None:
        """Refuse what is unknown.

        Raises:
            Refusal: saying what there is.
        """
        if self.name not in METRICS:
            raise Refusal(f"{self.name!r} is unknown; there are {', '.join(METRICS)}", "metrics")
        if self.features is not None and not issubclass(METRICS[self.name], Compared):
            raise Refusal(f"{self.name} compares no features; leave {AMONG}{self.features} out", "metrics")
        if self.features not in (None, AUTO, *FEATURES):
            raise Refusal(f"{self.features!r} is unknown; there are {AUTO}, {', '.join(FEATURES)}", "metrics")

    def metric(self, arguments: Mapping[str, Any]) -> Metric:
        """The metric with arguments by name."""
        metric = METRICS[self.name](**arguments)
        if self.features is not None:
            assert isinstance(metric, Compared)  # looked at before
            metric.features = self.features
        return metric
