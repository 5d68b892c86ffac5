"""A model's weights and settings in one folder, which opens again as the class that wrote it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from genrec.checkpoint import load_files_of, write_model_files

__all__ = ["SavedModel"]

M = TypeVar("M", bound="SavedModel")


class SavedModel(nn.Module):
    """What every model over items can do with a folder.

    Attributes:
        config: Arguments of the constructor by name, JSON; set by it.
        trained_by: Command that trains such models, named where a folder holds another.
    """

    config: dict[str, Any]
    trained_by: ClassVar[str]

    def saved_config(self) -> dict[str, Any]:
        """Return what a checkpoint stores beside the weights."""
        return {"model": type(self).__name__, **self.config}

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write the model as a folder that explains itself.

        Args:
            path: The folder to make or replace.
        """
        write_model_files(path, weights=self.state_dict(), config=self.saved_config())

    @classmethod
    def from_config(cls: type[M], config: Mapping[str, Any]) -> M:
        """Build a model, untrained.

        Args:
            config: As :attr:`config`; names may be missing where there is a default.

        Returns:
            The model.
        """
        return cls(**{name: _plain(value) for name, value in config.items()})

    @classmethod
    def load_pretrained(
        cls: type[M], path: str | os.PathLike[str], *, device: torch.device | str = "cpu"
    ) -> M:
        """Load a model, in evaluation mode.

        Args:
            path: A run folder (its best step), a step folder, or what
                :meth:`save_pretrained` wrote.
            device: Where it shall live.

        Returns:
            The model.

        Raises:
            MissingPathError: If there is no checkpoint.
            ArtifactError: If it holds another model.
        """
        config, weights = load_files_of(cls.__name__, path, trained_by=cls.trained_by)
        model = cls.from_config(config)
        model.load_state_dict(weights)
        return model.to(device).eval()


def _plain(value: Any) -> Any:
    """Turn a list of JSON into the tuple that it was."""
    return tuple(value) if isinstance(value, list) else value
