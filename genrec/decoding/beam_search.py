"""Exact beam search over the semantic IDs that exist; knows no model.

Shape legend: B = users, W = beams, L = levels, K = codes of a level, R = results.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from genrec.decoding.legal import LegalSet
from genrec.decoding.trie import PrefixIndex, TrieStep
from genrec.errors import ConfigError

__all__ = ["BeamResult", "ChildStepFn", "StepFn", "constrained_beam_search"]

#: (level, codes, parents) -> log-probabilities of all codes, (B, W, K)
StepFn = Callable[[int, Tensor | None, Tensor | None], Tensor]
#: (level, codes, parents, following) -> log-probabilities of the following children, (B, W, C)
ChildStepFn = Callable[[int, Tensor | None, Tensor | None, TrieStep], Tensor]

_DEAD = torch.iinfo(torch.int64).min


@dataclass(frozen=True)
class BeamResult:
    """What the search found, best first; columns without a result hold -1 and ``-inf``.

    Attributes:
        codes: Semantic IDs, shape ``(B, W, L)``, int64.
        scores: Sum of the log-probabilities of the codes, shape ``(B, W)``, float32.
        leaves: Leaves of the prefix index, shape ``(B, W)``, int32.
        items: Item ids, shape ``(B, R)``, int64.
        item_scores: Score of each item's ID, shape ``(B, R)``, float32.
        item_beams: Column of ``codes`` that each item came from, shape ``(B, R)``, int64.
    """

    codes: Tensor
    scores: Tensor
    leaves: Tensor
    items: Tensor
    item_scores: Tensor
    item_beams: Tensor

    def reordered(self, item_scores: Tensor, num_results: int) -> BeamResult:
        """Rank the items anew.

        Args:
            item_scores: New scores, shape ``(B, R)``; of equal ones the better item by the old
                scores stays before the other.
            num_results: How many to keep.

        Returns:
            The same beams, their items in the new order.
        """
        scores = item_scores.masked_fill(self.items < 0, -torch.inf)
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        order, scores = order[:, :num_results], scores[:, :num_results]
        items, beams = self.items.gather(1, order), self.item_beams.gather(1, order)
        return BeamResult(self.codes, self.scores, self.leaves, items, scores, beams)


@torch.no_grad()
def constrained_beam_search(
    step_fn: StepFn | None,
    index: PrefixIndex,
    *,
    batch_size: int,
    num_beams: int,
    num_results: int | None = None,
    legal: LegalSet | None = None,
    temperature: float = 1.0,
    sample: bool = False,
    generator: torch.Generator | None = None,
    renormalize: bool = False,
    child_fn: ChildStepFn | None = None,
) -> BeamResult:
    """Find the existing semantic IDs to which a model gives the highest probability.

    At each level only codes that continue an existing, allowed prefix can win. Scores are the
    model's own log-probabilities, accumulated; what is illegal is removed and the rest is not
    scaled up. Equal scores are ordered by the ID, lexicographically, so the result is the same
    on every device and in every batch that gets the same scores. With ``num_beams`` at least
    the number of IDs the result is the ranking of the whole catalogue.

    Args:
        step_fn: ``(level, codes, parents) -> log_probs``. At level 0 both are None and the
            result has shape ``(B, 1, K)``. Later ``codes`` are those chosen last, shape
            ``(B, W)``, int64, ``parents`` the columns of the beams that they continue, shape
            ``(B, W)``, int64, and the result has shape ``(B, W, K)``, floating point. Rows of
            dead beams (parent 0, code 0) may hold anything. None with ``child_fn``.
        index: The catalogue.
        batch_size: Number of users ``B``, >= 1.
        num_beams: Most prefixes kept for a user, >= 1. Early levels use fewer where fewer exist.
        num_results: Items returned for a user; ``num_beams`` when None.
        legal: Restriction on items, from the methods of ``index``, or None.
        temperature: Divides the log-probabilities, > 0; ranks change only across levels.
        sample: Draw IDs without replacement, with the model's probabilities, instead of taking
            the best (stochastic beam search). Scores stay those of the model.
        generator: Where random numbers come from; torch's own when None.
        renormalize: Make the probabilities of the legal codes of each prefix sum to one.
        child_fn: In place of ``step_fn``, for models that score only codes which exist: the
            same with the continuations of all beams, of which there are C at most for one, as
            fourth argument and a result of shape ``(B, W, C)``, in their order.

    Returns:
        Beams and items, best first.

    Raises:
        ConfigError: If a number is out of range.

    Source:
        Constrained decoding over a prefix tree as in TIGER, https://arxiv.org/abs/2305.05065,
        where invalid IDs are sampled and thrown away instead; sampling as in Kool et al. 2019,
        https://arxiv.org/abs/1903.06059, algorithm 1.
    """
    if num_beams < 1 or (num_results is not None and num_results < 1):
        raise ConfigError(
            f"num_beams and num_results must be >= 1, got {num_beams} and {num_results}; "
            "take at least as many beams as results"
        )
    if not temperature > 0:
        raise ConfigError(f"temperature must be > 0, got {temperature}; use 1.0 for the model's")
    device = index.device
    states = torch.zeros(batch_size, 1, dtype=torch.int32, device=device)
    scores = torch.zeros(batch_size, 1, dtype=torch.float32, device=device)
    noisy = torch.zeros_like(scores)
    history = torch.zeros(batch_size, 1, 0, dtype=torch.long, device=device)
    codes: Tensor | None = None
    parents: Tensor | None = None
    for level in range(index.num_levels):
        width = min(num_beams, index.num_states[level + 1])
        following = index.step(states, level, at_least=-(-width // states.shape[1]))
        if child_fn is not None:
            exists = following.legal
            gained = child_fn(level, codes, parents, following).float()
            if temperature != 1.0:
                gained = (gained / temperature).masked_fill(~exists, -torch.inf)
                gained = gained.log_softmax(dim=-1)
        else:
            assert step_fn is not None
            log_probs = step_fn(level, codes, parents).float() / temperature  # (B, W, K)
            if temperature != 1.0:
                log_probs = log_probs.log_softmax(dim=-1)
            gained = log_probs.gather(-1, following.codes)  # (B, W, C)
        allowed = following.legal
        if legal is not None:
            allowed = allowed & legal.allows(following.states, level + 1)
        if renormalize:
            total = gained.masked_fill(~allowed, -torch.inf).logsumexp(dim=-1, keepdim=True)
            gained = torch.where(allowed, gained - total, gained)
        candidates = scores.unsqueeze(-1) + gained
        ranked = _perturb(candidates, allowed, noisy, generator) if sample else candidates
        chosen, alive = _top(ranked, following.states, allowed, width)  # (B, width)
        parents = torch.where(alive, chosen // allowed.shape[-1], 0)
        codes = following.codes.flatten(1).gather(1, chosen)
        states = following.states.flatten(1).gather(1, chosen).masked_fill(~alive, -1)
        scores = candidates.flatten(1).gather(1, chosen).masked_fill(~alive, -torch.inf)
        noisy = ranked.flatten(1).gather(1, chosen)
        past = history.gather(1, parents.unsqueeze(-1).expand(-1, -1, level))
        history = torch.cat([past, codes.unsqueeze(-1)], dim=-1)
    history = history.masked_fill((states < 0).unsqueeze(-1), -1)
    items, beams = index.items(states, num_results or num_beams, legal)
    item_scores = scores.gather(1, beams.clamp(min=0)).masked_fill(beams < 0, -torch.inf)
    return BeamResult(history, scores, states, items, item_scores, beams)


def _top(ranked: Tensor, states: Tensor, allowed: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Pick the ``width`` best continuations of each user, ties to the lowest state.

    There are always that many: a search has all prefixes of a length, or ``num_beams`` of them,
    and each of them goes on. Returns flat positions and whether each is legal, ``(B, width)``.
    """
    ranked, states, allowed = (part.flatten(1) for part in (ranked, states, allowed))
    if ranked.device.type == "cpu" and ranked.shape[1] > 2 * width:
        # Nearly always it is clear who the best are: only these are put in order.
        best, chosen = ranked.masked_fill(~allowed, -torch.inf).topk(width + 1, dim=1)
        if bool((best[:, width - 1] > best[:, width]).all()):
            chosen = chosen[:, :width]
            ranked, states, allowed = (part.gather(1, chosen) for part in (ranked, states, allowed))
            order, alive = _in_order(ranked, states, allowed, width)
            return chosen.gather(1, order), alive
    return _in_order(ranked, states, allowed, width)


def _in_order(ranked: Tensor, states: Tensor, allowed: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Do the same with flat continuations, ``(B, X)``.

    One integer holds score and state, so that the order is total and one selection finds it.
    """
    bits = ranked.contiguous().view(torch.int32)  # sums that begin with 0.0, so never -0.0
    rising = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()  # same order as the floats
    key = (rising << 32) | (0x7FFFFFFF - states)
    key = key.masked_fill(~allowed, _DEAD)
    best, chosen = key.topk(width, dim=1)
    return chosen, best != _DEAD


def _perturb(
    candidates: Tensor, allowed: Tensor, noisy: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Draw Gumbel values for continuations whose largest equals that of their prefix."""
    uniform = torch.rand(
        candidates.shape, generator=generator, device=candidates.device, dtype=torch.float64
    ).clamp(min=1e-300)  # of which the logarithm exists
    drawn = candidates - (-uniform.log()).log()  # (B, W, C), float64
    drawn = drawn.masked_fill(~allowed, -torch.inf)
    largest = drawn.amax(dim=-1, keepdim=True)
    target = noisy.unsqueeze(-1)
    v = target - drawn + torch.log1p(-(drawn - largest).exp())
    shifted = target - v.clamp(min=0) - torch.log1p((-v.abs()).exp())
    return shifted.float()
