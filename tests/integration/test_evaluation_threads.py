"""Batches side by side give the numbers of one after the other."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from genrec.training.retrieval_eval import compare, load_run


def test_any_number_of_threads_evaluates_to_the_last_digit(sample_decoder):
    before = torch.get_num_threads()
    answers = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        # Opened anew: what is made on first use is made by several threads at once.
        run = load_run(sample_decoder, overrides={"exclude_history": True, "max_rows": 16})
        found = compare(run, "test", Accelerator(cpu=True), limit=400)
        answers.append({who: {**row, "users_per_s": 0.0} for who, row in found.items()})
    torch.set_num_threads(before)
    assert answers[0] == answers[1]
    assert answers[0]["model"]["recall@10"] > 0
