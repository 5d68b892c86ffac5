"""Which parameters each term of the RQ-VAE's loss reaches, level by level."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genrec.models.rqvae import QuantizeForwardMode, QuantizerSettings, RqVae, RqVaeParts
from genrec.modules.quantize.residual import Quantized

MODES = list(QuantizeForwardMode)
NUM_LEVELS = 3


def make(mode: QuantizeForwardMode, **options: object) -> tuple[RqVae, Tensor, Quantized]:
    torch.manual_seed(0)
    model = RqVae(
        8,
        embed_dim=4,
        hidden_dims=(16,),
        codebook_size=6,
        codebook_mode=mode,
        n_layers=NUM_LEVELS,
        **options,  # type: ignore[arg-type]
    )
    x = torch.randn(32, 8)
    model.initialize_codebooks(x)
    return model, x, model.residual_quantizer(model.encode(x), 0.7)


def reached(model: RqVae, loss: Tensor) -> set[str]:
    """Names of the parts that a loss has a gradient for that is not zero."""
    parts = {
        "encoder": list(model.encoder.parameters()),
        "decoder": list(model.decoder.parameters()),
    }
    for level, quantizer in enumerate(model.residual_quantizer.levels):
        parts[f"codebook {level}"] = list(quantizer.parameters())
    found = set()
    for name, parameters in parts.items():
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
        if any(g is not None and g.abs().max() > 0 for g in gradients):
            found.add(name)
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sim_vq", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_quantisation_terms_reach_one_side_each(
    mode: QuantizeForwardMode, sim_vq: bool, normalize: bool
) -> None:
    model, _, quantized = make(mode, codebook_sim_vq=sim_vq, codebook_normalize=normalize)
    for level in range(NUM_LEVELS):
        assert reached(model, quantized.codebook_losses[level]) == {f"codebook {level}"}
        assert reached(model, quantized.commitment_losses[level]) == {"encoder"}


@pytest.mark.parametrize("mode", MODES)
def test_reconstruction_reaches_encoder_and_decoder(mode: QuantizeForwardMode) -> None:
    model, x, quantized = make(mode)
    loss = model.reconstruction_losses(x, model.decode(quantized.embeddings)).mean()
    expected = {"encoder", "decoder"}
    if mode is QuantizeForwardMode.GUMBEL_SOFTMAX:  # codes are mixed by weights with a gradient
        expected |= {f"codebook {level}" for level in range(NUM_LEVELS)}
    assert reached(model, loss) == expected


@pytest.mark.parametrize("mode", MODES)
def test_the_whole_loss_trains_everything(mode: QuantizeForwardMode) -> None:
    model, x, _ = make(mode)
    model(x, 0.7).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_ema_codebooks_are_reached_by_no_gradient() -> None:
    model, x, _ = make(
        QuantizeForwardMode.STE,
        parts=RqVaeParts(quantizer=QuantizerSettings(codebook_update="ema")),
    )
    before = model.get_codebook()
    model(x).loss.backward()
    assert not list(model.residual_quantizer.parameters())
    model.update_codebooks()
    after = model.get_codebook()
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_encoder_receives_the_straight_through_gradient_once() -> None:
    model, x, _ = make(QuantizeForwardMode.STE)
    z = model.encode(x).detach().requires_grad_()
    embeddings = model.residual_quantizer(z, 1.0).embeddings
    direction = torch.randn_like(embeddings)
    (gradient,) = torch.autograd.grad((embeddings * direction).sum(), z)
    torch.testing.assert_close(gradient, direction)


def test_commitment_of_a_deep_level_pulls_the_latent_to_its_code() -> None:
    model, x, _ = make(QuantizeForwardMode.STE)
    z = model.encode(x).detach().requires_grad_()
    quantized = model.residual_quantizer(z, 1.0)
    (gradient,) = torch.autograd.grad(quantized.commitment_losses[2], z)
    expected = 2 * (quantized.residuals[2] - quantized.outputs[2]) / len(z)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("mode", MODES)
def test_the_gradient_of_the_sum_is_the_mean_over_levels(mode: QuantizeForwardMode) -> None:
    """Also where levels differ: each one's estimator counts one L-th."""
    torch.manual_seed(0)
    modes = [QuantizeForwardMode.STE, mode, QuantizeForwardMode.STE]
    quantizer = RqVae(
        8, embed_dim=4, hidden_dims=(16,), codebook_size=6, codebook_mode=modes, n_layers=3
    ).residual_quantizer
    z = torch.randn(32, 4, requires_grad=True)
    quantizer.initialize(z.detach(), num_iters=5, seed=0)
    direction = torch.randn_like(z)
    torch.manual_seed(1)
    found = quantizer(z, 0.7)
    (gradient,) = torch.autograd.grad((found.embeddings * direction).sum(), z)
    torch.manual_seed(1)
    residual = found.residuals[1].detach().requires_grad_()
    middle = quantizer.levels[1](residual, 0.7).output
    own = direction  # of a straight-through level
    if middle.requires_grad:
        (own,) = torch.autograd.grad((middle * direction).sum(), residual)
    torch.testing.assert_close(gradient, (2 * direction + own) / 3)
    torch.testing.assert_close(found.embeddings, sum(found.outputs), rtol=0, atol=0)


def test_separation_pulls_the_latent_to_the_aim_only_while_its_prefix_holds() -> None:
    model, x, quantized = make(QuantizeForwardMode.STE)
    aims = quantized.sem_ids.clone()
    aims[:, -1] = (aims[:, -1] + 1) % 6
    aims[0, 0] = (aims[0, 0] + 1) % 6  # made for another prefix
    aims[1, -1] = -1  # shall stay
    z = model.encode(x).detach().requires_grad_()
    aimed = model.residual_quantizer(z, 1.0, aims)
    assert aimed.separation is not None
    assert torch.equal(aimed.sem_ids[2:, -1], aims[2:, -1])
    assert torch.equal(aimed.sem_ids[:2], quantized.sem_ids[:2])
    (gradient,) = torch.autograd.grad(aimed.separation, z)
    codes = model.get_codebook()[2][aims[2:, -1]]
    torch.testing.assert_close(gradient[2:], 2 * (aimed.residuals[2][2:] - codes) / len(z))
    assert not gradient[:2].any()
