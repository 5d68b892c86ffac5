"""What the graphs of models share that decode code by code; see :mod:`genrec.models.graphs`.

Shape legend: B = users, S = history items, T = encoder tokens, W = beams, C = widest fan-out of a
level, D = width, H = heads, E = head width, P = numbers that a decoded position leaves.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from genrec.decoding.trie import PrefixIndex
from genrec.models.graphs import SIZES, Graph
from genrec.modules.attention import CrossMemory
from genrec.modules.transformer import Decoder

__all__ = ["advance", "memory_axes", "memory_tensors", "step_graph"]


def memory_axes(num_layers: int, tokens: str) -> dict[str, str]:
    """Name what :func:`memory_tensors` returns, with its axes; ``tokens`` is the letter of T."""
    names = [f"{part}_{layer}" for layer in range(num_layers) for part in ("keys", "values")]
    return dict.fromkeys(names, f"BH{tokens}E") | {"bias": f"B--{tokens}"}


def memory_tensors(decoder: Decoder, memory: Tensor, bias: Tensor) -> list[Tensor]:
    """List each layer's keys and values, ``(B, H, T, E)``, and the bias, ``(B, 1, 1, T)``."""
    return [part for known in decoder.memories(memory) for part in known[:2]] + [bias]


def advance(
    decoder: Decoder, x: Tensor, level: int, given: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Decode one more position of every beam.

    Args:
        decoder: Of the model.
        x: Its input, shape ``(B, W, D)``.
        level: How many positions came before.
        given: What a step is given by name.

    Returns:
        States, shape ``(B, W, D)``, and ``present``, shape ``(B, W, P)``.
    """
    num_layers = len(decoder.layers)
    memories = [
        CrossMemory(given[f"keys_{layer}"], given[f"values_{layer}"], absorbed=False)
        for layer in range(num_layers)
    ]
    past: list[list[Tensor]] = [[] for _ in range(num_layers)]
    if level:
        parts = given["past"].chunk(num_layers, dim=-1)  # (B, W, level, P / layers) each
        past = [[part[:, :, place] for place in range(level)] for part in parts]
    x, own = decoder.go_on(x, level, past, (memories, given["bias"]))
    return x, torch.cat(own, dim=-1)


def step_graph(
    module: nn.Module,
    index: PrefixIndex,
    level: int,
    context: Mapping[str, tuple[Tensor, str]],
    num_numbers: int,
) -> Graph:
    """Describe the step of a level.

    Args:
        module: The step.
        index: The catalogue.
        level: How many codes came before.
        context: What it takes of the encoder's outputs, examples with their axes.
        num_numbers: P.

    Returns:
        The graph; its last step leaves nothing.
    """
    batch, width = SIZES["B"], SIZES["W"] if level else 1
    # States side by side, as the index has them: a step may add up what lies below each.
    children = torch.arange(index.max_children[level], dtype=torch.int32)
    children = children.repeat(batch, width, 1)
    legal = torch.ones(children.shape, dtype=torch.bool)
    inputs = {**context, "children": (children, "BWC"), "legal": (legal, "BWC")}
    if level:
        inputs["states"] = children[..., 0], "BW"
        inputs["past"] = torch.zeros(batch, width, level, num_numbers), "BW"
    last = level == index.num_levels - 1
    return Graph(module, inputs, ("log_probs",) if last else ("log_probs", "present"))
