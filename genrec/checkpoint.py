"""Run and step folders: what a run leaves behind, written so that it is whole or absent.

A run folder holds ``config.gin`` (operative), ``meta.json``, ``metrics.jsonl``, ``step_N/``
(``model.safetensors``, ``config.json``, ``trainer.pt``) and pointers: ``latest``, ``best`` and
others are one-line files that name a step folder. This module knows no model class.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from genrec.atomic import atomic_directory, atomic_file, read_json, write_json_atomic
from genrec.errors import ArtifactError, MissingPathError

__all__ = [
    "RUN_FILES",
    "RUN_FOLDERS",
    "RunDirectory",
    "atomic_directory",
    "load_model_files",
    "resolve_step",
    "write_json_atomic",
    "write_model_files",
]

#: What a training writes into its run folder besides steps and pointers; nothing else is touched.
RUN_FILES = ("config.gin", "meta.json", "metrics.jsonl", "metrics.json")
RUN_FOLDERS = (
    "catalogue",
    "semantic_ids",
    "semantic_ids-extended",
    "item_space",
    "quantizer",
    "encoder",
    "known_vectors",
)

_ASIDE = ".replaced"  # where an older run waits until the new one has a checkpoint
_MODEL = "model.safetensors"
_CONFIG = "config.json"
_TRAINER = "trainer.pt"


class RunDirectory:
    """The folder of one training run.

    Args:
        path: The folder; made when missing.
        keep_last: Newest step folders to keep, besides those that a pointer names, >= 1.
    """

    def __init__(self, path: str | os.PathLike[str], *, keep_last: int = 2) -> None:
        self.path = Path(path)
        self.keep_last = max(1, keep_last)

    def steps(self) -> list[int]:
        """List the steps that are saved, oldest first."""
        found = [p.name[5:] for p in self.path.glob("step_*") if (p / _MODEL).is_file()]
        return sorted(int(name) for name in found if name.isdigit())

    def step_path(self, step: int) -> Path:
        """Name the folder of a step, whether or not it exists."""
        return self.path / f"step_{step}"

    def save(
        self,
        step: int,
        *,
        weights: Mapping[str, Tensor],
        config: Mapping[str, Any],
        trainer: Mapping[str, Any] | None = None,
        pointers: tuple[str, ...] = ("latest",),
    ) -> Path:
        """Save one step, move the pointers to it, then delete what nothing refers to.

        Args:
            step: Optimiser steps done.
            weights: The model's state.
            config: What is needed to build the model again; JSON.
            trainer: Optimiser, schedule, random state; loaded with ``weights_only=True``.
            pointers: Names of the pointers that move here.

        Returns:
            The step's folder.
        """
        target = self.step_path(step)
        write_model_files(target, weights=weights, config=config, trainer=trainer)
        for name in pointers:
            self.point(name, step)
        self._prune()
        shutil.rmtree(self.path / _ASIDE, ignore_errors=True)  # replaced by something whole now
        return target

    def set_aside(self) -> None:
        """Move an older run out of the way; the first :meth:`save` deletes it for good.

        Only what a training writes is moved; other files of the folder stay where they are.
        """
        aside = self.path / _ASIDE
        shutil.rmtree(aside, ignore_errors=True)
        if old := self._own():
            aside.mkdir()
            for path in old:
                path.rename(aside / path.name)

    def restore(self) -> bool:
        """Put a run that was set aside back, in place of one that has no checkpoint.

        Returns:
            Whether there was one to put back.
        """
        aside = self.path / _ASIDE
        if not aside.is_dir() or self.steps():
            return False
        for path in self._own():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in aside.iterdir():
            path.rename(self.path / path.name)
        aside.rmdir()
        return True

    def _own(self) -> list[Path]:
        """List what a training wrote into the folder."""
        names = [*RUN_FILES, *RUN_FOLDERS, *self.pointers()]
        return [p for p in map(self.path.joinpath, names) if p.exists()] + [
            self.step_path(step) for step in self.steps()
        ]

    def point(self, name: str, step: int) -> None:
        """Move a pointer, for example ``latest`` or ``best``, to a step that is saved."""
        with atomic_file(self.path / name) as temporary:
            temporary.write_text(f"step_{step}\n", encoding="utf-8")

    def pointed(self, name: str) -> Path | None:
        """Follow a pointer, for example ``latest``, to a step's folder; None without one."""
        pointer = self.path / name
        if not pointer.is_file():
            return None
        target = self.path / pointer.read_text(encoding="utf-8").strip()
        return target if (target / _MODEL).is_file() else None

    def pointers(self) -> dict[str, str]:
        """List the pointers: their names and the step folders that they name."""
        found = {}
        for file in self.path.glob("*"):
            # Other files without a suffix may lie here too, and are none of our business.
            if file.is_file() and not file.suffix and file.stat().st_size < 64:
                content = file.read_bytes().strip().decode("utf-8", errors="replace")
                if content.startswith("step_") and content[5:].isdigit():
                    found[file.name] = content
        return found

    def load_trainer(self, step_path: Path, *, map_location: Any = "cpu") -> dict[str, Any]:
        """Read the optimiser, schedule and random state of a step.

        Args:
            step_path: The step's folder.
            map_location: Where the tensors go.

        Returns:
            What :meth:`save` was given.

        Raises:
            MissingPathError: If the step was saved without it.
        """
        file = step_path / _TRAINER
        if not file.is_file():
            raise MissingPathError(
                f"resume needs {_TRAINER}, got {step_path} without it; "
                "resume from the run's latest step"
            )
        state: dict[str, Any] = torch.load(file, map_location=map_location, weights_only=True)
        return state

    def _prune(self) -> None:
        names = set(self.pointers().values())
        newest = set(self.steps()[-self.keep_last :])
        for step in self.steps():
            folder = self.step_path(step)
            if step not in newest and folder.name not in names:
                shutil.rmtree(folder, ignore_errors=True)


def write_model_files(
    path: str | os.PathLike[str],
    *,
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    trainer: Mapping[str, Any] | None = None,
) -> None:
    """Write a model as a folder that explains itself.

    Args:
        path: The folder to make or replace.
        weights: The model's state.
        config: What is needed to build the model again; JSON.
        trainer: State of the training loop, or None.
    """
    with atomic_directory(path) as folder:
        # safetensors refuses tensors that share memory, hence the copies.
        save_file(
            {k: v.detach().to("cpu").contiguous().clone() for k, v in weights.items()},
            str(folder / _MODEL),
        )
        write_json_atomic(folder / _CONFIG, dict(config))
        if trainer is not None:
            torch.save(dict(trainer), folder / _TRAINER)


def resolve_step(
    path: str | os.PathLike[str], *, prefer: tuple[str, ...] = ("best", "latest")
) -> Path:
    """Find the step folder that a path means.

    Args:
        path: A run folder, a step folder, or the ``model.safetensors`` in one.
        prefer: Pointers to follow in a run folder, first match.

    Returns:
        A folder that holds ``model.safetensors`` and ``config.json``.

    Raises:
        MissingPathError: If there is none.
    """
    folder = Path(path)
    if folder.is_file() and folder.name == _MODEL:
        folder = folder.parent
    if (folder / _MODEL).is_file() and (folder / _CONFIG).is_file():
        return folder
    if folder.is_dir():
        run = RunDirectory(folder)
        for name in prefer:
            target = run.pointed(name)
            if target is not None:
                return target
        if steps := run.steps():
            return run.step_path(steps[-1])
    raise MissingPathError(
        f"checkpoint must be a run folder or a step folder with {_MODEL}, got {folder}; "
        "give the folder that training printed at its end"
    )


def load_model_files(
    path: str | os.PathLike[str], *, prefer: tuple[str, ...] = ("best", "latest")
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a saved model's configuration and weights.

    Args:
        path: A run folder, a step folder, or the ``model.safetensors`` in one.
        prefer: Pointers to follow in a run folder, first match.

    Returns:
        ``(config, weights)``, weights on the CPU.

    Raises:
        MissingPathError: If there is no checkpoint.
        ArtifactError: If the file is damaged.
    """
    folder = resolve_step(path, prefer=prefer)
    try:
        return read_json(folder / _CONFIG), load_file(folder / _MODEL)
    except (SafetensorError, ValueError) as error:
        raise ArtifactError(
            f"checkpoint must be readable, got {folder} with {error}; "
            "use another step of the run or train again"
        ) from error
