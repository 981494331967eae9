"""Figures about generated samples: ``python evaluate.py --run_id ID``; see ``--help``."""

from collections.abc import Sequence

from common.program import run_program, start_program

if __name__ == "__main__":
    start_program()  # the following takes seconds

import args
from common import stopping
from common.config.parser import reporting
from common.config.stored import read_config
from common.files import refuse_links, remove_leftovers, write_json
from common.generation.blocks import read_samples
from common.generation.opening import drawn_from
from common.generation.sets import check_labels, check_set
from common.metrics import Compared, Evidence, evaluate
from common.metrics.features import Wanted, choose
from common.metrics.reference import real_data
from common.runs import SampleFolder, find
from gfdm.released import released_config

CACHE = ".cache"  # beside the runs: what is made of data, and made again if it is gone


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
        dataset, remarks = real_data(run.name, trained, config.data_dir)
        for remark in remarks:
            print(f"note      {remark}")
        if dataset.is_image:
            print(f"images    {dataset.treatment}")
        for line in drawn_from(folder, () if run.is_released else trained.recipe.averages):
            print(line)
        features = None
        if any(isinstance(metric, Compared) for metric in metrics):
            features = choose(config.features, Wanted(dataset, config.weights_dir, config.output_dir / CACHE))
            print(f"features  {features.account}")
        figures = evaluate(Evidence.of(arrays, labels, dataset, folder, features), metrics)
        write_json(SampleFolder(folder).figures, figures)
        print(f"figures   {SampleFolder(folder).figures}\ngrid      {SampleFolder(folder).grid}")
        return 0


if __name__ == "__main__":
    run_program(main, "stopped; the same command starts again")
