"""Where metrics go: ``metrics.jsonl``, and TensorBoard, Weights & Biases or MLflow when asked."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from genrec.atomic import atomic_file
from genrec.errors import ConfigError, install_line
from genrec.metric_rows import metric_rows

__all__ = ["Tracker"]

_AT_THE_END = "test/"
_EXTERNAL = ("tensorboard", "wandb", "mlflow")


class Tracker:
    """Writes one JSON object a line on the main process, and forwards to Accelerate's trackers.

    Args:
        accelerator: Made with ``log_with`` where external trackers are wanted.
        run_dir: The run's folder; its ``metrics.jsonl`` is appended to.
        project: Name of the project, or of MLflow's experiment, in external trackers.
        settings: Flat settings shown there.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        run_dir: str | os.PathLike[str],
        *,
        project: str = "genrec",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.accelerator = accelerator
        self.path = Path(run_dir) / "metrics.jsonl"
        self._project = project
        self._settings = {
            k: v for k, v in (settings or {}).items() if isinstance(v, int | float | str)
        }
        self._started = False

    @staticmethod
    def check(names: list[str]) -> list[str]:
        """Return names of external trackers, for example ``["wandb"]``, if they can be used.

        Raises:
            ConfigError: If one is unknown or its package is not installed.
        """
        import importlib.util

        for name in names:
            if name not in _EXTERNAL:
                raise ConfigError(f"tracker must be one of {', '.join(_EXTERNAL)}, got {name!r}")
            if importlib.util.find_spec(name) is None:
                raise ConfigError(
                    f"tracker {name} must be installed, got no such package; "
                    f"{install_line('track')}"
                )
        return names

    def truncate(self, step: int) -> None:
        """Drop what a run wrote after ``step``, the one from which it is resumed."""
        if not self.accelerator.is_main_process or not self.path.is_file():
            return
        # What a run logs at its very end, the test, comes again whether or not it had come so far.
        kept = [
            line
            for line, row in metric_rows(self.path)
            if row["step"] <= step and not any(name.startswith(_AT_THE_END) for name in row)
        ]
        with atomic_file(self.path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record values; a value that is not finite is written as null.

        Args:
            step: Optimiser steps done.
            values: Names like ``train/loss`` to numbers.
        """
        if not self.accelerator.is_main_process:
            return
        row = {"step": step} | {k: v if math.isfinite(v) else None for k, v in values.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self.accelerator.log_with:
            if not self._started:  # trackers make files and runs of their own: not before it runs
                self._start()
            for tracker in self.accelerator.trackers:
                # The others take any name; MLflow refuses that of recall@10.
                of = {k.replace("@", "_at_"): v for k, v in values.items()}
                tracker.log(of if tracker.name == "mlflow" else dict(values), step=step)

    def _start(self) -> None:
        """Start the external trackers; they name the run as its folder is named."""
        run = self.path.parent
        name = "/".join(run.absolute().parts[-3:])
        how = {"wandb": {"dir": str(run), "name": name}, "mlflow": {"run_name": name}}
        try:
            self.accelerator.init_trackers(self._project, self._settings, init_kwargs=how)
        except Exception as error:  # of three packages, and of the network behind them
            text = " ".join(str(error).split())[:160] or type(error).__name__
            named = ", ".join(str(getattr(one, "value", one)) for one in self.accelerator.log_with)
            raise ConfigError(
                f"tracker {named} must start, got {text}; leave it out of train.trackers, set "
                "WANDB_MODE=offline, or name a server in MLFLOW_TRACKING_URI; --resume goes on"
            ) from error
        self._started = True

    def close(self) -> None:
        """Finish the external trackers."""
        if self._started:
            self.accelerator.end_training()
