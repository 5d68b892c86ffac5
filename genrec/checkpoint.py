"""Run and step folders: what a run leaves behind, written so that it is whole or absent.

A run folder holds ``config.gin`` (operative), ``meta.json``, ``metrics.jsonl``, ``step_N/``
(``model.safetensors``, ``config.json``, ``trainer.pt``, ``files.json`` with the digests of these)
and pointers: ``latest``, ``best`` and others are one-line files that name a step folder. This
module knows no model class.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from genrec.atomic import atomic_directory, atomic_file, read_json, write_json_atomic
from genrec.digests import sealed, verify
from genrec.errors import ArtifactError, MissingPathError

__all__ = [
    "RUN_FILES",
    "RUN_FOLDERS",
    "RunDirectory",
    "atomic_directory",
    "load_files_of",
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
_MOVING = ".replacing"  # where it is on its way there or back: all files outside are the old run's
_MODEL = "model.safetensors"
_CONFIG = "config.json"
_TRAINER = "trainer.pt"
_MANIFEST = "files.json"
_POINTER_BYTES = 64
_POINTED = re.compile(r"step_[0-9]+")
_OTHER_STEP = "delete that folder to use the step before it, or train again"


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
        return sorted(int(p.name[5:]) for p in self.step_folders() if _is_whole(p))

    def step_folders(self) -> list[Path]:
        """List the folders of steps, those too that lack a file."""
        return [p for p in self.path.glob("step_*") if p.name[5:].isdigit() and p.is_dir()]

    def newest(self) -> Path | None:
        """Find the step to go on from.

        Returns:
            The step that ``latest`` names; where that is lost, the newest one that is whole; None
            where there is none.
        """
        named = self.pointed("latest")
        steps = self.steps()
        return named or (self.step_path(steps[-1]) if steps else None)

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
        # latest last: a run that is cut off in between goes on from the step before, and comes here
        # again, where one that had moved on would never move the others.
        for name in sorted(pointers, key=lambda name: name == "latest"):
            self.point(name, step)
        self._prune()
        shutil.rmtree(self.path / _ASIDE, ignore_errors=True)  # replaced by something whole now
        return target

    def set_aside(self) -> None:
        """Move an older run out of the way; the first :meth:`save` deletes it for good.

        Only what a training writes is moved; other files of the folder stay where they are.
        """
        self.restore()  # an older run still waits where this one has no checkpoint
        shutil.rmtree(self.path / _ASIDE, ignore_errors=True)
        if old := self._own():
            moving = self.path / _MOVING
            moving.mkdir()
            for path in old:
                path.rename(moving / path.name)
            moving.rename(self.path / _ASIDE)

    def restore(self) -> bool:
        """Put a run that was set aside back, in place of one that has no checkpoint.

        Also one that was on its way when the process was killed, in either direction; it may be
        killed again at any point and loses nothing.

        Returns:
            Whether there was one to put back.
        """
        aside, moving = self.path / _ASIDE, self.path / _MOVING
        if not moving.is_dir():
            if not aside.is_dir() or self.steps():
                return False
            for path in self._own():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            aside.rename(moving)
        for path in moving.iterdir():
            path.rename(self.path / path.name)
        moving.rmdir()
        return True

    def _own(self) -> list[Path]:
        """List what a training wrote into the folder."""
        names = [*RUN_FILES, *RUN_FOLDERS, *self.pointers()]
        return [p for p in map(self.path.joinpath, names) if p.exists()] + self.step_folders()

    def point(self, name: str, step: int) -> None:
        """Move a pointer, for example ``latest`` or ``best``, to a step that is saved."""
        with atomic_file(self.path / name) as temporary:
            temporary.write_text(f"step_{step}\n", encoding="utf-8")

    def pointed(self, name: str) -> Path | None:
        """Follow a pointer, such as ``latest``, to a whole step of this run; None without one."""
        pointer = self.path / name
        if not pointer.is_file() or pointer.stat().st_size > _POINTER_BYTES:
            return None
        content = pointer.read_bytes().strip().decode("utf-8", errors="replace")
        if _POINTED.fullmatch(content) is None:  # a path would lead out of the run
            return None
        target = self.path / content
        return target if _is_whole(target) else None

    def pointers(self) -> dict[str, str]:
        """List the pointers: their names and the step folders that they name."""
        found = {}
        for file in self.path.glob("*"):
            # Other files without a suffix may lie here too, and are none of our business.
            if file.is_file() and not file.suffix and file.stat().st_size <= _POINTER_BYTES:
                content = file.read_bytes().strip().decode("utf-8", errors="replace")
                if _POINTED.fullmatch(content):
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
            ArtifactError: If it is damaged, or holds more than tensors and plain values.
        """
        file = step_path / _TRAINER
        if not file.is_file():
            raise MissingPathError(
                f"resume needs {_TRAINER}, got {step_path} without it; "
                "resume from the run's latest step"
            )
        _verify_step(step_path, _TRAINER)
        try:
            state: dict[str, Any] = torch.load(file, map_location=map_location, weights_only=True)
        except MemoryError:
            raise
        except Exception as error:  # a damaged pickle makes torch raise whatever its bytes mean
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ArtifactError(
                f"{_TRAINER} must be readable, got {step_path} with {said}; {_OTHER_STEP}"
            ) from error
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
            with (folder / _TRAINER).open("wb") as file:  # whose errors say what the system said
                torch.save(dict(trainer), file)
        write_json_atomic(folder / _MANIFEST, sealed(folder, {}))


def _is_whole(step: Path) -> bool:
    """Tell whether a step folder has what every step has."""
    return (step / _MODEL).is_file() and (step / _CONFIG).is_file()


def _verify_step(step: Path, *names: str) -> None:
    """Refuse files of a step that are not as written; older steps do not say how that was."""
    manifest = step / _MANIFEST
    if not manifest.is_file():
        return
    verify(step, {"seal": None, **read_json(manifest)}, names, what="step", fix=_OTHER_STEP)


def resolve_step(
    path: str | os.PathLike[str], *, prefer: tuple[str, ...] = ("best", "latest")
) -> Path:
    """Find the step folder that a path means.

    Args:
        path: A run folder, a step folder, or the ``model.safetensors`` in one.
        prefer: Pointers to follow in a run folder, first match. A lost ``latest`` warns and
            gives way to the newest step.

    Returns:
        A folder that holds ``model.safetensors`` and ``config.json``.

    Raises:
        MissingPathError: If there is none.
        ArtifactError: If a pointer other than ``latest`` names a step that is gone, or is lost
            though the run's ``meta.json`` says which it was.
    """
    folder = Path(path)
    if folder.is_file() and folder.name == _MODEL:
        folder = folder.parent
    if _is_whole(folder):
        return folder
    run = RunDirectory(folder)
    for name in prefer:
        if (target := run.pointed(name)) is not None:
            return target
        if name != "latest" and (folder / name).is_file():
            raise ArtifactError(
                f"{name} must name a step of the run, got {folder} where it names none; give a "
                f"step folder, or write the name of one into {folder / name}"
            )
        if name != "latest" and (lost := _said_best(folder, name)) is not None:
            raise ArtifactError(
                f"{name} must name a step of the run, got {folder} that has lost it; put it back "
                f"with `echo {lost} > {folder / name}`"
            )
    if (newest := run.newest()) is not None:
        if "latest" in prefer:
            warnings.warn(f"{folder} has lost its latest; using {newest.name}", stacklevel=2)
        return newest
    exported = ", an ONNX export, which only serves" if any(folder.glob("*.onnx")) else ""
    raise MissingPathError(
        f"checkpoint must be a run folder or a step folder with {_MODEL}, got {folder}{exported}; "
        "give the folder that training printed at its end"
    )


def _said_best(run: Path, name: str) -> str | None:
    """Name the step that a finished run's description gives a pointer; None where it gives none."""
    with suppress(ArtifactError, FileNotFoundError):
        found = read_json(run / "meta.json").get("best")
        if isinstance(found, dict) and name in found:
            return f"step_{found[name][0]}"
    return None


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
    _verify_step(folder, _MODEL, _CONFIG)
    try:
        return read_json(folder / _CONFIG), load_file(folder / _MODEL)
    except (SafetensorError, ValueError) as error:
        raise ArtifactError(
            f"checkpoint must be readable, got {folder} with {error}; "
            "use another step of the run or train again"
        ) from error


def load_files_of(
    kind: str, path: str | os.PathLike[str], *, trained_by: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a saved model that must be of one class.

    Args:
        kind: Name of the class.
        path: As for :func:`load_model_files`.
        trained_by: Command that trains such models, named where another one is found.

    Returns:
        ``(config without the name, weights)``, weights on the CPU.

    Raises:
        MissingPathError: If there is no checkpoint.
        ArtifactError: If it is damaged or holds another model.
    """
    config, weights = load_model_files(path)
    if config.pop("model", None) != kind:
        raise ArtifactError(
            f"checkpoint must hold a {kind}, got another model in {path}; give the run folder of "
            f"`{trained_by}`"
        )
    return config, weights
