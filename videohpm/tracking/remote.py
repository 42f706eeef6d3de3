"""Loggers that others read: Weights & Biases and trackio by one adapter, and MLflow.

They are optional, and their services may be slow, away or broken, which must not cost a run
anything: each works in a thread of its own (:class:`Detached`).
"""

from __future__ import annotations

import json
import logging
import math
import os
import queue
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from videohpm.errors import one_line
from videohpm.tracking.logger import LoggedRun, Logger, Metrics

WAITING = 512
"""Calls that may wait for a slow logger; what comes then is left out."""
LAST_WAIT = 60.0
"""Seconds that the end of a run waits for what is still to be sent."""
KEPT = "loggers.json"
"""In the run folder: what a run is called there, so that it goes on under that name."""
_log = logging.getLogger(__name__)


class Detached(Logger):
    """A logger in a thread of its own: whatever fails there costs one warning, and no time here.

    Args:
        name: of the logger, as in ``run.loggers``.
        make: makes it, in that thread.
    """

    def __init__(self, name: str, make: Callable[[LoggedRun], Logger], run: LoggedRun):
        self.name, self.broken = name, False
        self.calls: queue.Queue[tuple[str, tuple] | None] = queue.Queue(WAITING)
        self.thread = threading.Thread(
            target=self._work, args=(make, run), daemon=True, name=f"logger {name}"
        )
        self.thread.start()

    def log(self, step: int, metrics: Metrics) -> None:
        self._put("log", step, dict(metrics))

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        self._put("image", step, name, image.copy())

    def animation(self, step: int, name: str, gif: bytes, size: tuple[int, int]) -> None:
        self._put("animation", step, name, gif, size)

    def close(self) -> None:
        """Wait for what is still to be sent, at most LAST_WAIT seconds."""
        with suppress(queue.Full):
            self.calls.put(None, timeout=LAST_WAIT)
        self.thread.join(LAST_WAIT)
        if self.thread.is_alive():
            self._warn(f"did not finish within {LAST_WAIT:.0f} s; what it still had is not there")

    def _put(self, method: str, *arguments: Any) -> None:
        if self.broken:
            return
        try:
            self.calls.put_nowait((method, arguments))
        except queue.Full:
            self._warn(f"is too slow: {WAITING} calls wait; it gets no more")

    def _work(self, make: Callable[[LoggedRun], Logger], run: LoggedRun) -> None:
        logger = None
        try:
            logger = make(run)
            while (call := self.calls.get()) is not None:
                if not self.broken:
                    getattr(logger, call[0])(*call[1])
            logger.close()
        except BaseException as error:  # a library may even raise SystemExit
            self._warn(f"failed ({type(error).__name__}: {one_line(error)[:300]}); it gets no more")
            if logger is not None:
                with suppress(BaseException):
                    logger.close()

    def _warn(self, what: str) -> None:
        if not self.broken:
            self.broken = True
            _log.warning("run.loggers: %s %s. The run goes on.", self.name, what)


class Experiment(Logger):
    """Weights & Biases, or trackio, which has the same interface.

    Args:
        library: wandb or trackio.
        settings: of its ``init``, beside project and config.
    """

    def __init__(self, library: str, settings: Callable[[LoggedRun, str], dict], run: LoggedRun):
        self.library = import_module(library)
        self.run = self.library.init(
            project=run.project,
            config=dict(run.config),
            resume="allow",
            **settings(run, kept_name(run, library)),
        )

    def log(self, step: int, metrics: Metrics) -> None:
        self.run.log(measured(metrics), step=step)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        self.run.log({name: self.library.Image(image)}, step=step)

    def animation(self, step: int, name: str, gif: bytes, size: tuple[int, int]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{name}.gif"
            file.write_bytes(gif)
            self.run.log({name: self.library.Video(str(file), format="gif")}, step=step)

    def close(self) -> None:
        self.run.finish()


def wandb_settings(run: LoggedRun, name: str) -> dict[str, Any]:
    """Offline in the run folder where no key is known: then nothing is asked for, or sent."""
    mode = os.environ.get("WANDB_MODE") or ("online" if _has_wandb_key() else "offline")
    settings = {"console": "off"}  # it would redirect what the progress bar is drawn on
    own = {"id": name, "name": run.folder.name, "dir": str(run.folder)}
    return own | {"mode": mode, "settings": settings}


def _has_wandb_key() -> bool:
    """Whether somebody logged in: wandb would ask for a key, and the run would wait for it."""
    try:
        kept = (Path.home() / ".netrc").read_text()
    except (OSError, ValueError):
        kept = ""
    return bool(os.environ.get("WANDB_API_KEY")) or "wandb" in kept


def trackio_settings(run: LoggedRun, name: str) -> dict[str, Any]:
    """Local, in trackio's own folder (``TRACKIO_DIR``); the name is all that it knows a run by."""
    return {"name": name, "embed": False}


class MLflow(Logger):
    """MLflow: at ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` and ``mlflow/`` of the run folder."""

    def __init__(self, run: LoggedRun):
        client = import_module("mlflow").MlflowClient
        self.entities = import_module("mlflow.entities")
        folder = run.folder.resolve()
        address = os.environ.get("MLFLOW_TRACKING_URI")
        self.client = client(tracking_uri=address or f"sqlite:///{folder / 'mlflow.db'}")
        place = None if address else (folder / "mlflow").as_uri()
        self.id = kept_name(run, "mlflow", lambda: self._new_run(run, place))
        self.client.update_run(self.id, status="RUNNING")

    def _new_run(self, run: LoggedRun, place: str | None) -> str:
        known = self.client.get_experiment_by_name(run.project)
        if known is None:
            number = self.client.create_experiment(run.project, artifact_location=place)
        else:
            number = known.experiment_id
        made = self.client.create_run(number, run_name=run.folder.name).info.run_id
        fields = [self.entities.Param(name, str(value)[:6000]) for name, value in flat(run.config)]
        for first in range(0, len(fields), 100):  # as many as one call may have
            self.client.log_batch(made, params=fields[first : first + 100])
        return made

    def log(self, step: int, metrics: Metrics) -> None:
        now = int(time.time() * 1000)
        rows = [self.entities.Metric(n, v, now, step) for n, v in measured(metrics).items()]
        self.client.log_batch(self.id, metrics=rows)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        self.client.log_image(self.id, image, key=name, step=step)

    def animation(self, step: int, name: str, gif: bytes, size: tuple[int, int]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{name}_{step:07d}.gif"
            file.write_bytes(gif)
            self.client.log_artifact(self.id, str(file), "animations")

    def close(self) -> None:
        self.client.set_terminated(self.id)


def measured(metrics: Metrics) -> dict[str, float]:
    """The numbers that there are, and that are finite."""
    return {n: float(v) for n, v in metrics.items() if v is not None and math.isfinite(v)}


def flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The fields of a configuration by their dotted names."""
    found: list[tuple[str, Any]] = []
    for name, value in config.items():
        if isinstance(value, Mapping):
            found += flat(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value))
    return found


def kept_name(run: LoggedRun, library: str, make: Callable[[], str] | None = None) -> str:
    """What a run is called there: kept in its folder, and new for a run that begins anew.

    Args:
        make: makes a name; the folder's and a few characters by default.
    """
    file = run.folder / KEPT
    try:
        kept = json.loads(file.read_text())
        name = kept.get(library)
    except (OSError, ValueError, AttributeError):
        kept, name = {}, None
    if run.start_step == 0 or not isinstance(name, str):
        name = make() if make else f"{run.folder.name}-{secrets.token_hex(3)}"
        unfinished = file.with_suffix(f".{library}.tmp")
        unfinished.write_text(json.dumps(kept | {library: name}) + "\n")
        unfinished.replace(file)
    return name
