"""What stage one says at its end."""

from __future__ import annotations

import pytest

from genrec.training.quantizer_training import _sharing


@pytest.mark.parametrize(
    ("before", "left", "words"),
    [
        (0, 0, "every item has an ID of its own"),
        (36, 0, "every item has an ID of its own; before the policy 36 shared their codes"),
        (36, 36, "36 items share an ID"),
        (36, 4, "4 items share an ID; before the policy 36 shared their codes"),
    ],
)
def test_shared_ids_are_told_from_shared_codes(before, left, words):
    assert _sharing({"items_sharing_id": before, "left_items_sharing_id": left}) == words
