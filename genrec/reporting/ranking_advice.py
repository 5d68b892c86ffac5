"""What a run's folder says of its training, and what to change in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from genrec.reporting.training_log import TrainingLog

__all__ = ["RunFacts"]


@dataclass(frozen=True)
class RunFacts:
    """What a run's folder says besides its numbers.

    Attributes:
        model: Class of the model.
        settings: Those of the training.
        log: Its curves.
        max_history: Items of a history that the model sees.
    """

    model: str = "ItemTokenRetrievalModel"
    settings: Mapping[str, Any] = field(default_factory=dict)
    log: TrainingLog = field(default_factory=TrainingLog)
    max_history: int = 20

    @property
    def reads_items(self) -> bool:
        """Whether it is the model that reads one token an item."""
        return self.model == "ItemTokenRetrievalModel"

    @property
    def reads_codes(self) -> bool:
        """Whether it is the model that reads each code of each item."""
        return self.model == "EncoderDecoderRetrievalModel"

    def longer(self) -> str:
        """Advise twice the training."""
        lengths = {name: self.settings.get(name) for name in ("epochs", "iterations")}
        longer = [f"train.{name} = {2 * now:g}" for name, now in lengths.items() if now]
        return (
            " and ".join(longer) + ": twice as long; keep it where validation rises"
            if longer
            else "train longer"
        )

    def change(self, name: str, up: bool, why: str) -> str:
        """Advise to move a setting of the run."""
        return f"train.{name}: {'more' if up else 'less'} than {self.settings[name]:g}, {why}"

    def regularise(self) -> Iterator[str]:
        """Advise what makes a model fit its training examples less."""
        for name in ("dropout_p", "weight_decay"):
            if name in self.settings:
                yield self.change(name, True, "so that it fits its training examples less")
        width = "embed_dim" if self.model == "SasRec" else "decoder_embed_dim"
        if width in self.settings:
            yield self.change(width, False, "a smaller model")

    def reassign(self) -> str:
        """Advise codes of its own for every item."""
        stage_one = self.settings.get("pretrained_rqvae_path") or "STAGE_ONE_RUN"
        return (
            f"`genrec tokenize {stage_one} --policy reassign`, then train again: every item gets "
            "codes of its own, and IDs need no further digit"
        )
