"""The code-token model taken apart; see :mod:`genrec.models.graphs`.

Shape legend: B = users, S = history items, T = encoder tokens, W = beams, C = widest fan-out of a
level, L = levels, K = codes of a level, N = items.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.decoding.trie import PrefixIndex
from genrec.models.decoder_graphs import advance, memory_axes, memory_tensors, step_graph
from genrec.models.graphs import SIZES, Graph, widened

if TYPE_CHECKING:
    from genrec.models.retrieval import EncoderDecoderRetrievalModel

__all__ = ["code_graphs"]


def code_graphs(
    model: EncoderDecoderRetrievalModel, index: PrefixIndex, *, max_history: int
) -> dict[str, Graph]:
    """Take the model apart.

    Args:
        model: In evaluation mode, on the CPU.
        index: The catalogue.
        max_history: Newest history items that it takes.

    Returns:
        The parts by name.
    """
    index = widened(index)
    inputs = {
        "history": (
            torch.zeros(SIZES["B"], min(SIZES["S"], max_history), dtype=torch.long),
            "BS",
        )
    }
    if model.layout.num_users:
        inputs["user"] = torch.zeros(SIZES["B"], dtype=torch.long), "B"
    encoder = _Encoder(model, index)
    with torch.no_grad():
        found = encoder({name: example for name, (example, _) in inputs.items()})
    context = {
        name: (tensor, axes)
        for (name, axes), tensor in zip(encoder.axes.items(), found, strict=True)
    }
    graphs = {"encoder": Graph(encoder, inputs, tuple(context))}
    numbers = 2 * model.config["attn_dim"] * len(model.decoder.layers)
    for level in range(index.num_levels):
        step = _Step(model, index, level)
        graphs[f"step_{level}"] = step_graph(step, index, level, context, numbers)
    return graphs


class _Encoder(nn.Module):
    """From histories to what decoding needs of each user."""

    def __init__(self, model: EncoderDecoderRetrievalModel, index: PrefixIndex) -> None:
        super().__init__()
        self.model = model
        codes = index.codes_of_items(torch.arange(index.num_items))
        self.codes = F.pad(codes, (0, 0, 0, 1), value=-1)  # the last row is that of padding
        self.axes = memory_axes(len(model.decoder.layers), "T")

    def forward(self, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        history = given["history"]
        codes = self.codes[torch.where(history >= 0, history, len(self.codes) - 1)]
        memory, bias = self.model.encode(codes, given.get("user"))
        assert bias is not None
        return tuple(memory_tensors(self.model.decoder, memory, bias))


class _Step(nn.Module):
    """From the beams of a level to the probabilities of the codes that continue them."""

    def __init__(self, model: EncoderDecoderRetrievalModel, index: PrefixIndex, level: int) -> None:
        super().__init__()
        self.model, self.index, self.level = model, index, level

    def forward(self, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        model, level = self.model, self.level
        if level:
            codes = self.index.child_codes[level - 1][given["states"].long()]
            x = model.code_vectors(codes, level - 1)
        else:
            x = model.start_vector().expand(given["children"].shape[0], 1, -1)
        decoded, present = advance(model.decoder, x, level, given)
        codes = self.index.child_codes[level][given["children"].long()]
        log_probs = model.level_log_probs(decoded, level).gather(-1, codes)
        last = level == self.index.num_levels - 1
        return (log_probs,) if last else (log_probs, present)
