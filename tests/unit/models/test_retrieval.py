"""The retrieval model: cache, beams, packing and padding against the plain computation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from genrec.data.schemas import TokenizedBatch
from genrec.decoding.trie import PrefixIndex
from genrec.errors import ArtifactError, ConfigError, MissingPathError
from genrec.models.retrieval import EncoderDecoderRetrievalModel
from genrec.models.token_layout import TokenLayout

SIZES = (6, 5, 7)


def build(**options: Any) -> EncoderDecoderRetrievalModel:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"num_embeddings": SIZES, "sem_id_dim": 3, "ff_dim": 48}
    model = EncoderDecoderRetrievalModel(32, 48, 0.1, 3, 4, **settings | options)
    with torch.no_grad():  # the bias starts at zero, which would hide a wrong position
        model.encoder.position_bias.weight.normal_()
        model.decoder.position_bias.weight.normal_()
    return model.eval()


def random_codes(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2**31, (*shape, 3), generator=generator) % torch.tensor(SIZES)


def catalogue(num_items: int, seed: int = 0) -> np.ndarray:
    return random_codes(num_items, seed=seed).numpy()


def ragged(history: Tensor, lengths: list[int]) -> Tensor:
    columns = torch.arange(history.shape[1])
    return history.masked_fill((columns >= torch.tensor(lengths).unsqueeze(1))[..., None], -1)


def score_uncached(
    model: EncoderDecoderRetrievalModel, history: Tensor, ids: np.ndarray, users: Tensor | None
) -> Tensor:
    """Score every ID for every user with the training pass, which has no cache: (B, N)."""
    batch = TokenizedBatch(
        history=history,
        targets=torch.from_numpy(ids).expand(len(history), -1, -1),
        user_ids=users if users is not None else torch.zeros(len(history), dtype=torch.long),
    )
    total = torch.zeros(len(history), len(ids))
    for level, logits in enumerate(model.logits(batch)):
        codes = batch.targets[..., level : level + 1]
        if model.full_vocabulary:
            codes = codes + model.layout.level_offsets[level]
        total += logits.log_softmax(-1).gather(-1, codes).squeeze(-1)
    return total


@pytest.mark.parametrize("encoder_mask", ["full", "item_causal"])
@pytest.mark.parametrize(
    "options",
    [{}, {"separator": True, "num_users": 9}, {"full_vocabulary": True}, {"n_layers": (1, 3)}],
)
@pytest.mark.parametrize("batch_size", [1, 4])
def test_all_beams_equal_the_uncached_model(
    encoder_mask: str, options: dict[str, Any], batch_size: int
) -> None:
    options = dict(options)
    depth = options.pop("n_layers", 4)
    torch.manual_seed(0)
    model = build(encoder_mask=encoder_mask, **options)
    if depth != 4:
        model = EncoderDecoderRetrievalModel(
            32, 48, 0.0, 3, depth, SIZES, 3, encoder_mask=encoder_mask
        ).eval()
    ids = np.unique(catalogue(60), axis=0)
    index = PrefixIndex.from_ids(ids, SIZES)
    history = ragged(random_codes(batch_size, 5, seed=1), [5, 1, 3, 4][:batch_size])
    users = torch.arange(batch_size) if model.layout.num_users else None
    with torch.no_grad():
        expected = score_uncached(model, history, ids, users)
    ranked = expected.sort(dim=1, descending=True, stable=True)
    for tables in (None, model.decoding_tables()):
        result = model.generate(history, index, num_beams=len(ids), user_ids=users, tables=tables)
        torch.testing.assert_close(result.item_scores, ranked.values, atol=1e-5, rtol=1e-5)
        # Scores of the computations differ in the last digits: compare by score, not place.
        found = expected.gather(1, result.items)
        torch.testing.assert_close(found, ranked.values, atol=1e-5, rtol=1e-5)
        assert all(len(set(row)) == len(ids) for row in result.items.tolist())


def test_every_beam_exists_and_shared_ids_give_all_their_items() -> None:
    model = build()
    ids = np.concatenate([catalogue(30), catalogue(30)])  # each ID at least twice
    index = PrefixIndex.from_ids(ids, SIZES)
    result = model.generate(random_codes(3, 4, seed=2), index, num_beams=10, num_results=20)
    known = {tuple(row) for row in ids.tolist()}
    assert {tuple(row) for row in result.codes.reshape(-1, 3).tolist()} <= known
    for user in range(3):
        for item, beam in zip(
            result.items[user].tolist(), result.item_beams[user].tolist(), strict=True
        ):
            assert ids[item].tolist() == result.codes[user, beam].tolist()


def test_a_batch_equals_its_users_and_padding_changes_nothing() -> None:
    model = build(num_users=5, separator=True)
    index = PrefixIndex.from_ids(catalogue(40), SIZES)
    lengths = [6, 2, 1, 4]
    history = ragged(random_codes(4, 6, seed=3), lengths)
    users = torch.tensor([4, 0, 2, 2])
    together = model.generate(history, index, num_beams=6, user_ids=users)
    for user, length in enumerate(lengths):
        alone = model.generate(
            history[user : user + 1, :length],
            index,
            num_beams=6,
            user_ids=users[user : user + 1],
            padded=False,
        )
        assert torch.equal(alone.items[0], together.items[user])
        torch.testing.assert_close(alone.scores[0], together.scores[user], atol=1e-5, rtol=0)


def test_restrictions_reach_the_results() -> None:
    model = build()
    ids = np.unique(catalogue(60), axis=0)
    index = PrefixIndex.from_ids(ids, SIZES)
    history = random_codes(2, 3, seed=4)
    everything = model.generate(history, index, num_beams=len(ids)).items
    allowed = torch.zeros(len(ids), dtype=torch.bool)
    allowed[::3] = True
    some = model.generate(history, index, num_beams=len(ids), legal=index.allow(allowed)).items
    for user in range(2):
        wanted = [item for item in everything[user].tolist() if allowed[item]]
        assert [item for item in some[user].tolist() if item >= 0] == wanted


@pytest.mark.parametrize("options", [{}, {"separator": True, "num_users": 4}])
def test_packed_equals_plain(options: dict[str, Any]) -> None:
    """One pass over sequences gives the loss and gradients of one pass a target."""
    model = build(encoder_mask="item_causal", **options)
    lengths = [5, 3, 4]
    sequences = random_codes(3, 6, seed=5)  # items 0..5; item g + 1 is target g
    users = torch.tensor([0, 3, 1])
    packed = TokenizedBatch(
        history=ragged(sequences[:, :5], lengths),
        targets=ragged(sequences[:, 1:], lengths),
        user_ids=users,
        packed=True,
    )
    rows = [(user, g) for user, length in enumerate(lengths) for g in range(length)]
    plain = TokenizedBatch(
        history=torch.cat([ragged(sequences[u : u + 1, :5], [g + 1]) for u, g in rows]),
        targets=torch.cat([sequences[u : u + 1, g + 1 : g + 2] for u, g in rows]),
        user_ids=torch.tensor([int(users[u]) for u, _ in rows]),
    )
    losses, gradients = [], []
    for batch in (packed, plain):
        model.zero_grad()
        out = model(batch)
        out.loss.backward()
        losses.append(out.loss.detach())
        gradients.append(
            {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        )
    torch.testing.assert_close(losses[0], losses[1], atol=1e-6, rtol=1e-5)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-4, msg=name)


def test_bucketed_equals_padded() -> None:
    """Batches of one length without masks give the loss and gradients of one padded batch."""
    model = build(num_users=4)
    lengths = [4, 4, 2, 2]
    history = ragged(random_codes(4, 4, seed=6), lengths)
    targets = random_codes(4, 1, seed=7)
    users = torch.arange(4)
    model.zero_grad()
    model(TokenizedBatch(history, targets, users)).loss.backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for rows, length in ((slice(0, 2), 4), (slice(2, 4), 2)):
        part = TokenizedBatch(
            history[rows, :length], targets[rows], users[rows], packed=False, padded=False
        )
        (model(part).loss / 2).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and name != "embedding.weight":
            torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-4)
    grad = model.embedding.weight.grad
    assert grad is not None
    torch.testing.assert_close(grad, expected["embedding.weight"], atol=1e-5, rtol=1e-4)


def test_item_causal_memory_does_not_see_the_future() -> None:
    model = build(encoder_mask="item_causal", num_users=3)
    history = random_codes(1, 5, seed=8)
    changed = history.clone()
    changed[0, 3:] = random_codes(2, seed=9)
    user = torch.tensor([1])
    with torch.no_grad():
        before, _ = model.encode(history, user)
        after, _ = model.encode(changed, user)
    assert torch.equal(before[:, : 1 + 3 * 3], after[:, : 1 + 3 * 3])
    assert not torch.equal(before, after)


def test_loss_options_equal_their_definition() -> None:
    model = build()
    batch = TokenizedBatch(random_codes(3, 2), random_codes(3, 1, seed=1), torch.zeros(3).long())
    with torch.no_grad():
        logits = model.logits(batch)
        out = model(batch, label_smoothing=0.2, level_weights=[1.0, 0.0, 3.0])
    expected = []
    for level, scores in enumerate(logits):
        log_probs = scores[:, 0].double().log_softmax(-1)
        hit = log_probs.gather(1, batch.targets[:, :, level]).squeeze(1)
        expected.append(-(0.8 * hit + 0.2 * log_probs.mean(-1)).mean())
    torch.testing.assert_close(out.level_losses.double(), torch.stack(expected), atol=1e-6, rtol=0)
    assert float(out.loss) == pytest.approx(float((expected[0] + 3 * expected[2]) / 4), abs=1e-6)


def test_targets_that_are_none_do_not_count() -> None:
    model = build()
    history, targets = random_codes(2, 2), random_codes(2, 1, seed=1)
    users = torch.zeros(2).long()
    with torch.no_grad():
        alone = model(TokenizedBatch(history[:1], targets[:1], users[:1])).loss
        targets[1] = -1
        both = model(TokenizedBatch(history, targets, users)).loss
    torch.testing.assert_close(alone, both)


def test_save_and_load(tmp_path: Path) -> None:
    model = build(num_users=3, separator=True)
    model.save_pretrained(tmp_path / "model")
    loaded = EncoderDecoderRetrievalModel.load_pretrained(tmp_path / "model")
    assert loaded.config == model.config
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    with pytest.raises(MissingPathError, match="checkpoint must be a run folder"):
        EncoderDecoderRetrievalModel.load_pretrained(tmp_path / "nothing")


def test_layout_has_a_place_for_everything() -> None:
    layout = TokenLayout((4, 3), separator=True, num_users=2)
    tokens = layout.history_tokens(torch.tensor([[[3, 2], [-1, -1]]]), torch.tensor([1]))
    assert layout.level_offsets == (1, 5)
    assert (layout.separator_token, layout.user_offset, layout.size) == (8, 9, 11)
    assert tokens.tolist() == [[10, 4, 7, 8, 0, 0, 0]]
    assert layout.history_positions(2, torch.device("cpu")).tolist() == [-1, 0, 0, 0, 1, 1, 1]


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="attn_dim must be a multiple of num_heads, got 48 and 5"):
        EncoderDecoderRetrievalModel(32, 48, 0.1, 5, 4, 8, 3)
    with pytest.raises(ConfigError, match="num_embeddings must give 3 sizes"):
        EncoderDecoderRetrievalModel(32, 48, 0.1, 3, 4, (8, 8), 3)
    with pytest.raises(ConfigError, match="encoder_mask must be one of full, item_causal"):
        build(encoder_mask="causal")
    index = PrefixIndex.from_ids([[0, 0, 0]], (6, 5, 8))
    with pytest.raises(ArtifactError, match=r"index must have the model's level sizes \(6, 5, 7\)"):
        build().generate(random_codes(1, 1), index, num_beams=1)
    batch = TokenizedBatch(random_codes(1, 1), random_codes(1, 1), torch.zeros(1).long(), True)
    with pytest.raises(ConfigError, match="packed training needs encoder_mask='item_causal'"):
        build()(batch)
