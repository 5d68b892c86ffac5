"""What a GPU computes against a CPU, and that no step makes the host wait for it."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genrec.data.schemas import SequenceBatch, TokenizedBatch
from genrec.data.sequence_dataset import gather_windows
from genrec.decoding.trie import PrefixIndex
from genrec.models.item_retrieval import ItemTokenRetrievalModel
from genrec.models.item_settings import (
    HistorySettings,
    ItemHeadSettings,
    ItemVectorSettings,
    TreeSettings,
)
from genrec.models.retrieval import EncoderDecoderRetrievalModel
from genrec.models.rqvae import RqVae
from genrec.models.sasrec import SasRec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]

NUM_ITEMS, SIZES, ROWS = 300, (8, 8, 8), 16
IDS = np.random.default_rng(0).permutation(512)[:NUM_ITEMS]
CODES = np.stack([IDS // 64, IDS // 8 % 8, IDS % 8], axis=1)
PADDED_CODES = torch.from_numpy(np.pad(CODES, ((0, 1), (0, 0)), constant_values=-1))
VECTORS = torch.from_numpy(np.random.default_rng(3).normal(size=(NUM_ITEMS, 12))).float()


def index(device: str) -> PrefixIndex:
    return PrefixIndex.from_ids(CODES, SIZES, device=device)


def items_of_users(device: str) -> Tensor:
    """Interactions of all users, one after the other."""
    drawn = np.random.default_rng(1).integers(0, NUM_ITEMS, 20 * ROWS, dtype=np.int32)
    return torch.from_numpy(drawn).to(device)


def windows(items: Tensor) -> SequenceBatch:
    """Packed windows of many lengths, as training takes them."""
    lengths = np.random.default_rng(2).integers(3, 14, ROWS)
    users = np.arange(ROWS)
    return gather_windows(items, 20 * users, lengths, np.ones(ROWS, dtype=np.int64), users)


def item_model(**options: object) -> ItemTokenRetrievalModel:
    torch.manual_seed(0)
    return ItemTokenRetrievalModel.for_index(
        index("cpu"), embedding_dim=16, dropout=(0.0, 0.0), **options
    )


def coded(batch: SequenceBatch) -> TokenizedBatch:
    codes = on_device(PADDED_CODES, batch.history.device)
    return TokenizedBatch(
        codes[batch.history], codes[batch.targets], batch.user_ids, packed=True, padded=batch.padded
    )


def code_model() -> EncoderDecoderRetrievalModel:
    torch.manual_seed(0)
    return EncoderDecoderRetrievalModel(
        16, 32, 0.0, 2, 2, num_embeddings=SIZES, sem_id_dim=3, ff_dim=32, encoder_mask="item_causal"
    )


def sasrec() -> SasRec:
    torch.manual_seed(0)
    return SasRec(NUM_ITEMS, embedding_dim=16, dropout=0.0, seen_weights=True)


def rqvae() -> RqVae:
    torch.manual_seed(0)
    model = RqVae(12, embed_dim=4, hidden_dims=(16,), codebook_size=8, n_layers=3)
    model.initialize_codebooks(VECTORS)
    return model


def vectors_of(batch: SequenceBatch) -> Tensor:
    return on_device(VECTORS, batch.history.device)[batch.history.flatten()]


@functools.cache
def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device)


Loss = Callable[[nn.Module, SequenceBatch, PrefixIndex], Tensor]


def of_items(model: nn.Module, batch: SequenceBatch, tree: PrefixIndex) -> Tensor:
    loss: Tensor = model(batch, tree, level_weights=(1.0, 0.5, 0.5)).loss
    return loss


RECIPE = {
    "items": ItemVectorSettings(item_codes=False),
    "tree": TreeSettings(root_items=True, vectors_per_prefix=(4,), items_from=1),
    "head": ItemHeadSettings(item_head_weight=2.0, item_head_dtype="float32"),
    "history": HistorySettings(seen_weights=True, seen_start=-2.0),
}
UNSEEN = {"history": HistorySettings(seen_weights=True, seen_start=-2.0, skip_history=True)}
DRAWN = {"head": ItemHeadSettings(num_negatives=64), **UNSEEN}
CASES: dict[str, tuple[Callable[[], nn.Module], Loss]] = {
    "item tokens": (item_model, of_items),
    "item tokens, as the recipe": (lambda: item_model(**RECIPE), of_items),
    "item tokens, unseen": (lambda: item_model(**UNSEEN), of_items),
    "code tokens": (code_model, lambda model, batch, _: model(coded(batch)).loss),
    "RQ-VAE": (rqvae, lambda model, batch, _: model(vectors_of(batch)).loss),
    "SASRec": (sasrec, lambda m, b, _: m(b.history, b.targets, live=b.live)),
}
DRAWS: dict[str, tuple[Callable[[], nn.Module], Loss]] = {
    "item tokens, drawn items": (lambda: item_model(**DRAWN), of_items),
    "SASRec, drawn items": (sasrec, lambda m, b, _: m(b.history, b.targets, 64, live=b.live)),
}


@contextmanager
def no_waiting() -> Iterator[None]:
    """Fail where the host waits for the device."""
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [
        f"{w.filename}:{w.lineno}" for w in found if "called a synchronizing" in str(w.message)
    ]
    assert not waits, waits


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_those_of_a_cpu(name: str) -> None:
    make, loss_of = CASES[name]
    losses, gradients = [], []
    for device in ("cpu", "cuda"):
        model = make().to(device).train()
        loss = loss_of(model, windows(items_of_users(device)), index(device))
        loss.backward()
        losses.append(loss.item())
        trained = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        gradients.append({name: gradient.cpu() for name, gradient in trained.items()})
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES | DRAWS)
def test_a_training_step_never_waits(name: str, precision: str) -> None:
    make, loss_of = (CASES | DRAWS)[name]
    model, tree = make().to("cuda").train(), index("cuda")
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    items = items_of_users("cuda")

    def step() -> None:
        batch = windows(items)
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = loss_of(model, batch, tree)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(3):  # the first makes tables and opens libraries
        step()
    with no_waiting():
        step()


@pytest.mark.parametrize("name", ["item tokens", "item tokens, as the recipe", "code tokens"])
def test_a_search_is_that_of_a_cpu_and_never_waits(name: str) -> None:
    model = CASES[name][0]().eval()

    def search(device: str) -> tuple[Tensor, Tensor]:
        batch, tree = windows(items_of_users(device)), index(device)
        history = coded(batch).history if name == "code tokens" else batch.history
        options = {"num_beams": 20, "num_results": 10, "padded": batch.padded}
        model.to(device).generate(history, tree, **options)
        if device == "cuda":
            with no_waiting():
                found = model.generate(history, tree, **options)
        else:
            found = model.generate(history, tree, **options)
        return found.items.cpu(), found.scores.cpu()

    expected, found = search("cpu"), search("cuda")
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-4)
    assert float((found[0] == expected[0]).float().mean()) > 0.99  # equal scores may change places
