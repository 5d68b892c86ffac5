"""Batches side by side give the numbers of one after the other."""

from __future__ import annotations

from dataclasses import replace

import torch

from genrec.data.prepared import PreparedDataset
from genrec.evaluation.compare import compare
from genrec.evaluation.settings import EvaluationSettings
from genrec.rankers import baselines
from genrec.trained import load_trained


def test_any_number_of_threads_evaluates_to_the_last_digit(sample_decoder):
    before = torch.get_num_threads()
    answers = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        # Opened anew: what is made on first use is made by several threads at once.
        run = load_trained(sample_decoder)
        data = PreparedDataset.load(run.meta["prepared"])
        settings = replace(EvaluationSettings.from_options(run.options), max_rows=16)
        rankers = {"generation": run.ranker, **baselines(data)}
        found = compare(rankers, data, "test", settings, limit=2000)
        answers.append(
            {
                who: {name: value for name, value in row.items() if name != "users_per_s"}
                for who, row in found.items()
            }
        )
    torch.set_num_threads(before)
    assert answers[0] == answers[1]
    assert answers[0]["generation"]["recall@10"] > 0
