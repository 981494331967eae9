"""Figures about generated samples: ``python evaluate.py --run_id ID``; see ``--help``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import args
from common.files import write_json
from common.generation import read_samples
from common.metrics import ClassAgreement, NearestRatio, PixelClassifier
from common.runs import find, is_released, read_config

TRAIN_LIMIT, HELD_OUT_LIMIT = 60_000, 2_000  # real samples read for comparison,
NUMBERS_LIMIT = 2**29  # and numbers in them (2 GiB)


def main(argv: Sequence[str] | None = None) -> int:
    """Run evaluate.py; returns the exit code."""
    with args.user_errors("evaluate.py"):
        settings = args.parse_evaluate(argv)
        run = find(settings["run_id"], settings["output_dir"])
        folder = samples_folder(run, settings)
        arrays, classes = read_samples(folder)
        shape = {"channels": arrays.shape[-1], "image_size": arrays.shape[1]}  # a released folder may not say
        config = args.released_config(run, shape) if is_released(run) else read_config(run)
        dataset = args.load_data(data_settings(config, settings))
    images = dataset.to_unit_range(torch.from_numpy(arrays).movedim(-1, 1))
    numbers = torch.Size(dataset.shape).numel()
    train, train_labels = dataset.train.read(min(TRAIN_LIMIT, max(1, NUMBERS_LIMIT // numbers)))
    held_out, held_out_labels = dataset.held_out.read(HELD_OUT_LIMIT)
    train, held_out = dataset.to_unit_range(train), dataset.to_unit_range(held_out)
    print(f"samples   {folder}: {len(images)}")
    figures: dict[str, Any] = {"samples": len(images)}
    if "agreement" in settings["metrics"]:
        if classes is None:
            print("agreement needs labels; these samples were drawn without")
        else:
            print("classifier being fitted on training pixels ..", flush=True)
            classifier = PixelClassifier(train, train_labels)
            real = ClassAgreement(classifier)
            real.update(held_out, held_out_labels)
            drawn = ClassAgreement(classifier)
            drawn.update(images, torch.from_numpy(classes))
            figures["agreement"], figures["agreement_real"] = float(drawn.compute()), float(real.compute())
            print(
                f"agreement {figures['agreement']:.1%} read as the class asked for; of {len(held_out):,} held-out real"
            )
            print(f"          samples the same classifier reads {figures['agreement_real']:.1%} right")
    if "nearest" in settings["metrics"]:
        ratio = NearestRatio(train, held_out)
        ratio.update(images)
        figures["nearest"] = float(ratio.compute())
        print(f"nearest   {figures['nearest']:.3f} distance to the nearest training image, relative to held-out images")
        print("          (near 1: as new as fresh data; near 0: copies)")
    write_json(folder / "metrics.json", figures)
    print(f"grid      {folder / 'grid.png'}")
    return 0


def data_settings(config: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """What :func:`args.load_data` needs to find the data a run was trained on."""
    stored = config["settings"]
    folder = settings["data_dir"] or (Path(stored["data_dir"]) if stored.get("data_dir") else None)
    given = {key: stored.get(key) for key in args.DATA_FLAGS}
    return {**given, "data_name": config["data"].get("name"), "data_dir": folder, "download": False}


def samples_folder(run: Path, settings: dict[str, Any]) -> Path:
    """The folder of samples that was asked for, or the newest.

    Raises:
        ValueError: where there is none, listing what there is.
    """
    found = sorted((run / "generated_data").glob("model-*/*/data"), key=lambda path: path.stat().st_mtime)
    folders = [path.parent for path in found]
    version, name = settings["version"], settings["samples"]
    fitting = [f for f in folders if version in (None, f.parent.name.removeprefix("model-")) and name in (None, f.name)]
    if not fitting:
        known = ", ".join(f"{folder.parent.name}/{folder.name}" for folder in folders) or "none"
        raise ValueError(
            f"no such samples in {run}; there are: {known}. Draw some with generate.py --run_id {run.name}"
        )
    return fitting[-1]


if __name__ == "__main__":
    raise SystemExit(main())
