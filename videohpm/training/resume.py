"""Which checkpoint a run goes on from: found by the first rank, loaded by all."""

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from videohpm import checkpoint
from videohpm.config import as_plain
from videohpm.engine import collectives, distributed
from videohpm.errors import DamagedError, UserError
from videohpm.training.changed import changed_settings, told_changes

_log = logging.getLogger(__name__)


def restore(
    config: Any, samples: int, steps: int, model: nn.Module, ema_modules: dict[str, nn.Module]
) -> checkpoint.Saved | None:
    """Load the weights of the checkpoint that run.resume means, where there is one.

    Args:
        samples: of the data set; UserError where the checkpoint was trained on another number.
        steps: of the run; UserError where all were done with other settings.
        ema_modules: averages of the model's weights, by name.

    Raises UserError where run.dir cannot be written to, too.
    """
    folder = choose_checkpoint(config)
    saved = failure = None
    try:
        if folder is not None:
            if not folder.is_dir():
                raise UserError(
                    f"run.dir: {folder} is not there on rank {distributed.rank()}; all machines "
                    "must see the same run.dir and data.root"
                )
            saved = checkpoint.restore(folder, model, ema_modules)
    except DamagedError as error:
        failure = error
    except UserError as error:
        failure = error if folder is None else _with_changes(error, folder, config)
    collectives.raise_on_all_ranks(failure)
    if saved and saved.state["samples"] != samples:
        raise UserError(
            f"data.root: {samples} samples, but {folder} was trained on "
            f"{saved.state['samples']}; a run goes on only with the data it began with"
        )
    if saved and (told := _told_changes(saved.state, config)):
        told = f"run.dir: {config.run.dir}: step {saved.step} was reached with {told}"
        if saved.step >= steps:
            raise UserError(f"{told}; all steps are done, so give another run.dir")
        if distributed.rank() == 0:
            _log.warning("%s; the run goes on with what is given now", told)
    return saved


def _with_changes(error: UserError, folder: Path, config: Any) -> UserError:
    """The error of a checkpoint that does not fit, with the settings that may be why."""
    with suppress(UserError):
        if told := _told_changes(checkpoint.read_state(folder), config):
            return UserError(f"{error}; it was written with {told}")
    return error


def _told_changes(state: dict, config: Any) -> str:
    """The settings that have changed since a checkpoint was written; empty where none has."""
    return told_changes(changed_settings(state.get("config"), as_plain(config)))


def choose_checkpoint(config: Any) -> Path | None:
    """The checkpoint to go on from, as rank 0 finds it: the same on every rank.

    UserError on every rank where there is none that can be used.
    """
    choice = failure = None
    if distributed.rank() == 0:
        run = Path(config.run.dir)
        try:
            checkpoint.check_writable(run, "run.dir")
            checkpoint.tidy(run)
            with distributed.working():  # it reads all of the checkpoint
                choice = checkpoint.to_resume(run, config.run.resume, as_plain(config))
        except UserError as error:
            failure = error
    collectives.raise_on_all_ranks(failure)  # and wait until that is done
    choice = collectives.from_first_rank(None if choice is None else str(choice))
    return None if choice is None else Path(choice)
