from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from genrec.evaluation.codebook import (
    CodebookReport,
    Described,
    collapse_alarms,
    evaluate_codebook,
)


def rounding(rows: Tensor) -> Described:
    """A tokenizer of two levels whose code is the sign of a feature."""
    ids = (rows > 0).long()
    codes = ids.float() * 2 - 1
    return Described(
        ids=ids,
        target=rows,
        reconstruction=codes,
        unquantized=rows * 0.5,
        latents=rows * 2 + 100,
        quantized=codes * 2 + 100,
        loss=(rows - codes).abs().sum(dim=1),
    )


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_report_equals_reference(batch_size: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(loc=0.3, size=(50, 2))
    report = evaluate_codebook(
        rounding,
        torch.from_numpy(x.astype(np.float32)),
        codebook_sizes=(2, 2),
        batch_size=batch_size,
    )
    codes = np.where(x > 0, 1.0, -1.0)
    variance = ((x - x.mean(axis=0)) ** 2).sum()
    error = ((x - codes) ** 2).sum()
    assert report.r2 == pytest.approx(1 - error / variance, rel=1e-5)
    assert report.r2_unquantized == pytest.approx(1 - ((x / 2) ** 2).sum() / variance, rel=1e-5)
    cosine = (x * codes).sum(axis=1) / np.linalg.norm(x, axis=1) / math.sqrt(2)
    assert report.cosine == pytest.approx(cosine.mean(), rel=1e-5)
    assert report.loss == pytest.approx(np.abs(x - codes).sum(axis=1).mean(), rel=1e-5)
    assert report.quantization_error == pytest.approx(error / variance, rel=1e-5)
    groups = np.unique(codes, axis=0, return_counts=True)[1]
    assert report.num_unique == len(groups)
    assert report.collision_rate == pytest.approx(1 - len(groups) / 50)
    assert report.largest_group == groups.max()
    assert report.codes_used == (2, 2)
    share = (x[:, 0] > 0).mean()
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    assert report.perplexity[0] == pytest.approx(math.exp(entropy), abs=1e-3)


def test_metrics_count_levels_from_one() -> None:
    metrics = healthy().metrics("eval")
    assert metrics["eval/codes_used_1"] == 256
    assert metrics["eval/perplexity_2"] == 220
    assert set(metrics) >= {"eval/r2", "eval/r2_unquantized", "eval/collision_rate"}


def healthy() -> CodebookReport:
    return CodebookReport(
        num_items=10_000,
        codebook_sizes=(256, 256),
        r2=0.65,
        r2_unquantized=0.67,
        cosine=0.9,
        loss=0.2,
        quantization_error=0.2,
        num_unique=9_800,
        collision_rate=0.02,
        largest_group=4,
        codes_used=(256, 250),
        perplexity=(230.0, 220.0),
    )


def test_no_alarm_where_all_is_well() -> None:
    assert collapse_alarms(healthy()) == []


@pytest.mark.parametrize(
    ("used", "perplexity", "words"),
    [
        ((256, 20), (230.0, 12.0), "level 2 has collapsed: 20 of 256 codes in use"),
        ((100, 256), (80.0, 200.0), "level 1 is collapsing: 100 of 256 codes in use"),
        ((256, 200), (230.0, 30.0), "level 2 is collapsing: 200 of 256 .* perplexity 30.0"),
    ],
)
def test_alarm_says_which_level_and_what_to_change(
    used: tuple[int, int], perplexity: tuple[float, float], words: str
) -> None:
    alarms = collapse_alarms(replace(healthy(), codes_used=used, perplexity=perplexity))
    assert len(alarms) == 1
    assert re.match(words, alarms[0])
    for setting in ("use_kmeans_init", "learning_rate", "dead_code_steps", "SINKHORN"):
        assert setting in alarms[0]


def test_more_codes_than_items_are_no_collapse() -> None:
    few = replace(healthy(), num_items=20, codes_used=(20, 18), perplexity=(19.0, 17.0))
    assert collapse_alarms(few) == []


def test_levels_that_are_not_needed_are_no_collapse() -> None:
    tiny = replace(healthy(), num_items=30, codes_used=(30, 8), perplexity=(30.0, 6.7))
    assert len(collapse_alarms(tiny)) == 1
    assert collapse_alarms(replace(tiny, r2=0.999, collision_rate=0.0)) == []
