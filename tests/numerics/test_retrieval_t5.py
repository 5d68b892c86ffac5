"""The model against Hugging Face's T5 with the same weights."""

from __future__ import annotations

import pytest
import torch

from genrec.data.schemas import TokenizedBatch
from genrec.errors import ArtifactError
from genrec.models.retrieval import EncoderDecoderRetrievalModel
from genrec.models.t5 import _names, from_t5, to_t5
from genrec.models.token_layout import PAD_TOKEN


def build(**options: object) -> EncoderDecoderRetrievalModel:
    torch.manual_seed(0)
    settings: dict[str, object] = {"num_users": 11, "separator": True, "full_vocabulary": True}
    model = EncoderDecoderRetrievalModel(
        48,
        96,
        0.1,
        3,
        (3, 2),
        num_embeddings=(7, 9, 5),
        sem_id_dim=3,
        ff_dim=64,
        **settings | options,
    )
    with torch.no_grad():  # the bias starts at zero, which would hide a wrong bucket
        model.encoder.position_bias.weight.normal_()
        model.decoder.position_bias.weight.normal_()
    return model.eval()


def random_batch(batch_size: int, num_items: int, seed: int = 0) -> TokenizedBatch:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([7, 9, 5])
    history = torch.randint(0, 1000, (batch_size, num_items, 3), generator=generator) % sizes
    lengths = torch.randint(1, num_items + 1, (batch_size,), generator=generator)
    history[torch.arange(num_items) >= lengths.unsqueeze(1)] = -1
    targets = torch.randint(0, 1000, (batch_size, 1, 3), generator=generator) % sizes
    users = torch.randint(0, 11, (batch_size,), generator=generator)
    return TokenizedBatch(history, targets, users)


@pytest.mark.parametrize(("batch_size", "num_items"), [(1, 1), (4, 6), (3, 50)])
def test_logits_equal_t5(batch_size: int, num_items: int) -> None:
    model = build()
    t5 = to_t5(model)
    batch = random_batch(batch_size, num_items)
    tokens = model.layout.history_tokens(batch.history, batch.user_ids)
    labels = model.layout.item_tokens(batch.targets[:, 0])
    with torch.no_grad():
        theirs = t5(input_ids=tokens, attention_mask=(tokens != PAD_TOKEN).long(), labels=labels)
        ours = torch.cat(model.logits(batch), dim=1)  # (B, L, V)
        loss = model(batch).loss
    torch.testing.assert_close(ours, theirs.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(loss, theirs.loss, atol=1e-5, rtol=1e-5)


def test_gradients_equal_t5() -> None:
    model = build().train()
    t5 = to_t5(model).train()
    for module in (*model.modules(), *t5.modules()):
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    batch = random_batch(4, 5)
    tokens = model.layout.history_tokens(batch.history, batch.user_ids)
    labels = model.layout.item_tokens(batch.targets[:, 0])
    t5(input_ids=tokens, attention_mask=(tokens != PAD_TOKEN).long(), labels=labels).loss.backward()
    model(batch).loss.backward()
    theirs = dict(t5.named_parameters())
    for name, parts in _names(model).items():
        parameter = dict(model.named_parameters())[name]
        expected = torch.cat([_gradient(theirs, part) for part in parts])
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected, atol=1e-5, rtol=1e-4, msg=name)


def _gradient(parameters: dict[str, torch.nn.Parameter], name: str) -> torch.Tensor:
    """Return a gradient of T5, whose two stacks hold the embedding each for itself."""
    names = [name]
    if name == "shared.weight":
        names = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
    return torch.stack([parameters[n].grad for n in names]).sum(dim=0)


def test_weights_survive_a_round_trip() -> None:
    model = build()
    other = build()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    from_t5(other, to_t5(model))
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_a_t5_of_another_shape_is_refused() -> None:
    with pytest.raises(ArtifactError, match=r"must have shape .*; build the model with the T5"):
        from_t5(build(num_users=3), to_t5(build()))
    with pytest.raises(ArtifactError, match="T5 needs encoder_mask 'full'"):
        to_t5(build(encoder_mask="item_causal"))
