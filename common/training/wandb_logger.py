"""Weights & Biases (W&B) beside metrics.csv.

W&B is online if there is an API key ($WANDB_API_KEY, or ``wandb login``) and a server that takes it, else offline;
$WANDB_MODE is honoured. It never stops a run, and never delays it by more than :data:`WANDB_DEFAULTS` allow.
"""

import configparser
import contextlib
import netrc
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from common.config.schema import PROJECT_VARIABLE
from common.refusal import Refusal
from common.training.loggers import KEY_VARIABLE

WANDB_DEFAULTS = {  # of the library's own variables; what the user has set wins
    "WANDB_INIT_TIMEOUT": "20",  # seconds until a server that does not answer is given up
    "WANDB_FINISH_TIMEOUT": "20",  # seconds for what is not yet sent at the end
    "WANDB_FINISH_TIMEOUT_RAISES": "true",
    "WANDB_ERROR_REPORTING": "false",  # telemetry: to a server that cannot be reached it costs 20 s more at the exit
    "WANDB_CONSOLE": "off",  # no copy of what the terminal shows
    "WANDB_QUIET": "true",
    "WANDB_SHOW_INFO": "false",
}


WORKSPACE = (Path("wandb/settings"), Path(".wandb/settings"))  # of the working folder
WORKSPACE_TAKEN = frozenset({"disabled", "entity", "mode", "project"})


class Wandb(WandbLogger):
    """Lightning's logger of a W&B run, but an error of W&B ends the logging, not the training."""

    _lost = False

    def show_picture(self, name: str, path: Path, step: int) -> None:
        """Show a PNG."""
        self.log_image(name, [str(path)], step)

    @property
    def folder(self) -> Path:
        """Where this part of the run is kept, for ``wandb sync``."""
        return Path(self.experiment.dir).parent

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if self._lost:
            return
        try:
            super().log_metrics(metrics, step)
        except Exception as error:  # e.g. its process was killed for want of memory
            self._lost = True
            tell(f"logging ended at step {step} ({reason(error)}); metrics.csv goes on")

    @rank_zero_only
    def close(self, exit_code: int) -> None:
        """Finish the W&B run (Lightning leaves that to the exit); what cannot be sent in time stays on disk."""
        try:
            self.experiment.finish(exit_code)
        except TimeoutError:
            tell(f"not everything was sent in time; send it later with `wandb sync {self.folder}`")
        except Exception as error:
            tell(f"the run was not finished ({reason(error)})")
            forget()


def weights_and_biases(folder: Path, run_name: str, config: dict[str, Any], project: str) -> list[Logger]:
    """A W&B run, kept in ``folder/wandb``; offline if there is no key or no server that takes it.

    The id is the folder's name, so a resumed run goes on in W&B too, and so does another run of the same name in the
    same project.
    """
    settings = wandb_settings()
    variable = os.environ.get(PROJECT_VARIABLE)
    if variable not in (None, "", project):
        tell(f"the project is {project}, by --wb_project or the run's config.json, not ${PROJECT_VARIABLE}")
    wanted = {"dryrun": "offline", "run": "online"}.get(settings.mode, settings.mode)
    if wanted == "disabled":
        return []
    why = ""
    if wanted != "offline" and not has_key(settings):
        wanted, why = "offline", f"no API key (${KEY_VARIABLE} or `wandb login`); "
    folder.mkdir(parents=True, exist_ok=True)  # into a folder that is missing the library would not write
    for mode in dict.fromkeys((wanted, "offline")):
        earlier = set(folder.glob("wandb/*run-*"))
        try:
            logger = start_run(folder, run_name, config, project, mode)
        except Exception as error:  # a wrong key, a closed port, a server that is down, ..
            forget()  # the failed attempt holds the id
            for attempt in set(folder.glob("wandb/*run-*")) - earlier:
                shutil.rmtree(attempt, ignore_errors=True)
            why = f"{settings.base_url} cannot be used ({reason(error)}); "
            continue
        source = f" in project {project}, as ${PROJECT_VARIABLE} says" if variable == project else ""
        offline = f"{why}this run is logged offline{source}; send it later with `wandb sync {logger.folder}`"
        tell(offline if mode == "offline" else f"this run is shown at {logger.experiment.url}{source}")
        return [logger]
    tell(f"{why}this run is not logged there; metrics.csv is")
    return []


def check_workspace() -> None:
    """Refuse a settings file of the library in the working folder that says more than what is logged where.

    Like ``.env``, it may have come with somebody else's data: it must not choose where a key is sent, nor what is run.

    Raises:
        Refusal: naming the file and the settings.
    """
    for path in WORKSPACE:
        if not path.is_file():
            continue
        found = configparser.RawConfigParser(strict=False)
        try:
            found.read_string(path.read_text("utf-8"))
        except (configparser.Error, UnicodeDecodeError) as error:
            raise Refusal(f"wandb: {path.absolute()} is no settings file; remove it", "logger") from error
        names = {name for section in (*found.values(),) for name in section} - WORKSPACE_TAKEN
        if names:
            raise Refusal(
                f"wandb: {path.absolute()} sets {', '.join(sorted(names))}; only {', '.join(sorted(WORKSPACE_TAKEN))} "
                "are taken from there, so remove the others (a server is named by $WANDB_BASE_URL)",
                "logger",
            )


def wandb_settings() -> Any:
    """The library's settings: its defaults, its files and the environment.

    Raises:
        Refusal: if the library is missing, or refuses a variable, or its file in the working folder says too much.
    """
    check_workspace()
    for name, value in WANDB_DEFAULTS.items():
        os.environ.setdefault(name, value)
    if KEY_VARIABLE in os.environ:
        os.environ[KEY_VARIABLE] = os.environ[KEY_VARIABLE].strip()  # of the line end of a file, which it refuses
    try:
        import wandb

        return wandb.setup().settings
    except ImportError as error:
        raise Refusal("wandb needs a package that is missing: pip install wandb", "logger") from error
    except Exception as error:
        raise Refusal(f"wandb: {reason(error)}", "logger") from error


def start_run(folder: Path, run_name: str, config: dict[str, Any], project: str, mode: Any) -> Wandb:
    """Start or go on with the W&B run of a folder (not left to Lightning, whose call prints a warning)."""
    import wandb

    earlier = sum(path.stat().st_size for path in folder.glob("wandb/*run-*/*.wandb"))
    run = wandb.init(
        project=project,
        name=os.environ.get("WANDB_NAME") or run_name,
        id=re.sub(r"[^\w.-]", "-", folder.name),
        resume=None if mode == "offline" else "allow",  # offline there is nothing to go on with
        dir=folder,
        mode=mode,
    )
    run.define_metric("trainer/global_step")  # as Lightning does: steps of training are the axis of every curve
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    if earlier > run.step:  # `wandb sync` joins parts whose own count of lines (shown nowhere) rises from one to the
        run.log({}, step=earlier, commit=False)  # next; there are no more lines than bytes
    logger = Wandb(experiment=run, project=project, save_dir=folder)
    logger.log_hyperparams(config)
    return logger


def forget() -> None:
    """End the library's own process, and its hook at the exit."""
    import wandb

    with contextlib.suppress(Exception, SystemExit):  # it would exit with that process's code
        wandb.teardown()


def has_key(settings: Any) -> bool:
    """Whether the library will find a key, in its own places and order; without one it would ask for it."""
    if settings.api_key or settings.identity_token_file:
        return True
    try:
        stored = netrc.netrc(Path(os.environ.get("NETRC") or "~/.netrc").expanduser())
    except (OSError, netrc.NetrcParseError):
        return False
    return stored.authenticators(urlsplit(settings.base_url).netloc) is not None


def reason(error: Exception) -> str:
    """An error in one short line, without the key."""
    line, key = " ".join(str(error).split()) or type(error).__name__, os.environ.get(KEY_VARIABLE)
    return (line.replace(key, "***") if key else line)[:200]


def tell(line: str) -> None:
    """Say a line about W&B on stderr."""
    print(f"wandb: {line}", file=sys.stderr, flush=True)
