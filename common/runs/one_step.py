"""A tuned run as one call: white noise and labels to samples, as a program that torch alone loads and runs.

A network that was tuned by ``--objective consistency`` answers with a sample wherever it is asked on a path. Asked
once, at T, that is one call without a loop, a grid or a solver:

    noise, labels  ->  v_T = m mean + sc sqrt(1 + variance / sigma^2) noise  ->  x = D(v_T, T), in the units of the data

with mean and variance those of the run's prior. ``torch.export`` writes it down operation by operation, with the
weights.
"""

import copy
import io
import json
import zipfile
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from common.meta import MetaLearned
from common.refusal import Refusal
from common.runs.run import Run

ABOUT = "about.json"  # what the program takes and gives, inside the archive
FORMAT = 1
BATCH = 3  # of the example that is traced: a number that is no size of anything else, and not special as 1 is
TRACES = ("stack_trace",)  # what torch notes of where an operation was called: paths of this machine


class OneStep(nn.Module):
    """One evaluation of a tuned network, from white noise to samples.

    Args:
        run: the run; its dynamics, network and prior are used as they are.
        half: keep weights in 16 bits, which are computed with in 32.

    Raises:
        Refusal: for a run that is not tuned, or one whose network adapts to every sample.
    """

    def __init__(self, run: Run, *, half: bool = False) -> None:
        super().__init__()
        if not run.is_consistent:
            raise Refusal(
                f"one-step: {run.folder.name} is not tuned, so that one evaluation is no sample; tune it first: "
                f"python train.py --objective consistency {run.folder.words('init_from')}",
                "format",
            )
        if isinstance(run.denoiser.backbone, MetaLearned):
            raise Refusal(
                f"one-step: {run.folder.name} adapts to every sample by gradient steps, which torch.export does not "
                "write down; without --format its weights are written",
                "format",
            )
        self.network = copy.deepcopy(run.denoiser.backbone).requires_grad_(False)
        for parameter in self.network.parameters() if half else ():
            parameter.data = parameter.data.half()
        # a tuple: of the tables of the dynamics, the program holds those it reads, not all
        self._parts = run.denoiser, run.dynamics.scalar_path(), run.data

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Draw samples: those of the solver ``renoise`` in one evaluation, from the same noise.

        Args:
            noise: white noise (B, C, *S) float32.
            labels: classes (B,) int64; None for a network without labels.

        Returns:
            (B, C, *S) float32 in the units of the data: images in [0, 1], clipped to that; functions and sounds as they
            come, about in the range of the data.
        """
        denoiser, path, data = self._parts
        v = path.prior.sample(tuple(noise.shape), noise.unsqueeze(1)).squeeze(1)
        t = torch.full(noise.shape[:1], path.horizon, dtype=torch.float64, device=noise.device)
        weights = {f"backbone.{name}": x.float() for name, x in self.network.named_parameters()}
        return data.from_network(functional_call(denoiser, weights, (v, t, labels)))


def about(run: Run) -> dict[str, Any]:
    """What a program takes and gives, as plain data: shapes, types, range, classes, and the run it is of."""
    data = run.data
    inputs: dict[str, Any] = {"noise": {"shape": ["B", *data.shape], "dtype": "float32", "law": "standard normal"}}
    if data.num_classes is not None:
        inputs["labels"] = {"shape": ["B"], "dtype": "int64", "low": 0, "high": data.num_classes - 1}
    low, high = data.value_range
    return {
        "format": FORMAT,
        "run": run.folder.name,
        "version": run.version,
        "weights": run.kind,
        "sha256": run.source.sha256(run.kind),
        "torch": torch.__version__,
        "inputs": inputs,
        "output": {"shape": ["B", *data.shape], "dtype": "float32", "range": [low, high], "clipped": data.is_image},
        "kind": data.kind,
        "sample_rate": data.sample_rate,
        "classes": None if data.classes is None else list(data.classes),
    }


def one_step_program(run: Run, *, half: bool = False) -> bytes:
    """A tuned run as an archive of ``torch.export`` (.pt2), whose program is :class:`OneStep` for any batch.

    Nothing in it is pickled: operations and what is in ``about.json`` are JSON, weights are plain numbers.

    Args:
        run: what was loaded.
        half: keep weights in 16 bits.

    Raises:
        Refusal: for a run that is not tuned or a network that cannot be written down, or if the torch that is
            installed would pickle a part.
    """
    program = OneStep(run, half=half).eval()
    example = [torch.zeros(BATCH, *run.data.shape)]
    if run.data.num_classes is not None:
        example.append(torch.zeros(BATCH, dtype=torch.int64))
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        exported = torch.export.export(program, tuple(example), dynamic_shapes=tuple({0: batch} for _ in example))
    exported.example_inputs = None  # the one part that would be pickled
    for part in exported.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            for name in TRACES:
                node.meta.pop(name, None)
    buffer = io.BytesIO()
    torch.export.save(exported, buffer, extra_files={ABOUT: json.dumps(about(run), indent=2)})
    content = buffer.getvalue()
    if pickled(content):
        raise Refusal(
            f"one-step: torch {torch.__version__} would pickle {pickled(content)[0]} in it; take a newer torch",
            "format",
        )
    return content


def pickled(content: bytes) -> list[str]:
    """Which parts of an archive of ``torch.export`` are, or may be, pickled: all but JSON, plain numbers and nothing.

    Args:
        content: the archive.
    """
    found = []
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        sizes = {entry.filename.partition("/")[2]: entry.file_size for entry in archive.infolist()}
        top = archive.namelist()[0].partition("/")[0]
        plain = {"archive_format", "archive_version", "byteorder", ".data/version", ".data/serialization_id"}
        for name in sizes:
            if name.endswith("_config.json"):
                config = json.loads(archive.read(f"{top}/{name}"))["config"]
                folder = name.rpartition("/")[0]
                plain |= {f"{folder}/{part['path_name']}" for part in config.values() if not part["use_pickle"]}
    for name, size in sizes.items():
        if size and name not in plain and not name.endswith(".json"):
            found.append(name)
    return found
