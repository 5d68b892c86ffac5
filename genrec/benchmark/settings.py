"""What a benchmark is told: the gin root ``benchmark``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from genrec.errors import ConfigError, did_you_mean
from genrec.evaluation.settings import EvaluationSettings
from genrec.settings import again, setting
from genrec.training.settings import DataSettings

__all__ = ["BenchmarkSettings"]


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings(DataSettings):
    """Which models are compared on which data, and how."""

    models: dict[str, str] = setting(
        "What each row of the table is: recipes as `genrec train` takes them, such as "
        "'rqvae/amazon decoder/amazon', or one of popularity, co-occurrence, own-history, "
        "item-knn, ease"
    )
    seeds: tuple[int, ...] = setting(
        "Each trained model is trained with each of them", (0, 1, 2), least=0
    )
    bindings: dict[str, tuple[str, ...]] | None = setting(
        "By model, overrides of its recipes, such as 'decoder.dropout_p=0.2'", None
    )
    rankings: dict[str, dict[str, dict[str, Any]]] | None = setting(
        "By model, rows to make of each of its runs: a label, and what differs from the run's own "
        "evaluation settings",
        None,
    )
    grid: dict[str, dict[str, tuple[float, ...]]] | None = setting(
        "By fitted model, values of its settings to choose from on validation", None
    )
    choose_by: str = setting(
        "What that choice goes by",
        "ndcg@10",
        choices=("recall@10", "ndcg@10", "hidden_recall@10", "hidden_ndcg@10"),
    )
    test: bool = setting(
        "Read the test split, once for each run; leave it out while models are chosen", True
    )
    num_beams: int | None = setting(
        "Beams of models that search; None for those of each recipe", None, least=1
    )
    max_history: int = again(EvaluationSettings, "max_history")
    out: str = setting("Folder of runs, results.jsonl and results.md")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, found in (("models", self.models), ("seeds", self.seeds)):
            if not found:
                raise ConfigError(f"{name} must have an entry, got none; name at least one")
        if self.dataset is None and self.dataset_folder is None:
            raise ConfigError(
                "dataset_folder must be set, got none; set benchmark.dataset_folder, or "
                "benchmark.dataset='sample'"
            )
        for setting_name in ("bindings", "rankings", "grid"):
            for name in getattr(self, setting_name) or {}:
                if name not in self.models:
                    raise ConfigError(
                        f"{setting_name} must be of the models, got {name!r}; "
                        f"{did_you_mean(name, self.models)}; or set benchmark.{setting_name}=None"
                    )

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits to evaluate."""
        return ("valid", "test") if self.test else ("valid",)

    @property
    def encoder(self) -> str:
        """The text encoder, TF-IDF where none is named."""
        return self.encoder_model_name or "tfidf"
