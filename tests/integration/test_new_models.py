"""A new quantiser and a new sequence model are one file and one line of a registry each."""

from __future__ import annotations

import inspect
import json
import shutil

import pytest
import toys

from genrec import Recommender
from genrec.commands.evaluate import evaluate_runs
from genrec.registry import QUANTIZERS, RANKERS
from genrec.tokenizer.semantic_id import SemanticIdTokenizer
from genrec.trained import load_quantizer
from genrec.training import decoder, rqvae


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(RANKERS, "Averages", "toys")
    monkeypatch.setitem(QUANTIZERS, "signs", "toys:Signs")


def prepared(tokenizer) -> str:
    return json.loads((tokenizer / "meta.json").read_text())["prepared"]


def test_they_are_small():
    parts = (toys.Averages, toys.AveragesSettings, toys.AveragesTask, toys.train)
    assert sum(len(inspect.getsource(part).splitlines()) for part in parts) <= 60
    assert len(inspect.getsource(toys.Signs).splitlines()) <= 40


def test_a_new_sequence_model_is_trained_evaluated_and_served(
    registered, sample_tokenizer, sample_decoder, tmp_path, capsys
):
    run = toys.train(
        toys.AveragesSettings(
            dataset_folder=prepared(sample_tokenizer),
            save_dir_root=str(tmp_path / "averages"),
            train_mode="bucketed",
            iterations=300,
            learning_rate=0.02,
            max_seq_len=5,
        )
    )
    results = evaluate_runs([run], with_baselines=True)
    assert results["averages"]["recall@10"] > results["popularity"]["recall@10"]
    shared = shutil.copytree(sample_decoder, tmp_path / "decoder")  # results are written into it
    both = evaluate_runs([shared, run], with_baselines=False)
    assert {"averages", "generation"} <= set(both)
    assert "averages, item level" in capsys.readouterr().out
    items, scores = Recommender.from_pretrained(run).recommend([["G0316", "G0649"], ["G0413"]], k=5)
    assert [len(own) for own in items] == [len(own) for own in scores] == [5, 5]


def test_a_new_quantiser_is_trained_and_carries_a_decoder(registered, sample_tokenizer, tmp_path):
    with pytest.warns(UserWarning, match="without effect"):
        run = rqvae.train(
            rqvae.RqVaeSettings(
                dataset="sample",
                dataset_folder=prepared(sample_tokenizer),
                save_dir_root=str(tmp_path / "signs"),
                tokenizer="signs",
                vae_codebook_size=16,
                epochs=1,
            )
        )
    assert isinstance(load_quantizer(run), toys.Signs)
    assert SemanticIdTokenizer.load(run).num_levels == 4
    retrieval = decoder.train(
        decoder.DecoderSettings(
            pretrained_rqvae_path=str(run),
            save_dir_root=str(tmp_path / "decoder"),
            iterations=2,
            decoder_embed_dim=16,
            attn_embed_dim=16,
            attn_heads=2,
            attn_layers=2,
            ff_dim=16,
            num_beams=10,
            test_at_end=False,
        )
    )
    recommender = Recommender.from_pretrained(retrieval)
    assert len(recommender.recommend(["G0316", "G0649"], k=5).items) == 5
