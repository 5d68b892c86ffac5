"""The item-token model against brute force over the whole catalogue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from genrec.data.schemas import SequenceBatch
from genrec.decoding.trie import PrefixIndex
from genrec.errors import ArtifactError, ConfigError, MissingPathError
from genrec.models import code_tree, item_growth
from genrec.models.item_graphs import item_graphs
from genrec.models.item_retrieval import ItemTokenRetrievalModel
from genrec.models.item_settings import (
    HistorySettings,
    ItemHeadSettings,
    ItemVectorSettings,
    TreeSettings,
)

SIZES = (5, 4, 3)
HISTORY = torch.tensor([[1, 2, 3, 2, 0], [4, 5, -1, -1, -1], [6, 6, 7, -1, -1]])

VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "several vectors": {"tree": TreeSettings(vectors_per_prefix=(3, 2))},
    "hashed": {
        "tree": TreeSettings(prefix_rows=7),
        "items": ItemVectorSettings(item_rows=9),
    },
    "codes alone": {
        "tree": TreeSettings(prefix_vectors=False),
        "items": ItemVectorSettings(item_vectors=False),
    },
    "leaves of their own": {"items": ItemVectorSettings(item_vectors=False)},
    "vectors alone": {"items": ItemVectorSettings(item_codes=False)},
    "prefixes as their items": {
        "tree": TreeSettings(items_from=1, vectors_per_prefix=(3,)),
        "history": HistorySettings(seen_weights=True),
    },
    "deep": {"n_layers": (1, 3), "num_heads": 4},
    "first codes by items": {"tree": TreeSettings(root_items=True)},
    "all by items": {
        "tree": TreeSettings(root_items=True, items_from=1, vectors_per_prefix=(3,)),
        "history": HistorySettings(seen_weights=True),
    },
    "unseen first codes by items": {
        "tree": TreeSettings(root_items=True, items_from=1),
        "history": HistorySettings(seen_weights=True, skip_history=True),
    },
    "seen items": {"history": HistorySettings(seen_weights=True)},
    "no seen items": {"history": HistorySettings(seen_weights=True, skip_history=True)},
    "level": {"tree": TreeSettings(normalize_over="level", prefix_vectors=False)},
    "vocabulary": {"tree": TreeSettings(normalize_over="vocabulary", prefix_vectors=False)},
}


def random_ids(num_items: int, seed: int = 0) -> np.ndarray:
    """Different IDs in random order."""
    every = np.stack(np.unravel_index(np.arange(np.prod(SIZES)), SIZES), axis=1)
    return np.random.default_rng(seed).permutation(every)[:num_items]


@pytest.fixture(scope="module")
def index() -> PrefixIndex:
    return PrefixIndex.from_ids(random_ids(30), SIZES)


def build(index: PrefixIndex, **options: Any) -> ItemTokenRetrievalModel:
    torch.manual_seed(0)
    settings = {"embedding_dim": 16, "ff_dim": (24, 24), "max_history": 6}
    model = ItemTokenRetrievalModel.for_index(index, **settings | options)
    with torch.no_grad():  # what starts at zero would hide a mistake
        for name, parameter in model.named_parameters():
            if "seen_weight" in name or "position_bias" in name or name.endswith("bias"):
                parameter.normal_(std=0.3)
    return model.eval()


@torch.no_grad()
def score_uncached(model: ItemTokenRetrievalModel, history: Tensor, index: PrefixIndex) -> Tensor:
    """Log-probability of every item for every user by the training pass, ``(B, N)``."""
    found = torch.empty(len(history), index.num_items)
    for user, row in enumerate(history):
        for item in range(index.num_items):
            batch = SequenceBatch(row[None], torch.tensor([[item]]), torch.zeros(1).long())
            found[user, item] = -model(batch, index).level_losses.sum()
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_beams_rank_the_whole_catalogue(variant: str, index: PrefixIndex) -> None:
    model = build(index, **VARIANTS[variant])
    expected = score_uncached(model, HISTORY, index)
    if model.history.skip_history:
        for user, row in enumerate(HISTORY):
            expected[user, row[row >= 0]] = -torch.inf
    for table in (None, model.item_table(index)):
        result = model.generate(HISTORY, index, num_beams=index.num_items, table=table)
        ranked = expected.sort(dim=1, descending=True).values
        torch.testing.assert_close(result.item_scores, ranked, atol=1e-5, rtol=1e-5)
        there = result.items >= 0
        found = expected.gather(1, result.items.clamp(min=0))
        torch.testing.assert_close(found[there], result.item_scores[there], atol=1e-5, rtol=1e-5)
        if model.tree.settings.normalize_over == "prefix":
            total = result.item_scores.exp().sum(dim=1)
            torch.testing.assert_close(total, torch.ones(3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", ["all by items", "unseen first codes by items"])
def test_items_below_prefixes_in_parts_and_padded(
    variant: str, index: PrefixIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few at a time, and as a GPU and graphs do it: the same losses and gradients."""
    model = build(index, **VARIANTS[variant])
    target = torch.tensor([[5], [9], [2]])
    batch = SequenceBatch(HISTORY, target, torch.zeros(3).long(), packed=False, padded=True)

    def run() -> list[Tensor]:
        loss = model(batch, index).loss
        inputs = [p for p in model.parameters() if p.requires_grad]
        return [loss, *torch.autograd.grad(loss, inputs, allow_unused=True)]

    expected = run()
    monkeypatch.setattr(code_tree, "_ENTRIES", 1)
    in_parts = run()
    monkeypatch.setattr(code_tree, "Windows", None)
    monkeypatch.setattr(code_tree, "is_exporting", lambda: True)
    padded = run()
    for other in (in_parts, padded):
        for found, wanted in zip(other, expected, strict=True):
            if wanted is None:
                assert found is None or found.eq(0).all()
            else:
                torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("variant", ["defaults", "several vectors", "no seen items"])
@torch.no_grad()
def test_later_codes_at_another_temperature(variant: str, index: PrefixIndex) -> None:
    """The same ranking as from the log-probabilities, tempered and normalised one by one."""
    model = build(index, **VARIANTS[variant])
    expected = torch.empty(3, index.num_items)
    for user, row in enumerate(HISTORY):
        for item in range(index.num_items):
            batch = SequenceBatch(row[None], torch.tensor([[item]]), torch.zeros(1).long())
            found = model.code_log_probs(batch, index, (1.0, 1.7))
            expected[user, item] = found.own[0, 0] + found.tempered[0, 1:, 1].sum()
            own = model.code_log_probs(batch, index, later_temperature=1.7).own.sum()
            torch.testing.assert_close(own, expected[user, item], atol=1e-5, rtol=1e-5)
    if model.history.skip_history:
        for user, row in enumerate(HISTORY):
            expected[user, row[row >= 0]] = -torch.inf
    result = model.generate(HISTORY, index, num_beams=index.num_items, later_temperature=1.7)
    ranked = expected.sort(dim=1, descending=True).values
    torch.testing.assert_close(result.item_scores, ranked, atol=1e-5, rtol=1e-5)
    plain = model.generate(HISTORY, index, num_beams=index.num_items)
    assert not torch.equal(result.items, plain.items)


def test_a_wrong_temperature_is_refused(index: PrefixIndex) -> None:
    for settings, later in (({}, 0.0), (VARIANTS["level"], 1.5)):
        with pytest.raises(ConfigError, match=r"later_temperature must be above 0, and 1 unless"):
            build(index, **settings).generate(HISTORY, index, num_beams=2, later_temperature=later)


@pytest.mark.parametrize("variant", VARIANTS)
def test_packed_equals_one_by_one(variant: str, index: PrefixIndex) -> None:
    """One pass over windows gives the loss and the gradients of one pass a target."""
    model = build(index, **VARIANTS[variant])
    lengths = [5, 2, 3]
    windows = torch.tensor([[1, 2, 3, 2, 0, 8], [4, 5, 9, -1, -1, -1], [6, 6, 7, 1, -1, -1]])
    targets = windows[:, 1:].clone()
    targets[0, :2] = -1  # targets of an earlier window
    users = torch.arange(3)
    packed = SequenceBatch(HISTORY, targets, users, packed=True)
    rows = [(u, g) for u, n in enumerate(lengths) for g in range(n) if targets[u, g] >= 0]
    seen = torch.arange(5) <= torch.tensor([g for _, g in rows]).unsqueeze(1)
    plain = SequenceBatch(
        history=HISTORY[[u for u, _ in rows]].where(seen, -1),
        targets=torch.stack([targets[u, g : g + 1] for u, g in rows]),
        user_ids=users[[u for u, _ in rows]],
    )
    losses, gradients = [], []
    for batch in (packed, plain):
        model.zero_grad()
        out = model(batch, index)
        out.loss.backward()
        losses.append(out)
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(losses[0].loss, losses[1].loss, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(losses[0].level_losses, losses[1].level_losses)
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        other = gradients[1][name]
        torch.testing.assert_close(gradient, other, atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("variant", ["defaults", "seen items"])
def test_a_batch_equals_its_users_and_padding_changes_nothing(
    variant: str, index: PrefixIndex
) -> None:
    model = build(index, **VARIANTS[variant])
    together = model.generate(HISTORY, index, num_beams=7)
    for user, row in enumerate(HISTORY):
        row = row[row >= 0].unsqueeze(0)
        alone = model.generate(row, index, num_beams=7, padded=False)
        assert torch.equal(alone.items[0], together.items[user])
        torch.testing.assert_close(alone.scores[0], together.scores[user], atol=1e-5, rtol=0)


def item_log_probs(model: ItemTokenRetrievalModel, index: PrefixIndex) -> Tensor:
    """The item head by its definition, ``(B, N)``."""
    last = (HISTORY >= 0).sum(dim=1) - 1
    states = model.encode(HISTORY, index)[torch.arange(3), last]
    scores = states @ model.tokens.table(index).t()
    seen = torch.zeros(3, index.num_items + 1, dtype=torch.bool)
    seen = seen.scatter(1, HISTORY.where(HISTORY >= 0, index.num_items), True)[:, :-1]
    if model.seen_weight is not None:
        scores = scores + code_tree.SEEN_SCALE * model.seen_weight * seen
    return scores.log_softmax(dim=1)


@pytest.mark.parametrize("variant", ["defaults", "seen items", "codes alone"])
@torch.no_grad()
def test_item_head_and_beams_scored_again(variant: str, index: PrefixIndex) -> None:
    model = build(index, **VARIANTS[variant])
    of_items = item_log_probs(model, index)
    targets = torch.tensor([[2], [5], [9]])
    out = model(SequenceBatch(HISTORY, targets, torch.zeros(3).long()), index)
    torch.testing.assert_close(out.item_loss, -of_items.gather(1, targets).mean())
    torch.testing.assert_close(out.loss, out.level_losses.sum() + 0.5 * out.item_loss)
    both = of_items + 0.7 * score_uncached(model, HISTORY, index)
    found = model.generate(HISTORY, index, num_beams=index.num_items, num_results=9, rescore=0.7)
    assert torch.equal(found.items, both.argsort(dim=1, descending=True)[:, :9])
    shift = both.gather(1, found.items) - found.item_scores  # a constant of each user
    torch.testing.assert_close(shift, shift[:, :1].expand(-1, 9), atol=1e-4, rtol=1e-5)


def test_drawn_items_estimate_the_loss_over_all(index: PrefixIndex) -> None:
    targets = torch.tensor([[2], [5], [9]])
    batch = SequenceBatch(HISTORY, targets, torch.zeros(3).long())
    history = HistorySettings(seen_weights=True)
    exact = build(index, history=history)
    drawn = build(index, history=history, head=ItemHeadSettings(num_negatives=60))
    drawn.load_state_dict(exact.state_dict())
    torch.manual_seed(1)
    with torch.no_grad():
        losses = torch.stack([drawn(batch, index).item_loss for _ in range(40)])
        wanted = exact(batch, index).item_loss
    torch.testing.assert_close(losses.mean(), wanted, atol=0.15, rtol=0)


def test_smoothing_spreads_over_the_children(index: PrefixIndex) -> None:
    model = build(index)
    batch = SequenceBatch(HISTORY, torch.tensor([[2], [5], [9]]), torch.zeros(3).long())
    scores = score_uncached(model, HISTORY, index)
    smooth = model(batch, index, label_smoothing=0.3).level_losses[0]
    by_first = torch.zeros(3, SIZES[0]).index_add(
        1, index.codes_of_items(torch.arange(30))[:, 0], scores.exp()
    )
    wanted = index.codes_of_items(batch.targets[:, 0])[:, 0]
    expected = F.cross_entropy(by_first.log(), wanted, label_smoothing=0.3)
    torch.testing.assert_close(smooth, expected, atol=1e-5, rtol=1e-5)


def test_level_weights(index: PrefixIndex) -> None:
    model = build(index, head=ItemHeadSettings(item_head_weight=0.0))
    batch = SequenceBatch(HISTORY, torch.tensor([[2], [5], [9]]), torch.zeros(3).long())
    out = model(batch, index, level_weights=(1.0, 0.0, 2.0))
    torch.testing.assert_close(out.loss.detach(), out.level_losses[0] + 2 * out.level_losses[2])
    assert out.item_loss is None


def test_restrictions_reach_the_results(index: PrefixIndex) -> None:
    model = build(index)
    everything = model.generate(HISTORY, index, num_beams=30).items
    legal = index.exclude_per_user(HISTORY)
    some = model.generate(HISTORY, index, num_beams=30, legal=legal).items
    for user, row in enumerate(HISTORY.tolist()):
        wanted = [item for item in everything[user].tolist() if item not in row]
        assert [item for item in some[user].tolist() if item >= 0] == wanted


@pytest.mark.parametrize("variant", VARIANTS)
def test_saved_and_loaded(variant: str, index: PrefixIndex, tmp_path: Path) -> None:
    model = build(index, **VARIANTS[variant])
    model.save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert not any(isinstance(value, dict) for value in config.values())
    again = ItemTokenRetrievalModel.load_pretrained(tmp_path / "model")
    assert again.config == model.config
    one, other = (m.generate(HISTORY, index, num_beams=5) for m in (model, again))
    assert torch.equal(one.items, other.items)
    assert torch.equal(one.scores, other.scores)


@pytest.mark.parametrize("variant", ["defaults", "several vectors", "hashed", "codes alone"])
def test_grown_catalogue_keeps_what_was_learned(variant: str) -> None:
    """Prefixes are numbered anew when items are added; their vectors must follow."""
    ids = random_ids(40)
    old, new = PrefixIndex.from_ids(ids[:30], SIZES), PrefixIndex.from_ids(ids, SIZES)
    model = build(old, **VARIANTS[variant])
    bigger = model.grown(old, new)
    assert bigger.num_items == 40
    total = bigger.generate(HISTORY, new, num_beams=40).item_scores.exp().sum(dim=1)
    torch.testing.assert_close(total, torch.ones(3), atol=1e-5, rtol=0)
    # Among the old items alone the new ones change nothing but the shares of their prefixes.
    batch = SequenceBatch(HISTORY, torch.tensor([[2], [5], [9]]), torch.zeros(3).long())
    same = [level for level in range(3) if old.num_states[level + 1] == new.num_states[level + 1]]
    assert 0 in same
    before, after = model(batch, old), bigger(batch, new)
    torch.testing.assert_close(before.level_losses[0], after.level_losses[0])
    tokens = bigger.tokens(torch.arange(30), new)
    torch.testing.assert_close(tokens, model.tokens(torch.arange(30), old))


@pytest.mark.parametrize("count", [1, 2])
def test_new_items_start_from_their_nearest_relatives(count: int) -> None:
    ids = random_ids(40)
    old, new = PrefixIndex.from_ids(ids[:30], SIZES), PrefixIndex.from_ids(ids, SIZES)
    model = build(old, tree=TreeSettings(vectors_per_prefix=(count, count)))
    bigger = model.grown(old, new)
    for item in range(30, 40):
        shared = next(n for n in (3, 2, 1, 0) if (ids[:30, :n] == ids[item, :n]).all(axis=1).any())
        near = (ids[:30, :shared] == ids[item, :shared]).all(axis=1)
        wanted = model.tokens.vectors.weight[torch.from_numpy(near)].mean(dim=0)
        torch.testing.assert_close(bigger.tokens.vectors.weight[item], wanted)
        if (ids[:30, :2] == ids[item, :2]).all(axis=1).any():
            continue
        near = (ids[:30, :1] == ids[item, :1]).all(axis=1)
        rows = old.paths.states[:30, 1][torch.from_numpy(near)].unique().long()
        table = model.tree.prefixes[1].weight.view(-1, count, 16)
        found = bigger.tree.prefixes[1].weight.view(-1, count, 16)[new.paths.states[item, 1]]
        torch.testing.assert_close(found, table[rows].mean(dim=0))


@pytest.mark.parametrize(("block", "scores"), [(4, 12), (1_000, 1), (1_000, 1 << 26)])
def test_nearest_items_equal_plain_loops(block: int, scores: int, monkeypatch) -> None:
    monkeypatch.setattr(item_growth, "_BLOCK_ITEMS", block)
    monkeypatch.setattr(item_growth, "_MOST_SCORES", scores)
    sketch = torch.randn(40, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sketch[3] = torch.nan  # an old item without a known text
    sketch[4] = 0.0
    sketch[31] = 7.5 * sketch[12]
    sketch[32], sketch[33], sketch[34] = torch.nan, 0.0, -sketch[:3].mean(dim=0) * 0
    found = item_growth.nearest_items(sketch, 30)
    assert found is not None
    for place, row in enumerate(found.tolist(), start=30):
        likeness = {}
        for old in range(30):
            product = float(sketch[place].norm() * sketch[old].norm())
            if product > 0:
                likeness[old] = float(sketch[place] @ sketch[old]) / product
        wanted = sorted(likeness, key=lambda old: -likeness[old])[:5]
        assert row == (wanted or [-1] * 5)
    assert found[1, 0] == 12
    assert item_growth.nearest_items(sketch[:, :8], 30) is None  # of an older run


def test_new_items_begin_where_the_nearest_texts_are() -> None:
    ids = random_ids(40)
    old, new = PrefixIndex.from_ids(ids[:30], SIZES), PrefixIndex.from_ids(ids, SIZES)
    model = build(old, **VARIANTS["defaults"])
    sketch = torch.randn(40, 64, generator=torch.Generator().manual_seed(1))
    sketch[35] = torch.nan
    near = item_growth.nearest_items(sketch, 30)
    bigger, by_codes = model.grown(old, new, sketch), model.grown(old, new)
    vectors = model.tokens.vectors.weight
    for item in range(30, 40):
        found = bigger.tokens.vectors.weight[item]
        if item == 35:
            assert torch.equal(found, by_codes.tokens.vectors.weight[item])
            continue
        kin = vectors[near[item - 30]]
        wanted = kin.mean(dim=0) * kin.norm(dim=1).mean() / kin.mean(dim=0).norm()
        torch.testing.assert_close(found, wanted)
    for name, weight in by_codes.state_dict().items():
        if not name.startswith("tokens.vectors"):
            assert torch.equal(weight, bigger.state_dict()[name]), name


def test_items_without_vectors_are_found_by_their_codes() -> None:
    """Item vectors are dropped in training, so an item that never had one is recommended."""
    ids = np.stack(np.unravel_index(np.arange(36), (6, 6)), axis=1)
    order = np.random.default_rng(0).permutation(36)
    ids = ids[order]
    old, new = PrefixIndex.from_ids(ids[:30], (6, 6)), PrefixIndex.from_ids(ids, (6, 6))
    torch.manual_seed(0)
    model = ItemTokenRetrievalModel.for_index(
        old, embedding_dim=16, dropout=(0.0, 0.0), items=ItemVectorSettings(item_drop=0.5)
    )
    # The next item has the first code of the one before: what codes say is all there is to know.
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    codes = torch.from_numpy(ids[:30])
    for _ in range(60):
        history = torch.randint(0, 30, (64, 1))
        same = (codes[history[:, 0], :1] == codes[:, 0]).float()
        targets = torch.multinomial(same, 1)
        model(SequenceBatch(history, targets, torch.zeros(64).long()), old).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    bigger = model.grown(old, new)
    cold = torch.arange(30, 36).unsqueeze(1)
    found = bigger.generate(cold, new, num_beams=6, padded=False).items[:, 0]
    hits = torch.from_numpy(ids)[found, 0] == torch.from_numpy(ids)[30:, 0]
    assert hits.float().mean() >= 0.8


def test_starts_from_vectors(index: PrefixIndex) -> None:
    model = build(index, tree=TreeSettings(vectors_per_prefix=(4,)))
    given = torch.randn(30, 40)
    model.start_from(given, index)
    own = model.tokens.vectors.weight
    level = index.paths.states[:, 0]
    vectors = model.tree.prefixes[0].weight.view(-1, 4, 16)
    for state, some in enumerate(vectors):
        below = own[level == state]
        assert all((below == vector).all(dim=1).any() for vector in some)


def test_work_does_not_grow_with_the_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand times the items, and every array of the tree has the same size."""
    sizes = (32, 32, 32)
    shapes: list[list[tuple[int, ...]]] = []

    def record(x: Tensor, table: Tensor, columns: Tensor, wanted: Tensor) -> Tensor:
        shapes[-1].append((*x.shape, *table.shape, columns.shape[0]))
        assert columns.shape[1] <= 32
        return real(x, table, columns, wanted)

    real = code_tree.window_dot
    monkeypatch.setattr(code_tree, "window_dot", record)
    for num_items in (32, 32_000):
        every = np.stack(np.unravel_index(np.arange(32**3), sizes), axis=1)
        ids = np.random.default_rng(0).permutation(every)[:num_items]
        index = PrefixIndex.from_ids(ids, sizes)
        model = build(
            index,
            tree=TreeSettings(prefix_rows=64),
            items=ItemVectorSettings(item_rows=64),
            head=ItemHeadSettings(num_negatives=16),
        )
        shapes.append([])
        history = torch.randint(0, num_items, (4, 5))
        batch = SequenceBatch(history, history, torch.arange(4), packed=True, padded=False)
        model(batch, index).loss.backward()
        model.generate(history, index, num_beams=3, padded=False)
        assert sum(p.numel() for p in model.parameters()) < 40_000
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedding_dim": 10, "num_heads": 4}, "embedding_dim must be a multiple of num_heads"),
        ({"n_layers": (0, 1)}, "sizes of the model must be >= 1"),
        ({"dropout": (0.1, 1.0)}, r"dropout must lie in \[0, 1\)"),
        (
            {
                "tree": TreeSettings(items_from=1),
                "items": ItemVectorSettings(item_vectors=False),
            },
            "items_from must be None without item_vectors",
        ),
        (
            {
                "tree": TreeSettings(normalize_over="level", prefix_vectors=False),
                "history": HistorySettings(seen_weights=True),
            },
            "seen_weights and skip_history must be off",
        ),
    ],
)
def test_sizes_that_do_not_fit(options: dict[str, Any], message: str, index: PrefixIndex) -> None:
    with pytest.raises(ConfigError, match=message):
        build(index, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: TreeSettings(normalize_over="prefixes"),
            "normalize_over must be known, got 'prefixes'",
        ),
        (lambda: TreeSettings(normalize_over="level"), "prefix_vectors must be off"),
        (lambda: TreeSettings(vectors_per_prefix=(0,)), "vectors_per_prefix must be >= 1"),
        (lambda: TreeSettings(prefix_rows=0), "prefix_rows must be >= 1"),
        (lambda: TreeSettings(items_from=0), "items_from must be >= 1"),
        (lambda: ItemVectorSettings(item_drop=1.0), r"item_drop must be >= 0 and < 1"),
        (lambda: ItemVectorSettings(item_vectors=False, item_codes=False), "item_codes must be on"),
        (lambda: ItemHeadSettings(item_head_weight=-1.0), "item_head_weight must be >= 0"),
        (
            lambda: ItemHeadSettings(item_head_dtype="half"),
            "item_head_dtype must be known, got 'half'",
        ),
    ],
)
def test_settings_that_make_no_sense(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_wrong_inputs(index: PrefixIndex, tmp_path: Path) -> None:
    model = build(index, head=ItemHeadSettings(item_head_weight=0.0))
    other = PrefixIndex.from_ids(random_ids(29), SIZES)
    with pytest.raises(ArtifactError, match="index must have the model's 30 items"):
        model.generate(HISTORY, other, num_beams=3)
    with pytest.raises(ConfigError, match="history must have at most 6 items, got 7"):
        model.generate(torch.zeros(1, 7).long(), index, num_beams=3)
    with pytest.raises(ConfigError, match="rescore must be None for a model without item head"):
        model.generate(HISTORY, index, num_beams=3, rescore=1.0)
    with pytest.raises(MissingPathError):
        ItemTokenRetrievalModel.load_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_parts_take_their_own_examples(variant: str) -> None:
    """Children that stood for one and the same would have more items than there are places."""
    ids = [
        (a, b, c) for a in range(4) for b in range(4) for c in range(3 if b == 0 or a == 3 else 1)
    ]
    index = PrefixIndex.from_ids(ids, SIZES)
    graphs = item_graphs(
        build(index, **VARIANTS[variant]), index, rescore=True, later_temperature=1.0
    )
    for graph in graphs.values():
        inputs = {name: example for name, (example, _) in graph.inputs.items()}
        for output in graph.module(inputs):
            assert not output.isnan().any()
