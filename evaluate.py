"""Figures about generated samples: ``python evaluate.py --run_id ID``; see ``--help``."""

from collections.abc import Sequence
from dataclasses import replace

from common.program import run_program, start_program

if __name__ == "__main__":
    start_program()  # the following takes seconds

import args
from common import stopping
from common.config.build import load_data
from common.config.parser import reporting
from common.config.stored import read_config
from common.files import refuse_links, remove_leftovers, write_json
from common.generation.blocks import read_samples
from common.generation.opening import drawn_from
from common.generation.sets import check_labels, check_set
from common.metrics import Evidence, evaluate
from common.refusal import Refusal
from common.runs import SampleFolder, find
from gfdm.released import released_config


def main(argv: Sequence[str] | None = None) -> int:
    """Run evaluate.py; returns the exit code."""
    with reporting("evaluate.py", args.evaluate_flag_names):
        config, metrics = args.parse_evaluate(argv)
        stopping.begin_work()
        run = find(str(config.run_id), config.output_dir)
        folder, remarks = config.samples_folder(run)
        refuse_links(run.path, folder)  # beside the samples the figures are written
        remove_leftovers(folder)
        for remark in [*remarks, *check_set(folder)]:
            print(f"note      {remark}")
        arrays, labels = read_samples(folder)
        shape = {"channels": arrays.shape[-1], "image_size": arrays.shape[1:-1]}  # a released folder may not say
        trained = released_config(run, shape) if run.is_released else read_config(run.path)
        check_labels(folder, labels, trained.sample.num_classes)
        data = trained.data
        if data.data_dir and not config.data_dir:
            print(f"note      data is read from {data.data_dir}, as config.json says")
        dataset = load_data(replace(data, data_dir=config.data_dir or data.data_dir, download=False))
        if not dataset.spec.names_classes_like(trained.sample):
            raise Refusal(
                f"does not hold what {run.name} was trained on: {trained.sample.other_classes(dataset.spec)}",
                "data_dir",
            )
        if trained.sample.samples not in (None, dataset.spec.samples):
            print(
                f"note      there are {dataset.spec.samples:,} samples to learn from, {run.name} had "
                f"{trained.sample.samples:,}: it may have learned from what is held out now"
            )
        if dataset.is_image:
            print(f"images    {dataset.treatment}")
        for line in drawn_from(folder, () if run.is_released else trained.recipe.averages):
            print(line)
        figures = evaluate(Evidence.of(arrays, labels, dataset, folder), metrics)
        write_json(SampleFolder(folder).figures, figures)
        print(f"figures   {SampleFolder(folder).figures}\ngrid      {SampleFolder(folder).grid}")
        return 0


if __name__ == "__main__":
    run_program(main, "stopped; the same command starts again")
