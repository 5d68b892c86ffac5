"""The item-token model taken apart; see :mod:`genrec.models.graphs`.

Shape legend: B = users, S = history items, R = results, W = beams, C = widest fan-out of a level,
L = levels, D = width, P = numbers that a decoded position leaves.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.decoding.trie import PrefixIndex, TrieStep
from genrec.models.decoder_graphs import advance, memory_axes, memory_tensors, step_graph
from genrec.models.graphs import SIZES, Graph, widened
from genrec.models.item_head import item_scores
from genrec.models.item_targets import padding_bias
from genrec.models.seen_items import SeenItems
from genrec.modules.hashed_embedding import HashedEmbedding

if TYPE_CHECKING:
    from genrec.models.item_retrieval import ItemTokenRetrievalModel

__all__ = ["item_graphs"]


def item_graphs(
    model: ItemTokenRetrievalModel,
    index: PrefixIndex,
    *,
    rescore: bool,
    later_temperature: float = 1.0,
) -> dict[str, Graph]:
    """Take the model apart.

    Args:
        model: In evaluation mode, on the CPU.
        index: Its catalogue.
        rescore: Whether results are scored anew by the item head.
        later_temperature: Divides the scores of the codes after the first, > 0.

    Returns:
        The parts by name.
    """
    index = widened(index)
    model = _without_hashes(model, index)
    length = min(SIZES["S"], model.max_history)
    history = torch.zeros(SIZES["B"], length, dtype=torch.long), "BS"
    encoder = _Encoder(model, index)
    with torch.no_grad():
        found = encoder({"history": history[0]})
    context = {
        name: (tensor, axes)
        for (name, axes), tensor in zip(encoder.axes.items(), found, strict=True)
    }
    graphs = {"encoder": Graph(encoder, {"history": history}, tuple(context))}
    numbers = 2 * model.config["embedding_dim"] * len(model.decoder.layers)
    for level in range(len(model.level_sizes)):
        step = _Step(model, index, level, later_temperature if level else 1.0)
        known = context
        if level == 0 and model.tree.settings.root_items:
            known = {**context, "history": history}
        graphs[f"step_{level}"] = step_graph(step, index, level, known, numbers)
    if rescore:
        items = torch.zeros(SIZES["B"], SIZES["R"], dtype=torch.long), "BR"
        inputs = {"state": context["state"], "history": history, "items": items}
        graphs["rescore"] = Graph(_Rescore(model, index), inputs, ("scores",))
    return graphs


def _without_hashes(model: ItemTokenRetrievalModel, index: PrefixIndex) -> ItemTokenRetrievalModel:
    """Return the model with its rows listed; itself where none is found by a hash."""
    vectors = model.tokens.vectors
    tables = [vectors, *model.tree.prefixes]
    if not any(isinstance(table, HashedEmbedding) and table.hashed for table in tables):
        return model
    model = copy.deepcopy(model)
    model.tree.list_rows(index)
    if vectors is not None and vectors.hashed:
        model.tokens.vectors = vectors.listed(torch.arange(index.num_items))
    return model


class _Encoder(nn.Module):
    """From histories to what decoding needs of each user."""

    def __init__(self, model: ItemTokenRetrievalModel, index: PrefixIndex) -> None:
        super().__init__()
        self.model, self.index = model, index
        self.table = model.item_table(index)
        self.axes = {"state": "BD", "start": "B-D"}
        self.axes |= memory_axes(len(model.decoder.layers), "S")
        self.counts_seen = model.history.seen_weights or model.history.skip_history
        if self.counts_seen:
            self.axes |= {"fresh": "BS", "paths": "BSL"}

    def forward(self, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        history = given["history"]
        memory = self.model.encode(history, self.index, self.table)
        users = torch.arange(history.shape[0])
        state = memory[users, (history >= 0).sum(dim=1) - 1]
        start = self.model.to_decoder(state).unsqueeze(1)
        bias = padding_bias(history, memory)
        found = [state, start, *memory_tensors(self.model.decoder, memory, bias)]
        if self.counts_seen:
            seen = SeenItems.build(history, self.index, users)
            found += [seen.fresh, seen.states]
        return tuple(found)


class _Step(nn.Module):
    """From the beams of a level to the probabilities of the codes that continue them."""

    def __init__(
        self, model: ItemTokenRetrievalModel, index: PrefixIndex, level: int, temperature: float
    ) -> None:
        super().__init__()
        self.model, self.index, self.level, self.temperature = model, index, level, temperature

    def forward(self, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        model, level = self.model, self.level
        x = given["start"] + model.starts[level]
        if level:
            codes = self.index.child_codes[level - 1][given["states"].long()]
            x = x + model.tokens.code(codes, level - 1)
        decoded, present = advance(model.decoder, x, level, given)
        width = decoded.shape[1]
        children = given["children"].long()
        flat = children.flatten(0, 1)
        following = TrieStep(
            self.index.child_codes[level][flat], flat, given["legal"].flatten(0, 1)
        )
        seen = None
        if "fresh" in given:
            seen = SeenItems(given["paths"][..., 0], given["fresh"], given["paths"]).each(width)
        first = None
        if level == 0 and model.tree.settings.root_items:
            first = self._first_code_scores(given["state"], given["history"])
        log_probs = model.tree.log_probs(
            decoded.flatten(0, 1),
            given["state"].unsqueeze(1).expand(-1, width, -1).flatten(0, 1),
            level,
            following,
            self.index,
            seen=seen,
            items=model.tokens.vectors,
            temperature=self.temperature,
            first=first,
        ).view(children.shape)
        last = level == len(model.level_sizes) - 1
        return (log_probs,) if last else (log_probs, present)

    def _first_code_scores(self, state: Tensor, history: Tensor) -> Tensor:
        """Score first codes by all items below them, ``(B, K)``, as the model itself does."""
        model, index = self.model, self.index
        table = model.item_table(index)
        scores = F.linear(state, model.tokens.table(index) if table is None else table)  # (B, N)
        items = torch.where(history >= 0, history, history[:, :1])  # the first again for padding
        weight = model.item_seen_weight()
        if weight is not None:
            scores = scores.scatter(1, items, scores.gather(1, items) + weight)
        if model.history.skip_history:
            scores = scores.scatter(1, items, -torch.inf)
        largest = scores.amax(dim=1, keepdim=True).clamp(min=-1e30)
        groups = index.paths.states[:, 0].long().expand(scores.shape)
        sums = scores.new_zeros(scores.shape[0], index.num_states[1])
        sums = sums.scatter_add(1, groups, (scores - largest).exp())
        return sums.clamp(min=1e-37).log() + largest


class _Rescore(nn.Module):
    """From results to their scores by the item head."""

    def __init__(self, model: ItemTokenRetrievalModel, index: PrefixIndex) -> None:
        super().__init__()
        self.model, self.index, self.table = model, index, model.item_table(index)

    def forward(self, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        scores = item_scores(
            given["state"],
            self.model.tokens,
            self.index,
            given["items"],
            given["history"],
            self.model.item_seen_weight(),
            self.table,
        )
        return (scores,)
