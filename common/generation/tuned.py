"""What a user should know of network and solver: a tuned network answers with samples, others with means of many."""

from common.config.tuned import folded_guidance
from common.generation.config import SampleConfig
from common.runs import Run
from common.samplers import SOLVERS, default_solver


def notes_on(run: Run, config: SampleConfig) -> tuple[str, ...]:
    """Notes on how samples of a run are drawn.

    Args:
        run: the run.
        config: how, every default filled in.
    """
    name, renoises, found = str(config.solver), SOLVERS[str(config.solver)].renoises, list[str]()
    if renoises and not run.is_consistent:
        found.append(
            f"{name} takes answers of the network for samples, and those of {run.folder.name} are means of many: "
            "samples are blurred. Tune it for that: python train.py --objective consistency "
            f"{run.folder.words('init_from')}"
        )
    if run.is_consistent and not renoises:
        own = default_solver(run.dynamics, consistent=True)
        found.append(
            f"{run.folder.name} was tuned to answer with samples, and {name} takes answers for means of many: samples "
            f"are off; --solver {own} does with {SOLVERS[own].default_steps} evaluations"
        )
    folded = folded_guidance(run.config)
    if folded != 1 and config.guidance:
        found.append(
            f"guidance of scale {folded:g} is folded into this network already; what is asked for here comes on top: "
            "leave it out for that scale alone"
        )
    elif run.is_consistent and config.guidance:
        found.append(
            f"--guidance {config.guidance} steers means of many, and {run.folder.name} answers with samples; guidance "
            "is folded in by a tuning: train.py --objective consistency --guidance_scale S"
        )
    return tuple(found)
