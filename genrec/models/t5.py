"""Exchange of weights with Hugging Face's T5, the reference that the model is tested against."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genrec.errors import ArtifactError
from genrec.models.retrieval import EncoderDecoderRetrievalModel
from genrec.models.token_layout import PAD_TOKEN

if TYPE_CHECKING:
    from transformers import T5ForConditionalGeneration

__all__ = ["from_t5", "to_t5"]


def to_t5(model: EncoderDecoderRetrievalModel) -> T5ForConditionalGeneration:
    """Copy a model's weights into a new Hugging Face T5 of the same shape.

    Args:
        model: The model; its ``encoder_mask`` must be ``full``, since T5 has no other.

    Returns:
        The T5 in evaluation mode; token ids are those of ``model.layout``.

    Raises:
        ArtifactError: If T5 cannot express the model.
    """
    from transformers import T5Config, T5ForConditionalGeneration

    if model.encoder_mask != "full":
        raise ArtifactError(
            f"T5 needs encoder_mask 'full', got {model.encoder_mask!r}; train with "
            "train.encoder_mask='full' to exchange weights"
        )
    config = model.config
    t5_config = T5Config(
        vocab_size=model.layout.size,
        d_model=config["embedding_dim"],
        d_kv=config["attn_dim"] // config["num_heads"],
        d_ff=config["ff_dim"],
        num_layers=config["n_layers"][0],
        num_decoder_layers=config["n_layers"][1],
        num_heads=config["num_heads"],
        relative_attention_num_buckets=model.encoder.position_bias.num_buckets,
        relative_attention_max_distance=model.encoder.position_bias.max_distance,
        dropout_rate=config["dropout"],
        feed_forward_proj="relu",
        tie_word_embeddings=False,
        pad_token_id=PAD_TOKEN,
        decoder_start_token_id=PAD_TOKEN,
        eos_token_id=None,
    )
    # transformers 5 turns this back on in the constructor, which would tie input and output.
    t5_config.tie_word_embeddings = False
    t5 = T5ForConditionalGeneration(t5_config)
    own = model.state_dict()
    theirs = t5.state_dict()
    for name, parts in _names(model).items():
        for piece, key in zip(own[name].chunk(len(parts)), parts, strict=True):
            theirs[key] = piece.clone()
    for alias in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
        theirs[alias] = theirs["shared.weight"].clone()
    t5.load_state_dict(theirs)
    return t5.eval()


def from_t5(model: EncoderDecoderRetrievalModel, t5: T5ForConditionalGeneration) -> None:
    """Copy the weights of a Hugging Face T5 into a model of the same shape, in place.

    Args:
        model: The model to fill.
        t5: The source; untied embeddings, ReLU feed-forward.

    Raises:
        ArtifactError: If a shape differs.
    """
    theirs = t5.state_dict()
    filled: dict[str, Tensor] = {}
    own = model.state_dict()
    for name, parts in _names(model).items():
        found = (
            torch.cat([theirs[key] for key in parts]) if all(p in theirs for p in parts) else None
        )
        if found is None or found.shape != own[name].shape:
            got = "nothing" if found is None else str(tuple(found.shape))
            raise ArtifactError(
                f"T5 weight {parts[0]} must have shape {tuple(own[name].shape)}, got {got}; "
                "build the model with the T5's sizes"
            )
        filled[name] = found
    model.load_state_dict(filled)


def _names(model: EncoderDecoderRetrievalModel) -> dict[str, list[str]]:
    """Map each of our weights to the T5 weights that it holds, one after another."""
    names = {"embedding.weight": ["shared.weight"], "head.weight": ["lm_head.weight"]}
    for stack, depth in zip(("encoder", "decoder"), model.config["n_layers"], strict=True):
        first = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        names[f"{stack}.position_bias.weight"] = [first]
        names[f"{stack}.norm.weight"] = [f"{stack}.final_layer_norm.weight"]
        last = 1 if stack == "encoder" else 2
        for layer in range(depth):
            ours, theirs = f"{stack}.layers.{layer}", f"{stack}.block.{layer}.layer"
            own = f"{theirs}.0.SelfAttention"
            names |= {
                f"{ours}.attention.qkv.weight": [f"{own}.{x}.weight" for x in "qkv"],
                f"{ours}.attention.out.weight": [f"{own}.o.weight"],
                f"{ours}.attention_norm.weight": [f"{theirs}.0.layer_norm.weight"],
                f"{ours}.ff.up.weight": [f"{theirs}.{last}.DenseReluDense.wi.weight"],
                f"{ours}.ff.down.weight": [f"{theirs}.{last}.DenseReluDense.wo.weight"],
                f"{ours}.ff_norm.weight": [f"{theirs}.{last}.layer_norm.weight"],
            }
            if stack == "decoder":
                cross = f"{theirs}.1.EncDecAttention"
                names |= {
                    f"{ours}.cross.query.weight": [f"{cross}.q.weight"],
                    f"{ours}.cross.kv.weight": [f"{cross}.{x}.weight" for x in "kv"],
                    f"{ours}.cross.out.weight": [f"{cross}.o.weight"],
                    f"{ours}.cross_norm.weight": [f"{theirs}.1.layer_norm.weight"],
                }
    return names
