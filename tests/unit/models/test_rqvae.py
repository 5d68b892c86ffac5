from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from genrec.checkpoint import RunDirectory
from genrec.errors import ArtifactError, ConfigError
from genrec.models.rqvae import (
    FeatureSettings,
    LossSettings,
    MlpSettings,
    QuantizeForwardMode,
    QuantizerSettings,
    RqVae,
    RqVaeOutput,
    RqVaeParts,
)
from genrec.tokenizer.quantizer import ItemQuantizer

MODES = list(QuantizeForwardMode)


@pytest.fixture
def items() -> Tensor:
    return torch.randn(200, 12, generator=torch.Generator().manual_seed(0))


def make(**options: Any) -> RqVae:
    torch.manual_seed(0)
    small = {"embed_dim": 4, "hidden_dims": (16,), "codebook_size": 8, "n_layers": 3}
    return RqVae(12, **(small | options))


def ready(items: Tensor, **options: Any) -> RqVae:
    model = make(**options)
    model.initialize_codebooks(items)
    return model


def step(model: RqVae, optimizer: torch.optim.Optimizer, x: Tensor) -> RqVaeOutput:
    out: RqVaeOutput = model(x, 0.5)
    optimizer.zero_grad()
    out.loss.backward()
    optimizer.step()
    model.update_codebooks()
    return out


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch", [1, 50])
def test_a_call_gives_the_documented_output(
    items: Tensor, mode: QuantizeForwardMode, batch: int
) -> None:
    model = ready(items, codebook_mode=mode)
    out = model(items[:batch], 0.5)
    assert out.embs_norm.shape == (batch, 3)
    assert 0 < out.p_unique_ids <= 1
    expected = out.reconstruction_loss + out.rqvae_loss
    torch.testing.assert_close(out.loss, expected)
    assert model(SimpleNamespace(x=items[:batch]), 0.5).loss.isfinite()


def test_p_unique_ids_counts_distinct_ids(items: Tensor) -> None:
    model = ready(items)
    doubled = torch.cat([items[:20], items[:20]])
    distinct = len(torch.unique(model.get_semantic_ids(doubled), dim=0))
    assert model(doubled).p_unique_ids.item() == pytest.approx(distinct / 40)


COMBINATIONS = [
    combination
    for combination in itertools.product(
        MODES, ("gradient", "ema"), ("l2", "cosine"), (False, True), (False, True)
    )
    if not (combination[1] == "ema" and combination[4])
]


@pytest.mark.parametrize(("mode", "update", "distance", "normalize", "sim_vq"), COMBINATIONS)
def test_every_combination_learns(
    items: Tensor,
    mode: QuantizeForwardMode,
    update: str,
    distance: str,
    normalize: bool,
    sim_vq: bool,
) -> None:
    settings = QuantizerSettings(codebook_update=update, distance=distance, dead_code_steps=5)
    model = ready(
        items,
        codebook_mode=mode,
        codebook_normalize=normalize,
        codebook_sim_vq=sim_vq,
        parts=RqVaeParts(quantizer=settings),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = [step(model, optimizer, items).reconstruction_loss.item() for _ in range(25)]
    assert losses[-1] < 0.9 * losses[0]
    ids = model.get_semantic_ids(items)
    quantized = model.eval().residual_quantizer(model.encode(items), 1.0)
    assert torch.equal(quantized.sem_ids, ids)
    torch.testing.assert_close(model.get_codebook_entry(ids), quantized.embeddings)


def test_ids_are_nearest_codes_level_by_level(items: Tensor) -> None:
    model = ready(items, codebook_size=(8, 6, 4))
    residual = model.encode(items).detach().double()
    ids = model.get_semantic_ids(items)
    assert ids.dtype == torch.int64
    assert [c.shape for c in model.get_codebook()] == [(8, 4), (6, 4), (4, 4)]
    for level, codebook in enumerate(model.get_codebook()):
        distances = torch.cdist(residual, codebook.double())
        assert torch.equal(distances.argmin(dim=1), ids[:, level])
        residual = residual - codebook[ids[:, level]].double()


def test_cosine_picks_the_nearest_direction(items: Tensor) -> None:
    model = ready(
        items, parts=RqVaeParts(quantizer=QuantizerSettings(distance="cosine")), n_layers=1
    )
    z = model.encode(items).detach()
    similarity = torch.cosine_similarity(z[:, None], model.get_codebook()[0][None], dim=-1)
    assert torch.equal(similarity.argmax(dim=1), model.get_semantic_ids(items)[:, 0])
    assert model.distance == "cosine"


def test_ids_do_not_depend_on_the_mode_of_the_module(items: Tensor) -> None:
    model = ready(items, codebook_mode=QuantizeForwardMode.SINKHORN)
    model.train()
    while_training = model.get_semantic_ids(items)
    assert torch.equal(while_training, model.eval().get_semantic_ids(items))
    assert torch.equal(model.residual_quantizer(model.encode(items), 1.0).sem_ids, while_training)


def test_modes_and_sizes_of_each_level(items: Tensor) -> None:
    last = QuantizeForwardMode.SINKHORN
    model = ready(items, codebook_size=[4, 8, 16], codebook_last_layer_mode=last)
    assert model.codebook_sizes == (4, 8, 16)
    assert model.modes == (QuantizeForwardMode.STE, QuantizeForwardMode.STE, last)
    assert model(items).loss.isfinite()
    mixed = ready(items, codebook_mode=MODES[:3])
    assert mixed.modes == tuple(MODES[:3])
    assert mixed(items).loss.isfinite()


def test_the_model_is_an_item_quantizer(items: Tensor) -> None:
    model: ItemQuantizer = ready(items)
    assert isinstance(model, ItemQuantizer)
    assert model.input_dim == 12


def test_config_builds_a_twin(items: Tensor) -> None:
    model = ready(
        items,
        codebook_mode=MODES[:3],
        codebook_size=(8, 6, 4),
        n_cat_features=2,
        parts=RqVaeParts(
            mlp=MlpSettings(activation="silu", batch_norm=True),
            features=FeatureSettings(scale=3.0),
            losses=LossSettings(recon_kind="l1"),
            quantizer=QuantizerSettings(codebook_update="ema"),
        ),
    )
    assert {"mlp", "features", "losses", "quantizer"} <= set(model.config)  # as ever, and flat
    assert "parts" not in model.config
    twin = RqVae.from_config(json.loads(json.dumps(model.config)))
    twin.load_state_dict(model.state_dict())
    assert twin.config == model.config
    assert torch.equal(model.eval().get_semantic_ids(items), twin.eval().get_semantic_ids(items))


def test_checkpoint_needs_only_its_path(items: Tensor, tmp_path: Path) -> None:
    model = ready(items)
    run = RunDirectory(tmp_path / "run")
    run.save(3, weights=model.state_dict(), config=model.config)
    loaded = RqVae.load_from_checkpoint(tmp_path / "run")
    assert torch.equal(loaded.get_semantic_ids(items), model.eval().get_semantic_ids(items))
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    other = make(codebook_mode=QuantizeForwardMode.SINKHORN)
    other.load_pretrained(tmp_path / "run" / "step_3")
    assert torch.equal(other.get_semantic_ids(items), model.get_semantic_ids(items))
    with pytest.raises(ArtifactError, match="checkpoint must have this model's shape"):
        make(codebook_size=16).load_pretrained(tmp_path / "run")


def test_checkpoint_of_another_model_is_refused(items: Tensor) -> None:
    config = ready(items).config
    with pytest.raises(ArtifactError, match="must hold a model rqvae, got 'residual_kmeans'"):
        RqVae.from_config(config | {"model": "residual_kmeans"})
    with pytest.raises(ArtifactError, match="RQ-VAE of this version, got"):
        RqVae.from_config(config | {"new_option": 1})


def test_kmeans_done_flag_survives_save_and_load(items: Tensor, tmp_path: Path) -> None:
    model = ready(items)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    step(model, optimizer, items)
    RunDirectory(tmp_path).save(1, weights=model.state_dict(), config=model.config)
    loaded = make()
    loaded.load_pretrained(tmp_path)
    trained = loaded.get_codebook()
    loaded(items)  # would run k-means again, with a warning, if the flag were lost
    for before, after in zip(trained, loaded.get_codebook(), strict=True):
        assert torch.equal(before, after)


def test_without_kmeans_codes_stay_as_they_were_drawn(items: Tensor) -> None:
    model = make(codebook_kmeans_init=False)
    before = model.get_codebook()
    model(items)
    assert torch.equal(before[0], model.get_codebook()[0])


def test_first_training_call_falls_back_to_kmeans_on_its_batch(items: Tensor) -> None:
    model = make()
    with pytest.warns(UserWarning, match="k-means runs on one batch of 200 items"):
        first = model(items).reconstruction_loss
    assert model(items).reconstruction_loss == first
    with pytest.raises(ConfigError, match="codebooks must be initialised before use"):
        make().eval()(items)


@pytest.mark.parametrize("num_items", [1, 5, 200])
def test_kmeans_on_few_items(num_items: int) -> None:
    items = torch.randn(num_items, 12)
    model = make(codebook_size=16)
    model.initialize_codebooks(items)
    for codebook in model.get_codebook():
        assert codebook.isfinite().all()
    if num_items <= 16:  # every item has a code of its own
        z = model.encode(items)
        torch.testing.assert_close(model.get_codebook_entry(model.get_semantic_ids(items)), z)


def test_kmeans_is_seeded_and_bounded(items: Tensor) -> None:
    first, again, other, fewer = make(), make(), make(), make()
    first.initialize_codebooks(items, seed=1)
    again.initialize_codebooks(items, seed=1)
    other.initialize_codebooks(items, seed=2)
    fewer.initialize_codebooks(items, seed=1, max_samples=50)
    assert torch.equal(first.get_codebook()[2], again.get_codebook()[2])
    assert not torch.equal(first.get_codebook()[2], other.get_codebook()[2])
    assert not torch.equal(first.get_codebook()[2], fewer.get_codebook()[2])


def test_warm_up_is_the_plain_autoencoder(items: Tensor) -> None:
    model = make()
    out = model(items, quantize=False)
    expected = model.reconstruction_losses(items, model.decode(model.encode(items))).mean()
    torch.testing.assert_close(out.loss, expected)
    assert out.rqvae_loss == 0
    out.loss.backward()
    for parameter in model.residual_quantizer.parameters():  # known to every process, and zero
        assert parameter.grad is not None
        assert not parameter.grad.any()


def test_compute_loss_can_be_overridden(items: Tensor) -> None:
    class Doubled(RqVae):
        def compute_loss(self, *args: Any, **kwargs: Any) -> RqVaeOutput:
            out = super().compute_loss(*args, **kwargs)
            return out._replace(loss=2 * out.loss)

    plain = ready(items)
    doubled = Doubled.from_config(plain.config)
    assert isinstance(doubled, Doubled)
    doubled.load_state_dict(plain.state_dict())
    torch.testing.assert_close(doubled(items).loss, 2 * plain(items).loss)


def test_weights_scale_their_terms(items: Tensor) -> None:
    def loss(beta: float | None = None, **settings: float) -> RqVaeOutput:
        torch.manual_seed(0)
        model = ready(items, parts=RqVaeParts(losses=LossSettings(**settings)))
        out: RqVaeOutput = model(items, commitment_weight=beta)
        return out

    base = loss()
    recon, quant = base.reconstruction_loss, base.rqvae_loss
    torch.testing.assert_close(loss(recon_weight=3.0).loss, 3 * recon + quant)
    torch.testing.assert_close(loss(quant_loss_weight=3.0).loss, recon + 3 * quant)
    # At the start both terms of a level have one value, v: 1.25 v in all by default.
    torch.testing.assert_close(loss(beta=1.0).rqvae_loss, quant * 2 / 1.25)
    torch.testing.assert_close(loss(codebook_weight=0.0).rqvae_loss, quant * 0.25 / 1.25)
    mean = ready(items, parts=RqVaeParts(losses=LossSettings(level_reduction="mean")))(items)
    torch.testing.assert_close(mean.rqvae_loss, quant / 3)


def test_feature_scale_leaves_the_meaning_of_the_loss(items: Tensor) -> None:
    """Scaling data by s and features by 1 / s scales both terms by s squared."""
    one = ready(items)
    scaled = make(parts=RqVaeParts(features=FeatureSettings(scale=0.1)))
    scaled.initialize_codebooks(items * 10)
    first, second = one(items), scaled(items * 10)
    torch.testing.assert_close(second.reconstruction_loss, 100 * first.reconstruction_loss)
    torch.testing.assert_close(second.rqvae_loss, 100 * first.rqvae_loss, rtol=1e-3, atol=1e-3)


def test_categorical_tail_is_reconstructed_as_logits() -> None:
    torch.manual_seed(0)
    tail = (torch.rand(200, 4) < 0.5).float()
    items = torch.cat([tail @ torch.randn(4, 8), tail], dim=1)
    model = ready(items, n_cat_features=4, codebook_size=16)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        step(model, optimizer, items)
    logits = model.eval().decode(model.get_codebook_entry(model.get_semantic_ids(items)))[:, 8:]
    assert ((logits > 0) == (tail > 0.5)).float().mean() > 0.95


def test_dead_codes_are_reseeded_from_badly_reconstructed_items(items: Tensor) -> None:
    model = ready(
        items, n_layers=1, parts=RqVaeParts(quantizer=QuantizerSettings(dead_code_steps=2))
    )
    level = model.residual_quantizer.levels[0]
    with torch.no_grad():
        level.codebook[3] = 1e3  # nobody picks it
    live = level.codebook.detach().clone()
    for _ in range(2):
        out = model(items)
        model.update_codebooks()
    assert out.loss.isfinite()
    changed = (level.codebook != live).any(dim=1)
    assert changed.tolist() == [i == 3 for i in range(8)]
    z = model.encode(items)
    errors = model.reconstruction_losses(
        items, model.decode(model.get_codebook()[0][torch.cdist(z, live).argmin(dim=1)])
    )
    torch.testing.assert_close(level.codebook[3], z[errors.argmax()])
    assert 3 in model.get_semantic_ids(items)


def test_ema_moves_codes_to_their_items_over_accumulated_batches(items: Tensor) -> None:
    settings = QuantizerSettings(codebook_update="ema", ema_decay=0.0, ema_epsilon=1e-12)
    model = ready(items, n_layers=1, parts=RqVaeParts(quantizer=settings))
    ids, z = model.get_semantic_ids(items)[:, 0], model.encode(items)
    for part in items.split(50):
        model(part)
    model.update_codebooks()
    expected = torch.stack([z[ids == code].mean(dim=0) for code in range(8)])
    torch.testing.assert_close(model.get_codebook()[0], expected)


def test_half_precision_keeps_codes_in_float32(items: Tensor) -> None:
    model = ready(items)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(items)
        quantized = model.residual_quantizer(model.encode(items), 1.0)
    assert quantized.embeddings.dtype == torch.float32
    assert out.loss.dtype == torch.float32
    exact = model(items)
    torch.testing.assert_close(out.loss, exact.loss, rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_layers": 0}, "n_layers must be >= 1, got 0"),
        ({"n_cat_features": 12}, r"n_cat_features must lie in \[0, input_dim = 12\), got 12"),
        ({"commitment_weight": -0.1}, "commitment_weight must be >= 0, got -0.1"),
        ({"codebook_size": 0}, "codebook_size must be >= 1, got 0"),
        ({"codebook_size": (8, 8)}, "codebook_size must be one value or one a level, 3, got 2"),
        (
            {
                "codebook_sim_vq": True,
                "parts": RqVaeParts(quantizer=QuantizerSettings(codebook_update="ema")),
            },
            "sim_vq learns a map of a fixed codebook by gradient, got codebook_update='ema'",
        ),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distance": "dot"}, "distance must be known, got 'dot'; allowed: cosine, l2"),
        ({"codebook_update": "none"}, "codebook_update must be known, got 'none'"),
        ({"ema_decay": 1.0}, "ema_decay must be >= 0 and < 1, got 1.0"),
        ({"ema_epsilon": 0.0}, "ema_epsilon must be > 0, got 0.0"),
        ({"dead_code_steps": -1}, "dead_code_steps must be >= 0, got -1"),
        ({"sinkhorn_epsilon": 0.0}, "sinkhorn_epsilon must be > 0"),
    ],
)
def test_wrong_quantizer_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        QuantizerSettings(**options)


def test_wrong_width_is_named(items: Tensor) -> None:
    with pytest.raises(ValueError, match=r"x must have shape \(B, 12\), got \(200, 6\)"):
        ready(items)(items[:, :6])
