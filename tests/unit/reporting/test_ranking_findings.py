from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from genrec.reporting.ranking_advice import RunFacts
from genrec.reporting.ranking_diagnosis import Bucket, Diagnosis, Level, Search, format_diagnosis
from genrec.reporting.ranking_findings import find_troubles
from genrec.reporting.training_log import TrainingLog


def level(name: str, loss: float, **others: Any) -> Level:
    values = {
        "uniform": 3.5,
        "bigram": 2.5,
        "children": 33.0,
        "train_loss": 1.6,
        "illegal": 0.0,
        "calibrated": loss,
        "temperature": 1.0,
        "uniform_error": 0.02,
        "bigram_error": 0.02,
    }
    return Level(name=name, loss=loss, **values | others)


def bucket(label: str, least: int, most: int | None, recall: float, **others: Any) -> Bucket:
    values = {"users": 500, "cooccurrence": 0.06, "popularity": 0.01, "error": 0.01}
    return Bucket(label, least, most, recall=recall, **values | others)


OVERALL = bucket("1-90", 1, 90, 0.1, users=2000)
SETTINGS = {
    "epochs": 10.0,
    "iterations": None,
    "warmup_steps": 50,
    "dropout_p": 0.3,
    "dropout_decoder": 0.1,
    "weight_decay": 0.1,
    "decoder_embed_dim": 64,
    "label_smoothing": 0.0,
    "start_weight": 0.5,
    "item_head_weight": 2.0,
    "normalize_over": "prefix",
    "pretrained_rqvae_path": "runs/rqvae/shop",
}
STILL = TrainingLog(tuple((50 * i, 4.0) for i in range(1, 21)), ((1000, 0.1),))
HEALTHY = Diagnosis(
    run="runs/decoder/shop",
    model="generation",
    users=2000,
    all_users=9000,
    hide_history=False,
    levels=(level("code 1", 2.1), level("code 2", 2.2)),
    overall=OVERALL,
    by_history=(
        bucket("1-2", 1, 2, 0.1),
        bucket("3-5", 3, 5, 0.11),
        bucket("51 or more", 51, None, 0.09),
    ),
    by_popularity=(
        bucket("0", 0, 0, 0.01, users=20, cooccurrence=0.0, popularity=0.0),
        bucket("1-5", 1, 5, 0.03, cooccurrence=0.02),
        bucket("101 or more", 101, None, 0.3, cooccurrence=0.2),
    ),
    sid_recall=0.101,
    search=Search(num_beams=30, hits=0.1, lost_hits=0.001, lost=0.01),
)
FACTS = RunFacts(settings=SETTINGS, log=STILL)


def healthy(**changes: Any) -> Diagnosis:
    return replace(HEALTHY, **changes)


def facts(model: str = "ItemTokenRetrievalModel", log: TrainingLog = STILL, **settings: Any) -> Any:
    return RunFacts(model=model, settings=SETTINGS | settings, log=log)


def test_nothing_wrong_where_nothing_is() -> None:
    assert find_troubles(HEALTHY, FACTS) == []
    assert format_diagnosis(HEALTHY).endswith("\n\nnothing wrong")


RISING = TrainingLog(STILL.losses, ((500, 0.08), (1000, 0.1)))
FALLEN = TrainingLog(((500, 3.0), (1000, 1.0)), ((500, 0.1), (1000, 0.08)))
YOUNG = (level("code 1", 2.1, train_loss=1.9), level("code 2", 2.2, train_loss=2.0))
COLD = bucket("0", 0, 0, 0.0, users=40, cooccurrence=0.0, popularity=0.0)

TROUBLES: dict[str, tuple[Diagnosis, RunFacts, str, str, tuple[str, ...]]] = {
    "no fit yet": (
        healthy(levels=YOUNG),
        facts(log=TrainingLog(((31, 5.0),))),
        "undertrained",
        "87 % of what it gains over a uniform guess",
        ("train.epochs = 20", "train.warmup_steps: a tenth"),
    ),
    "loss still falling": (
        healthy(levels=YOUNG),
        facts(log=TrainingLog(tuple((50 * i, 9.0 - 0.2 * i) for i in range(1, 21)))),
        "undertrained",
        "the training loss lay 13.1 % lower in the last fifth",
        ("train.epochs = 20",),
    ),
    "nothing learnt": (
        healthy(levels=(level("code 1", 2.1, train_loss=3.6),)),
        facts(log=TrainingLog(), epochs=None, iterations=100),
        "undertrained",
        "even on its training examples",
        ("train.iterations = 200",),
    ),
    "validation rising": (
        HEALTHY,
        facts(log=RISING),
        "undertrained",
        "recall@10 still rose at the end, from 0.0800 to 0.1000 at step 1,000",
        ("train.epochs = 20",),
    ),
    "overfitting": (
        HEALTHY,
        facts(log=FALLEN),
        "overfitting",
        "fell from 0.1000 at step 500 to 0.0800 at step 1,000, while the training loss fell from 3",
        ("train.dropout_p: more than 0.3", "train.decoder_embed_dim: less than 64", "patience"),
    ),
    "below counting": (
        healthy(overall=replace(OVERALL, cooccurrence=0.12)),
        FACTS,
        "worse than counting",
        "recall@10 0.1000, co-occurrence 0.1200",
        ("train.dropout_p", "genrec diagnose runs/rqvae/shop"),
    ),
    "below counting, code tokens": (
        healthy(overall=replace(OVERALL, popularity=0.12)),
        facts("EncoderDecoderRetrievalModel", start_weight=None),
        "worse than counting",
        "popularity 0.1200",
        ("train.encoder_tokens = 'item'",),
    ),
    "below counting, items": (
        healthy(overall=replace(OVERALL, cooccurrence=0.12)),
        facts("SasRec", start_weight=None, embed_dim=32),
        "worse than counting",
        "co-occurrence 0.1200",
        ("train.start_weight = 0.5", "train.embed_dim: less than 32"),
    ),
    "worse than the bigram": (
        healthy(levels=(level("code 1", 2.1), level("code 2", 2.7))),
        FACTS,
        "codes predicted worse than by guessing",
        "code 2: loss 2.700 nats, 2.700 at its best temperature; a bigram of codes 2.500",
        ("train.dropout_p: more than 0.3",),
    ),
    "not learnt": (
        healthy(levels=(level("code 1", 2.0), level("code 2", 2.7, train_loss=2.6))),
        FACTS,
        "codes predicted worse than by guessing",
        "a bigram of codes 2.500",
        (
            "train.epochs = 20: twice as long; keep it where validation rises; on training "
            "examples too it costs code 2 2.600",
        ),
    ),
    "as good as uniform": (
        healthy(levels=(level("code 1", 2.0), level("dedup digit", 3.45, bigram=3.6))),
        FACTS,
        "codes predicted worse than by guessing",
        "dedup digit: loss 3.450 nats, 3.450 at its best temperature; a uniform guess 3.500",
        ("genrec tokenize runs/rqvae/shop --policy reassign",),
    ),
    "too sure": (
        healthy(levels=(level("code 2", 3.9, calibrated=2.5, temperature=2.0),)),
        FACTS,
        "probabilities surer than they are right",
        "a uniform guess 3.500 and a bigram of codes 2.500; at temperature 2 it is 2.500",
        ("train.label_smoothing = 0.1", "train.dropout_decoder: more than 0.1"),
    ),
    "illegal": (
        healthy(levels=(level("code 1", 2.1, illegal=0.3, calibrated=1.8),)),
        facts("EncoderDecoderRetrievalModel"),
        "probability spent on codes that do not exist",
        "code 1: 0.300 of 2.100 nats",
        ("train.encoder_tokens = 'item'",),
    ),
    "illegal, item tokens": (
        healthy(levels=(level("code 1", 2.1, illegal=0.3, calibrated=1.8),)),
        facts(normalize_over="level"),
        "probability spent on codes that do not exist",
        "code 1: 0.300 of 2.100 nats",
        ("train.normalize_over = 'prefix'",),
    ),
    "lost beams": (
        healthy(search=Search(num_beams=10, hits=0.09, lost_hits=0.01, lost=0.03)),
        facts(normalize_over="vocabulary"),
        "search loses what the model knows",
        "with 10 beams 10.0 % of the hits at ten are lost",
        ("train.num_beams = 20", "runs/decoder/shop --beams 20", "normalize_over"),
    ),
    "cold items": (
        healthy(by_popularity=(COLD, *HEALTHY.by_popularity[1:])),
        FACTS,
        "cold items are never found",
        "none of the 40 targets that the training part does not hold",
        ("train.item_drop = 0.2",),
    ),
    "cold items of SASRec": (
        healthy(by_popularity=(COLD, *HEALTHY.by_popularity[1:])),
        facts("SasRec"),
        "cold items are never found",
        "4 were to be expected",
        ("genrec train decoder",),
    ),
    "long histories": (
        healthy(by_history=(*HEALTHY.by_history[:2], bucket("51 or more", 51, None, 0.03))),
        FACTS,
        "histories of some lengths are served badly",
        "51 or more items: recall@10 0.0300 for 500 users, counting 0.0600",
        ("train.max_seq_len: more than 20",),
    ),
    "short histories": (
        healthy(
            by_history=(
                bucket("1-2", 1, 2, 0.04, cooccurrence=0.04),
                *HEALTHY.by_history[1:],
            )
        ),
        facts(train_data_subsample=True),
        "histories of some lengths are served badly",
        "all users 0.1000, counting 0.0400 as elsewhere",
        ("train.train_data_subsample = False",),
    ),
    "rare items": (
        healthy(
            by_popularity=(bucket("1-5", 1, 5, 0.01, cooccurrence=0.05), HEALTHY.by_popularity[2])
        ),
        FACTS,
        "items of some frequencies are found badly",
        "taken 1-5 times: recall@10 0.0100 for 500 users, counting 0.0500",
        ("train.dropout_p",),
    ),
    "equal codes": (
        healthy(sid_recall=0.12),
        FACTS,
        "hits are lost among items of equal codes",
        "recall@10 0.1000 counts the target, 0.1200 any item",
        ("genrec tokenize runs/rqvae/shop --policy reassign",),
    ),
}


@pytest.mark.parametrize(
    ("found", "known", "trouble", "seen", "settings"), TROUBLES.values(), ids=TROUBLES
)
def test_each_trouble_is_named_with_evidence_and_settings(
    found: Diagnosis, known: RunFacts, trouble: str, seen: str, settings: tuple[str, ...]
) -> None:
    findings = {finding.trouble: finding for finding in find_troubles(found, known)}
    # Where nothing is learnt, levels and training are both to be named.
    assert next(iter(findings)) == trouble or trouble.startswith("codes")
    assert len(findings) <= 2
    finding = findings[trouble]
    assert any(seen in text for text in finding.evidence), finding.evidence
    advice = " ".join(finding.settings)
    for setting in settings:
        assert setting in advice
    text = format_diagnosis(replace(found, findings=(finding,)))
    assert f"\n\n1. {trouble}\n   seen: " in text


FINE: dict[str, tuple[Diagnosis, RunFacts]] = {
    "few cold items": (
        healthy(by_popularity=(replace(COLD, users=20), *HEALTHY.by_popularity[1:])),
        FACTS,
    ),
    "long histories are hard for counting too": (
        healthy(
            by_history=(
                *HEALTHY.by_history[:2],
                bucket("51 or more", 51, None, 0.03, cooccurrence=0.02),
            )
        ),
        FACTS,
    ),
    "a few users by chance": (
        healthy(by_history=(bucket("1-2", 1, 2, 0.03, users=12, error=0.06),)),
        FACTS,
    ),
    "within the error": (
        healthy(levels=(level("code 1", 2.53, bigram_error=0.03, temperature=1.2),)),
        FACTS,
    ),
    "an only child costs nothing": (
        healthy(
            levels=(
                level("code 1", 2.1),
                level("code 3", 0.019, uniform=0.02, bigram=0.018, train_loss=0.001),
            )
        ),
        FACTS,
    ),
    "validation within its noise": (
        HEALTHY,
        facts(log=TrainingLog(FALLEN.losses, ((500, 0.1), (1000, 0.098)))),
    ),
    "no levels": (healthy(levels=(), sid_recall=None, search=None), facts("Averages")),
    "no log": (HEALTHY, RunFacts()),
}


@pytest.mark.parametrize(("found", "known"), FINE.values(), ids=FINE)
def test_what_is_no_trouble_is_not_named(found: Diagnosis, known: RunFacts) -> None:
    assert find_troubles(found, known) == []


def test_the_undertrained_are_not_told_to_fit_less() -> None:
    poor = healthy(levels=(level("code 2", 2.7, train_loss=2.55),))
    advice = [text for found in find_troubles(poor, facts(log=RISING)) for text in found.settings]
    assert any("epochs" in text for text in advice)
    assert not any("dropout" in text or "weight_decay" in text for text in advice)


def test_it_is_plain_json() -> None:
    one = healthy(
        overall=replace(OVERALL, error=math.inf), levels=(level("item", 2.0, train_loss=math.nan),)
    )
    one = replace(one, findings=tuple(find_troubles(replace(HEALTHY, sid_recall=0.2), FACTS)))
    found = json.loads(json.dumps(one.to_dict(), allow_nan=False))
    assert found["overall"]["error"] is None
    assert found["levels"][0]["train_loss"] is None
    assert found["levels"][0]["loss"] == 2.0
    assert found["by_history"][2] == {
        "label": "51 or more", "least": 51, "most": None, "users": 500, "recall": 0.09,
        "cooccurrence": 0.06, "popularity": 0.01, "error": 0.01,
    }  # fmt: skip
    assert found["findings"][0]["trouble"] == "hits are lost among items of equal codes"
    assert found["search"]["num_beams"] == 30
