"""Torch data sets of Amazon 2014 in the P5 layout, prepared when first asked for."""

from __future__ import annotations

import os

from genrec.data.item_dataset import ItemData, ItemPart
from genrec.data.processed import RecDataset, load_or_prepare
from genrec.data.sequence_dataset import SeqData

__all__ = ["P5AmazonItemDataset", "P5AmazonSequenceDataset"]


class P5AmazonItemDataset(ItemData):
    """The item embeddings of a split of the P5 release, prepared when first asked for.

    Args:
        root: The release, see :func:`~genrec.data.readers.amazon_p5.find_p5_folder`.
        split: ``"beauty"``, ``"sports"`` or ``"toys"``.
        train_test_split: See :class:`~genrec.data.item_dataset.ItemData`.
        encoder_model_name: See :func:`genrec.data.text.encoders.make_encoder`.
        val_ratio: See :class:`~genrec.data.item_dataset.ItemData`.
        seed: See :class:`~genrec.data.item_dataset.ItemData`.
        force_process: Prepare again even where it was done.
        processed_dir: Where prepared sets are kept; None takes the default.

    Attributes:
        prepared: The prepared data set behind it.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "beauty",
        train_test_split: ItemPart = "all",
        *,
        encoder_model_name: str = "tfidf",
        val_ratio: float = 0.05,
        seed: int = 0,
        force_process: bool = False,
        processed_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.prepared = load_or_prepare(
            RecDataset.AMAZON,
            root,
            split=split,
            encoder_model_name=encoder_model_name,
            force=force_process,
            processed_dir=processed_dir,
        )
        super().__init__(
            self.prepared, train_test_split=train_test_split, val_ratio=val_ratio, seed=seed
        )


class P5AmazonSequenceDataset(SeqData):
    """The examples of a split of the P5 release, prepared when first asked for.

    Args:
        root: The release, see :func:`~genrec.data.readers.amazon_p5.find_p5_folder`.
        split: ``"beauty"``, ``"sports"`` or ``"toys"``.
        subset: ``"train"``, ``"valid"`` or ``"test"``.
        max_history: See :class:`~genrec.data.sequence_dataset.SeqData`.
        encoder_model_name: See :func:`genrec.data.text.encoders.make_encoder`.
        force_process: Prepare again even where it was done.
        processed_dir: Where prepared sets are kept; None takes the default.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "beauty",
        subset: str = "train",
        *,
        max_history: int = 20,
        encoder_model_name: str = "tfidf",
        force_process: bool = False,
        processed_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        prepared = load_or_prepare(
            RecDataset.AMAZON,
            root,
            split=split,
            encoder_model_name=encoder_model_name,
            force=force_process,
            processed_dir=processed_dir,
        )
        super().__init__(prepared, subset, max_history=max_history)
