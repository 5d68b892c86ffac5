"""SASRec against plain references."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from genrec.data.catalogue import Catalogue
from genrec.data.prepared import StringArray
from genrec.errors import ArtifactError, ConfigError
from genrec.models.retrieval import EncoderDecoderRetrievalModel
from genrec.models.sasrec import SasRec

NUM_ITEMS = 13


@pytest.fixture
def model() -> SasRec:
    torch.manual_seed(0)
    return SasRec(NUM_ITEMS, embedding_dim=8, num_heads=2, n_layers=2, ff_dim=16, max_history=6)


@pytest.fixture
def history() -> Tensor:
    return torch.tensor([[3, 1, 4, 1, 5], [9, 2, -1, -1, -1], [6, -1, -1, -1, -1]])


def test_no_item_sees_a_later_one_or_padding(model: SasRec, history: Tensor) -> None:
    model.eval()
    states = model.encode(history)
    for row, length in enumerate([5, 2, 1]):
        for end in range(1, length + 1):
            alone = model.encode(history[row : row + 1, :end])
            torch.testing.assert_close(states[row, end - 1], alone[0, -1])


def test_positions_and_items_matter(model: SasRec) -> None:
    model.eval()
    one, two = model.scores(torch.tensor([[1, 2, 3]])), model.scores(torch.tensor([[2, 1, 3]]))
    assert not torch.allclose(one, two)


@pytest.mark.parametrize("batch", [1, 3])
def test_loss_is_the_mean_cross_entropy_over_all_items(
    model: SasRec, history: Tensor, batch: int
) -> None:
    model.eval()
    history = history[:batch]
    targets = history.roll(-1, dims=1).where(history.roll(-1, dims=1) >= 0, -1)
    targets[:, -1] = -1
    targets[0, -1] = 7
    found = model(history, targets)
    losses = []
    for row in range(batch):
        for column in range(5):
            target = int(targets[row, column])
            if target >= 0:
                past = history[row : row + 1, : column + 1]
                scores = model.scores(past)[0].detach().double().numpy()
                losses.append(np.log(np.exp(scores).sum()) - scores[target])
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_sampled_loss_leaves_the_target_out_of_its_negatives(
    model: SasRec, history: Tensor
) -> None:
    model.eval()
    targets = torch.full_like(history, -1)
    targets[0, 4], targets[1, 1] = 2, 6
    torch.manual_seed(5)
    found = model(history, targets, 40)
    torch.manual_seed(5)
    drawn = torch.randint(NUM_ITEMS, (40,))
    assert {2, 6} <= set(drawn.tolist())  # both would otherwise count twice
    losses = []
    for past, target in ((history[:1], 2), (history[1:2, :2], 6)):
        scores = model.scores(past)[0].detach().double().numpy()
        others = np.exp(scores[drawn[drawn != target].numpy()]).sum()
        losses.append(np.log(np.exp(scores[target]) + others) - scores[target])
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-5)


def catalogue(num_items: int = NUM_ITEMS) -> Catalogue:
    keys = StringArray.from_strings(f"item-{i}" for i in range(num_items))
    return Catalogue(keys, keys)


def test_the_ranker_ranks_all_items(model: SasRec, history: Tensor) -> None:
    ranker = model.eval().ranker(catalogue(), {"max_history": 4})
    assert ranker.max_history == 4
    best = ranker.rank(history, 5)
    scores = model.scores(history).detach()
    assert torch.equal(best.items, scores.argsort(dim=1, descending=True)[:, :5])
    torch.testing.assert_close(best.scores, scores.gather(1, best.items))
    assert model.ranker(catalogue(), {"max_history": 50}).max_history == 6


def test_a_catalogue_of_another_size_is_refused(model: SasRec) -> None:
    with pytest.raises(ArtifactError, match=r"must have the 13 items that SASRec .* got 14"):
        model.ranker(catalogue(14), {})


def test_save_and_load(model: SasRec, tmp_path: Path, history: Tensor) -> None:
    from genrec.checkpoint import write_model_files

    write_model_files(tmp_path / "m", weights=model.state_dict(), config=model.saved_config())
    again = SasRec.load_pretrained(tmp_path / "m")
    assert not again.training
    assert torch.equal(again.scores(history), model.eval().scores(history))
    EncoderDecoderRetrievalModel(16, 32, 0.0, 2, 2, num_embeddings=4, sem_id_dim=2).save_pretrained(
        tmp_path / "other"
    )
    with pytest.raises(ArtifactError, match="checkpoint must hold a SasRec"):
        SasRec.load_pretrained(tmp_path / "other")


def test_bad_input_is_named(model: SasRec) -> None:
    with pytest.raises(ConfigError, match="embed_dim must be a multiple of attn_heads, got 7"):
        SasRec(9, embedding_dim=7)
    with pytest.raises(ConfigError, match="dropout must lie in"):
        SasRec(9, dropout=1.0)
    with pytest.raises(ConfigError, match="sizes of SASRec must be >= 1"):
        SasRec(9, n_layers=0)
    with pytest.raises(ValueError, match="at most 6 items, got 7"):
        model.encode(torch.zeros(1, 7, dtype=torch.long))
